package verdict

import "github.com/pathproof/pathproof/evaluator"

// Way is what the canary knows of the way between the nodes of a check: whether pods that
// no policy selects reach each other there, over the protocol of the check and in its
// address family, after the attempts of the check were made. It says nothing about the
// ends of the check. The zero Way is that of a run without a canary.
type Way struct {
	State WayState
	// Why says in words why the state is WayUnknown; empty where nobody was asked.
	Why string
}

// WayState is what became of the canary's own attempts.
type WayState uint8

const (
	// WayUnknown means that nothing is known that is recent enough.
	WayUnknown WayState = iota
	// WayCarried means that every attempt was answered.
	WayCarried
	// WayBroken means that none was.
	WayBroken
)

// PathEvidence says what showed that the nodes of a blocked check carry traffic.
type PathEvidence string

const (
	// ByControl is another check of the run that got through.
	ByControl PathEvidence = "Control"
	// ByCanary is that pods of the canary reached each other.
	ByCanary PathEvidence = "Canary"
)

// Unproven returns the positions of the checks for which it makes a difference what the
// canary knows of the way between their nodes: nothing else is missing, or the path is
// taken to be broken. Like Judge, it takes all checks of a run.
func Unproven(checks []Check) []int {
	known := withRecords(checks)
	ev := gather(known)
	var out []int
	for i, c := range known {
		if c.Control {
			continue
		}
		c.Way = Way{State: WayUnknown}
		_, _, without := observe(c, ev)
		c.Way.State = WayBroken
		if _, _, with := observe(c, ev); with != without {
			out = append(out, i)
		}
	}
	return out
}

// onlyCanary tells whether the canary shows that the nodes carry traffic while no other
// check of the run does. It has no say about paths that policies allow: what is silent
// there is what must not be called a fault of the network without a control of the
// same run. Nor has it where the target is not on the network of pods.
func onlyCanary(c Check) bool {
	return c.canaryCounts() && c.Prediction.Verdict != evaluator.Allowed && c.Way.State == WayCarried
}

// canaryCounts tells whether the way of the check is one that pods of the canary may take.
func (c Check) canaryCounts() bool { return c.showsPair() && !c.OnSourceNode }

// canaryWords says what the canary adds to a path that no check of the run got through.
func canaryWords(c Check) string {
	switch {
	case !c.canaryCounts():
		return ""
	case c.Way.State == WayBroken:
		return "; nor do pods of the canary, which no policy selects, reach each other between these nodes"
	case c.Way.State == WayCarried:
		return "; pods of the canary, which no policy selects, do reach each other between these nodes"
	case c.Way.Why != "":
		return "; the canary does not know the way either: " + c.Way.Why
	}
	return ""
}
