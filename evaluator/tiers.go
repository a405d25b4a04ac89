package evaluator

import (
	"cmp"
	"slices"
)

// tiers holds the cluster-wide policies that select a class, for one direction.
type tiers struct {
	refs            []PolicyRef
	admin, baseline [versions][]group
}

// group holds the policies of one tier and version that have the same priority.
type group struct {
	tier     Tier
	version  version
	priority int32
	members  []member
}

// member is a policy that selects the class, or may.
type member struct {
	policy  *clusterPolicy
	certain bool
}

// addClusterPolicies compiles the policies without a namespace, in the order in
// which they are asked.
func (b *builder) addClusterPolicies(s Snapshot) {
	var added []*clusterPolicy
	for _, o := range s.ClusterNetworkPolicies {
		if o != nil {
			added = append(added, compileClusterNetworkPolicy(o))
		}
	}
	for _, o := range s.AdminNetworkPolicies {
		if o != nil {
			added = append(added, compileAdminNetworkPolicy(o))
		}
	}
	for _, o := range s.BaselineAdminNetworkPolicies {
		if o != nil {
			added = append(added, compileBaselineAdminNetworkPolicy(o))
		}
	}
	if len(added) == 0 {
		return
	}
	// No other policies have these names: they were removed before.
	slices.SortStableFunc(added, func(a, b *clusterPolicy) int { return a.ref.compare(b.ref) })
	for i, p := range added {
		if i > 0 && added[i-1].ref == p.ref {
			r := reporter{kind: p.ref.Kind, name: p.ref.Name, problems: &p.problems}
			r.report("metadata.name", "is defined more than once: keep one definition, or give the others names of their own")
			p.spoil()
			added[i-1].spoil()
		}
	}
	for _, p := range added {
		b.impact.addClusterPolicy(p)
		b.staleSubject(p)
	}
	all := slices.Concat(b.engine.clusterPolicies, added)
	// "Policies with lower priority values have higher precedence, and are checked
	// before policies with higher priority values in the same tier." (S29)
	slices.SortStableFunc(all, func(a, b *clusterPolicy) int {
		return cmp.Or(cmp.Compare(a.tier, b.tier), cmp.Compare(a.priority, b.priority), a.ref.compare(b.ref))
	})
	b.engine.clusterPolicies = all
}

// removeClusterPolicy removes all definitions of a policy without a namespace.
func (b *builder) removeClusterPolicy(ref PolicyRef) {
	b.engine.clusterPolicies = slices.DeleteFunc(slices.Clone(b.engine.clusterPolicies), func(p *clusterPolicy) bool {
		if p.ref != ref {
			return false
		}
		b.impact.addClusterPolicy(p)
		b.staleSubject(p)
		return true
	})
}

// staleSubject marks the shards in which pods may be the subject of a policy.
func (b *builder) staleSubject(p *clusterPolicy) {
	for name, s := range b.engine.shards {
		if p.subject.namespaces == nil {
			b.staleShard(name)
		} else if selected, _ := s.namespace.matches(p.subject.namespaces, nil); selected != no {
			b.staleShard(name)
		}
	}
}

// addTiers finds the policies that select the class.
func (c *class) addTiers(policies []*clusterPolicy) {
	for _, p := range policies {
		selected, _ := p.subject.matches(c, nil)
		if selected == no {
			continue
		}
		for d := range directions {
			// "CNPs with no ingress rules do not affect ingress traffic." And, of egress,
			// the same (S32).
			if len(p.rules[d]) == 0 {
				continue
			}
			if c.tiers[d] == nil {
				c.tiers[d] = &tiers{}
			}
			c.tiers[d].add(p, selected == yes)
		}
	}
}

// add appends a policy, which comes after those that were added before.
func (t *tiers) add(p *clusterPolicy, certain bool) {
	t.refs = append(t.refs, p.ref)
	groups := &t.admin[p.version]
	if p.tier == TierBaseline {
		groups = &t.baseline[p.version]
	}
	if n := len(*groups); n == 0 || (*groups)[n-1].priority != p.priority {
		*groups = append(*groups, group{tier: p.tier, version: p.version, priority: p.priority})
	}
	last := &(*groups)[len(*groups)-1]
	last.members = append(last.members, member{p, certain})
}

// tiers returns the cluster-wide policies whose subject the end is; nil if there are
// none.
func (v *view) tiers(d direction) *tiers {
	// "Note that host-networked pods are not included in subject selection." (S32)
	if !v.onPodNetwork() {
		return nil
	}
	return v.class.tiers[d]
}

// onPodNetwork tells whether the end is a pod with an address of its own.
func (v *view) onPodNetwork() bool {
	return v.class != nil && (v.pod == nil || !v.pod.hostNetwork)
}

// askTier evaluates the cluster-wide policies of a tier, and tells whether that is
// final. If it is not, the decision stays as it is.
func (d *DirectionDecision) askTier(m *match, t *tiers, tier Tier) bool {
	groups := &t.admin
	if tier == TierBaseline {
		groups = &t.baseline
	}
	r := m.first(groups, tier)
	if r == nil {
		return false
	}
	switch r.action {
	case accept:
		// "Accepts the selected traffic, allowing it into the destination. No further
		// ClusterNetworkPolicy or NetworkPolicy rules will be processed."
		d.Tier, d.AllowedBy = tier, &r.ref
	case deny:
		// "Drops the selected traffic. No further ClusterNetworkPolicy or NetworkPolicy
		// rules will be processed."
		d.Verdict, d.Tier, d.DeniedBy = Denied, tier, &r.ref
		if m.dir == ingress && sharesNode(m.subject, m.other) != no {
			// S14: only rules that fail closed match a node. NetworkPolicy excepts the pod's
			// own node; this API says nothing.
			d.leaveOpen(cause{ruleOwnNode, m.other.String() + " is or may be the pod's own node, and whether " +
				r.ref.Describe() + " keeps it out is not settled"})
		}
	default:
		// "Skips all further ClusterNetworkPolicy rules in the current tier for the
		// selected traffic, and passes evaluation to the next tier." After Baseline, that
		// is the default, which allows (S29).
		d.PassedBy = &r.ref
		return false
	}
	return true
}

// first returns the rule that decides in a tier; nil if none matches.
func (m *match) first(groups *[versions][]group, tier Tier) *clusterRule {
	// S31: nobody defines the order of two versions of the API. Each is asked on its
	// own, and if both have an answer, either may be it.
	var found [actions]*clusterRule
	for v := range groups {
		for i := range groups[v] {
			if r := m.firstOf(&groups[v][i]); r != nil {
				if found[r.action] == nil {
					found[r.action] = r
				}
				break
			}
		}
	}
	return m.pick(&found, question{why: mixedVersions, dir: m.dir, tier: tier})
}

// firstOf returns the rule that decides in a group; nil if none matches.
func (m *match) firstOf(g *group) *clusterRule {
	// "If two (or more) policies in the same tier with the same priority could match a
	// connection, then the implementation can apply any of the matching policies to the
	// connection" (S29)
	var found [actions]*clusterRule
	for i := range g.members {
		if r := m.ruleOf(&g.members[i]); r != nil && found[r.action] == nil {
			found[r.action] = r
		}
	}
	return m.pick(&found, question{why: samePriority, dir: m.dir, tier: g.tier, version: g.version, priority: g.priority})
}

// pick returns one of the rules that were found, of which any may be applied.
func (m *match) pick(found *[actions]*clusterRule, q question) *clusterRule {
	var picked *clusterRule
	for i, r := range found {
		switch {
		case r == nil:
		case picked == nil:
			picked = r
		default:
			q.action, q.broken = action(i), cmp.Or(picked.broken, r.broken)
			if m.assumed.choose(q, &r.ref, &picked.ref) == yes {
				picked = r
			}
		}
	}
	return picked
}

// ruleOf returns the first rule of a policy that matches; nil if none does.
func (m *match) ruleOf(p *member) *clusterRule {
	a := m.assumed
	if !p.certain {
		a.lookAt(&p.policy.about)
		if selected, _ := p.policy.subject.matches(m.subject.class, a); selected != yes {
			return nil
		}
	}
	if p.policy.broken {
		// X1: an invalid policy may be in force or not, and may do anything. To accept and
		// to deny are the ends of that.
		if a.ask(question{why: brokenPolicy, broken: p.policy, dir: m.dir}) == yes {
			return &p.policy.denies
		}
		return &p.policy.accepts
	}
	// "The relative precedence of ingress rules within a single CNP object (all of which
	// share the priority) will be determined by the order in which the rule is written.
	// Thus, a rule that appears at the top of the ingress rules would take the highest
	// precedence."
	for i := range p.policy.rules[m.dir] {
		r := &p.policy.rules[m.dir][i]
		a.lookAt(&r.ref)
		if r.matches(m) {
			return r
		}
	}
	return nil
}

// matches tells whether a rule matches, under the answers that are assumed.
func (r *clusterRule) matches(m *match) bool {
	if r.unknown {
		// S35: "For 'Accept' rules, 'fail closed' means: 'treat the rule as matching no
		// traffic'. For 'Deny' and 'Pass' rules, 'fail closed' means: 'treat the rule as a
		// 'Deny all' rule'." The action of the latter was set to deny.
		return r.action == deny
	}
	// "Protocols allows for more fine-grain matching of traffic on protocol-specific
	// attributes such as the port. If unspecified, protocol-specific attributes will not
	// be used to match traffic." (S36)
	if ports, _ := m.matchPorts(r.ports); ports != yes {
		return false
	}
	// "If any element matches the source of incoming traffic then the specified action
	// is applied."
	for i := range r.peers {
		if r.peers[i].matches(m.other, m.assumed) {
			return true
		}
	}
	return false
}
