package v1alpha1

// ConditionReady is the type of the condition that gates a rollout: every check
// of this generation is met, and the results are fresh. Polarity: positive.
//
// Reasons for True: AllPathsMet.
//
// Reasons for False: the worst cause among the checks: EnforcementMissing,
// Delivered, DriftMasked, PolicyDrift, UnexpectedBlock, BlockedOutsidePolicy,
// DNSOverTCPOnly, DNSOverUDPOnly, NameNotResolved, UnexpectedAnswer,
// ImplementationDefined (when the wire disagrees with what was declared).
//
// Reasons for Unknown: Pending, Suspended, Stale, NoChecks, ImplementationDefined,
// NameNotResolved, DNSOverTCPOnly, DNSOverUDPOnly (when it is not known why one of the
// transports does not work), and the reasons for which nothing can be concluded (ChangedDuringProbe,
// Flapping, IdentityDivergence, NoPositiveControl, NoSharedFamily,
// NoSourceMatched, NoTargetMatched, NotRecorded, PathBroken, PortNotFound, ProbeFailed,
// ProbeRefused, ResolverSilent, SourceCutOff, SourceNamespaceRefused, SourceNetworkDown,
// SourceNotReady, StandInRefused, TargetNotListening, TargetNotReady,
// TargetSilent, TooManyChecks, Unsupported).
const ConditionReady = "Ready"

// ConditionPolicyAligned is the type of the condition that compares what was
// declared with what the policies say. Polarity: positive.
//
// Reasons for True: PoliciesMatchIntent. For False: PolicyDrift. For Unknown:
// ImplementationDefined, Pending, Suspended, NoChecks, and the reasons for which
// a path could not be resolved.
const ConditionPolicyAligned = "PolicyAligned"

// ConditionEnforced is the type of the condition that compares what the policies
// say with what the network does. Polarity: positive.
//
// Reasons for True: NetworkMatchesPolicies. For False: EnforcementMissing,
// Delivered, UnexpectedBlock. For Unknown: ImplementationDefined, Pending, Suspended,
// NoChecks, and the reasons for which nothing can be concluded.
const ConditionEnforced = "Enforced"

// ConditionSatisfied is the type of the condition that compares what was declared
// with what the network does. Polarity: positive.
//
// Reasons for True: NetworkMatchesIntent. For False: EnforcementMissing,
// Delivered, PolicyDrift, UnexpectedBlock, NameNotResolved, UnexpectedAnswer,
// DNSOverTCPOnly, DNSOverUDPOnly, ImplementationDefined. For Unknown: Pending, Suspended, NoChecks, and the reasons for which nothing can be
// concluded.
const ConditionSatisfied = "Satisfied"

// ConditionPoliciesValid is the type of the condition that says whether every
// policy in the namespaces at both ends could be evaluated. Polarity: positive.
// False does not make Ready False by itself: paths that such a policy could decide
// are Unknown, and the rest is judged.
//
// Reasons for True: AllPoliciesParsed. For False: InvalidPolicy,
// UnmodelledPolicies. For Unknown: Pending, Suspended.
const ConditionPoliciesValid = "PoliciesValid"

// Reasons that are not causes of a check.
const (
	// ReasonPending: no run of this generation and configuration has ended yet.
	ReasonPending = "Pending"
	// ReasonSuspended: spec.suspend is true.
	ReasonSuspended = "Suspended"
	// ReasonStale: the last result is older than 2.5 intervals, or dated in the future.
	ReasonStale = "Stale"
	// ReasonAllPoliciesParsed: every policy could be evaluated.
	ReasonAllPoliciesParsed = "AllPoliciesParsed"
	// ReasonInvalidPolicy: status.problems names the policies that could not.
	ReasonInvalidPolicy = "InvalidPolicy"
	// ReasonUnmodelledPolicies: there are policies of kinds that are not evaluated.
	ReasonUnmodelledPolicies = "UnmodelledPolicies"
)
