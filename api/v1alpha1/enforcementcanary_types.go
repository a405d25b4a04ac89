package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CanaryName is the name of the one EnforcementCanary of a cluster.
const CanaryName = "default"

// EnforcementCanary proves, node by node and feature by feature, that the network
// enforces NetworkPolicies at all. The operator keeps a few pods on every node, in two
// namespaces of the canary's own, under policies of its own, and probes from each node
// to itself and to its neighbours. There is one canary in a cluster, named default.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,path=enforcementcanaries,categories=pathproof
// +kubebuilder:printcolumn:name="Enforced",type=string,JSONPath=`.status.conditions[?(@.type=="Enforced")].status`
// +kubebuilder:printcolumn:name="Complete",type=string,JSONPath=`.status.conditions[?(@.type=="Complete")].status`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Covered",type=integer,JSONPath=`.status.nodes.covered`
// +kubebuilder:printcolumn:name="Nodes",type=integer,JSONPath=`.status.nodes.selected`
// +kubebuilder:printcolumn:name="Last-Round",type=date,JSONPath=`.status.lastRound.finishedAt`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default'",message="there is one canary in a cluster: name it default"
type EnforcementCanary struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says what is tested, and where. Unset means all its defaults.
	// +optional
	// +kubebuilder:default={}
	Spec EnforcementCanarySpec `json:"spec,omitempty"`
	// status reports what was found.
	// +optional
	Status EnforcementCanaryStatus `json:"status,omitempty"`
}

// EnforcementCanaryList is a list of EnforcementCanaries.
//
// +kubebuilder:object:root=true
type EnforcementCanaryList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	// items are the canaries.
	Items []EnforcementCanary `json:"items"`
}

// EnforcementCanarySpec says what is tested, and where.
type EnforcementCanarySpec struct {
	// namespace is where the pods and policies of the canary are. The operator creates
	// it, and a second one with -abroad behind its name, and both are deleted with the
	// canary. A namespace that exists already is refused. It cannot be changed. Bounds: 1
	// to 56 characters. Unset means pathproof-canary.
	// +optional
	// +kubebuilder:default=pathproof-canary
	// +kubebuilder:validation:MaxLength=56
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="the namespace cannot be changed: delete the canary and create it anew"
	Namespace NamespaceName `json:"namespace,omitempty"`

	// intervalSeconds is the time between two rounds of a node. Results older than 2.5
	// intervals count as unknown. Bounds: 15 to 86400. Unset means 60.
	// +optional
	// +kubebuilder:default=60
	// +kubebuilder:validation:Minimum=15
	// +kubebuilder:validation:Maximum=86400
	IntervalSeconds int32 `json:"intervalSeconds,omitempty"`

	// nodeSelector selects the nodes to cover by their labels. Unset means all.
	// Bounds: at most 16 labels.
	// +optional
	// +kubebuilder:validation:MaxProperties=16
	NodeSelector map[string]LabelValue `json:"nodeSelector,omitempty"`

	// tolerations are given to the pods. A node with a taint that they do not tolerate is
	// left out. Bounds: at most 16.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`

	// neighbours is the number of other nodes that each node probes. All nodes form a
	// ring, in an order that their names decide, and a node probes those that follow it.
	// It also probes itself. Bounds: 1 to 8. Unset means 2.
	// +optional
	// +kubebuilder:default=2
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=8
	Neighbours int32 `json:"neighbours,omitempty"`

	// features are those to test. ClusterNetworkPolicy is Unsupported unless the API
	// server serves that kind and the operator may write it. Unset means all.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=11
	Features []CanaryFeature `json:"features,omitempty"`

	// sctp says what speaks SCTP. Kernel leaves it to the kernels of the nodes: without
	// the module sctp, the feature is Unsupported there. Raw lets the pods speak it
	// themselves, which takes the capability NET_RAW, so that the canary's namespaces
	// enforce no Pod Security Standard. It cannot be changed. Unset means Kernel.
	// +optional
	// +kubebuilder:default=Kernel
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="sctp cannot be changed: delete the canary and create it anew"
	SCTP SCTPSockets `json:"sctp,omitempty"`
}

// CanaryFeature is something that a NetworkPolicy can ask for, or another kind of policy.
//
// +kubebuilder:validation:Enum=DefaultDeny;Port;EndPort;PodSelector;NamespaceSelector;IPBlock;NamedPort;UDP;SCTP;IPv6;ClusterNetworkPolicy
type CanaryFeature string

// The features.
const (
	// FeatureDefaultDeny: what no rule allows is closed.
	FeatureDefaultDeny CanaryFeature = "DefaultDeny"
	// FeaturePort: a rule with a port allows that port and no other.
	FeaturePort CanaryFeature = "Port"
	// FeatureEndPort: a rule with endPort allows the range and nothing beyond it.
	FeatureEndPort CanaryFeature = "EndPort"
	// FeaturePodSelector: a peer by podSelector allows pods with these labels alone.
	FeaturePodSelector CanaryFeature = "PodSelector"
	// FeatureNamespaceSelector: a peer by namespaceSelector allows pods of these
	// namespaces alone.
	FeatureNamespaceSelector CanaryFeature = "NamespaceSelector"
	// FeatureIPBlock: a peer by ipBlock does not allow what its except list holds.
	FeatureIPBlock CanaryFeature = "IPBlock"
	// FeatureNamedPort: a rule with the name of a port allows the port of that name alone.
	FeatureNamedPort CanaryFeature = "NamedPort"
	// FeatureUDP: policies hold for UDP.
	FeatureUDP CanaryFeature = "UDP"
	// FeatureSCTP: policies hold for SCTP.
	FeatureSCTP CanaryFeature = "SCTP"
	// FeatureIPv6: policies hold for IPv6.
	FeatureIPv6 CanaryFeature = "IPv6"
	// FeatureClusterNetworkPolicy: what a ClusterNetworkPolicy
	// (policy.networking.k8s.io/v1alpha2) denies is closed, although a NetworkPolicy allows it.
	FeatureClusterNetworkPolicy CanaryFeature = "ClusterNetworkPolicy"
)

// CanaryDirection is the direction of a policy.
//
// +kubebuilder:validation:Enum=Ingress;Egress
type CanaryDirection string

// The directions.
const (
	// DirectionIngress is about what reaches a pod: it is enforced on the target's node.
	DirectionIngress CanaryDirection = "Ingress"
	// DirectionEgress is about what leaves a pod: it is enforced on the source's node.
	DirectionEgress CanaryDirection = "Egress"
)

// EnforcementCanaryStatus reports what was found.
type EnforcementCanaryStatus struct {
	// observedGeneration is the generation of the spec that the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions are Enforced, Complete and Ready.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// nodes counts the nodes.
	// +optional
	Nodes *CanaryNodes `json:"nodes,omitempty"`

	// features counts the nodes by what was found for each feature, in either direction.
	// +optional
	// +listType=map
	// +listMapKey=feature
	Features []FeatureStatus `json:"features,omitempty"`

	// offenders are the nodes that do not enforce a feature. Bounds: the first 20, by
	// node, direction and feature.
	// +optional
	// +listType=atomic
	Offenders []Offender `json:"offenders,omitempty"`

	// lastRound is when the results were measured that the status is about. It is written
	// once in an interval, or when something else has changed.
	// +optional
	LastRound *CanaryRound `json:"lastRound,omitempty"`

	// lastCompleteAt is when Complete was last found to be true. It is written as
	// lastRound is.
	// +optional
	LastCompleteAt *metav1.Time `json:"lastCompleteAt,omitempty"`

	// lastHandledRequest is the value of the annotation pathproof.dev/requested-at that
	// all results are newer than.
	// +optional
	LastHandledRequest string `json:"lastHandledRequest,omitempty"`
}

// CanaryNodes counts nodes.
type CanaryNodes struct {
	// selected are the nodes that nodeSelector selects.
	Selected int32 `json:"selected"`
	// covered are those of which every feature was found to be Enforced, NotEnforced or
	// Unsupported, in both directions.
	Covered int32 `json:"covered"`
	// leftOut counts the others by reason.
	// +optional
	// +listType=map
	// +listMapKey=reason
	LeftOut []NodesLeftOut `json:"leftOut,omitempty"`
}

// NodesLeftOut are nodes that are not covered, for one reason.
type NodesLeftOut struct {
	// reason is one of Cordoned, Leaving, NotReady, Tainted, Virtual and Windows, for
	// nodes on which there are no pods of the canary, or Unknown for nodes of which
	// something could not be found out.
	Reason string `json:"reason"`
	// count is the number of nodes.
	Count int32 `json:"count"`
	// first is the name of one of them, and message says more of it.
	First string `json:"first"`
	// message is about the node that is named. Bounds: 512 bytes.
	// +optional
	Message string `json:"message,omitempty"`
}

// FeatureStatus counts nodes by what was found for a feature. A node counts by the
// worse of its two directions: not enforced, unknown, unsupported, enforced.
type FeatureStatus struct {
	// feature is what was tested.
	Feature CanaryFeature `json:"feature"`
	// enforced counts the nodes that do what the policies say.
	Enforced int32 `json:"enforced"`
	// notEnforced counts those that let through what policies deny, or block what they
	// allow.
	NotEnforced int32 `json:"notEnforced"`
	// unsupported counts those on which the feature cannot be used.
	Unsupported int32 `json:"unsupported"`
	// unknown counts those on which nothing could be found out.
	Unknown int32 `json:"unknown"`
}

// Offender is a node that does not enforce a feature in a direction.
type Offender struct {
	// node is the name of the node.
	Node string `json:"node"`
	// direction of the policy.
	Direction CanaryDirection `json:"direction"`
	// feature is what is not enforced.
	Feature CanaryFeature `json:"feature"`
	// message says what was seen. Bounds: 512 bytes.
	Message string `json:"message"`
	// since is when it was first seen. What comes again before it was enforced for 3
	// intervals is the same as before.
	Since metav1.Time `json:"since"`
}

// CanaryRound is the time in which results were measured.
type CanaryRound struct {
	// startedAt is when the oldest of them was received.
	StartedAt metav1.Time `json:"startedAt"`
	// finishedAt is when the newest of them was received.
	FinishedAt metav1.Time `json:"finishedAt"`
}
