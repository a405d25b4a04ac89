package controllers

import (
	"os"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/pathproof/pathproof/evaluator"
)

// A kind that the operator may not read makes every prediction undefined.
func TestEveryPolicyKindMayBeRead(t *testing.T) {
	raw, err := os.ReadFile("../config/rbac/role.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var role rbacv1.ClusterRole
	first, _, _ := strings.Cut(strings.TrimPrefix(string(raw), "---\n"), "---\n")
	if err := yaml.UnmarshalStrict([]byte(first), &role); err != nil {
		t.Fatal(err)
	}
	for _, k := range evaluator.PolicyKinds() {
		for _, verb := range []string{"get", "list", "watch"} {
			if !slices.ContainsFunc(role.Rules, func(r rbacv1.PolicyRule) bool {
				return slices.Contains(r.APIGroups, k.Group) && slices.Contains(r.Resources, k.Resource) && slices.Contains(r.Verbs, verb)
			}) {
				t.Errorf("the role does not allow to %s %s.%s", verb, k.Resource, k.Group)
			}
		}
	}
}

func TestEveryModelledKindHasAReader(t *testing.T) {
	n := 0
	for _, k := range evaluator.PolicyKinds() {
		r, ok := readers[k.String()]
		if ok != k.Modelled {
			t.Errorf("%s: modelled %v, but has a reader: %v", k, k.Modelled, ok)
		}
		if ok {
			n++
			if r.version == "" || r.list == nil || r.object == nil {
				t.Errorf("%s: the reader is incomplete", k)
			}
		}
	}
	if n != len(readers) {
		t.Errorf("%d of %d readers are for known kinds", n, len(readers))
	}
}

func TestIgnoredPolicyKindsAreChecked(t *testing.T) {
	if err := CheckPolicyKinds([]string{"CiliumNetworkPolicy.cilium.io"}); err != nil {
		t.Error(err)
	}
	if err := CheckPolicyKinds([]string{"CiliumNetworkPolicy"}); err == nil || !strings.Contains(err.Error(), "CiliumNetworkPolicy.cilium.io") {
		t.Errorf("got %v, want an error that names the kinds", err)
	}
}
