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
func (e *Engine) Decide(f flow.Flow) (d Decision) {
	// A Decision is large: it is filled in place, and never copied on the way.
	e.decide(&f, &d)
	return d
}

// service is the port that a flow goes to.
type service struct {
	protocol protocol
	number   uint16
}

func (e *Engine) decide(f *flow.Flow, d *Decision) {
	// The ends are filled in place, too.
	var from, to view
	protocol, why := malformed(f)
	source := e.shards[f.From.Namespace]
	target := source
	if f.To.Namespace != f.From.Namespace {
		target = e.shards[f.To.Namespace]
	}
	if why == nil {
		why = from.resolve(e, source, &f.From)
	}
	if why == nil {
		why = to.resolve(e, target, &f.To)
	}
	if why != nil {
		d.undecided(why)
		return
	}
	// S15: a pod cannot block access to itself.
	if from.class != nil && (to.kind == loopbackEnd || (from.pod != nil && from.pod == to.pod)) {
		d.toItself()
		return
	}
	why = insideHost(&from.end, &to.end)
	if why == nil {
		why = matchFamilies(&from.end, &to.end)
	}
	switch {
	case why != nil:
		d.undecided(why)
	case from.onHost() || to.onHost():
		*d = e.decideOnHost(service{protocol, f.Port}, &from.end, &to.end)
	default:
		from.seePlainly()
		to.seePlainly()
		decideReading(service{protocol, f.Port}, &from, &to, d)
	}
}

// malformed tells what keeps a flow from being one that NetworkPolicy speaks of.
func malformed(f *flow.Flow) (protocol, *cause) {
	known, ok := protocolOf(f.Protocol)
	if !ok {
		return known, &cause{ruleProtocol, fmt.Sprintf("NetworkPolicy does not speak of protocol %q, only of TCP, UDP and SCTP", f.Protocol)}
	}
	if f.Port == 0 {
		return known, &cause{RuleIncomplete, "the flow has no port"}
	}
	return known, nil
}

// insideHost tells whether an address of the flow has no meaning between hosts.
func insideHost(ends ...*end) *cause {
	for _, n := range ends {
		if n.kind == loopbackEnd {
			return &cause{RuleIncomplete, fmt.Sprintf("%s has a meaning inside of one host only", n.String())}
		}
	}
	return nil
}

// toItself is the answer for traffic from a pod to itself (S15).
func (d *Decision) toItself() {
	direction := DirectionDecision{Verdict: Allowed, Rule: ruleLoopback, Reason: "a pod always reaches itself"}
	*d = Decision{Verdict: Allowed, Egress: direction, Ingress: direction}
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
func (d *Decision) undecided(why *cause) {
	direction := DirectionDecision{Verdict: Undefined, Rule: why.rule, Reason: why.reason}
	*d = Decision{Verdict: Undefined, Egress: direction, Ingress: direction, Rule: why.rule, Reason: why.reason}
}

// decideViews evaluates both directions under one reading, into a decision that is
// empty. Without assumptions, what is open stays open.
func decideViews(s service, from, to *view, a *assumptions, d *Decision) {
	// The pod behind a bare address of a node may turn out to be the other end.
	if from.pod != nil && from.pod == to.pod {
		d.toItself()
		return
	}
	if why := terminating(from.class, to.class); why != nil {
		d.undecided(why)
		return
	}
	m := match{service: s, dir: egress, subject: from, other: to, to: to, assumed: a}
	d.Egress.decide(&m)
	m.dir, m.subject, m.other = ingress, to, from
	d.Ingress.decide(&m)
	// S16: the egress of the source and the ingress of the destination must both
	// allow. S17: nothing else is asked, because replies belong to the flow.
	d.setVerdict(both(d.Egress.Verdict, d.Ingress.Verdict))
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
func (e *Engine) decideOnHost(s service, from, to *end) (merged Decision) {
	if why := terminating(from.class, to.class); why != nil {
		merged.undecided(why)
		return merged
	}
	var answers []Decision
	for _, r := range e.readings {
		for i := 0; ; i++ {
			source, more := from.view(r, i)
			if !more {
				break
			}
			for j := 0; ; j++ {
				target, more := to.view(r, j)
				if !more {
					break
				}
				answers = append(answers, Decision{})
				decideReading(s, &source, &target, &answers[len(answers)-1])
			}
		}
	}
	host := from
	if !from.onHost() {
		host = to
	}
	why := cause{ruleHostNetwork, fmt.Sprintf(
		"%s is on the host network, where implementations may apply policies or ignore them", host.String())}
	if len(e.readings) > 1 {
		why.reason += settledBy(keyHostPoliced + "=true|false," + keyHostSelectable + "=true|false")
	}

	merged = Decision{
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
