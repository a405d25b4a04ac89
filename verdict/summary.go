package verdict

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/pathproof/pathproof/evaluator"
)

// Reasons of a side that holds.
const (
	// ReasonReady: every check is met.
	ReasonReady = "AllPathsMet"
	// ReasonAligned: the policies say what was declared.
	ReasonAligned = "PoliciesMatchIntent"
	// ReasonEnforced: the network does what the policies say.
	ReasonEnforced = "NetworkMatchesPolicies"
	// ReasonSatisfied: the wire agrees with what was declared.
	ReasonSatisfied = "NetworkMatchesIntent"
	// ReasonNoChecks: nothing was declared that could be checked.
	ReasonNoChecks = "NoChecks"
)

// Side is the summary of one side of the triangle over all checks.
type Side struct {
	Status  Status
	Reason  string
	Message string
}

// Summary condenses the verdicts of a run.
type Summary struct {
	Checks, Met, Violated, Unknown      int
	Ready, Aligned, Enforced, Satisfied Side
}

// Conclusive tells whether every check was observed.
func (s Summary) Conclusive() bool { return s.Checks > 0 && s.Unknown == 0 }

// Summarize condenses verdicts, which must be in the order of Judge.
func Summarize(verdicts []Verdict) Summary {
	s := Summary{Checks: len(verdicts)}
	for _, v := range verdicts {
		switch {
		case v.Violated():
			s.Violated++
		case v.Met():
			s.Met++
		default:
			s.Unknown++
		}
	}
	s.Aligned = side(verdicts, ReasonAligned, "the policies allow and deny what was declared",
		func(v Verdict) (Status, Cause) { return v.Aligned, alignedCause(v) })
	s.Enforced = side(verdicts, ReasonEnforced, enforcedMessage(verdicts),
		func(v Verdict) (Status, Cause) { return v.Enforced, enforcedCause(v) })
	s.Satisfied = side(verdicts, ReasonSatisfied, "every path is open or closed as declared",
		func(v Verdict) (Status, Cause) { return v.Satisfied, satisfiedCause(v) })
	s.Ready = side(verdicts, ReasonReady, fmt.Sprintf("all %d checks are met", len(verdicts)),
		func(v Verdict) (Status, Cause) {
			switch {
			case v.Violated():
				return False, v.Cause
			case v.Met():
				return True, None
			}
			return Unknown, v.Cause
		})
	return s
}

// enforcedMessage says so when no closed path was among the checks: then nothing
// in them shows that policies are enforced at all.
func enforcedMessage(verdicts []Verdict) string {
	for _, v := range verdicts {
		if v.Check.Prediction.Verdict == evaluator.Denied {
			return "the network does what the policies say"
		}
	}
	return "the network lets through what the policies allow; no check is of a path that policies deny, so denial was not tested"
}

func alignedCause(v Verdict) Cause {
	switch {
	case v.Aligned == False:
		return PolicyDrift
	case v.Check.Prediction.Rule != "" || v.Check.Prediction.Reason != "":
		return ImplementationDefined
	}
	return v.Cause
}

func enforcedCause(v Verdict) Cause {
	switch {
	case v.Enforced == False && v.Observed == Open:
		return EnforcementMissing
	case v.Enforced == False && v.Observed == OneWay:
		return Delivered
	case v.Enforced == False:
		return UnexpectedBlock
	case v.Inconclusive != "":
		return v.Inconclusive
	}
	return ImplementationDefined
}

func satisfiedCause(v Verdict) Cause {
	switch {
	case v.Satisfied == Unknown:
		return v.Inconclusive
	case v.Satisfied == False && v.Observed == Open && v.Check.Declared == Allow:
		return answerCause(v.Check)
	}
	return v.Cause
}

// side condenses one side: False if any verdict is, else Unknown if any is.
func side(verdicts []Verdict, reason, message string, of func(Verdict) (Status, Cause)) Side {
	if len(verdicts) == 0 {
		return Side{Unknown, ReasonNoChecks, "there is no check"}
	}
	for _, want := range []Status{False, Unknown} {
		var first *Verdict
		var firstCause Cause
		n := 0
		for i := range verdicts {
			if st, cause := of(verdicts[i]); st == want {
				if n++; first == nil {
					first, firstCause = &verdicts[i], cause
				}
			}
		}
		if first != nil {
			msg := "path " + first.Check.Path + ": " + Message(*first)
			if n > 1 {
				msg += fmt.Sprintf(" (%d checks in all)", n)
			}
			return Side{want, string(firstCause), msg}
		}
	}
	return Side{True, reason, message}
}

// Message says in one sentence what a verdict means, naming both ends, their
// nodes, the policy, and the direction that fails if it is known.
func Message(v Verdict) string {
	s := message(v)
	for _, a := range v.Attributions {
		s += "; " + a.words(v)
	}
	return s
}

func message(v Verdict) string {
	ends := describe(v.Check)
	policy := decidedBy(v.Check.Prediction)
	switch v.Cause {
	case None:
		return ends + " is as declared"
	case EnforcementMissing:
		return fmt.Sprintf("%s is open although %s", ends, policy)
	case Delivered:
		if v.Check.Declared == Deny {
			return fmt.Sprintf("%s is open one way: requests arrive although %s, and the replies are lost", ends, policy)
		}
		return fmt.Sprintf("%s is open one way: requests arrive, and the replies are lost although %s", ends, policy)
	case DriftMasked:
		return fmt.Sprintf("%s is open as declared, but only because the network does not enforce that %s", ends, policy)
	case PolicyDrift:
		if v.Check.Declared == Deny {
			return fmt.Sprintf("%s must be closed, but %s", ends, policy)
		}
		return fmt.Sprintf("%s must be open, but %s", ends, policy)
	case UnexpectedBlock:
		return fmt.Sprintf("%s is blocked although %s", ends, policy)
	case BlockedOutsidePolicy:
		return fmt.Sprintf("%s is closed, but by no policy: %s", ends, policy)
	case NameNotResolved:
		if v.Check.Result != nil && v.Check.Result.Detail != "" {
			return fmt.Sprintf("%s: the name does not resolve: %s", ends, v.Check.Result.Detail)
		}
		return ends + ": the name does not resolve"
	case UnexpectedAnswer:
		return fmt.Sprintf("%s: the answer is not what was declared: got %s, want %s", ends, cmp.Or(v.Check.Result.Detail, "other records"), answerText(v.Check.Answer))
	case DNSOverUDPOnly, DNSOverTCPOnly:
		return transportMessage(v)
	case ImplementationDefined:
		return fmt.Sprintf("%s is %s, and policies leave it open: %s", ends, strings.ToLower(v.Observed.String()), v.Check.Prediction.Reason)
	case ChangedDuringProbe, Flapping, IdentityDivergence, NoPositiveControl, NoSharedFamily, NoSourceMatched, NoTargetMatched, NotRecorded, PathBroken,
		PortNotFound, ProbeFailed, ProbeRefused, ResolverSilent, SourceCutOff, SourceNamespaceRefused, SourceNetworkDown, SourceNotReady, StandInRefused,
		TargetNotListening, TargetNotReady, TargetSilent, TooManyChecks, Unsupported:
		return ends + ": " + v.Evidence
	}
	return ends + ": " + string(v.Cause)
}

func describe(c Check) string {
	s := c.Source
	if c.SourceNode != "" {
		s += " on " + c.SourceNode
	}
	s += " to " + c.Target
	if c.Port != 0 {
		s += fmt.Sprintf(" %s %d", c.Transport, c.Port)
	}
	if c.TargetNode != "" {
		s += " on " + c.TargetNode
	}
	// What has two addresses has one name for both.
	if c.Addr.Is6() && c.Target != c.Addr.String() {
		s += " over IPv6"
	}
	return s
}

// decidedBy says which policies decide, in the direction that does.
func decidedBy(d evaluator.Decision) string {
	switch d.Verdict {
	case evaluator.Denied:
		dir, name := d.Ingress, "ingress"
		if d.Egress.Verdict == evaluator.Denied {
			dir, name = d.Egress, "egress"
		}
		if dir.DeniedBy != nil {
			name += fmt.Sprintf(", %s tier", dir.Tier)
		}
		return fmt.Sprintf("%s denies it (%s)", Policies(dir), name)
	case evaluator.Allowed:
		return allowedBy(d)
	case evaluator.Undefined:
		return "the prediction is undefined: " + d.Reason
	}
	return ""
}

// allowedBy says which policies allow, in either direction.
func allowedBy(d evaluator.Decision) string {
	var by []string
	named := false
	for _, dir := range []evaluator.DirectionDecision{d.Egress, d.Ingress} {
		switch ref := dir.AllowedBy; {
		case ref == nil:
		case named || ref.IsClusterWide():
			by = append(by, ref.String())
		default:
			// The kind is said once: policy a and b.
			by, named = append(by, "policy "+ref.String()), true
		}
	}
	if len(by) == 0 {
		return "no policy denies it"
	}
	return strings.Join(by, " and ") + " allows it"
}

// Policies names the policies that deny in one direction: the cluster-wide one that
// does, or else those that isolate the pod.
func Policies(d evaluator.DirectionDecision) string {
	if d.DeniedBy != nil {
		return d.DeniedBy.String()
	}
	names := make([]string, 0, len(d.Isolating))
	for _, p := range d.Isolating {
		names = append(names, p.String())
	}
	switch {
	case len(names) == 0:
		return "no policy"
	case len(names) == 1:
		return "policy " + names[0]
	case len(names) <= 3:
		return "each of the policies " + strings.Join(names, ", ")
	}
	return fmt.Sprintf("each of %d policies (%s, ...)", len(names), strings.Join(names[:3], ", "))
}
