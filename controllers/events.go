package controllers

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pathproof/pathproof/api/v1alpha1"
)

// maxNote is the limit of events.k8s.io/v1 for a note.
const maxNote = 1024

const (
	// freeEvents are told of an object without a wait: that it broke, why, that it is mended,
	// and all of that once more.
	freeEvents = 6
	// firstPause is the wait after them. It doubles with each event, up to maxPause.
	firstPause, maxPause = time.Minute, 30 * time.Minute
	// calm is how long nothing must have been told for the next events to be free again.
	calm = time.Hour
)

// teller keeps an object that changes its mind with every run from writing an event each
// time.
type teller struct {
	// told is what the last event about Ready was about, and directions those that were told
	// to fail since.
	told       readyState
	directions string
	// seen is what Ready was last, and changes how often it changed since the last event.
	seen    readyState
	changes int
	// count is the number of events in a row, the last of which was at.
	count int
	at    time.Time
}

// readyState is a state of the condition Ready.
type readyState struct {
	status metav1.ConditionStatus
	reason string
}

// wait returns how long the next event has to wait; 0 if it may be written now.
func (t *teller) wait(now time.Time) time.Duration {
	since := now.Sub(t.at)
	if since >= calm {
		t.count = 0
	}
	if t.count < freeEvents {
		return 0
	}
	// The shift is bounded: maxPause is reached long before.
	pause := min(firstPause<<min(t.count-freeEvents, 10), maxPause)
	return max(0, pause-since)
}

// spoke notes that an event was written.
func (t *teller) spoke(now time.Time) { t.count, t.at = t.count+1, now }

// next tells whether Ready is news that may be told now. If it is news that has to wait,
// again is for how long.
func (t *teller) next(now time.Time, ready readyState) (tell bool, again time.Duration) {
	if ready != t.seen {
		t.seen = ready
		t.changes++
	}
	if ready == t.told {
		return false, 0
	}
	again = t.wait(now)
	return again == 0, again
}

// note makes the note of an event about Ready, and notes that it was told.
func (t *teller) note(now time.Time, ready readyState, message string) string {
	suffix := ""
	if t.changes > 1 {
		suffix = fmt.Sprintf(" (change %d since the last event)", t.changes)
	}
	t.told, t.directions, t.changes = ready, "", 0
	t.spoke(now)
	return truncate(message, maxNote-len(suffix)) + suffix
}

// emit tells of a transition of Ready: one event when its status or its reason
// differs from the last conclusive one. What is merely pending is no news.
func (r *ExpectationReconciler) emit(s *scope) {
	after := meta.FindStatusCondition(s.exp.Status.Conditions, v1alpha1.ConditionReady)
	if after == nil || after.Reason == v1alpha1.ReasonPending {
		return
	}
	ready, t := readyState{status: after.Status, reason: after.Reason}, &s.track.teller
	if t.told.reason == "" {
		// After a restart, the status tells what was told before.
		if b := meta.FindStatusCondition(s.before.Status.Conditions, v1alpha1.ConditionReady); b != nil && b.Status == after.Status && b.Reason == after.Reason {
			t.told, t.seen = ready, ready
			return
		}
	}
	tell, again := t.next(s.now, ready)
	if again > 0 {
		s.again(again)
	}
	if !tell {
		return
	}
	kind := corev1.EventTypeWarning
	if after.Status == metav1.ConditionTrue || after.Reason == v1alpha1.ReasonSuspended {
		kind = corev1.EventTypeNormal
	}
	r.recorder.Eventf(s.exp, nil, kind, after.Reason, "Probe", "%s", t.note(s.now, ready, after.Message))
}
