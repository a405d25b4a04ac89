// Package v1alpha1 is version v1alpha1 of the API group pathproof.dev: what
// users declare, and what the operator reports.
//
// +kubebuilder:object:generate=true
// +groupName=pathproof.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of the types of this package.
var GroupVersion = schema.GroupVersion{Group: "pathproof.dev", Version: "v1alpha1"}

// AddToScheme registers the types of this package.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &ConnectivityExpectation{}, &ConnectivityExpectationList{}, &EnforcementCanary{}, &EnforcementCanaryList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
