package plan

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
)

// alias makes the Service ns/alias one of a name, with a port https=8443.
func alias(name string) func(*Snapshot) {
	return func(s *Snapshot) {
		for _, svc := range s.Services {
			if svc.Name == "alias" {
				svc.Spec.ExternalName = name
				svc.Spec.Ports = []corev1.ServicePort{{Name: "https", Port: 8443}}
			}
		}
	}
}

func TestAliasesAreFollowed(t *testing.T) {
	toAlias := func(ports string) string { return path("to: {service: {name: alias}}, ports: [" + ports + "]") }
	for name, tc := range map[string]struct {
		spec, alias  string
		also         func(*Snapshot)
		want         []string
		wantObstacle string
	}{
		"a host, at the port of the path": {spec: toAlias("{port: 443}"), alias: "Example.org", want: []string{"Service ns/alias (example.org.) host=example.org. TCP 443"}},
		"a host with a dot at its end":    {spec: toAlias("{port: 443}"), alias: "example.org.", want: []string{"Service ns/alias (example.org.) host=example.org. TCP 443"}},
		"both ends of a range":            {spec: toAlias("{port: 1, endPort: 9, protocol: UDP}"), alias: "example.org", want: []string{"Service ns/alias (example.org.) host=example.org. UDP 1", "Service ns/alias (example.org.) host=example.org. UDP 9"}},
		"a port that the alias names":     {spec: toAlias("{port: https}"), alias: "example.org", want: []string{"Service ns/alias (example.org.) host=example.org. TCP 8443"}},
		"a port that nobody names":        {spec: toAlias("{port: http}"), alias: "example.org", wantObstacle: "PortNotFound: Service ns/alias is an alias of example.org, and has no TCP port http: write the number"},
		"another Service":                 {spec: toAlias("{port: 80}"), alias: "web.ns.svc.cluster.local", want: []string{"Service ns/web host= TCP 80"}},
		"another Service, its port":       {spec: toAlias("{port: http}"), alias: "web.ns.svc.cluster.local.", want: []string{"Service ns/web host= TCP 80"}},
		"a port that it lacks":            {spec: toAlias("{port: 443}"), alias: "web.ns.svc.cluster.local", wantObstacle: "PortNotFound: Service ns/web has no TCP port 443"},
		"a Service that does not exist":   {spec: toAlias("{port: 80}"), alias: "gone.other.svc.cluster.local", wantObstacle: "NoTargetMatched: Service ns/alias is an alias of Service other/gone, which does not exist"},
		"itself":                          {spec: toAlias("{port: 80}"), alias: "alias.ns.svc.cluster.local", wantObstacle: "NoTargetMatched: Service ns/alias is an alias of an alias, and of more than 8"},
		"an alias": {spec: toAlias("{port: 80}"), alias: "more.ns.svc.cluster.local", also: func(s *Snapshot) {
			s.Services = append(s.Services, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "more"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.org"}})
		}, want: []string{"Service ns/alias (example.org.) host=example.org. TCP 80"}},
		"the name of a pod of a Service": {spec: toAlias("{port: 80}"), alias: "web-1.headless.ns.svc.cluster.local", want: []string{"Service ns/alias (web-1.headless.ns.svc.cluster.local.) host=web-1.headless.ns.svc.cluster.local. TCP 80"}},
		"an address":                     {spec: toAlias("{port: 80}"), alias: "192.0.2.1", wantObstacle: `NoTargetMatched: Service ns/alias is an alias of "192.0.2.1", which is no DNS name`},
		"nothing":                        {spec: toAlias("{port: 80}"), alias: "", wantObstacle: `NoTargetMatched: Service ns/alias is an alias of "", which is no DNS name`},
	} {
		t.Run(name, func(t *testing.T) {
			res := resolve(t, tc.spec, func(s *Snapshot) {
				alias(tc.alias)(s)
				if tc.also != nil {
					tc.also(s)
				}
			})
			var got []string
			for _, e := range res.Edges {
				got = append(got, fmt.Sprintf("%s host=%s %s %d", e.Target.Name, e.Target.Host, e.Transport, e.Port))
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			var obstacles []string
			for _, o := range res.Obstacles {
				obstacles = append(obstacles, o.Reason+": "+o.Message)
			}
			if strings.Join(obstacles, "; ") != tc.wantObstacle {
				t.Errorf("got obstacles %q, want %q", obstacles, tc.wantObstacle)
			}
		})
	}
}

// What an alias stands for is predicted like a host: not before it is resolved.
func TestAliasesOfHostsAreNotPredictedBeforeTheyAreResolved(t *testing.T) {
	s := cluster()
	alias("example.org")(&s)
	res := resolveInput(Input{ClusterDNS: dns, Snapshot: s, Expectation: expectation(t, path("to: {service: {name: alias}}, ports: [{port: 443}]"))})
	p := predict(s, res.Edges)
	if d := res.Edges[0].Prediction; d.Verdict != evaluator.Undefined || !strings.Contains(d.Reason, "example.org. is resolved by the probe only") {
		t.Errorf("got %s: %s", d.Verdict, d.Reason)
	}
	if d := p.Decide(res.Edges[0], netip.Addr{}, []netip.Addr{netip.MustParseAddr("203.0.113.1")}); d.Verdict != evaluator.Allowed {
		t.Errorf("once it is resolved: got %s: %s", d.Verdict, d.Reason)
	}
}

func TestProvenanceHoldsTheAlias(t *testing.T) {
	spec := path("to: {service: {name: alias}}, ports: [{port: 80}]")
	seen := map[string]string{}
	for _, name := range []string{"example.org", "example.com", "web.ns.svc.cluster.local"} {
		provenance := resolve(t, spec, alias(name)).Provenance
		if other := seen[provenance]; other != "" {
			t.Errorf("aliases of %s and %s have the same provenance", name, other)
		}
		seen[provenance] = name
	}
}

func TestBackendsOfAnAlias(t *testing.T) {
	s := cluster()
	key := types.NamespacedName{Namespace: "ns", Name: "alias"}
	alias("web.ns.svc.cluster.local")(&s)
	if got, err := s.ServiceBackends(key, flow.TCP, intstr.FromInt32(80)); err != nil || len(got) != 2 {
		t.Errorf("got %v and %v, want the two pods behind ns/web", got, err)
	}
	alias("example.org")(&s)
	var host *HostError
	if got, err := s.ServiceBackends(key, flow.TCP, intstr.FromInt32(80)); !errors.As(err, &host) || host.Host != "example.org." || got != nil {
		t.Errorf("got %v and %v, want a HostError", got, err)
	}
}
