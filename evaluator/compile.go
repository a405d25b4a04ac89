package evaluator

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Engine answers flows over one snapshot. It never changes after Compile, so any
// number of goroutines may call Decide.
type Engine struct {
	namespaces map[string]*namespace
	pods       map[podKey]*pod
	// byAddr holds the live pods that own an address, host-network pods excepted.
	byAddr map[netip.Addr][]*pod
	// nodes holds the addresses that some pod's status names as its node's, with
	// the live host-network pods behind each.
	nodes map[netip.Addr][]*pod
	// policies are those of a namespace, by name; unplaced are those that do not
	// say which namespace they are in, and could be in any.
	policies map[string][]*policy
	unplaced []*policy
	// clusterPolicies are those without a namespace, in the order in which they are
	// asked.
	clusterPolicies []*clusterPolicy
	// unmodelled holds one object of a kind that is not evaluated for each namespace
	// that has any; the empty namespace stands for all.
	unmodelled map[string]*Unmodelled
	// classes collapses pods that no policy can tell apart.
	classes map[string]*class
	// profile settles what the API leaves open, and readings is what it leaves of
	// hostReadings.
	profile  Profile
	readings []reading
}

// podKey names a pod.
type podKey struct {
	namespace, name string
}

// namespace is what selectors can see of a Namespace.
type namespace struct {
	name   string
	labels labels.Set
	// known is false when only the name is: the snapshot holds no such Namespace,
	// or several.
	known       bool
	terminating bool
	// unmodelled is an object of a kind that is not evaluated, and may decide about
	// the namespace's pods; nil if there is none.
	unmodelled *Unmodelled
}

// class is what policies can see of a pod apart from its address and its ports:
// the namespace and the labels. All pods of a class are selected by the same
// policies.
type class struct {
	namespace *namespace
	labels    labels.Set
	profile   *Profile
	selected  [directions]selection
	// tiers holds the cluster-wide policies; nil if none selects the class.
	tiers [directions]*tiers
}

// selection holds the policies that select a class, for one direction.
type selection struct {
	// valid policies isolate; broken ones may isolate.
	valid, broken []*policy
	// refs names both, sorted. Decisions share it.
	refs []PolicyRef
}

// Compile parses every selector, CIDR and port of the snapshot once. It returns an
// Engine whatever the input; what it could not read is in the problems, sorted by
// object.
func Compile(s Snapshot) (*Engine, []Problem) {
	e := &Engine{
		namespaces: make(map[string]*namespace, len(s.Namespaces)),
		pods:       make(map[podKey]*pod, len(s.Pods)),
		byAddr:     make(map[netip.Addr][]*pod, len(s.Pods)),
		nodes:      map[netip.Addr][]*pod{},
		policies:   map[string][]*policy{},
		unmodelled: map[string]*Unmodelled{},
		classes:    map[string]*class{},
		profile:    s.Profile,
		readings:   s.Profile.readings(),
	}
	var problems []Problem
	// First, because namespaces point to them.
	e.addUnmodelled(s.Unmodelled)
	e.addNamespaces(s.Namespaces, &problems)
	e.addPolicies(s.NetworkPolicies, &problems)
	e.addClusterPolicies(s, &problems)
	// Last, because a pod's class needs all policies.
	e.addPods(s.Pods, &problems)
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return e, problems
}

// addNamespaces records the namespaces' labels.
func (e *Engine) addNamespaces(list []*corev1.Namespace, problems *[]Problem) {
	for _, o := range list {
		if o == nil {
			continue
		}
		r := reporter{kind: "Namespace", name: o.Name, problems: problems}
		terminating := o.DeletionTimestamp != nil || o.Status.Phase == corev1.NamespaceTerminating
		if n := e.namespaces[o.Name]; n != nil {
			r.report("metadata.name", "is defined more than once, so its labels are not known: keep one definition")
			n.known, n.labels = false, labels.Set{corev1.LabelMetadataName: o.Name}
			n.terminating = n.terminating || terminating
			continue
		}
		set := labels.Set(o.Labels)
		// S26: the API server sets this label on every namespace and refuses any
		// other value; a manifest that was never applied may lack it.
		if v, ok := set[corev1.LabelMetadataName]; v != o.Name {
			if ok {
				r.report("metadata.labels", "has "+corev1.LabelMetadataName+": "+strconv.Quote(v)+
					", which the API server refuses: leave the label out, it is set to the name of the namespace")
			}
			set = labels.Merge(set, labels.Set{corev1.LabelMetadataName: o.Name})
		}
		e.namespaces[o.Name] = &namespace{
			name: o.Name, labels: set, known: true, terminating: terminating, unmodelled: e.unmodelledIn(o.Name),
		}
	}
}

// ensureNamespace returns the namespace, of which nothing but the name is known if
// the snapshot does not hold it.
func (e *Engine) ensureNamespace(name string) *namespace {
	n := e.namespaces[name]
	if n == nil {
		n = &namespace{name: name, labels: labels.Set{corev1.LabelMetadataName: name}, unmodelled: e.unmodelledIn(name)}
		e.namespaces[name] = n
	}
	return n
}

// addPolicies compiles the policies and indexes them by namespace.
func (e *Engine) addPolicies(list []*networkingv1.NetworkPolicy, problems *[]Problem) {
	var all []*policy
	for _, o := range list {
		if o != nil {
			all = append(all, compilePolicy(o, problems))
		}
	}
	// The order of the snapshot must not show in an answer.
	slices.SortStableFunc(all, func(a, b *policy) int { return a.ref.compare(b.ref) })
	for i, p := range all {
		p.assume(&e.profile)
		if i > 0 && all[i-1].ref == p.ref {
			r := reporter{kind: "NetworkPolicy", namespace: p.ref.Namespace, name: p.ref.Name, problems: problems}
			r.report("metadata.name", "is defined more than once: keep one definition, or give the others names of their own")
			p.broken, all[i-1].broken = true, true
		}
		if p.ref.Namespace == "" {
			e.unplaced = append(e.unplaced, p)
			continue
		}
		e.ensureNamespace(p.ref.Namespace)
		e.policies[p.ref.Namespace] = append(e.policies[p.ref.Namespace], p)
	}
}

// addPods records the pods, their addresses and their nodes.
func (e *Engine) addPods(list []*corev1.Pod, problems *[]Problem) {
	for _, o := range list {
		if o == nil {
			continue
		}
		r := reporter{kind: "Pod", namespace: o.Namespace, name: o.Name, problems: problems}
		if o.Namespace == "" || o.Name == "" {
			r.report("metadata", "has no namespace or no name: write both, the pod is left out without")
			continue
		}
		p := compilePod(o, r)
		p.class = e.ensureClass(o.Namespace, o.Labels)
		for _, a := range p.hostAddrs {
			e.nodes[a] = append(e.nodes[a], p.asNodeProcess()...)
		}
		key := podKey{o.Namespace, o.Name}
		if first := e.pods[key]; first != nil {
			r.report("metadata.name", "is defined more than once: keep one definition")
			first.ambiguous = true
		} else {
			e.pods[key] = p
		}
		// S19: the address of a pod that has ended may belong to another pod by now.
		if p.terminated || p.hostNetwork {
			continue
		}
		for _, a := range p.addrs {
			e.byAddr[a] = append(e.byAddr[a], p)
		}
	}
	// The order of the snapshot must not show in an answer.
	for _, index := range []map[netip.Addr][]*pod{e.byAddr, e.nodes} {
		for _, pods := range index {
			slices.SortStableFunc(pods, func(a, b *pod) int {
				return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
			})
		}
	}
}

// ensureClass returns the class of the labels, which it creates if needed. It is
// for Compile only; Decide uses lookupClass.
func (e *Engine) ensureClass(namespace string, set labels.Set) *class {
	key := classKey(namespace, set)
	c := e.classes[key]
	if c == nil {
		c = e.newClass(e.ensureNamespace(namespace), set)
		e.classes[key] = c
	}
	return c
}

// newClass finds the policies that select the labels, for each direction.
func (e *Engine) newClass(n *namespace, set labels.Set) *class {
	c := &class{namespace: n, labels: set, profile: &e.profile}
	for _, list := range [][]*policy{e.unplaced, e.policies[n.name]} {
		for _, p := range list {
			if !p.selects(set) {
				continue
			}
			for d := range directions {
				if !p.affects[d] {
					continue
				}
				s := &c.selected[d]
				if p.broken {
					s.broken = append(s.broken, p)
				} else {
					s.valid = append(s.valid, p)
				}
				s.refs = append(s.refs, p.ref)
			}
		}
	}
	c.addTiers(e.clusterPolicies)
	return c
}

// classKey is unique for a namespace and a set of labels, whatever characters the
// labels hold.
func classKey(namespace string, set labels.Set) string {
	keys := make([]string, 0, len(set))
	for k := range set {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	b := strconv.AppendQuote(nil, namespace)
	for _, k := range keys {
		b = strconv.AppendQuote(b, k)
		b = strconv.AppendQuote(b, set[k])
	}
	return string(b)
}

// compare orders references by kind, then by namespace, then by name.
func (r PolicyRef) compare(o PolicyRef) int {
	return cmp.Or(cmp.Compare(r.Kind, o.Kind), cmp.Compare(r.Namespace, o.Namespace), cmp.Compare(r.Name, o.Name))
}

// reporter collects the problems of one object.
type reporter struct {
	kind, namespace, name string
	problems              *[]Problem
}

// report adds a problem. The message completes a sentence that starts with the
// field.
func (r reporter) report(field, message string) {
	*r.problems = append(*r.problems, Problem{
		Kind: r.kind, Namespace: r.namespace, Name: r.name, Field: field, Message: message,
	})
}
