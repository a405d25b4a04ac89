package controllers

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/verdict"
)

var waysStart = time.Unix(1_700_000_000, 0)

// fromTo is a check between two nodes over IPv4 and TCP.
func fromTo(from, to string) verdict.Check {
	return verdict.Check{SourceNode: from, TargetNode: to, Addr: netip.MustParseAddr("10.0.0.9"), Transport: wire.TCP}
}

// metBy is what a round from a node to another met on all ways that are probed.
func metBy(to string, o wire.Outcome) map[string]*canary.Pair {
	pair := &canary.Pair{To: to, Outcomes: map[canary.Probe]wire.Outcomes{}}
	for _, role := range canary.Roles() {
		for _, p := range canary.Probes(canary.Rows([]v1alpha1.CanaryFeature{v1alpha1.FeatureDefaultDeny, v1alpha1.FeatureUDP}), role) {
			pair.Outcomes[p] = wire.Outcomes{o, o, o}
		}
	}
	return map[string]*canary.Pair{to: pair}
}

// twoWays covers the nodes a and b, which probe each other.
func twoWays() *CanaryWays {
	w := NewCanaryWays()
	w.cover(map[string][]string{"a": {"a", "b"}, "b": {"b", "a"}}, nil)
	return w
}

// answer is what is known of a check, without asking twice.
func answer(w *CanaryWays, c verdict.Check, after time.Time) string {
	way, pending := w.of(c, after)
	if pending {
		return "pending"
	}
	state := map[verdict.WayState]string{verdict.WayUnknown: "WayUnknown", verdict.WayCarried: "WayCarried", verdict.WayBroken: "WayBroken"}[way.State]
	return strings.TrimSpace(state + " " + way.Why)
}

// Only a round that was asked for after the run counts, and only for the way that it took.
func TestAWayCountsIfItWasMeasuredAfterTheRun(t *testing.T) {
	w := twoWays()
	at := func(seconds int) time.Time { return waysStart.Add(time.Duration(seconds) * time.Second) }
	expect := func(when, want string, c verdict.Check, after time.Time) {
		t.Helper()
		if got := answer(w, c, after); got != want {
			t.Errorf("%s: got %q, want %q", when, got, want)
		}
	}
	w.note("a", time.Time{}, metBy("b", wire.Replied))
	expect("a round that nobody asked for", "pending", fromTo("a", "b"), at(10))
	if more := w.begin(at(11)); more || !w.round("a").Equal(at(11)) {
		t.Fatalf("the round is asked for at %v, more to come: %v", w.round("a"), more)
	}
	expect("before the round has been seen", "pending", fromTo("a", "b"), at(10))
	w.note("a", time.Time{}, metBy("b", wire.Replied))
	expect("a round on the plan before", "pending", fromTo("a", "b"), at(10))
	w.note("a", at(11), metBy("b", wire.Replied))
	expect("the round that was asked for", "WayCarried", fromTo("a", "b"), at(10))
	expect("the same for a run that ended as it was asked for", "WayCarried", fromTo("a", "b"), at(11))

	expect("a run that ended later", "pending", fromTo("a", "b"), at(12))
	expect("the other direction", "pending", fromTo("b", "a"), at(10))
	expect("within the node", "pending", fromTo("a", "a"), at(10))
	expect("a node that is not probed", "WayUnknown it does not probe node c from node a: see its spec.neighbours and status.nodes", fromTo("a", "c"), at(10))
	six := fromTo("a", "b")
	six.Addr = netip.MustParseAddr("fd00::9")
	expect("the other family", "WayUnknown it does not probe TCP in this address family there", six, at(10))
	sctp := fromTo("a", "b")
	sctp.Transport = wire.SCTP
	expect("a protocol that is not probed", "WayUnknown it does not probe SCTP in this address family there", sctp, at(10))

	w.note("a", at(11), metBy("b", wire.TimedOut))
	expect("the next round, on the same plan", "WayBroken", fromTo("a", "b"), at(10))
	w.note("a", at(11), metBy("b", wire.Replied))
	expect("a way that was broken just before", "WayUnknown its pods reach each other there, and did not in the round before", fromTo("a", "b"), at(10))
	w.note("a", at(11), metBy("b", wire.Replied))
	expect("one that has been good twice", "WayCarried", fromTo("a", "b"), at(10))
	w.note("a", at(11), metBy("b", wire.Refused))
	expect("a round in which nothing listened", "WayUnknown not all of its own probes were answered there", fromTo("a", "b"), at(10))

	w.cover(map[string][]string{"a": {"a", "b"}, "b": {"b", "a"}}, map[string]string{"b": "its pod does not run"})
	expect("a node that does not take part any more", "WayUnknown node b does not take part: its pod does not run", fromTo("a", "b"), at(10))
	w.cover(map[string][]string{"a": {"a"}}, nil)
	w.cover(map[string][]string{"a": {"a", "b"}, "b": {"b", "a"}}, nil)
	expect("a node that has been away", "pending", fromTo("a", "b"), at(10))
	w.clear()
	expect("a canary that has gone, and came again", "pending", fromTo("a", "b"), at(10))
}

func TestRoundsThatAreAskedForTakeTurns(t *testing.T) {
	w := NewCanaryWays()
	ring := map[string][]string{}
	for i := range waysBurst + 2 {
		node := fmt.Sprintf("node-%02d", i)
		ring[node] = []string{node}
	}
	w.cover(ring, nil)
	for _, node := range sortedKeys(ring) {
		if got := answer(w, fromTo(node, node), waysStart); got != "pending" {
			t.Fatalf("got %q", got)
		}
	}
	begun := func(now time.Time) (out []string) {
		before := map[string]time.Time{}
		for node := range ring {
			before[node] = w.round(node)
		}
		w.begin(now)
		for _, node := range sortedKeys(ring) {
			if !w.round(node).Equal(before[node]) {
				out = append(out, node)
			}
		}
		return out
	}
	now := waysStart.Add(time.Second)
	if got := begun(now); len(got) != waysBurst {
		t.Fatalf("%v began at once", got)
	}
	if !w.begin(now) {
		t.Error("nobody looks at those that wait")
	}
	w.note("node-00", now, metBy("node-00", wire.Replied))
	if got := begun(now.Add(time.Second)); len(got) != 1 || got[0] != "node-08" {
		t.Errorf("%v began when one had ended", got)
	}
	if got := answer(w, fromTo("node-00", "node-00"), waysStart); got != "WayCarried" {
		t.Errorf("got %q of the round that has ended", got)
	}
	// One that does not come to its end gives way, and its own is asked for anew by whoever
	// still wants it.
	if got := begun(now.Add(waysWait)); len(got) != 1 || got[0] != "node-09" {
		t.Errorf("%v began when others had not ended in time", got)
	}
	if got := begun(now.Add(waysWait + time.Second)); got != nil {
		t.Errorf("%v began, and nobody has asked", got)
	}
	// One that is asked for while the canary is at work has to wait for its next look.
	late := now.Add(2 * waysWait)
	if answer(w, fromTo("node-05", "node-05"), late); begun(late.Add(-time.Millisecond)) != nil || !w.begin(late.Add(-time.Millisecond)) {
		t.Error("a round began that would not count")
	}
	if got := begun(late); len(got) != 1 || got[0] != "node-05" {
		t.Errorf("%v began at the next look", got)
	}
}

// The run waits for the canary, but not for ever, and not where there is none.
func TestTheRunWaitsForTheCanary(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	there := &v1alpha1.EnforcementCanary{}
	there.Name = v1alpha1.CanaryName
	silent := func() []verdict.Check {
		c := fromTo("a", "b")
		c.ID, c.Declared, c.Prediction.Verdict = "x", verdict.Deny, evaluator.Denied
		c.Responder, c.ListenerAlive, c.Recorded, c.SourceProbed, c.TargetReady = true, true, &verdict.Recorded{}, true, true
		c.Result = &wire.Result{Outcomes: wire.Outcomes{wire.TimedOut, wire.TimedOut}}
		return []verdict.Check{c}
	}
	for name, tc := range map[string]struct {
		canary bool
		known  func(w *CanaryWays)
		// later is how long after the reports the run looks for the last time.
		later time.Duration
		waits bool
		want  verdict.Observed
		words string
	}{
		"without a canary":          {want: verdict.Inconclusive, words: "there is no EnforcementCanary"},
		"which has not answered":    {canary: true, waits: true},
		"which has only just begun": {canary: true, waits: true, known: func(w *CanaryWays) { w.clear() }},
		"which does not answer":     {canary: true, later: waysWait, want: verdict.Inconclusive, words: "its pods on node a gave no report within 20s"},
		"which does not probe the pair": {
			canary: true, known: func(w *CanaryWays) { w.cover(map[string][]string{"a": {"a"}}, nil) }, want: verdict.Inconclusive, words: "it does not probe node b from node a",
		},
		"which knows something that is old": {
			canary: true, known: func(w *CanaryWays) { w.note("a", waysStart.Add(-time.Second), metBy("b", wire.Replied)) }, waits: true,
		},
		"which has answered": {
			canary: true, known: func(w *CanaryWays) { w.note("a", waysStart, metBy("b", wire.Replied)) }, later: time.Second, want: verdict.Blocked, words: "pods of the canary",
		},
		"which found the way broken": {
			canary: true, known: func(w *CanaryWays) { w.note("a", waysStart, metBy("b", wire.TimedOut)) }, later: time.Second, want: verdict.Inconclusive, words: "nor do pods of the canary",
		},
	} {
		t.Run(name, func(t *testing.T) {
			clock := clocktesting.NewFakeClock(waysStart)
			b := fake.NewClientBuilder().WithScheme(scheme)
			if tc.canary {
				b = b.WithObjects(there.DeepCopy())
			}
			r := &ExpectationReconciler{clock: clock, client: b.Build(), ways: twoWays()}
			if tc.known != nil {
				tc.known(r.ways)
			}
			s := &scope{track: &tracked{run: &run{}}, exp: &v1alpha1.ConnectivityExpectation{}}
			if tc.later > 0 {
				if _, err := r.askCanary(t.Context(), s, silent()); err != nil {
					t.Fatal(err)
				}
				clock.Step(tc.later)
			}
			checks := silent()
			waits, err := r.askCanary(t.Context(), s, checks)
			if err != nil || waits != tc.waits {
				t.Fatalf("waits %v (%v), want %v", waits, err, tc.waits)
			}
			if waits {
				if s.requeue == 0 || s.requeue > canaryRetry {
					t.Errorf("it looks again after %v", s.requeue)
				}
				return
			}
			v := verdict.Judge(checks)[0]
			if v.Observed != tc.want || !strings.Contains(v.Evidence, tc.words) {
				t.Errorf("got %v: %s, want %v: %s", v.Observed, v.Evidence, tc.want, tc.words)
			}
		})
	}
	// What other controls prove is nothing to ask about.
	r := &ExpectationReconciler{}
	answered := silent()[0]
	answered.ID, answered.Result = "y", &wire.Result{Outcomes: wire.Outcomes{wire.Replied}}
	if waits, err := r.askCanary(t.Context(), &scope{track: &tracked{run: &run{}}}, append(silent(), answered)); waits || err != nil {
		t.Errorf("waits %v (%v) for what is known", waits, err)
	}
}

// Others come before the node itself, and what does not take part is no witness.
func TestWitnesses(t *testing.T) {
	w := NewCanaryWays()
	if got := w.witnesses(); len(got) != 0 {
		t.Errorf("got %v before anything is known", got)
	}
	w.cover(map[string][]string{"a": {"a", "b", "c"}, "b": {"b", "c", "a"}, "c": {"c", "a", "b"}, "d": {"d", "a"}}, map[string]string{"c": "its pod does not run"})
	if diff := cmp.Diff(map[string][]string{"a": {"b", "d", "a"}, "b": {"a", "b"}, "d": {"d"}}, w.witnesses()); diff != "" {
		t.Errorf("witnesses (-want +got):\n%s", diff)
	}
}
