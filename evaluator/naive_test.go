package evaluator

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pathproof/pathproof/flow"
)

// The evaluator of this file answers yes or no, straight from the text of the API,
// over the objects as they are, and shares no code with the package. What the API
// leaves open is an argument: a world. The package is right if it answers Allowed
// when every world allows, Denied when none does, and Undefined otherwise.

// world settles what the API leaves open.
type world struct {
	blocksMatchPods  bool // S10
	blocksMatchNodes bool // S10
	// S10: a host-network pod that is seen as a pod is a node all the same to blocks.
	hostPodIsNode   bool
	hostPoliced     bool // S13: policies apply to host-network pods
	hostSelectable  bool // S13: selectors select host-network pods
	egressToOwnNode bool // S14: a pod always reaches its node
	// S7: a pod that does not exist declares the right port under this name.
	identityHasHTTP, identityHasDNS bool
	// S14: a pod's own node is let in whatever a cluster-wide policy denies.
	ingressFromOwnNode bool
	// S34: an address that is not known to be a node's is one all the same, the node has
	// the label zone=a, and the names resolve to the address.
	externalIsNode, nodeInZone, resolvesExact, resolvesWildcard bool
	// X2: the address of an identity that has none.
	fromAddr, toAddr netip.Addr
	// S13: the host-network pod behind a bare address of a node, counted from 1; 0 is
	// the node itself.
	fromProcess, toProcess int
}

// naiveEnd is an end of a flow. The pod is nil for an address that is no pod's.
type naiveEnd struct {
	pod      *corev1.Pod
	addr     netip.Addr
	identity bool
	node     bool
}

func naiveEnded(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// naiveProcesses lists the host-network pods of a node.
func naiveProcesses(s Snapshot, addr netip.Addr) []*corev1.Pod {
	var list []*corev1.Pod
	for _, p := range s.Pods {
		if p.Spec.HostNetwork && !naiveEnded(p) && p.Status.HostIP == addr.String() {
			list = append(list, p)
		}
	}
	return list
}

func naiveResolve(s Snapshot, e flow.Endpoint, process int, free netip.Addr) naiveEnd {
	if e.Namespace != "" && e.Pod == "" {
		if !e.Addr.IsValid() {
			e.Addr = free
		}
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: e.Namespace, Labels: e.Labels}}
		return naiveEnd{pod: p, identity: true, addr: e.Addr}
	}
	for _, p := range s.Pods {
		if naiveEnded(p) {
			continue
		}
		named := p.Namespace == e.Namespace && p.Name == e.Pod
		if named || (!p.Spec.HostNetwork && e.Addr.IsValid() && p.Status.PodIP == e.Addr.String()) {
			return naiveEnd{pod: p, addr: netip.MustParseAddr(p.Status.PodIP), node: p.Spec.HostNetwork}
		}
	}
	end := naiveEnd{addr: e.Addr}
	for _, p := range s.Pods {
		end.node = end.node || p.Status.HostIP == e.Addr.String()
	}
	if process > 0 {
		end.pod = naiveProcesses(s, e.Addr)[process-1]
	}
	return end
}

// naiveAllows tells whether the flow may be allowed, and whether it may be denied:
// even in one world, an implementation is free to choose between policies.
func naiveAllows(s Snapshot, f flow.Flow, w world) (canAllow, canDeny bool) {
	from, to := naiveResolve(s, f.From, w.fromProcess, w.fromAddr), naiveResolve(s, f.To, w.toProcess, w.toAddr)
	if from.pod != nil && from.pod == to.pod && !from.identity {
		return true, false
	}
	outAllow, outDeny := naiveDirection(s, f, w, false, from, to)
	inAllow, inDeny := naiveDirection(s, f, w, true, to, from)
	return outAllow && inAllow, outDeny || inDeny
}

// naiveNetworkPolicies evaluates the NetworkPolicies of one end against the other
// end. It tells whether they isolate it, and if so, whether they allow.
func naiveNetworkPolicies(s Snapshot, f flow.Flow, w world, isIngress bool, subject, other naiveEnd) (isolated, allowed bool) {
	if subject.pod == nil || (subject.node && !w.hostPoliced) {
		return false, true
	}
	ownNode := other.node && subject.pod.Status.HostIP == other.addr.String()
	allowed = ownNode && (isIngress || w.egressToOwnNode)
	target := other
	if isIngress {
		target = subject
	}
	for _, np := range s.NetworkPolicies {
		if np.Namespace != subject.pod.Namespace || !naiveSelects(&np.Spec.PodSelector, subject.pod.Labels) {
			continue
		}
		types := np.Spec.PolicyTypes
		if len(types) == 0 {
			types = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
			if len(np.Spec.Egress) > 0 {
				types = append(types, networkingv1.PolicyTypeEgress)
			}
		}
		if isIngress && slices.Contains(types, networkingv1.PolicyTypeIngress) {
			isolated = true
			for _, r := range np.Spec.Ingress {
				if naivePorts(r.Ports, f, w, target) && naivePeers(s, np.Namespace, r.From, w, other) {
					allowed = true
				}
			}
		}
		if !isIngress && slices.Contains(types, networkingv1.PolicyTypeEgress) {
			isolated = true
			for _, r := range np.Spec.Egress {
				if naivePorts(r.Ports, f, w, target) && naivePeers(s, np.Namespace, r.To, w, other) {
					allowed = true
				}
			}
		}
	}
	return isolated, allowed
}

func naivePorts(ports []networkingv1.NetworkPolicyPort, f flow.Flow, w world, target naiveEnd) bool {
	if len(ports) == 0 {
		return true
	}
	for _, p := range ports {
		protocol := corev1.ProtocolTCP
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		if string(protocol) != string(f.Protocol) {
			continue
		}
		switch {
		case p.Port == nil:
			return true
		case p.Port.StrVal != "":
			if naiveNamed(p.Port.StrVal, f, w, target) {
				return true
			}
		case p.EndPort != nil:
			if p.Port.IntVal <= int32(f.Port) && int32(f.Port) <= *p.EndPort {
				return true
			}
		case p.Port.IntVal == int32(f.Port):
			return true
		}
	}
	return false
}

func naiveNamed(name string, f flow.Flow, w world, target naiveEnd) bool {
	if target.identity {
		return (name == "http" && w.identityHasHTTP) || (name == "dns" && w.identityHasDNS)
	}
	if target.pod == nil || (target.node && !w.hostPoliced && !w.hostSelectable) {
		return false
	}
	containers := slices.Clone(target.pod.Spec.Containers)
	for _, c := range target.pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(containers, c)
		}
	}
	for _, c := range containers {
		for _, p := range c.Ports {
			if p.Name == name && string(p.Protocol) == string(f.Protocol) && p.ContainerPort == int32(f.Port) {
				return true
			}
		}
	}
	return false
}

func naivePeers(s Snapshot, own string, peers []networkingv1.NetworkPolicyPeer, w world, other naiveEnd) bool {
	if len(peers) == 0 {
		return true
	}
	for _, p := range peers {
		if p.IPBlock != nil {
			if naiveBlock(p.IPBlock, w, other) {
				return true
			}
			continue
		}
		if other.pod == nil || (other.node && !w.hostSelectable) {
			continue
		}
		if p.PodSelector != nil && !naiveSelects(p.PodSelector, other.pod.Labels) {
			continue
		}
		if p.NamespaceSelector == nil {
			if other.pod.Namespace == own {
				return true
			}
			continue
		}
		for _, ns := range s.Namespaces {
			if ns.Name == other.pod.Namespace && naiveSelects(p.NamespaceSelector, ns.Labels) {
				return true
			}
		}
	}
	return false
}

func naiveBlock(b *networkingv1.IPBlock, w world, other naiveEnd) bool {
	isNode := other.node && (other.pod == nil || w.hostPodIsNode || (!w.hostPoliced && !w.hostSelectable))
	if isNode && !w.blocksMatchNodes {
		return false
	}
	if other.pod != nil && !isNode && !w.blocksMatchPods {
		return false
	}
	if !other.addr.IsValid() {
		return true
	}
	for _, x := range b.Except {
		if netip.MustParsePrefix(x).Contains(other.addr) {
			return false
		}
	}
	return netip.MustParsePrefix(b.CIDR).Contains(other.addr)
}

func naiveSelects(s *metav1.LabelSelector, set map[string]string) bool {
	for k, v := range s.MatchLabels {
		if got, ok := set[k]; !ok || got != v {
			return false
		}
	}
	for _, x := range s.MatchExpressions {
		got, ok := set[x.Key]
		listed := ok && slices.Contains(x.Values, got)
		switch x.Operator {
		case metav1.LabelSelectorOpIn:
			if !listed {
				return false
			}
		case metav1.LabelSelectorOpNotIn:
			if listed {
				return false
			}
		case metav1.LabelSelectorOpExists:
			if !ok {
				return false
			}
		case metav1.LabelSelectorOpDoesNotExist:
			if ok {
				return false
			}
		}
	}
	return true
}

// naiveAddresses has an address of every kind that the generators tell apart.
func naiveAddresses() []netip.Addr {
	var list []netip.Addr
	for _, text := range []string{
		"10.0.200.1", "10.1.200.1", "10.200.0.1", "192.168.0.1", "192.168.200.1", "203.0.113.100", "203.0.113.201", "198.51.100.1", "2001:db8::100", "2001:db9::1",
	} {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

// naiveText renders all policies. What their text does not mention does not matter.
func naiveText(s Snapshot) string {
	text, err := json.Marshal([]any{s.NetworkPolicies, s.ClusterNetworkPolicies, s.AdminNetworkPolicies, s.BaselineAdminNetworkPolicies})
	if err != nil {
		panic(err) // Objects of the API always marshal.
	}
	return string(text)
}

// naiveQuestions lists what of the world matters to the flow. The text is that of all
// policies.
func naiveQuestions(s Snapshot, text string, f flow.Flow, w *world) []*bool {
	clusterWide := len(s.ClusterNetworkPolicies)+len(s.AdminNetworkPolicies)+len(s.BaselineAdminNetworkPolicies) > 0
	from, to := naiveResolve(s, f.From, 0, netip.Addr{}), naiveResolve(s, f.To, 0, netip.Addr{})
	var open []*bool
	ask := func(word string, q *bool) {
		if strings.Contains(text, word) {
			open = append(open, q)
		}
	}
	ask("ipBlock", &w.blocksMatchPods)
	if from.node || to.node {
		ask("ipBlock", &w.blocksMatchNodes)
		ask("ipBlock", &w.hostPodIsNode)
		open = append(open, &w.hostPoliced, &w.hostSelectable, &w.egressToOwnNode)
	}
	if from.node && clusterWide {
		open = append(open, &w.ingressFromOwnNode)
	}
	if to.identity {
		ask(`"http"`, &w.identityHasHTTP)
		ask(`"dns"`, &w.identityHasDNS)
	}
	if clusterWide && (to.pod == nil || to.node) {
		ask("zone", &w.nodeInZone)
		ask(`"example.org"`, &w.resolvesExact)
		ask(`"*.example.org"`, &w.resolvesWildcard)
		if !to.node {
			ask(`"nodes"`, &w.externalIsNode)
		}
	}
	return open
}

// naiveFits tells whether the world is one of those that a profile leaves. What was
// not asked about is false in every world, and does not matter to the flow.
func naiveFits(p Profile, asked []*bool, w *world) bool {
	for _, q := range []struct {
		set Setting
		is  *bool
	}{
		{p.IPBlockMatchesPods, &w.blocksMatchPods}, {p.IPBlockMatchesNodes, &w.blocksMatchNodes},
		{p.HostNetworkPodsPoliced, &w.hostPoliced}, {p.HostNetworkPodsSelectable, &w.hostSelectable},
		{p.PodReachesOwnNode, &w.egressToOwnNode},
	} {
		if slices.Contains(asked, q.is) && q.set != Unset && *q.is != (q.set == True) {
			return false
		}
	}
	return true
}

// naiveVerdict asks every world. The text is that of all policies.
func naiveVerdict(s Snapshot, text string, f flow.Flow) Verdict {
	processes := func(e flow.Endpoint) int {
		if !e.Addr.IsValid() || e.Namespace != "" || naiveResolve(s, e, 0, netip.Addr{}).pod != nil {
			return 0
		}
		return len(naiveProcesses(s, e.Addr))
	}
	addresses := func(e flow.Endpoint) []netip.Addr {
		byAddress := strings.Contains(text, "ipBlock") || strings.Contains(text, "networks")
		if byAddress && e.Namespace != "" && e.Pod == "" && !e.Addr.IsValid() {
			return naiveAddresses()
		}
		return []netip.Addr{{}}
	}
	allowed, denied := false, false
	var w world
	open := naiveQuestions(s, text, f, &w)
	for bits := range 1 << len(open) {
		for i, b := range open {
			*b = bits>>i&1 != 0
		}
		if !naiveFits(s.Profile, open, &w) {
			continue
		}
		for w.fromProcess = range processes(f.From) + 1 {
			for w.toProcess = range processes(f.To) + 1 {
				for _, w.fromAddr = range addresses(f.From) {
					for _, w.toAddr = range addresses(f.To) {
						canAllow, canDeny := naiveAllows(s, f, w)
						allowed, denied = allowed || canAllow, denied || canDeny
						if allowed && denied {
							return Undefined
						}
					}
				}
			}
		}
	}
	if allowed {
		return Allowed
	}
	return Denied
}
