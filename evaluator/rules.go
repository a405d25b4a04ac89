package evaluator

// Numbers of the rules in docs/semantics.md that a Decision can name.
const (
	ruleIPBlock       = "S10"
	ruleHostNetwork   = "S13"
	ruleOwnNode       = "S14"
	ruleLoopback      = "S15"
	ruleTerminated    = "S19"
	ruleTerminatingNS = "S21"
	ruleFamily        = "S24"
	ruleProtocol      = "S28"
	rulePriority      = "S29"
	ruleUnmodelled    = "S30"
	ruleVersions      = "S31"
	ruleNodes         = "S34"

	// RuleNamedPort marks an answer that depends on the ports that a pod declares by name.
	RuleNamedPort = "S7"
	// RuleInvalidPolicy marks an answer that depends on a policy with a Problem.
	RuleInvalidPolicy = "X1"
	// RuleIncomplete marks an answer that depends on something that the snapshot
	// or the flow does not hold.
	RuleIncomplete = "X2"
)

// truth is an answer to a question below a Decision. The order makes min the
// logical and, max the logical or.
type truth uint8

const (
	no truth = iota
	maybe
	yes
)

// truthOf converts a certain answer.
func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// direction selects the half of a policy that is meant.
type direction uint8

const (
	ingress direction = iota
	egress
	directions // the number of directions
)

// doubt says why a truth is maybe.
type doubt uint8

const (
	certain doubt = iota
	blockHoldsPod
	blockNeedsAddress
	namespaceUnknown
	portsUnknown
	portAmbiguous
	// The following are about cluster-wide policies.
	addressUnknown
	nodeUnknown
	nodeLabelsUnknown
	domainUnknown
	samePriority
	mixedVersions
	brokenPolicy
	brokenIsolation
)

// cause is the reason of an Undefined: the rule's number and words.
type cause struct {
	rule, reason string
}
