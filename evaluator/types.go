package evaluator

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// Snapshot is everything that a prediction depends on. Its objects are read,
// never changed and never copied: the caller must not change them while an
// Engine that was compiled from them is in use.
type Snapshot struct {
	Namespaces      []*corev1.Namespace
	Pods            []*corev1.Pod
	NetworkPolicies []*networkingv1.NetworkPolicy
}

// Verdict is the three-valued answer to "would this flow be allowed?".
type Verdict uint8

const (
	// Undefined means that the API leaves the answer to the implementation, or
	// that the snapshot does not hold what the answer depends on. It is the zero
	// value, so that a forgotten verdict is never taken for an answer.
	Undefined Verdict = iota
	// Allowed means that both directions allow the flow.
	Allowed
	// Denied means that at least one direction denies it.
	Denied
)

// String returns the name that is used in status and reports.
func (v Verdict) String() string {
	switch v {
	case Undefined:
		return "Undefined"
	case Allowed:
		return "Allowed"
	case Denied:
		return "Denied"
	}
	return fmt.Sprintf("Verdict(%d)", uint8(v))
}

// Decision is the answer for one flow, with its reasons.
type Decision struct {
	Verdict Verdict
	// Egress is the decision at the source, Ingress the one at the destination.
	// Both must allow (rule S16); they are evaluated independently.
	Egress, Ingress DirectionDecision
	// Rule is the number of the rule in docs/semantics.md that made the verdict
	// Undefined, for example "S10"; empty for Allowed and Denied. Rules that begin
	// with X are not about the API but about the input.
	Rule string
	// Reason says in words why the verdict is Undefined; empty otherwise.
	Reason string
}

// DirectionDecision is the answer for one direction of a flow.
type DirectionDecision struct {
	Verdict Verdict
	// Isolating names the policies that isolate the pod for this direction, sorted
	// by namespace and name. Empty means that the pod is not isolated. It includes
	// policies with a Problem, which may isolate the pod.
	Isolating []PolicyRef
	// AllowedBy is the first rule (by policy name, then by index) that allows the
	// flow; nil when no rule certainly does or when the pod is not isolated.
	AllowedBy *RuleRef
	// Rule and Reason say why the direction is Undefined, or which special rule
	// (loopback, the pod's own node) allows it; empty otherwise.
	Rule, Reason string
}

// PolicyRef names a NetworkPolicy.
type PolicyRef struct {
	Namespace, Name string
}

// String returns namespace/name.
func (r PolicyRef) String() string { return r.Namespace + "/" + r.Name }

// RuleRef names one rule of a NetworkPolicy.
type RuleRef struct {
	PolicyRef
	// Index is the position in spec.ingress or spec.egress, from 0.
	Index int
}

// Problem is input that cannot be evaluated: it is never guessed at. A policy with
// a Problem makes every flow that it could decide Undefined.
type Problem struct {
	// Kind, Namespace and Name are those of the object at fault.
	Kind, Namespace, Name string
	// Field is the path inside the object, for example spec.ingress[0].ports[1].port.
	Field string
	// Message says what is wrong and what to write instead.
	Message string
}

// String renders the problem on one line.
func (p Problem) String() string {
	return fmt.Sprintf("%s %s/%s: %s: %s", p.Kind, p.Namespace, p.Name, p.Field, p.Message)
}
