package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
)

// only keeps pods with a label in the namespace from sending to any but others with one.
func only(key, value string, to ...string) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "only-" + value}, Spec: networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{key: value}}, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
	}}
	for _, app := range to {
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{
			{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}},
		}})
	}
	return p
}

// everybody applies a policy to all pods of the namespace.
func everybody(p *networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
	p.Spec.PodSelector = metav1.LabelSelector{}
	return p
}

// half renders a half-path: what it is from and to, and where.
func half(f *FollowUp, h HalfPath) string {
	if h.Key == "" {
		return h.Missing
	}
	e := f.Edges[slices.IndexFunc(f.Edges, func(e *Edge) bool { return e.Path == h.Key })]
	return fmt.Sprintf("%s on %s to %s %s %d: %s", e.Source.Name, h.Node, e.Target.Name, e.Transport, e.Port, e.Prediction.Verdict)
}

func TestHalfPaths(t *testing.T) {
	const (
		noEgress     = "no identity of the namespace is let through by ingress policies and denied by the source's egress policies"
		noIngress    = "no other identity of the namespace is let through by egress policies and denied by the target's ingress policies"
		noEgressOpen = "no identity of the namespace is free of ingress policies and let through by the source's egress policies"
		noIngressOpn = "no other identity of the namespace is free of egress policies and let through by the target's ingress policies"
	)
	stranger := "paths: [{name: p, expect: Deny, from: {identity: {labels: {app: stranger}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 5432}]}]"
	web := "paths: [{name: p, expect: Allow, from: {podSelector: {matchLabels: {app: web}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 5432}]}]"
	outside := "paths: [{name: p, expect: Allow, from: {podSelector: {matchLabels: {app: web}}}, to: {address: {ips: [203.0.113.1]}}, ports: [{port: 443}]}]"
	partner := func(s *Snapshot) {
		s.NetworkPolicies = append(s.NetworkPolicies, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "partner"}, Spec: *egressTo("203.0.113.0/24")})
	}
	add := func(policies ...*networkingv1.NetworkPolicy) func(*Snapshot) {
		return func(s *Snapshot) { s.NetworkPolicies = append(s.NetworkPolicies, policies...) }
	}
	for name, tc := range map[string]struct {
		spec            string
		change          func(*Snapshot)
		egress, ingress string
	}{
		"open, and ingress alone denies it": {
			spec: stranger, ingress: "ns/{} on a to ns/db-1 TCP 5432: Denied",
		},
		"open, and egress alone denies it": {
			spec: web, change: add(only("app", "web")), egress: "ns/{app=web} on a to ns/{} TCP 5432: Denied",
		},
		"open, and both deny it": {
			spec: stranger, change: add(only("app", "stranger")),
			egress: "ns/{app=stranger} on a to ns/{} TCP 5432: Denied", ingress: "ns/{} on a to ns/db-1 TCP 5432: Denied",
		},
		"open, and everybody has policies": {
			spec: stranger, change: add(everybody(only("app", "all")), everybody(ingressFrom("all", "all", "x"))),
			egress: noEgress, ingress: noIngress,
		},
		"open under a default deny, where one may send and another may be sent to": {
			spec: stranger, change: func(s *Snapshot) {
				add(everybody(only("app", "all")), everybody(ingressFrom("all", "all", "nobody")), only("app", "sender", "db"), ingressFrom("receiver", "receiver", "stranger"))(s)
				s.Pods = append(s.Pods, pod("ns", "sender-1", "b", "10.0.2.8", "app=sender"), pod("ns", "receiver-1", "b", "10.0.2.9", "app=receiver"))
			},
			egress: "ns/{app=stranger} on a to ns/{app=receiver} TCP 5432: Denied", ingress: "ns/{app=sender} on a to ns/db-1 TCP 5432: Denied",
		},
		"closed under a default deny, where one may send and another may be sent to": {
			spec: web, change: func(s *Snapshot) {
				add(everybody(only("app", "all")), everybody(ingressFrom("all", "all", "nobody")), only("app", "web", "db", "receiver"), ingressFrom("receiver", "receiver", "web"))(s)
				s.Pods = append(s.Pods, pod("ns", "receiver-1", "b", "10.0.2.9", "app=receiver"))
			},
			egress: noEgressOpen, ingress: noIngressOpn,
		},
		"closed, where nothing isolates the target": {
			spec: web, change: func(s *Snapshot) { s.NetworkPolicies = nil },
			egress: "ns/{app=web} on a to ns/{} TCP 5432: Allowed", ingress: "ns/{} on a to ns/db-1 TCP 5432: Allowed",
		},
		"closed, where the source is the only one that ingress lets through": {
			spec: web, egress: "ns/{app=web} on a to ns/{} TCP 5432: Allowed", ingress: noIngressOpn,
		},
		"closed, and who is let through has egress policies": {
			spec: web, change: add(only("app", "web", "db", "free")), egress: noEgressOpen, ingress: noIngressOpn,
		},
		"closed, and a pod without ingress policies is let through to": {
			spec: web, change: func(s *Snapshot) {
				add(only("app", "web", "db", "free"))(s)
				s.Pods = append(s.Pods, pod("ns", "free-1", "b", "10.0.2.9", "app=free"))
			},
			egress: "ns/{app=web} on a to ns/{app=free} TCP 5432: Allowed", ingress: noIngressOpn,
		},
		"closed, to an address outside that egress policies name": {
			spec: outside, change: partner, egress: noEgressOpen, ingress: noIngressOpn,
		},
		"closed, to an address outside that egress policies of others do not concern": {
			spec: outside, change: func(s *Snapshot) {
				partner(s)
				s.NetworkPolicies[1].Spec.PodSelector.MatchLabels = map[string]string{"app": "web"}
			},
			egress: noEgressOpen, ingress: "ns/{} on a to 203.0.113.1 TCP 443: Allowed",
		},
		"to a Service, policies see the port behind it": {
			spec:   "paths: [{name: p, expect: Deny, from: {identity: {labels: {app: stranger}}}, to: {service: {name: web}}, ports: [{port: 80}]}]",
			change: add(only("app", "stranger")),
			egress: "ns/{app=stranger} on a to ns/{} TCP 8080: Denied",
		},
		"of a DNS query, its protocol": {
			spec:   "paths: [{name: p, expect: Deny, from: {podSelector: {matchLabels: {app: web}}}, dns: {names: [x.example.org], transports: [UDP]}}]",
			change: add(only("app", "web")),
			egress: "ns/{app=web} on a to ns/{} UDP 53: Denied",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := cluster()
			if tc.change != nil {
				tc.change(&s)
			}
			res := resolve(t, tc.spec, tc.change)
			p := predict(s, res.Edges)
			e := res.Edges[0]
			f := p.HalfPaths("ns", []Suspect{{Placed: Placed{Edge: e, Node: "a"}, Addr: e.Target.Addr, Decision: e.Prediction}}, s.Nodes)
			h := f.Halves[0]
			if diff := cmp.Diff([]string{tc.egress, tc.ingress}, []string{half(f, h.Egress), half(f, h.Ingress)}); diff != "" {
				t.Errorf("half-paths (-want +got):\n%s", diff)
			}
			if got := half(f, h.Again); !strings.HasPrefix(got, e.Source.Name+" on a to "+e.Target.Name+" ") {
				t.Errorf("probed again is %q", got)
			}
			checkHalves(t, f, s.Nodes)
		})
	}
}

// checkHalves asserts what holds of every follow-up: halves are what their name says, a
// responder is reached by somebody whom no policy concerns, and nothing is probed
// from where nobody asked for.
func checkHalves(t *testing.T, f *FollowUp, nodes []*corev1.Node) {
	t.Helper()
	byKey := map[string]*Edge{}
	for _, e := range f.Edges {
		if byKey[e.Path] != nil || e.Path == "" || e.Control {
			t.Errorf("the edge to %s is there twice, or has no name", e.Target.Name)
		}
		byKey[e.Path] = e
	}
	for _, h := range f.Halves {
		if e := byKey[h.Egress.Key]; e != nil && !passes(e.Prediction.Ingress, e.Prediction.Verdict) {
			t.Errorf("ingress policies may close the path to %s, too", e.Target.Name)
		}
		if e := byKey[h.Ingress.Key]; e != nil && !passes(e.Prediction.Egress, e.Prediction.Verdict) {
			t.Errorf("egress policies may close the path from %s, too", e.Source.Name)
		}
	}
	free := map[string]bool{}
	for _, e := range f.Edges {
		free[e.Target.Key] = free[e.Target.Key] || e.Prediction.Verdict == evaluator.Allowed && unpoliced(e.Prediction.Egress)
	}
	for _, h := range f.Halves {
		if e := byKey[h.Egress.Key]; e != nil && unpoliced(e.Prediction.Ingress) && !free[e.Target.Key] {
			t.Errorf("nobody without policies reaches the responder %s", e.Target.Name)
		}
	}
	for _, r := range f.Responders {
		if !slices.Contains(usableNodes(nodes), r.Node) || r.Namespace != "ns" {
			t.Errorf("got the responder %+v", r)
		}
	}
	placed := 0
	for _, pod := range f.Place(f.Edges) {
		for _, e := range pod.Edges {
			placed++
			if e.Source.Key != pod.Source.Key || byKey[e.Path] == nil {
				t.Errorf("a probe of %s on %s has the check of %s", pod.Source.Name, pod.Node, e.Source.Name)
			}
		}
	}
	if placed < len(f.Edges) {
		t.Errorf("%d of %d checks are placed", placed, len(f.Edges))
	}
}

// Suspects that differ in nothing that a half-path depends on share it, and one pod
// makes all checks of an identity on a node.
func TestHalfPathsAreShared(t *testing.T) {
	spec := "paths:\n" +
		"- {name: a, expect: Deny, from: {identity: {labels: {app: x}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 5432}]}\n" +
		"- {name: b, expect: Deny, from: {identity: {labels: {app: z}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 5432}]}\n"
	s := cluster()
	res := resolve(t, spec, nil)
	p := predict(s, res.Edges)
	var suspects []Suspect
	for _, e := range res.Edges {
		for _, n := range []string{"a", "b"} {
			suspects = append(suspects, Suspect{Placed: Placed{Edge: e, Node: n}, Addr: e.Target.Addr, Decision: e.Prediction})
		}
	}
	f := p.HalfPaths("ns", suspects, s.Nodes)
	want := []string{"ns/{app=x} on a", "ns/{app=x} on b", "ns/{app=z} on a", "ns/{app=z} on b", "ns/{} on a", "ns/{} on b"}
	var got []string
	for _, pod := range f.Place(f.Edges) {
		got = append(got, pod.Source.Name+" on "+pod.Node)
		if len(pod.Edges) != 1 {
			t.Errorf("the pod of %s on %s makes %d checks, want 1", pod.Source.Name, pod.Node, len(pod.Edges))
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pods (-want +got):\n%s", diff)
	}
	if len(f.Edges) != 3 || len(f.Halves) != 4 || f.Halves[0].Ingress.Key != f.Halves[2].Ingress.Key {
		t.Errorf("%d suspects have %d checks, want 3", len(suspects), len(f.Edges))
	}
}

// The responder of a suspect runs anew where it ran, beside the one without policies.
func TestHalfPathsToAResponder(t *testing.T) {
	spec := "paths: [{name: p, expect: Deny, from: {identity: {labels: {app: stranger}}}, to: {identity: {labels: {app: new}}}, ports: [{port: 5432}]}]"
	change := func(s *Snapshot) {
		s.NetworkPolicies = append(s.NetworkPolicies, ingressFrom("new", "new", "web"), only("app", "stranger"))
	}
	s := cluster()
	change(&s)
	res := resolve(t, spec, change)
	p := predict(s, res.Edges)
	e := res.Edges[0]
	r := Responders(res.Edges, s.Nodes)[0]
	r.Node, e.Target.Node = "b", "b"
	f := p.HalfPaths("ns", []Suspect{{Placed: Placed{Edge: e, Node: "a", Responder: &r}, Addr: netip.MustParseAddr("10.0.2.77"), Decision: e.Prediction}}, s.Nodes)
	checkHalves(t, f, s.Nodes)
	if got := half(f, f.Halves[0].Ingress); got != "ns/{} on a to ns/{app=new} TCP 5432: Denied" {
		t.Errorf("ingress half: %s", got)
	}
	if got := half(f, f.Halves[0].Egress); got != "ns/{app=stranger} on a to ns/{} TCP 5432: Denied" {
		t.Errorf("egress half: %s", got)
	}
	var got []string
	for _, r := range f.Responders {
		got = append(got, fmt.Sprintf("%s on %s %v", r.Name, r.Node, r.Ports))
	}
	port := []flow.PortRange{{Protocol: flow.TCP, First: 5432, Last: 5432}}
	want := []string{fmt.Sprintf("ns/{app=new} on b %v", port), fmt.Sprintf("ns/{} on b %v", port)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("responders (-want +got):\n%s", diff)
	}
	for _, e := range f.Edges {
		if e.Target.Addr.IsValid() || e.Backends[0].Endpoint.Addr.IsValid() {
			t.Errorf("the edge to %s has an address before its responder has one", e.Target.Name)
		}
	}
}

// A node that takes no pods keeps what runs there, and no control is put on it.
func TestHalfPathsAvoidNodesThatTakeNoPods(t *testing.T) {
	s := cluster()
	change := func(s *Snapshot) { s.NetworkPolicies = append(s.NetworkPolicies, only("app", "stranger")) }
	change(&s)
	s.Nodes[1].Spec.Unschedulable = true
	res := resolve(t, "paths: [{name: p, expect: Deny, from: {identity: {labels: {app: stranger}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 5432}]}]", change)
	p := predict(s, res.Edges)
	e := res.Edges[0]
	f := p.HalfPaths("ns", []Suspect{{Placed: Placed{Edge: e, Node: "b"}, Addr: e.Target.Addr, Decision: e.Prediction}}, s.Nodes)
	if got := []string{f.Halves[0].Again.Node, f.Halves[0].Ingress.Node, f.Responders[0].Node}; !slices.Equal(got, []string{"b", "a", "a"}) {
		t.Errorf("got the suspect, its control and the responder on %v", got)
	}
}

// Of a host, the address that was probed is probed again, and by others.
func TestHalfPathsToAHost(t *testing.T) {
	spec := "paths: [{name: p, expect: Deny, from: {podSelector: {matchLabels: {app: web}}}, to: {host: example.org}, ports: [{port: 443}]}]"
	change := func(s *Snapshot) { s.NetworkPolicies = append(s.NetworkPolicies, only("app", "web")) }
	s := cluster()
	change(&s)
	res := resolve(t, spec, change)
	p := predict(s, res.Edges)
	addr := netip.MustParseAddr("203.0.113.1")
	e := res.Edges[0].AtAddress(addr)
	p.Predict([]*Edge{e})
	f := p.HalfPaths("ns", []Suspect{{Placed: Placed{Edge: e, Node: "a"}, Addr: addr, Decision: evaluator.Decision{Verdict: evaluator.Allowed}}}, s.Nodes)
	h := f.Halves[0]
	want := []string{"ns/{app=web} on a to example.org. TCP 443: Denied", "ns/{} on a to example.org. TCP 443: Allowed"}
	if diff := cmp.Diff(want, []string{half(f, h.Again), half(f, h.Ingress)}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, e := range f.Edges {
		if e.Target.Kind == TargetHost || (e.Target.Kind == TargetAddress && e.Target.Addr != addr) {
			t.Errorf("the edge to %s is to whatever a resolver says", e.Target.Name)
		}
	}
}

// Each family of a pair has half-paths, which are the same checks of both.
func TestHalfPathsOfEachFamily(t *testing.T) {
	spec := "paths: [{name: p, expect: Deny, from: {podSelector: {matchLabels: {app: web}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 5432}]}]"
	change := func(s *Snapshot) {
		dualStack(s)
		s.NetworkPolicies = []*networkingv1.NetworkPolicy{only("app", "web"), {ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "partner"}, Spec: *egressTo("203.0.113.0/24")}}
		s.NetworkPolicies[1].Spec.PodSelector.MatchLabels = map[string]string{"app": "web"}
	}
	s := cluster()
	change(&s)
	res := resolve(t, spec, change)
	p := predict(s, res.Edges)
	var suspects []Suspect
	for _, e := range res.Edges {
		suspects = append(suspects, Suspect{Placed: Placed{Edge: e, Node: "a"}, Addr: e.Target.Addr, Decision: e.Prediction})
	}
	f := p.HalfPaths("ns", suspects, s.Nodes)
	checkHalves(t, f, s.Nodes)
	if len(suspects) != 2 || f.Halves[0].Egress.Key == "" || f.Halves[0].Egress != f.Halves[1].Egress {
		t.Errorf("got %+v of %d suspects", f.Halves, len(suspects))
	}
	for _, e := range f.Edges {
		if e.Target.Kind == TargetResponder && (e.Target.Addr.IsValid() || e.Backends[0].Endpoint.Addr.IsValid()) {
			t.Errorf("the responder %s has an address before it runs", e.Target.Name)
		}
	}
}

// Of a target that answers nobody, a stand-in tells whether it is the target or the
// network, and which direction: its half-paths are planned.
func TestHalfPathsOfASilentTarget(t *testing.T) {
	spec := "paths: [{name: p, expect: Allow, from: {podSelector: {matchLabels: {app: web}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 5432}]}]"
	for name, tc := range map[string]struct {
		change                   func(*Snapshot)
		standIn, egress, missing string
	}{
		"a stand-in with its identity, on its node": {standIn: "ns/{app=web} on a to ns/db-1 TCP 5432: Allowed", egress: "ns/{app=web} on a to ns/{} TCP 5432: Allowed"},
		"a pod that no stand-in may be had for": {
			change: func(s *Snapshot) {
				s.Pods[slices.IndexFunc(s.Pods, func(p *corev1.Pod) bool { return p.Name == "db-1" })].Spec.HostNetwork = true
			},
			missing: "is on the host network",
		},
		"a pod that is gone": {
			change: func(s *Snapshot) {
				s.Pods = slices.DeleteFunc(slices.Clone(s.Pods), func(p *corev1.Pod) bool { return p.Name == "db-1" })
			},
			missing: "pod ns/db-1 is gone",
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := resolve(t, spec, nil).Edges[0]
			s := cluster()
			if tc.change != nil {
				tc.change(&s)
			}
			p := predict(s, nil)
			d := predict(cluster(), []*Edge{e})
			d.Predict([]*Edge{e})
			f := p.HalfPaths("ns", []Suspect{{Placed: Placed{Edge: e, Node: "a"}, Addr: e.Target.Addr, Decision: e.Prediction, Silent: true}}, s.Nodes)
			h := f.Halves[0]
			if h.Again.Key == "" {
				t.Error("the path itself is not probed again")
			}
			if tc.missing != "" {
				if h.StandIn.Key != "" || !strings.Contains(h.StandIn.Missing, tc.missing) || len(f.Responders) > 0 {
					t.Errorf("got %+v and %d responders, want none, since it %q", h.StandIn, len(f.Responders), tc.missing)
				}
				return
			}
			checkHalves(t, f, s.Nodes)
			if diff := cmp.Diff([]string{tc.standIn, tc.egress}, []string{half(f, h.StandIn), half(f, h.Egress)}); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			i := slices.IndexFunc(f.Responders, func(r Responder) bool { return r.StandsFor != nil })
			if i < 0 || f.Responders[i].StandsFor.Name != "db-1" || f.Responders[i].Node != e.Target.Node || f.Responders[i].Labels["app"] != "db" {
				t.Errorf("got the responders %+v, want a stand-in for db-1 on its node", f.Responders)
			}
		})
	}
}
