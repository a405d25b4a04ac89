package canary

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// ClusterPolicyName is the name of the one ClusterNetworkPolicy of the canary.
const ClusterPolicyName = "pathproof-canary"

// clusterPriority is the highest precedence that there is: a policy of the cluster's own
// that passes everything on, or accepts it, must not take this one for its business. No
// other pods than the canary's own are concerned.
const clusterPriority = 0

// ClusterPolicy returns the cluster-wide policy of the canary of a name: what a
// NetworkPolicy of the canary allows between its guarded pods and all others of its
// namespace, this denies between them and the plain ones. Its subject are the guarded pods
// in the canary's own namespace, and nothing else.
func ClusterPolicy(name, namespace string) *policyv1alpha2.ClusterNetworkPolicy {
	pods := func(r Role) *policyv1alpha2.NamespacedPod {
		return &policyv1alpha2.NamespacedPod{
			NamespaceSelector: metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace, Label: name}},
			PodSelector:       metav1.LabelSelector{MatchLabels: map[string]string{Label: name, RoleLabel: string(r)}},
		}
	}
	protocols := []policyv1alpha2.ClusterNetworkPolicyProtocol{{
		TCP: &policyv1alpha2.ClusterNetworkPolicyProtocolTCP{DestinationPort: &policyv1alpha2.Port{Number: portCluster}},
	}}
	return &policyv1alpha2.ClusterNetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: ClusterPolicyName, Labels: map[string]string{Label: name}},
		Spec: policyv1alpha2.ClusterNetworkPolicySpec{
			Tier: policyv1alpha2.AdminTier, Priority: clusterPriority, Subject: policyv1alpha2.ClusterNetworkPolicySubject{Pods: pods(Guarded)},
			Ingress: []policyv1alpha2.ClusterNetworkPolicyIngressRule{{
				Name: "strangers", Action: policyv1alpha2.ClusterNetworkPolicyRuleActionDeny,
				From: []policyv1alpha2.ClusterNetworkPolicyIngressPeer{{Pods: pods(Plain)}}, Protocols: protocols,
			}},
			Egress: []policyv1alpha2.ClusterNetworkPolicyEgressRule{{
				Name: "strangers", Action: policyv1alpha2.ClusterNetworkPolicyRuleActionDeny,
				To: []policyv1alpha2.ClusterNetworkPolicyEgressPeer{{Pods: pods(Plain)}}, Protocols: protocols,
			}},
		},
	}
}
