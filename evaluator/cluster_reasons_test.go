package evaluator

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func TestDecisionsNameTheRulesOfClusterWidePolicies(t *testing.T) {
	s := withPolicies(t, shop(), map[string]string{
		"cnp:first": cnp("Admin", "1", `ingress: [{action: Pass, from: [{`+shopPods+`}]}, {name: no-ops, action: Deny, from: [{`+opsPods+`}]}]`),
		"cnp:last":  cnp("Baseline", "1", in("Accept", everyPod)),
		"shop/web":  `{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}`,
	})
	e := compile(t, s)
	ref := func(name string) PolicyRef { return PolicyRef{Kind: KindClusterNetworkPolicy, Name: name} }
	both := []PolicyRef{ref("first"), ref("last")}
	passed := &RuleRef{PolicyRef: ref("first")}
	web := []PolicyRef{{Namespace: "shop", Name: "web"}}
	want := map[string]DirectionDecision{
		"ops/tool -> shop/db TCP/80": {Verdict: Denied, Tier: TierAdmin, Selecting: both, DeniedBy: &RuleRef{PolicyRef: ref("first"), Index: 1, Title: "no-ops"}},
		"shop/web -> shop/db TCP/80": {
			Verdict: Allowed, Tier: TierBaseline, Selecting: both, PassedBy: passed, AllowedBy: &RuleRef{PolicyRef: ref("last")},
		},
		"shop/db -> shop/web TCP/80":    {Verdict: Denied, Tier: TierNetworkPolicy, Selecting: both, PassedBy: passed, Isolating: web},
		"203.0.113.1 -> shop/db TCP/80": {Verdict: Allowed, Selecting: both},
		"203.0.113.1 -> ops/web TCP/80": {Verdict: Allowed, Selecting: both},
	}
	for text, want := range want {
		if diff := cmp.Diff(want, e.Decide(newFlow(t, text)).Ingress); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
	denied := e.Decide(newFlow(t, "ops/tool -> shop/db TCP/80")).Ingress.DeniedBy
	for want, got := range map[string]string{
		"ClusterNetworkPolicy first": denied.String(), "rule 1 (no-ops) of ClusterNetworkPolicy first": denied.Describe(),
		"rule 0 of ClusterNetworkPolicy first": passed.Describe(), "rule 3 of NetworkPolicy shop/web": RuleRef{PolicyRef: web[0], Index: 3}.Describe(),
		"shop/web": web[0].String(), "Admin": TierAdmin.String(), "NetworkPolicy": TierNetworkPolicy.String(), "Baseline": TierBaseline.String(),
		"": TierNone.String(), "Tier(9)": Tier(9).String(),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestReasonsNameBothPolicies(t *testing.T) {
	tests := map[string]struct {
		policies map[string]string
		want     string
	}{
		"equal priorities": {
			map[string]string{"cnp:a": cnp("Admin", "5", in("Accept", everyPod)), "cnp:b": cnp("Admin", "5", in("Deny", everyPod))},
			"rule 0 of ClusterNetworkPolicy a and rule 0 of ClusterNetworkPolicy b disagree, and both policies have priority 5 in the Admin tier",
		},
		"two versions": {
			map[string]string{"cnp:a": cnp("Admin", "5", in("Deny", everyPod)), "anp:b": `{priority: 6, subject: {` + everyPod + `}, ` + in("Allow", everyPod) + `}`},
			"rule 0 of AdminNetworkPolicy b and rule 0 of ClusterNetworkPolicy a disagree, and nothing says which of the two kinds comes first",
		},
		"an invalid policy": {
			map[string]string{"cnp:a": cnp("Adnim", "5", in("Deny", everyPod))},
			"ClusterNetworkPolicy a is not valid, so what it allows and denies is not known",
		},
		"labels that the subject asks for": {
			map[string]string{"cnp:a": `{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: x}}}, ` + in("Deny", everyPod) + `}`},
			"the subject of ClusterNetworkPolicy a asks for labels of namespace unlisted, which is not in the snapshot",
		},
		"labels that a peer asks for": {
			map[string]string{"cnp:a": cnp("Admin", "1", in("Deny", `namespaces: {matchLabels: {team: x}}`))},
			"rule 0 of ClusterNetworkPolicy a asks for labels of namespace unlisted, which is not in the snapshot",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := shop()
			s.Namespaces = []*corev1.Namespace{newNamespace("ops", "")}
			s.Pods = append(s.Pods, newPod("unlisted/a", "", "10.0.8.1"), newPod("unlisted/b", "", "10.0.8.2"))
			e, _ := Compile(withPolicies(t, s, tc.policies))
			d := e.Decide(newFlow(t, "unlisted/a -> unlisted/b TCP/80"))
			if d.Verdict != Undefined || d.Reason != tc.want {
				t.Errorf("got %s: %s, want %s", d.Verdict, d.Reason, tc.want)
			}
		})
	}
}
