package explain

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
)

// change says what would turn the verdict around.
func (x *explainer) change(d evaluator.Decision) []string {
	var out []string
	if d.Egress.Verdict == evaluator.Denied {
		out = append(out, x.opens("egress", "to", d.Egress, x.f.From, x.f.To, x.to))
	}
	if d.Ingress.Verdict == evaluator.Denied {
		out = append(out, x.opens("ingress", "from", d.Ingress, x.f.To, x.f.From, x.from))
	}
	if d.Verdict != evaluator.Allowed {
		return out
	}
	closes := append(x.closes("ingress", d.Ingress, x.to), x.closes("egress", d.Egress, x.from)...)
	if len(closes) > 0 {
		out = append(out, "To close it, "+strings.Join(closes, "; or "))
	}
	return out
}

// opens says which rule would allow a direction.
func (x *explainer) opens(section, list string, d evaluator.DirectionDecision, subject, other flow.Endpoint, pod *corev1.Pod) string {
	if d.DeniedBy != nil && d.Tier == evaluator.TierAdmin {
		return fmt.Sprintf("To open %s, change %s, or put a rule that accepts or passes it before that one: no NetworkPolicy can allow what the Admin tier denies.",
			section, d.DeniedBy.Describe())
	}
	where := "one of " + refs(d.Isolating) + ", or to"
	switch {
	case d.DeniedBy != nil:
		where = "" // a NetworkPolicy comes before the Baseline tier
	case len(d.Isolating) == 1:
		where = d.Isolating[0].String() + ", or to"
	}
	lines := []string{
		fmt.Sprintf("To open %s, add this rule to %s:", section, strings.TrimSpace(where+" a new policy that selects "+subject.String())),
		section + ":",
		"- " + list + ":",
	}
	for _, l := range peerFor(subject, other, pod) {
		lines = append(lines, "  "+l)
	}
	return strings.Join(append(lines, fmt.Sprintf("  ports: [{protocol: %s, port: %d}]", x.f.Protocol, x.f.Port)), "\n")
}

// peerFor writes the peer that matches an end, and as little else as possible.
func peerFor(subject, other flow.Endpoint, pod *corev1.Pod) []string {
	if pod == nil {
		bits := 128
		if other.Addr.Unmap().Is4() {
			bits = 32
		}
		return []string{fmt.Sprintf("- ipBlock: {cidr: %s/%d}", other.Addr.Unmap(), bits)}
	}
	var pairs []string
	for _, pair := range strings.Split(flow.FormatLabels(pod.Labels), ",") {
		if key, value, ok := strings.Cut(pair, "="); ok {
			pairs = append(pairs, fmt.Sprintf("%s: %q", key, value))
		}
	}
	selector := "podSelector: {matchLabels: {" + strings.Join(pairs, ", ") + "}}"
	if len(pairs) == 0 {
		selector = "podSelector: {}"
	}
	if pod.Namespace == subject.Namespace {
		return []string{"- " + selector}
	}
	return []string{
		fmt.Sprintf("- namespaceSelector: {matchLabels: {%s: %s}}", corev1.LabelMetadataName, pod.Namespace),
		"  " + selector,
	}
}

// closes says how a direction that is allowed would be denied.
func (x *explainer) closes(section string, d evaluator.DirectionDecision, pod *corev1.Pod) []string {
	switch {
	case d.AllowedBy != nil && d.AllowedBy.IsClusterWide() && d.Tier == evaluator.TierAdmin:
		return []string{"change " + d.AllowedBy.Describe() + ", which no NetworkPolicy can overrule"}
	case pod == nil || d.Rule != "":
		// Policies do not apply, or a rule that no policy overrides does.
		return nil
	case len(d.Isolating) == 0:
		return []string{fmt.Sprintf("select %s/%s with a policy for %s that does not allow this", pod.Namespace, pod.Name, section)}
	case d.AllowedBy != nil:
		return []string{fmt.Sprintf("narrow or remove every %s rule above that allows it", section)}
	}
	return nil
}
