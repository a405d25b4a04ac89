package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/pathproof/pathproof/podlog"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/probepod"
	"github.com/pathproof/pathproof/verdict"
)

// collect reads the reports of probe pods, and is done with those that do not stay.
// It ends the reconcile until every probe pod is done.
func (r *ExpectationReconciler) collect(ctx context.Context, s *scope) (bool, error) {
	current := s.track.run
	waiting := false
	var armed []string
	var silent []*corev1.Pod
	for _, p := range current.probes {
		if p.done {
			continue
		}
		if p.createdAt.IsZero() {
			waiting = true
			continue
		}
		pod := r.observePod(s, &p.podRun)
		switch {
		case p.obstacle != "": // it was refused its plan
			p.done = true
		case p.spare():
			r.discard(s, p, pod)
		default:
			r.read(s, p, pod)
		}
		if !p.done {
			waiting = true
			if !p.armedAt.IsZero() {
				armed = append(armed, p.plan.ID)
			}
			if r.overdue(s, &p.podRun, pod, p.listensFrom(), r.reportDue(s, p)) {
				silent = append(silent, pod)
			}
			continue
		}
		if current.resident {
			continue
		}
		if pod != nil {
			s.over = append(s.over, pod)
		}
		s.track.inFlight.Add(-1)
	}
	r.awaitAnswers(s, armed)
	return waiting, r.nudge(ctx, s, silent)
}

// awaitAnswers waits for the answers to plans or requests. Those of pods that stay need not
// be looked at before all are there; one that is not needed any more makes place for others.
func (r *ExpectationReconciler) awaitAnswers(s *scope, ids []string) {
	if s.track.run.resident && r.logs.await(s.exp.UID, ids) {
		s.again(0)
	}
}

// discard is done with a spare pod once it is there to be deleted.
func (r *ExpectationReconciler) discard(s *scope, p *probeRun, pod *corev1.Pod) {
	deadline := p.createdAt.Add(r.options.StartTimeout)
	if p.done = pod != nil || p.seen || !s.now.Before(deadline); !p.done {
		s.again(r.until(s, deadline))
	}
}

// read decides whether a probe pod is done, and what it has to say.
func (r *ExpectationReconciler) read(s *scope, p *probeRun, pod *corev1.Pod) {
	var report *wire.Report
	var reading error
	if !p.armedAt.IsZero() {
		report, reading = r.readLog(s, p, pod)
	}
	if !s.track.run.resident {
		reading = nil // its report comes as the termination message, too
	}
	gone := p.seen && (pod == nil || pod.DeletionTimestamp != nil)
	switch {
	case report != nil:
		p.accept(*report)
	case apierrors.IsForbidden(reading):
		p.fail(verdict.ProbeFailed, "the operator may not read the probe's report, which takes the permission to get pods/log: %v", reading)
	case gone && s.track.run.resident && !p.again:
		s.replace(p)
	case gone && p.disruption != "":
		// What it may still report was cut short.
		p.fail(verdict.ProbeFailed, "the probe pod was evicted before it had reported: %s", p.disruption)
	case pod == nil && p.seen:
		p.fail(verdict.ProbeFailed, "the probe pod was deleted by somebody else")
	case pod != nil && containerTerminated(pod) != nil:
		report, err := wire.DecodeReport(containerTerminated(pod).Message)
		switch {
		case errors.Is(err, wire.ErrNotEncoded):
			p.fail(verdict.ProbeFailed, "the probe left no report: %s", describeTermination(pod))
		case err != nil:
			p.fail(verdict.ProbeFailed, "%v", err)
		default:
			p.accept(report)
		}
	case gone, pod != nil && pod.Status.Phase == corev1.PodFailed:
		p.fail(verdict.ProbeFailed, "the probe pod ended before it reported: %s %s", pod.Status.Reason, pod.Status.Message)
	default:
		r.awaitReport(s, p, pod, reading)
	}
}

// replace lets another pod take the place of one that has gone. It was to live on, and may have
// been in the way of a drain: another one takes its place in the same run, and its slot.
func (s *scope) replace(p *probeRun) {
	if p.counted {
		s.track.inFlight.Add(-1)
	}
	p.podRun = podRun{name: p.name, node: p.Node, again: true}
	p.armedAt, p.runningAt = time.Time{}, time.Time{}
	s.again(0)
}

// readLog reads what a probe pod has reported in its log.
func (r *ExpectationReconciler) readLog(s *scope, p *probeRun, pod *corev1.Pod) (*wire.Report, error) {
	if pod != nil && containerRunning(pod) != nil {
		r.logs.Follow(pod, podlog.Backlog)
	}
	return r.logs.report(s.exp.UID, p.uid, p.plan.ID)
}

// awaitReport waits for a report, but not for ever.
func (r *ExpectationReconciler) awaitReport(s *scope, p *probeRun, pod *corev1.Pod, reading error) {
	// Without a plan, for which it needs an address, it has not begun.
	running := pod != nil && containerRunning(pod) != nil && !p.armedAt.IsZero()
	deadline := p.createdAt.Add(r.options.StartTimeout)
	if running {
		if p.runningAt.IsZero() {
			p.runningAt = s.now
		}
		deadline = p.listensFrom().Add(s.options.bound(s.exp.Spec.Probe))
	}
	switch {
	case s.now.Before(deadline):
		s.again(r.until(s, deadline))
	case running && reading != nil:
		p.fail(verdict.ProbeFailed, "the probe's report could not be read within %s: %v", s.options.bound(s.exp.Spec.Probe), reading)
	case running:
		p.fail(verdict.ProbeFailed, "the probe did not end within %s", s.options.bound(s.exp.Spec.Probe))
	default:
		p.fail(verdict.SourceNotReady, "the probe pod did not start within %s: %s", r.options.StartTimeout, probepod.Waiting(pod))
	}
}

// listensFrom is when a probe ran and had a plan; zero if it has not come to that.
func (p *probeRun) listensFrom() time.Time {
	switch {
	case p.armedAt.IsZero() || p.runningAt.IsZero():
		return time.Time{}
	case p.armedAt.After(p.runningAt):
		return p.armedAt
	default:
		return p.runningAt
	}
}

// fail is done with a probe that has nothing to say.
func (p *probeRun) fail(cause verdict.Cause, format string, args ...any) {
	p.obstacle, p.detail, p.done = cause, fmt.Sprintf(format, args...), true
}

// accept takes a report if it answers the plan.
func (p *probeRun) accept(report wire.Report) {
	switch {
	case report.Error != "":
		// Before it has read the plan, a probe cannot name it.
		p.fail(verdict.ProbeFailed, "the probe could not run its plan: %s", report.Error)
	case report.ID != p.plan.ID:
		p.fail(verdict.ProbeFailed, "the report is for plan %q, want %q", report.ID, p.plan.ID)
	case len(report.Results) != len(p.plan.Checks):
		p.fail(verdict.ProbeFailed, "the report has %d results for %d checks", len(report.Results), len(p.plan.Checks))
	default:
		p.report, p.done = &report, true
	}
}

// disruption says why a pod was asked to go, as in EvictionByEvictionAPI; empty if nobody
// did.
func disruption(pod *corev1.Pod) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			return c.Reason + " " + truncate(c.Message, 120)
		}
	}
	return ""
}

// container returns the status of our container: a webhook may have injected others.
func containerReady(pod *corev1.Pod) bool {
	c := probepod.Status(pod)
	return c != nil && c.Ready
}

func containerRunning(pod *corev1.Pod) *corev1.ContainerStateRunning {
	if c := probepod.Status(pod); c != nil {
		return c.State.Running
	}
	return nil
}

func containerTerminated(pod *corev1.Pod) *corev1.ContainerStateTerminated {
	if c := probepod.Status(pod); c != nil {
		return c.State.Terminated
	}
	return nil
}

// describeTermination says how a container ended. Of its message, only the start
// is kept: whoever can write pods can put anything there.
func describeTermination(pod *corev1.Pod) string {
	t := containerTerminated(pod)
	s := fmt.Sprintf("%s, exit code %d", t.Reason, t.ExitCode)
	if t.Message != "" {
		s += ": " + truncate(t.Message, 120)
	}
	return s
}
