package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/verdict"
)

const toDB = "to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 1}]"

func service(ns, name string, ips []string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ips[0], ClusterIPs: ips, Ports: ports}}
}

// describe renders an edge with all that a probe and a policy see of it.
func describe(e *Edge) string {
	var backends []string
	for _, b := range e.Backends {
		backends = append(backends, fmt.Sprintf("%s=%s:%d", b.Endpoint, b.Endpoint.Addr, b.Port))
	}
	s := fmt.Sprintf("%s %s %s %d node=%s ready=%v", e.Target.Name, e.Target.Addr, e.Transport, e.Port, e.Target.Node, e.Target.Ready)
	if e.QueryName != "" {
		s += " " + e.QueryName + " " + e.QueryType
	}
	if e.Target.Range.IsValid() {
		s += " of " + e.Target.Range.String()
	}
	return s + " [" + strings.Join(backends, " ") + "]"
}

// detailCase is a spec, and all that a probe and a policy see of what it resolves to.
type detailCase struct {
	spec   string
	change func(*Snapshot)
	want   []string
	// wantObstacles are "reason: a part of the message".
	wantObstacles []string
}

func testDetails(t *testing.T, cases map[string]detailCase) {
	t.Helper()
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			res := resolve(t, tc.spec, tc.change)
			var got []string
			for _, e := range res.Edges {
				got = append(got, describe(e))
			}
			slices.Sort(got)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("edges (-want +got):\n%s", diff)
			}
			if len(res.Obstacles) != len(tc.wantObstacles) {
				t.Fatalf("got the obstacles %+v, want %v", res.Obstacles, tc.wantObstacles)
			}
			for i, o := range res.Obstacles {
				reason, part, _ := strings.Cut(tc.wantObstacles[i], ": ")
				if o.Reason != reason || !strings.Contains(o.Message, part) {
					t.Errorf("got the obstacle %s: %s, want %s", o.Reason, o.Message, tc.wantObstacles[i])
				}
				if o.Path != "p" || o.Declared != v1alpha1.ExpectDeny || o.Source != "ns/{app=web}" {
					t.Errorf("the obstacle does not say whose it is: %+v", o)
				}
			}
		})
	}
}

func TestResolveTargetsInDetail(t *testing.T) {
	sidecar := func(policy *corev1.ContainerRestartPolicy) func(*Snapshot) {
		return func(s *Snapshot) {
			s.Pods[2].Spec.InitContainers = []corev1.Container{{Name: "proxy", RestartPolicy: policy, Ports: []corev1.ContainerPort{{Name: "admin", ContainerPort: 15000}}}}
		}
	}
	http := corev1.ServicePort{Name: "http", Port: 80}
	db := func(rest string) string {
		return path("to: {podSelector: {matchLabels: {app: db}}}, ports: [" + rest + "]")
	}
	testDetails(t, map[string]detailCase{
		"a pod that is not ready is probed, and known not to be": {
			spec: path(toDB), change: func(s *Snapshot) { s.Pods[2].Status.Conditions[0].Status = corev1.ConditionFalse },
			want: []string{"ns/db-1 10.0.2.2 TCP 1 node=b ready=false [ns/db-1=10.0.2.2:1]"},
		},
		"a pod that is being deleted is no target": {
			spec: path(toDB), change: func(s *Snapshot) { s.Pods[2].DeletionTimestamp = &metav1.Time{} },
			wantObstacles: []string{"NoTargetMatched: no running pod matches {app=db}"},
		},
		"a pod that failed is no target": {
			spec: path(toDB), change: func(s *Snapshot) { s.Pods[2].Status.Phase = corev1.PodFailed },
			wantObstacles: []string{"NoTargetMatched: no running pod matches {app=db}"},
		},
		"a pod without an address is said to be pending": {
			spec: path(toDB), change: func(s *Snapshot) { s.Pods[2].Status = corev1.PodStatus{} },
			wantObstacles: []string{"TargetNotReady: 1 pods match {app=db}, and none has an address yet"},
		},
		"expressions select as in Kubernetes": {
			spec: path("to: {podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [web]}]}}, ports: [{port: 1}]"),
			want: []string{"ns/db-1 10.0.2.2 TCP 1 node=b ready=true [ns/db-1=10.0.2.2:1]"},
		},
		"a selector that cannot be parsed": {
			spec:          path("to: {podSelector: {matchExpressions: [{key: app, operator: Near, values: [web]}]}}, ports: [{port: 1}]"),
			wantObstacles: []string{"NoTargetMatched: to.podSelector cannot be parsed"},
		},
		"a selector of namespaces that cannot be parsed": {
			spec:          path("to: {podSelector: {matchLabels: {app: db}}, namespaceSelector: {matchExpressions: [{key: a, operator: In}]}}, ports: [{port: 1}]"),
			wantObstacles: []string{"NoTargetMatched: to.namespaceSelector cannot be parsed"},
		},
		"namespaces by name, of which two match": {
			spec: path("to: {namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [ns, other]}]}, podSelector: {matchExpressions: [{key: app, operator: In, values: [db, api]}]}}, ports: [{port: 1}]"),
			want: []string{"ns/db-1 10.0.2.2 TCP 1 node=b ready=true [ns/db-1=10.0.2.2:1]", "other/api-1 10.0.1.3 TCP 1 node=a ready=true [other/api-1=10.0.1.3:1]"},
		},
		"a selector of namespaces that matches none leaves out the own one, too": {
			spec:          path("to: {namespaceSelector: {matchLabels: {team: nobody}}, podSelector: {matchLabels: {app: db}}}, ports: [{port: 1}]"),
			wantObstacles: []string{"NoTargetMatched: no running pod matches {app=db}"},
		},
		"a named port of a sidecar": {
			spec: db("{port: admin}"), change: sidecar(ptr.To(corev1.ContainerRestartPolicyAlways)),
			want: []string{"ns/db-1 10.0.2.2 TCP 15000 node=b ready=true [ns/db-1=10.0.2.2:15000]"},
		},
		"a named port of an init container that has ended": {
			spec: db("{port: admin}"), change: sidecar(nil),
			wantObstacles: []string{`PortNotFound: pod ns/db-1 has no TCP port named "admin"`},
		},
		"a named port of another protocol": {
			spec:          db("{port: main, protocol: UDP}"),
			wantObstacles: []string{`PortNotFound: pod ns/db-1 has no UDP port named "main"`},
		},
		"a range of one port": {
			spec: db("{port: 7, endPort: 7}"), want: []string{"ns/db-1 10.0.2.2 TCP 7 node=b ready=true [ns/db-1=10.0.2.2:7]"},
		},
		"a range up to the highest port, beside another protocol": {
			spec: path("to: {podSelector: {matchLabels: {app: db}}, via: Endpoint}, ports: [{port: 65000, endPort: 65535, protocol: SCTP}, {port: 9, protocol: UDP}]"),
			want: []string{
				"ns/db-1 10.0.2.2 SCTP 65000 node=b ready=true [ns/db-1=10.0.2.2:65000]", "ns/db-1 10.0.2.2 SCTP 65535 node=b ready=true [ns/db-1=10.0.2.2:65535]",
				"ns/db-1 10.0.2.2 UDP 9 node=b ready=true [ns/db-1=10.0.2.2:9]",
			},
		},
		"a Service with one endpoint is on that endpoint's node": {
			spec: path("to: {service: {name: web}}, ports: [{port: 80}]"), change: func(s *Snapshot) { s.EndpointSlices[2].Endpoints = s.EndpointSlices[2].Endpoints[:1] },
			want: []string{"Service ns/web 10.96.0.20 TCP 80 node=a ready=true [ns/web-1=10.0.1.1:8080]"},
		},
		"a Service whose endpoints are spread over slices and not all ready": {
			spec: path("to: {service: {name: web}}, ports: [{port: http}]"), change: func(s *Snapshot) {
				s.EndpointSlices[2].Endpoints[0].Conditions.Ready = ptr.To(false)
				more := slice("ns", "web", "http", corev1.ProtocolTCP, 8080, "web-3/b/10.0.2.9")
				more.Endpoints[0].Conditions.Ready = ptr.To(true)
				s.EndpointSlices = append(s.EndpointSlices, more)
			},
			want: []string{"Service ns/web 10.96.0.20 TCP 80 node= ready=true [ns/web-2=10.0.2.1:8080 ns/web-3=10.0.2.9:8080]"},
		},
		"a Service in another namespace": {
			spec: path("to: {service: {name: api, namespace: other}}, ports: [{port: 80}]"), change: func(s *Snapshot) {
				s.Services = append(s.Services, service("other", "api", []string{"10.96.0.40"}, http))
				s.EndpointSlices = append(s.EndpointSlices, slice("other", "api", "http", corev1.ProtocolTCP, 8443, "api-1/a/10.0.1.3"))
			},
			want: []string{"Service other/api 10.96.0.40 TCP 80 node=a ready=true [other/api-1=10.0.1.3:8443]"},
		},
		"a Service without an endpoint of its address family does not vanish": {
			spec: path("to: {service: {name: six}}, ports: [{port: 80}]"), change: func(s *Snapshot) {
				s.Services = append(s.Services, service("ns", "six", []string{"10.96.0.60"}, http))
				s.EndpointSlices = append(s.EndpointSlices, slice("ns", "six", "http", corev1.ProtocolTCP, 8080, "web-1/a/fd00::1"))
			},
			wantObstacles: []string{"NoTargetMatched: Service ns/six has the address 10.96.0.60 and no ready IPv4 endpoint for port 80"},
		},
		"an endpoint that is no pod": {
			spec: path("to: {service: {name: manual}}, ports: [{port: 80}]"), change: func(s *Snapshot) {
				s.Services = append(s.Services, service("ns", "manual", []string{"10.96.0.70"}, http))
				es := slice("ns", "manual", "http", corev1.ProtocolTCP, 8080, "x/a/192.0.2.1")
				es.Endpoints[0].TargetRef, es.Endpoints[0].NodeName = nil, nil
				s.EndpointSlices = append(s.EndpointSlices, es)
			},
			want: []string{"Service ns/manual 10.96.0.70 TCP 80 node= ready=true [192.0.2.1=192.0.2.1:8080]"},
		},
		"a slice without a port name serves the unnamed port": {
			spec: path("to: {service: {name: bare}}, ports: [{port: 80}]"), change: func(s *Snapshot) {
				s.Services = append(s.Services, service("ns", "bare", []string{"10.96.0.80"}, corev1.ServicePort{Port: 80}))
				es := slice("ns", "bare", "", corev1.ProtocolTCP, 8080, "web-1/a/10.0.1.1")
				es.Ports[0] = discoveryv1.EndpointPort{Port: ptr.To[int32](8080)}
				s.EndpointSlices = append(s.EndpointSlices, es)
			},
			want: []string{"Service ns/bare 10.96.0.80 TCP 80 node=a ready=true [ns/web-1=10.0.1.1:8080]"},
		},
		"a Service port of another protocol": {
			spec:          path("to: {service: {name: web}}, ports: [{port: 80, protocol: UDP}]"),
			wantObstacles: []string{"PortNotFound: Service ns/web has no UDP port 80"},
		},
		"a Service that does not exist": {
			spec:          path("to: {service: {name: none}}, ports: [{port: 80}, {port: 81}]"),
			wantObstacles: []string{"NoTargetMatched: there is no Service ns/none", "NoTargetMatched: there is no Service ns/none"},
		},
		"a headless Service without ready endpoints": {
			spec: path("to: {service: {name: headless}}, ports: [{port: 80}]"), change: func(s *Snapshot) { s.EndpointSlices[3].Endpoints = nil },
			wantObstacles: []string{"NoTargetMatched: Service ns/headless has no ready endpoint for port 80"},
		},
		"addresses of both families that stand for a range": {
			spec: path("to: {address: {cidr: 203.0.113.0/24, ips: [203.0.113.1, 203.0.113.2]}}, ports: [{port: 1, endPort: 2, protocol: UDP}]"),
			want: []string{
				"203.0.113.1 203.0.113.1 UDP 1 node= ready=true of 203.0.113.0/24 [203.0.113.1=203.0.113.1:1]", "203.0.113.1 203.0.113.1 UDP 2 node= ready=true of 203.0.113.0/24 [203.0.113.1=203.0.113.1:2]",
				"203.0.113.2 203.0.113.2 UDP 1 node= ready=true of 203.0.113.0/24 [203.0.113.2=203.0.113.2:1]", "203.0.113.2 203.0.113.2 UDP 2 node= ready=true of 203.0.113.0/24 [203.0.113.2=203.0.113.2:2]",
			},
		},
		"an IPv6 address for itself": {
			spec: path("to: {address: {ips: ['2001:db8::1']}}, ports: [{port: 1}]"), change: dualStack,
			want: []string{"2001:db8::1 2001:db8::1 TCP 1 node= ready=true [2001:db8::1=2001:db8::1:1]"},
		},
		"what is no address": {
			spec:          path("to: {address: {ips: [localhost]}}, ports: [{port: 1}]"),
			wantObstacles: []string{`NoTargetMatched: "localhost" is no address`},
		},
		"a host with a dot at its end is the same host": {
			spec: path("to: {host: example.org.}, ports: [{port: 443}, {port: 80}]"),
			want: []string{"example.org. invalid IP TCP 443 node= ready=true []", "example.org. invalid IP TCP 80 node= ready=true []"},
		},
		"names, a type and one transport": {
			spec: path("dns: {names: [a.b, c.d.], type: AAAA, transports: [TCP]}"),
			want: []string{
				"cluster DNS for a.b. 10.96.0.10 DNS/TCP 53 node=a ready=true a.b. AAAA [kube-system/dns-1=10.0.1.4:53]",
				"cluster DNS for c.d. 10.96.0.10 DNS/TCP 53 node=a ready=true c.d. AAAA [kube-system/dns-1=10.0.1.4:53]",
			},
		},
		"a cluster DNS that does not listen on TCP": {
			spec: path("dns: {names: [a.b]}"), change: func(s *Snapshot) { s.Services[0].Spec.Ports = s.Services[0].Spec.Ports[:1] },
			want:          []string{"cluster DNS for a.b. 10.96.0.10 DNS/UDP 53 node=a ready=true a.b. A [kube-system/dns-1=10.0.1.4:53]"},
			wantObstacles: []string{"PortNotFound: Service kube-system/kube-dns has no DNS/TCP port 53"},
		},
		"no cluster DNS": {
			spec: path("dns: {names: [a.b], transports: [UDP]}"), change: func(s *Snapshot) { s.Services = nil },
			wantObstacles: []string{"NoTargetMatched: there is no Service kube-system/kube-dns"},
		},
		"a port name where nothing could look it up does not vanish": {
			spec:          path("to: {host: example.org}, ports: [{port: https}]"),
			wantObstacles: []string{"NoTargetMatched: resolves to nothing that could be probed"},
		},
	})
}

// An obstacle becomes a check of the same name: the two lists must not drift apart.
func TestReasonsAreCausesOfVerdicts(t *testing.T) {
	for _, reason := range []string{NoSourceMatched, NoTargetMatched, TargetNotReady, PortNotFound, SourceNamespaceRefused, TooManyChecks} {
		if !slices.Contains(verdict.Causes(), verdict.Cause(reason)) {
			t.Errorf("package verdict has no cause %s", reason)
		}
	}
}

func TestResolveSourcesInDetail(t *testing.T) {
	from := func(source string) string {
		return "paths: [{name: p, expect: Deny, from: {" + source + "}, " + toDB + "}]"
	}
	cases := map[string]struct {
		spec   string
		change func(*Snapshot)
		// want lists "name nodes".
		want         []string
		wantObstacle string
	}{
		"an identity runs nowhere":                     {spec: from("identity: {labels: {app: new, tier: x}}"), want: []string{"ns/{app=new,tier=x} []"}},
		"the own namespace may be named":               {spec: from("namespace: ns, podSelector: {matchLabels: {app: db}}"), want: []string{"ns/{app=db} [b]"}},
		"another namespace is refused, for identities": {spec: from("namespace: other, identity: {labels: {app: x}}"), wantObstacle: "SourceNamespaceRefused: create it in other instead"},
		"another namespace is refused, for pods":       {spec: from("namespace: other, podSelector: {matchLabels: {app: api}}"), wantObstacle: "SourceNamespaceRefused: probes from its own namespace only"},
		"nobody matches":                               {spec: from("podSelector: {matchLabels: {app: none}}"), wantObstacle: "NoSourceMatched: no running pod matches ns/{app=none}"},
		"a selector that cannot be parsed":             {spec: from("podSelector: {matchExpressions: [{key: app, operator: Near}]}"), wantObstacle: "NoSourceMatched: from.podSelector cannot be parsed"},
		"two ReplicaSets collapse":                     {spec: from("podSelector: {matchLabels: {app: web}}"), want: []string{"ns/{app=web} [a b]"}},
		"pods that policies may tell apart do not":     {spec: from("podSelector: {matchLabels: {app: web}}"), change: func(s *Snapshot) { s.Pods[1].Labels["v"] = "2" }, want: []string{"ns/{app=web,v=2} [b]", "ns/{app=web} [a]"}},
		"a pod that is not scheduled has no node":      {spec: from("podSelector: {matchLabels: {app: db}}"), change: func(s *Snapshot) { s.Pods[2].Spec.NodeName = "" }, want: []string{"ns/{app=db} []"}},
		"ended and deleted pods are left out": {spec: from("podSelector: {matchLabels: {app: web}}"), change: func(s *Snapshot) {
			s.Pods[0].Status.Phase = corev1.PodFailed
			s.Pods[1].DeletionTimestamp = &metav1.Time{}
		}, wantObstacle: "NoSourceMatched: no running pod matches"},
		"a host-network pod beside others is left out": {spec: from("podSelector: {matchLabels: {app: web}}"), change: func(s *Snapshot) { s.Pods[0].Spec.HostNetwork = true }, want: []string{"ns/{app=web} [b]"}},
		"only host-network pods: it is said why not":   {spec: from("podSelector: {matchLabels: {app: db}}"), change: func(s *Snapshot) { s.Pods[2].Spec.HostNetwork = true }, wantObstacle: "NoSourceMatched: only host-network pods match"},
		"no more places than asked for, ready ones first": {
			spec: "coverage: {maxSources: 1}\n" + from("podSelector: {matchLabels: {app: web}}"), change: func(s *Snapshot) { s.Pods[0].Status.Conditions[0].Status = corev1.ConditionFalse },
			want: []string{"ns/{app=web} [b]"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			res := resolve(t, tc.spec, tc.change)
			var got []string
			for _, e := range res.Edges {
				slices.Sort(e.Source.Nodes)
				if s := fmt.Sprintf("%s %v", e.Source.Name, e.Source.Nodes); !slices.Contains(got, s) {
					got = append(got, s)
				}
			}
			slices.Sort(got)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("sources (-want +got):\n%s", diff)
			}
			if (len(res.Obstacles) == 0) != (tc.wantObstacle == "") {
				t.Fatalf("got the obstacles %+v, want %q", res.Obstacles, tc.wantObstacle)
			}
			for _, o := range res.Obstacles {
				reason, part, _ := strings.Cut(tc.wantObstacle, ": ")
				if o.Reason != reason || !strings.Contains(o.Message, part) {
					t.Errorf("got %s: %s, want %s", o.Reason, o.Message, tc.wantObstacle)
				}
			}
		})
	}
	t.Run("a workload and an identity with the same labels are one source, which runs where the workload does", func(t *testing.T) {
		e := resolve(t, "paths:\n- {name: a, expect: Deny, from: {identity: {labels: {app: web}}}, "+toDB+"}\n- {name: b, expect: Deny, from: {podSelector: {matchLabels: {app: web}}}, "+toDB+"}\n", nil).Edges
		if len(e) != 2 || e[0].Source != e[1].Source || len(e[0].Source.Nodes) != 2 || e[0].Source.Workload == nil {
			t.Errorf("got %d edges: %+v", len(e), e[0].Source)
		}
		if e[0].ID() == e[1].ID() {
			t.Error("the two paths share an ID")
		}
	})
}

// Selectors of labels that controllers own may tell pods of one identity apart.
func TestPathsFromDifferentPodsOfOneSource(t *testing.T) {
	path := func(name, pod string) string {
		return "- {name: " + name + ", expect: Deny, from: {podSelector: {matchLabels: {app: sts, statefulset.kubernetes.io/pod-name: " + pod + "}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 1}]}\n"
	}
	res := resolve(t, "paths:\n"+path("first", "sts-0")+path("second", "sts-1"), func(s *Snapshot) {
		s.Pods = append(s.Pods, pod("ns", "sts-0", "a", "10.0.4.1", "app=sts", "statefulset.kubernetes.io/pod-name=sts-0"),
			pod("ns", "sts-1", "b", "10.0.4.2", "app=sts", "statefulset.kubernetes.io/pod-name=sts-1"))
	})
	if len(res.Edges) != 2 || res.Edges[0].Source != res.Edges[1].Source {
		t.Fatalf("got %d edges, %+v", len(res.Edges), res.Obstacles)
	}
	if diff := cmp.Diff([]string{"a", "b"}, res.Edges[0].Source.Nodes); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
	name := res.Edges[0].Source.Name
	if diff := cmp.Diff([]any{[]string{"a"}, []string{"b"}}, []any{res.Extent.paths["first"].sources[name], res.Extent.paths["second"].sources[name]}); diff != "" {
		t.Errorf("what the paths match (-want +got):\n%s", diff)
	}
}

// A probe pod that carried these would be adopted, or counted, by a controller.
func TestIdentityLabels(t *testing.T) {
	in := map[string]string{"app": "web", "app.kubernetes.io/name": "web", "statefulset.kubernetes.io/pod-name": "web-0"}
	for _, l := range controllerLabels {
		in[l] = "x"
	}
	got := IdentityLabels(in)
	if diff := cmp.Diff(map[string]string{"app": "web", "app.kubernetes.io/name": "web"}, got); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if len(in) != len(controllerLabels)+2 {
		t.Error("the pod's own labels were changed")
	}
	if got := IdentityLabels(nil); len(got) != 0 {
		t.Errorf("got %v of a pod without labels", got)
	}
}

// Every path of every expectation comes out as something: edges or an obstacle.
func TestNoPathVanishes(t *testing.T) {
	for _, to := range []string{
		"to: {host: ''}, ports: []", "to: {address: {ips: []}}, ports: [{port: 1}]", "to: {identity: {labels: {a: b}}}, ports: [{port: name}]",
		"to: {service: {name: web}}, ports: []", "dns: {names: []}", toDB,
	} {
		res := resolve(t, path(to), nil)
		if len(res.Edges)+len(res.Obstacles) == 0 {
			t.Errorf("%s: neither an edge nor an obstacle", to)
		}
	}
}

func TestSample(t *testing.T) {
	pods := func(spec ...string) []*corev1.Pod {
		var out []*corev1.Pod
		for i, s := range spec {
			p := pod("ns", fmt.Sprintf("p-%d", i), strings.TrimSuffix(s, "!"), "10.0.0.1")
			if strings.HasSuffix(s, "!") {
				p.Status.Conditions = nil
			}
			out = append(out, p)
		}
		return out
	}
	nodes := func(ps []*corev1.Pod) []string {
		var out []string
		for _, p := range ps {
			out = append(out, p.Spec.NodeName)
		}
		slices.Sort(out)
		return out
	}
	chosen := func(ps []*corev1.Pod, n int, spread v1alpha1.Spread) []*corev1.Pod {
		kept := func(*corev1.Pod) bool { return false }
		return window(candidates(inOrder(ps, spread), n, spread, kept), n, 0, kept)
	}
	cases := map[string]struct {
		pods   []*corev1.Pod
		n      int
		spread v1alpha1.Spread
		want   []string
	}{
		"no more than there are":              {pods("a", "b"), 5, v1alpha1.SpreadNode, []string{"a", "b"}},
		"one of each node first":              {pods("a", "a", "a", "a", "a", "b", "c"), 3, v1alpha1.SpreadNode, []string{"a", "b", "c"}},
		"then a second of each":               {pods("a", "a", "a", "b", "b", "b"), 4, v1alpha1.SpreadNode, []string{"a", "a", "b", "b"}},
		"a node is worth more than readiness": {pods("a", "a", "b!"), 2, v1alpha1.SpreadNode, []string{"a", "b"}},
		"ready ones first":                    {pods("a!", "b", "c!", "d"), 2, v1alpha1.SpreadAny, []string{"b", "d"}},
		"ready ones first, wherever they are": {pods("a!", "b!", "c!", "d", "e", "f"), 3, v1alpha1.SpreadNode, []string{"d", "e", "f"}},
		"and the other way round":             {pods("a", "b", "c", "d!", "e!", "f!"), 3, v1alpha1.SpreadAny, []string{"a", "b", "c"}},
		"none":                                {nil, 3, v1alpha1.SpreadNode, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := chosen(tc.pods, tc.n, tc.spread)
			if diff := cmp.Diff(tc.want, nodes(got)); diff != "" {
				t.Errorf("nodes (-want +got):\n%s", diff)
			}
			reversed := slices.Clone(tc.pods)
			slices.Reverse(reversed)
			if again := chosen(reversed, tc.n, tc.spread); !slices.Equal(got, again) {
				t.Error("another order of the pods gives another sample")
			}
		})
	}
}

func TestCoverageCounts(t *testing.T) {
	res := resolve(t, "coverage: {maxTargets: 1}\npaths:\n"+
		"- {name: a, expect: Deny, from: {podSelector: {matchLabels: {app: db}}}, to: {podSelector: {matchLabels: {app: web}}}, ports: [{port: 1}]}\n"+
		"- {name: b, expect: Deny, from: {podSelector: {matchLabels: {app: db}}}, to: {podSelector: {matchLabels: {app: web}}}, ports: [{port: 2}]}\n", nil)
	got := []int{res.SourcesMatched, res.TargetsMatched, res.TargetsProbed, len(res.Edges)}
	if diff := cmp.Diff([]int{1, 2, 1, 2}, got); diff != "" {
		t.Errorf("sources matched, targets matched, targets probed, edges (-want +got):\n%s", diff)
	}
}

// The limit cuts the last edges off and says so; the IDs of the others stay.
func TestMaxEdges(t *testing.T) {
	spec := func(paths int) string {
		var b strings.Builder
		b.WriteString("paths:\n")
		for i := range paths {
			fmt.Fprintf(&b, "- {name: p%d, expect: Allow, from: {identity: {labels: {app: x}}}, to: {address: {ips: [192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4, 192.0.2.5, 192.0.2.6, 192.0.2.7, 192.0.2.8]}}, ports: [", i)
			for port := range 12 {
				fmt.Fprintf(&b, "{port: %d, endPort: %d}, ", 2*port+1, 2*port+2)
			}
			b.WriteString("{port: 25}]}\n")
		}
		return b.String()
	}
	full, over := resolve(t, spec(50), nil), resolve(t, spec(51), nil)
	if len(full.Edges) != MaxEdges || len(full.Obstacles) != 0 {
		t.Fatalf("at the limit: got %d edges and %v", len(full.Edges), full.Obstacles)
	}
	if len(over.Edges) != MaxEdges || len(over.Obstacles) != 1 || over.Obstacles[0].Path != "p50" || !strings.Contains(over.Obstacles[0].Message, "10200 checks and a run makes 10000") {
		t.Fatalf("over the limit: got %d edges and %+v", len(over.Edges), over.Obstacles)
	}
	seen := map[string]bool{}
	for i, e := range full.Edges {
		if id := e.ID(); id != over.Edges[i].ID() || seen[id] {
			t.Fatalf("edge %d has the ID %s, and is seen before: %v", i, id, seen[id])
		}
		seen[e.ID()] = true
	}
}

// IDs and provenance outlive processes and releases: a change here deletes the
// history of every finding.
func TestEdgeIDIsStable(t *testing.T) {
	e := Edge{
		Path: "p", Source: &Source{Key: "s"}, Target: Target{Key: "t"}, Transport: wire.DNSUDP, Port: 53, QueryName: "a.", QueryType: "A",
	}
	if got, want := e.ID(), "3iam4rwcipvs5kt2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for name, change := range map[string]func(*Edge){
		"path": func(e *Edge) { e.Path = "q" }, "source": func(e *Edge) { e.Source = &Source{Key: "r"} }, "target": func(e *Edge) { e.Target.Key = "u" },
		"transport": func(e *Edge) { e.Transport = wire.DNSTCP }, "port": func(e *Edge) { e.Port = 54 }, "name": func(e *Edge) { e.QueryName = "b." }, "type": func(e *Edge) { e.QueryType = "AAAA" },
	} {
		other := e
		change(&other)
		if other.ID() == e.ID() {
			t.Errorf("another %s has the same ID", name)
		}
	}
	same := e
	same.Declared, same.Target.Node, same.Target.Ready, same.Target.Addr = v1alpha1.ExpectAllow, "b", true, netip.MustParseAddr("192.0.2.1")
	if same.ID() != e.ID() {
		t.Error("what is not part of the identity changes the ID")
	}
}
