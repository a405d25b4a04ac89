package evaluator

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1alpha1 "sigs.k8s.io/network-policy-api/apis/v1alpha1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// Snapshot is everything that a prediction depends on. Its objects are read,
// never changed and never copied: the caller must not change them while an
// Engine that was compiled from them is in use.
type Snapshot struct {
	Namespaces      []*corev1.Namespace
	Pods            []*corev1.Pod
	NetworkPolicies []*networkingv1.NetworkPolicy
	// ClusterNetworkPolicies are those of both tiers, Admin and Baseline.
	ClusterNetworkPolicies []*policyv1alpha2.ClusterNetworkPolicy
	// AdminNetworkPolicies and BaselineAdminNetworkPolicies are of the version of
	// the API that came before ClusterNetworkPolicy.
	AdminNetworkPolicies         []*policyv1alpha1.AdminNetworkPolicy
	BaselineAdminNetworkPolicies []*policyv1alpha1.BaselineAdminNetworkPolicy
	// Unmodelled are objects of other kinds that may allow or deny traffic.
	Unmodelled []Unmodelled
	// Profile is what is known of the implementation that enforces the policies.
	Profile Profile
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

// Tier is a stage of the evaluation, in the order in which policies are asked.
type Tier uint8

const (
	// TierNone means that no policy decided: what nothing denies is allowed.
	TierNone Tier = iota
	// TierAdmin holds the policies that come before every NetworkPolicy.
	TierAdmin
	// TierNetworkPolicy holds the NetworkPolicies.
	TierNetworkPolicy
	// TierBaseline holds the policies for pods that no NetworkPolicy isolates.
	TierBaseline
)

// String returns the name of the tier, which is empty for TierNone.
func (t Tier) String() string {
	switch t {
	case TierNone:
		return ""
	case TierAdmin:
		return "Admin"
	case TierNetworkPolicy:
		return "NetworkPolicy"
	case TierBaseline:
		return "Baseline"
	}
	return fmt.Sprintf("Tier(%d)", uint8(t))
}

// DirectionDecision is the answer for one direction of a flow.
type DirectionDecision struct {
	Verdict Verdict
	// Tier is the tier that decided. Where the answer depends on something that is
	// open, and different tiers lead to it, it is one of them.
	Tier Tier
	// Selecting names the cluster-wide policies that have rules for this direction
	// and whose subject the pod is, or may be, in the order in which they are asked.
	Selecting []PolicyRef
	// Isolating names the policies that isolate the pod for this direction, sorted
	// by namespace and name. Empty means that the pod is not isolated. It includes
	// policies with a Problem, which may isolate the pod.
	Isolating []PolicyRef
	// AllowedBy is the rule that allows the flow: of a cluster-wide policy the one
	// that comes first in the order of evaluation, of NetworkPolicies the first by
	// policy name, then by index. It is nil when no rule certainly does, or when
	// nothing had to.
	AllowedBy *RuleRef
	// DeniedBy is the rule of a cluster-wide policy that denies the flow. It is nil
	// when NetworkPolicies do: these have no rules that deny.
	DeniedBy *RuleRef
	// PassedBy is the last rule of a cluster-wide policy that passed the flow on to
	// the next tier; nil when no rule certainly did.
	PassedBy *RuleRef
	// Rule and Reason say why the direction is Undefined, or which special rule
	// (loopback, the pod's own node) allows it; empty otherwise.
	Rule, Reason string
}

// PolicyRef names a policy.
type PolicyRef struct {
	// Kind is empty for a NetworkPolicy; otherwise the policy is cluster-wide.
	Kind string
	// Namespace is empty for a cluster-wide policy.
	Namespace, Name string
}

// IsClusterWide tells whether the policy is of a kind that has no namespace.
func (r PolicyRef) IsClusterWide() bool { return r.Kind != "" }

// String returns namespace/name for a NetworkPolicy, and the kind and the name for
// every other policy.
func (r PolicyRef) String() string {
	if r.IsClusterWide() {
		return r.Kind + " " + r.Name
	}
	return r.Namespace + "/" + r.Name
}

// RuleRef names one rule of a policy.
type RuleRef struct {
	PolicyRef
	// Index is the position in spec.ingress or spec.egress, from 0.
	Index int
	// Title is the name that a cluster-wide policy gives the rule; it may be empty.
	Title string
}

// wholePolicy is the index of a reference to all rules of a policy.
const wholePolicy = -1

// Describe names the rule and its policy in words.
func (r RuleRef) Describe() string {
	switch {
	case r.Index == wholePolicy:
		return "the subject of " + r.String()
	case !r.IsClusterWide():
		return fmt.Sprintf("rule %d of NetworkPolicy %s", r.Index, r.PolicyRef)
	case r.Title != "":
		return fmt.Sprintf("rule %d (%s) of %s", r.Index, r.Title, r.PolicyRef)
	}
	return fmt.Sprintf("rule %d of %s", r.Index, r.PolicyRef)
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
