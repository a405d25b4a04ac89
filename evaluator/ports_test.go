package evaluator

import (
	"testing"
	"unique"

	corev1 "k8s.io/api/core/v1"

	"github.com/pathproof/pathproof/flow"
)

func TestS06EndPortIsInclusive(t *testing.T) {
	runDecide(t, shop(), map[string]decideCase{
		"a range": {
			policies: map[string]string{"shop/p": `{ingress: [{ports: [{port: 8000, endPort: 8010}]}]}`},
			want: map[string]string{
				"shop/web -> shop/db TCP/7999": "Denied", "shop/web -> shop/db TCP/8000": "Allowed",
				"shop/web -> shop/db TCP/8010": "Allowed", "shop/web -> shop/db TCP/8011": "Denied",
				"shop/web -> shop/db UDP/8005": "Denied",
			},
		},
		"a range of one, and the highest port": {
			policies: map[string]string{"shop/p": `{ingress: [{ports: [{port: 80, endPort: 80}, {port: 65535, endPort: 65535}]}]}`},
			want: map[string]string{
				"shop/web -> shop/db TCP/80": "Allowed", "shop/web -> shop/db TCP/81": "Denied", "shop/web -> shop/db TCP/65535": "Allowed",
			},
		},
	})
}

func TestS07NamedPortsResolvePerDestinationPod(t *testing.T) {
	s := shop()
	s.Pods = append(s.Pods,
		withPorts(newPod("shop/a", "app=a", "10.0.2.1"), "http=8080/TCP", "dns=53/UDP"),
		withPorts(newPod("shop/b", "app=b", "10.0.2.2"), "http=9090/TCP"),
		withPorts(newPod("shop/c", "app=c", "10.0.2.3"), "http=7070/UDP"),
		withPorts(withPorts(newPod("shop/twice", "app=d", "10.0.2.4"), "http=80/"), "http=80/TCP"),
		withPorts(withPorts(newPod("shop/torn", "app=e", "10.0.2.5"), "http=80/TCP"), "http=81/TCP"),
	)
	const named = `{ports: [{port: http}]}`
	want := map[string]string{
		"shop/web -> shop/a TCP/8080": "Allowed", "shop/web -> shop/a TCP/9090": "Denied",
		"shop/web -> shop/b TCP/9090": "Allowed", "shop/web -> shop/b TCP/8080": "Denied",
		// The name exists for another protocol only, or not at all.
		"shop/web -> shop/c TCP/7070": "Denied", "shop/web -> shop/c UDP/7070": "Denied",
		"shop/web -> shop/db TCP/80": "Denied",
		// Two containers declare the name.
		"shop/web -> shop/twice TCP/80": "Allowed",
		"shop/web -> shop/torn TCP/80":  "Undefined S7", "shop/web -> shop/torn TCP/82": "Denied",
		// An identity declares no ports, so nobody knows.
		"shop/web -> shop/{app=a} TCP/8080": "Undefined S7", "shop/web -> shop/{app=a} UDP/8080": "Denied",
	}
	fromSource := map[string]string{"shop/web -> 203.0.113.1 TCP/80": "Denied"}
	for k, v := range want {
		fromSource[k] = v
	}
	runDecide(t, s, map[string]decideCase{
		"ingress looks at the selected pod": {
			policies: map[string]string{"shop/p": `{ingress: [` + named + `]}`}, want: want,
		},
		"egress looks at each peer, and an address has no names": {
			policies: map[string]string{"shop/p": `{policyTypes: [Egress], egress: [` + named + `]}`}, want: fromSource,
		},
		"the protocol is part of the name": {
			policies: map[string]string{"shop/p": `{ingress: [{ports: [{port: dns, protocol: UDP}, {port: http, protocol: UDP}]}]}`},
			want: map[string]string{
				"shop/web -> shop/a UDP/53": "Allowed", "shop/web -> shop/a TCP/53": "Denied", "shop/web -> shop/c UDP/7070": "Allowed",
			},
		},
		"a name of the source pod does not count": {
			policies: map[string]string{"shop/p": `{podSelector: {matchLabels: {app: db}}, ingress: [` + named + `]}`},
			want:     map[string]string{"shop/a -> shop/db TCP/8080": "Denied"},
		},
		"a doubtful name does not matter when another rule allows": {
			policies: map[string]string{"shop/p": `{ingress: [` + named + `, {ports: [{port: 80}]}]}`},
			want:     map[string]string{"shop/web -> shop/torn TCP/80": "Allowed", "shop/web -> shop/{app=a} TCP/80": "Allowed"},
		},
	})
}

func TestS08SidecarsDeclareNamedPorts(t *testing.T) {
	s := shop()
	always := corev1.ContainerRestartPolicyAlways
	p := newPod("shop/meshed", "app=meshed", "10.0.2.1")
	sidecar, setup := container("metrics=15090/TCP"), container("setup=9000/TCP")
	sidecar.RestartPolicy = &always
	p.Spec.InitContainers = []corev1.Container{sidecar, setup}
	s.Pods = append(s.Pods, p)
	runDecide(t, s, map[string]decideCase{
		"an init container counts only if it keeps running": {
			policies: map[string]string{"shop/p": `{ingress: [{ports: [{port: metrics}, {port: setup}]}]}`},
			want: map[string]string{
				"shop/web -> shop/meshed TCP/15090": "Allowed", "shop/web -> shop/meshed TCP/9000": "Denied",
			},
		},
	})
}

func TestS09PolicyPortsArePodPorts(t *testing.T) {
	s := shop()
	s.Pods = append(s.Pods, withPorts(newPod("shop/a", "app=a", "10.0.2.1"), "http=8080/TCP"))
	runDecide(t, s, map[string]decideCase{
		"a number is compared with the pod's port, declared or not": {
			policies: map[string]string{"shop/p": `{ingress: [{ports: [{port: 8080}]}]}`},
			want: map[string]string{
				"shop/web -> shop/a TCP/8080": "Allowed", "shop/web -> shop/db TCP/8080": "Allowed",
				// The port of a Service in front of the pod is not asked for.
				"shop/web -> shop/a TCP/80": "Denied",
			},
		},
	})
}

// A span may hold more than its ports do, never less: each port that one of them allows
// has to be in it.
func TestPortSpanHoldsAllPortsOfARule(t *testing.T) {
	name := func(p protocol) port { return port{name: unique.Make("http"), protocol: p} }
	for title, c := range map[string]struct {
		ports    []port
		in, none []service
	}{
		"no ports are all ports": {in: []service{{tcp, 1}, {udp, maxPort}, {sctp, 80}}},
		"a number": {
			ports: []port{newPort(flow.TCP, 80, 80)},
			in:    []service{{tcp, 80}}, none: []service{{tcp, 79}, {tcp, 81}, {udp, 80}},
		},
		"what lies between two": {
			ports: []port{newPort(flow.UDP, 90, 95), newPort(flow.TCP, 80, 81)},
			in:    []service{{tcp, 80}, {udp, 95}, {tcp, 85}}, none: []service{{tcp, 79}, {udp, 96}, {sctp, 90}},
		},
		"a whole protocol": {
			ports: []port{newPort(flow.SCTP, 0, maxPort)},
			in:    []service{{sctp, 1}, {sctp, maxPort}}, none: []service{{tcp, 1}},
		},
		"a name is any number of its protocol": {
			ports: []port{name(tcp), newPort(flow.UDP, 53, 53)},
			in:    []service{{tcp, 1}, {tcp, maxPort}, {udp, 53}}, none: []service{{sctp, 53}},
		},
		"a name of any protocol": {ports: []port{name(anyProtocol)}, in: []service{{tcp, 1}, {udp, 2}, {sctp, maxPort}}},
	} {
		t.Run(title, func(t *testing.T) {
			span := newPortSpan(c.ports)
			for _, s := range c.in {
				if !span.mayHold(s) {
					t.Errorf("%+v does not hold %v", span, s)
				}
			}
			for _, s := range c.none {
				if span.mayHold(s) {
					t.Errorf("%+v holds %v", span, s)
				}
			}
		})
	}
}
