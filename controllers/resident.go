package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/probepod"
	"github.com/pathproof/pathproof/verdict"
)

const (
	// residentAge is the age at which a resident pod is replaced, at the next run. One that is
	// twice as old is ended by the kubelet: then nobody is left to replace it.
	residentAge = time.Hour
	// sharedAge is that of a pod that another run needs just now.
	sharedAge = residentAge + residentAge/2
	// youngAge is the age below which nodes may not yet know of a pod. It is longer than any
	// warm-up by more than the clocks of two machines usually differ.
	youngAge = 15 * time.Second
)

// A resident pod is named by what it is made of. Expectations of a namespace that need the
// same pod share one, and one that would be made differently today is not found.

func isResident(pod *corev1.Pod) bool { return pod.Annotations[residentAnnotation] != "" }

func resident(exp *v1alpha1.ConnectivityExpectation) bool {
	return exp.Spec.Probe.Mode == v1alpha1.ProbeModeResident && !exp.Spec.Suspend
}

// residentName returns the name of a resident pod, which has none yet.
func residentName(kind string, pod *corev1.Pod) string {
	// What is marshalled are plain structs.
	spec, _ := json.Marshal(pod.Spec)
	return "pathproof-" + kind + "-" + flow.ID("resident", pod.Namespace, flow.FormatLabels(pod.Labels), string(spec))
}

// reuse takes a resident pod that is there already. It returns true if the run has its pod,
// or has to wait for one that ends.
func (r *ExpectationReconciler) reuse(ctx context.Context, s *scope, p *podRun) (bool, error) {
	pod := &corev1.Pod{}
	if err := r.client.Get(ctx, client.ObjectKey{Namespace: s.exp.Namespace, Name: p.name}, pod); err != nil {
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return false, fmt.Errorf("reading pod %s: %w", p.name, err)
	}
	ended := containerTerminated(pod) != nil || pod.Status.Phase == corev1.PodFailed || pod.DeletionTimestamp != nil
	if !plan.IsProbePod(pod) || !isResident(pod) {
		p.obstacle, p.done = verdict.ProbeRefused, true
		p.detail = fmt.Sprintf("pod %s is there, and none of ours: delete it", p.name)
		return true, nil
	}
	age := s.now.Sub(pod.CreationTimestamp.Time)
	if ended || age > sharedAge || (age > residentAge && !r.tracker.needs(pod, s.exp)) {
		if deadline := s.track.run.startedAt.Add(r.options.StartTimeout); !s.now.Before(deadline) {
			p.obstacle, p.done = verdict.SourceNotReady, true
			p.detail = fmt.Sprintf("the probe pod of earlier runs did not end within %s", r.options.StartTimeout)
			return true, nil
		}
		s.again(slotRetry)
		return true, r.deletePod(ctx, pod)
	}
	p.counted = ownedByExpectation(pod, s.exp.Name, s.exp.UID)
	if !p.counted {
		if err := patchMetadata(ctx, r.client, pod, map[string]any{"ownerReferences": []any{ownerReference(s.exp)}}); err != nil {
			return false, err
		}
	}
	p.createdAt, p.uid, p.young = s.now, pod.UID, age < youngAge
	return true, nil
}

// patchMetadata changes the metadata of a pod that others may change at the same time: by
// a strategic merge, which merges owners by their UID.
func patchMetadata(ctx context.Context, cl client.Client, pod *corev1.Pod, metadata map[string]any) error {
	metadata["uid"] = pod.UID
	data, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return fmt.Errorf("building patch of pod %s: %w", pod.Name, err)
	}
	return cl.Patch(ctx, pod, client.RawPatch(types.StrategicMergePatchType, data))
}

// podGone tells whether a write says that the pod has gone, or that another one has its name:
// then its UID would have to change, which an API server refuses as it would another field
// that cannot be changed.
func podGone(err error) bool {
	if apierrors.IsNotFound(err) {
		return true
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) || !apierrors.IsInvalid(err) || status.Status().Details == nil {
		return false
	}
	return slices.ContainsFunc(status.Status().Details.Causes, func(c metav1.StatusCause) bool { return c.Field == "metadata.uid" })
}

// armResident gives a resident pod the plan of this run.
func (r *ExpectationReconciler) armResident(ctx context.Context, s *scope, p *probeRun) error {
	pod := &corev1.Pod{}
	pod.Namespace, pod.Name, pod.UID = s.exp.Namespace, p.name, p.uid
	return patchMetadata(ctx, r.client, pod, map[string]any{
		"annotations":     map[string]string{wire.PlanKeyPrefix + string(s.exp.UID): probepod.EncodedPlan(p.plan)},
		"ownerReferences": []any{ownerReference(s.exp)},
	})
}

// release gives back the resident pods of the expectation that it does not need: those of
// another mode, those that its last run did without, and all of them when it is suspended.
func (r *ExpectationReconciler) release(ctx context.Context, s *scope) error {
	for name, pod := range s.residents {
		if resident(s.exp) && (s.track.run != nil || s.track.kept == nil || s.track.kept[name]) {
			continue
		}
		if err := r.leave(ctx, pod, s.exp.UID); err != nil {
			return err
		}
		delete(s.residents, name)
	}
	return nil
}

// leave takes an expectation from the owners of a resident pod. The last one deletes it.
func (r *ExpectationReconciler) leave(ctx context.Context, pod *corev1.Pod, owner types.UID) error {
	if !shared(pod, owner) {
		return r.deleteResident(ctx, pod)
	}
	left := pod.DeepCopy()
	err := patchMetadata(ctx, r.client, left, map[string]any{
		"annotations":     map[string]any{wire.PlanKeyPrefix + string(owner): nil, wire.RecordKeyPrefix + string(owner): nil},
		"ownerReferences": []any{map[string]any{"$patch": "delete", "uid": owner}},
	})
	switch {
	case podGone(err), apierrors.IsConflict(err):
		return nil
	case err != nil:
		return fmt.Errorf("leaving probe pod %s: %w", pod.Name, err)
	}
	if !shared(left, owner) {
		return r.deleteResident(ctx, left)
	}
	return nil
}

// deleteResident deletes a pod unless it has changed: another expectation may just have
// become its owner.
func (r *ExpectationReconciler) deleteResident(ctx context.Context, pod *corev1.Pod) error {
	r.logs.Unfollow(pod.UID)
	if pod.DeletionTimestamp != nil {
		return nil
	}
	err := r.client.Delete(ctx, pod, client.Preconditions{UID: &pod.UID, ResourceVersion: &pod.ResourceVersion})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("deleting probe pod %s: %w", client.ObjectKeyFromObject(pod), err)
	}
	return nil
}

// shared tells whether a pod belongs to another expectation, too.
func shared(pod *corev1.Pod, owner types.UID) bool {
	for _, o := range pod.OwnerReferences {
		if plan.IsExpectationRef(o) && o.UID != owner {
			return true
		}
	}
	return false
}

// keepPods notes which resident pods the run that has ended needed.
func (s *scope) keepPods(r *run) {
	s.track.kept = nil
	if !r.resident {
		return
	}
	s.track.kept = map[string]bool{}
	for _, p := range r.probes {
		s.track.kept[p.name] = !p.spare()
	}
	for _, x := range r.responders {
		s.track.kept[x.name] = true
	}
	for name := range s.residents {
		if !s.track.kept[name] {
			s.again(0) // to release it
		}
	}
}
