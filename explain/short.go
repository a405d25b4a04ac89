package explain

import (
	"strconv"
	"strings"

	"github.com/pathproof/pathproof/evaluator"
)

// Short says in one line why a flow is allowed, denied or undefined.
func Short(d evaluator.Decision) string {
	switch d.Verdict {
	case evaluator.Undefined:
		if d.Rule == "" {
			return d.Reason
		}
		return d.Rule + ": " + d.Reason
	case evaluator.Denied:
		switch {
		case d.Egress.Verdict != evaluator.Denied:
			return "ingress: " + shortDirection(&d.Ingress)
		case d.Ingress.Verdict != evaluator.Denied:
			return "egress: " + shortDirection(&d.Egress)
		}
	case evaluator.Allowed:
		if d.Egress.AllowedBy == nil && d.Ingress.AllowedBy == nil && d.Egress.Reason == "" && d.Ingress.Reason == "" {
			return "no policy isolates either end"
		}
	}
	return "egress: " + shortDirection(&d.Egress) + "; ingress: " + shortDirection(&d.Ingress)
}

func shortDirection(d *evaluator.DirectionDecision) string {
	switch {
	case d.Reason != "":
		return d.Reason
	case d.DeniedBy != nil:
		return "denied by " + d.DeniedBy.Describe() + " (" + d.Tier.String() + " tier)"
	case d.AllowedBy != nil && d.AllowedBy.IsClusterWide():
		return "allowed by " + d.AllowedBy.Describe() + " (" + d.Tier.String() + " tier)"
	case d.AllowedBy != nil:
		return "allowed by rule " + strconv.Itoa(d.AllowedBy.Index) + " of " + d.AllowedBy.String()
	case d.Verdict == evaluator.Allowed:
		return "not isolated"
	case len(d.Isolating) == 1:
		return "no rule of " + d.Isolating[0].String() + " allows it"
	}
	return "no rule of " + refs(d.Isolating) + " allows it"
}

// refs lists policies, all of them: the one that should have allowed the flow may
// be any.
func refs(list []evaluator.PolicyRef) string {
	names := make([]string, len(list))
	for i, p := range list {
		names[i] = p.String()
	}
	return strings.Join(names, ", ")
}
