package v1alpha1

// ProbeMode says how probe pods are run.
//
// +kubebuilder:validation:Enum=OneShot;Resident
type ProbeMode string

// How probe pods are run.
const (
	// ProbeModeOneShot starts pods for one run and deletes them when their report was
	// read.
	ProbeModeOneShot ProbeMode = "OneShot"
	// ProbeModeResident keeps the pods between runs.
	ProbeModeResident ProbeMode = "Resident"
)

// SCTPSockets says what speaks SCTP in probe pods.
//
// +kubebuilder:validation:Enum=Kernel;Raw
type SCTPSockets string

// What can speak SCTP.
const (
	// SCTPKernel leaves SCTP to the kernel of the node.
	SCTPKernel SCTPSockets = "Kernel"
	// SCTPRaw lets the probe speak SCTP itself where the kernel cannot.
	SCTPRaw SCTPSockets = "Raw"
)

// ProbeSettings says when and how paths are probed.
//
// +kubebuilder:validation:XValidation:rule="!has(self.watchMilliseconds) || (has(self.mode) && self.mode == 'Resident')",message="watchMilliseconds needs pods that stay: write mode: Resident beside it"
type ProbeSettings struct {
	// intervalSeconds is the time from the start of one run to the start of the
	// next. Results older than 2.5 intervals count as stale. Bounds: 10 to 86400.
	// Unset means 300.
	// +optional
	// +kubebuilder:default=300
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=86400
	IntervalSeconds int32 `json:"intervalSeconds,omitempty"`

	// timeoutMilliseconds is the time that one attempt waits for an answer before
	// it counts as silence. Bounds: 100 to 10000. Unset means 1000.
	// +optional
	// +kubebuilder:default=1000
	// +kubebuilder:validation:Minimum=100
	// +kubebuilder:validation:Maximum=10000
	TimeoutMilliseconds int32 `json:"timeoutMilliseconds,omitempty"`

	// attempts is the number of connections that a check makes in one round, each
	// from a source port of its own. They have to agree. Bounds: 2 to 10. Unset
	// means 3.
	// +optional
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=10
	Attempts int32 `json:"attempts,omitempty"`

	// mode says how probe pods are run. OneShot starts pods for each run and deletes them
	// afterwards. Resident keeps them: a run takes no longer than its attempts, and the
	// pods are shared between the expectations of the namespace; it suits short intervals,
	// and the operator needs the permission to read pods/log. A resident pod is replaced
	// when it is an hour old, and deleted when no run needs it any more. Unset means
	// OneShot.
	// +optional
	// +kubebuilder:default=OneShot
	Mode ProbeMode `json:"mode,omitempty"`

	// onChange starts a run when a policy, a label, an address or an endpoint that
	// a path depends on has changed. Unset means true.
	// +optional
	// +kubebuilder:default=true
	OnChange *bool `json:"onChange,omitempty"`

	// settleSeconds is the time that the network is given to do what the policies
	// say, from the first attempt of a new probe pod: rounds of attempts are
	// repeated within it until they agree with the prediction. Bounds: 1 to 300.
	// Unset means 10.
	// +optional
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=300
	SettleSeconds int32 `json:"settleSeconds,omitempty"`

	// watchMilliseconds makes resident pods go on between runs: they attempt each check at
	// this distance, so that the time from a change of policy to its enforcement can be
	// measured. Each attempt is a connection to the target. A pod makes at most 500 of them a
	// second: with more than 10 checks, the distance is 2 ms for each. Bounds: 20 to 10000.
	// Unset means not at all.
	// +optional
	// +kubebuilder:validation:Minimum=20
	// +kubebuilder:validation:Maximum=10000
	WatchMilliseconds int32 `json:"watchMilliseconds,omitempty"`

	// sctp says what speaks SCTP. Kernel leaves it to the kernel of the node: checks
	// on a node without the module sctp end as Unsupported. Raw lets probes and
	// responders speak it themselves, over a raw IP socket, on nodes whose kernel does
	// not. That takes the capability NET_RAW, which the pods with SCTP checks get. The
	// Pod Security levels baseline and restricted forbid it: in a namespace that
	// enforces one of them, all checks of these pods end as ProbeRefused. Unset means
	// Kernel.
	// +optional
	// +kubebuilder:default=Kernel
	SCTP SCTPSockets `json:"sctp,omitempty"`
}

// Spread says how the probed pods are chosen among the matching ones.
//
// +kubebuilder:validation:Enum=Node;Any
type Spread string

// The ways to choose.
const (
	// SpreadNode prefers pods on nodes that are not covered yet.
	SpreadNode Spread = "Node"
	// SpreadAny takes pods in a fixed, arbitrary order.
	SpreadAny Spread = "Any"
)

// Coverage bounds how many of the matching pods a run probes. Where more match, runs
// take turns: those that an interval or a request starts move on to other pods, and a
// check that was not met stays in the choice until it is.
type Coverage struct {
	// maxSources is the number of places (nodes) that each source identity of a
	// path is probed from. Bounds: 1 to 10. Unset means 2.
	// +optional
	// +kubebuilder:default=2
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10
	MaxSources int32 `json:"maxSources,omitempty"`

	// maxTargets is the number of target pods of each path that are probed.
	// Bounds: 1 to 10. Unset means 3.
	// +optional
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10
	MaxTargets int32 `json:"maxTargets,omitempty"`

	// spread says how pods are chosen when more match than are probed. Unset means
	// Node.
	// +optional
	// +kubebuilder:default=Node
	Spread Spread `json:"spread,omitempty"`
}
