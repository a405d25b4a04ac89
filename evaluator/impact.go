package evaluator

import (
	"net/netip"

	"github.com/pathproof/pathproof/flow"
)

// Impact says which flows may have another answer after a change.
type Impact struct {
	before, after *Engine
	// everything is set when no flow can be excluded.
	everything bool
	pods       map[podKey]bool
	addrs      map[netip.Addr]bool
	namespaces map[string]bool
	// policies and clusterPolicies are those that came, went or changed, as they were
	// and as they are.
	policies        []*policy
	clusterPolicies []*clusterPolicy
}

func newImpact(before, after *Engine) *Impact {
	return &Impact{
		before: before, after: after,
		pods: map[podKey]bool{}, addrs: map[netip.Addr]bool{}, namespaces: map[string]bool{},
	}
}

// MayChange tells whether the answer for the flow may differ. It may say so of a flow
// whose answer turns out to be the same, never the other way round.
func (i *Impact) MayChange(f flow.Flow) bool {
	return i.everything || i.concerns(&f.From, egress) || i.concerns(&f.To, ingress)
}

// concerns tells whether the change is about an end of a flow. The direction is the
// one for which policies select that end.
func (i *Impact) concerns(p *flow.Endpoint, d direction) bool {
	addr := canonical(p.Addr)
	if p.Namespace == "" && i.addrs[addr] {
		return true
	}
	if p.IsPod() && i.pods[podKey{p.Namespace, p.Pod}] {
		return true
	}
	if p.Namespace != "" && i.namespaces[p.Namespace] {
		return true
	}
	for _, e := range []*Engine{i.before, i.after} {
		for _, r := range e.residentsAt(p, addr) {
			if i.namespaces[r.class.namespace.name] || i.selects(r.class, d) {
				return true
			}
		}
	}
	return false
}

// selects tells whether a policy that changed is about pods of the class.
func (i *Impact) selects(c *class, d direction) bool {
	for _, p := range i.policies {
		inPlace := p.ref.Namespace == "" || p.ref.Namespace == c.namespace.name
		if inPlace && p.affects[d] && p.selects(c.labels) {
			return true
		}
	}
	for _, p := range i.clusterPolicies {
		if selected, _ := p.subject.matches(c, nil); selected != no && len(p.rules[d]) > 0 {
			return true
		}
	}
	return false
}

// addNamespace records that something about all pods of a namespace changed.
func (i *Impact) addNamespace(name string) {
	if i != nil {
		i.namespaces[name] = true
	}
}

// addPod records a pod that came or went.
func (i *Impact) addPod(p *pod) {
	if i == nil {
		return
	}
	i.pods[podKey{p.namespace, p.name}] = true
	for _, list := range [][]netip.Addr{p.addrs, p.hostAddrs} {
		for _, a := range list {
			i.addrs[a] = true
		}
	}
}

// addPolicies records the policies of the list that are asked for; nil asks for all.
func (i *Impact) addPolicies(list []*policy, asked func(*policy) bool) {
	if i == nil {
		return
	}
	for _, p := range list {
		if asked == nil || asked(p) {
			i.policies = append(i.policies, p)
		}
	}
}

// addClusterPolicy records a policy that came or went.
func (i *Impact) addClusterPolicy(p *clusterPolicy) {
	if i != nil {
		i.clusterPolicies = append(i.clusterPolicies, p)
	}
}

// addUnmodelled records an object that came or went.
func (i *Impact) addUnmodelled(u Unmodelled) {
	switch {
	case i == nil:
	case u.Namespace == "":
		i.everything = true
	default:
		i.namespaces[u.Namespace] = true
	}
}
