package evaluator

import (
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha1 "sigs.k8s.io/network-policy-api/apis/v1alpha1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/pathproof/pathproof/flow"
)

// The second half of the naive evaluator: cluster-wide policies.

// naiveAsk is what a rule is asked.
type naiveAsk struct {
	s             Snapshot
	f             flow.Flow
	w             world
	isIngress     bool
	other, target naiveEnd
}

// naiveDirection evaluates the policies of one end against the other end.
func naiveDirection(s Snapshot, f flow.Flow, w world, isIngress bool, subject, other naiveEnd) (canAllow, canDeny bool) {
	target := other
	if isIngress {
		target = subject
	}
	ask := naiveAsk{s, f, w, isIngress, other, target}
	add := func(allow bool) {
		canAllow, canDeny = canAllow || allow, canDeny || !allow
	}
	// The node of a pod may be let in by everybody.
	ownNode := isIngress && w.ingressFromOwnNode && other.node && subject.pod != nil && subject.pod.Status.HostIP == other.addr.String()
	for _, first := range naiveTier(ask, subject, "Admin") {
		if first == "Accept" || first == "Deny" {
			add(first == "Accept" || ownNode)
			continue
		}
		isolated, allowed := naiveNetworkPolicies(s, f, w, isIngress, subject, other)
		if isolated {
			add(allowed)
			continue
		}
		for _, last := range naiveTier(ask, subject, "Baseline") {
			add(last != "Deny" || ownNode)
		}
	}
	return canAllow, canDeny
}

// naiveTier lists what a tier may answer: Accept, Deny, Pass, or nothing.
func naiveTier(ask naiveAsk, subject naiveEnd, tier string) []string {
	if subject.pod == nil || subject.node {
		return []string{""}
	}
	selected := func(namespaces *metav1.LabelSelector, pods *metav1.LabelSelector) bool {
		return naiveInNamespaces(ask.s, namespaces, subject.pod) && (pods == nil || naiveSelects(pods, subject.pod.Labels))
	}
	answers := map[int32][]string{}
	for _, p := range ask.s.ClusterNetworkPolicies {
		subject := p.Spec.Subject
		if string(p.Spec.Tier) != tier {
			continue
		}
		if subject.Pods != nil && !selected(&subject.Pods.NamespaceSelector, &subject.Pods.PodSelector) {
			continue
		}
		if subject.Namespaces != nil && !selected(subject.Namespaces, nil) {
			continue
		}
		if a := naiveFirstOfCluster(ask, p); a != "" {
			answers[p.Spec.Priority] = append(answers[p.Spec.Priority], a)
		}
	}
	older := map[int32][]string{}
	admits := func(o policyv1alpha1.AdminNetworkPolicySubject) bool {
		if o.Pods != nil {
			return selected(&o.Pods.NamespaceSelector, &o.Pods.PodSelector)
		}
		return selected(o.Namespaces, nil)
	}
	if tier == "Admin" {
		for _, p := range ask.s.AdminNetworkPolicies {
			if a := naiveFirstOfAdmin(ask, p); a != "" && admits(p.Spec.Subject) {
				older[p.Spec.Priority] = append(older[p.Spec.Priority], a)
			}
		}
	} else {
		for _, p := range ask.s.BaselineAdminNetworkPolicies {
			if a := naiveFirstOfBaseline(ask, p); a != "" && admits(p.Spec.Subject) {
				older[0] = append(older[0], a)
			}
		}
	}
	all := slices.Concat(naiveLowest(answers), naiveLowest(older))
	if len(all) == 0 {
		return []string{""}
	}
	return all
}

// naiveLowest returns the answers of the lowest priority value.
func naiveLowest(answers map[int32][]string) []string {
	if len(answers) == 0 {
		return nil
	}
	return answers[slices.Min(slices.Collect(maps.Keys(answers)))]
}

func naiveInNamespaces(s Snapshot, selector *metav1.LabelSelector, pod *corev1.Pod) bool {
	for _, ns := range s.Namespaces {
		if ns.Name == pod.Namespace && naiveSelects(selector, ns.Labels) {
			return true
		}
	}
	return false
}

// naivePeer is a peer of any version. All fields unset is a field that is unknown.
type naivePeer struct {
	namespaces, podNamespaces, pods, nodes *metav1.LabelSelector
	networks, domains                      []string
}

// naiveRule answers for one rule: its action, or nothing.
func naiveRule(ask naiveAsk, action string, peers []naivePeer, hasPorts, portMatches bool) string {
	action = map[string]string{"Allow": "Accept", "Accept": "Accept", "Deny": "Deny", "Pass": "Pass"}[action]
	matched := false
	for _, p := range peers {
		if p.namespaces == nil && p.pods == nil && p.nodes == nil && p.networks == nil && p.domains == nil {
			if action == "Accept" {
				return ""
			}
			return "Deny"
		}
		matched = matched || naiveIsPeer(ask, p)
	}
	if !matched || (hasPorts && !portMatches) {
		return ""
	}
	return action
}

func naiveIsPeer(ask naiveAsk, p naivePeer) bool {
	onPodNetwork := ask.other.pod != nil && !ask.other.node
	if onPodNetwork {
		switch {
		case p.namespaces != nil:
			return naiveInNamespaces(ask.s, p.namespaces, ask.other.pod)
		case p.pods != nil:
			return naiveInNamespaces(ask.s, p.podNamespaces, ask.other.pod) && naiveSelects(p.pods, ask.other.pod.Labels)
		}
	}
	for _, n := range p.networks {
		if netip.MustParsePrefix(n).Contains(ask.other.addr) {
			return true
		}
	}
	if onPodNetwork {
		return false
	}
	if p.nodes != nil && (ask.other.node || ask.w.externalIsNode) {
		return len(p.nodes.MatchLabels) == 0 || ask.w.nodeInZone
	}
	for _, d := range p.domains {
		if (d == "example.org" && ask.w.resolvesExact) || (d == "*.example.org" && ask.w.resolvesWildcard) {
			return true
		}
	}
	return false
}

func naiveSources(list []policyv1alpha2.ClusterNetworkPolicyIngressPeer) []naivePeer {
	var peers []naivePeer
	for _, p := range list {
		n := naivePeer{namespaces: p.Namespaces}
		if p.Pods != nil {
			n.podNamespaces, n.pods = &p.Pods.NamespaceSelector, &p.Pods.PodSelector
		}
		peers = append(peers, n)
	}
	return peers
}

func naiveFirstOfCluster(ask naiveAsk, p *policyv1alpha2.ClusterNetworkPolicy) string {
	if ask.isIngress {
		for _, r := range p.Spec.Ingress {
			if a := naiveRule(ask, string(r.Action), naiveSources(r.From), len(r.Protocols) > 0, naiveProtocols(ask, r.Protocols)); a != "" {
				return a
			}
		}
		return ""
	}
	for _, r := range p.Spec.Egress {
		var peers []naivePeer
		for _, o := range r.To {
			n := naivePeer{namespaces: o.Namespaces, nodes: o.Nodes}
			if o.Pods != nil {
				n.podNamespaces, n.pods = &o.Pods.NamespaceSelector, &o.Pods.PodSelector
			}
			for _, c := range o.Networks {
				n.networks = append(n.networks, string(c))
			}
			for _, d := range o.DomainNames {
				n.domains = append(n.domains, string(d))
			}
			peers = append(peers, n)
		}
		if a := naiveRule(ask, string(r.Action), peers, len(r.Protocols) > 0, naiveProtocols(ask, r.Protocols)); a != "" {
			return a
		}
	}
	return ""
}

func naiveProtocols(ask naiveAsk, list []policyv1alpha2.ClusterNetworkPolicyProtocol) bool {
	in := func(p flow.Protocol, o *policyv1alpha2.Port) bool {
		switch {
		case ask.f.Protocol != p:
			return false
		case o == nil:
			return true
		case o.Range != nil:
			return o.Range.Start <= int32(ask.f.Port) && int32(ask.f.Port) <= o.Range.End
		}
		return o.Number == int32(ask.f.Port)
	}
	for _, p := range list {
		switch {
		case p.TCP != nil:
			if in(flow.TCP, p.TCP.DestinationPort) {
				return true
			}
		case p.UDP != nil:
			if in(flow.UDP, p.UDP.DestinationPort) {
				return true
			}
		case p.SCTP != nil:
			if in(flow.SCTP, p.SCTP.DestinationPort) {
				return true
			}
		default:
			if naiveNamed(p.DestinationNamedPort, ask.f, ask.w, ask.target) {
				return true
			}
		}
	}
	return false
}

func naiveOlderSources(list []policyv1alpha1.AdminNetworkPolicyIngressPeer) []naivePeer {
	var peers []naivePeer
	for _, p := range list {
		n := naivePeer{namespaces: p.Namespaces}
		if p.Pods != nil {
			n.podNamespaces, n.pods = &p.Pods.NamespaceSelector, &p.Pods.PodSelector
		}
		peers = append(peers, n)
	}
	return peers
}

func naiveOlderPorts(ask naiveAsk, list *[]policyv1alpha1.AdminNetworkPolicyPort) bool {
	if list == nil {
		return true
	}
	protocol := func(p corev1.Protocol) bool {
		return string(p) == string(ask.f.Protocol) || (p == "" && ask.f.Protocol == flow.TCP)
	}
	for _, p := range *list {
		port := int32(ask.f.Port)
		switch {
		case p.NamedPort != nil:
			if naiveNamed(*p.NamedPort, ask.f, ask.w, ask.target) {
				return true
			}
		case p.PortNumber != nil:
			if protocol(p.PortNumber.Protocol) && p.PortNumber.Port == port {
				return true
			}
		default:
			if protocol(p.PortRange.Protocol) && p.PortRange.Start <= port && port <= p.PortRange.End {
				return true
			}
		}
	}
	return false
}

func naiveFirstOfAdmin(ask naiveAsk, p *policyv1alpha1.AdminNetworkPolicy) string {
	if ask.isIngress {
		for _, r := range p.Spec.Ingress {
			if a := naiveRule(ask, string(r.Action), naiveOlderSources(r.From), true, naiveOlderPorts(ask, r.Ports)); a != "" {
				return a
			}
		}
		return ""
	}
	for _, r := range p.Spec.Egress {
		var peers []naivePeer
		for _, o := range r.To {
			n := naivePeer{namespaces: o.Namespaces, nodes: o.Nodes}
			if o.Pods != nil {
				n.podNamespaces, n.pods = &o.Pods.NamespaceSelector, &o.Pods.PodSelector
			}
			for _, c := range o.Networks {
				n.networks = append(n.networks, string(c))
			}
			for _, d := range o.DomainNames {
				n.domains = append(n.domains, string(d))
			}
			peers = append(peers, n)
		}
		if a := naiveRule(ask, string(r.Action), peers, true, naiveOlderPorts(ask, r.Ports)); a != "" {
			return a
		}
	}
	return ""
}

func naiveFirstOfBaseline(ask naiveAsk, p *policyv1alpha1.BaselineAdminNetworkPolicy) string {
	if ask.isIngress {
		for _, r := range p.Spec.Ingress {
			if a := naiveRule(ask, string(r.Action), naiveOlderSources(r.From), true, naiveOlderPorts(ask, r.Ports)); a != "" {
				return a
			}
		}
		return ""
	}
	for _, r := range p.Spec.Egress {
		var peers []naivePeer
		for _, o := range r.To {
			n := naivePeer{namespaces: o.Namespaces, nodes: o.Nodes}
			if o.Pods != nil {
				n.podNamespaces, n.pods = &o.Pods.NamespaceSelector, &o.Pods.PodSelector
			}
			for _, c := range o.Networks {
				n.networks = append(n.networks, string(c))
			}
			peers = append(peers, n)
		}
		if a := naiveRule(ask, string(r.Action), peers, true, naiveOlderPorts(ask, r.Ports)); a != "" {
			return a
		}
	}
	return ""
}
