package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// A kubelet can lose an annotation on its way into the file that the pod reads: it may write
// the file from what it had read of the pod before the change, and take that for written after
// it. It looks again after its syncFrequency, a minute or more by default, which is longer
// than a run waits; or when the pod changes.

// nudgedAnnotation is changed so that the kubelet looks at the pod again. Its value is a time
// that nobody reads.
const nudgedAnnotation = "pathproof.dev/nudged-at"

// recordDue is the time after which an answer to a request for a record is overdue.
const recordDue = 2 * time.Second

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
	touched := map[string]any{"annotations": map[string]string{nudgedAnnotation: s.now.UTC().Format(time.RFC3339Nano)}}
	var failed error
	for i, err := range sideBySide(pods, func(pod *corev1.Pod) error { return r.patchMetadata(ctx, pod.DeepCopy(), maps.Clone(touched)) }) {
		if err != nil && !podGone(err) && !apierrors.IsConflict(err) {
			failed = errors.Join(failed, fmt.Errorf("nudging probe pod %s: %w", pods[i].Name, err))
		}
	}
	return failed
}
