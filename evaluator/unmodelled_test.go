package evaluator

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/pathproof/pathproof/flow"
)

func TestS30UnmodelledObjectsMakeTheirReachUndefined(t *testing.T) {
	const none, cilium = "", "CiliumNetworkPolicy.cilium.io"
	cases := map[string]struct {
		objects      []Unmodelled
		from, to     string
		egress       Verdict
		ingress      Verdict
		want         Verdict
		reason       string
		denyAtTarget bool
	}{
		"in a third namespace": {
			[]Unmodelled{{Kind: cilium, Namespace: "third", Name: "p"}}, "a/x", "b/y", Allowed, Allowed, Allowed, none, false},
		"in the source's namespace": {
			[]Unmodelled{{Kind: cilium, Namespace: "a", Name: "p"}}, "a/x", "b/y", Undefined, Allowed, Undefined, cilium + " a/p is of a kind", false},
		"in the target's namespace": {
			[]Unmodelled{{Kind: cilium, Namespace: "b", Name: "p"}}, "a/x", "b/y", Allowed, Undefined, Undefined, cilium + " b/p is of a kind", false},
		"in the source's, while the target denies for certain": {
			[]Unmodelled{{Kind: cilium, Namespace: "a", Name: "p"}}, "a/x", "b/y", Undefined, Denied, Denied, none, true},
		"in the target's: it may allow what NetworkPolicy denies": {
			[]Unmodelled{{Kind: cilium, Namespace: "b", Name: "p"}}, "a/x", "b/y", Allowed, Undefined, Undefined, cilium + " b/p", true},
		"everywhere": {
			[]Unmodelled{{Kind: "X.example.org", Name: "p"}, {Kind: cilium, Namespace: "a", Name: "p"}}, "a/x", "b/y", Undefined, Undefined, Undefined, "X.example.org p is", false},
		"that cannot be read": {
			[]Unmodelled{{Kind: cilium}}, "a/x", "b/y", Undefined, Undefined, Undefined, "may exist and cannot be read", false},
		"from outside, only the target's side is open": {
			[]Unmodelled{{Kind: cilium, Name: "p"}}, "203.0.113.1", "b/y", Allowed, Undefined, Undefined, "may allow or deny", false},
		"for an identity": {
			[]Unmodelled{{Kind: cilium, Namespace: "a", Name: "p"}}, "a/{app=new}", "b/y", Undefined, Allowed, Undefined, cilium, false},
		"for a namespace that is not in the snapshot": {
			[]Unmodelled{{Kind: cilium, Namespace: "c", Name: "p"}}, "c/z", "b/y", Undefined, Allowed, Undefined, cilium, false},
		"a pod still reaches itself": {
			[]Unmodelled{{Kind: cilium, Name: "p"}}, "a/x", "a/x", Allowed, Allowed, Allowed, none, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := Snapshot{
				Namespaces: []*corev1.Namespace{newNamespace("a", ""), newNamespace("b", "")},
				Pods:       []*corev1.Pod{newPod("a/x", "", "10.0.0.1"), newPod("b/y", "", "10.0.0.2"), newPod("c/z", "", "10.0.0.3")},
				Unmodelled: tc.objects,
			}
			if tc.denyAtTarget {
				s.NetworkPolicies = []*networkingv1.NetworkPolicy{newPolicy(t, "b/closed", "podSelector: {}")}
			}
			engine, problems := Compile(s)
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			d := engine.Decide(flow.Flow{From: endpoint(t, tc.from), To: endpoint(t, tc.to), Protocol: flow.TCP, Port: 80})
			if d.Egress.Verdict != tc.egress || d.Ingress.Verdict != tc.ingress || d.Verdict != tc.want {
				t.Errorf("got egress %v, ingress %v, %v; want %v, %v, %v", d.Egress.Verdict, d.Ingress.Verdict, d.Verdict, tc.egress, tc.ingress, tc.want)
			}
			if tc.want == Undefined && (d.Rule != "S30" || !strings.Contains(d.Reason, tc.reason)) {
				t.Errorf("got %s %q, want S30 with %q", d.Rule, d.Reason, tc.reason)
			}
		})
	}
}
