package controllers

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/probe/wire"
)

// Each change of a prediction explains the flips that follow it, once for each check; a flip
// that is seen before its change is kept for it.
func TestLatencyExplainsFlips(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	edge := func(path string, v evaluator.Verdict) *plan.Edge {
		return &plan.Edge{Path: path, Source: &plan.Source{Key: "web"}, Target: plan.Target{Name: "db"}, Prediction: evaluator.Decision{Verdict: v}}
	}
	flip := func(key string, open bool, ms int) seenFlip {
		return seenFlip{Flip: wire.Flip{Check: key, Open: open, AtMicroseconds: at(ms).UnixMicro(), GapMicroseconds: 20_000}, pod: "pod-x"}
	}
	const allowed, denied, undefined = evaluator.Allowed, evaluator.Denied, evaluator.Undefined
	type step struct {
		now     int
		verdict evaluator.Verdict
		flips   []seenFlip
	}
	cases := map[string]struct {
		steps []step
		want  []string
	}{
		"closed after the change": {[]step{{0, allowed, nil}, {1000, denied, nil}, {2000, denied, []seenFlip{flip("c1", false, 1120)}}}, []string{"p open=false after 120ms, 20ms"}},
		"opened after the change": {[]step{{0, denied, nil}, {1000, allowed, []seenFlip{flip("c1", true, 1050)}}}, []string{"p open=true after 50ms, 20ms"}},
		"the flip was seen first": {[]step{{0, allowed, nil}, {900, allowed, []seenFlip{flip("c1", false, 880)}}, {1000, denied, nil}}, []string{"p open=false after 0ms, 20ms"}},
		"every check once": {[]step{{0, allowed, nil}, {1000, denied, []seenFlip{flip("c1", false, 1100), flip("c2", false, 1200), flip("c1", false, 1300)}}},
			[]string{"p open=false after 100ms, 20ms", "p open=false after 200ms, 20ms"}},
		"the other direction":            {[]step{{0, allowed, nil}, {1000, denied, []seenFlip{flip("c1", true, 1100)}}}, nil},
		"long before the change":         {[]step{{0, allowed, nil}, {5000, denied, []seenFlip{flip("c1", false, 1000)}}}, nil},
		"without a change":               {[]step{{0, allowed, nil}, {1000, allowed, []seenFlip{flip("c1", false, 1000)}}}, nil},
		"of a check that is not watched": {[]step{{0, allowed, nil}, {1000, denied, []seenFlip{flip("c9", false, 1100)}}}, nil},
		"from undefined":                 {[]step{{0, undefined, nil}, {1000, denied, []seenFlip{flip("c1", false, 1100)}}}, nil},
		"a change that was taken back":   {[]step{{0, allowed, nil}, {1000, denied, nil}, {2000, allowed, []seenFlip{flip("c1", false, 1100)}}}, nil},
		"after too long":                 {[]step{{0, allowed, nil}, {1000, denied, nil}, {400_000, denied, nil}, {400_500, denied, []seenFlip{flip("c1", false, 400_400)}}}, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			l := &latency{expected: map[string]*expectedFlip{}, watched: map[watchedCheck]string{}}
			for _, key := range []string{"c1", "c2"} {
				l.watched[watchedCheck{"pod-x", key}] = subject(edge("p", allowed))
			}
			var got []string
			for _, s := range tc.steps {
				l.predict([]*plan.Edge{edge("p", s.verdict)}, at(s.now))
				for _, m := range l.measure(s.flips, at(s.now)) {
					got = append(got, fmt.Sprintf("%s open=%v after %dms, %dms", m.path, m.open, m.took.Milliseconds(), m.precision.Milliseconds()))
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// Each address of a target is predicted for itself: what a policy does to one is no change
// of the other, now or later.
func TestLatencyKeepsFamiliesApart(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	edges := func(v4, v6 evaluator.Verdict) []*plan.Edge {
		var out []*plan.Edge
		for addr, v := range map[string]evaluator.Verdict{"10.0.0.1": v4, "fd00::1": v6} {
			out = append(out, &plan.Edge{
				Path: "p", Source: &plan.Source{Key: "web"}, Prediction: evaluator.Decision{Verdict: v},
				Target: plan.Target{Kind: plan.TargetPod, Name: "db", Addr: netip.MustParseAddr(addr)},
			})
		}
		return out
	}
	l := &latency{expected: map[string]*expectedFlip{}, watched: map[watchedCheck]string{}}
	l.predict(edges(evaluator.Allowed, evaluator.Allowed), start)
	l.predict(edges(evaluator.Denied, evaluator.Allowed), start.Add(time.Second))
	l.predict(edges(evaluator.Denied, evaluator.Allowed), start.Add(time.Minute))
	if len(l.expected) != 1 {
		t.Fatalf("%d flips are expected, want that of IPv4", len(l.expected))
	}
	for _, want := range l.expected {
		if want.open || !want.at.Equal(start.Add(time.Second)) {
			t.Errorf("got %+v, want the path to close since the first change", want)
		}
	}
}
