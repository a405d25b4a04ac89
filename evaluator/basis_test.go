package evaluator

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/pathproof/pathproof/flow"
)

// TestAnAnswerRestsOnItsBasis changes clusters at random: an answer that differs has
// another basis, or one of which an object changed.
func TestAnAnswerRestsOnItsBasis(t *testing.T) {
	moved, rested := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		s := drawCluster(t)
		e, _ := Compile(s)
		for step := range rapid.IntRange(1, 4).Draw(t, "steps") {
			after, changed, deleted := drawChange(t, s, step)
			next, _ := e.With(changed, deleted)
			touched := append(keysOf(changed), deleted...)
			for range flowsPerCluster {
				f := drawAnyFlow(t, after)
				was, is := []Basis{e.SourceBasis(f.From), e.TargetBasis(f.To)}, []Basis{next.SourceBasis(f.From), next.TargetBasis(f.To)}
				stays := cmp.Equal(was, is) && !slices.ContainsFunc(slices.Concat(is[0].Objects, is[1].Objects), func(k Key) bool { return slices.Contains(touched, k) })
				diff := cmp.Diff(e.Decide(f), next.Decide(f))
				switch {
				case diff != "" && stays:
					describe(t, s)
					describe(t, after)
					t.Fatalf("step %d: %s: the answer changed, and its basis did not:\n%s", step, f, diff)
				case diff != "":
					moved++
				case stays:
					rested++
				}
			}
			s, e = after, next
		}
	})
	t.Logf("%d answers changed; of the others, the basis of %d stayed", moved, rested)
	if moved == 0 || rested == 0 {
		t.Error("the random changes never changed an answer, or always touched the basis")
	}
}

func TestBasisNamesWhatSelectsAnEnd(t *testing.T) {
	s := shop()
	s.Pods = append(s.Pods, onHostNetwork(onNode(newPod("ops/agent", "app=agent"), "node-2", "192.168.0.2")))
	s = withPolicies(t, s, map[string]string{
		"shop/web-in":  `{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}`,
		"shop/web-out": `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}`,
		"shop/broken":  `{podSelector: {matchExpressions: [{key: a, operator: Is}]}, policyTypes: [Egress]}`,
		"ops/agent":    `{podSelector: {matchLabels: {app: agent}}, policyTypes: [Ingress, Egress]}`,
		"cnp:all":      `{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Accept, to: [{namespaces: {}}]}]}`,
	})
	e, _ := Compile(s)
	policies := func(b Basis) []string {
		var out []string
		for _, k := range b.Objects {
			if k.Kind != KindPod && k.Kind != KindNamespace {
				out = append(out, k.Namespace+"/"+k.Name)
			}
		}
		return out
	}
	web, agent := flow.Endpoint{Namespace: "shop", Pod: "web"}, flow.Endpoint{Namespace: "ops", Pod: "agent"}
	node := newFlow(t, "192.168.0.2 -> 192.168.0.2 TCP/80").From
	for name, tc := range map[string]struct {
		got  Basis
		want []string
		node bool
	}{
		"a source, of which a broken policy may be one": {e.SourceBasis(web), []string{"/all", "shop/broken", "shop/web-out"}, false},
		"a target":    {e.TargetBasis(web), []string{"shop/web-in"}, false},
		"an identity": {e.SourceBasis(flow.Endpoint{Namespace: "shop", Labels: map[string]string{"app": "x"}}), []string{"/all", "shop/broken"}, false},
		"a host-network pod is no subject of a cluster-wide": {e.SourceBasis(agent), []string{"ops/agent"}, false},
		"the address of its node":                            {e.TargetBasis(node), []string{"ops/agent"}, true},
		"an address outside":                                 {e.TargetBasis(newFlow(t, "203.0.113.1 -> 203.0.113.1 TCP/80").To), nil, false},
		"a namespace that does not exist":                    {e.SourceBasis(flow.Endpoint{Namespace: "none", Labels: map[string]string{"a": "b"}}), nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, policies(tc.got)); diff != "" || tc.got.Node != tc.node {
				t.Errorf("is a node: %t, want %t; policies (-want +got):\n%s", tc.got.Node, tc.node, diff)
			}
		})
	}
}
