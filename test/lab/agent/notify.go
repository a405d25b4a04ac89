package agent

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// notifier sends what changed, without ever blocking an informer.
func notifier(changed chan<- string) cache.ResourceEventHandler {
	notify := func(verb string, object any) {
		select {
		case changed <- describe(verb, object):
		default: // a change that is not handled yet will cover this one
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { notify("added", o) },
		DeleteFunc: func(o any) { notify("deleted", o) },
		UpdateFunc: func(before, after any) {
			if relevant(before, after) {
				notify("changed", after)
			}
		},
	}
}

// relevant spares the compiler the updates that say nothing about
// enforcement: most are changes of a pod's conditions.
func relevant(before, after any) bool {
	switch a := after.(type) {
	case *corev1.Pod:
		b := before.(*corev1.Pod)
		return a.UID != b.UID || a.Status.Phase != b.Status.Phase || a.Spec.NodeName != b.Spec.NodeName ||
			!maps.Equal(a.Labels, b.Labels) || !slices.Equal(a.Status.PodIPs, b.Status.PodIPs)
	case *corev1.Namespace:
		return !maps.Equal(a.Labels, before.(*corev1.Namespace).Labels)
	case *networkingv1.NetworkPolicy:
		return !equality.Semantic.DeepEqual(a.Spec, before.(*networkingv1.NetworkPolicy).Spec)
	case *policyv1alpha2.ClusterNetworkPolicy:
		return !equality.Semantic.DeepEqual(a.Spec, before.(*policyv1alpha2.ClusterNetworkPolicy).Spec)
	default:
		return true
	}
}

// describe names an object for the log: the trace of what caused a change.
func describe(verb string, object any) string {
	if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = tombstone.Obj
	}
	kind := "object"
	switch object.(type) {
	case *corev1.Pod:
		kind = "pod"
	case *corev1.Namespace:
		kind = "namespace"
	case *networkingv1.NetworkPolicy:
		kind = "networkpolicy"
	case *policyv1alpha2.ClusterNetworkPolicy:
		kind = "clusternetworkpolicy"
	}
	m, err := meta.Accessor(object)
	if err != nil {
		return verb + " " + kind
	}
	return fmt.Sprintf("%s %s %s/%s@%s", verb, kind, m.GetNamespace(), m.GetName(), m.GetResourceVersion())
}
