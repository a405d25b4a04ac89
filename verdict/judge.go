package verdict

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// Judge returns one verdict for each check of a run that is no control, worst first.
// The checks are each other's evidence, so all checks of a run must be judged together.
func Judge(checks []Check) []Verdict {
	known := withRecords(checks)
	ev := gather(known)
	out := make([]Verdict, 0, len(known))
	for _, c := range known {
		if !c.Control {
			out = append(out, judge(c, ev))
		}
	}
	concludeServices(out, ev)
	compareTransports(out)
	rank := make(map[Cause]int, len(severity))
	for i, c := range severity {
		rank[c] = i
	}
	slices.SortStableFunc(out, func(a, b Verdict) int {
		return cmp.Or(cmp.Compare(rank[a.Cause], rank[b.Cause]), cmp.Compare(a.Check.Path, b.Check.Path), cmp.Compare(a.Check.ID, b.Check.ID))
	})
	return out
}

func judge(c Check, ev evidence) Verdict {
	v := Verdict{Check: c}
	v.Observed, v.Inconclusive, v.Evidence = observe(c, ev)
	if v.Observed == Blocked {
		v.PathEvidence = pathEvidence(c, ev)
	}
	v.conclude()
	return v
}

// conclude compares the corners, now that it is known what was observed.
func (v *Verdict) conclude() {
	c := v.Check
	if c.Obstacle != IdentityDivergence {
		// Otherwise the prediction is the probe's, and the workload's differs.
		v.Aligned = compare(c.Declared == Allow, c.Prediction.Verdict)
	}
	switch open := v.Observed == Open; v.Observed {
	case Inconclusive:
	case OneWay:
		// Neither open nor closed: whatever was declared and predicted, it is wrong.
		v.Satisfied = False
		if c.Prediction.Verdict != evaluator.Undefined {
			v.Enforced = False
		}
	case Open, Blocked:
		v.Enforced = compare(open, c.Prediction.Verdict)
		v.Satisfied = status(open == (c.Declared == Allow))
	}
	v.Cause = cause(*v)
	v.judgeAnswer()
}

func compare(open bool, p evaluator.Verdict) Status {
	switch p {
	case evaluator.Allowed:
		return status(open)
	case evaluator.Denied:
		return status(!open)
	case evaluator.Undefined:
		return Unknown
	}
	return Unknown
}

func status(holds bool) Status {
	if holds {
		return True
	}
	return False
}

// cause is the table of docs/architecture.md ("Verdicts"). A known disagreement
// of declared and predicted outranks a missing observation: the policies are at
// fault whatever the wire says.
func cause(v Verdict) Cause {
	predicted := v.Check.Prediction.Verdict
	switch {
	case v.Check.Obstacle == IdentityDivergence:
		return IdentityDivergence
	case v.Observed == Inconclusive && v.Aligned == False:
		return PolicyDrift
	case v.Observed == Inconclusive:
		return v.Inconclusive
	case predicted == evaluator.Undefined:
		return ImplementationDefined
	case v.Observed == OneWay && v.Aligned == True:
		return Delivered
	case v.Observed == OneWay:
		return PolicyDrift
	case v.Check.Declared == Allow:
		switch {
		case predicted == evaluator.Allowed && v.Observed == Open:
			return None
		case predicted == evaluator.Allowed:
			return UnexpectedBlock
		case v.Observed == Open:
			return DriftMasked
		default:
			return PolicyDrift
		}
	case predicted == evaluator.Denied && v.Observed == Blocked:
		return None
	case predicted == evaluator.Denied:
		return EnforcementMissing
	case v.Observed == Open:
		return PolicyDrift
	default:
		return BlockedOutsidePolicy
	}
}

// evidence is what the checks of one run say about listeners, node pairs and
// sources.
type evidence struct {
	// answered holds the listeners that answered somebody.
	answered map[listener]bool
	// fromNode holds the source nodes and listener addresses between which a
	// protocol was carried.
	fromNode map[nodeAddr]bool
	// nodePair holds the node pairs that carried traffic between pods. What is sent to a node
	// may go another way than that, and what is sent to a Service by way of a proxy.
	nodePair map[nodePair]bool
	// silentPair holds node pairs on which a path that policies allow was silent.
	silentPair map[nodePair]bool
	// toNode and toPair hold what fromNode and nodePair would, had the replies not been
	// lost: requests arrive there.
	toNode map[nodeAddr]bool
	toPair map[nodePair]bool
	// alivePod holds the probe pods that got an answer of their own.
	alivePod map[string]bool
	// controls holds the checks of each listener that policies allow, by their IDs.
	controls map[listener][]Check
}

type listener struct {
	addr     netip.Addr
	port     uint16
	protocol flow.Protocol
	// node is set for an address at which every node has a listener of its own.
	node string
}

type nodeAddr struct {
	node     string
	addr     netip.Addr
	protocol flow.Protocol
}

func nodeAddrOf(c Check) nodeAddr {
	return nodeAddr{node: c.SourceNode, addr: c.Addr, protocol: c.Transport.Protocol()}
}

// nodePair is a direction between two nodes. A dual-stack cluster routes each
// family on its own: IPv4 that works says nothing about IPv6. Nor does TCP about
// SCTP, which many networks do not carry.
type nodePair struct {
	from, to string
	is4      bool
	protocol flow.Protocol
}

// showsPair tells whether the check goes the way that all traffic between pods of the two
// nodes goes.
func (c Check) showsPair() bool { return c.TargetNode != "" && !c.OffPodNetwork }

func pairOf(c Check) nodePair {
	return nodePair{from: c.SourceNode, to: c.TargetNode, is4: c.Addr.Unmap().Is4(), protocol: c.Transport.Protocol()}
}

func listenerOf(c Check) listener {
	l := listener{addr: c.Addr, port: c.Port, protocol: c.Transport.Protocol()}
	if c.OnSourceNode {
		l.node = c.SourceNode
	}
	return l
}

func gather(checks []Check) evidence {
	ev := evidence{
		answered: map[listener]bool{}, fromNode: map[nodeAddr]bool{},
		nodePair: map[nodePair]bool{}, silentPair: map[nodePair]bool{}, alivePod: map[string]bool{},
		toNode: map[nodeAddr]bool{}, toPair: map[nodePair]bool{},
		controls: map[listener][]Check{},
	}
	for _, c := range checks {
		if c.Prediction.Verdict == evaluator.Allowed && c.Addr.IsValid() {
			ev.controls[listenerOf(c)] = append(ev.controls[listenerOf(c)], c)
		}
		if c.Result == nil || c.Obstacle != "" || !c.Addr.IsValid() {
			continue
		}
		pair := pairOf(c)
		if c.Result.Outcomes.All(lost) {
			ev.toNode[nodeAddrOf(c)] = true
			ev.toPair[pair] = ev.toPair[pair] || c.showsPair()
		}
		switch {
		case c.Result.Outcomes.All(reached(c)):
			ev.answered[listenerOf(c)] = true
			ev.fromNode[nodeAddrOf(c)] = true
			ev.alivePod[c.Pod] = true
			if c.showsPair() {
				ev.nodePair[pair] = true
			}
		case c.Prediction.Verdict == evaluator.Allowed && c.TargetNode != "" && (c.Result.Outcomes.All(silent) || c.Result.Outcomes.All(lost)):
			ev.silentPair[pair] = true
		}
	}
	for _, controls := range ev.controls {
		slices.SortFunc(controls, byID)
	}
	return ev
}

func silent(o wire.Outcome) bool { return o == wire.TimedOut }

// reached tells which outcomes prove that the target answered. The outcomes of
// name resolution prove it for a DNS check only: in a host check they say that
// the target was never tried. Of a responder of ours, only its echo proves it.
func reached(c Check) func(wire.Outcome) bool {
	return func(o wire.Outcome) bool {
		if c.Responder && o == wire.Connected {
			return false
		}
		return o.AnsweredOver(c.Transport)
	}
}

// observe turns the outcomes of a check into an observation, its reason when it
// is inconclusive, and the words for it.
func observe(c Check, ev evidence) (Observed, Cause, string) {
	if cause, why := unusable(c); cause != "" {
		return Inconclusive, cause, why
	}
	outcomes := c.Result.Outcomes
	switch {
	case outcomes.All(lost):
		return OneWay, "", oneWay(c) + detail(c)
	case outcomes.Any(lost):
		return Inconclusive, Flapping, "the requests of some attempts arrived and their replies were lost, and others met something else"
	case c.Responder && outcomes.Any(func(o wire.Outcome) bool { return o == wire.Connected }):
		return Inconclusive, TargetNotListening, "something answered that is not the responder: a sidecar or a middlebox speaks for it" + detail(c)
	case outcomes.All(reached(c)) && answersDiffer(c):
		return Inconclusive, Flapping, "the resolver gave the right answer to some attempts and not to others after the settle window" + detail(c)
	case outcomes.All(reached(c)):
		answered := fmt.Sprintf("%d of %d attempts were answered", len(outcomes), len(outcomes))
		if c.Transport.IsDNS() {
			answered += detail(c)
		}
		return Open, "", answered
	case outcomes.Any(reached(c)):
		return Inconclusive, Flapping, "attempts from different source ports disagree after the settle window"
	}
	return closed(c, ev)
}

// unusable tells why the outcomes of a check say nothing about its path, in words, too;
// the cause is empty if they say something.
func unusable(c Check) (Cause, string) {
	switch {
	case c.Obstacle != "":
		return c.Obstacle, c.ObstacleDetail
	case c.Result == nil:
		return ProbeFailed, "the probe reported nothing for this check"
	}
	outcomes := c.Result.Outcomes
	switch {
	case c.SourceTrouble != "" && !outcomes.Any(reached(c)):
		return SourceNetworkDown, "the probe could neither send nor hear: " + c.SourceTrouble
	case outcomes.All(func(o wire.Outcome) bool { return o == wire.Unsupported }):
		return Unsupported, fmt.Sprintf("the kernel of node %s has no %s sockets", c.SourceNode, c.Transport) + detail(c)
	case !c.Transport.IsDNS() && outcomes.All(func(o wire.Outcome) bool { return o == wire.DNSTimedOut }):
		return ResolverSilent, "no resolver answered inside the probe pod, so that the target was never tried" + detail(c)
	case !c.Transport.IsDNS() && outcomes.Any(wire.Outcome.OfName):
		return NameNotResolved, "the name did not resolve inside the probe pod, so that the target was never tried" + detail(c)
	case !outcomes.All(func(o wire.Outcome) bool { return o.Answered() || o.Closed() || lost(o) }):
		return ProbeFailed, "an attempt tells nothing about the path" + detail(c)
	}
	return "", ""
}

// closed decides about a check that nothing answered: it was blocked only if it
// would have been answered otherwise. Each requirement returns what is missing;
// the first one decides.
func closed(c Check, ev evidence) (Observed, Cause, string) {
	for _, missing := range []func(Check, evidence) (Cause, string){
		sourceMissing,   // the probe could have heard an answer
		listenerMissing, // something would have answered
		pathMissing,     // the nodes carry such traffic
		recordMissing,   // it is the way there that is silent
	} {
		if cause, why := missing(c, ev); cause != "" {
			return Inconclusive, cause, why
		}
	}
	return Blocked, "", blockedEvidence(c, ev)
}

// listenerMissing tells why the target is not known to have been listening.
func listenerMissing(c Check, ev evidence) (Cause, string) {
	heard := ev.answered[listenerOf(c)]
	outcomes := c.Result.Outcomes
	switch {
	case !c.TargetReady:
		return TargetNotReady, "the target pod is not ready, so that silence says nothing about the path"
	case c.Responder && !c.ListenerAlive:
		return TargetNotListening, "the kubelet did not see the responder listen during the whole run"
	case !c.Responder && !heard && outcomes.Any(func(o wire.Outcome) bool { return o == wire.Refused }):
		return TargetNotListening, "the connection was reset and nobody else reached this port in this run: nothing listens there, or a filter resets"
	case !c.Responder && !heard && c.Transport == wire.UDP && outcomes.All(func(o wire.Outcome) bool { return o == wire.Rejected }):
		return TargetNotListening, "the datagram was rejected and nobody else reached this port in this run: nothing listens there, or a filter rejects" + detail(c)
	case c.Elsewhere > 0:
		return NoPositiveControl, fmt.Sprintf("the name resolved to this address in %d attempts and not in %d others, so that one lost packet could be all there is to see", len(outcomes), c.Elsewhere)
	case !c.Responder && !heard:
		return unheard(c, ev)
	case c.Endpoints > 1:
		return NoPositiveControl, fmt.Sprintf("each connection may be sent to any of %d endpoints, so that an answer to another check says nothing about this silence: declare the pods by podSelector", c.Endpoints)
	}
	return "", ""
}

// sourceMissing tells why the probe is not known to have been able to hear.
func sourceMissing(c Check, ev evidence) (Cause, string) {
	if !c.SourceProbed && !ev.alivePod[c.Pod] {
		return SourceCutOff, "its interface is up, but neither the kubelet reached the probe pod nor did any of its checks get an answer: nothing new gets in or out, as where a connection table is full"
	}
	return "", ""
}

// pathMissing tells why the two nodes are not known to carry such traffic.
func pathMissing(c Check, ev evidence) (Cause, string) {
	switch {
	case c.SourceNode == "":
		return NoPositiveControl, "the node of the probe is not known, so that no other check is known to have taken the same path"
	case pathEvidence(c, ev) != "":
		return "", ""
	case c.TargetNode != "" && ev.silentPair[pairOf(c)]:
		return PathBroken, fmt.Sprintf("a path that policies allow is silent from node %s to node %s, too", c.SourceNode, c.TargetNode) + canaryWords(c)
	case c.canaryCounts() && c.Way.State == WayBroken:
		return PathBroken, fmt.Sprintf("no other check of this run got through from node %s to node %s", c.SourceNode, c.TargetNode) + canaryWords(c)
	}
	return NoPositiveControl, fmt.Sprintf("no other check of this run got through from node %s to the target's node", c.SourceNode) + canaryWords(c)
}

// pathEvidence tells what shows that the two nodes carry such traffic; empty if nothing
// does. What the run itself has met comes first: where it has met silence on a path that
// policies allow, what pods of the canary reach is not the whole truth.
func pathEvidence(c Check, ev evidence) PathEvidence {
	pair := pairOf(c)
	switch {
	case ev.fromNode[nodeAddrOf(c)] || (c.showsPair() && ev.nodePair[pair]):
		return ByControl
	case c.Responder && c.Recorded != nil && (ev.toNode[nodeAddrOf(c)] || (c.showsPair() && ev.toPair[pair])):
		// Its record would have the request, whether or not replies come back.
		return ByControl
	case onlyCanary(c) && !ev.silentPair[pair]:
		return ByCanary
	}
	return ""
}

func blockedEvidence(c Check, ev evidence) string {
	alive := "the port answered another check of this run"
	if c.Responder {
		alive = "the kubelet saw the responder listen before and after"
		if c.Recorded != nil && c.Recorded.Missing == "" {
			alive += ", its record has no request of this check,"
		}
	}
	path := "the node pair carried traffic"
	if pathEvidence(c, ev) == ByCanary {
		path = fmt.Sprintf("pods of the canary, which no policy selects, reached each other from node %s to node %s", c.SourceNode, c.TargetNode)
	}
	return fmt.Sprintf("%s and %s, while %d of %d attempts got no answer%s",
		alive, path, len(c.Result.Outcomes), len(c.Result.Outcomes), detail(c))
}

func detail(c Check) string {
	if c.Result.Detail == "" {
		return ""
	}
	return " (" + c.Result.Detail + ")"
}
