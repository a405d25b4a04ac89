package controllers

import (
	"slices"
	"sync"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/plan"
)

// engineKeeper keeps one engine for all expectations. Each reconcile brings it up to
// its snapshot, which costs no more than what changed since the last; the engine that
// it gets then never changes under it.
type engineKeeper struct {
	mu      sync.Mutex
	engine  *evaluator.Engine
	profile evaluator.Profile
	// known are the versions of the objects in the engine, by their namespace; the
	// empty one is for those without.
	known map[string]map[evaluator.Key]*version
	round uint64
}

// version identifies what an object was when it was compiled, and the last round in
// which it was seen.
type version struct {
	uid      types.UID
	resource string
	round    uint64
}

// engineFor returns an engine for a snapshot, which holds all objects without a
// namespace and all of the namespaces in reach. What the engine holds of others may be
// out of date: nothing in reach depends on it.
func (k *engineKeeper) engineFor(s evaluator.Snapshot, in reach) *evaluator.Engine {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.engine == nil || k.profile != s.Profile {
		k.engine, _ = evaluator.Compile(evaluator.Snapshot{Profile: s.Profile})
		k.profile, k.known = s.Profile, map[string]map[evaluator.Key]*version{}
	}
	k.round++
	changed := k.changed(s)
	k.engine, _ = k.engine.With(changed, k.gone(in))
	return k.engine
}

// changed returns the objects that the engine does not hold as they are.
func (k *engineKeeper) changed(s evaluator.Snapshot) evaluator.Snapshot {
	changed := evaluator.Snapshot{
		Namespaces:                   newer(k, evaluator.KindNamespace, s.Namespaces),
		Pods:                         newer(k, evaluator.KindPod, s.Pods),
		NetworkPolicies:              newer(k, evaluator.KindNetworkPolicy, s.NetworkPolicies),
		ClusterNetworkPolicies:       newer(k, evaluator.KindClusterNetworkPolicy, s.ClusterNetworkPolicies),
		AdminNetworkPolicies:         newer(k, evaluator.KindAdminNetworkPolicy, s.AdminNetworkPolicies),
		BaselineAdminNetworkPolicies: newer(k, evaluator.KindBaselineAdminNetworkPolicy, s.BaselineAdminNetworkPolicies),
	}
	for _, u := range s.Unmodelled {
		// Nothing is known of such an object but that it exists. It counts as without a
		// namespace, because a snapshot holds all of them.
		if k.see("", evaluator.Key(u), version{}) {
			changed.Unmodelled = append(changed.Unmodelled, u)
		}
	}
	return changed
}

// newer returns the objects of one kind that the engine does not hold as they are.
func newer[T client.Object](k *engineKeeper, kind string, list []T) []T {
	var out []T
	for _, o := range list {
		key := evaluator.Key{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()}
		if k.see(o.GetNamespace(), key, version{uid: o.GetUID(), resource: o.GetResourceVersion()}) {
			out = append(out, o)
		}
	}
	return out
}

// see records an object of the current round, and tells whether the engine holds
// another version of it or none.
func (k *engineKeeper) see(namespace string, key evaluator.Key, v version) bool {
	v.round = k.round
	objects := k.known[namespace]
	if objects == nil {
		objects = map[evaluator.Key]*version{}
		k.known[namespace] = objects
	}
	before := objects[key]
	if before == nil {
		objects[key] = &v
		return true
	}
	differs := before.uid != v.uid || before.resource != v.resource
	*before = v
	return differs
}

// gone returns the keys of objects that were not seen in the current round, although
// they should have been.
func (k *engineKeeper) gone(in reach) []evaluator.Key {
	var keys []evaluator.Key
	for namespace, objects := range k.known {
		if namespace != "" && !in.includes(namespace) {
			continue
		}
		for key, v := range objects {
			if v.round != k.round {
				keys = append(keys, key)
				delete(objects, key)
			}
		}
	}
	return keys
}

// outlook is what the last reconcile of an expectation predicted.
type outlook struct {
	engine *evaluator.Engine
	flows  []flow.Flow
	// open is set when a flow ends at something that only the probe can find out.
	open bool
}

// newOutlook collects the flows of a plan.
func newOutlook(engine *evaluator.Engine, res *plan.Resolution) *outlook {
	o := &outlook{engine: engine}
	for _, e := range res.Edges {
		flows, whole := res.Predictor.Flows(e)
		o.flows = append(o.flows, flows...)
		o.open = o.open || !whole
	}
	return o
}

// policyChange is a change of one NetworkPolicy, as one engine sees it.
type policyChange struct {
	impact *evaluator.Impact
	// problem is set when the namespace has, or had, an object that cannot be
	// evaluated: that is reported whatever the object selects.
	problem bool
}

// newPolicyChange takes the versions of a policy before and after the change, of which
// there is one if it was created or deleted.
func newPolicyChange(engine *evaluator.Engine, versions []client.Object) policyChange {
	var c policyChange
	here := func(namespace string) bool { return namespace == versions[0].GetNamespace() }
	for _, o := range versions {
		if p, ok := o.(*networkingv1.NetworkPolicy); ok {
			engine, c.impact = engine.With(evaluator.Snapshot{NetworkPolicies: []*networkingv1.NetworkPolicy{p}}, nil)
			c.problem = c.problem || len(engine.Problems(here)) > 0
		}
	}
	return c
}

// mayChange tells whether a change may change what was predicted or reported.
func (o *outlook) mayChange(c policyChange) bool {
	return o.open || c.problem || c.impact == nil || slices.ContainsFunc(o.flows, c.impact.MayChange)
}
