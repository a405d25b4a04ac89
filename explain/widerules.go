package explain

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha1 "sigs.k8s.io/network-policy-api/apis/v1alpha1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/pathproof/pathproof/evaluator"
)

// wideRule is a rule of a cluster-wide policy of any kind, in the words of
// ClusterNetworkPolicy. Its action is as it was written.
type wideRule struct {
	title, action string
	peers         []policyv1alpha2.ClusterNetworkPolicyEgressPeer
	protocols     []policyv1alpha2.ClusterNetworkPolicyProtocol
}

// widePolicy is a cluster-wide policy of any kind, with the rules of one direction.
type widePolicy struct {
	ref evaluator.PolicyRef
	// legacy is set for the version of the API before ClusterNetworkPolicy.
	legacy   bool
	tier     evaluator.Tier
	priority int32
	subject  policyv1alpha2.ClusterNetworkPolicySubject
	rules    []wideRule
}

// wide finds a cluster-wide policy; nil if it is not in the snapshot.
func (x *explainer) wide(ref evaluator.PolicyRef, egress bool) *widePolicy {
	for _, p := range x.snapshot.ClusterNetworkPolicies {
		if ref.Kind == "ClusterNetworkPolicy" && p.Name == ref.Name {
			return fromClusterNetworkPolicy(p, ref, egress)
		}
	}
	for _, p := range x.snapshot.AdminNetworkPolicies {
		if ref.Kind == "AdminNetworkPolicy" && p.Name == ref.Name {
			return fromAdminNetworkPolicy(p, ref, egress)
		}
	}
	for _, p := range x.snapshot.BaselineAdminNetworkPolicies {
		if ref.Kind == "BaselineAdminNetworkPolicy" && p.Name == ref.Name {
			return fromBaseline(p, ref, egress)
		}
	}
	return nil
}

func fromClusterNetworkPolicy(p *policyv1alpha2.ClusterNetworkPolicy, ref evaluator.PolicyRef, egress bool) *widePolicy {
	out := &widePolicy{ref: ref, tier: evaluator.TierAdmin, priority: p.Spec.Priority, subject: p.Spec.Subject}
	if p.Spec.Tier == policyv1alpha2.BaselineTier {
		out.tier = evaluator.TierBaseline
	}
	if egress {
		for _, r := range p.Spec.Egress {
			out.rules = append(out.rules, wideRule{r.Name, string(r.Action), r.To, r.Protocols})
		}
		return out
	}
	for _, r := range p.Spec.Ingress {
		peers := make([]policyv1alpha2.ClusterNetworkPolicyEgressPeer, len(r.From))
		for i, from := range r.From {
			peers[i] = policyv1alpha2.ClusterNetworkPolicyEgressPeer{Namespaces: from.Namespaces, Pods: from.Pods}
		}
		out.rules = append(out.rules, wideRule{r.Name, string(r.Action), peers, r.Protocols})
	}
	return out
}

func fromAdminNetworkPolicy(p *policyv1alpha1.AdminNetworkPolicy, ref evaluator.PolicyRef, egress bool) *widePolicy {
	out := &widePolicy{ref: ref, legacy: true, tier: evaluator.TierAdmin, priority: p.Spec.Priority, subject: subjectOf(p.Spec.Subject)}
	if egress {
		for _, r := range p.Spec.Egress {
			peers := make([]policyv1alpha2.ClusterNetworkPolicyEgressPeer, len(r.To))
			for i, to := range r.To {
				peers[i] = policyv1alpha2.ClusterNetworkPolicyEgressPeer{
					Namespaces: to.Namespaces, Pods: podsOf(to.Pods), Nodes: to.Nodes,
					Networks: translate[policyv1alpha2.CIDR](to.Networks), DomainNames: translate[policyv1alpha2.DomainName](to.DomainNames),
				}
			}
			out.rules = append(out.rules, wideRule{r.Name, string(r.Action), peers, protocolsOf(r.Ports)})
		}
		return out
	}
	for _, r := range p.Spec.Ingress {
		out.rules = append(out.rules, wideRule{r.Name, string(r.Action), sourcesOf(r.From), protocolsOf(r.Ports)})
	}
	return out
}

func fromBaseline(p *policyv1alpha1.BaselineAdminNetworkPolicy, ref evaluator.PolicyRef, egress bool) *widePolicy {
	out := &widePolicy{ref: ref, legacy: true, tier: evaluator.TierBaseline, subject: subjectOf(p.Spec.Subject)}
	if egress {
		for _, r := range p.Spec.Egress {
			peers := make([]policyv1alpha2.ClusterNetworkPolicyEgressPeer, len(r.To))
			for i, to := range r.To {
				peers[i] = policyv1alpha2.ClusterNetworkPolicyEgressPeer{
					Namespaces: to.Namespaces, Pods: podsOf(to.Pods), Nodes: to.Nodes, Networks: translate[policyv1alpha2.CIDR](to.Networks),
				}
			}
			out.rules = append(out.rules, wideRule{r.Name, string(r.Action), peers, protocolsOf(r.Ports)})
		}
		return out
	}
	for _, r := range p.Spec.Ingress {
		out.rules = append(out.rules, wideRule{r.Name, string(r.Action), sourcesOf(r.From), protocolsOf(r.Ports)})
	}
	return out
}

func subjectOf(o policyv1alpha1.AdminNetworkPolicySubject) policyv1alpha2.ClusterNetworkPolicySubject {
	return policyv1alpha2.ClusterNetworkPolicySubject{Namespaces: o.Namespaces, Pods: podsOf(o.Pods)}
}

func podsOf(o *policyv1alpha1.NamespacedPod) *policyv1alpha2.NamespacedPod {
	if o == nil {
		return nil
	}
	return &policyv1alpha2.NamespacedPod{NamespaceSelector: o.NamespaceSelector, PodSelector: o.PodSelector}
}

func sourcesOf(list []policyv1alpha1.AdminNetworkPolicyIngressPeer) []policyv1alpha2.ClusterNetworkPolicyEgressPeer {
	peers := make([]policyv1alpha2.ClusterNetworkPolicyEgressPeer, len(list))
	for i, p := range list {
		peers[i] = policyv1alpha2.ClusterNetworkPolicyEgressPeer{Namespaces: p.Namespaces, Pods: podsOf(p.Pods)}
	}
	return peers
}

func translate[To, From ~string](list []From) []To {
	var out []To
	for _, s := range list {
		out = append(out, To(s))
	}
	return out
}

func protocolsOf(list *[]policyv1alpha1.AdminNetworkPolicyPort) []policyv1alpha2.ClusterNetworkPolicyProtocol {
	if list == nil {
		return nil
	}
	out := make([]policyv1alpha2.ClusterNetworkPolicyProtocol, 0, len(*list))
	for _, p := range *list {
		switch {
		case p.NamedPort != nil:
			out = append(out, policyv1alpha2.ClusterNetworkPolicyProtocol{DestinationNamedPort: *p.NamedPort})
		case p.PortNumber != nil:
			out = append(out, protocolOf(p.PortNumber.Protocol, policyv1alpha2.Port{Number: p.PortNumber.Port}))
		case p.PortRange != nil:
			out = append(out, protocolOf(p.PortRange.Protocol, policyv1alpha2.Port{Range: &policyv1alpha2.PortRange{Start: p.PortRange.Start, End: p.PortRange.End}}))
		}
	}
	return out
}

func protocolOf(protocol corev1.Protocol, port policyv1alpha2.Port) policyv1alpha2.ClusterNetworkPolicyProtocol {
	switch protocol {
	case corev1.ProtocolUDP:
		return policyv1alpha2.ClusterNetworkPolicyProtocol{UDP: &policyv1alpha2.ClusterNetworkPolicyProtocolUDP{DestinationPort: &port}}
	case corev1.ProtocolSCTP:
		return policyv1alpha2.ClusterNetworkPolicyProtocol{SCTP: &policyv1alpha2.ClusterNetworkPolicyProtocolSCTP{DestinationPort: &port}}
	case corev1.ProtocolTCP:
	}
	return policyv1alpha2.ClusterNetworkPolicyProtocol{TCP: &policyv1alpha2.ClusterNetworkPolicyProtocolTCP{DestinationPort: &port}}
}

// ingress returns the rule's peers for a rule of that direction.
func (r *wideRule) ingress() []policyv1alpha2.ClusterNetworkPolicyIngressPeer {
	peers := make([]policyv1alpha2.ClusterNetworkPolicyIngressPeer, len(r.peers))
	for i, p := range r.peers {
		peers[i] = policyv1alpha2.ClusterNetworkPolicyIngressPeer{Namespaces: p.Namespaces, Pods: p.Pods}
	}
	return peers
}

// unknown tells whether a peer has no field that is known (rule S35).
func (r *wideRule) unknown() bool {
	for _, p := range r.peers {
		if p.Namespaces == nil && p.Pods == nil && p.Nodes == nil && p.Networks == nil && p.DomainNames == nil {
			return true
		}
	}
	return false
}

// text renders the rule in words.
func (r *wideRule) text(egress bool) string {
	word := "from"
	if egress {
		word = "to"
	}
	return fmt.Sprintf("%s %s %s, %s", r.action, word, r.peersText(), r.portsText())
}

func (r *wideRule) peersText() string {
	out := make([]string, len(r.peers))
	for i, p := range r.peers {
		switch {
		case p.Namespaces != nil:
			out[i] = "pods" + ofNamespaces(p.Namespaces)
		case p.Pods != nil:
			out[i] = "pods"
			if text := selectorText(&p.Pods.PodSelector); text != "any" {
				out[i] += " " + text
			}
			out[i] += ofNamespaces(&p.Pods.NamespaceSelector)
		case p.Nodes != nil && selectorText(p.Nodes) == "any":
			out[i] = "nodes"
		case p.Nodes != nil:
			out[i] = "nodes " + selectorText(p.Nodes)
		case p.Networks != nil:
			out[i] = "addresses in " + joined(p.Networks)
		case p.DomainNames != nil:
			out[i] = "addresses of " + joined(p.DomainNames)
		default:
			out[i] = "a peer of an unknown kind"
		}
	}
	return strings.Join(out, " or ")
}

func ofNamespaces(s *metav1.LabelSelector) string {
	if selectorText(s) == "any" {
		return " of any namespace"
	}
	return " of namespaces with " + selectorText(s)
}

func joined[S ~string](list []S) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = string(s)
	}
	return strings.Join(out, ", ")
}

func (r *wideRule) portsText() string {
	if len(r.protocols) == 0 {
		return "any port"
	}
	out := make([]string, len(r.protocols))
	for i, p := range r.protocols {
		switch {
		case p.TCP != nil:
			out[i] = portText("TCP", p.TCP.DestinationPort)
		case p.UDP != nil:
			out[i] = portText("UDP", p.UDP.DestinationPort)
		case p.SCTP != nil:
			out[i] = portText("SCTP", p.SCTP.DestinationPort)
		default:
			out[i] = "ports named " + p.DestinationNamedPort
		}
	}
	return strings.Join(out, " or ")
}

func portText(protocol string, p *policyv1alpha2.Port) string {
	switch {
	case p == nil:
		return "any " + protocol + " port"
	case p.Range != nil:
		return fmt.Sprintf("%s/%d-%d", protocol, p.Range.Start, p.Range.End)
	}
	return fmt.Sprintf("%s/%d", protocol, p.Number)
}
