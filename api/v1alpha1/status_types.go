package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ConnectivityExpectationStatus reports what was predicted and observed. Nothing
// in it is a copy of the spec; all of it is bounded.
type ConnectivityExpectationStatus struct {
	// observedGeneration is the generation of the spec that the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions are Ready, PolicyAligned, Enforced, Satisfied and PoliciesValid.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// summary counts the checks of the last run.
	// +optional
	Summary *Summary `json:"summary,omitempty"`

	// coverage counts what the last run, and the last runs together, covered of what
	// the paths match.
	// +optional
	Coverage *CoverageStatus `json:"coverage,omitempty"`

	// lastRun describes the last run that ended with a result.
	// +optional
	LastRun *Run `json:"lastRun,omitempty"`

	// lastConclusiveAt is when the last run ended in which every check was judged
	// Open or Blocked.
	// +optional
	LastConclusiveAt *metav1.Time `json:"lastConclusiveAt,omitempty"`

	// enforcementLatency is the last measurement of how long a change of a NetworkPolicy
	// took to be enforced. It takes probe.watchMilliseconds.
	// +optional
	EnforcementLatency *EnforcementLatency `json:"enforcementLatency,omitempty"`

	// nextRunAt is when the next run starts, if no change starts one before.
	// +optional
	NextRunAt *metav1.Time `json:"nextRunAt,omitempty"`

	// lastHandledRequest is the value of the annotation pathproof.dev/requested-at
	// that the last run answers.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	LastHandledRequest string `json:"lastHandledRequest,omitempty"`

	// findings are the checks that are not met, worst first, at most 20, among which
	// each path and cause has one before any has a second. summary
	// has the full counts.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=20
	Findings []Finding `json:"findings,omitempty"`

	// problems are policies that could not be evaluated, at most 20.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=20
	Problems []Problem `json:"problems,omitempty"`
}

// Summary counts checks. A check is one source, one target address and one port
// of a path.
type Summary struct {
	// checks is the number of all checks.
	// +required
	Checks int32 `json:"checks"`
	// met is the number of checks with all three sides in agreement.
	// +required
	Met int32 `json:"met"`
	// violated is the number of checks with a side that is off.
	// +required
	Violated int32 `json:"violated"`
	// unknown is the number of checks about which nothing could be concluded.
	// +required
	Unknown int32 `json:"unknown"`
}

// CoverageStatus counts pods that paths match, and those that were probed.
type CoverageStatus struct {
	// sourcesMatched is the number of existing pods that the paths select as sources.
	// +required
	SourcesMatched int32 `json:"sourcesMatched"`
	// sourcesProbed is the number of probe pods that the run probed from.
	// +required
	SourcesProbed int32 `json:"sourcesProbed"`
	// targetsMatched is the number of pods that the paths select as targets.
	// +required
	TargetsMatched int32 `json:"targetsMatched"`
	// targetsProbed is the number of those that were probed.
	// +required
	TargetsProbed int32 `json:"targetsProbed"`
	// round numbers the choice among matching pods that the last run probed. A later
	// round chooses others. Unset means 0, the first.
	// +optional
	Round int32 `json:"round,omitempty"`
	// runs is the number of runs that the counts below are about: the last 10, or
	// fewer after the spec has changed or the operator was restarted, which both start
	// the counts anew. Unset means 0.
	// +optional
	Runs int32 `json:"runs,omitempty"`
	// pairsMatched is the number of pairs that the paths match: of each path, every
	// node on which a source has pods with every target. A source that need not exist
	// makes one pair with each target, wherever it is probed from. Unset means 0.
	// +optional
	PairsMatched int32 `json:"pairsMatched,omitempty"`
	// pairsCovered is the number of those about which one of the runs came to a
	// conclusion. Unset means 0.
	// +optional
	PairsCovered int32 `json:"pairsCovered,omitempty"`
	// pairsPercent is the share of pairsCovered in pairsMatched, rounded down. Unset
	// means 0.
	// +optional
	PairsPercent int32 `json:"pairsPercent,omitempty"`
	// nodePairsMatched is the number of pairs of nodes, of each path, that its sources
	// and its targets have pods on. Unset means 0.
	// +optional
	NodePairsMatched int32 `json:"nodePairsMatched,omitempty"`
	// nodePairsCovered is the number of those about which one of the runs came to a
	// conclusion. Unset means 0.
	// +optional
	NodePairsCovered int32 `json:"nodePairsCovered,omitempty"`
	// nodePairsPercent is the share of nodePairsCovered in nodePairsMatched, rounded
	// down. Unset means 0.
	// +optional
	NodePairsPercent int32 `json:"nodePairsPercent,omitempty"`
}

// Run describes one run.
type Run struct {
	// startedAt is when the run began.
	// +required
	StartedAt metav1.Time `json:"startedAt"`
	// finishedAt is when the last report was judged.
	// +required
	FinishedAt metav1.Time `json:"finishedAt"`
	// trigger says why the run was started.
	// +optional
	// +kubebuilder:validation:Enum=Created;SpecChanged;Interval;Change;Requested;Repeated
	Trigger string `json:"trigger,omitempty"`
	// provenance is a hash of the policies, labels, addresses and endpoints that
	// were in force before and after the probes ran. Runs with the same provenance
	// measured the same configuration.
	// +required
	// +kubebuilder:validation:MaxLength=64
	Provenance string `json:"provenance"`
	// probePods is the number of pods that the run started.
	// +required
	ProbePods int32 `json:"probePods"`
	// settledMilliseconds is the longest time that a check needed, from the first
	// attempt of its pod, until the network agreed with the prediction. 0 means
	// that every first round did.
	// +optional
	SettledMilliseconds int32 `json:"settledMilliseconds,omitempty"`
	// canaryEvidence is the number of checks of which the EnforcementCanary alone showed
	// that their nodes carry traffic. Unset means 0.
	// +optional
	CanaryEvidence int32 `json:"canaryEvidence,omitempty"`
}

// FlipDirection says what a path did.
//
// +kubebuilder:validation:Enum=Opened;Closed
type FlipDirection string

// What a path can do.
const (
	FlipOpened FlipDirection = "Opened"
	FlipClosed FlipDirection = "Closed"
)

// EnforcementLatency is the time from a change of a NetworkPolicy that flips a prediction
// until the path was seen to flip. Of several checks that one change flips, it is the
// longest.
type EnforcementLatency struct {
	// milliseconds from the operator's sight of the change to the flip, by the clock of
	// the probe's node. 0 means that the path had flipped by then.
	// +required
	Milliseconds int32 `json:"milliseconds"`
	// direction says whether the path opened or closed.
	// +required
	Direction FlipDirection `json:"direction"`
	// path is the name of the path.
	// +required
	// +kubebuilder:validation:MaxLength=63
	Path string `json:"path"`
	// changedAt is when the operator saw the change.
	// +required
	ChangedAt metav1.MicroTime `json:"changedAt"`
	// flippedAt is when the path had flipped at the latest, by the clock of the probe's
	// node: the first packet that met the path as it is now had passed, or had been sent in
	// vain. It may be earlier than changedAt, where the network knew of the change first.
	// +optional
	FlippedAt metav1.MicroTime `json:"flippedAt,omitzero"`
	// precisionMilliseconds is how much earlier than flippedAt the flip may have been: the
	// time since the last packet that met the path as it was before was about to be sent,
	// rounded up.
	// +required
	PrecisionMilliseconds int32 `json:"precisionMilliseconds"`
}

// Finding is a check that is not met.
type Finding struct {
	// path is the name of the path.
	// +required
	// +kubebuilder:validation:MaxLength=63
	Path string `json:"path"`
	// cause classifies the disagreement, or says why nothing could be concluded.
	// +required
	// +kubebuilder:validation:MaxLength=64
	Cause string `json:"cause"`
	// message says what is wrong in one sentence.
	// +required
	// +kubebuilder:validation:MaxLength=512
	Message string `json:"message"`
	// source is the identity that the check was probed as.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Source string `json:"source,omitempty"`
	// sourceNode is the node that the check was probed from.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	SourceNode string `json:"sourceNode,omitempty"`
	// target is the pod, Service, address or name that was probed.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Target string `json:"target,omitempty"`
	// targetNode is the node of the target pod.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	TargetNode string `json:"targetNode,omitempty"`
	// transport is TCP, UDP, SCTP, DNS/UDP or DNS/TCP.
	// +optional
	// +kubebuilder:validation:MaxLength=16
	Transport string `json:"transport,omitempty"`
	// port is the number of the port that was probed.
	// +optional
	Port int32 `json:"port,omitempty"`
	// family is the address family, IPv4 or IPv6.
	// +optional
	// +kubebuilder:validation:MaxLength=4
	Family string `json:"family,omitempty"`
	// declared is Allow or Deny.
	// +optional
	Declared Expect `json:"declared,omitempty"`
	// predicted is the evaluator's answer.
	// +optional
	Predicted *Prediction `json:"predicted,omitempty"`
	// observed is what the probes say.
	// +optional
	Observed *Observation `json:"observed,omitempty"`
	// attributions say in which direction, and on which node, the network does not do
	// what the policies say, at most 2: both directions may fail. They come soon after the
	// finding, from checks of their own, and stay for as long as it does or until a run is
	// requested. Unset while they are not known, and for findings about anything else.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=2
	Attributions []Attribution `json:"attributions,omitempty"`
	// since is when the check was first found with this cause.
	// +required
	Since metav1.Time `json:"since"`
}

// AttributedDirection is a direction of a path, or Unknown.
//
// +kubebuilder:validation:Enum=Egress;Ingress;Unknown
type AttributedDirection string

// Attribution says in which direction, and on which node, the network does not do what
// the policies say.
type Attribution struct {
	// direction is Egress of the source, Ingress of the target, or Unknown.
	// +required
	Direction AttributedDirection `json:"direction"`
	// node is where the direction is enforced: the source's node for Egress, the target's
	// for Ingress. Unset if it is not known, and for a target with pods on several nodes.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node,omitempty"`
	// controlled says that a check about which only this direction can decide failed in the
	// same way. Unset means false: the direction follows from the prediction alone.
	// +optional
	Controlled bool `json:"controlled,omitempty"`
	// evidence says in one sentence what that rests on, or what was missing.
	// +required
	// +kubebuilder:validation:MaxLength=512
	Evidence string `json:"evidence"`
	// at is when it was found out.
	// +required
	At metav1.Time `json:"at"`
}

// Prediction is the evaluator's answer for one check.
type Prediction struct {
	// verdict is Allowed, Denied or Undefined.
	// +required
	// +kubebuilder:validation:Enum=Allowed;Denied;Undefined
	Verdict string `json:"verdict"`
	// direction is Egress or Ingress: the direction that denies, or that is
	// undefined. Unset when both allow.
	// +optional
	// +kubebuilder:validation:Enum=Egress;Ingress
	Direction string `json:"direction,omitempty"`
	// policies are the policies that decide in that direction, as namespace/name,
	// at most 5.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=5
	// +kubebuilder:validation:items:MaxLength=317
	Policies []string `json:"policies,omitempty"`
	// rule is the number of the rule in docs/semantics.md that leaves the answer
	// undefined.
	// +optional
	// +kubebuilder:validation:MaxLength=16
	Rule string `json:"rule,omitempty"`
	// reason says in words why the answer is undefined.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Reason string `json:"reason,omitempty"`
}

// Observation is what the probes say about one check.
type Observation struct {
	// result is Open, Blocked, Inconclusive or OneWay: requests arrive, and the replies are
	// lost.
	// +required
	// +kubebuilder:validation:Enum=Open;Blocked;Inconclusive;OneWay
	Result string `json:"result"`
	// outcomes are the wire facts of the attempts, for example TimedOut, each with
	// its count when there were several.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	Outcomes string `json:"outcomes,omitempty"`
	// evidence says what turns the outcomes into the result, or what is missing.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Evidence string `json:"evidence,omitempty"`
	// pathEvidence says, of Blocked, what showed that the nodes of the check carry traffic:
	// Control, another check of the run that got through there, or Canary, pods of the
	// EnforcementCanary that reached each other there. Unset for any other result.
	// +optional
	// +kubebuilder:validation:Enum=Control;Canary
	PathEvidence string `json:"pathEvidence,omitempty"`
}

// Problem is a policy that could not be evaluated.
type Problem struct {
	// kind of the object.
	// +required
	// +kubebuilder:validation:MaxLength=63
	Kind string `json:"kind"`
	// name of the object, as namespace/name.
	// +required
	// +kubebuilder:validation:MaxLength=317
	Name string `json:"name"`
	// field is the path inside the object.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Field string `json:"field,omitempty"`
	// message says what is wrong and what to write instead.
	// +required
	// +kubebuilder:validation:MaxLength=512
	Message string `json:"message"`
}
