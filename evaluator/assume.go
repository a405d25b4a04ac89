package evaluator

import (
	"fmt"
	"net/netip"
)

// question is something that the answer may depend on and that is open: the API
// leaves it to the implementation, or the snapshot does not hold it. Equal
// questions have the same answer, wherever they are asked.
type question struct {
	why doubt
	// target tells which end is meant, where it is about an end.
	target bool
	// text is a selector, a domain name or the name of a port.
	text string
	// namespace is the one whose labels are asked for.
	namespace string
	// block is the range that may hold an address.
	block netip.Prefix
	// broken and isolation are invalid policies, of which one can be part of a choice.
	broken    *clusterPolicy
	isolation *policy
	// The choice between rules that disagree is made for each direction on its own.
	dir      direction
	tier     Tier
	version  version
	priority int32
	action   action
}

// assumption is a question with the answer that is assumed for it.
type assumption struct {
	question
	yes bool
	// at is the rule, or at least the policy, that raised the question; against is the
	// rule that competes with it, if it is about a choice.
	at, against *RuleRef
}

// assumptions are the answers under which one evaluation is made. A question that
// was not asked before is answered no at first.
//
// Rules of cluster-wide policies have an order and deny as well as allow, so that
// two extreme readings do not bound the others as they do for NetworkPolicy.
// Instead, the evaluation is repeated under each combination of answers to the
// questions that it meets, and the verdict stands if all agree.
type assumptions struct {
	list []assumption
	// at is the rule that is being looked at.
	at *RuleRef
}

// maxEvaluations bounds the combinations that are tried for one flow. A flow that
// meets more open questions than that is Undefined even if all answers agree so
// far.
const maxEvaluations = 1 << 10

// lookAt says which rule the next questions are about.
func (a *assumptions) lookAt(r *RuleRef) {
	if a != nil {
		a.at = r
	}
}

// answer answers a question if answers are assumed, and leaves it open otherwise.
func (a *assumptions) answer(q question) (truth, doubt) {
	if a == nil {
		return maybe, q.why
	}
	return a.ask(q), certain
}

// ask answers a question.
func (a *assumptions) ask(q question) truth { return a.choose(q, a.at, nil) }

// choose answers the question whether one rule is taken and not its competitor.
func (a *assumptions) choose(q question, rule, against *RuleRef) truth {
	for i := range a.list {
		if a.list[i].question == q {
			return truthOf(a.list[i].yes)
		}
	}
	a.list = append(a.list, assumption{question: q, at: rule, against: against})
	return no
}

// next changes to the next combination of answers, and returns the assumption that
// it turned from no to yes. It is false when all combinations have been tried.
func (a *assumptions) next() (assumption, bool) {
	for n := len(a.list); n > 0; n-- {
		if last := &a.list[n-1]; !last.yes {
			last.yes = true
			// What was asked after it may not be asked any more.
			a.list = a.list[:n]
			return *last, true
		}
	}
	return assumption{}, false
}

// within tells whether the prefix holds the end's address.
func (v *view) within(p netip.Prefix, a *assumptions) truth {
	if v.addr.IsValid() {
		// S24: a prefix holds addresses of its own family only.
		return truthOf(p.Contains(v.addr))
	}
	if a == nil {
		return maybe
	}
	for i := range a.list {
		known := &a.list[i]
		if known.why != addressUnknown || known.target != v.target {
			continue
		}
		// What is assumed of one range says something about others.
		switch {
		case known.yes && holds(p, known.block):
			return yes
		case known.yes && !p.Overlaps(known.block), !known.yes && holds(known.block, p):
			return no
		}
	}
	return a.ask(question{why: addressUnknown, target: v.target, block: p})
}

// holds tells whether all of the inner range is in the outer.
func holds(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// decideReading evaluates both directions under one reading, and, if cluster-wide
// policies apply, under each answer to the questions that are open in it.
func decideReading(s service, from, to *view, d *Decision) {
	to.target = true
	if from.tiers(egress) == nil && to.tiers(ingress) == nil {
		decideViews(s, from, to, nil, d)
		return
	}
	var a assumptions
	decideViews(s, from, to, &a, d)
	verdict := d.Verdict
	for n := 1; ; n++ {
		turned, more := a.next()
		if !more {
			break
		}
		if n == maxEvaluations {
			why := turned.explain(from, to)
			d.Egress.leaveOpen(why)
			d.Ingress.leaveOpen(why)
			verdict = Undefined
			break
		}
		var other Decision
		decideViews(s, from, to, &a, &other)
		if other.Verdict != verdict {
			verdict = Undefined
		}
		d.Egress.reconcile(&other.Egress, &turned, from, to)
		d.Ingress.reconcile(&other.Ingress, &turned, from, to)
		if verdict == Undefined && d.Egress.Verdict == Undefined && d.Ingress.Verdict == Undefined {
			break
		}
	}
	d.Rule, d.Reason = "", ""
	d.setVerdict(verdict)
}

// reconcile keeps the verdict if the other decision has the same. The assumption is
// what made the difference between them.
func (d *DirectionDecision) reconcile(other *DirectionDecision, turned *assumption, from, to *view) {
	switch {
	case d.Verdict == other.Verdict:
		d.adopt(other)
		if d.PassedBy != other.PassedBy {
			d.PassedBy = nil
		}
	case d.Verdict == Undefined:
	case other.Verdict == Undefined:
		d.leaveOpen(cause{other.Rule, other.Reason})
	default:
		d.leaveOpen(turned.explain(from, to))
	}
}

// explain says what is open.
func (a *assumption) explain(from, to *view) cause {
	if a.broken != nil {
		return cause{RuleInvalidPolicy, fmt.Sprintf("%s is not valid, so what it allows and denies is not known", a.broken.ref)}
	}
	switch a.why {
	case samePriority:
		return cause{rulePriority, fmt.Sprintf("%s and %s disagree, and both policies have priority %d in the %s tier",
			a.against.Describe(), a.at.Describe(), a.priority, a.tier)}
	case mixedVersions:
		return cause{ruleVersions, fmt.Sprintf("%s and %s disagree, and nothing says which of the two kinds comes first",
			a.against.Describe(), a.at.Describe())}
	case brokenIsolation:
		return cause{RuleInvalidPolicy, fmt.Sprintf("NetworkPolicy %s is not valid, so what it isolates and allows is not known", a.isolation.ref)}
	default:
	}
	at, other := "a policy", from
	if a.at != nil {
		at = a.at.Describe()
	}
	if a.target || (a.namespace != "" && (from.class == nil || from.class.namespace.name != a.namespace)) {
		other = to
	}
	rule, reason := a.why.explain(at, other, to)
	return cause{rule, reason}
}
