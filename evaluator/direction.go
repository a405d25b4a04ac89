package evaluator

import (
	"fmt"

	"github.com/pathproof/pathproof/flow"
)

// decideDirection evaluates one direction of a flow under one reading.
func decideDirection(f flow.Flow, d direction, from, to *view) DirectionDecision {
	subject, other := to, from
	if d == egress {
		subject, other = from, to
	}
	if !subject.policed {
		// NetworkPolicy isolates pods; it has nothing to say about other addresses.
		return DirectionDecision{Verdict: Allowed}
	}
	s := &subject.class.selected[d]
	decision := DirectionDecision{Verdict: Allowed, Isolating: s.refs}
	if len(s.refs) == 0 {
		// "Traffic is allowed to a pod if there are no NetworkPolicies selecting the pod
		// (and cluster policy otherwise allows the traffic)"
		return decision
	}
	near := sharesNode(subject, other)
	if d == ingress && near == yes {
		// S14: "OR if the traffic source is the pod's local node"
		decision.Rule, decision.Reason = ruleOwnNode, "a pod's own node always reaches it"
		return decision
	}
	decision.judge(f, d, s, other, to)
	if decision.Verdict == Denied && near != no {
		decision.Verdict, decision.Rule = Undefined, ruleOwnNode
		if d == egress {
			// The documentation extends the exception of S14 to the traffic to the node, the
			// API does not.
			decision.Reason = fmt.Sprintf("%s is or may be the node of %s, and whether a pod always reaches its node is not settled",
				other.endpoint, subject.endpoint)
		} else {
			decision.Reason = fmt.Sprintf("%s may be the node of %s, which always reaches it: the snapshot does not say",
				other.endpoint, subject.endpoint)
		}
	}
	return decision
}

// judge looks for a rule that allows the flow, "OR if the traffic matches at least
// one ingress rule across all of the NetworkPolicy objects whose podSelector
// matches the pod".
func (d *DirectionDecision) judge(f flow.Flow, dir direction, s *selection, other, to *view) {
	var open *rule
	var openWhy doubt
	for _, p := range s.valid {
		for i := range p.rules[dir] {
			r := &p.rules[dir][i]
			switch answer, why := r.allows(f, other, to); {
			case answer == yes:
				// Whatever else applies, policies only add what is allowed.
				d.AllowedBy = &r.ref
				return
			case answer == maybe && open == nil:
				open, openWhy = r, why
			}
		}
	}
	switch {
	case open != nil:
		d.Verdict = Undefined
		d.Rule, d.Reason = openWhy.explain(open, other, to)
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
func (r *rule) allows(f flow.Flow, other, to *view) (truth, doubt) {
	ports, portsWhy := r.matchPorts(f, to)
	if ports == no {
		return no, certain
	}
	peers, peersWhy := r.matchPeers(other)
	if peersWhy == certain {
		return min(ports, peers), portsWhy
	}
	return min(ports, peers), peersWhy
}

// matchPorts tells whether one of the ports matches.
func (r *rule) matchPorts(f flow.Flow, to *view) (truth, doubt) {
	// "If this field is empty or missing, this rule matches all ports"
	if len(r.ports) == 0 {
		return yes, certain
	}
	best, bestWhy := no, certain
	for i := range r.ports {
		answer, why := r.ports[i].matches(f.Protocol, f.Port, to)
		if answer > best {
			best, bestWhy = answer, why
		}
		if best == yes {
			break
		}
	}
	return best, bestWhy
}

// matchPeers tells whether one of the peers matches.
func (r *rule) matchPeers(v *view) (truth, doubt) {
	// "If this field is empty or missing, this rule matches all sources"
	if len(r.peers) == 0 {
		return yes, certain
	}
	best, bestWhy := no, certain
	for i := range r.peers {
		answer, why := r.peers[i].matches(v)
		if answer > best {
			best, bestWhy = answer, why
		}
		if best == yes {
			break
		}
	}
	return best, bestWhy
}

// explain puts into words why the rule may or may not allow the flow.
func (w doubt) explain(r *rule, other, to *view) (rule, reason string) {
	at := fmt.Sprintf("rule %d of NetworkPolicy %s", r.ref.Index, r.ref.PolicyRef)
	switch w {
	case blockHoldsPod:
		if !other.addr.IsValid() {
			return ruleIPBlock, fmt.Sprintf("%s has an ipBlock that may hold the address of %s, and blocks may or may not match pods", at, other.endpoint)
		}
		return ruleIPBlock, fmt.Sprintf("%s has an ipBlock that holds %s of %s, and blocks may or may not match pods and nodes", at, other.addr, other.endpoint)
	case blockNeedsAddress:
		return RuleIncomplete, fmt.Sprintf("%s has an ipBlock, and %s has no address", at, other.endpoint)
	case namespaceUnknown:
		return RuleIncomplete, fmt.Sprintf("%s asks for labels of namespace %s, which is not in the snapshot", at, other.class.namespace.name)
	case portsUnknown:
		return ruleNamedPort, fmt.Sprintf("%s has a named port, and %s declares no ports", at, to.endpoint)
	case portAmbiguous:
		return ruleNamedPort, fmt.Sprintf("%s has a named port that %s declares with several numbers", at, to.endpoint)
	case certain:
	}
	return RuleIncomplete, at + " cannot be decided"
}
