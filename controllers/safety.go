package controllers

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// refusal tells why a pod with these labels must not be created, or returns an
// empty string. A ReplicaSet, ReplicationController or DaemonSet whose selector
// matches would adopt the pod, find one pod too many and delete one: ours, or a
// real one. A Service that publishes addresses of pods that are not ready would
// send it traffic.
func (r *ExpectationReconciler) refusal(ctx context.Context, pod *corev1.Pod, services []*corev1.Service) (string, error) {
	set := labels.Set(pod.Labels)
	var (
		replicaSets appsv1.ReplicaSetList
		daemonSets  appsv1.DaemonSetList
		controllers corev1.ReplicationControllerList
	)
	for _, list := range []client.ObjectList{&replicaSets, &daemonSets, &controllers} {
		if err := r.client.List(ctx, list, client.InNamespace(pod.Namespace)); err != nil {
			return "", fmt.Errorf("listing %T: %w", list, err)
		}
	}
	for _, rs := range replicaSets.Items {
		if selects(rs.Spec.Selector, set) {
			return adopted("ReplicaSet", rs.Name), nil
		}
	}
	for _, ds := range daemonSets.Items {
		if selects(ds.Spec.Selector, set) {
			return adopted("DaemonSet", ds.Name), nil
		}
	}
	for _, rc := range controllers.Items {
		if len(rc.Spec.Selector) > 0 && labels.SelectorFromSet(rc.Spec.Selector).Matches(set) {
			return adopted("ReplicationController", rc.Name), nil
		}
	}
	for _, svc := range services {
		if svc.Namespace == pod.Namespace && svc.Spec.PublishNotReadyAddresses && len(svc.Spec.Selector) > 0 &&
			labels.SelectorFromSet(svc.Spec.Selector).Matches(set) {
			return fmt.Sprintf("Service %s publishes addresses of pods that are not ready, so that it would send its traffic to a probe pod with these labels", svc.Name), nil
		}
	}
	return "", nil
}

func adopted(kind, name string) string {
	return fmt.Sprintf("the selector of %s %s matches these labels, so that it would adopt the probe pod and delete a pod in its place: probe the path as an identity with other labels", kind, name)
}

// selects tells whether a selector matches. A selector that does not parse cannot
// have been admitted; it counts as a match, which is the safe side.
func selects(s *metav1.LabelSelector, set labels.Set) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err != nil || (!selector.Empty() && selector.Matches(set))
}
