package v1alpha1

// An EnforcementCanary has the conditions Enforced, Complete and Ready, all of positive
// polarity.
//
// Enforced: every feature was found to be enforced on every covered node, or to be
// unsupported there. Reasons for True: CanaryEnforced. For False: CanaryNotEnforced. For
// Unknown: CanaryIncomplete (something could not be found out), CanaryStarting,
// CanaryNamespaceRefused, NoNodes.
//
// Ready: Enforced and Complete. Its reason is that of the one that is not True, Enforced
// first.

// ConditionComplete is the type of the condition of an EnforcementCanary that says
// whether every node that can be covered is. Polarity: positive.
//
// Reasons for True: CanaryComplete. For False: CanaryIncomplete, NoNodes,
// CanaryNamespaceRefused. For Unknown: CanaryStarting.
const ConditionComplete = "Complete"

// Reasons of the conditions of an EnforcementCanary.
const (
	// ReasonCanaryEnforced: the network does what the canary's policies say.
	ReasonCanaryEnforced = "CanaryEnforced"
	// ReasonCanaryNotEnforced: status.offenders names nodes where it does not.
	ReasonCanaryNotEnforced = "CanaryNotEnforced"
	// ReasonCanaryComplete: everything was found out about every node.
	ReasonCanaryComplete = "CanaryComplete"
	// ReasonCanaryIncomplete: something could not be found out about a node.
	ReasonCanaryIncomplete = "CanaryIncomplete"
	// ReasonCanaryStarting: no node has reported since the canary or the spec is new.
	ReasonCanaryStarting = "CanaryStarting"
	// ReasonCanaryNamespaceRefused: a namespace of that name is there, and is not the
	// canary's.
	ReasonCanaryNamespaceRefused = "CanaryNamespaceRefused"
	// ReasonNoNodes: there is no node to cover.
	ReasonNoNodes = "NoNodes"
)
