package evaluator

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"

	"github.com/gaissmai/bart"
)

// Engine answers flows over one snapshot. It never changes, so any number of
// goroutines may call Decide; With makes another one, which shares all that did not
// change.
type Engine struct {
	// shards hold what belongs to each namespace, by name.
	shards map[string]*shard
	// addrs holds what is known of each address that a pod's status names.
	addrs *bart.Table[*address]
	// unplaced are NetworkPolicies that do not say which namespace they are in, and
	// could be in any.
	unplaced []*policy
	// clusterPolicies are those without a namespace, in the order in which they are
	// asked.
	clusterPolicies []*clusterPolicy
	// unmodelled are all objects of kinds that are not evaluated, sorted; clouds
	// holds one of them for each namespace that has any, and the empty namespace
	// stands for all.
	unmodelled []Unmodelled
	clouds     map[string]*Unmodelled
	// nameless are the problems of objects that were left out because they have no
	// name.
	nameless []Problem
	// profile settles what the API leaves open, and readings is what it leaves of
	// hostReadings.
	profile  *Profile
	readings []reading
}

// shard is what belongs to one namespace. It never changes once an Engine has it.
type shard struct {
	namespace *namespace
	pods      map[string]resident
	// twins are the further definitions of pods that are defined more than once.
	twins []*pod
	// policies are sorted by name.
	policies []*policy
	// classes collapses pods with the same labels.
	classes map[string]*class
}

// resident is a pod with the policies that select it, which change more often.
type resident struct {
	pod   *pod
	class *class
}

// podKey names a pod.
type podKey struct {
	namespace, name string
}

// namespace is what selectors can see of a Namespace.
type namespace struct {
	name   string
	labels labelSet
	// known is false when only the name is: the snapshot holds no such Namespace,
	// or several.
	known       bool
	terminating bool
	// unmodelled is an object of a kind that is not evaluated, and may decide about
	// the namespace's pods; nil if there is none.
	unmodelled *Unmodelled
	problems   []Problem
}

// address is what pods say about an address.
type address struct {
	// owners are the live pods that own it, host-network pods excepted.
	owners []*pod
	// hosts counts the pods whose status names it as their node's; processes are the
	// live host-network pods among them.
	hosts     int
	processes []*pod
}

// class is what policies can see of a pod apart from its address and its ports:
// the namespace and the labels. All pods of a class are selected by the same
// policies.
type class struct {
	key       string
	namespace *namespace
	labels    labelSet
	profile   *Profile
	selected  [directions]selection
	// tiers holds the cluster-wide policies; nil if none selects the class.
	tiers [directions]*tiers
}

// selection holds the policies that select a class, for one direction.
type selection struct {
	// rules are those of the policies that isolate, and isolated tells whether there
	// are any; broken policies may isolate.
	rules    []candidate
	isolated bool
	broken   []*policy
	// refs names both, sorted. Decisions share it.
	refs []PolicyRef
}

// candidate is a rule of a selection. Its ports can be ruled out without a look at the
// rule, which lies elsewhere in memory.
type candidate struct {
	portSpan
	*rule
}

// Compile parses every selector, CIDR and port of the snapshot once. It returns an
// Engine whatever the input; what it could not read is in the problems, sorted by
// object.
func Compile(s Snapshot) (*Engine, []Problem) {
	b := builder{fresh: true, engine: &Engine{
		shards: make(map[string]*shard, len(s.Namespaces)), addrs: new(bart.Table[*address]),
		profile: &s.Profile, readings: s.Profile.readings(),
	}}
	b.apply(s, nil)
	return b.engine, b.engine.Problems(func(string) bool { return true })
}

// Problems lists what could not be read, sorted by object. Objects of namespaces that
// are not asked for are left out; those without a namespace never are.
func (e *Engine) Problems(asked func(namespace string) bool) []Problem {
	problems := slices.Clone(e.nameless)
	for name, s := range e.shards {
		if !asked(name) {
			continue
		}
		problems = append(problems, s.namespace.problems...)
		for _, p := range s.policies {
			problems = append(problems, p.problems...)
		}
		for _, r := range s.pods {
			problems = append(problems, r.pod.problems...)
		}
		for _, p := range s.twins {
			problems = append(problems, p.problems...)
		}
	}
	for _, p := range e.unplaced {
		problems = append(problems, p.problems...)
	}
	for _, p := range e.clusterPolicies {
		problems = append(problems, p.problems...)
	}
	slices.SortFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.Field, b.Field), cmp.Compare(a.Message, b.Message))
	})
	return problems
}

// classOf returns the class of a pod that is in the snapshot.
func (e *Engine) classOf(p *pod) *class { return e.shards[p.namespace].pods[p.name].class }

// addressOf returns what is known of an address; nil if nothing is.
func (e *Engine) addressOf(a netip.Addr) *address {
	known, _ := e.addrs.Get(netip.PrefixFrom(a, a.BitLen()))
	return known
}

// newClass finds the policies that select the labels, for each direction.
func (e *Engine) newClass(s *shard, key string, set labelSet) *class {
	c := &class{key: key, namespace: s.namespace, labels: set, profile: e.profile}
	for _, list := range [][]*policy{e.unplaced, s.policies} {
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
					s.isolated = true
					for i := range p.rules[d] {
						s.rules = append(s.rules, candidate{newPortSpan(p.rules[d][i].ports), &p.rules[d][i]})
					}
				}
				s.refs = append(s.refs, p.ref)
			}
		}
	}
	c.addTiers(e.clusterPolicies)
	return c
}

// classKey is unique for a set of labels, whatever characters they hold.
func classKey(set map[string]string) string {
	keys := make([]string, 0, len(set))
	for k := range set {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var b []byte
	for _, k := range keys {
		b = appendPart(b, k)
		b = appendPart(b, set[k])
	}
	return string(b)
}

// appendPart appends a text after its length, so that no two lists of texts look the
// same.
func appendPart(b []byte, s string) []byte {
	b = strconv.AppendInt(b, int64(len(s)), 10)
	b = append(b, ':')
	return append(b, s...)
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
