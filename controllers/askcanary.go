package controllers

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/verdict"
)

// askCanary adds to the checks what the canary knows of the ways between their nodes,
// where nothing else of their evidence is missing. It tells whether that is still to come,
// which it is for a few seconds: the canary measures after the run has, and not before.
func (r *ExpectationReconciler) askCanary(ctx context.Context, s *scope, checks []verdict.Check) (waits bool, err error) {
	unproven := verdict.Unproven(checks)
	if len(unproven) == 0 {
		return false, nil
	}
	there, err := r.canaryExists(ctx)
	if err != nil {
		return false, err
	}
	current, now := s.track.run, r.clock.Now()
	if current.reportedAt.IsZero() {
		current.reportedAt = now
	}
	for _, i := range unproven {
		if !there {
			checks[i].Way = verdict.Way{Why: "there is no EnforcementCanary"}
			continue
		}
		way, pending := r.ways.of(checks[i], current.reportedAt)
		checks[i].Way, waits = way, waits || pending
	}
	left := current.reportedAt.Add(waysWait).Sub(now)
	if !waits || left <= 0 {
		return false, nil
	}
	s.again(min(left, canaryRetry))
	return true, nil
}

func (r *ExpectationReconciler) canaryExists(ctx context.Context) (bool, error) {
	c := &v1alpha1.EnforcementCanary{}
	err := r.client.Get(ctx, client.ObjectKey{Name: v1alpha1.CanaryName}, c)
	switch {
	case apierrors.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("reading canary: %w", err)
	}
	return c.DeletionTimestamp == nil, nil
}

// byCanary counts the verdicts whose path evidence is the canary's.
func byCanary(verdicts []verdict.Verdict) (n int32) {
	for _, v := range verdicts {
		if v.PathEvidence == verdict.ByCanary {
			n++
		}
	}
	return n
}
