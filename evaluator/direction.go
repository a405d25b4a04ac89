package evaluator

import "fmt"

// match is one direction of a flow on its way through the policies.
type match struct {
	service
	dir direction
	// subject is the end whose policies are asked, other the end that their peers are
	// compared with, to the one whose ports count.
	subject, other, to *view
	// assumed is nil if what is open stays open.
	assumed *assumptions
}

// decide evaluates one direction of a flow under one reading and, if there are any,
// under the answers that are assumed. The decision is empty before.
func (d *DirectionDecision) decide(m *match) {
	d.Verdict = Allowed
	d.askTiers(m)
	// S30
	d.clouded(m.subject)
}

// askTiers asks the policies that are evaluated. "Policy tiers are evaluated in the
// following order: Admin tier, NetworkPolicy tier, Baseline tier" (S29).
func (d *DirectionDecision) askTiers(m *match) {
	t := m.subject.tiers(m.dir)
	if t == nil {
		d.askNetworkPolicies(m)
		return
	}
	d.Selecting = t.refs
	// "If Admin tier has made a final decision (Accept or Deny) on a connection, then
	// no further evaluation is done."
	if d.askTier(m, t, TierAdmin) {
		return
	}
	// "v1.NetworkPolicy always makes a final decision for selected pods. Further
	// evaluation only happens for Pods not selected by a v1.NetworkPolicy."
	if d.askNetworkPolicies(m) {
		return
	}
	// "If a given connection wasn't allowed or denied by any of the tiers, the default
	// kubernetes policy is applied, which says that all pods can communicate with each
	// other."
	d.askTier(m, t, TierBaseline)
}

// askNetworkPolicies evaluates the NetworkPolicies of the subject, and tells
// whether one isolates it. If none does, the decision stays as it is.
func (d *DirectionDecision) askNetworkPolicies(m *match) bool {
	subject, other := m.subject, m.other
	if !subject.policed {
		// NetworkPolicy isolates pods; it has nothing to say about other addresses.
		return false
	}
	s := &subject.class.selected[m.dir]
	d.Isolating = s.refs
	if len(s.refs) == 0 {
		// "Traffic is allowed to a pod if there are no NetworkPolicies selecting the pod
		// (and cluster policy otherwise allows the traffic)"
		return false
	}
	if !s.isolated {
		// X1: whether an invalid policy is in force decides whether the Baseline tier is.
		if isolated, _ := m.assumed.answer(question{why: brokenIsolation, isolation: s.broken[0], dir: m.dir}); isolated == no {
			return false
		}
	}
	d.Tier = TierNetworkPolicy
	near := sharesNode(subject, other)
	switch {
	case near != yes:
	case m.dir == ingress:
		// S14: "OR if the traffic source is the pod's local node"
		d.Rule, d.Reason = ruleOwnNode, "a pod's own node always reaches it"
		return true
	case subject.class.profile.PodReachesOwnNode == True:
		d.Rule, d.Reason = ruleOwnNode, "a pod always reaches its own node, as is assumed of this cluster"
		return true
	}
	d.judge(m, s)
	if d.Verdict == Denied && near != no {
		d.exceptOwnNode(m)
	}
	return true
}

// exceptOwnNode is for a flow that is denied between a pod and what is or may be its
// node.
func (d *DirectionDecision) exceptOwnNode(m *match) {
	reaches := m.subject.class.profile.PodReachesOwnNode
	switch {
	case m.dir == ingress, reaches == True:
		d.Verdict, d.Rule = Undefined, ruleOwnNode
		d.Reason = fmt.Sprintf("%s may be the node of %s, which always reaches it: the snapshot does not say",
			m.other.String(), m.subject.String())
	case reaches == False:
	default:
		// The documentation extends the exception of S14 to the traffic to the node, the
		// API does not.
		d.Verdict, d.Rule = Undefined, ruleOwnNode
		d.Reason = fmt.Sprintf("%s is or may be the node of %s, and whether a pod always reaches its node is not settled",
			m.other.String(), m.subject.String()) + settledBy(keyOwnNode+"=true|false")
	}
}

// judge looks for a rule that allows the flow, "OR if the traffic matches at least
// one ingress rule across all of the NetworkPolicy objects whose podSelector
// matches the pod".
func (d *DirectionDecision) judge(m *match, s *selection) {
	var open *rule
	var openWhy doubt
	for i := range s.rules {
		if !s.rules[i].mayHold(m.service) {
			continue
		}
		r := s.rules[i].rule
		m.assumed.lookAt(&r.ref)
		switch answer, why := r.allows(m); {
		case answer == yes:
			// Whatever else applies, policies only add what is allowed.
			d.AllowedBy = &r.ref
			return
		case answer == maybe && open == nil:
			open, openWhy = r, why
		}
	}
	switch {
	case open != nil:
		d.Verdict = Undefined
		d.Rule, d.Reason = openWhy.explain(open.ref.Describe(), m.other, m.to)
	case len(s.broken) > 0:
		// X1: an invalid policy may isolate the pod, may allow the flow, or neither.
		d.Verdict, d.Rule = Undefined, RuleInvalidPolicy
		d.Reason = fmt.Sprintf("NetworkPolicy %s is not valid, so what it isolates and allows is not known", s.broken[0].ref)
	default:
		// S3: "If this field is empty then this NetworkPolicy does not allow any traffic"
		d.Verdict = Denied
	}
}

// allows tells whether the rule allows the flow: "The traffic must match both ports
// and from."
func (r *rule) allows(m *match) (truth, doubt) {
	ports, portsWhy := m.matchPorts(r.ports)
	if ports == no {
		return no, certain
	}
	peers, peersWhy := r.matchPeers(m.other, m.assumed)
	if peersWhy == certain {
		return min(ports, peers), portsWhy
	}
	return min(ports, peers), peersWhy
}

// matchPeers tells whether one of the peers matches.
func (r *rule) matchPeers(v *view, a *assumptions) (truth, doubt) {
	// "If this field is empty or missing, this rule matches all sources"
	if len(r.peers) == 0 {
		return yes, certain
	}
	best, bestWhy := no, certain
	for i := range r.peers {
		answer, why := r.peers[i].matches(v, a)
		if answer > best {
			best, bestWhy = answer, why
		}
		if best == yes {
			break
		}
	}
	return best, bestWhy
}

// explain puts into words why something, such as a rule, may or may not match.
func (w doubt) explain(at string, other, to *view) (rule, reason string) {
	switch w {
	case blockHoldsPod:
		if !other.addr.IsValid() {
			return ruleIPBlock, fmt.Sprintf("%s has an ipBlock that may hold the address of %s, and blocks may or may not match pods", at, other.String()) + settledBy(other.blockKeys())
		}
		return ruleIPBlock, fmt.Sprintf("%s has an ipBlock that holds %s of %s, and blocks may or may not match pods and nodes", at, other.addr, other.String()) + settledBy(other.blockKeys())
	case blockNeedsAddress:
		return RuleIncomplete, fmt.Sprintf("%s has an ipBlock, and %s has no address", at, other.String())
	case namespaceUnknown:
		return RuleIncomplete, fmt.Sprintf("%s asks for labels of namespace %s, which is not in the snapshot", at, other.class.namespace.name)
	case portsUnknown:
		return RuleNamedPort, fmt.Sprintf("%s has a named port, and %s declares no ports", at, to.String())
	case portAmbiguous:
		return RuleNamedPort, fmt.Sprintf("%s has a named port that %s declares with several numbers", at, to.String())
	case addressUnknown:
		return RuleIncomplete, fmt.Sprintf("%s asks for addresses, and %s has none yet", at, other.String())
	case nodeUnknown:
		return ruleNodes, fmt.Sprintf("%s is about nodes, and %s may be the address of one: the snapshot does not say", at, other.String())
	case nodeLabelsUnknown:
		return ruleNodes, fmt.Sprintf("%s asks for labels of the node at %s, which the snapshot does not hold", at, other.String())
	case domainUnknown:
		return ruleNodes, fmt.Sprintf("%s is about names, and which names %s stands for is not known", at, other.String())
	case samePriority, mixedVersions, brokenPolicy, brokenIsolation, certain:
		// These are explained by what they are about.
	}
	return RuleIncomplete, at + " cannot be decided"
}
