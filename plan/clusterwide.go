package plan

import (
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	policyv1alpha1 "sigs.k8s.io/network-policy-api/apis/v1alpha1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// clusterWide is what a plan has to know of a policy without a namespace, of
// whichever kind.
type clusterWide struct {
	kind, name string
	// namespaces is the part of the subject that is about namespaces; nil if the
	// policy does not say which, so that it could be any.
	namespaces *metav1.LabelSelector
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
		w.addOlderSubject(p.Spec.Subject)
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
		w.addOlderSubject(p.Spec.Subject)
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
	w := clusterWide{kind: "ClusterNetworkPolicy", name: p.Name, spec: p.Spec, namespaces: p.Spec.Subject.Namespaces}
	addPods := func(pods *policyv1alpha2.NamespacedPod) {
		if pods != nil {
			w.pods = append(w.pods, &pods.PodSelector)
		}
	}
	if pods := p.Spec.Subject.Pods; pods != nil {
		w.namespaces = &pods.NamespaceSelector
		addPods(pods)
	}
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

func (w *clusterWide) addOlderSubject(subject policyv1alpha1.AdminNetworkPolicySubject) {
	w.namespaces = subject.Namespaces
	if subject.Pods != nil {
		w.namespaces = &subject.Pods.NamespaceSelector
		w.pods = append(w.pods, &subject.Pods.PodSelector)
	}
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

// mayConcern tells whether the subject of the policy may be a pod of the namespace.
func (w *clusterWide) mayConcern(ns *corev1.Namespace) bool {
	if w.namespaces == nil {
		return true
	}
	selector, err := metav1.LabelSelectorAsSelector(w.namespaces)
	if err != nil {
		// A policy that cannot be read leaves the prediction open for every pod.
		return true
	}
	return selector.Matches(labels.Merge(ns.Labels, labels.Set{corev1.LabelMetadataName: ns.Name}))
}

// addClusterWide adds the policies without a namespace that may concern a pod of one
// of the namespaces to what is hashed.
func addClusterWide(lines map[string]string, in Input, namespaces map[string]bool) {
	listed := map[string]bool{}
	for _, ns := range in.Snapshot.Namespaces {
		listed[ns.Name] = true
	}
	unlisted := false
	for ns := range namespaces {
		unlisted = unlisted || !listed[ns]
	}
	for _, w := range clusterWidePolicies(in.Snapshot) {
		// The labels of a namespace that is not listed could be any.
		concerned := unlisted
		for _, ns := range in.Snapshot.Namespaces {
			concerned = concerned || (namespaces[ns.Name] && w.mayConcern(ns))
		}
		if concerned {
			// A spec of API types always marshals.
			spec, _ := json.Marshal(w.spec)
			lines["policy "+w.kind+" "+w.name] = string(spec)
		}
	}
}
