package plan

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pathproof/pathproof/api/v1alpha1"
)

// IsProbePod tells whether a pod is one that the operator made, of whatever
// expectation, or of the canary. Such pods are no workloads, even if they carry the labels
// of some: a snapshot leaves them out.
func IsProbePod(pod *corev1.Pod) bool {
	return IsCanaryPod(pod) || pod.Annotations[v1alpha1.ExpectationAnnotation] != "" && slices.ContainsFunc(pod.OwnerReferences, IsExpectationRef)
}

// IsExpectationRef tells whether an owner is an expectation.
func IsExpectationRef(o metav1.OwnerReference) bool {
	return ownerIs(o, "ConnectivityExpectation")
}

// IsCanaryPod tells whether a pod belongs to the enforcement canary.
func IsCanaryPod(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.OwnerReferences, func(o metav1.OwnerReference) bool { return ownerIs(o, "EnforcementCanary") })
}

func ownerIs(o metav1.OwnerReference, kind string) bool {
	group, _, _ := strings.Cut(o.APIVersion, "/")
	return o.Kind == kind && group == v1alpha1.GroupVersion.Group
}
