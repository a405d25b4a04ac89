package controllers

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pathproof/pathproof/api/v1alpha1"
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
// A change that comes while predictions are made is not in them.
func TestPolicyChangesCountForThePredictionsThatHaveThem(t *testing.T) {
	exp := podExpectation()
	tr := newTracker()
	track := tr.get(exp)
	first, second, third := epoch, epoch.Add(time.Second), epoch.Add(2*time.Second)
	tr.policyChanged(exp, first)
	tr.policyChanged(exp, second)
	track.takePolicyChange()
	tr.policyChanged(exp, third)
	if got := track.changedPolicyAt; !got.Equal(first) {
		t.Errorf("got %s, want the first that was not yet taken into account, %s", got, first)
	}
	// Where nothing came of it, as in a reconcile that failed, it still counts.
	track.takePolicyChange()
	if got := track.changedPolicyAt; !got.Equal(first) {
		t.Errorf("after another look: got %s, want %s", got, first)
	}
	track.changedPolicyAt = time.Time{}
	tr.policyChanged(exp, third)
	track.takePolicyChange()
	if got := track.changedPolicyAt; !got.Equal(third) {
		t.Errorf("got %s, want %s", got, third)
	}
}

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

// Of the flips of one change the status has the slowest. The precision is never said to be
// better than it is.
func TestLatencyInStatus(t *testing.T) {
	changed := time.Unix(1_700_000_000, 0)
	flip := func(path string, after, precision time.Duration) measuredFlip {
		return measuredFlip{path: path, changedAt: changed, flippedAt: changed.Add(after), took: max(0, after), precision: precision}
	}
	s := &scope{exp: &v1alpha1.ConnectivityExpectation{}}
	for _, m := range []measuredFlip{flip("a", -3*time.Millisecond, 40_001*time.Microsecond), flip("b", 120*time.Millisecond, 40*time.Millisecond), flip("c", 80*time.Millisecond, 0)} {
		s.setLatency(m)
		got := s.exp.Status.EnforcementLatency
		want := map[string]v1alpha1.EnforcementLatency{
			"a": {Path: "a", PrecisionMilliseconds: 41, FlippedAt: metav1.MicroTime{Time: changed.Add(-3 * time.Millisecond)}},
			"b": {Path: "b", Milliseconds: 120, PrecisionMilliseconds: 40, FlippedAt: metav1.MicroTime{Time: changed.Add(120 * time.Millisecond)}},
		}
		expected, ok := want[m.path]
		if !ok {
			expected = want["b"]
		}
		expected.Direction, expected.ChangedAt = v1alpha1.FlipClosed, metav1.MicroTime{Time: changed}
		if diff := cmp.Diff(expected, *got); diff != "" {
			t.Errorf("after the flip of %s (-want +got):\n%s", m.path, diff)
		}
	}
}

// A pod whose checks are evidence only has nothing to watch.
func TestControlsAreNotWatched(t *testing.T) {
	probe := v1alpha1.ProbeSettings{WatchMilliseconds: 20}
	control, declared := &plan.Edge{Control: true}, &plan.Edge{}
	for want, edges := range map[int][]*plan.Edge{0: {control, control}, 20: {control, declared}} {
		if got := wirePlan("x", probe, Options{}, edges).WatchMilliseconds; got != want {
			t.Errorf("%d checks are watched every %d ms, want %d", len(edges), got, want)
		}
	}
}
