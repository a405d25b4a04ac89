// Package verdict is the heart of pathproof: it compares what was declared, what
// the evaluator predicted and what the probes observed, and names the cause when
// the three disagree. It is pure: same input, same verdicts.
//
// The invariants that the rest of the project relies on:
//
//   - Blocked is never concluded from silence or refusal alone. It takes a
//     listener that was alive, a source that was alive, a node pair that carried
//     traffic, and a configuration that did not change during the run. What the
//     canary knows stands in for the third alone.
//   - Unknown is a value of its own. It is never folded into True or False, so a
//     check that could not fail is never green.
//   - Every verdict names what it rests on (Evidence), or what was missing.
package verdict

import (
	"fmt"
	"net/netip"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/probe/wire"
)

// Declared is what the user declared about a path.
type Declared uint8

// What can be declared.
const (
	Deny Declared = iota
	Allow
)

// String returns the spelling of the API.
func (d Declared) String() string {
	if d == Allow {
		return "Allow"
	}
	return "Deny"
}

// Observed is what the probes say, with evidence.
type Observed uint8

const (
	// Inconclusive means that nothing was learned, or that evidence is missing.
	Inconclusive Observed = iota
	// Open means that the target answered.
	Open
	// Blocked means that the target would have answered, and something on the path
	// kept it from doing so.
	Blocked
	// OneWay means that the requests arrived, and that the replies did not.
	OneWay
)

// String returns the name that is used in status and reports.
func (o Observed) String() string {
	switch o {
	case Inconclusive:
		return "Inconclusive"
	case Open:
		return "Open"
	case Blocked:
		return "Blocked"
	case OneWay:
		return "OneWay"
	}
	return fmt.Sprintf("Observed(%d)", uint8(o))
}

// Status is a three-valued truth.
type Status uint8

// The values of a Status. Unknown is the zero value, so that a forgotten side is
// never green.
const (
	Unknown Status = iota
	True
	False
)

// String returns the spelling of a Kubernetes condition.
func (s Status) String() string {
	switch s {
	case Unknown:
		return "Unknown"
	case True:
		return "True"
	case False:
		return "False"
	}
	return fmt.Sprintf("Status(%d)", uint8(s))
}

// Cause classifies a check: why its sides disagree, or why nothing can be
// concluded.
type Cause string

// Causes of a disagreement that was observed.
const (
	// None: all three corners agree.
	None Cause = "None"
	// EnforcementMissing: policies deny the path, as declared, and it is open.
	EnforcementMissing Cause = "EnforcementMissing"
	// Delivered: requests arrive, by the record of the responder, and the replies are lost.
	// A path that is declared and predicted closed is open that way; one that is declared
	// and predicted open is of no use.
	Delivered Cause = "Delivered"
	// DriftMasked: the path is declared open and is open, but only because the
	// network does not enforce the policies that deny it.
	DriftMasked Cause = "DriftMasked"
	// PolicyDrift: the policies do not say what was declared.
	PolicyDrift Cause = "PolicyDrift"
	// UnexpectedBlock: declared and predicted open, but blocked on the wire.
	UnexpectedBlock Cause = "UnexpectedBlock"
	// BlockedOutsidePolicy: the path is closed as declared, but no policy closes it.
	BlockedOutsidePolicy Cause = "BlockedOutsidePolicy"
	// NameNotResolved: the resolver could be reached and had no answer, or a host
	// could not be probed because its name did not resolve.
	NameNotResolved Cause = "NameNotResolved"
	// UnexpectedAnswer: the resolver could be reached and its answer is another one than
	// was declared.
	UnexpectedAnswer Cause = "UnexpectedAnswer"
	// DNSOverUDPOnly: the resolver answers over UDP and not over TCP, so that large
	// answers fail.
	DNSOverUDPOnly Cause = "DNSOverUDPOnly"
	// DNSOverTCPOnly: the resolver answers over TCP and not over UDP.
	DNSOverTCPOnly Cause = "DNSOverTCPOnly"
	// ImplementationDefined: the API leaves the prediction to the implementation.
	ImplementationDefined Cause = "ImplementationDefined"
)

// Causes for which nothing can be concluded.
const (
	// ChangedDuringProbe: policies, labels or endpoints changed while probes ran.
	ChangedDuringProbe Cause = "ChangedDuringProbe"
	// Flapping: attempts of one round disagree after the settle window.
	Flapping Cause = "Flapping"
	// IdentityDivergence: the policies would treat the probe pod differently from
	// the workload that it stands for.
	IdentityDivergence Cause = "IdentityDivergence"
	// NoPositiveControl: nothing else of the run shows that the target would have
	// answered, or that the node pair carries traffic.
	NoPositiveControl Cause = "NoPositiveControl"
	// NoSharedFamily: the source has no address of the families that the target has.
	NoSharedFamily Cause = "NoSharedFamily"
	// NoSourceMatched: no running pod matches the source of the path.
	NoSourceMatched Cause = "NoSourceMatched"
	// NoTargetMatched: no running pod or endpoint matches the target of the path.
	NoTargetMatched Cause = "NoTargetMatched"
	// NotRecorded: nothing shows that the silence of a responder is not that of its lost
	// replies, since its record is missing or has a hole.
	NotRecorded Cause = "NotRecorded"
	// PathBroken: even a path that policies allow is silent between the two nodes.
	PathBroken Cause = "PathBroken"
	// PortNotFound: the target has no port of the declared name.
	PortNotFound Cause = "PortNotFound"
	// ProbeFailed: the probe did not come to an end, or failed on its own.
	ProbeFailed Cause = "ProbeFailed"
	// ProbeRefused: the probe pod was not created, since it would be unsafe or the
	// API server refused it.
	ProbeRefused Cause = "ProbeRefused"
	// ResolverSilent: a host could not be probed because no resolver answered.
	ResolverSilent Cause = "ResolverSilent"
	// SourceNamespaceRefused: the source is in another namespace, whose owner has
	// not consented to probes.
	SourceNamespaceRefused Cause = "SourceNamespaceRefused"
	// SourceCutOff: nothing got in to the probe pod, not even from its kubelet, and no answer,
	// although the pod's own network is as it should be.
	SourceCutOff Cause = "SourceCutOff"
	// SourceNetworkDown: the probe found that its own network can carry nothing.
	SourceNetworkDown Cause = "SourceNetworkDown"
	// SourceNotReady: the probe pod did not start.
	SourceNotReady Cause = "SourceNotReady"
	// StandInRefused: a stand-in for the target was asked for, and cannot be had.
	StandInRefused Cause = "StandInRefused"
	// TargetNotListening: the target's host answered that nothing listens.
	TargetNotListening Cause = "TargetNotListening"
	// TargetNotReady: the target pod is not ready.
	TargetNotReady Cause = "TargetNotReady"
	// TargetSilent: the target answered nobody, not even a source that policies let
	// through and that got answers elsewhere.
	TargetSilent Cause = "TargetSilent"
	// TooManyChecks: the expectation resolves to more checks than one run makes.
	TooManyChecks Cause = "TooManyChecks"
	// Unsupported: the kernel of the node lacks the protocol.
	Unsupported Cause = "Unsupported"
)

// severity orders causes, worst first: what pages somebody comes before what needs
// a look, and what was observed before what is unknown.
var severity = []Cause{
	EnforcementMissing, Delivered, DriftMasked, PolicyDrift, UnexpectedBlock, BlockedOutsidePolicy,
	DNSOverTCPOnly, DNSOverUDPOnly, NameNotResolved, UnexpectedAnswer,
	ImplementationDefined, IdentityDivergence, SourceNamespaceRefused, TooManyChecks, ProbeRefused, StandInRefused, NoSourceMatched, NoTargetMatched, PortNotFound, NoSharedFamily,
	TargetNotListening, TargetNotReady, TargetSilent, ResolverSilent, PathBroken, SourceNetworkDown, SourceCutOff, SourceNotReady, ProbeFailed, Unsupported, Flapping,
	NoPositiveControl, NotRecorded, ChangedDuringProbe, None,
}

// Causes returns every cause, worst first.
func Causes() []Cause { return append([]Cause(nil), severity...) }

// Check is everything that is known about one check when a run ends.
type Check struct {
	// ID is stable over runs; it orders the verdicts.
	ID string
	// Path is the name of the path in the expectation; empty for a control.
	Path string
	// Control says that nobody declared the check: it is evidence for others, and has
	// no verdict of its own.
	Control  bool
	Declared Declared
	// Prediction is the evaluator's answer for the probe's identity.
	Prediction evaluator.Decision

	// Source and Target name the ends for people.
	Source, Target string
	// SourceNode and TargetNode are the nodes of the two ends. TargetNode is empty
	// for targets without one (Services with several endpoints, addresses, hosts).
	SourceNode, TargetNode string
	// Twins are the names of other targets that the same responder stands for.
	Twins     []string
	Transport wire.Transport
	// Addr is the address that was probed; it is zero for a host that did not
	// resolve.
	Addr netip.Addr
	Port uint16
	// OnSourceNode says that the target is on the node of the source, as every node has
	// one at that address.
	OnSourceNode bool
	// OffPodNetwork says that Addr is not a pod's own address, as that of a Service or of a
	// node is not, so that the way to it is another one than that between pods.
	OffPodNetwork bool
	// Way is what the canary knows of the way between the nodes.
	Way Way

	// Question is what a DNS check asks for: type and name.
	Question string
	// Answer is what the answer to it has to be.
	Answer wire.Answer
	// Via is the nameserver that leads to the target of a DNS check, which may be the
	// target itself.
	Via netip.Addr
	// Elsewhere is the number of attempts of a check by host in which the name did not
	// resolve to Addr, so that Result has no outcome of theirs.
	Elsewhere int

	// Pod names the probe pod whose report holds the Result.
	Pod string
	// SourceProbed says that the kubelet reached the probe pod while it ran.
	SourceProbed bool
	// SourceTrouble says what the probe found wrong with its own pod, such that nothing
	// can be sent or heard; empty if that is nothing.
	SourceTrouble string
	// Result is what the probe reported; nil when there is no report.
	Result *wire.Result
	// Obstacle says why there is no Result, or why the Result must not be used, and
	// ObstacleDetail says it in words. Empty when there is no obstacle.
	Obstacle       Cause
	ObstacleDetail string

	// Responder says that the target is a responder of ours, and ListenerAlive
	// that the kubelet's readiness probe of its ports held before and after.
	Responder, ListenerAlive bool
	// Recorded is what the record of the responder says; nil if it left none.
	Recorded *Recorded
	// Endpoints is the number of pods that one connection may be sent to: more than
	// one for a Service, by whatever name or address it is reached.
	Endpoints int
	// TargetReady says that the target pod, or every endpoint of the target
	// Service, is ready. It is true for targets that have no readiness.
	TargetReady bool
}

// Verdict is the judgement of one check.
type Verdict struct {
	Check    Check
	Observed Observed
	// Evidence says what the observation rests on, or what was missing.
	Evidence string
	// PathEvidence is what showed that the nodes carry traffic; empty unless Observed is
	// Blocked.
	PathEvidence PathEvidence
	Cause        Cause
	// Inconclusive is the reason for which nothing was observed; empty otherwise.
	// It differs from Cause when the policies alone already disagree with what was
	// declared.
	Inconclusive Cause
	// Aligned compares declared and predicted, Enforced predicted and observed,
	// Satisfied declared and observed.
	Aligned, Enforced, Satisfied Status
	// Attributions say which directions fail where Enforced does. Judge leaves them out:
	// they are found out by checks of their own.
	Attributions []Attribution
}

// Met tells whether all sides hold.
func (v Verdict) Met() bool {
	return v.Aligned == True && v.Enforced == True && v.Satisfied == True
}

// Violated tells whether a side is known to be off.
func (v Verdict) Violated() bool {
	return v.Aligned == False || v.Enforced == False || v.Satisfied == False
}
