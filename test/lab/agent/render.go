package agent

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// Table is the nftables table that the agent owns in its node's namespace.
const Table = "pathproof-lab"

// Text writes the ruleset as one nft script. nft applies a script as a single
// transaction, so there is no moment without rules between the old table and
// the new one.
func (r Ruleset) Text() string {
	var b strings.Builder
	// Declaring the table first makes the deletion valid where there is none.
	fmt.Fprintf(&b, "table inet %[1]s\ndelete table inet %[1]s\n", Table)
	if r.Off {
		return b.String()
	}
	fmt.Fprintf(&b, "table inet %s {\n", Table)
	fmt.Fprintf(&b, "\tchain deny {\n%s\t}\n", denial(r.Denial))
	for _, g := range r.Guards {
		g.write(&b)
	}
	for _, f := range families {
		r.writeMap(&b, "egress", f, func(g Guard) *Chain { return g.Egress })
		r.writeMap(&b, "ingress", f, func(g Guard) *Chain { return g.Ingress })
	}
	// Service addresses are rewritten in prerouting, so that this chain sees
	// pod ports. A jump that returns falls through to the next line: both the
	// source's egress and the destination's ingress must allow a flow.
	b.WriteString("\tchain forward {\n\t\ttype filter hook forward priority filter; policy accept;\n")
	if r.RepliesDropped {
		for _, f := range families {
			r.writeReplies(&b, "saddr", f, func(g Guard) *Chain { return g.Ingress })
			r.writeReplies(&b, "daddr", f, func(g Guard) *Chain { return g.Egress })
		}
	}
	if r.Denial == ModeRepliesDenied {
		fmt.Fprintf(&b, "\t\tct direction reply ct mark %#x drop\n", deniedMark)
	}
	b.WriteString("\t\tct state established,related accept\n")
	// IPv6 does not work without: a policy is about what pods say to each other.
	b.WriteString("\t\ticmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect } accept\n")
	if r.IPv6Unpoliced {
		b.WriteString("\t\tmeta nfproto ipv6 accept\n")
	}
	for _, p := range r.Unpoliced {
		fmt.Fprintf(&b, "\t\tmeta l4proto %s accept\n", protocolName(p))
	}
	for _, f := range families {
		fmt.Fprintf(&b, "\t\t%[1]s saddr vmap @%[2]s\n\t\t%[1]s daddr vmap @%[3]s\n", f.keyword, f.mapName("egress"), f.mapName("ingress"))
	}
	b.WriteString("\t}\n}\n")
	return b.String()
}

// denial is the body of the chain that refuses a packet.
func denial(mode string) string {
	switch mode {
	case ModeReject:
		return "\t\treject with icmpx type port-unreachable\n"
	case ModeRejectRST:
		return "\t\tmeta l4proto tcp reject with tcp reset\n\t\treject with icmpx type port-unreachable\n"
	case ModeRepliesDenied:
		return fmt.Sprintf("\t\tct mark set %#x accept\n", deniedMark)
	default:
		return "\t\tdrop\n"
	}
}

// deniedMark is the mark of connections that are denied by dropping their answers.
const deniedMark = 0x70700001

// family is an address family, as nft writes it.
type family struct {
	keyword, addrType, suffix string
	is4                       bool
}

var families = []family{{"ip", "ipv4_addr", "", true}, {"ip6", "ipv6_addr", "6", false}}

func familyOf(addr netip.Addr) family {
	if addr.Is4() {
		return families[0]
	}
	return families[1]
}

// mapName names the map of a direction: one of nft holds one type of address.
func (f family) mapName(direction string) string { return direction + f.suffix }

// chainName names the chain of a guard. The name of a chain has no colons.
func chainName(direction string, addr netip.Addr) string {
	return direction + "-" + strings.ReplaceAll(addr.String(), ":", "_")
}

func (r Ruleset) writeMap(b *strings.Builder, direction string, f family, chain func(Guard) *Chain) {
	var elements []string
	for _, g := range r.Guards {
		if chain(g) != nil && g.Addr.Is4() == f.is4 {
			elements = append(elements, fmt.Sprintf("%s : jump %s", g.Addr, chainName(direction, g.Addr)))
		}
	}
	fmt.Fprintf(b, "\tmap %s {\n\t\ttype %s : verdict\n", f.mapName(direction), f.addrType)
	if len(elements) > 0 {
		fmt.Fprintf(b, "\t\telements = { %s }\n", strings.Join(elements, ", "))
	}
	b.WriteString("\t}\n")
}

// writeReplies drops what answers on a connection, from or to the addresses of
// isolated pods.
func (r Ruleset) writeReplies(b *strings.Builder, field string, f family, chain func(Guard) *Chain) {
	var addrs []netip.Addr
	for _, g := range r.Guards {
		if chain(g) != nil && g.Addr.Is4() == f.is4 {
			addrs = append(addrs, g.Addr)
		}
	}
	if len(addrs) > 0 {
		fmt.Fprintf(b, "\t\tct direction reply %s %s %s drop\n", f.keyword, field, set(addrs))
	}
}

func (g Guard) write(b *strings.Builder) {
	f := familyOf(g.Addr)
	for _, side := range []struct {
		name, field string
		chain       *Chain
	}{{"egress", "daddr", g.Egress}, {"ingress", "saddr", g.Ingress}} {
		if side.chain == nil {
			continue
		}
		name := chainName(side.name, g.Addr)
		rest := name + "-rest"
		fmt.Fprintf(b, "\tchain %s { # %s\n", name, g.Pod)
		// "A pod cannot block access to itself". Only a Service can bring a
		// pod's own packet here.
		fmt.Fprintf(b, "\t\t%s %s %s return\n", f.keyword, side.field, g.Addr)
		if len(side.chain.Admin) > 0 {
			// A chain that was gone to returns to where this one was jumped from.
			writeRulings(b, side.chain.Admin, f, side.field, "goto "+rest)
			fmt.Fprintf(b, "\t\tgoto %s\n\t}\n\tchain %s {\n", rest, rest)
		}
		for _, allow := range side.chain.Allow {
			allow.write(b, f, side.field, "return")
		}
		if side.chain.Isolated {
			b.WriteString("\t\tgoto deny\n")
		} else {
			writeRulings(b, side.chain.Baseline, f, side.field, "return")
		}
		b.WriteString("\t}\n")
	}
}

// writeRulings writes rules in their order. pass is the verdict of those that pass a flow
// on.
func writeRulings(b *strings.Builder, rulings []Ruling, f family, field, pass string) {
	for _, r := range rulings {
		verdict := pass
		switch r.Action {
		case policyv1alpha2.ClusterNetworkPolicyRuleActionAccept:
			verdict = "return"
		case policyv1alpha2.ClusterNetworkPolicyRuleActionDeny:
			verdict = "goto deny"
		case policyv1alpha2.ClusterNetworkPolicyRuleActionPass:
		}
		r.write(b, f, field, verdict)
	}
}

// write writes what becomes of the flows of a family that match.
func (a Allow) write(b *strings.Builder, f family, field, verdict string) {
	for _, line := range a.lines(f, field) {
		fmt.Fprintf(b, "\t\t%s%s # %s\n", line, verdict, a.Policy)
	}
}

// lines writes the conditions of an Allow for the packets of a family: one line for
// each pair of a peer expression and a port expression.
func (a Allow) lines(f family, field string) []string {
	var out []string
	for _, peers := range peerExpressions(f, field, a.Peers) {
		for _, ports := range portExpressions(a.Ports) {
			out = append(out, peers+ports)
		}
	}
	return out
}

// peerExpressions puts the single addresses of a family into one set. Blocks have a
// line each, because nft refuses a set whose intervals overlap.
func peerExpressions(f family, field string, peers []Peer) []string {
	if peers == nil {
		return []string{""}
	}
	var addrs []netip.Addr
	var out []string
	for _, p := range peers {
		switch {
		case p.Prefix.Addr().Is4() != f.is4:
		case len(p.Except) > 0:
			var except []netip.Prefix
			for _, e := range p.Except {
				// A block inside another would overlap.
				covered := slices.ContainsFunc(p.Except, func(o netip.Prefix) bool {
					return o.Bits() < e.Bits() && o.Contains(e.Addr())
				})
				if !covered {
					except = append(except, e)
				}
			}
			slices.SortFunc(except, netip.Prefix.Compare)
			out = append(out, fmt.Sprintf("%[1]s %[2]s %[3]s %[1]s %[2]s != %[4]s ", f.keyword, field, p.Prefix, set(slices.Compact(except))))
		case p.Prefix.IsSingleIP():
			addrs = append(addrs, p.Prefix.Addr())
		default:
			out = append(out, fmt.Sprintf("%s %s %s ", f.keyword, field, p.Prefix))
		}
	}
	if len(addrs) > 0 {
		slices.SortFunc(addrs, netip.Addr.Compare)
		out = append(out, fmt.Sprintf("%s %s %s ", f.keyword, field, set(slices.Compact(addrs))))
	}
	return out
}

func portExpressions(ports []PortMatch) []string {
	if ports == nil {
		return []string{""}
	}
	var out []string
	for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP} {
		ranges, all := mergePorts(ports, protocol)
		switch {
		case all:
			out = append(out, fmt.Sprintf("meta l4proto %s ", protocolName(protocol)))
		case len(ranges) > 0:
			out = append(out, fmt.Sprintf("%s dport %s ", protocolName(protocol), set(ranges)))
		}
	}
	return out
}

// mergePorts joins the ranges of one protocol where they overlap, because nft
// refuses a set whose intervals do. It reports whether all ports are covered.
func mergePorts(ports []PortMatch, protocol corev1.Protocol) ([]portRange, bool) {
	var ranges []portRange
	for _, p := range ports {
		if p.Protocol != protocol {
			continue
		}
		if p.First == 0 {
			return nil, true
		}
		ranges = append(ranges, portRange{p.First, p.Last})
	}
	slices.SortFunc(ranges, func(a, b portRange) int { return cmp.Compare(a.first, b.first) })
	var merged []portRange
	for _, r := range ranges {
		if n := len(merged); n > 0 && r.first <= merged[n-1].last+1 {
			merged[n-1].last = max(merged[n-1].last, r.last)
			continue
		}
		merged = append(merged, r)
	}
	return merged, false
}

type portRange struct{ first, last int32 }

func (r portRange) String() string {
	if r.first == r.last {
		return fmt.Sprint(r.first)
	}
	return fmt.Sprintf("%d-%d", r.first, r.last)
}

func set[T fmt.Stringer](elements []T) string {
	texts := make([]string, len(elements))
	for i, e := range elements {
		texts[i] = e.String()
	}
	return "{ " + strings.Join(texts, ", ") + " }"
}

func protocolName(p corev1.Protocol) string { return strings.ToLower(string(p)) }

// compareStrings compares pairs of strings, the first pair that differs
// decides.
func compareStrings(pairs ...string) int {
	for i := 0; i+1 < len(pairs); i += 2 {
		if c := strings.Compare(pairs[i], pairs[i+1]); c != 0 {
			return c
		}
	}
	return 0
}
