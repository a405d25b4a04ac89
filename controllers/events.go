package controllers

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pathproof/pathproof/api/v1alpha1"
)

// maxNote is the limit of events.k8s.io/v1 for a note.
const maxNote = 1024

// emit tells of a transition of Ready: one event when its status or its reason
// differs from the last conclusive one. What is merely pending is no news.
func (r *ExpectationReconciler) emit(s *scope) {
	after := meta.FindStatusCondition(s.exp.Status.Conditions, v1alpha1.ConditionReady)
	if after == nil || after.Reason == v1alpha1.ReasonPending {
		return
	}
	told := s.track.told
	if told.status == after.Status && told.reason == after.Reason {
		return
	}
	if told.reason == "" {
		// After a restart, the status tells what was told before.
		if b := meta.FindStatusCondition(s.before.Status.Conditions, v1alpha1.ConditionReady); b != nil && b.Status == after.Status && b.Reason == after.Reason {
			s.track.told = readyState{status: after.Status, reason: after.Reason}
			return
		}
	}
	s.track.told = readyState{status: after.Status, reason: after.Reason}
	kind := corev1.EventTypeWarning
	if after.Status == metav1.ConditionTrue || after.Reason == v1alpha1.ReasonSuspended {
		kind = corev1.EventTypeNormal
	}
	r.recorder.Eventf(s.exp, nil, kind, after.Reason, "Probe", "%s", truncate(after.Message, maxNote))
}

// readyState is what the last event was about.
type readyState struct {
	status metav1.ConditionStatus
	reason string
	// directions are those that were told to fail, if there was an event about them.
	directions string
}
