package verdict

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/probe/wire"
)

// directions is a decision with policies in both directions, of which some deny.
func directions(egress, ingress evaluator.Verdict) evaluator.Decision {
	one := func(v evaluator.Verdict, name string) evaluator.DirectionDecision {
		return evaluator.DirectionDecision{Verdict: v, Isolating: []evaluator.PolicyRef{{Namespace: "ns", Name: name}}}
	}
	d := evaluator.Decision{Egress: one(egress, "out"), Ingress: one(ingress, "in"), Verdict: evaluator.Allowed}
	if egress == evaluator.Denied || ingress == evaluator.Denied {
		d.Verdict = evaluator.Denied
	}
	return d
}

// halfOf is a half-path that was predicted and observed so.
func halfOf(name string, predicted evaluator.Verdict, o Observed) Half {
	c := check(name, Deny, predicted, wire.TimedOut)
	return Half{Verdict: &Verdict{Check: c, Observed: o, Evidence: "because of " + name}}
}

// attributed renders attributions without their evidence.
func attributed(list []Attribution) []string {
	var out []string
	for _, a := range list {
		s := string(a.Direction) + " " + a.Node
		if a.Controlled {
			s += " controlled"
		}
		out = append(out, strings.TrimSpace(s))
	}
	return out
}

func TestAttribute(t *testing.T) {
	const allowed, denied, undefined = evaluator.Allowed, evaluator.Denied, evaluator.Undefined
	without := func(egress, ingress bool) evaluator.Decision {
		d := directions(allowed, allowed)
		if egress {
			d.Egress.Isolating = nil
		}
		if ingress {
			d.Ingress.Isolating = nil
		}
		return d
	}
	missing := Half{Missing: "nobody is free of policies"}
	failed := Half{Verdict: &Verdict{Check: Check{Obstacle: SourceNotReady, Prediction: evaluator.Decision{Verdict: denied}}, Observed: Inconclusive, Evidence: "the pod did not start"}}
	open := func(d evaluator.Decision) (evaluator.Decision, Observed) { return d, Open }
	oneWay := func(d evaluator.Decision) (evaluator.Decision, Observed) { return d, OneWay }
	closed := func(d evaluator.Decision) (evaluator.Decision, Observed) { return d, Blocked }
	type verdictOn = func() (evaluator.Decision, Observed)
	on := func(f func(evaluator.Decision) (evaluator.Decision, Observed), d evaluator.Decision) verdictOn {
		return func() (evaluator.Decision, Observed) { return f(d) }
	}
	for name, tc := range map[string]struct {
		verdict verdictOn
		// again is what the path itself is at the time of the half-paths, if it differs.
		again           Observed
		changed         bool
		egress, ingress Half
		want            []string
		evidence        string
	}{
		"open, ingress denies, and does for nobody": {
			verdict: on(open, directions(allowed, denied)), ingress: halfOf("in", denied, Open), want: []string{"Ingress node-b controlled"},
			evidence: "ns/{app=in} on node-a to ns/mongodb TCP 27017 on node-b is open, too, and only the target's ingress policies could close it",
		},
		"open, egress denies, and does for nobody": {
			verdict: on(open, directions(denied, allowed)), egress: halfOf("out", denied, Open), want: []string{"Egress node-a controlled"},
			evidence: "only the source's egress policies could close it",
		},
		"open, both deny, and neither does": {
			verdict: on(open, directions(denied, denied)), egress: halfOf("out", denied, Open), ingress: halfOf("in", denied, Open),
			want: []string{"Egress node-a controlled", "Ingress node-b controlled"},
		},
		"open, both deny, and ingress does for others": {
			verdict: on(open, directions(denied, denied)), egress: halfOf("out", denied, Open), ingress: halfOf("in", denied, Blocked),
			want: []string{"Egress node-a controlled", "Ingress node-b"}, evidence: "so that they are enforced there, and fail on this path",
		},
		"open, and there is no control": {
			verdict: on(open, directions(allowed, denied)), ingress: missing, want: []string{"Ingress node-b"}, evidence: "not controlled: nobody is free of policies",
		},
		"open, and the control did not run": {
			verdict: on(open, directions(allowed, denied)), ingress: failed, want: []string{"Ingress node-b"}, evidence: "not controlled: the pod did not start",
		},
		"open, and nothing was concluded of the control": {
			verdict: on(open, directions(allowed, denied)), ingress: halfOf("in", denied, Inconclusive), want: []string{"Ingress node-b"}, evidence: "not controlled: because of in",
		},
		"open, and the control is open by its policies": {
			verdict: on(open, directions(allowed, denied)), ingress: halfOf("in", allowed, Open), want: []string{"Ingress node-b"}, evidence: "turned out to be Allowed",
		},
		"open, and closed by now": {
			verdict: on(open, directions(allowed, denied)), changed: true, again: Blocked, ingress: halfOf("in", denied, Open), want: []string{"Ingress node-b"},
			evidence: "not controlled, because the path was closed when it was probed again",
		},
		"open, and it is not certain which direction denies": {
			verdict: on(open, evaluator.Decision{Verdict: denied}), want: []string{"Unknown"}, evidence: "neither direction is certain to deny it",
		},
		"closed by ingress": {
			verdict: on(closed, directions(allowed, allowed)), egress: halfOf("out", allowed, Open), ingress: halfOf("in", allowed, Blocked),
			want: []string{"Ingress node-b controlled"}, evidence: "ns/{app=in} on node-a to ns/mongodb TCP 27017 on node-b is closed, too, and only the target's ingress policies could close it",
		},
		"closed by egress": {
			verdict: on(closed, directions(allowed, allowed)), egress: halfOf("out", allowed, Blocked), ingress: halfOf("in", allowed, Open),
			want: []string{"Egress node-a controlled"},
		},
		"closed by both": {
			verdict: on(closed, directions(allowed, allowed)), egress: halfOf("out", allowed, Blocked), ingress: halfOf("in", allowed, Blocked),
			want: []string{"Egress node-a controlled", "Ingress node-b controlled"},
		},
		"closed by egress, whatever ingress does": {
			verdict: on(closed, directions(allowed, allowed)), egress: halfOf("out", allowed, Blocked), ingress: missing, want: []string{"Egress node-a controlled"},
		},
		"closed, and each direction lets others through": {
			verdict: on(closed, directions(allowed, allowed)), egress: halfOf("out", allowed, Open), ingress: halfOf("in", allowed, Open),
			want: []string{"Unknown"}, evidence: "each direction lets through what only it could close",
		},
		"closed, and what has no egress policies comes through to a target without ingress policies": {
			verdict: on(closed, without(false, true)), egress: missing, ingress: halfOf("in", allowed, Open),
			want: []string{"Egress node-a controlled"}, evidence: "is open, and differs in nothing but the source's egress policies",
		},
		"closed, and a source without egress policies comes through to what has no ingress policies": {
			verdict: on(closed, without(true, false)), egress: halfOf("out", allowed, Open), ingress: missing, want: []string{"Ingress node-b controlled"},
		},
		"closed, and what comes through may differ in ingress, too": {
			verdict: on(closed, directions(allowed, allowed)), egress: missing, ingress: halfOf("in", allowed, Open), want: []string{"Unknown"},
			evidence: "egress: nobody is free of policies; ingress: ns/{app=in} on node-a to ns/mongodb TCP 27017 on node-b is open",
		},
		"closed, and no policy concerns either end": {
			verdict: on(closed, without(true, true)), egress: missing, ingress: halfOf("in", allowed, Open), want: []string{"Unknown"},
		},
		"closed, and there is no control": {
			verdict: on(closed, directions(allowed, allowed)), egress: missing, ingress: failed, want: []string{"Unknown"},
			evidence: "egress: nobody is free of policies; ingress: the pod did not start",
		},
		"closed, and a control that is closed by its policies says nothing": {
			verdict: on(closed, directions(allowed, allowed)), egress: halfOf("out", denied, Blocked), ingress: halfOf("in", undefined, Blocked), want: []string{"Unknown"},
		},
		"closed, and nothing was concluded of the controls": {
			verdict: on(closed, directions(allowed, allowed)), egress: halfOf("out", allowed, Inconclusive), ingress: halfOf("in", allowed, Inconclusive), want: []string{"Unknown"},
			evidence: "egress: because of out; ingress: because of in",
		},
		"open one way although ingress denies it": {
			verdict: on(oneWay, directions(allowed, denied)), ingress: halfOf("in", denied, OneWay), want: []string{"Ingress node-b controlled"},
		},
		"open one way, and others are answered": {
			verdict: on(oneWay, directions(allowed, denied)), ingress: halfOf("in", denied, Open), want: []string{"Ingress node-b controlled"},
		},
		"open one way, where the target cannot answer": {
			verdict: on(oneWay, directions(allowed, allowed)), egress: halfOf("out", allowed, Open), ingress: halfOf("in", allowed, OneWay), want: []string{"Ingress node-b controlled"},
		},
		"open one way, where the source hears no answer": {
			verdict: on(oneWay, directions(allowed, allowed)), egress: halfOf("out", allowed, OneWay), ingress: halfOf("in", allowed, Open), want: []string{"Egress node-a controlled"},
		},
		"open one way, and open by now": {
			verdict: on(oneWay, directions(allowed, allowed)), changed: true, again: Open, egress: halfOf("out", allowed, OneWay), want: []string{"Unknown"},
			evidence: "the path was open when it was probed again",
		},
		"closed, and open by now": {
			verdict: on(closed, directions(allowed, allowed)), changed: true, again: Open, egress: halfOf("out", allowed, Blocked), want: []string{"Unknown"},
			evidence: "the path was open when it was probed again",
		},
		"closed, and nothing can be concluded by now": {
			verdict: on(closed, directions(allowed, allowed)), changed: true, again: Inconclusive, egress: halfOf("out", allowed, Blocked), want: []string{"Unknown"},
			evidence: "nothing could be concluded when the path was probed again: because of again",
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := Verdict{Check: check("x", Deny, denied, wire.TimedOut), Enforced: False}
			v.Check.Prediction, v.Observed = tc.verdict()
			again := halfOf("again", v.Check.Prediction.Verdict, v.Observed)
			if tc.changed {
				again.Verdict.Observed = tc.again
			}
			got := Attribute(v, again, tc.egress, tc.ingress)
			if diff := cmp.Diff(tc.want, attributed(got)); diff != "" {
				t.Fatalf("(-want +got):\n%s", diff)
			}
			all := fmt.Sprint(got)
			if !strings.Contains(all, tc.evidence) {
				t.Errorf("got %s, want it to say %q", all, tc.evidence)
			}
			for _, a := range got {
				if a.Evidence == "" {
					t.Errorf("%s has no evidence", a.Direction)
				}
				if a.Controlled && strings.HasPrefix(a.Evidence, "not controlled") {
					t.Errorf("%s is controlled, and is not: %s", a.Direction, a.Evidence)
				}
			}
		})
	}
}

// A check that could not be made again says so.
func TestAttributeWithoutTheCheckItself(t *testing.T) {
	v := Verdict{Check: check("x", Allow, evaluator.Allowed, wire.TimedOut), Observed: Blocked, Enforced: False}
	got := Attribute(v, Half{Missing: "it is gone"}, Half{}, halfOf("in", evaluator.Allowed, Blocked))
	if len(got) != 1 || got[0].Direction != DirectionUnknown || got[0].Evidence != "the path could not be probed again: it is gone" {
		t.Errorf("got %+v", got)
	}
}

func TestMessageNamesTheDirection(t *testing.T) {
	v := verdictOf(t, func() Check {
		c := check("x", Deny, evaluator.Denied, wire.Connected)
		c.Prediction = directions(evaluator.Denied, evaluator.Denied)
		return c
	}())
	bare := Message(v)
	for _, tc := range []struct {
		list []Attribution
		open bool
		want string
	}{
		{nil, true, ""},
		{[]Attribution{{Direction: Ingress, Node: "node-b"}}, true, "; ingress of the target would have to close it, and node node-b does not"},
		{
			[]Attribution{{Direction: Egress, Node: "node-a"}, {Direction: Ingress}}, true,
			"; egress of the source would have to close it, and node node-a does not; ingress of the target would have to close it, and its node does not",
		},
		{[]Attribution{{Direction: DirectionUnknown}}, true, "; which direction fails to close it is not known"},
		{[]Attribution{{Direction: Egress, Node: "node-a"}}, false, "; egress of the source closes it, on node node-a"},
		{[]Attribution{{Direction: DirectionUnknown}}, false, "; which direction closes it is not known"},
	} {
		v.Attributions, v.Observed = tc.list, Blocked
		if tc.open {
			v.Observed = Open
		}
		if got := Message(v); got != bare+tc.want {
			t.Errorf("got %q, want it to end in %q", got, tc.want)
		}
	}
}

// Whatever is found: there is an answer, it names no direction that the prediction rules
// out, and it is controlled only if a half-path that could have failed says so.
func TestAttributionInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) evaluator.Verdict {
			return rapid.SampledFrom([]evaluator.Verdict{evaluator.Allowed, evaluator.Denied, evaluator.Undefined}).Draw(t, name)
		}
		drawHalf := func(name string) Half {
			if rapid.Bool().Draw(t, name+" is missing") {
				return Half{Missing: "nobody"}
			}
			return halfOf(name, draw(name), rapid.SampledFrom([]Observed{Open, Blocked, Inconclusive}).Draw(t, name+" observed"))
		}
		v := Verdict{Check: check("x", Deny, evaluator.Denied, wire.TimedOut), Enforced: False}
		v.Check.Prediction, v.Observed = directions(evaluator.Allowed, evaluator.Allowed), Blocked
		if rapid.Bool().Draw(t, "open") {
			v.Check.Prediction, v.Observed = directions(draw("egress"), draw("ingress")), Open
		}
		again := drawHalf("again")
		halves := map[Direction]Half{Egress: drawHalf("out"), Ingress: drawHalf("in")}
		got := Attribute(v, again, halves[Egress], halves[Ingress])
		if len(got) < 1 || len(got) > 2 || (len(got) == 2 && (got[0].Direction != Egress || got[1].Direction != Ingress)) {
			t.Fatalf("got %+v", got)
		}
		for _, a := range got {
			decision := v.Check.Prediction.Ingress
			if a.Direction == Egress {
				decision = v.Check.Prediction.Egress
			}
			switch {
			case a.Evidence == "":
				t.Fatalf("no evidence: %+v", a)
			case a.Direction == DirectionUnknown:
				if a.Controlled || a.Node != "" {
					t.Fatalf("it is not known, and is: %+v", a)
				}
			case v.Observed == Open && decision.Verdict != evaluator.Denied:
				t.Fatalf("%s does not deny the path: %+v", a.Direction, a)
			case v.Observed == Blocked && !a.Controlled:
				t.Fatalf("nothing but a half-path can tell which direction closes: %+v", a)
			}
			if !a.Controlled {
				continue
			}
			h := halves[a.Direction]
			failed := h.Verdict != nil && h.Verdict.Observed == v.Observed && h.Verdict.Check.Prediction.Verdict != evaluator.Undefined
			if again.Verdict == nil || again.Verdict.Observed != v.Observed || !failed {
				t.Fatalf("controlled by nothing: %+v", a)
			}
			if v.Observed == Open != (h.Verdict.Check.Prediction.Verdict == evaluator.Denied) {
				t.Fatalf("controlled by what could not have failed: %+v", a)
			}
		}
	})
}

func TestMessageSaysThatRepliesAreLost(t *testing.T) {
	v := Verdict{Check: check("x", Allow, evaluator.Allowed, wire.Delivered), Observed: OneWay, Enforced: False, Cause: Delivered}
	v.Attributions = []Attribution{{Direction: Ingress, Node: "node-b"}}
	if got := Message(v); !strings.HasSuffix(got, "; ingress of the target loses the replies, on node node-b") {
		t.Errorf("got %q", got)
	}
}

// What a stand-in for a silent target tells: that it is the target, or which direction.
func TestAttributeSilence(t *testing.T) {
	const allowed, denied = evaluator.Allowed, evaluator.Denied
	silentPath := func() Half {
		return Half{Verdict: &Verdict{Check: check("again", Allow, allowed, wire.TimedOut), Observed: Inconclusive, Inconclusive: TargetSilent}}
	}
	standIn := func(o Observed) Half {
		h := halfOf("again", allowed, o)
		h.Verdict.Check.Prediction = directions(allowed, allowed)
		h.Verdict.Check.Prediction.Egress.Isolating = nil
		return h
	}
	missing := Half{Missing: "nobody is free of policies"}
	open := halfOf("out", allowed, Open)
	for name, tc := range map[string]struct {
		again, standIn, egress, ingress Half
		want                            []string
		evidence                        string
	}{
		"the stand-in answers":               {silentPath(), standIn(Open), open, missing, []string{"Unknown"}, "what is silent is the target itself, or the way to its address"},
		"the stand-in's replies are lost":    {silentPath(), standIn(OneWay), open, missing, []string{"Ingress node-b controlled"}, "and its replies are lost; ns/{app=out} on node-a to ns/mongodb TCP 27017 on node-b is open, and differs in nothing but"},
		"the stand-in is not reached":        {silentPath(), standIn(Blocked), open, missing, []string{"Ingress node-b controlled"}, "is not reached either"},
		"the source hears nobody":            {silentPath(), standIn(OneWay), halfOf("out", allowed, OneWay), missing, []string{"Egress node-a controlled"}, "and its replies are lost"},
		"nothing tells the directions apart": {silentPath(), standIn(OneWay), missing, missing, []string{"Unknown"}, "and its replies are lost; egress: nobody is free of policies"},
		"nothing is known of the stand-in":   {silentPath(), standIn(Inconclusive), open, missing, []string{"Unknown"}, "nothing could be concluded of a stand-in for the target: because of again"},
		"policies deny the stand-in":         {silentPath(), halfOf("again", denied, Blocked), open, missing, []string{"Unknown"}, "turned out to be Denied for a stand-in"},
		"there is none":                      {silentPath(), missing, Half{}, Half{}, []string{"Unknown"}, "there is no stand-in that could tell: nobody is free of policies"},
		"the target answers by now":          {halfOf("again", allowed, Open), standIn(OneWay), open, missing, []string{"Unknown"}, "the path was open when it was probed again"},
		"the path could not be probed":       {missing, standIn(OneWay), open, missing, []string{"Unknown"}, "could not be probed again"},
	} {
		t.Run(name, func(t *testing.T) {
			got := AttributeSilence(tc.again, tc.standIn, tc.egress, tc.ingress)
			if diff := cmp.Diff(tc.want, attributed(got)); diff != "" {
				t.Fatalf("(-want +got):\n%s", diff)
			}
			if !strings.Contains(got[0].Evidence, tc.evidence) {
				t.Errorf("got %q, want it to say %q", got[0].Evidence, tc.evidence)
			}
		})
	}
}

func TestSilentVerdicts(t *testing.T) {
	v := Verdict{Check: check("x", Allow, evaluator.Allowed, wire.TimedOut), Observed: Inconclusive, Inconclusive: TargetSilent, Cause: TargetSilent}
	if !v.Silent() || !v.Attributable() {
		t.Error("a target that answers nobody is not asked about")
	}
	bare := Message(v)
	v.Attributions = []Attribution{{Direction: Ingress, Node: "node-b"}}
	if got := Message(v); got != bare+"; ingress of the target is in the way, on node node-b" {
		t.Errorf("got %q", got)
	}
	v.Attributions = unknown("it is the target")
	if got := Message(v); got != bare+"; it is the target" {
		t.Errorf("got %q", got)
	}
	v.Check.Prediction.Verdict = evaluator.Denied
	if v.Silent() || v.Attributable() {
		t.Error("silence that policies ask for is asked about")
	}
}
