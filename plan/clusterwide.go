package plan

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha1 "sigs.k8s.io/network-policy-api/apis/v1alpha1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// clusterWide is what a plan has to know of a policy without a namespace, of
// whichever kind.
type clusterWide struct {
	kind, name string
	// pods are the selectors of pods, those of the subject and of all peers.
	pods []*metav1.LabelSelector
	// networks are the ranges of addresses that egress rules name.
	networks []string
	spec     any
}

// clusterWidePolicies lists the policies without a namespace.
func clusterWidePolicies(s Snapshot) []clusterWide {
	var out []clusterWide
	for _, p := range s.ClusterNetworkPolicies {
		out = append(out, ofClusterNetworkPolicy(p))
	}
	for _, p := range s.AdminNetworkPolicies {
		w := clusterWide{kind: "AdminNetworkPolicy", name: p.Name, spec: p.Spec}
		w.addOlderTarget(p.Spec.Subject.Pods, nil)
		for _, rule := range p.Spec.Ingress {
			w.addOlderSources(rule.From)
		}
		for _, rule := range p.Spec.Egress {
			for _, peer := range rule.To {
				w.addOlderTarget(peer.Pods, peer.Networks)
			}
		}
		out = append(out, w)
	}
	for _, p := range s.BaselineAdminNetworkPolicies {
		w := clusterWide{kind: "BaselineAdminNetworkPolicy", name: p.Name, spec: p.Spec}
		w.addOlderTarget(p.Spec.Subject.Pods, nil)
		for _, rule := range p.Spec.Ingress {
			w.addOlderSources(rule.From)
		}
		for _, rule := range p.Spec.Egress {
			for _, peer := range rule.To {
				w.addOlderTarget(peer.Pods, peer.Networks)
			}
		}
		out = append(out, w)
	}
	return out
}

func ofClusterNetworkPolicy(p *policyv1alpha2.ClusterNetworkPolicy) clusterWide {
	w := clusterWide{kind: "ClusterNetworkPolicy", name: p.Name, spec: p.Spec}
	addPods := func(pods *policyv1alpha2.NamespacedPod) {
		if pods != nil {
			w.pods = append(w.pods, &pods.PodSelector)
		}
	}
	addPods(p.Spec.Subject.Pods)
	for _, rule := range p.Spec.Ingress {
		for _, peer := range rule.From {
			addPods(peer.Pods)
		}
	}
	for _, rule := range p.Spec.Egress {
		for _, peer := range rule.To {
			addPods(peer.Pods)
			for _, cidr := range peer.Networks {
				w.networks = append(w.networks, string(cidr))
			}
		}
	}
	return w
}

func (w *clusterWide) addOlderSources(peers []policyv1alpha1.AdminNetworkPolicyIngressPeer) {
	for _, peer := range peers {
		w.addOlderTarget(peer.Pods, nil)
	}
}

func (w *clusterWide) addOlderTarget(pods *policyv1alpha1.NamespacedPod, networks []policyv1alpha1.CIDR) {
	if pods != nil {
		w.pods = append(w.pods, &pods.PodSelector)
	}
	for _, cidr := range networks {
		w.networks = append(w.networks, string(cidr))
	}
}
