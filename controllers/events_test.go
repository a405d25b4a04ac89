package controllers

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"

	"github.com/pathproof/pathproof/api/v1alpha1"
)

// told drains what a recorder has been told.
func told(r *events.FakeRecorder) (out []string) {
	for {
		select {
		case e := <-r.Events:
			out = append(out, e)
		default:
			return out
		}
	}
}

// flapping is an expectation whose condition Ready the test sets.
type flapping struct {
	s        *scope
	r        *ExpectationReconciler
	recorder *events.FakeRecorder
}

func newFlapping() *flapping {
	f := &flapping{s: scheduled(0, nil), recorder: events.NewFakeRecorder(10_000)}
	f.s.before = f.s.exp.DeepCopy()
	f.r = &ExpectationReconciler{recorder: f.recorder}
	return f
}

// at reconciles at a moment, with a state of Ready.
func (f *flapping) at(d time.Duration, met bool) {
	f.s.now, f.s.requeue = epoch.Add(d), 0
	c := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: "EnforcementMissing", Message: "open"}
	if met {
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, "AllPathsMet", "met"
	}
	meta.SetStatusCondition(&f.s.exp.Status.Conditions, c)
	f.r.emit(f.s)
}

// What breaks, is mended and breaks again is told at once. What goes on like that with every
// run is told less and less often, and in the end as it is.
func TestEventsOfAFlappingExpectation(t *testing.T) {
	f := newFlapping()
	const run = 10 * time.Second
	met := false
	for i := range 6 {
		f.at(time.Duration(i)*run, met)
		if got := told(f.recorder); len(got) != 1 || strings.Contains(got[0], "since the last event") {
			t.Fatalf("told %q of change %d, want one event at once", got, i)
		}
		met = !met
	}
	day := int(24 * time.Hour / run)
	events := 0
	for i := 6; i < day; i++ {
		f.at(time.Duration(i)*run, met)
		for _, e := range told(f.recorder) {
			if events++; !strings.Contains(e, "since the last event)") {
				t.Errorf("told %q, want it to say how often it changed", e)
			}
		}
		met = !met
	}
	// 1, 2, 4, 8 and 16 minutes, and then every 30 or 40, as runs of both kinds take turns.
	if events < 24 || events > 60 {
		t.Errorf("told %d events of a day of %d changes", events, day)
	}

	// The last state is told when its time has come, and asks to be looked at then.
	f.at(24*time.Hour, f.s.track.teller.told.status != metav1.ConditionTrue)
	wait := f.s.requeue
	if got := told(f.recorder); len(got) == 0 && (wait <= 0 || wait > maxPause) {
		t.Fatalf("told nothing, and is to look again after %s", wait)
	} else if len(got) == 0 {
		f.at(24*time.Hour+wait, f.s.track.teller.seen.status == metav1.ConditionTrue)
		if got := told(f.recorder); len(got) != 1 {
			t.Errorf("told %q after the wait, want the state that it stayed in", got)
		}
	}
	// After a calm, it is told at once again.
	last := f.s.track.teller.told.status == metav1.ConditionTrue
	f.at(26*time.Hour, !last)
	if got := told(f.recorder); len(got) != 1 || f.s.requeue != 0 {
		t.Errorf("told %q after a calm, and waits for %s", got, f.s.requeue)
	}
}

// A state that comes back before its change could be told is no news.
func TestEventsOfAStateThatComesBack(t *testing.T) {
	f := newFlapping()
	for i := range freeEvents {
		f.at(time.Duration(i)*time.Second, i%2 == 0)
	}
	told(f.recorder)
	f.at(freeEvents*time.Second, true)
	if f.s.requeue == 0 {
		t.Error("a change that has to wait does not ask to be looked at")
	}
	f.at((freeEvents+1)*time.Second, false)
	f.at(time.Hour, false)
	if got := told(f.recorder); len(got) != 0 {
		t.Errorf("told %q, although Ready is what it was", got)
	}
}

// An attribution that differs from run to run waits as well.
func TestEventsOfAttributions(t *testing.T) {
	f := newFlapping()
	f.at(0, false)
	for i := range 1000 {
		f.s.now = epoch.Add(time.Duration(i) * 10 * time.Second)
		f.s.track.news = &news{reason: "EnforcementMissing", note: "another node"}
		f.r.tell(f.s)
	}
	if got := len(told(f.recorder)); got < freeEvents || got > 20 {
		t.Errorf("told %d events in three hours", got)
	}
}

// The canary does as expectations do.
func TestEventsOfAFlappingCanary(t *testing.T) {
	recorder := events.NewFakeRecorder(10_000)
	r := &CanaryReconciler{recorder: recorder}
	c := aCanary()
	s := &canaryScope{canary: c, before: c.DeepCopy(), state: &canaryState{}}
	count := 0
	for i := range 24 * 60 {
		s.now, s.requeue = epoch.Add(time.Duration(i)*time.Minute), 0
		ready := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonCanaryEnforced, Message: "all"}
		if i%2 == 0 {
			ready.Status, ready.Reason = metav1.ConditionFalse, v1alpha1.ReasonCanaryNotEnforced
		}
		meta.SetStatusCondition(&c.Status.Conditions, ready)
		r.emit(s)
		n := len(told(recorder))
		if count += n; i < freeEvents && n != 1 {
			t.Errorf("told %d events of change %d, want one", n, i)
		}
	}
	if count < 24 || count > 60 {
		t.Errorf("told %d events of a day of changes in every round", count)
	}
}
