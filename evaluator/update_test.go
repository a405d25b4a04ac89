package evaluator

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
	policyv1alpha1 "sigs.k8s.io/network-policy-api/apis/v1alpha1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/pathproof/pathproof/flow"
)

// drawChange draws objects that are new or take the place of others, and keys of
// objects to be deleted. It returns the snapshot after the change, too.
func drawChange(t *rapid.T, s Snapshot, step int) (after, changed Snapshot, deleted []Key) {
	for range rapid.IntRange(1, 3).Draw(t, "changes") {
		switch rapid.IntRange(0, 6).Draw(t, "change") {
		case 0: // A pod comes, or changes all but its namespace and its name.
			p := drawPod(t, rapid.IntRange(0, 6).Draw(t, "pod"))
			changed.Pods = append(changed.Pods, p)
		case 1:
			changed.NetworkPolicies = append(changed.NetworkPolicies, drawPolicy(t, fmt.Sprintf("np%d", rapid.IntRange(0, 6).Draw(t, "policy"))))
		case 2: // An invalid policy.
			p := drawPolicy(t, fmt.Sprintf("np%d", rapid.IntRange(0, 6).Draw(t, "policy")))
			p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: make([]networkingv1.NetworkPolicyPeer, 1)})
			if rapid.IntRange(0, 3).Draw(t, "unplaced") == 0 {
				p.Namespace = ""
			}
			changed.NetworkPolicies = append(changed.NetworkPolicies, p)
		case 3:
			ns := newNamespace(fmt.Sprintf("n%d", rapid.IntRange(0, 2).Draw(t, "namespace")), "")
			ns.Labels = drawLabels(t, "namespaceLabels")
			if rapid.IntRange(0, 3).Draw(t, "terminating") == 0 {
				ns.DeletionTimestamp = &metav1.Time{}
			}
			changed.Namespaces = append(changed.Namespaces, ns)
		case 4:
			var wide Snapshot
			drawClusterWide(t, &wide)
			changed.ClusterNetworkPolicies = append(changed.ClusterNetworkPolicies, wide.ClusterNetworkPolicies...)
			changed.AdminNetworkPolicies = append(changed.AdminNetworkPolicies, wide.AdminNetworkPolicies...)
			changed.BaselineAdminNetworkPolicies = append(changed.BaselineAdminNetworkPolicies, wide.BaselineAdminNetworkPolicies...)
		case 5:
			changed.Unmodelled = append(changed.Unmodelled, Unmodelled{
				Kind: "Wall.example.org", Namespace: rapid.SampledFrom([]string{"n0", "n1", "n2", ""}).Draw(t, "cloud"), Name: fmt.Sprintf("w%d", step),
			})
		case 6:
			if keys := keysOf(s); len(keys) > 0 {
				deleted = append(deleted, rapid.SampledFrom(keys).Draw(t, "deleted"))
			}
		}
	}
	// What is changed is not deleted at the same time.
	changedKeys := keysOf(changed)
	deleted = slices.DeleteFunc(deleted, func(k Key) bool { return slices.Contains(changedKeys, k) })
	return merge(s, changed, append(changedKeys, deleted...)), changed, deleted
}

// kept returns the objects of which gone does not name the key.
func kept[T any](list []T, gone []Key, wrap func([]T) Snapshot) []T {
	return slices.DeleteFunc(slices.Clone(list), func(o T) bool { return slices.Contains(gone, keysOf(wrap([]T{o}))[0]) })
}

// merge returns s without what gone names, and with what changed holds.
func merge(s, changed Snapshot, gone []Key) Snapshot {
	return Snapshot{
		Profile:    s.Profile,
		Namespaces: append(kept(s.Namespaces, gone, func(l []*corev1.Namespace) Snapshot { return Snapshot{Namespaces: l} }), changed.Namespaces...),
		Pods:       append(kept(s.Pods, gone, func(l []*corev1.Pod) Snapshot { return Snapshot{Pods: l} }), changed.Pods...),
		NetworkPolicies: append(kept(s.NetworkPolicies, gone, func(l []*networkingv1.NetworkPolicy) Snapshot {
			return Snapshot{NetworkPolicies: l}
		}), changed.NetworkPolicies...),
		ClusterNetworkPolicies: append(kept(s.ClusterNetworkPolicies, gone, func(l []*policyv1alpha2.ClusterNetworkPolicy) Snapshot {
			return Snapshot{ClusterNetworkPolicies: l}
		}), changed.ClusterNetworkPolicies...),
		AdminNetworkPolicies: append(kept(s.AdminNetworkPolicies, gone, func(l []*policyv1alpha1.AdminNetworkPolicy) Snapshot {
			return Snapshot{AdminNetworkPolicies: l}
		}), changed.AdminNetworkPolicies...),
		BaselineAdminNetworkPolicies: append(kept(s.BaselineAdminNetworkPolicies, gone, func(l []*policyv1alpha1.BaselineAdminNetworkPolicy) Snapshot {
			return Snapshot{BaselineAdminNetworkPolicies: l}
		}), changed.BaselineAdminNetworkPolicies...),
		Unmodelled: append(kept(s.Unmodelled, gone, func(l []Unmodelled) Snapshot { return Snapshot{Unmodelled: l} }), changed.Unmodelled...),
	}
}

// drawAnyFlow draws a flow between ends that need not be known.
func drawAnyFlow(t *rapid.T, s Snapshot) flow.Flow {
	f := drawFlow(t, s)
	if rapid.IntRange(0, 4).Draw(t, "named") == 0 {
		f.From = flow.Endpoint{Namespace: fmt.Sprintf("n%d", rapid.IntRange(0, 2).Draw(t, "ns")), Pod: fmt.Sprintf("p%d", rapid.IntRange(0, 6).Draw(t, "pod"))}
	}
	return f
}

func TestIncrementalEqualsFromScratch(t *testing.T) {
	changedAnswers, spared := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		s := drawCluster(t)
		e, _ := Compile(s)
		for step := range rapid.IntRange(1, 6).Draw(t, "steps") {
			after, changed, deleted := drawChange(t, s, step)
			next, impact := e.With(changed, deleted)
			fresh, problems := Compile(after)
			if diff := cmp.Diff(problems, next.Problems(func(string) bool { return true })); diff != "" {
				t.Fatalf("problems (-from scratch +incremental):\n%s", diff)
			}
			for range flowsPerCluster {
				f := drawAnyFlow(t, after)
				before, want, got := e.Decide(f), fresh.Decide(f), next.Decide(f)
				if diff := cmp.Diff(want, got); diff != "" {
					describe(t, after)
					t.Fatalf("step %d: %s (-from scratch +incremental):\n%s", step, f, diff)
				}
				switch {
				case !cmp.Equal(before, got):
					changedAnswers++
					if !impact.MayChange(f) {
						describe(t, s)
						describe(t, after)
						t.Fatalf("step %d: %s: the impact does not name it, but it changed:\n%s", step, f, cmp.Diff(before, got))
					}
				case !impact.MayChange(f):
					spared++
				}
			}
			s, e = after, next
		}
	})
	t.Logf("%d answers changed; of those that stayed, %d were known to stay", changedAnswers, spared)
	if changedAnswers == 0 || spared == 0 {
		t.Error("the random changes never changed an answer, or never spared one")
	}
}

func TestImpactNamesTheFlowsThatAPolicySelects(t *testing.T) {
	s := shop()
	e := compile(t, s)
	_, impact := e.With(Snapshot{NetworkPolicies: []*networkingv1.NetworkPolicy{
		newPolicy(t, "shop/db", `{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress]}`),
	}}, nil)
	for text, want := range map[string]bool{
		"shop/web -> shop/db TCP/80":       true,
		"ops/web -> shop/db TCP/80":        true,
		"10.0.0.1 -> shop/db TCP/80":       true,
		"shop/db -> shop/web TCP/80":       false, // The policy is about ingress.
		"shop/web -> shop/{app=db} TCP/80": true,
		"shop/web -> shop/{app=x} TCP/80":  false,
		"ops/web -> shop/web TCP/80":       false,
	} {
		if got := impact.MayChange(newFlow(t, text)); got != want {
			t.Errorf("%s: got %t, want %t", text, got, want)
		}
	}
}

// TestAnEngineDoesNotChange compares the answers of an engine before and after others
// were made from it.
func TestAnEngineDoesNotChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawCluster(t)
		e, _ := Compile(s)
		var flows []flow.Flow
		var before []Decision
		for range flowsPerCluster {
			f := drawAnyFlow(t, s)
			flows, before = append(flows, f), append(before, e.Decide(f))
		}
		for step := range 3 {
			_, changed, deleted := drawChange(t, s, step)
			e.With(changed, deleted)
		}
		for i, f := range flows {
			if diff := cmp.Diff(before[i], e.Decide(f)); diff != "" {
				t.Fatalf("%s (-before +after):\n%s", f, diff)
			}
		}
	})
}
