package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/probepod"
	"github.com/pathproof/pathproof/verdict"
)

// slotRetry is when a run looks again for free places under the limits of
// concurrent probe pods.
const slotRetry = 500 * time.Millisecond

// maxWaiting bounds what is said of a pod that does not run yet, in bytes.
const maxWaiting = 160

// sweep lists the probe pods of the expectation. Those of the run under way and those
// that stay are kept for the phases that follow; all others are deleted: they are left
// from a run that was given up, or from an operator that died.
func (r *ExpectationReconciler) sweep(ctx context.Context, s *scope) (bool, error) {
	pods := &corev1.PodList{}
	if err := r.client.List(ctx, pods, client.InNamespace(s.exp.Namespace), client.MatchingFields{PodExpectationIndex: s.exp.Name}); err != nil {
		return false, fmt.Errorf("listing probe pods: %w", err)
	}
	s.pods, s.residents = map[string]*corev1.Pod{}, map[string]*corev1.Pod{}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if !ownedByExpectation(pod, s.exp.Name, s.exp.UID) {
			continue
		}
		switch {
		case isResident(pod):
			s.residents[pod.Name] = pod
		case s.track.run != nil && pod.Annotations[runAnnotation] == s.track.run.id:
			s.pods[pod.Name] = pod
		default:
			if err := r.deletePod(ctx, pod); err != nil {
				return false, err
			}
		}
	}
	if err := r.release(ctx, s); err != nil {
		return false, err
	}
	if s.track.run == nil {
		s.track.inFlight.Store(int32(len(s.residents)))
	}
	return false, nil
}

// dispatch creates the responders of the run and then its probe pods, as far as
// the limits allow. It hands out the plans once the kubelet sees the responders
// listen: only then are their addresses known, and is silence no fault of theirs. Nor
// does a probe pod get its plan before the address of its own is known.
func (r *ExpectationReconciler) dispatch(ctx context.Context, s *scope) (bool, error) {
	current := s.track.run
	for _, resp := range current.responders {
		if err := r.ensure(ctx, s, &resp.podRun, func() *corev1.Pod { return responderPod(s.exp, current, resp, s.options) }); err != nil {
			return false, err
		}
		if resp.StandsFor != nil && resp.obstacle == verdict.ProbeRefused {
			resp.obstacle = verdict.StandInRefused
			resp.detail += "; or write to.via: Endpoint to probe the pod itself"
		}
		r.observeResponder(s, resp)
	}
	waiting := false
	for _, resp := range current.responders {
		if !resp.ready && resp.obstacle == "" {
			if resp.createdAt.IsZero() {
				// ensure asked for another reconcile. A probe that took the slot of a
				// responder could wait for it for ever.
				return true, nil
			}
			s.again(r.until(s, resp.createdAt.Add(r.options.StartTimeout)))
			waiting = true
		}
	}
	if waiting {
		current.draft(s.exp, s.options)
	} else {
		current.place(s.exp, s.options)
	}
	var unarmed []*probeRun
	for _, p := range current.probes {
		if err := r.launch(ctx, s, p); err != nil {
			return false, err
		}
		if p.wantsPlan() {
			unarmed = append(unarmed, p)
		}
	}
	return waiting, r.arm(ctx, s, unarmed)
}

// launch creates a probe pod that is needed.
func (r *ExpectationReconciler) launch(ctx context.Context, s *scope, p *probeRun) error {
	if p.spare() {
		p.done = p.done || p.createdAt.IsZero()
		return nil
	}
	if err := r.ensure(ctx, s, &p.podRun, func() *corev1.Pod { return probePod(s.exp, s.track.run, p, s.options) }); err != nil {
		return err
	}
	if !p.createdAt.IsZero() {
		r.observePod(s, &p.podRun)
	}
	return nil
}

// wantsPlan tells whether there is a plan that the pod was not given, and may be given:
// before its address is in its status, no policy can be enforced for it on other nodes, and
// a kubelet that is short of processor time may take longer than the settle window until it
// says it.
func (p *probeRun) wantsPlan() bool {
	return len(p.plan.Checks) > 0 && !p.spare() && len(p.addrs) > 0 && !p.done && p.obstacle == "" && p.armedAt.IsZero()
}

// arm gives probe pods their plans: the kubelet projects the annotation into the file
// that the probe waits for.
func (r *ExpectationReconciler) arm(ctx context.Context, s *scope, probes []*probeRun) error {
	give := r.armOneShot
	if s.track.run.resident {
		give = r.armResident
	}
	for _, p := range probes {
		r.logs.expect(s.exp, p.plan.ID)
		if s.track.run.resident && s.track.latency != nil {
			s.track.latency.watch(p)
		}
	}
	var failed error
	errs := sideBySide(probes, func(p *probeRun) error { return give(ctx, s, p) })
	for i, p := range probes {
		failed = errors.Join(failed, s.armed(p, errs[i]))
	}
	return failed
}

// armed notes whether a pod was given its plan, or never will be. The error is one that may
// pass.
func (s *scope) armed(p *probeRun, err error) error {
	switch {
	case err == nil:
		p.armedAt = s.now
	case podGone(err):
		// The cache will say so, too. Then one that was to stay is replaced, and another has
		// failed.
		p.addrs = nil
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsRequestEntityTooLargeError(err):
		// There is a pod all the same, which collect is done with.
		p.obstacle, p.detail = verdict.ProbeRefused, fmt.Sprintf("the API server refused to give the probe pod its plan: %v", err)
	default:
		return fmt.Errorf("giving its plan to probe pod %s: %w", p.name, err)
	}
	return nil
}

// maxWrites bounds the writes of a reconcile that are under way at a time. Each waits for
// the API server for ten milliseconds and more, and a run may have many pods.
const maxWrites = 8

// sideBySide writes something for each of a list, and returns the error of each.
func sideBySide[T any](list []T, write func(T) error) []error {
	errs := make([]error, len(list))
	var g errgroup.Group
	g.SetLimit(maxWrites)
	for i, o := range list {
		g.Go(func() error {
			errs[i] = write(o)
			return nil
		})
	}
	_ = g.Wait() // each has its own
	return errs
}

func (r *ExpectationReconciler) armOneShot(ctx context.Context, s *scope, p *probeRun) error {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.exp.Namespace, Name: p.name}}
	armed := pod.DeepCopy()
	armed.Annotations = map[string]string{wire.PlanAnnotation: probepod.EncodedPlan(p.plan)}
	return r.client.Patch(ctx, armed, client.MergeFrom(pod))
}

// ensure creates a pod unless it exists, is done with, or has to wait for a slot.
// A pod that must not be created is an obstacle of the checks that need it, not an
// error: trying again would not help.
func (r *ExpectationReconciler) ensure(ctx context.Context, s *scope, p *podRun, build func() *corev1.Pod) error {
	if !p.createdAt.IsZero() || p.obstacle != "" {
		return nil
	}
	pod := build()
	refused, err := r.refusal(ctx, pod, s.snapshot)
	if err != nil {
		return err
	}
	if refused != "" {
		p.obstacle, p.detail, p.done = verdict.ProbeRefused, refused, true
		return nil
	}
	if s.track.run.resident {
		if settled, err := r.reuse(ctx, s, p); settled || err != nil {
			return err
		}
	}
	all, here := r.tracker.podsInFlight(s.exp.Namespace)
	// A run that has a responder may always have its other responders, and then one
	// probe pod: otherwise runs could wait for each other's responders, or a run for
	// its own, for ever.
	if (all >= r.options.MaxProbePods || here >= r.options.MaxProbePodsPerNamespace) && !s.track.run.onlyResponders() {
		s.again(slotRetry)
		setWaiting(s, fmt.Sprintf("the run waits for a place for a probe pod: %d of %d are taken in the cluster (--max-probe-pods) and %d of %d in namespace %s (--max-probe-pods-per-namespace)",
			all, r.options.MaxProbePods, here, r.options.MaxProbePodsPerNamespace, s.exp.Namespace))
		return nil
	}
	// Create and not server-side apply: the name is a hash of the run, or of what the pod
	// is made of, so a pod of that name is ours, and what exists must not be changed.
	switch err := r.client.Create(ctx, pod); {
	case apierrors.IsAlreadyExists(err) && s.track.run.resident:
		s.again(writeRetry) // until the cache has it
		return nil
	case err == nil, apierrors.IsAlreadyExists(err):
		p.createdAt, p.uid, p.young, p.counted = s.now, pod.UID, true, true
		s.track.inFlight.Add(1)
		return nil
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		p.obstacle, p.done = verdict.ProbeRefused, true
		p.detail = fmt.Sprintf("the API server refused the probe pod: %v", err)
		return nil
	default:
		return fmt.Errorf("creating pod %s: %w", p.name, err)
	}
}

// observeResponder notes whether a responder listens, or that it never will.
func (r *ExpectationReconciler) observeResponder(s *scope, resp *responderRun) {
	if resp.createdAt.IsZero() || resp.obstacle != "" {
		return
	}
	pod := r.observePod(s, &resp.podRun)
	switch {
	case pod != nil && containerReady(pod) && len(resp.addrs) > 0:
		resp.ready = resp.ready || r.warm(s, resp)
	case resp.ready:
		// Whether it is still alive is asked for at the end of the run.
	case pod != nil && containerTerminated(pod) != nil && containerTerminated(pod).ExitCode == probepod.ExitUnsupported:
		resp.obstacle = verdict.Unsupported
		resp.detail = fmt.Sprintf("the kernel of node %s has no SCTP sockets, so that no responder can listen there", resp.node)
		if s.exp.Spec.Probe.SCTP == v1alpha1.SCTPRaw {
			resp.detail = fmt.Sprintf("the kernel of node %s has no SCTP sockets, and the container runtime gave the responder no CAP_NET_RAW", resp.node)
		}
	case pod != nil && containerTerminated(pod) != nil:
		resp.obstacle = verdict.TargetNotListening
		resp.detail = "the responder ended: " + describeTermination(pod)
	case pod == nil && resp.seen:
		resp.obstacle, resp.detail = verdict.TargetNotListening, "the responder pod was deleted by somebody else"
	case !s.now.Before(resp.createdAt.Add(r.options.StartTimeout)):
		resp.obstacle = verdict.TargetNotListening
		resp.detail = fmt.Sprintf("the responder was not ready after %s: %s", r.options.StartTimeout, truncate(probepod.Waiting(pod), maxWaiting))
	}
}

// warm tells whether nodes have had the time to learn of a responder that is ready. One-shot
// probes give it to them by themselves.
func (r *ExpectationReconciler) warm(s *scope, resp *responderRun) bool {
	if resp.readyAt.IsZero() {
		resp.readyAt = s.now
	}
	left := r.until(s, resp.readyAt.Add(s.options.WarmUp))
	if !s.track.run.resident || !resp.young || left <= 0 {
		return true
	}
	s.again(left)
	return false
}

// observePod returns the pod if the cache has it, and notes what it learned.
func (r *ExpectationReconciler) observePod(s *scope, p *podRun) *corev1.Pod {
	pod := s.pods[p.name]
	if s.track.run.resident {
		pod = s.residents[p.name]
	}
	if pod == nil || (p.uid != "" && pod.UID != p.uid) {
		return nil
	}
	p.seen, p.labels = true, pod.Labels
	if pod.Spec.NodeName != "" {
		p.node = pod.Spec.NodeName
	}
	if addrs := probepod.Addrs(pod); len(addrs) > 0 {
		p.addrs = addrs
	}
	if why := disruption(pod); why != "" {
		p.disruption = why
	}
	return pod
}

func (r *ExpectationReconciler) until(s *scope, at time.Time) time.Duration {
	return at.Sub(s.now)
}
