package canary

import (
	"fmt"
	"slices"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/probe/wire"
)

// Verdict is what was found of a row.
type Verdict string

// The verdicts, in the spelling of the API.
const (
	// Enforced: all that must get through did, nothing else did, and every positive
	// control of what did not get through succeeded.
	Enforced Verdict = "Enforced"
	// NotEnforced: something got through that no rule allows, or something that a rule
	// allows did not, although its positive control did.
	NotEnforced Verdict = "NotEnforced"
	// Unsupported: the nodes lack what the feature is about, or the network is one that
	// does without the feature, as the API lets it.
	Unsupported Verdict = "Unsupported"
	// Unknown: nothing can be concluded.
	Unknown Verdict = "Unknown"
)

// Result is a verdict with what there is to say of it.
type Result struct {
	Verdict Verdict
	Message string
}

// Pair is what is known of one round from one node to another, which may be the same.
type Pair struct {
	From, To string
	// FirstIPv6 says that the first addresses of the pods on To are IPv6 ones.
	FirstIPv6 bool
	// Outcomes are those of the last attempts of each probe that was made.
	Outcomes map[Probe]wire.Outcomes
	// Unable says why a probe cannot be made, of those for which a node lacks something.
	Unable map[Probe]string
	// Listening is set if the kubelet saw all listeners of the guarded pod on the node To
	// echo, before the round and after it.
	Listening bool
	// Awake is set if the interface of the guarded pod on the node From is known to work:
	// the kubelet reached it during the round, or it got an answer.
	Awake bool
}

// reading is what the outcomes of a probe say.
type reading int

const (
	unclear reading = iota
	answered
	silent
)

// enoughAnswers are the attempts that have to be answered if the probe failed to make the
// others, as on a node that is too busy: that says nothing of the network.
const enoughAnswers = 2

// read reads the outcomes of a probe. Only the echo of the nonce is an answer: whoever
// else answers speaks for somebody else.
func (o Pair) read(p Probe) reading {
	outcomes := o.Outcomes[p]
	answers, failures := 0, 0
	for _, outcome := range outcomes {
		switch outcome {
		case wire.Replied:
			answers++
		case wire.ProbeError:
			failures++
		default:
		}
	}
	switch {
	case answers >= enoughAnswers && answers+failures == len(outcomes):
		return answered
	case outcomes.All(wire.Outcome.Closed):
		return silent
	}
	return unclear
}

// JudgeAll judges rows on a pair of nodes.
func JudgeAll(rows []Row, o Pair) map[Name]Result {
	out := make(map[Name]Result, len(rows))
	for _, r := range rows {
		out[r.Name()] = Judge(r, o)
	}
	return out
}

// Judge judges a row on a pair of nodes.
func Judge(r Row, o Pair) Result {
	if r.Untestable != "" {
		return Result{Unsupported, r.Untestable}
	}
	for _, p := range r.Closed {
		if o.read(p) == answered {
			return Result{NotEnforced, o.describe(p) + " gets through, although " + r.denial()}
		}
	}
	probes := slices.Concat(r.allowed(), r.Closed)
	for _, p := range probes {
		if reason := o.lacks(p, Control(p)); reason != "" {
			return Result{Unsupported, reason}
		}
	}
	var blocked []Probe
	for _, p := range probes {
		if o.read(p) == answered {
			continue
		}
		if reason := o.doubt(p); reason != "" {
			return Result{Unknown, reason}
		}
		if !slices.Contains(r.Closed, p) {
			blocked = append(blocked, p)
		}
	}
	switch {
	case len(blocked) == 0:
		return Result{Verdict: Enforced}
	case r.Base != (Probe{}) && !slices.Contains(blocked, r.Base):
		return Result{Unsupported, o.describe(blocked[0]) + " is blocked, as by a network that does not know this feature, although a rule allows it"}
	}
	return Result{NotEnforced, o.describe(blocked[0]) + " is blocked, although a rule allows it"}
}

// denial says what keeps the row's closed probes from getting through.
func (r Row) denial() string {
	if r.Feature == v1alpha1.FeatureClusterNetworkPolicy {
		return "a ClusterNetworkPolicy denies it"
	}
	return "no rule allows it"
}

// lacks returns what a node lacks for one of the probes; nothing if that is nothing.
func (o Pair) lacks(probes ...Probe) string {
	for _, p := range probes {
		if reason := o.Unable[p]; reason != "" {
			return reason
		}
		if o.Outcomes[p].Any(func(o wire.Outcome) bool { return o == wire.Unsupported }) {
			return fmt.Sprintf("node %s does not support %s", o.From, p.Transport)
		}
	}
	return ""
}

// doubt tells why nothing follows from a probe that got no answer; it is empty if it was
// a policy, since nothing else was in the way.
func (o Pair) doubt(p Probe) string {
	switch o.read(p) {
	case answered:
		return ""
	case unclear:
		return o.describe(p) + " " + o.said(p)
	case silent:
	}
	control := Control(p)
	switch {
	case o.read(control) != answered:
		return fmt.Sprintf("%s got no answer, but neither did its positive control: %s %s", o.describe(p), o.describe(control), o.said(control))
	case p.To == Guarded && !o.Listening && !o.heard(p):
		return fmt.Sprintf("%s got no answer, but the kubelet does not see the pod listen, and nobody else reached that port", o.describe(p))
	case p.From == Guarded && !o.Awake:
		return fmt.Sprintf("%s got no answer, but nothing else shows that the interface of the source works", o.describe(p))
	}
	return ""
}

// heard tells whether somebody else reached the port that a probe was made to.
func (o Pair) heard(p Probe) bool {
	for q := range o.Outcomes {
		if q.To == p.To && q.Transport == p.Transport && q.Port == p.Port && q.IPv6 == p.IPv6 && o.read(q) == answered {
			return true
		}
	}
	return false
}

// said says in words what the outcomes of a probe were.
func (o Pair) said(p Probe) string {
	outcomes := o.Outcomes[p]
	if len(outcomes) == 0 {
		return "was not made"
	}
	text, _ := outcomes.MarshalText() // never fails
	return fmt.Sprintf("ended as %s (%s first)", text, outcomes[0])
}

// describe names a probe with its nodes.
func (o Pair) describe(p Probe) string {
	family := ""
	if p.IPv6 {
		family = " over IPv6"
	}
	return fmt.Sprintf("%s on %s to %s on %s, %s %d%s,", p.From, o.From, p.To, o.To, p.Transport, p.Port, family)
}

// Combine makes one result of a row's results on all pairs that are about a node: those
// within the node, and those with its neighbours. It takes one conclusion of each kind to
// know a node, since networks treat traffic within a node in a way of its own. There are
// always pairs within the node.
func Combine(within, across []Result) Result {
	kinds := [][]Result{within}
	if len(across) > 0 {
		kinds = append(kinds, across)
	}
	for _, results := range kinds {
		if i := index(results, NotEnforced); i >= 0 {
			return results[i]
		}
	}
	out := Result{Verdict: Enforced}
	for _, results := range kinds {
		if index(results, Enforced) >= 0 {
			continue
		}
		if i := index(results, Unsupported); i >= 0 {
			out = results[i]
			continue
		}
		if i := index(results, Unknown); i >= 0 {
			return results[i]
		}
		return Result{Unknown, "nothing was measured"}
	}
	return out
}

func index(results []Result, v Verdict) int {
	return slices.IndexFunc(results, func(r Result) bool { return r.Verdict == v })
}

// Worse returns the worse of two verdicts: not enforced, unknown, unsupported, enforced.
func Worse(a, b Verdict) Verdict {
	order := []Verdict{NotEnforced, Unknown, Unsupported, Enforced}
	return order[min(slices.Index(order, a), slices.Index(order, b))]
}
