package evaluator

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"github.com/pathproof/pathproof/flow"
)

// The generators draw from few names, so that selectors, names and addresses meet.

func drawLabels(t *rapid.T, label string) map[string]string {
	return rapid.MapOfN(rapid.SampledFrom([]string{"app", "role"}), rapid.SampledFrom([]string{"a", "b"}), 0, 2).Draw(t, label)
}

func drawSelector(t *rapid.T) *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	switch rapid.IntRange(0, 3).Draw(t, "selector") {
	case 0:
	case 1, 2:
		s.MatchLabels = drawLabels(t, "matchLabels")
	case 3:
		x := metav1.LabelSelectorRequirement{
			Key: rapid.SampledFrom([]string{"app", "role"}).Draw(t, "key"),
			Operator: rapid.SampledFrom([]metav1.LabelSelectorOperator{
				metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist,
			}).Draw(t, "operator"),
		}
		if x.Operator == metav1.LabelSelectorOpIn || x.Operator == metav1.LabelSelectorOpNotIn {
			x.Values = []string{rapid.SampledFrom([]string{"a", "b"}).Draw(t, "value")}
		}
		s.MatchExpressions = append(s.MatchExpressions, x)
	}
	return s
}

func drawPeers(t *rapid.T) []networkingv1.NetworkPolicyPeer {
	var peers []networkingv1.NetworkPolicyPeer
	for range rapid.IntRange(0, 2).Draw(t, "peers") {
		var p networkingv1.NetworkPolicyPeer
		switch rapid.IntRange(0, 5).Draw(t, "peer") {
		case 0, 1:
			p.PodSelector = drawSelector(t)
		case 2:
			p.NamespaceSelector = drawSelector(t)
		case 3, 4:
			p.PodSelector, p.NamespaceSelector = drawSelector(t), drawSelector(t)
		case 5:
			p.IPBlock = rapid.SampledFrom([]*networkingv1.IPBlock{
				{CIDR: "10.0.0.0/8"}, {CIDR: "10.0.0.0/8", Except: []string{"10.0.0.0/16"}}, {CIDR: "192.168.0.1/32"},
				{CIDR: "0.0.0.0/0", Except: []string{"192.168.0.0/16", "203.0.113.0/24"}}, {CIDR: "203.0.113.0/25"}, {CIDR: "2001:db8::/32"},
			}).Draw(t, "block")
		}
		peers = append(peers, p)
	}
	return peers
}

func drawPorts(t *rapid.T) []networkingv1.NetworkPolicyPort {
	var ports []networkingv1.NetworkPolicyPort
	for range rapid.IntRange(0, 2).Draw(t, "ports") {
		var p networkingv1.NetworkPolicyPort
		if rapid.Bool().Draw(t, "hasProtocol") {
			protocol := rapid.SampledFrom([]corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP}).Draw(t, "protocol")
			p.Protocol = &protocol
		}
		switch rapid.IntRange(0, 3).Draw(t, "port") {
		case 0:
		case 1:
			n := intstr.FromInt32(rapid.SampledFrom([]int32{80, 81, 82}).Draw(t, "number"))
			p.Port = &n
		case 2:
			n, last := intstr.FromInt32(80), rapid.Int32Range(80, 82).Draw(t, "endPort")
			p.Port, p.EndPort = &n, &last
		case 3:
			n := intstr.FromString(rapid.SampledFrom([]string{"http", "dns"}).Draw(t, "name"))
			p.Port = &n
		}
		ports = append(ports, p)
	}
	return ports
}

func drawPolicy(t *rapid.T, name string) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{
		Namespace: rapid.SampledFrom([]string{"n0", "n1"}).Draw(t, "namespace"), Name: name,
	}}
	p.Spec.PodSelector = *drawSelector(t)
	p.Spec.PolicyTypes = rapid.SampledFrom([][]networkingv1.PolicyType{
		nil, {}, {networkingv1.PolicyTypeIngress}, {networkingv1.PolicyTypeEgress}, {networkingv1.PolicyTypeEgress, networkingv1.PolicyTypeIngress},
	}).Draw(t, "policyTypes")
	for range rapid.IntRange(0, 2).Draw(t, "ingress") {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{Ports: drawPorts(t), From: drawPeers(t)})
	}
	for range rapid.IntRange(0, 2).Draw(t, "egress") {
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{Ports: drawPorts(t), To: drawPeers(t)})
	}
	return p
}

func drawPod(t *rapid.T, i int) *corev1.Pod {
	ns := rapid.IntRange(0, 1).Draw(t, "namespace")
	p := newPod(fmt.Sprintf("n%d/p%d", ns, i), "", fmt.Sprintf("10.%d.0.%d", ns, i+1))
	p.Labels = drawLabels(t, "labels")
	onNode(p, "", fmt.Sprintf("192.168.0.%d", rapid.IntRange(1, 2).Draw(t, "node")))
	p.Spec.NodeName = "node-" + p.Status.HostIP
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"http", "dns"}), 0, 2, rapid.ID[string]).Draw(t, "names") {
		c := container(fmt.Sprintf("%s=%d/%s", name, rapid.IntRange(80, 82).Draw(t, "number"),
			rapid.SampledFrom([]string{"TCP", "UDP"}).Draw(t, "protocol")))
		switch rapid.IntRange(0, 3).Draw(t, "container") {
		case 0:
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		case 1:
			always := corev1.ContainerRestartPolicyAlways
			c.RestartPolicy = &always
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		default:
			p.Spec.Containers = append(p.Spec.Containers, c)
		}
	}
	if rapid.IntRange(0, 4).Draw(t, "hostNetwork") == 0 {
		onHostNetwork(p)
	}
	return p
}

// drawCluster draws a snapshot without problems: two namespaces, a few pods, one of
// which may have ended, and a few policies.
func drawCluster(t *rapid.T) Snapshot {
	var s Snapshot
	for i := range 2 {
		ns := newNamespace(fmt.Sprintf("n%d", i), "")
		ns.Labels = drawLabels(t, "namespaceLabels")
		s.Namespaces = append(s.Namespaces, ns)
	}
	for i := range rapid.IntRange(1, 5).Draw(t, "pods") {
		s.Pods = append(s.Pods, drawPod(t, i))
	}
	if rapid.IntRange(0, 4).Draw(t, "ended") == 0 {
		ended := drawPod(t, len(s.Pods))
		ended.Status.Phase = corev1.PodSucceeded
		s.Pods = append(s.Pods, ended)
	}
	for i := range rapid.IntRange(0, 5).Draw(t, "policies") {
		s.NetworkPolicies = append(s.NetworkPolicies, drawPolicy(t, fmt.Sprintf("np%d", i)))
	}
	drawClusterWide(t, &s)
	if rapid.Bool().Draw(t, "hasProfile") {
		s.Profile = drawProfile(t)
	}
	return s
}

// drawProfile draws what is known of the implementation.
func drawProfile(t *rapid.T) Profile {
	var p Profile
	for _, f := range profileFields {
		*f.of(&p) = rapid.SampledFrom([]Setting{Unset, False, True}).Draw(t, f.key)
	}
	return p
}

// drawFlow draws a flow between ends that are known and alive.
func drawFlow(t *rapid.T, s Snapshot) flow.Flow {
	ends := []flow.Endpoint{
		{Namespace: "n0", Labels: drawLabels(t, "identity")},
		{Namespace: "n1", Labels: drawLabels(t, "identity"), Addr: netip.MustParseAddr("10.1.0.99")},
	}
	for _, a := range []string{"203.0.113.1", "203.0.113.200", "192.168.0.1", "192.168.0.2", "10.0.0.1", "10.1.0.2"} {
		ends = append(ends, flow.Endpoint{Addr: netip.MustParseAddr(a)})
	}
	for _, p := range s.Pods {
		if !naiveEnded(p) {
			// Twice, because most of the rules are about pods.
			end := flow.Endpoint{Namespace: p.Namespace, Pod: p.Name}
			ends = append(ends, end, end)
		}
	}
	return flow.Flow{
		From: rapid.SampledFrom(ends).Draw(t, "from"), To: rapid.SampledFrom(ends).Draw(t, "to"),
		Protocol: rapid.SampledFrom([]flow.Protocol{flow.TCP, flow.UDP}).Draw(t, "protocol"),
		Port:     rapid.Uint16Range(80, 82).Draw(t, "port"),
	}
}

// shuffle permutes the snapshot's lists.
func shuffle(t *rapid.T, s Snapshot) Snapshot {
	return Snapshot{
		Namespaces:      rapid.Permutation(slices.Clone(s.Namespaces)).Draw(t, "namespaces"),
		Pods:            rapid.Permutation(slices.Clone(s.Pods)).Draw(t, "pods"),
		NetworkPolicies: rapid.Permutation(slices.Clone(s.NetworkPolicies)).Draw(t, "policies"),

		ClusterNetworkPolicies:       rapid.Permutation(slices.Clone(s.ClusterNetworkPolicies)).Draw(t, "clusterPolicies"),
		AdminNetworkPolicies:         rapid.Permutation(slices.Clone(s.AdminNetworkPolicies)).Draw(t, "adminPolicies"),
		BaselineAdminNetworkPolicies: s.BaselineAdminNetworkPolicies,

		Profile: s.Profile,
	}
}
