package agent

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Table is the nftables table that the agent owns in its node's namespace.
const Table = "pathproof-lab"

// Text writes the ruleset as one nft script. nft applies a script as a single
// transaction, so there is no moment without rules between the old table and
// the new one.
func (r Ruleset) Text() string {
	var b strings.Builder
	// Declaring the table first makes the deletion valid where there is none.
	fmt.Fprintf(&b, "table ip %[1]s\ndelete table ip %[1]s\n", Table)
	if r.Off {
		return b.String()
	}
	fmt.Fprintf(&b, "table ip %s {\n", Table)
	fmt.Fprintf(&b, "\tchain deny {\n%s\t}\n", denial(r.Denial))
	for _, g := range r.Guards {
		g.write(&b)
	}
	r.writeMap(&b, "egress", func(g Guard) *Chain { return g.Egress })
	r.writeMap(&b, "ingress", func(g Guard) *Chain { return g.Ingress })
	// Service addresses are rewritten in prerouting, so that this chain sees
	// pod ports. A jump that returns falls through to the next line: both the
	// source's egress and the destination's ingress must allow a flow.
	b.WriteString("\tchain forward {\n\t\ttype filter hook forward priority filter; policy accept;\n")
	b.WriteString("\t\tct state established,related accept\n")
	for _, p := range r.Unpoliced {
		fmt.Fprintf(&b, "\t\tmeta l4proto %s accept\n", protocolName(p))
	}
	b.WriteString("\t\tip saddr vmap @egress\n\t\tip daddr vmap @ingress\n\t}\n}\n")
	return b.String()
}

// denial is the body of the chain that refuses a packet.
func denial(mode string) string {
	switch mode {
	case ModeReject:
		return "\t\treject with icmp type port-unreachable\n"
	case ModeRejectRST:
		return "\t\tmeta l4proto tcp reject with tcp reset\n\t\treject with icmp type port-unreachable\n"
	default:
		return "\t\tdrop\n"
	}
}

func (r Ruleset) writeMap(b *strings.Builder, name string, chain func(Guard) *Chain) {
	var elements []string
	for _, g := range r.Guards {
		if chain(g) != nil {
			elements = append(elements, fmt.Sprintf("%[1]s : jump %[2]s-%[1]s", g.Addr, name))
		}
	}
	fmt.Fprintf(b, "\tmap %s {\n\t\ttype ipv4_addr : verdict\n", name)
	if len(elements) > 0 {
		fmt.Fprintf(b, "\t\telements = { %s }\n", strings.Join(elements, ", "))
	}
	b.WriteString("\t}\n")
}

func (g Guard) write(b *strings.Builder) {
	for _, side := range []struct {
		name, field string
		chain       *Chain
	}{{"egress", "daddr", g.Egress}, {"ingress", "saddr", g.Ingress}} {
		if side.chain == nil {
			continue
		}
		fmt.Fprintf(b, "\tchain %s-%s { # %s\n", side.name, g.Addr, g.Pod)
		// "A pod cannot block access to itself". Only a Service can bring a
		// pod's own packet here.
		fmt.Fprintf(b, "\t\tip %s %s return\n", side.field, g.Addr)
		for _, allow := range side.chain.Allow {
			for _, line := range allow.lines(side.field) {
				fmt.Fprintf(b, "\t\t%sreturn # %s\n", line, allow.Policy)
			}
		}
		b.WriteString("\t\tgoto deny\n\t}\n")
	}
}

// lines writes the conditions of an Allow: one line for each pair of a peer
// expression and a port expression.
func (a Allow) lines(field string) []string {
	var out []string
	for _, peers := range peerExpressions(field, a.Peers) {
		for _, ports := range portExpressions(a.Ports) {
			out = append(out, peers+ports)
		}
	}
	return out
}

// peerExpressions puts single addresses into one set. Blocks have a line each,
// because nft refuses a set whose intervals overlap.
func peerExpressions(field string, peers []Peer) []string {
	if peers == nil {
		return []string{""}
	}
	var addrs []netip.Addr
	var out []string
	for _, p := range peers {
		switch {
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
			out = append(out, fmt.Sprintf("ip %[1]s %[2]s ip %[1]s != %[3]s ", field, p.Prefix, set(slices.Compact(except))))
		case p.Prefix.IsSingleIP():
			addrs = append(addrs, p.Prefix.Addr())
		default:
			out = append(out, fmt.Sprintf("ip %s %s ", field, p.Prefix))
		}
	}
	if len(addrs) > 0 {
		slices.SortFunc(addrs, netip.Addr.Compare)
		out = append(out, fmt.Sprintf("ip %s %s ", field, set(slices.Compact(addrs))))
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
