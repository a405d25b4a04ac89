package agent

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// Ruling is a rule of a ClusterNetworkPolicy: what becomes of what it matches.
type Ruling struct {
	Allow
	Action policyv1alpha2.ClusterNetworkPolicyRuleAction
}

// clusterRule is a rule with the direction taken out.
type clusterRule struct {
	action    policyv1alpha2.ClusterNetworkPolicyRuleAction
	peers     []policyv1alpha2.ClusterNetworkPolicyEgressPeer
	protocols []policyv1alpha2.ClusterNetworkPolicyProtocol
}

// sortClusterPolicies puts policies into the order in which they are looked at: those "with
// lower priority values have higher precedence". What becomes of two of the same priority is
// left open; here, their names decide.
func sortClusterPolicies(policies []*policyv1alpha2.ClusterNetworkPolicy) []*policyv1alpha2.ClusterNetworkPolicy {
	return slices.SortedFunc(slices.Values(policies), func(a, b *policyv1alpha2.ClusterNetworkPolicy) int {
		return cmp.Or(cmp.Compare(a.Spec.Priority, b.Spec.Priority), compareStrings(a.Name, b.Name))
	})
}

// rulings compiles the rules of a tier for one direction of one pod.
func (c compiler) rulings(pod Pod, d direction, tier policyv1alpha2.Tier) []Ruling {
	if c.mode == ModeClusterPoliciesIgnored {
		return nil
	}
	var out []Ruling
	for _, p := range c.ClusterPolicies {
		if p.Spec.Tier != tier || !c.isSubject(p.Spec.Subject, pod) {
			continue
		}
		for _, r := range clusterRules(p.Spec, d) {
			for _, match := range c.match("ClusterNetworkPolicy "+p.Name, pod, d, r) {
				out = append(out, Ruling{Allow: match, Action: r.action})
			}
		}
	}
	return out
}

func (c compiler) isSubject(s policyv1alpha2.ClusterNetworkPolicySubject, pod Pod) bool {
	return c.inNamespaces(s.Namespaces, pod) || c.isAmong(s.Pods, pod)
}

func (c compiler) inNamespaces(selector *metav1.LabelSelector, pod Pod) bool {
	ns, ok := c.Namespaces[pod.Namespace]
	return selector != nil && ok && selects(selector, ns)
}

func (c compiler) isAmong(pods *policyv1alpha2.NamespacedPod, pod Pod) bool {
	return pods != nil && c.inNamespaces(&pods.NamespaceSelector, pod) && selects(&pods.PodSelector, pod.Labels)
}

func clusterRules(spec policyv1alpha2.ClusterNetworkPolicySpec, d direction) []clusterRule {
	var out []clusterRule
	if d == egress {
		for _, r := range spec.Egress {
			out = append(out, clusterRule{action: r.Action, peers: r.To, protocols: r.Protocols})
		}
		return out
	}
	for _, r := range spec.Ingress {
		rule := clusterRule{action: r.Action, protocols: r.Protocols}
		for _, p := range r.From {
			rule.peers = append(rule.peers, policyv1alpha2.ClusterNetworkPolicyEgressPeer{Namespaces: p.Namespaces, Pods: p.Pods})
		}
		out = append(out, rule)
	}
	return out
}

// match compiles what a rule matches. As with NetworkPolicies, a named port of an egress
// rule takes a match for every destination.
func (c compiler) match(name string, pod Pod, d direction, r clusterRule) []Allow {
	peers := c.clusterPeers(r.peers)
	if len(peers) == 0 {
		return nil
	}
	if len(r.protocols) == 0 {
		return []Allow{{Policy: name, Peers: peers}}
	}
	var out []Allow
	var numeric []PortMatch
	for _, p := range r.protocols {
		switch {
		case p.TCP != nil:
			numeric = append(numeric, portMatch(corev1.ProtocolTCP, p.TCP.DestinationPort))
		case p.UDP != nil:
			numeric = append(numeric, portMatch(corev1.ProtocolUDP, p.UDP.DestinationPort))
		case p.SCTP != nil:
			numeric = append(numeric, portMatch(corev1.ProtocolSCTP, p.SCTP.DestinationPort))
		}
		if p.DestinationNamedPort == "" {
			continue
		}
		for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP} {
			if d == ingress {
				numeric = append(numeric, resolve(pod, p.DestinationNamedPort, protocol)...)
			} else {
				out = append(out, c.namedEgress(name, peers, p.DestinationNamedPort, protocol)...)
			}
		}
	}
	if len(numeric) > 0 {
		out = append(out, Allow{Policy: name, Peers: peers, Ports: numeric})
	}
	return out
}

func portMatch(protocol corev1.Protocol, port *policyv1alpha2.Port) PortMatch {
	switch {
	case port == nil:
		return PortMatch{Protocol: protocol}
	case port.Range != nil:
		return PortMatch{Protocol: protocol, First: port.Range.Start, Last: port.Range.End}
	}
	return PortMatch{Protocol: protocol, First: port.Number, Last: port.Number}
}

// clusterPeers resolves peers to addresses. The standard channel of the API, which the lab
// has installed, knows pods, namespaces and networks only.
func (c compiler) clusterPeers(peers []policyv1alpha2.ClusterNetworkPolicyEgressPeer) []Peer {
	var out []Peer
	for _, peer := range peers {
		for _, network := range peer.Networks {
			if prefix, err := netip.ParsePrefix(string(network)); err == nil {
				out = append(out, Peer{Prefix: prefix.Masked()})
			}
		}
		for _, pod := range c.Pods {
			if !c.inNamespaces(peer.Namespaces, pod) && !c.isAmong(peer.Pods, pod) {
				continue
			}
			for _, addr := range pod.Addrs {
				out = append(out, Peer{Prefix: netip.PrefixFrom(addr, addr.BitLen())})
			}
		}
	}
	return out
}
