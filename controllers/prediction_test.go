package controllers

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathproof/pathproof/evaluator"
)

func TestPredictionsNameThePoliciesThatDecide(t *testing.T) {
	lockdown := evaluator.PolicyRef{Kind: "ClusterNetworkPolicy", Name: "lockdown"}
	other := evaluator.PolicyRef{Kind: "ClusterNetworkPolicy", Name: "other"}
	guard := evaluator.PolicyRef{Namespace: "ns", Name: "guard"}
	cases := map[string]struct {
		d    evaluator.DirectionDecision
		want []string
	}{
		"a cluster-wide policy denies": {
			evaluator.DirectionDecision{
				Verdict: evaluator.Denied, Selecting: []evaluator.PolicyRef{other, lockdown}, Isolating: []evaluator.PolicyRef{guard},
				DeniedBy: &evaluator.RuleRef{PolicyRef: lockdown},
			}, []string{"ClusterNetworkPolicy lockdown"},
		},
		"NetworkPolicies deny": {
			evaluator.DirectionDecision{Verdict: evaluator.Denied, Selecting: []evaluator.PolicyRef{other}, Isolating: []evaluator.PolicyRef{guard}},
			[]string{"ns/guard"},
		},
		"it is open which": {
			evaluator.DirectionDecision{Verdict: evaluator.Undefined, Selecting: []evaluator.PolicyRef{lockdown, other}, Isolating: []evaluator.PolicyRef{guard}},
			[]string{"ClusterNetworkPolicy lockdown", "ClusterNetworkPolicy other", "ns/guard"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			allowed := evaluator.DirectionDecision{Verdict: evaluator.Allowed}
			got := prediction(evaluator.Decision{Verdict: tc.d.Verdict, Egress: allowed, Ingress: tc.d})
			if diff := cmp.Diff(tc.want, got.Policies); diff != "" || got.Direction != "Ingress" {
				t.Errorf("direction %s, policies (-want +got):\n%s", got.Direction, diff)
			}
		})
	}
}
