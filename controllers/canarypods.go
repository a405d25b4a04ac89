package controllers

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/plan"
)

const (
	// canaryPodAge is the age at which a pod of the canary is replaced, up to a sixth
	// later, by its node. One that is twice as old is ended by the kubelet: then nobody is
	// left to replace it.
	canaryPodAge = 12 * time.Hour
	// maxRefused is the number of pods that the API server may refuse in one step: what it
	// has against them, it mostly has against all.
	maxRefused = 3

	// canaryPlanAnnotation holds the ID of a pod's plan. The plan itself is not kept in
	// the cache.
	canaryPlanAnnotation = "pathproof.dev/canary-plan"
)

// canaryPod builds the pod of a role on a node.
func canaryPod(c *v1alpha1.EnforcementCanary, features []v1alpha1.CanaryFeature, role canary.Role, node string, o Options) *corev1.Pod {
	pod := canary.NewPod(canary.PodSettings{
		Name: c.Name, Namespace: string(c.Spec.Namespace), Features: features, RawSCTP: c.Spec.SCTP == v1alpha1.SCTPRaw,
		Tolerations: c.Spec.Tolerations, Lifetime: 2 * canaryPodAge, Image: o.image(),
	}, role, node)
	pod.OwnerReferences = canaryOwner(c)
	pod.Annotations[residentAnnotation] = "true"
	pod.Name = residentName("canary-"+string(role), pod)
	return pod
}

// keepPods creates the pods that are missing, and deletes those that are not needed, that
// have ended, or that are old. Those of a node that is not Ready stay: it may be back in a
// moment, as all are after an outage of the API server, and new pods would meet agents that
// have not heard of them.
func (r *CanaryReconciler) keepPods(ctx context.Context, s *canaryScope) (bool, error) {
	there, err := r.listPods(ctx, s)
	if err != nil {
		return false, err
	}
	s.pods, s.waiting = canary.Pods{}, map[string]string{}
	writes, refused := 0, 0
	of := strconv.FormatInt(s.canary.Generation, 10)
	for _, node := range sortedKeys(s.ring) {
		s.pods[node] = map[canary.Role]*corev1.Pod{}
		want := func(role canary.Role) *corev1.Pod { return canaryPod(s.canary, s.features, role, node, s.options) }
		names := recall(s.state.memo.names, node, of, func() (out []client.ObjectKey) {
			for _, role := range canary.Roles() {
				out = append(out, client.ObjectKeyFromObject(want(role)))
			}
			return out
		})
		for i, role := range canary.Roles() {
			key := names[i]
			pod := there[key]
			delete(there, key)
			switch {
			case pod == nil && writes < canaryBurst && refused < maxRefused:
				writes++
				if err := r.client.Create(ctx, want(role)); err != nil && !apierrors.IsAlreadyExists(err) {
					// A new namespace takes a moment until pods can be created in it, and one
					// pod that is refused must not keep the others waiting.
					refused++
					s.wait(node, fmt.Sprintf("its pod %s cannot be created: %v", key, err))
					s.again(canaryRetry)
				}
			case pod != nil && r.spent(s, pod, node):
				if err := r.deletePod(ctx, pod); err != nil {
					return false, err
				}
				pod = nil
			}
			if up, why := canary.Up(pod); !up {
				s.wait(node, fmt.Sprintf("its pod %s %s", key, why))
			}
			s.pods[node][role] = pod
		}
	}
	if writes == canaryBurst {
		s.again(canaryRetry)
	}
	deletes := 0
	for _, pod := range there {
		if pod.DeletionTimestamp == nil && s.leftOut[pod.Spec.NodeName].reason == canary.LeftOutNotReady {
			r.logs.Unfollow(pod.UID)
			continue
		}
		if deletes++; deletes > canaryBurst {
			s.again(canaryRetry)
			break
		}
		if err := r.deletePod(ctx, pod); err != nil {
			return false, err
		}
	}
	return false, nil
}

// wait notes why a node cannot take part. The first reason stays.
func (s *canaryScope) wait(node, why string) {
	if s.waiting[node] == "" {
		s.waiting[node] = truncate(why, maxText)
	}
}

// listPods returns the pods of the canary, by their names.
func (r *CanaryReconciler) listPods(ctx context.Context, s *canaryScope) (map[client.ObjectKey]*corev1.Pod, error) {
	out := map[client.ObjectKey]*corev1.Pod{}
	for _, role := range []canary.Role{canary.Plain, canary.Abroad} {
		var list corev1.PodList
		ns := canary.NamespaceOf(string(s.canary.Spec.Namespace), role)
		if err := r.client.List(ctx, &list, client.InNamespace(ns), client.UnsafeDisableDeepCopy); err != nil {
			return nil, fmt.Errorf("listing pods of the canary: %w", err)
		}
		for i := range list.Items {
			if pod := &list.Items[i]; plan.IsCanaryPod(pod) {
				out[client.ObjectKeyFromObject(pod)] = pod
			}
		}
	}
	return out, nil
}

// spent tells whether a pod has to be replaced.
func (r *CanaryReconciler) spent(s *canaryScope, pod *corev1.Pod, node string) bool {
	if pod.DeletionTimestamp != nil || !ownedByCanary(pod, s.canary) || canary.Ended(pod) {
		return true
	}
	return s.now.Sub(pod.CreationTimestamp.Time) > canaryPodAge+jitter(types.UID(node), canaryPodAge/6)
}

func (r *CanaryReconciler) deletePod(ctx context.Context, pod *corev1.Pod) error {
	r.logs.Unfollow(pod.UID)
	r.reports.drop(pod.UID)
	if pod.DeletionTimestamp != nil {
		return nil
	}
	err := r.client.Delete(ctx, pod, client.Preconditions{UID: &pod.UID})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("deleting pod %s of the canary: %w", client.ObjectKeyFromObject(pod), err)
	}
	return nil
}

// keepPolicies creates the policies that are missing, and puts right those that were
// changed. It ends the reconcile until they are as they should be: what was measured
// without them proves nothing.
func (r *CanaryReconciler) keepPolicies(ctx context.Context, s *canaryScope) (bool, error) {
	ns := string(s.canary.Spec.Namespace)
	var list networkingv1.NetworkPolicyList
	if err := r.client.List(ctx, &list, client.InNamespace(ns), client.UnsafeDisableDeepCopy); err != nil {
		return false, fmt.Errorf("listing policies of the canary: %w", err)
	}
	there := map[string]*networkingv1.NetworkPolicy{}
	for i := range list.Items {
		there[list.Items[i].Name] = &list.Items[i]
	}
	s.policies = map[string]string{}
	whole, writes := true, 0
	keep := func(node string, want *networkingv1.NetworkPolicy) error {
		have := there[want.Name]
		delete(there, want.Name)
		if have != nil && equality.Semantic.DeepEqual(have.Spec, want.Spec) && ownedByCanary(have, s.canary) {
			s.policies[node] += flow.ID(string(have.UID), strconv.FormatInt(have.Generation, 10))
			return nil
		}
		if node == "" {
			whole = false
		} else {
			s.wait(node, "its policy "+want.Name+" is being written")
		}
		s.again(canaryRetry)
		if writes++; writes > canaryBurst {
			return nil
		}
		return r.writePolicy(ctx, s, have, want)
	}
	for _, want := range canary.Policies(ns, s.features) {
		if err := keep("", want); err != nil {
			return false, err
		}
	}
	if slices.Contains(s.features, v1alpha1.FeatureIPBlock) {
		for _, node := range sortedKeys(s.ring) {
			if err := s.keepBlock(ns, node, there, keep); err != nil {
				return false, err
			}
		}
	}
	for _, p := range there {
		if err := r.client.Delete(ctx, p); client.IgnoreNotFound(err) != nil {
			return false, fmt.Errorf("deleting policy %s of the canary: %w", p.Name, err)
		}
	}
	if !whole {
		s.starting("the policies are being written")
	}
	return !whole, nil
}

// keepBlock keeps the policy of ipBlock of a node, with the addresses that are known: no
// other pods take part. What was found to be right is so until it changes.
func (s *canaryScope) keepBlock(ns, node string, there map[string]*networkingv1.NetworkPolicy, keep func(string, *networkingv1.NetworkPolicy) error) error {
	name := canary.BlockPolicyName(node)
	if len(s.firstAddrs([]string{node})) == 0 {
		// What there is stays as it is until the pod is there again.
		delete(there, name)
		return nil
	}
	sources, targets := s.firstAddrs(s.sources[node]), s.firstAddrs(s.ring[node])
	of := blockRestsOn(there[name], sources, targets)
	if known, ok := s.state.memo.blocks[node]; ok && known.of == of {
		s.policies[node] = known.what
		delete(there, name)
		return nil
	}
	if err := keep(node, canary.BlockPolicy(ns, node, sources, targets)); err != nil {
		return err
	}
	if id := s.policies[node]; id != "" {
		s.state.memo.blocks[node] = made[string]{of, id}
	}
	return nil
}

func (r *CanaryReconciler) writePolicy(ctx context.Context, s *canaryScope, have, want *networkingv1.NetworkPolicy) error {
	want.Labels[canary.Label] = s.canary.Name
	want.OwnerReferences = canaryOwner(s.canary)
	if have == nil {
		if err := r.client.Create(ctx, want); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("creating policy %s of the canary: %w", want.Name, err)
		}
		return nil
	}
	right := have.DeepCopy()
	right.Spec, right.Labels, right.OwnerReferences = want.Spec, want.Labels, want.OwnerReferences
	if err := r.client.Patch(ctx, right, client.MergeFrom(have)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("putting policy %s of the canary right: %w", want.Name, err)
	}
	return nil
}
