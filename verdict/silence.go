package verdict

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/pathproof/pathproof/probe/wire"
)

// unheard names what keeps the silence of a listener that nobody in the run heard from
// being evidence. What tells the cases apart is what became of the positive controls:
// the checks of the listener that policies allow, and what their pods met elsewhere.
func unheard(c Check, ev evidence) (Cause, string) {
	controls := ev.controls[listenerOf(c)]
	at := func(is func(Check) bool) (Check, bool) {
		if i := slices.IndexFunc(controls, is); i >= 0 {
			return controls[i], true
		}
		return Check{}, false
	}
	others := func(is func(Check) bool) func(Check) bool {
		return func(o Check) bool { return o.ID != c.ID && is(o) }
	}
	if o, ok := at(refusedThere); ok {
		return TargetNotListening, fmt.Sprintf("%s was refused at this port, although policies let it through: nothing listens there, or a filter refuses for it%s", who(o), detail(o))
	}
	if o, ok := at(func(o Check) bool { return tried(o) && ev.alivePod[o.Pod] }); ok {
		return TargetSilent, fmt.Sprintf("%s got answers elsewhere and none here, although policies let it through: the target answers nobody, or nothing gets there%s", who(o), way(o))
	}
	if o, ok := at(others(func(o Check) bool { return tried(o) && o.SourceProbed })); ok {
		return NoPositiveControl, fmt.Sprintf("the positive control, %s, got no answer to any of its checks: the target is silent, or what the control sends is lost", who(o))
	}
	if o, ok := at(others(tried)); ok {
		return NoPositiveControl, fmt.Sprintf("the positive control, %s, heard nothing, not even the kubelet", who(o))
	}
	if o, ok := at(others(func(o Check) bool { return o.Obstacle != "" })); ok {
		return NoPositiveControl, fmt.Sprintf("the positive control, %s, could not be made: %s", who(o), o.ObstacleDetail)
	}
	return NoPositiveControl, "no other check of this run reached this address and port, so that the listener is not known to be alive"
}

// tried tells whether a check was made and met nothing but silence or refusals.
func tried(c Check) bool {
	return c.Result != nil && c.Obstacle == "" && c.Result.Outcomes.All(wire.Outcome.Closed)
}

// refusedThere tells whether the host of the target, or a filter in its name, said that
// nothing listens.
func refusedThere(c Check) bool {
	if !tried(c) {
		return false
	}
	return c.Result.Outcomes.Any(func(o wire.Outcome) bool { return o == wire.Refused }) ||
		c.Transport == wire.UDP && c.Result.Outcomes.All(func(o wire.Outcome) bool { return o == wire.Rejected })
}

// who names the source of a check and its node.
func who(c Check) string {
	if c.SourceNode == "" {
		return c.Source
	}
	return c.Source + " on node " + c.SourceNode
}

// way names the nodes between which a check was lost.
func way(c Check) string {
	if c.SourceNode == "" || c.TargetNode == "" || c.SourceNode == c.TargetNode {
		return ""
	}
	return fmt.Sprintf(" (from node %s to node %s)", c.SourceNode, c.TargetNode)
}

// byID makes the choice of one of several checks the same whatever their order.
func byID(a, b Check) int { return cmp.Compare(a.ID, b.ID) }
