package evaluator

import (
	"fmt"
	"slices"

	"github.com/pathproof/pathproof/flow"
)

// Decide answers whether the policies allow the flow. It never fails: what cannot
// be known is Undefined, with a reason.
//
// Decisions share slices and pointers with the Engine: they are for reading only.
func (e *Engine) Decide(f flow.Flow) Decision {
	if why := malformed(f); why != nil {
		return undecided(why)
	}
	from, why := e.resolve(f.From)
	if why != nil {
		return undecided(why)
	}
	to, why := e.resolve(f.To)
	if why != nil {
		return undecided(why)
	}
	// S15: a pod cannot block access to itself.
	if from.class != nil && (to.kind == loopbackEnd || (from.pod != nil && from.pod == to.pod)) {
		return toItself()
	}
	if why := insideHost(&from, &to); why != nil {
		return undecided(why)
	}
	if why := matchFamilies(&from, &to); why != nil {
		return undecided(why)
	}
	if from.onHost() || to.onHost() {
		return e.decideOnHost(&f, &from, &to)
	}
	source, target := from.plain(), to.plain()
	return decideReading(&f, &source, &target)
}

// malformed tells what keeps a flow from being one that NetworkPolicy speaks of.
func malformed(f flow.Flow) *cause {
	switch f.Protocol {
	case flow.TCP, flow.UDP, flow.SCTP:
	default:
		return &cause{ruleProtocol, fmt.Sprintf("NetworkPolicy does not speak of protocol %q, only of TCP, UDP and SCTP", f.Protocol)}
	}
	if f.Port == 0 {
		return &cause{RuleIncomplete, "the flow has no port"}
	}
	return nil
}

// insideHost tells whether an address of the flow has no meaning between hosts.
func insideHost(ends ...*end) *cause {
	for _, n := range ends {
		if n.kind == loopbackEnd {
			return &cause{RuleIncomplete, fmt.Sprintf("%s has a meaning inside of one host only", n.endpoint)}
		}
	}
	return nil
}

// toItself is the answer for traffic from a pod to itself (S15).
func toItself() Decision {
	d := DirectionDecision{Verdict: Allowed, Rule: ruleLoopback, Reason: "a pod always reaches itself"}
	return Decision{Verdict: Allowed, Egress: d, Ingress: d}
}

// terminating tells whether an end's namespace is being deleted (S21): its policies
// may then go before its pods.
func terminating(ends ...*class) *cause {
	for _, c := range ends {
		if c != nil && c.namespace.terminating {
			return &cause{ruleTerminatingNS, fmt.Sprintf(
				"namespace %s is being deleted, and its policies may go before its pods", c.namespace.name)}
		}
	}
	return nil
}

// undecided is the answer when no direction can be evaluated.
func undecided(why *cause) Decision {
	d := DirectionDecision{Verdict: Undefined, Rule: why.rule, Reason: why.reason}
	return Decision{Verdict: Undefined, Egress: d, Ingress: d, Rule: why.rule, Reason: why.reason}
}

// decide evaluates both directions under one reading. Without assumptions, what is
// open stays open.
func decide(f *flow.Flow, from, to *view, a *assumptions) Decision {
	// The pod behind a bare address of a node may turn out to be the other end.
	if from.pod != nil && from.pod == to.pod {
		return toItself()
	}
	if why := terminating(from.class, to.class); why != nil {
		return undecided(why)
	}
	d := Decision{
		Egress:  decideDirection(f, egress, from, to, a),
		Ingress: decideDirection(f, ingress, from, to, a),
	}
	// S16: the egress of the source and the ingress of the destination must both
	// allow. S17: nothing else is asked, because replies belong to the flow.
	d.setVerdict(both(d.Egress.Verdict, d.Ingress.Verdict))
	return d
}

// both is the verdict of a flow whose directions have these verdicts.
func both(a, b Verdict) Verdict {
	switch {
	case a == Denied || b == Denied:
		return Denied
	case a == Allowed && b == Allowed:
		return Allowed
	default:
		return Undefined
	}
}

// setVerdict sets the verdict, and takes the reason of an Undefined one from the
// first direction that is Undefined.
func (d *Decision) setVerdict(v Verdict) {
	d.Verdict = v
	if v != Undefined {
		return
	}
	first := &d.Egress
	if first.Verdict != Undefined {
		first = &d.Ingress
	}
	d.Rule, d.Reason = first.Rule, first.Reason
}

// decideOnHost evaluates a flow with a host-network end under each reading that
// the API permits and the profile leaves (S13).
func (e *Engine) decideOnHost(f *flow.Flow, from, to *end) Decision {
	if why := terminating(from.class, to.class); why != nil {
		return undecided(why)
	}
	var answers []Decision
	for _, r := range e.readings {
		targets := to.views(r)
		for _, source := range from.views(r) {
			for i := range targets {
				answers = append(answers, decideReading(f, &source, &targets[i]))
			}
		}
	}
	host := from
	if !from.onHost() {
		host = to
	}
	why := cause{ruleHostNetwork, fmt.Sprintf(
		"%s is on the host network, where implementations may apply policies or ignore them", host.endpoint)}
	if len(e.readings) > 1 {
		why.reason += settledBy(keyHostPoliced + "=true|false," + keyHostSelectable + "=true|false")
	}

	merged := Decision{
		Egress:  mergeDirections(answers, why, func(d *Decision) *DirectionDecision { return &d.Egress }),
		Ingress: mergeDirections(answers, why, func(d *Decision) *DirectionDecision { return &d.Ingress }),
	}
	verdict := answers[0].Verdict
	for _, a := range answers[1:] {
		if a.Verdict != verdict {
			verdict = Undefined
		}
	}
	merged.setVerdict(verdict)
	return merged
}

// mergeDirections keeps the verdict that all answers agree on.
func mergeDirections(answers []Decision, why cause, of func(*Decision) *DirectionDecision) DirectionDecision {
	merged := *of(&answers[0])
	agree := true
	var isolating []PolicyRef
	for i := range answers {
		d := of(&answers[i])
		isolating = append(isolating, d.Isolating...)
		agree = agree && d.Verdict == merged.Verdict
		merged.adopt(d)
	}
	slices.SortFunc(isolating, PolicyRef.compare)
	merged.Isolating = slices.Compact(isolating)
	if !agree {
		merged.leaveOpen(why)
	}
	return merged
}

// adopt takes over what another decision with the same verdict names and this one
// does not.
func (d *DirectionDecision) adopt(other *DirectionDecision) {
	if d.Verdict != other.Verdict {
		return
	}
	if d.AllowedBy == nil {
		d.AllowedBy = other.AllowedBy
	}
	if d.DeniedBy == nil {
		d.DeniedBy = other.DeniedBy
	}
}

// leaveOpen makes the direction Undefined.
func (d *DirectionDecision) leaveOpen(why cause) {
	d.Verdict, d.Tier = Undefined, TierNone
	d.AllowedBy, d.DeniedBy, d.PassedBy = nil, nil, nil
	d.Rule, d.Reason = why.rule, why.reason
}
