package canary

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pathproof/pathproof/api/v1alpha1"
)

// Labels of the canary's objects.
const (
	// Label is on all of them. Its value is the name of the canary.
	Label = "pathproof.dev/canary"
	// RoleLabel is the Role of a pod.
	RoleLabel = "pathproof.dev/canary-role"
	// NodeLabel is the NodeID of a pod, or of the guarded pod that a policy is for.
	NodeLabel = "pathproof.dev/canary-node"
)

// AbroadSuffix is what the name of the second namespace has behind that of the first.
const AbroadSuffix = "-abroad"

// Policies returns the policies of the features: one that isolates the guarded pods, and
// one for each feature that adds what it allows, so that an implementation that stumbles
// over one feature does not show in the rows of others. That of ipBlock depends on
// addresses: BlockPolicy makes it, one for each node.
func Policies(namespace string, features []v1alpha1.CanaryFeature) []*networkingv1.NetworkPolicy {
	out := []*networkingv1.NetworkPolicy{policy(namespace, "default-deny", nil, nil)}
	for _, f := range features {
		if peer, ports := allows(namespace, f); peer != nil {
			out = append(out, policy(namespace, strings.ToLower(string(f)), nil, []rule{{peer, ports}}))
		}
	}
	return out
}

// BlockPolicy returns the policy of ipBlock for the guarded pod of a node. It allows all
// addresses but those excepted: of the plain pods that probe it, and of those that it
// probes. The addresses are of one family.
func BlockPolicy(namespace, node string, sources, targets []netip.Addr) *networkingv1.NetworkPolicy {
	all := func(except []netip.Addr) *networkingv1.NetworkPolicyPeer {
		block := &networkingv1.IPBlock{CIDR: "0.0.0.0/0"}
		for _, addr := range slices.Compact(slices.SortedFunc(slices.Values(except), netip.Addr.Compare)) {
			if addr.Is6() {
				block.CIDR = "::/0"
			}
			block.Except = append(block.Except, netip.PrefixFrom(addr, addr.BitLen()).String())
		}
		return &networkingv1.NetworkPolicyPeer{IPBlock: block}
	}
	ports := []networkingv1.NetworkPolicyPort{port(corev1.ProtocolTCP, portBlock)}
	beside := rule{byPod(Friend), []networkingv1.NetworkPolicyPort{port(corev1.ProtocolTCP, portBlockToo)}}
	p := policy(namespace, BlockPolicyName(node), map[string]string{NodeLabel: NodeID(node)}, []rule{beside})
	p.Labels[NodeLabel] = NodeID(node)
	p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{*all(sources)}, Ports: ports})
	p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{*all(targets)}, Ports: ports})
	return p
}

// BlockPolicyName is the name of the policy of ipBlock for the guarded pod of a node.
func BlockPolicyName(node string) string { return "ipblock-" + NodeID(node) }

// rule is what is allowed, in both directions.
type rule struct {
	peer  *networkingv1.NetworkPolicyPeer
	ports []networkingv1.NetworkPolicyPort
}

// allows returns what a feature's policy allows; nothing if it has none.
func allows(namespace string, f v1alpha1.CanaryFeature) (*networkingv1.NetworkPolicyPeer, []networkingv1.NetworkPolicyPort) {
	one := func(p corev1.Protocol, n int32) []networkingv1.NetworkPolicyPort {
		return []networkingv1.NetworkPolicyPort{port(p, n)}
	}
	switch f {
	case v1alpha1.FeaturePort, v1alpha1.FeatureIPv6:
		return byPod(Friend), one(corev1.ProtocolTCP, portAllowed)
	case v1alpha1.FeatureEndPort:
		ports := one(corev1.ProtocolTCP, rangeFirst)
		last := int32(rangeLast)
		ports[0].EndPort = &last
		return byPod(Friend), ports
	case v1alpha1.FeaturePodSelector:
		return byPod(Friend), one(corev1.ProtocolTCP, portByPod)
	case v1alpha1.FeatureNamespaceSelector:
		return byNamespace(namespace + AbroadSuffix), one(corev1.ProtocolTCP, portByNS)
	case v1alpha1.FeatureNamedPort:
		ports := one(corev1.ProtocolTCP, 0)
		name := intstr.FromString(NamedPort)
		ports[0].Port = &name
		return byNamespace(namespace + AbroadSuffix), ports
	case v1alpha1.FeatureUDP:
		return byPod(Friend), one(corev1.ProtocolUDP, portAllowed)
	case v1alpha1.FeatureSCTP:
		return byPod(Friend), one(corev1.ProtocolSCTP, SCTPPort)
	case v1alpha1.FeatureClusterNetworkPolicy:
		// All pods of the namespace: what is denied to some of them is for ClusterPolicy.
		return &networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{}}, one(corev1.ProtocolTCP, portCluster)
	case v1alpha1.FeatureDefaultDeny, v1alpha1.FeatureIPBlock:
	}
	return nil, nil
}

func policy(namespace, name string, also map[string]string, rules []rule) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{}},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{RoleLabel: string(Guarded)}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
		},
	}
	for k, v := range also {
		p.Spec.PodSelector.MatchLabels[k] = v
	}
	for _, r := range rules {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{*r.peer}, Ports: r.ports})
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{*r.peer}, Ports: r.ports})
	}
	return p
}

func byPod(r Role) *networkingv1.NetworkPolicyPeer {
	return &networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{RoleLabel: string(r)}}}
}

func byNamespace(name string) *networkingv1.NetworkPolicyPeer {
	return &networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: name}}}
}

func port(protocol corev1.Protocol, number int32) networkingv1.NetworkPolicyPort {
	n := intstr.FromInt32(number)
	return networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &n}
}
