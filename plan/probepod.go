package plan

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pathproof/pathproof/api/v1alpha1"
)

// IsProbePod tells whether a pod is one that the operator made, of whatever
// expectation. Such pods carry the labels of workloads and are none: a snapshot
// leaves them out.
func IsProbePod(pod *corev1.Pod) bool {
	return pod.Annotations[v1alpha1.ExpectationAnnotation] != "" && slices.ContainsFunc(pod.OwnerReferences, IsExpectationRef)
}

// IsExpectationRef tells whether an owner is an expectation.
func IsExpectationRef(o metav1.OwnerReference) bool {
	group, _, _ := strings.Cut(o.APIVersion, "/")
	return o.Kind == "ConnectivityExpectation" && group == v1alpha1.GroupVersion.Group
}
