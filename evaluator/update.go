package evaluator

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Kinds of the objects of a snapshot, other than those that are Unmodelled.
const (
	KindNamespace                  = "Namespace"
	KindPod                        = "Pod"
	KindNetworkPolicy              = "NetworkPolicy"
	KindClusterNetworkPolicy       = "ClusterNetworkPolicy"
	KindAdminNetworkPolicy         = "AdminNetworkPolicy"
	KindBaselineAdminNetworkPolicy = "BaselineAdminNetworkPolicy"
)

// Key names an object of a snapshot. The kind of an Unmodelled is as it says.
type Key struct {
	Kind, Namespace, Name string
}

// With returns the Engine of a snapshot that differs from that of e: the objects of
// changed are new, or take the place of those of the same kind, namespace and name,
// and those that deleted names are gone. It compiles no more than that touches. Any
// number of changes lead to the same Engine as Compile with all of them. The Profile
// stays that of e: it is about everything.
//
// The Impact says which flows may have another answer.
func (e *Engine) With(changed Snapshot, deleted []Key) (*Engine, *Impact) {
	if len(deleted) == 0 && len(keysOf(changed)) == 0 {
		return e, newImpact(e, e)
	}
	next := *e
	next.shards = maps.Clone(e.shards)
	b := builder{engine: &next, impact: newImpact(e, &next)}
	b.apply(changed, deleted)
	return &next, b.impact
}

// builder makes an Engine out of another, or out of nothing.
type builder struct {
	engine *Engine
	// fresh is set when the engine shares nothing with another.
	fresh bool
	// impact is nil when nothing was there before.
	impact *Impact
	// owned are the shards that no other engine has.
	owned map[string]bool
	// stale are the owned shards whose classes were made from other policies or
	// another namespace.
	stale map[string]bool
	// cloudsChanged is set when an object of a kind that is not evaluated is gone.
	cloudsChanged bool
}

// apply makes the changes.
func (b *builder) apply(changed Snapshot, deleted []Key) {
	b.owned, b.stale = map[string]bool{}, map[string]bool{}
	if !b.fresh {
		b.remove(keysOf(changed))
		b.remove(deleted)
	}
	b.addUnmodelled(changed.Unmodelled)
	b.addNamespaces(changed.Namespaces)
	b.addPolicies(changed.NetworkPolicies)
	b.addClusterPolicies(changed)
	b.rebuild()
	// Last, because a pod's class needs all policies.
	b.addPods(changed.Pods)
	b.prune()
	if b.impact != nil {
		b.impact.after = b.engine
	}
}

// keysOf names all objects of a snapshot.
func keysOf(s Snapshot) []Key {
	var keys []Key
	for _, o := range s.Namespaces {
		if o != nil {
			keys = append(keys, Key{Kind: KindNamespace, Name: o.Name})
		}
	}
	for _, o := range s.Pods {
		if o != nil {
			keys = append(keys, Key{KindPod, o.Namespace, o.Name})
		}
	}
	for _, o := range s.NetworkPolicies {
		if o != nil {
			keys = append(keys, Key{KindNetworkPolicy, o.Namespace, o.Name})
		}
	}
	for _, o := range s.ClusterNetworkPolicies {
		if o != nil {
			keys = append(keys, Key{Kind: KindClusterNetworkPolicy, Name: o.Name})
		}
	}
	for _, o := range s.AdminNetworkPolicies {
		if o != nil {
			keys = append(keys, Key{Kind: KindAdminNetworkPolicy, Name: o.Name})
		}
	}
	for _, o := range s.BaselineAdminNetworkPolicies {
		if o != nil {
			keys = append(keys, Key{Kind: KindBaselineAdminNetworkPolicy, Name: o.Name})
		}
	}
	for _, u := range s.Unmodelled {
		keys = append(keys, Key(u))
	}
	return keys
}

// shard returns the shard of a namespace to be changed. If it does not exist, it is
// that of a namespace of which nothing but the name is known.
func (b *builder) shard(name string) *shard {
	s := b.engine.shards[name]
	switch {
	case s == nil:
		b.impact.addNamespace(name)
		s = &shard{
			namespace: &namespace{
				name: name, labels: newLabelSet(map[string]string{corev1.LabelMetadataName: name}), unmodelled: b.engine.cloudOver(name),
			},
			pods: map[string]resident{}, classes: map[string]*class{},
		}
	case b.owned[name]:
		return s
	default:
		s = &shard{
			namespace: s.namespace, pods: maps.Clone(s.pods), twins: slices.Clone(s.twins),
			policies: slices.Clone(s.policies), classes: maps.Clone(s.classes),
		}
	}
	b.owned[name] = true
	b.engine.shards[name] = s
	return s
}

// staleShard returns the shard of a namespace to be changed in a way that its classes
// do not survive.
func (b *builder) staleShard(name string) *shard {
	b.stale[name] = true
	return b.shard(name)
}

// remove removes the objects.
func (b *builder) remove(keys []Key) {
	for _, k := range keys {
		switch k.Kind {
		case KindNamespace:
			b.removeNamespace(k.Name)
		case KindPod:
			b.removePod(podKey{k.Namespace, k.Name})
		case KindNetworkPolicy:
			b.removePolicy(k)
		case KindClusterNetworkPolicy, KindAdminNetworkPolicy, KindBaselineAdminNetworkPolicy:
			b.removeClusterPolicy(PolicyRef{Kind: k.Kind, Name: k.Name})
		default:
			b.removeUnmodelled(Unmodelled(k))
		}
	}
}

// removeNamespace leaves the name of a namespace, which its pods and its policies
// may still need.
func (b *builder) removeNamespace(name string) {
	if b.engine.shards[name] == nil {
		return
	}
	b.impact.addNamespace(name)
	b.staleShard(name).namespace = &namespace{
		name: name, labels: newLabelSet(map[string]string{corev1.LabelMetadataName: name}), unmodelled: b.engine.cloudOver(name),
	}
}

// addNamespaces records the namespaces' labels.
func (b *builder) addNamespaces(list []*corev1.Namespace) {
	seen := map[string]bool{}
	for _, o := range list {
		if o == nil {
			continue
		}
		b.impact.addNamespace(o.Name)
		s := b.staleShard(o.Name)
		n := *s.namespace
		r := reporter{kind: KindNamespace, name: o.Name, problems: &n.problems}
		terminating := o.DeletionTimestamp != nil || o.Status.Phase == corev1.NamespaceTerminating
		if seen[o.Name] {
			r.report("metadata.name", "is defined more than once, so its labels are not known: keep one definition")
			n.known, n.labels = false, newLabelSet(map[string]string{corev1.LabelMetadataName: o.Name})
			n.terminating = n.terminating || terminating
			s.namespace = &n
			continue
		}
		seen[o.Name] = true
		set := o.Labels
		// S26: the API server sets this label on every namespace and refuses any
		// other value; a manifest that was never applied may lack it.
		if v, ok := set[corev1.LabelMetadataName]; v != o.Name {
			if ok {
				r.report("metadata.labels", "has "+corev1.LabelMetadataName+": "+strconv.Quote(v)+
					", which the API server refuses: leave the label out, it is set to the name of the namespace")
			}
			set = labels.Merge(set, labels.Set{corev1.LabelMetadataName: o.Name})
		}
		n.labels, n.known, n.terminating = newLabelSet(set), true, terminating
		s.namespace = &n
	}
}

// removePolicy removes all definitions of a NetworkPolicy.
func (b *builder) removePolicy(k Key) {
	named := func(p *policy) bool { return p.ref.Namespace == k.Namespace && p.ref.Name == k.Name }
	if k.Namespace == "" {
		b.impact.addPolicies(b.engine.unplaced, named)
		b.engine.unplaced = slices.DeleteFunc(slices.Clone(b.engine.unplaced), named)
		b.staleAll()
		return
	}
	s := b.engine.shards[k.Namespace]
	if s == nil || !slices.ContainsFunc(s.policies, named) {
		return
	}
	b.impact.addPolicies(s.policies, named)
	s = b.staleShard(k.Namespace)
	s.policies = slices.DeleteFunc(s.policies, named)
}

// addPolicies compiles the policies and puts them into the shards. No other policies
// have their names: these were removed before.
func (b *builder) addPolicies(list []*networkingv1.NetworkPolicy) {
	var added []*policy
	for _, o := range list {
		if o != nil {
			p := compilePolicy(o)
			p.assume(b.engine.profile)
			added = append(added, p)
		}
	}
	sortPolicies(added)
	for i := 1; i < len(added); i++ {
		// Of policies with the same name, nobody can tell which is in force.
		if p := added[i]; added[i-1].ref == p.ref {
			r := reporter{kind: KindNetworkPolicy, namespace: p.ref.Namespace, name: p.ref.Name, problems: &p.problems}
			r.report("metadata.name", "is defined more than once: keep one definition, or give the others names of their own")
			p.broken, added[i-1].broken = true, true
		}
	}
	b.impact.addPolicies(added, nil)
	touched := map[string]bool{}
	for _, p := range added {
		touched[p.ref.Namespace] = true
		if p.ref.Namespace == "" {
			b.engine.unplaced = append(slices.Clip(b.engine.unplaced), p)
			continue
		}
		s := b.staleShard(p.ref.Namespace)
		s.policies = append(s.policies, p)
	}
	for name := range touched {
		if name == "" {
			b.engine.unplaced = slices.Clone(b.engine.unplaced)
			sortPolicies(b.engine.unplaced)
			b.staleAll()
		} else {
			sortPolicies(b.engine.shards[name].policies)
		}
	}
}

// sortPolicies sorts by name, because the order of the snapshot must not show in an
// answer.
func sortPolicies(list []*policy) {
	slices.SortStableFunc(list, func(a, b *policy) int { return a.ref.compare(b.ref) })
}

// staleAll marks all shards, for a change of something that is in no namespace.
func (b *builder) staleAll() {
	for name := range b.engine.shards {
		b.staleShard(name)
	}
}

// rebuild makes the classes of stale shards anew.
func (b *builder) rebuild() {
	for name := range b.stale {
		s := b.engine.shards[name]
		s.classes = make(map[string]*class, len(s.classes))
		for name, r := range s.pods {
			c := s.classes[r.class.key]
			if c == nil {
				c = b.engine.newClass(s, r.class.key, r.class.labels)
				s.classes[c.key] = c
			}
			s.pods[name] = resident{r.pod, c}
		}
	}
}

// removePod removes all definitions of a pod.
func (b *builder) removePod(k podKey) {
	s := b.engine.shards[k.namespace]
	if s == nil {
		return
	}
	r, ok := s.pods[k.name]
	if !ok {
		return
	}
	s = b.shard(k.namespace)
	delete(s.pods, k.name)
	gone := []*pod{r.pod}
	s.twins = slices.DeleteFunc(s.twins, func(p *pod) bool {
		if p.name != k.name {
			return false
		}
		gone = append(gone, p)
		return true
	})
	for _, p := range gone {
		b.impact.addPod(p)
		b.leave(p)
	}
	// A class without pods is of no use, and labels may never come back.
	for _, other := range s.pods {
		if other.class == r.class {
			return
		}
	}
	delete(s.classes, r.class.key)
}

// addPods records the pods, their addresses and their nodes.
func (b *builder) addPods(list []*corev1.Pod) {
	for _, o := range list {
		if o == nil {
			continue
		}
		if o.Namespace == "" || o.Name == "" {
			r := reporter{kind: KindPod, namespace: o.Namespace, name: o.Name, problems: &b.engine.nameless}
			r.report("metadata", "has no namespace or no name: write both, the pod is left out without")
			continue
		}
		p := compilePod(o)
		b.impact.addPod(p)
		s := b.shard(o.Namespace)
		key := classKey(o.Labels)
		c := s.classes[key]
		if c == nil {
			c = b.engine.newClass(s, key, newLabelSet(o.Labels))
			s.classes[key] = c
		}
		if first, ok := s.pods[o.Name]; ok {
			r := reporter{kind: KindPod, namespace: o.Namespace, name: o.Name, problems: &p.problems}
			r.report("metadata.name", "is defined more than once: keep one definition")
			first.pod.ambiguous = true
			s.twins = append(s.twins, p)
		} else {
			s.pods[o.Name] = resident{p, c}
		}
		b.join(p)
	}
}

// join records the addresses of a pod.
func (b *builder) join(p *pod) {
	p.eachAddress(func(a netip.Addr, isOwn bool) {
		b.changeAddress(a, func(known *address) {
			switch {
			case isOwn:
				known.owners = insertPod(known.owners, p)
			default:
				known.hosts++
				if p.isNodeProcess() {
					known.processes = insertPod(known.processes, p)
				}
			}
		})
	})
}

// leave takes back what join recorded.
func (b *builder) leave(p *pod) {
	is := func(other *pod) bool { return other == p }
	p.eachAddress(func(a netip.Addr, isOwn bool) {
		b.changeAddress(a, func(known *address) {
			switch {
			case isOwn:
				known.owners = slices.DeleteFunc(slices.Clone(known.owners), is)
			default:
				known.hosts--
				known.processes = slices.DeleteFunc(slices.Clone(known.processes), is)
			}
		})
	})
}

// changeAddress changes what is known of an address.
func (b *builder) changeAddress(a netip.Addr, change func(*address)) {
	prefix := netip.PrefixFrom(a, a.BitLen())
	modify := func(before *address, _ bool) (*address, bool) {
		var known address
		if before != nil {
			known = *before
		}
		change(&known)
		return &known, known.hosts == 0 && len(known.owners) == 0
	}
	if b.fresh {
		b.engine.addrs.Modify(prefix, modify)
	} else {
		b.engine.addrs = b.engine.addrs.ModifyPersist(prefix, modify)
	}
}

// insertPod inserts a pod in order of name into a copy of the list: the order of the
// snapshot must not show in an answer.
func insertPod(list []*pod, p *pod) []*pod {
	at, _ := slices.BinarySearchFunc(list, p, func(a, b *pod) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
	})
	return slices.Insert(slices.Clip(list), at, p)
}

// prune removes shards that hold nothing.
func (b *builder) prune() {
	for name := range b.owned {
		s := b.engine.shards[name]
		if !s.namespace.known && len(s.namespace.problems) == 0 && len(s.pods) == 0 && len(s.policies) == 0 {
			b.impact.addNamespace(name)
			delete(b.engine.shards, name)
		}
	}
}
