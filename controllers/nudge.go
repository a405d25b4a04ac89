package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/pathproof/pathproof/probepod"
)

// recordDue is the time after which an answer to a request for a record is overdue.
const recordDue = time.Second

// takenDue is the time after which a resident probe that has not said that it has its plan is
// nudged. That it says so takes 0.3 s, and twice as long where processors are busy.
const takenDue = time.Second

// reportDue is the time after which a probe with a plan is nudged. One that may still be
// reading it is nudged early, once: it may be slow only.
func (r *ExpectationReconciler) reportDue(s *scope, p *probeRun) time.Duration {
	if s.track.run.resident && !p.nudgedAt.After(p.listensFrom()) && !r.logs.taken(s.exp.UID, p.plan.ID) {
		return takenDue
	}
	return firstRound(s)
}

// firstRound is the time after which the report of a probe is overdue whose attempts had
// no reason to be repeated. One that repeats them is nudged in vain, which does no harm.
func firstRound(s *scope) time.Duration {
	return s.options.WarmUp + 2*timeout(s.exp.Spec.Probe) + time.Second
}

// overdue tells whether to nudge a pod: it could have read what it was told since a time,
// and has not answered for longer than due. If that is still to come, it asks for a
// reconcile then.
func (r *ExpectationReconciler) overdue(s *scope, p *podRun, pod *corev1.Pod, since time.Time, due time.Duration) bool {
	if since.IsZero() || pod == nil {
		return false
	}
	if p.nudgedAt.After(since) {
		since = p.nudgedAt
	}
	if at := since.Add(due); s.now.Before(at) {
		s.again(r.until(s, at))
		return false
	}
	p.nudgedAt = s.now
	s.again(due)
	return true
}

// nudge makes the kubelet look at pods again. What has just gone has nothing to read.
func (r *ExpectationReconciler) nudge(ctx context.Context, s *scope, pods []*corev1.Pod) error {
	var failed error
	for i, err := range sideBySide(pods, func(pod *corev1.Pod) error {
		return patchMetadata(ctx, r.client, pod.DeepCopy(), map[string]any{"annotations": probepod.Nudge(s.now)})
	}) {
		if err != nil && !podGone(err) && !apierrors.IsConflict(err) {
			failed = errors.Join(failed, fmt.Errorf("nudging probe pod %s: %w", pods[i].Name, err))
		}
	}
	return failed
}
