package verdict

import (
	"fmt"
	"time"

	"github.com/pathproof/pathproof/evaluator"
)

// Direction is one of the two in which policies decide about a path.
type Direction string

// The directions.
const (
	// DirectionUnknown means that it is not known which direction fails.
	DirectionUnknown Direction = "Unknown"
	// Egress of the source is enforced on the source's node.
	Egress Direction = "Egress"
	// Ingress of the target is enforced on the target's node.
	Ingress Direction = "Ingress"
)

// Attribution says in which direction, and on which node, the network does not do what
// the policies say.
type Attribution struct {
	Direction Direction
	// Node is where the direction is enforced; empty if it is not known, or if there are
	// several.
	Node string
	// Controlled says that a check about which only this direction can decide failed in
	// the same way.
	Controlled bool
	// Evidence says in one sentence what that rests on, or what was missing.
	Evidence string
	// At is when it was found out. The caller sets it.
	At time.Time
}

// Half is a half-path: a check about which policies can decide in one direction only.
type Half struct {
	// Verdict is nil if there is no such check; then Missing says why.
	Verdict *Verdict
	Missing string
}

// Attributable tells whether a verdict says that the network does not do what the
// policies say, since then one of the directions fails, or both; or that it is silent.
func (v Verdict) Attributable() bool { return v.Enforced == False || v.Silent() }

// Silent tells whether the target answers nobody on a path that policies allow: it may be
// the target, or the network in one of the directions, which a stand-in can tell apart.
func (v Verdict) Silent() bool {
	return v.Cause == TargetSilent && v.Check.Prediction.Verdict == evaluator.Allowed
}

// Attribute says which direction of an attributable verdict fails, by its half-paths:
// from its source to a target without ingress policies, and from a source without egress
// policies to its target. again is the verdict on the same check at the time of the
// half-paths. There are at most two attributions, and never none.
//
// What is open although policies deny it has passed both directions: each one that denies
// it has failed. The half-path then shows whether it fails for others, too. What is
// closed although policies allow it was closed by one of the directions, and nothing but
// the half-paths tells which.
func Attribute(v Verdict, again, egress, ingress Half) []Attribution {
	if v.through() == Open {
		return notEnforced(v, again, egress, ingress)
	}
	return wronglyBlocked(v, again, egress, ingress)
}

// AttributeSilence says which direction is in the way of a verdict that is silent, by a check
// to a stand-in for its target, and the half-paths of that. There are at most two
// attributions, and never none. A stand-in that answers shows that policies and network
// let such a path through: then it is no direction that fails.
func AttributeSilence(again, standIn, egress, ingress Half) []Attribution {
	switch {
	case again.Verdict == nil || again.Verdict.Observed != Inconclusive || !tried(again.Verdict.Check):
		return unknown("%s", since(again))
	case standIn.Verdict == nil:
		return unknown("there is no stand-in that could tell: %s", standIn.Missing)
	case standIn.Verdict.Check.Prediction.Verdict != evaluator.Allowed:
		return unknown("%s turned out to be %s for a stand-in", describe(standIn.Verdict.Check), standIn.Verdict.Check.Prediction.Verdict)
	}
	v, at := *standIn.Verdict, describe(standIn.Verdict.Check)
	how := ""
	switch v.Observed {
	case Open:
		return unknown("a stand-in for the target answers, of the same identity and on the same node (%s): what is silent is the target itself, or the way to its address", at)
	case OneWay:
		how = "requests reach a stand-in for the target (" + at + "), and its replies are lost"
	case Blocked:
		how = "a stand-in for the target is not reached either (" + at + ")"
	case Inconclusive:
		return unknown("nothing could be concluded of a stand-in for the target: %s", v.Evidence)
	}
	out := wronglyBlocked(v, standIn, egress, ingress)
	for i := range out {
		out[i].Evidence = how + "; " + out[i].Evidence
	}
	return out
}

// directed is one direction of a check that is attributed.
type directed struct {
	direction Direction
	node      string
	decision  evaluator.DirectionDecision
	half      Half
}

// sides returns egress and ingress of a verdict.
func sides(v Verdict, egress, ingress Half) [2]directed {
	c := v.Check
	return [2]directed{
		{Egress, c.SourceNode, c.Prediction.Egress, egress},
		{Ingress, c.TargetNode, c.Prediction.Ingress, ingress},
	}
}

// policies names the policies of a direction.
func (s directed) policies() string {
	if s.direction == Egress {
		return "the source's egress policies"
	}
	return "the target's ingress policies"
}

// policed tells whether policies have a say in the direction.
func (s directed) policed() bool { return len(s.decision.Isolating)+len(s.decision.Selecting) > 0 }

func (s directed) attribute(controlled bool, format string, args ...any) Attribution {
	return Attribution{Direction: s.direction, Node: s.node, Controlled: controlled, Evidence: fmt.Sprintf(format, args...)}
}

func unknown(format string, args ...any) []Attribution {
	return []Attribution{{Direction: DirectionUnknown, Evidence: fmt.Sprintf(format, args...)}}
}

// notEnforced attributes a path that is open and denied.
func notEnforced(v Verdict, again, egress, ingress Half) []Attribution {
	var out []Attribution
	for _, s := range sides(v, egress, ingress) {
		if s.decision.Verdict != evaluator.Denied {
			continue
		}
		half := result(s.half, evaluator.Denied)
		switch {
		case through(again) != Open:
			out = append(out, s.attribute(false, "not controlled, because %s", since(again)))
		case half.observed == Open:
			out = append(out, s.attribute(true, "%s is open, too, and only %s could close it", half.ends, s.policies()))
		case half.observed == Blocked:
			out = append(out, s.attribute(false, "%s is closed as %s say, so that they are enforced there, and fail on this path", half.ends, s.policies()))
		default:
			out = append(out, s.attribute(false, "not controlled: %s", half.why))
		}
	}
	if out == nil {
		return unknown("neither direction is certain to deny it")
	}
	return out
}

// wronglyBlocked attributes a path that is closed and allowed.
func wronglyBlocked(v Verdict, again, egress, ingress Half) []Attribution {
	if through(again) != Blocked {
		return unknown("%s", since(again))
	}
	both := sides(v, egress, ingress)
	var out []Attribution
	var results [2]halfResult
	for i, s := range both {
		if results[i] = result(s.half, evaluator.Allowed); results[i].observed == Blocked {
			out = append(out, s.attribute(true, "%s is closed, too, and only %s could close it", results[i].ends, s.policies()))
		}
	}
	if out != nil {
		return out
	}
	// Where the other direction has no policies, what differs from the half-path that is
	// open is this one.
	for i, s := range both {
		other := both[1-i]
		if open := results[1-i]; open.observed == Open && results[i].observed == Inconclusive && s.policed() && !other.policed() {
			return []Attribution{s.attribute(true, "%s is open, and differs in nothing but %s", open.ends, s.policies())}
		}
	}
	if results[0].observed == Open && results[1].observed == Open {
		return unknown("each direction lets through what only it could close: %s, and %s", results[0].ends, results[1].ends)
	}
	return unknown("egress: %s; ingress: %s", results[0].words(), results[1].words())
}

// through is what was observed, as far as the directions of policies go: of a path that is
// open one way, the request has passed them if they deny it, and where they allow it one
// of them may be in the way of the reply.
func (v Verdict) through() Observed {
	switch {
	case v.Observed != OneWay:
		return v.Observed
	case v.Check.Prediction.Verdict == evaluator.Denied:
		return Open
	}
	return Blocked
}

// through is what was observed of a half-path; Inconclusive if there is none.
func through(h Half) Observed {
	if h.Verdict == nil {
		return Inconclusive
	}
	return h.Verdict.through()
}

// since says why the check itself does not show the same any more.
func since(again Half) string {
	switch {
	case again.Verdict == nil:
		return "the path could not be probed again: " + again.Missing
	case again.Verdict.Observed == Open:
		return "the path was open when it was probed again"
	case again.Verdict.Observed == OneWay:
		return "the path was open one way when it was probed again"
	case again.Verdict.Observed == Blocked:
		return "the path was closed when it was probed again"
	}
	return "nothing could be concluded when the path was probed again: " + again.Verdict.Evidence
}

// halfResult is what a half-path says.
type halfResult struct {
	// observed is Inconclusive if it says nothing, for the reason why.
	observed Observed
	ends     string
	why      string
}

func (r halfResult) words() string {
	if r.observed == Inconclusive {
		return r.why
	}
	return r.ends + " is open"
}

// result reads a half-path, which says something only if it is predicted as it has to be.
func result(h Half, want evaluator.Verdict) halfResult {
	switch {
	case h.Verdict == nil:
		return halfResult{why: h.Missing}
	case h.Verdict.Check.Obstacle != "":
		return halfResult{why: h.Verdict.Evidence}
	case h.Verdict.Check.Prediction.Verdict != want:
		return halfResult{why: fmt.Sprintf("%s turned out to be %s", describe(h.Verdict.Check), h.Verdict.Check.Prediction.Verdict)}
	}
	return halfResult{observed: h.Verdict.through(), ends: describe(h.Verdict.Check), why: h.Verdict.Evidence}
}

// words says what an attribution of a verdict means.
func (a Attribution) words(v Verdict) string {
	open := v.through() == Open
	at := "its node"
	if a.Node != "" {
		at = "node " + a.Node
	}
	end := "source"
	if a.Direction == Ingress {
		end = "target"
	}
	switch {
	case v.Silent() && a.Direction == DirectionUnknown:
		return a.Evidence
	case v.Silent():
		return fmt.Sprintf("%s of the %s is in the way, on %s", direction(a.Direction), end, at)
	case a.Direction == DirectionUnknown && open:
		return "which direction fails to close it is not known"
	case a.Direction == DirectionUnknown:
		return "which direction closes it is not known"
	case open:
		return fmt.Sprintf("%s of the %s would have to close it, and %s does not", direction(a.Direction), end, at)
	}
	if v.Observed == OneWay {
		return fmt.Sprintf("%s of the %s loses the replies, on %s", direction(a.Direction), end, at)
	}
	return fmt.Sprintf("%s of the %s closes it, on %s", direction(a.Direction), end, at)
}

func direction(d Direction) string {
	if d == Ingress {
		return "ingress"
	}
	return "egress"
}
