package evaluator

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
	policyv1alpha1 "sigs.k8s.io/network-policy-api/apis/v1alpha1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// The generators of cluster-wide policies draw one rule for all versions, and write
// it down in each.

// drawnRule is a rule without a version.
type drawnRule struct {
	action string // Accept, Deny or Pass
	peers  []policyv1alpha2.ClusterNetworkPolicyEgressPeer
	ports  []drawnPort
}

// drawnPort is a port without a version: of a number, a range, or a name. A port
// without any is every port of the protocol.
type drawnPort struct {
	protocol    corev1.Protocol
	first, last int32
	name        string
}

func drawPodPeer(t *rapid.T) policyv1alpha2.ClusterNetworkPolicyEgressPeer {
	if rapid.Bool().Draw(t, "byNamespace") {
		return policyv1alpha2.ClusterNetworkPolicyEgressPeer{Namespaces: drawSelector(t)}
	}
	return policyv1alpha2.ClusterNetworkPolicyEgressPeer{
		Pods: &policyv1alpha2.NamespacedPod{NamespaceSelector: *drawSelector(t), PodSelector: *drawSelector(t)},
	}
}

func drawAddressPeer(t *rapid.T, action string) policyv1alpha2.ClusterNetworkPolicyEgressPeer {
	var p policyv1alpha2.ClusterNetworkPolicyEgressPeer
	switch rapid.IntRange(0, 5).Draw(t, "addressPeer") {
	case 0:
		p.Nodes = rapid.SampledFrom([]*metav1.LabelSelector{{}, {MatchLabels: map[string]string{"zone": "a"}}}).Draw(t, "nodes")
	case 1:
		if action == "Accept" {
			p.DomainNames = rapid.SliceOfNDistinct(rapid.SampledFrom([]policyv1alpha2.DomainName{"example.org", "*.example.org"}), 1, 2,
				rapid.ID[policyv1alpha2.DomainName]).Draw(t, "domains")
			return p
		}
		fallthrough
	default:
		p.Networks = rapid.SliceOfNDistinct(rapid.SampledFrom([]policyv1alpha2.CIDR{
			"10.0.0.0/8", "10.0.0.0/16", "10.1.0.0/16", "192.168.0.1/32", "192.168.0.0/16", "0.0.0.0/0", "203.0.113.0/25", "2001:db8::/32",
		}), 1, 2, rapid.ID[policyv1alpha2.CIDR]).Draw(t, "networks")
	}
	return p
}

func drawRule(t *rapid.T, actions []string, isEgress bool) drawnRule {
	r := drawnRule{action: rapid.SampledFrom(actions).Draw(t, "action")}
	byAddress := false
	for range rapid.IntRange(1, 2).Draw(t, "clusterPeers") {
		var p policyv1alpha2.ClusterNetworkPolicyEgressPeer
		switch {
		case rapid.IntRange(0, 19).Draw(t, "unknown") == 0:
			// A field of a later version.
		case isEgress && rapid.Bool().Draw(t, "byAddress"):
			p, byAddress = drawAddressPeer(t, r.action), true
		default:
			p = drawPodPeer(t)
		}
		r.peers = append(r.peers, p)
	}
	for range rapid.IntRange(0, 2).Draw(t, "clusterPorts") {
		p := drawnPort{protocol: rapid.SampledFrom([]corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP}).Draw(t, "protocol")}
		switch kind := rapid.IntRange(0, 3).Draw(t, "port"); {
		case kind == 0:
			p.first, p.last = 1, maxPort
		case kind == 1 && !byAddress:
			p.name = rapid.SampledFrom([]string{"http", "dns"}).Draw(t, "name")
		case kind == 2:
			p.first, p.last = 80, rapid.Int32Range(81, 82).Draw(t, "end")
		default:
			p.first = rapid.Int32Range(80, 82).Draw(t, "number")
			p.last = p.first
		}
		r.ports = append(r.ports, p)
	}
	return r
}

func drawRules(t *rapid.T, actions []string, isEgress bool) []drawnRule {
	var rules []drawnRule
	for range rapid.IntRange(0, 3).Draw(t, "rules") {
		rules = append(rules, drawRule(t, actions, isEgress))
	}
	return rules
}

func drawSubject(t *rapid.T) policyv1alpha2.ClusterNetworkPolicySubject {
	p := drawPodPeer(t)
	return policyv1alpha2.ClusterNetworkPolicySubject{Namespaces: p.Namespaces, Pods: p.Pods}
}

func newProtocols(ports []drawnPort) []policyv1alpha2.ClusterNetworkPolicyProtocol {
	var list []policyv1alpha2.ClusterNetworkPolicyProtocol
	for _, p := range ports {
		var number *policyv1alpha2.Port
		switch {
		case p.first == 1 && p.last == maxPort: // Every port of the protocol.
		case p.first == p.last:
			number = &policyv1alpha2.Port{Number: p.first}
		default:
			number = &policyv1alpha2.Port{Range: &policyv1alpha2.PortRange{Start: p.first, End: p.last}}
		}
		var o policyv1alpha2.ClusterNetworkPolicyProtocol
		switch {
		case p.name != "":
			o.DestinationNamedPort = p.name
		case p.protocol == corev1.ProtocolUDP:
			o.UDP = &policyv1alpha2.ClusterNetworkPolicyProtocolUDP{DestinationPort: number}
		default:
			o.TCP = &policyv1alpha2.ClusterNetworkPolicyProtocolTCP{DestinationPort: number}
		}
		list = append(list, o)
	}
	return list
}

func newAdminPorts(ports []drawnPort) *[]policyv1alpha1.AdminNetworkPolicyPort {
	if len(ports) == 0 {
		return nil
	}
	list := make([]policyv1alpha1.AdminNetworkPolicyPort, 0, len(ports))
	for _, p := range ports {
		switch {
		case p.name != "":
			list = append(list, policyv1alpha1.AdminNetworkPolicyPort{NamedPort: &p.name})
		case p.first == p.last:
			list = append(list, policyv1alpha1.AdminNetworkPolicyPort{PortNumber: &policyv1alpha1.Port{Protocol: p.protocol, Port: p.first}})
		default:
			list = append(list, policyv1alpha1.AdminNetworkPolicyPort{PortRange: &policyv1alpha1.PortRange{Protocol: p.protocol, Start: p.first, End: p.last}})
		}
	}
	return &list
}

func drawClusterNetworkPolicy(t *rapid.T, name string) *policyv1alpha2.ClusterNetworkPolicy {
	p := &policyv1alpha2.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.Tier = rapid.SampledFrom([]policyv1alpha2.Tier{policyv1alpha2.AdminTier, policyv1alpha2.BaselineTier}).Draw(t, "tier")
	p.Spec.Priority = rapid.Int32Range(0, 2).Draw(t, "priority")
	p.Spec.Subject = drawSubject(t)
	actions := []string{"Accept", "Deny", "Pass"}
	for _, r := range drawRules(t, actions, false) {
		in := policyv1alpha2.ClusterNetworkPolicyIngressRule{Action: policyv1alpha2.ClusterNetworkPolicyRuleAction(r.action), Protocols: newProtocols(r.ports)}
		for _, peer := range r.peers {
			in.From = append(in.From, policyv1alpha2.ClusterNetworkPolicyIngressPeer{Namespaces: peer.Namespaces, Pods: peer.Pods})
		}
		p.Spec.Ingress = append(p.Spec.Ingress, in)
	}
	for _, r := range drawRules(t, actions, true) {
		p.Spec.Egress = append(p.Spec.Egress, policyv1alpha2.ClusterNetworkPolicyEgressRule{
			Action: policyv1alpha2.ClusterNetworkPolicyRuleAction(r.action), Protocols: newProtocols(r.ports), To: r.peers,
		})
	}
	return p
}

// older translates selectors to v1alpha1.
func older(p *policyv1alpha2.NamespacedPod) *policyv1alpha1.NamespacedPod {
	if p == nil {
		return nil
	}
	return &policyv1alpha1.NamespacedPod{NamespaceSelector: p.NamespaceSelector, PodSelector: p.PodSelector}
}

func newAdminSources(peers []policyv1alpha2.ClusterNetworkPolicyEgressPeer) []policyv1alpha1.AdminNetworkPolicyIngressPeer {
	var list []policyv1alpha1.AdminNetworkPolicyIngressPeer
	for _, p := range peers {
		list = append(list, policyv1alpha1.AdminNetworkPolicyIngressPeer{Namespaces: p.Namespaces, Pods: older(p.Pods)})
	}
	return list
}

func newAdminTargets(peers []policyv1alpha2.ClusterNetworkPolicyEgressPeer) []policyv1alpha1.AdminNetworkPolicyEgressPeer {
	var list []policyv1alpha1.AdminNetworkPolicyEgressPeer
	for _, p := range peers {
		o := policyv1alpha1.AdminNetworkPolicyEgressPeer{Namespaces: p.Namespaces, Pods: older(p.Pods), Nodes: p.Nodes}
		for _, n := range p.Networks {
			o.Networks = append(o.Networks, policyv1alpha1.CIDR(n))
		}
		for _, n := range p.DomainNames {
			o.DomainNames = append(o.DomainNames, policyv1alpha1.DomainName(n))
		}
		list = append(list, o)
	}
	return list
}

func drawAdminNetworkPolicy(t *rapid.T, name string) *policyv1alpha1.AdminNetworkPolicy {
	p := &policyv1alpha1.AdminNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.Priority = rapid.Int32Range(0, 2).Draw(t, "priority")
	subject := drawSubject(t)
	p.Spec.Subject = policyv1alpha1.AdminNetworkPolicySubject{Namespaces: subject.Namespaces, Pods: older(subject.Pods)}
	actions := []string{"Accept", "Deny", "Pass"}
	spelled := map[string]policyv1alpha1.AdminNetworkPolicyRuleAction{"Accept": "Allow", "Deny": "Deny", "Pass": "Pass"}
	for _, r := range drawRules(t, actions, false) {
		p.Spec.Ingress = append(p.Spec.Ingress, policyv1alpha1.AdminNetworkPolicyIngressRule{
			Action: spelled[r.action], From: newAdminSources(r.peers), Ports: newAdminPorts(r.ports),
		})
	}
	for _, r := range drawRules(t, actions, true) {
		p.Spec.Egress = append(p.Spec.Egress, policyv1alpha1.AdminNetworkPolicyEgressRule{
			Action: spelled[r.action], To: newAdminTargets(r.peers), Ports: newAdminPorts(r.ports),
		})
	}
	return p
}

func drawBaselineAdminNetworkPolicy(t *rapid.T) *policyv1alpha1.BaselineAdminNetworkPolicy {
	p := &policyv1alpha1.BaselineAdminNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	subject := drawSubject(t)
	p.Spec.Subject = policyv1alpha1.AdminNetworkPolicySubject{Namespaces: subject.Namespaces, Pods: older(subject.Pods)}
	actions := []string{"Accept", "Deny"}
	spelled := map[string]policyv1alpha1.BaselineAdminNetworkPolicyRuleAction{"Accept": "Allow", "Deny": "Deny"}
	for _, r := range drawRules(t, actions, false) {
		p.Spec.Ingress = append(p.Spec.Ingress, policyv1alpha1.BaselineAdminNetworkPolicyIngressRule{
			Action: spelled[r.action], From: newAdminSources(r.peers), Ports: newAdminPorts(r.ports),
		})
	}
	for _, r := range drawRules(t, actions, true) {
		out := policyv1alpha1.BaselineAdminNetworkPolicyEgressRule{Action: spelled[r.action], Ports: newAdminPorts(r.ports)}
		for _, to := range newAdminTargets(r.peers) {
			peer := policyv1alpha1.BaselineAdminNetworkPolicyEgressPeer{Namespaces: to.Namespaces, Pods: to.Pods, Nodes: to.Nodes, Networks: to.Networks}
			if to.DomainNames != nil { // This kind does not have them.
				peer.Networks = []policyv1alpha1.CIDR{"203.0.113.0/24"}
			}
			out.To = append(out.To, peer)
		}
		p.Spec.Egress = append(p.Spec.Egress, out)
	}
	return p
}

// drawClusterWide adds cluster-wide policies of all kinds to three of four clusters.
func drawClusterWide(t *rapid.T, s *Snapshot) {
	if rapid.IntRange(0, 3).Draw(t, "clusterWide") == 0 {
		return
	}
	for i := range rapid.IntRange(0, 4).Draw(t, "clusterNetworkPolicies") {
		s.ClusterNetworkPolicies = append(s.ClusterNetworkPolicies, drawClusterNetworkPolicy(t, fmt.Sprintf("cnp%d", i)))
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "adminNetworkPolicies") {
		s.AdminNetworkPolicies = append(s.AdminNetworkPolicies, drawAdminNetworkPolicy(t, fmt.Sprintf("anp%d", i)))
	}
	if rapid.IntRange(0, 2).Draw(t, "baseline") == 0 {
		s.BaselineAdminNetworkPolicies = append(s.BaselineAdminNetworkPolicies, drawBaselineAdminNetworkPolicy(t))
	}
}
