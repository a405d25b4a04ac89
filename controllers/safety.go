package controllers

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/probepod"
)

// refusal tells why a pod must not be created, or returns an empty string. A ReplicaSet, ReplicationController or DaemonSet whose selector
// matches would adopt the pod, find one pod too many and delete one: ours, or a
// real one. A Service that publishes addresses of pods that are not ready would
// send it traffic.
func (r *ExpectationReconciler) refusal(ctx context.Context, pod *corev1.Pod, snapshot plan.Snapshot) (string, error) {
	if refused := forbiddenRaw(pod, snapshot.Namespaces); refused != "" {
		return refused, nil
	}
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
	for _, svc := range snapshot.Services {
		if svc.Namespace == pod.Namespace && svc.Spec.PublishNotReadyAddresses && len(svc.Spec.Selector) > 0 &&
			labels.SelectorFromSet(svc.Spec.Selector).Matches(set) {
			return fmt.Sprintf("Service %s publishes addresses of pods that are not ready, so that it would send its traffic to a probe pod with these labels", svc.Name), nil
		}
	}
	return "", nil
}

// forbiddenRaw tells whether a pod has a capability that its namespace forbids. Of the
// standards, privileged alone allows NET_RAW; a level that does not exist counts as
// restricted, as it does for admission. Whatever else forbids the pod, such as a level
// for all namespaces, the API server tells when the pod is created.
func forbiddenRaw(pod *corev1.Pod, namespaces []*corev1.Namespace) string {
	i := slices.IndexFunc(namespaces, func(n *corev1.Namespace) bool { return n.Name == pod.Namespace })
	if i < 0 || !slices.ContainsFunc(pod.Spec.Containers, probepod.AddsNetRaw) {
		return ""
	}
	switch level := namespaces[i].Labels[probepod.EnforceLabel]; level {
	case "", "privileged":
		return ""
	default:
		return fmt.Sprintf("probe.sctp is Raw, which takes the capability NET_RAW, and namespace %s enforces the Pod Security Standard %q, which forbids it: "+
			"load the kernel module sctp on the nodes and set probe.sctp to Kernel", pod.Namespace, level)
	}
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
