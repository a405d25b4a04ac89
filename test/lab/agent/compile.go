package agent

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// Ruleset is what one node has to enforce.
type Ruleset struct {
	// Off means that there is to be no table at all.
	Off bool
	// Denial is the mode whose form of refusal is used: ModeReject, ModeRejectRST,
	// ModeRepliesDenied, or else a silent drop.
	Denial string
	// Unpoliced lists protocols that pass whatever the policies say, and
	// IPv6Unpoliced says that all of IPv6 does.
	Unpoliced     []corev1.Protocol
	IPv6Unpoliced bool
	// RepliesDropped says that the answers on the connections that policies allow
	// are dropped: what reaches an isolated pod cannot be answered, and what it asks
	// cannot be answered to it.
	RepliesDropped bool
	// Guards are the local pods that some policy is about, by address.
	Guards []Guard
}

// Guard protects one address of one pod. A nil chain means that no policy says anything
// of the pod in that direction.
type Guard struct {
	Addr            netip.Addr
	Pod             string
	Ingress, Egress *Chain
}

// Chain is what becomes of a flow. The rules of the Admin tier come first, in their
// order, then the NetworkPolicies, if some isolate the pod, and otherwise the rules of the
// Baseline tier.
type Chain struct {
	Admin []Ruling
	// Isolated says that what Allow, the union of what the isolating NetworkPolicies
	// allow, does not match is denied.
	Isolated bool
	Allow    []Allow
	Baseline []Ruling
}

// Allow lets flows pass whose other end is one of Peers, to one of Ports. A nil
// slice stands for all; an empty one matches nothing and is never compiled.
type Allow struct {
	Policy string
	Peers  []Peer
	Ports  []PortMatch
}

// Peer is a range of addresses, less the excepted ones.
type Peer struct {
	Prefix netip.Prefix
	Except []netip.Prefix
}

// PortMatch is an inclusive range of destination ports; First 0 stands for all
// ports of the protocol.
type PortMatch struct {
	Protocol    corev1.Protocol
	First, Last int32
}

const lastPort = 65535

type direction bool

const (
	ingress direction = true
	egress  direction = false
)

// rule is an ingress or egress rule with the direction taken out: both have
// the same two parts, which "are combined using a logical AND".
type rule struct {
	peers []networkingv1.NetworkPolicyPeer
	ports []networkingv1.NetworkPolicyPort
}

type compiler struct {
	Snapshot
	mode string
}

// Compile works out what the snapshot's node has to enforce in this mode.
func Compile(s Snapshot, mode Mode) Ruleset {
	r := Ruleset{Off: mode.Name == ModeOff, Denial: mode.Name}
	switch mode.Name {
	case ModeOff:
		return r
	case ModeUDPIgnored:
		r.Unpoliced = []corev1.Protocol{corev1.ProtocolUDP}
	case ModeSCTPIgnored:
		r.Unpoliced = []corev1.Protocol{corev1.ProtocolSCTP}
	case ModeIPv6Ignored:
		r.IPv6Unpoliced = true
	case ModeRepliesDropped:
		r.RepliesDropped = true
	}
	c := compiler{Snapshot: s, mode: mode.Name}
	c.Policies = slices.SortedFunc(slices.Values(s.Policies), func(a, b *networkingv1.NetworkPolicy) int {
		return compareStrings(a.Namespace, b.Namespace, a.Name, b.Name)
	})
	c.ClusterPolicies = sortClusterPolicies(s.ClusterPolicies)
	for _, pod := range s.Pods {
		if pod.Node != s.Node {
			continue
		}
		in, out := c.chain(pod, ingress), c.chain(pod, egress)
		if in == nil && out == nil {
			continue
		}
		for _, addr := range pod.Addrs {
			r.Guards = append(r.Guards, Guard{Addr: addr, Pod: pod.Namespace + "/" + pod.Name, Ingress: in, Egress: out})
		}
	}
	slices.SortFunc(r.Guards, func(a, b Guard) int { return a.Addr.Compare(b.Addr) })
	return r
}

// chain compiles one direction of one pod, or returns nil if there is nothing to
// enforce: "if no policy selects the pod, all traffic is allowed".
func (c compiler) chain(pod Pod, d direction) *Chain {
	if (d == ingress && c.mode == ModeIngressIgnored) || (d == egress && c.mode == ModeEgressIgnored) {
		return nil
	}
	chain := &Chain{
		Admin:    c.rulings(pod, d, policyv1alpha2.AdminTier),
		Baseline: c.rulings(pod, d, policyv1alpha2.BaselineTier),
	}
	for _, policy := range c.Policies {
		if policy.Namespace != pod.Namespace || !applies(policy.Spec, d) || !selects(&policy.Spec.PodSelector, pod.Labels) {
			continue
		}
		chain.Isolated = true
		for _, r := range rules(policy.Spec, d) {
			chain.Allow = append(chain.Allow, c.allow(policy, pod, d, r)...)
		}
	}
	if !chain.Isolated && len(chain.Admin)+len(chain.Baseline) == 0 {
		return nil
	}
	return chain
}

// applies tells whether a policy isolates in this direction. "If policyTypes is
// not specified, it will default based on the existence of ingress or egress
// rules; policies that contain an egress section are assumed to affect egress,
// and all policies (whether or not they contain an ingress section) are assumed
// to affect ingress."
func applies(spec networkingv1.NetworkPolicySpec, d direction) bool {
	if len(spec.PolicyTypes) == 0 {
		return d == ingress || len(spec.Egress) > 0
	}
	want := networkingv1.PolicyTypeEgress
	if d == ingress {
		want = networkingv1.PolicyTypeIngress
	}
	return slices.Contains(spec.PolicyTypes, want)
}

func rules(spec networkingv1.NetworkPolicySpec, d direction) []rule {
	var out []rule
	if d == ingress {
		for _, r := range spec.Ingress {
			out = append(out, rule{peers: r.From, ports: r.Ports})
		}
		return out
	}
	for _, r := range spec.Egress {
		out = append(out, rule{peers: r.To, ports: r.Ports})
	}
	return out
}

// allow compiles one rule. It may take several Allows, because a named port of
// an egress rule means another number at every destination.
func (c compiler) allow(policy *networkingv1.NetworkPolicy, pod Pod, d direction, r rule) []Allow {
	name := policy.Namespace + "/" + policy.Name
	peers := c.peers(policy.Namespace, r.peers)
	if peers != nil && len(peers) == 0 {
		return nil
	}
	if len(r.ports) == 0 {
		return []Allow{{Policy: name, Peers: peers}}
	}
	var out []Allow
	var numeric []PortMatch
	for _, port := range r.ports {
		protocol := corev1.ProtocolTCP
		if port.Protocol != nil {
			protocol = protocolOrTCP(*port.Protocol)
		}
		switch {
		case port.Port == nil:
			numeric = append(numeric, PortMatch{Protocol: protocol})
		case port.Port.Type == intstr.Int:
			numeric = append(numeric, c.numericPort(protocol, port.Port.IntVal, port.EndPort))
		case c.mode == ModeNamedPortsUnresolved:
			numeric = append(numeric, PortMatch{Protocol: protocol})
		case d == ingress:
			numeric = append(numeric, resolve(pod, port.Port.StrVal, protocol)...)
		default:
			out = append(out, c.namedEgress(name, peers, port.Port.StrVal, protocol)...)
		}
	}
	if len(numeric) > 0 {
		out = append(out, Allow{Policy: name, Peers: peers, Ports: numeric})
	}
	return out
}

func (c compiler) numericPort(protocol corev1.Protocol, port int32, endPort *int32) PortMatch {
	match := PortMatch{Protocol: protocol, First: port, Last: port}
	if endPort != nil {
		switch c.mode {
		case ModeEndPortIgnored:
			match.Last = lastPort
		case ModeEndPortSingle:
		default:
			match.Last = *endPort
		}
	}
	return match
}

// resolve finds the numbers that a pod gives to a named port. A pod that does
// not declare the name for this protocol is simply not matched.
func resolve(pod Pod, name string, protocol corev1.Protocol) []PortMatch {
	var out []PortMatch
	for _, p := range pod.Ports {
		if p.Name == name && p.Protocol == protocol {
			out = append(out, PortMatch{Protocol: protocol, First: p.Port, Last: p.Port})
		}
	}
	return out
}

// namedEgress resolves a named port at each pod that the peers cover. An
// address outside the cluster declares no names, so it is not matched.
func (c compiler) namedEgress(policy string, peers []Peer, name string, protocol corev1.Protocol) []Allow {
	var out []Allow
	for _, pod := range c.Pods {
		ports := resolve(pod, name, protocol)
		if len(ports) == 0 {
			continue
		}
		var reached []Peer
		for _, addr := range pod.Addrs {
			if peers == nil || slices.ContainsFunc(peers, func(p Peer) bool { return p.contains(addr) }) {
				reached = append(reached, Peer{Prefix: netip.PrefixFrom(addr, addr.BitLen())})
			}
		}
		if len(reached) > 0 {
			out = append(out, Allow{Policy: policy, Peers: reached, Ports: ports})
		}
	}
	return out
}

func (p Peer) contains(addr netip.Addr) bool {
	return p.Prefix.Contains(addr) &&
		!slices.ContainsFunc(p.Except, func(e netip.Prefix) bool { return e.Contains(addr) })
}

// peers resolves the peers of a rule to addresses. "If this field is empty or
// missing, this rule matches all sources": that is nil, whereas peers that
// cover no address at present are an empty slice.
func (c compiler) peers(namespace string, peers []networkingv1.NetworkPolicyPeer) []Peer {
	if len(peers) == 0 {
		return nil
	}
	out := []Peer{}
	seen := map[netip.Addr]bool{}
	for _, peer := range peers {
		if peer.IPBlock != nil {
			if block, ok := c.ipBlock(peer.IPBlock); ok {
				out = append(out, block)
			}
			continue
		}
		for _, pod := range c.Pods {
			if !c.isPeer(namespace, peer, pod) {
				continue
			}
			for _, addr := range pod.Addrs {
				if !seen[addr] {
					seen[addr] = true
					out = append(out, Peer{Prefix: netip.PrefixFrom(addr, addr.BitLen())})
				}
			}
		}
	}
	return out
}

// isPeer tells whether a selector peer covers a pod. "If namespaceSelector is
// also set, then the rule selects the pods matching podSelector in the
// namespaces selected by namespaceSelector. Otherwise it selects the pods
// matching podSelector in the policy's own namespace."
func (c compiler) isPeer(namespace string, peer networkingv1.NetworkPolicyPeer, pod Pod) bool {
	switch {
	case peer.NamespaceSelector == nil && peer.PodSelector == nil:
		return false // no field set: invalid, so it matches nothing
	case peer.NamespaceSelector == nil:
		if pod.Namespace != namespace {
			return false
		}
	case c.mode == ModeNamespaceSelectorIgnored:
	default:
		ns, ok := c.Namespaces[pod.Namespace]
		if !ok || !selects(peer.NamespaceSelector, ns) {
			return false
		}
	}
	return peer.PodSelector == nil || selects(peer.PodSelector, pod.Labels)
}

// ipBlock reads a block of either family.
func (c compiler) ipBlock(block *networkingv1.IPBlock) (Peer, bool) {
	prefix, err := netip.ParsePrefix(block.CIDR)
	if err != nil {
		return Peer{}, false
	}
	peer := Peer{Prefix: prefix.Masked()}
	if c.mode == ModeExceptIgnored {
		return peer, true
	}
	for _, e := range block.Except {
		except, err := netip.ParsePrefix(e)
		if err != nil {
			return Peer{}, false // rather too little allowed than too much
		}
		peer.Except = append(peer.Except, except.Masked())
	}
	return peer, true
}

// selects evaluates a selector. The API server admits none that does not
// parse; such a one matches nothing.
func selects(selector *metav1.LabelSelector, set map[string]string) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && s.Matches(labels.Set(set))
}
