package verdict

import (
	"slices"
	"strings"
	"testing"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/probe/wire"
)

func recorded(r *Recorded) func(*Check) { return func(c *Check) { c.Recorded = r } }

// ours is a check of a responder that was alive, and beside a control that got through.
func ours(d Declared, p evaluator.Verdict, o wire.Outcome, r *Recorded) Check {
	return with(check("x", d, p, o), responder(true), recorded(r))
}

func TestDeliveredIsNeverGreen(t *testing.T) {
	all := &Recorded{Arrived: 3}
	cases := map[string]struct {
		check                        Check
		want                         Observed
		cause                        Cause
		aligned, enforced, satisfied Status
	}{
		"declared and predicted closed":       {ours(Deny, evaluator.Denied, wire.TimedOut, all), OneWay, Delivered, True, False, False},
		"declared and predicted open":         {ours(Allow, evaluator.Allowed, wire.TimedOut, all), OneWay, Delivered, True, False, False},
		"declared closed, predicted open":     {ours(Deny, evaluator.Allowed, wire.TimedOut, all), OneWay, PolicyDrift, False, False, False},
		"declared open, predicted closed":     {ours(Allow, evaluator.Denied, wire.TimedOut, all), OneWay, PolicyDrift, False, False, False},
		"undefined":                           {ours(Deny, evaluator.Undefined, wire.TimedOut, all), OneWay, ImplementationDefined, Unknown, Unknown, False},
		"rejected on the way":                 {ours(Deny, evaluator.Denied, wire.Rejected, all), OneWay, Delivered, True, False, False},
		"connected without an echo":           {ours(Deny, evaluator.Denied, wire.Connected, all), OneWay, Delivered, True, False, False},
		"more in the record than attempts":    {ours(Deny, evaluator.Denied, wire.TimedOut, &Recorded{Arrived: 9}), OneWay, Delivered, True, False, False},
		"with a hole in the record":           {ours(Deny, evaluator.Denied, wire.TimedOut, &Recorded{Arrived: 3, Missing: "in words"}), OneWay, Delivered, True, False, False},
		"one of three":                        {ours(Deny, evaluator.Denied, wire.TimedOut, &Recorded{Arrived: 1}), Inconclusive, Flapping, True, Unknown, Unknown},
		"two of three, and the third replied": {with(ours(Allow, evaluator.Allowed, wire.TimedOut, &Recorded{Arrived: 2}), ended(wire.TimedOut, wire.Replied, wire.TimedOut)), Inconclusive, Flapping, True, Unknown, Unknown},
		"the probe failed":                    {ours(Deny, evaluator.Denied, wire.ProbeError, all), Inconclusive, ProbeFailed, True, Unknown, Unknown},
		"there is no report":                  {with(ours(Deny, evaluator.Denied, wire.TimedOut, all), func(c *Check) { c.Result = nil }), Inconclusive, ProbeFailed, True, Unknown, Unknown},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			before := tc.check.Result
			v := verdictOf(t, tc.check, control())
			if v.Observed != tc.want || v.Cause != tc.cause || v.Aligned != tc.aligned || v.Enforced != tc.enforced || v.Satisfied != tc.satisfied {
				t.Errorf("got %v by %s (%s), sides %v %v %v", v.Observed, v.Cause, v.Evidence, v.Aligned, v.Enforced, v.Satisfied)
			}
			if v.Met() {
				t.Error("it is green")
			}
			if before != nil && slices.Contains(before.Outcomes, wire.Delivered) {
				t.Error("the report was changed")
			}
		})
	}
}

func TestSilenceOfAResponderIsProvedByItsRecord(t *testing.T) {
	whole, hole := &Recorded{}, &Recorded{Missing: "the table is gone"}
	if v := verdictOf(t, ours(Deny, evaluator.Denied, wire.TimedOut, whole), control()); v.Observed != Blocked || !v.Met() || !strings.Contains(v.Evidence, "record has no request") {
		t.Fatalf("with its record: got %v (%s), want Blocked", v.Observed, v.Evidence)
	}
	for name, r := range map[string]*Recorded{"none": nil, "one with a hole": hole} {
		for _, declared := range []Declared{Deny, Allow} {
			for _, predicted := range []evaluator.Verdict{evaluator.Denied, evaluator.Allowed, evaluator.Undefined} {
				v := verdictOf(t, ours(declared, predicted, wire.TimedOut, r), control())
				if declared == Allow && predicted == evaluator.Allowed {
					if v.Cause != UnexpectedBlock {
						t.Errorf("%s: got %s: whichever way is silent, an open path is not", name, v.Cause)
					}
					continue
				}
				if v.Observed != Inconclusive || v.Inconclusive != NotRecorded || v.Met() {
					t.Errorf("%s, %v, %v: got %v by %s", name, declared, predicted, v.Observed, v.Inconclusive)
				}
			}
		}
	}
	if v := verdictOf(t, ours(Deny, evaluator.Denied, wire.TimedOut, hole), control()); !strings.HasSuffix(v.Evidence, ": the table is gone") {
		t.Errorf("got %q", v.Evidence)
	}
	if v := verdictOf(t, silentDeny(), control()); v.Observed != Blocked {
		t.Errorf("what is no responder has no record: got %v by %s", v.Observed, v.Inconclusive)
	}
}

// A request that arrives shows that the way there is alive, for those whose own record
// would have theirs; not for those who wait for an answer.
func TestLostRepliesAreEvidenceForTheWayThere(t *testing.T) {
	friend := with(control(), responder(true), recorded(&Recorded{Arrived: 3}), ended(wire.TimedOut, wire.TimedOut, wire.TimedOut))
	other := with(friend, toAddr(neighbour))
	stranger := ours(Deny, evaluator.Denied, wire.TimedOut, &Recorded{})
	for name, c := range map[string]Check{"to the same address": friend, "to the same node": other} {
		if v := verdictOf(t, stranger, c); v.Observed != Blocked || !v.Met() {
			t.Errorf("%s: got %v by %s (%s)", name, v.Observed, v.Inconclusive, v.Evidence)
		}
	}
	for name, checks := range map[string][]Check{
		"from another node":      {stranger, with(friend, fromNode("node-c"))},
		"over another protocol":  {stranger, with(friend, over(wire.UDP))},
		"of which only one came": {stranger, with(friend, recorded(&Recorded{Arrived: 1}))},
		"for one without record": {with(stranger, recorded(nil)), friend},
		"for a pod":              {silentDeny(), with(friend, func(c *Check) { c.Port = 80 })},
	} {
		if v := verdictOf(t, checks...); v.Observed != Inconclusive {
			t.Errorf("%s: got %v (%s)", name, v.Observed, v.Evidence)
		}
	}
	if v := verdictOf(t, with(silentDeny(), toPort(80)), with(friend, toAddr(neighbour)), with(control(), named("other"), toPort(80), fromNode("node-c"))); v.Inconclusive != PathBroken {
		t.Errorf("got %s (%s), want PathBroken: replies are lost between the nodes", v.Inconclusive, v.Evidence)
	}
}

func TestMessageOfDelivered(t *testing.T) {
	guard := evaluator.PolicyRef{Namespace: "ns", Name: "guard"}
	x := ours(Deny, evaluator.Denied, wire.TimedOut, &Recorded{Arrived: 3})
	x.Prediction.Ingress = evaluator.DirectionDecision{Verdict: evaluator.Denied, Isolating: []evaluator.PolicyRef{guard}}
	if got := Message(verdictOf(t, x)); !strings.HasSuffix(got, " is open one way: requests arrive although policy ns/guard denies it (ingress), and the replies are lost") {
		t.Errorf("got %q", got)
	}
	x = ours(Allow, evaluator.Allowed, wire.TimedOut, &Recorded{Arrived: 3})
	if got := Message(verdictOf(t, x)); !strings.HasSuffix(got, " is open one way: requests arrive, and the replies are lost although no policy denies it") {
		t.Errorf("got %q", got)
	}
}

// What arrives although policies deny it has passed both directions; where they allow it,
// one of them may be in the way of the reply.
func TestAttributionOfDelivered(t *testing.T) {
	half := func(p evaluator.Verdict, o wire.Outcome, arrived int) Half {
		v := verdictOf(t, ours(Deny, p, o, &Recorded{Arrived: arrived}), control())
		return Half{Verdict: &v}
	}
	v := verdictOf(t, with(ours(Deny, evaluator.Denied, wire.TimedOut, &Recorded{Arrived: 3}), func(c *Check) {
		c.Prediction.Ingress.Verdict, c.Prediction.Egress.Verdict = evaluator.Denied, evaluator.Allowed
	}))
	got := Attribute(v, Half{Verdict: &v}, Half{}, half(evaluator.Denied, wire.TimedOut, 3))
	if len(got) != 1 || got[0].Direction != Ingress || !got[0].Controlled || got[0].Node != "node-b" {
		t.Errorf("got %+v, want ingress, controlled", got)
	}
	v = verdictOf(t, ours(Allow, evaluator.Allowed, wire.TimedOut, &Recorded{Arrived: 3}))
	got = Attribute(v, Half{Verdict: &v}, half(evaluator.Allowed, wire.Replied, 0), half(evaluator.Allowed, wire.TimedOut, 3))
	if len(got) != 1 || got[0].Direction != Ingress || !got[0].Controlled {
		t.Errorf("got %+v, want ingress, controlled", got)
	}
}
