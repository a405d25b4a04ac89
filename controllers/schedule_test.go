package controllers

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/verdict"
)

var epoch = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// scheduled is the scope of an expectation that ran at epoch, with an interval of
// 100 seconds; now is epoch plus the given time.
func scheduled(after time.Duration, change func(*scope)) *scope {
	s := &scope{
		now: epoch.Add(after),
		exp: &v1alpha1.ConnectivityExpectation{
			ObjectMeta: metav1.ObjectMeta{UID: "u", Generation: 2},
			Spec:       v1alpha1.ConnectivityExpectationSpec{Probe: v1alpha1.ProbeSettings{IntervalSeconds: 100}},
		},
		track:      &tracked{last: lastRun{startedAt: epoch, finishedAt: epoch.Add(10 * time.Second), generation: 2, provenance: "p", request: "r"}},
		resolution: &plan.Resolution{Provenance: "p"},
	}
	if change != nil {
		change(s)
	}
	return s
}

// changed says that the configuration differs since the given time.
func changed(since, settled time.Duration) func(*scope) {
	return func(s *scope) {
		s.resolution.Provenance = "q"
		s.track.changedAt, s.track.changedTo, s.track.settledAt = epoch.Add(since), "q", epoch.Add(settled)
	}
}

func TestDue(t *testing.T) {
	slack := jitter("u", 10*time.Second)
	request := func(value string) func(*scope) {
		return func(s *scope) { s.exp.Annotations = map[string]string{v1alpha1.RequestedAtAnnotation: value} }
	}
	for name, c := range map[string]struct {
		after   time.Duration
		change  func(*scope)
		trigger string
		wait    time.Duration
	}{
		"never ran":                        {0, func(s *scope) { s.track.last = lastRun{} }, triggerCreated, 0},
		"other generation":                 {time.Second, func(s *scope) { s.exp.Generation++ }, triggerSpecChanged, 0},
		"new request":                      {time.Second, request("s"), triggerRequested, 0},
		"answered request":                 {11 * time.Second, request("r"), "", 89*time.Second + slack},
		"request taken back":               {11 * time.Second, request(""), "", 89*time.Second + slack},
		"interval not over":                {40 * time.Second, nil, "", 60*time.Second + slack},
		"interval over, not its jitter":    {100 * time.Second, nil, "", slack},
		"interval over":                    {100*time.Second + slack, nil, triggerInterval, 0},
		"changed just now":                 {40 * time.Second, changed(40*time.Second, 40*time.Second), "", debounce},
		"changed and quiet":                {40*time.Second + debounce, changed(40*time.Second, 40*time.Second), triggerChange, 0},
		"changed again":                    {40*time.Second + debounce, changed(40*time.Second, 40*time.Second+200*time.Millisecond), "", 200 * time.Millisecond},
		"changes that do not end":          {42 * time.Second, changed(40*time.Second, 41900*time.Millisecond), triggerChange, 0},
		"changed, but must not run for it": {50 * time.Second, func(s *scope) { changed(40*time.Second, 40*time.Second)(s); s.exp.Spec.Probe.OnChange = new(bool) }, "", 50*time.Second + slack},
		"overtaken, wait":                  {40 * time.Second, func(s *scope) { changed(40*time.Second, 40*time.Second)(s); s.track.repeats = 2 }, "", debounce << 2},
		"overtaken, waited":                {40*time.Second + debounce<<2, func(s *scope) { changed(40*time.Second, 40*time.Second)(s); s.track.repeats = 2 }, triggerRepeated, 0},
		"overtaken thrice, wait is longer": {40*time.Second + debounceLimit, func(s *scope) { changed(40*time.Second, 40*time.Second)(s); s.track.repeats = 3 }, "", debounce<<3 - debounceLimit},
	} {
		t.Run(name, func(t *testing.T) {
			trigger, wait := due(scheduled(c.after, c.change))
			if trigger != c.trigger || wait != c.wait {
				t.Errorf("got %q in %s, want %q in %s", trigger, wait, c.trigger, c.wait)
			}
		})
	}
}

func TestDebounceStartsAnewWithEveryChange(t *testing.T) {
	s := scheduled(40*time.Second, changed(39*time.Second, 39*time.Second))
	s.resolution.Provenance = "another"
	if left := s.debounceLeft(debounce); left != debounce {
		t.Errorf("got %s, want %s", left, debounce)
	}
	// The same a little later: nothing starts anew.
	s.now = s.now.Add(100 * time.Millisecond)
	if left := s.debounceLeft(debounce); left != debounce-100*time.Millisecond {
		t.Errorf("got %s, want %s", left, debounce-100*time.Millisecond)
	}
}

func TestNoteChange(t *testing.T) {
	r := &ExpectationReconciler{logs: newPodLogs(nil, nil), ways: NewCanaryWays()}
	s := scheduled(40*time.Second, func(s *scope) { s.resolution.Provenance = "q" })
	r.noteChange(s)
	if s.track.changedAt != s.now || s.track.changedTo != "q" {
		t.Errorf("a change is not noted: %v %q", s.track.changedAt, s.track.changedTo)
	}
	first := s.now
	s.now = s.now.Add(time.Second)
	r.noteChange(s)
	if s.track.changedAt != first {
		t.Error("the time of the first change is lost")
	}
	s.resolution.Provenance = "p"
	r.noteChange(s)
	if !s.track.changedAt.IsZero() {
		t.Error("a change that was taken back still counts")
	}
}

// What changed and changed back has changed all the same: what was measured in between is no
// result. A run that may not be repeated says so, and the next one starts at once.
func TestChangeThatIsUndoneDuringTheLastRun(t *testing.T) {
	r := &ExpectationReconciler{logs: newPodLogs(nil, nil), ways: NewCanaryWays()}
	for name, tc := range map[string]struct {
		seen []string
		want string
	}{
		"nothing changes":       {[]string{"p", "p"}, "p"},
		"it changes":            {[]string{"p", "q"}, ""},
		"it changes, and back":  {[]string{"q", "p"}, ""},
		"it changed for a look": {[]string{"p", "q", "p"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := scheduled(20*time.Second, nil)
			s.resolution.Extent = &plan.Extent{}
			current := &run{id: "run", provenance: "p", generation: 2, startedAt: s.now}
			s.track.repeats = maxRepeats
			s.track.begin(current)
			for _, provenance := range tc.seen {
				s.resolution.Provenance = provenance
				if _, err := r.schedule(t.Context(), s); err != nil {
					t.Fatal(err)
				}
				if s.track.run != current {
					t.Fatalf("at %s: the run was given up once more", provenance)
				}
			}
			current.obstacles = []plan.Obstacle{{Path: "p", Reason: plan.NoTargetMatched, Message: "in words"}}
			if _, err := r.judge(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			overtaken := tc.want == ""
			if got := s.verdicts[0].Inconclusive == verdict.ChangedDuringProbe; got != overtaken {
				t.Errorf("judged as %s", s.verdicts[0].Inconclusive)
			}
			s.now = s.now.Add(time.Second)
			if r.noteChange(s); s.track.changedAt.IsZero() == overtaken {
				t.Errorf("that it changed is noted: %v, want %v", !s.track.changedAt.IsZero(), overtaken)
			}
		})
	}
}

func TestJitter(t *testing.T) {
	seen := map[time.Duration]bool{}
	for _, uid := range []types.UID{"a", "b", "c", "d", "e"} {
		j := jitter(uid, 30*time.Second)
		if j < 0 || j >= 30*time.Second {
			t.Errorf("jitter of %s is %s", uid, j)
		}
		if j != jitter(uid, 30*time.Second) {
			t.Errorf("jitter of %s is not always the same", uid)
		}
		seen[j] = true
	}
	if len(seen) < 4 {
		t.Errorf("five expectations share %d times", len(seen))
	}
	if j := jitter("a", 0); j != 0 {
		t.Errorf("jitter without room is %s", j)
	}
}

// Nodes have names that differ little, and limits range from seconds to hours.
func TestJitterIsSpreadOverAllOfItsRange(t *testing.T) {
	for _, limit := range []time.Duration{6 * time.Second, time.Minute, 2 * time.Hour} {
		const names, parts = 1000, 20
		var in [parts]int
		for i := range names {
			in[jitter(types.UID(fmt.Sprintf("ip-10-0-%d-%d.example.internal", i/100, i%100)), limit)*parts/limit]++
		}
		for part, n := range in {
			// 50 are expected, with a standard deviation of 7.
			if n < 15 || n > 100 {
				t.Errorf("%d of %d names are in part %d of %d of %s", n, names, part+1, parts, limit)
			}
		}
	}
}

func TestMarkStale(t *testing.T) {
	// Results are of epoch+10s; 2.5 intervals are 250 s.
	s := scheduled(259*time.Second, nil)
	s.markStale()
	if len(s.exp.Status.Conditions) != 0 || s.requeueAfter() != time.Second {
		t.Errorf("before the limit: conditions %v, next look in %s", s.exp.Status.Conditions, s.requeueAfter())
	}
	s = scheduled(260*time.Second, nil)
	s.markStale()
	expectStale(t, s, "the last result is 4m10s old")
}

// expectStale fails unless Ready was taken back, with these words.
func expectStale(t *testing.T, s *scope, words string) {
	t.Helper()
	c := s.exp.Status.Conditions
	if len(c) != 1 || c[0].Type != v1alpha1.ConditionReady || c[0].Status != metav1.ConditionUnknown || c[0].Reason != v1alpha1.ReasonStale || !strings.Contains(c[0].Message, words) {
		t.Errorf("conditions %v, want Ready Unknown Stale with %q", c, words)
	}
}

// Nobody can tell how old a result is that is dated in the future.
func TestClockJumps(t *testing.T) {
	for name, c := range map[string]struct {
		now   time.Duration
		words string
	}{
		"put back by an hour":             {-time.Hour, "the clock was put back"},
		"put back by less than a second":  {10*time.Second - time.Millisecond, "the clock was put back"},
		"put back by more than a century": {-150 * 365 * 24 * time.Hour, "the clock was put back"},
		"put forward by an hour":          {time.Hour, "old, and the interval is"},
	} {
		t.Run(name, func(t *testing.T) {
			s := scheduled(c.now, func(s *scope) { s.track.last.startedAt = s.track.last.finishedAt.Add(-time.Second) })
			s.markStale()
			expectStale(t, s, c.words)
			if trigger, wait := due(s); trigger != triggerInterval || wait != 0 {
				t.Errorf("got %q in %s, want a run at once", trigger, wait)
			}
		})
	}
	t.Run("put back while a run was under way", func(t *testing.T) {
		s := scheduled(0, func(s *scope) { s.track.last.startedAt = epoch.Add(time.Hour); s.track.last.finishedAt = epoch })
		if s.markStale(); len(s.exp.Status.Conditions) != 0 {
			t.Errorf("a result of this moment is stale: %v", s.exp.Status.Conditions)
		}
		if trigger, _ := due(s); trigger != triggerInterval {
			t.Errorf("got %q, want a run whose start is not in the future", trigger)
		}
	})
	t.Run("nothing has run yet", func(t *testing.T) {
		s := scheduled(-time.Hour, func(s *scope) { s.track.last = lastRun{} })
		if s.markStale(); len(s.exp.Status.Conditions) != 0 {
			t.Errorf("what was never measured is stale: %v", s.exp.Status.Conditions)
		}
	})
}

// A process that goes on has a monotonic clock, too, which no setting of the clock
// moves: time.Now has its reading, and Round strips it.
func TestAgeByTheClockThatSaysMore(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		moment time.Time
		age    time.Duration
		known  bool
	}{
		"both agree":                   {now.Add(-time.Minute), time.Minute, true},
		"now":                          {now, 0, true},
		"by the wall clock alone":      {now.Add(-time.Minute).Round(0), time.Minute, true},
		"to come":                      {now.Add(time.Minute), -time.Minute, false},
		"to come, by the wall clock":   {now.Round(0).Add(time.Minute), -time.Minute, false},
		"to come, by a nanosecond":     {now.Round(0).Add(1), -1, false},
		"so old that it has no number": {time.Time{}, 1<<63 - 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			if age, known := ageAt(now, c.moment); age != c.age || known != c.known {
				t.Errorf("got %s, known %v, want %s, %v", age, known, c.age, c.known)
			}
		})
	}
}

// A restart must neither run again what was measured, nor take for measured what
// was under way.
func TestTrackerRemembers(t *testing.T) {
	exp := scheduled(0, nil).exp
	exp.Status = v1alpha1.ConnectivityExpectationStatus{
		ObservedGeneration: 2, LastHandledRequest: "r",
		LastRun:    &v1alpha1.Run{StartedAt: metav1.Time{Time: epoch}, FinishedAt: metav1.Time{Time: epoch.Add(time.Second)}, Provenance: "p"},
		Conditions: []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "AllPathsMet"}},
	}
	at := func(exp *v1alpha1.ConnectivityExpectation) string {
		s := scheduled(time.Second, nil)
		s.exp, s.track = exp, newTracker().get(exp)
		trigger, _ := due(s)
		return trigger
	}
	if got := at(exp); got != "" {
		t.Errorf("after a restart, a run of what was measured is due: %s", got)
	}
	exp.Status.Conditions[0] = metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonPending}
	if got := at(exp); got != triggerSpecChanged {
		t.Errorf("after a restart during a run, the trigger is %q, want %q", got, triggerSpecChanged)
	}

	tr := newTracker()
	first := tr.get(exp)
	if tr.get(exp) != first {
		t.Error("what is remembered is forgotten")
	}
	again := exp.DeepCopy()
	again.UID = "another"
	if tr.get(again) == first {
		t.Error("an expectation that was created again continues the old one")
	}
}
