package diff

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/pathproof/pathproof/evaluator"
)

// region is a set of addresses outside of the cluster that no policy of either side
// tells apart: a range of addresses without the smaller ranges inside of it that
// policies speak of.
type region struct {
	prefix netip.Prefix
	// inside are the largest of those.
	inside []netip.Prefix
	// sample is the address that is asked for all of the region.
	sample netip.Addr
}

// namedInside bounds how many of the ranges inside are named.
const namedInside = 3

// String names the region as a policy would.
func (r *region) String() string {
	if len(r.inside) == 0 {
		return r.prefix.String()
	}
	var names []string
	for _, p := range r.inside[:min(len(r.inside), namedInside)] {
		names = append(names, p.String())
	}
	if more := len(r.inside) - namedInside; more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return r.prefix.String() + " but " + strings.Join(names, ", ")
}

// regions divides the addresses outside of the cluster, of the families that pods
// of it have.
func regions(sides ...*evaluator.Snapshot) []region {
	known := map[netip.Prefix]bool{}
	taken := map[netip.Addr]bool{}
	for _, s := range sides {
		for _, p := range prefixes(s) {
			known[p] = true
		}
		addresses(s, taken)
	}
	families := map[bool]bool{}
	for a := range taken {
		families[a.Is4()] = true
	}
	if len(families) == 0 {
		families[true] = true
	}
	known[netip.MustParsePrefix("0.0.0.0/0")] = true
	known[netip.MustParsePrefix("::/0")] = true
	var list []netip.Prefix
	for p := range known {
		if families[p.Addr().Is4()] {
			list = append(list, p)
		}
	}
	// A range comes before those inside of it.
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(a.Addr().BitLen(), b.Addr().BitLen()), cmp.Compare(a.Bits(), b.Bits()), a.Addr().Compare(b.Addr()))
	})
	var out []region
	for i, p := range list {
		r := region{prefix: p}
		for _, q := range list[i+1:] {
			if p.Overlaps(q) && !slices.ContainsFunc(r.inside, q.Overlaps) {
				r.inside = append(r.inside, q)
			}
		}
		if r.choose(taken) {
			out = append(out, r)
		}
	}
	return out
}

// choose picks an address of the region that a peer outside of the cluster can have.
// It returns false if there is none.
func (r *region) choose(taken map[netip.Addr]bool) bool {
	for a := r.prefix.Addr(); a.IsValid() && r.prefix.Contains(a); {
		at := slices.IndexFunc(r.inside, func(p netip.Prefix) bool { return p.Contains(a) })
		switch {
		case at >= 0:
			a = last(r.inside[at]).Next()
		case a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || taken[a]:
			if a.IsLoopback() && a.Is4() {
				a = netip.MustParseAddr("127.255.255.255")
			}
			if a.IsMulticast() {
				return false // nothing but more of them and reserved ones follow
			}
			a = a.Next()
		default:
			r.sample = a
			return true
		}
	}
	return false
}

// last returns the last address of a range.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// addresses adds those of pods and of the nodes that they run on.
func addresses(s *evaluator.Snapshot, taken map[netip.Addr]bool) {
	note := func(text string) {
		if a, err := netip.ParseAddr(text); err == nil {
			taken[a.Unmap()] = true
		}
	}
	for _, p := range s.Pods {
		note(p.Status.PodIP)
		note(p.Status.HostIP)
		for _, ip := range p.Status.PodIPs {
			note(ip.IP)
		}
		for _, ip := range p.Status.HostIPs {
			note(ip.IP)
		}
	}
}

// prefixes lists the ranges of addresses that policies speak of.
func prefixes(s *evaluator.Snapshot) []netip.Prefix {
	var out []netip.Prefix
	note := func(text string) {
		// What cannot be parsed makes its policy a problem, which is told elsewhere.
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p.Masked())
		}
	}
	for _, p := range s.NetworkPolicies {
		for i := range p.Spec.Ingress {
			noteBlocks(note, p.Spec.Ingress[i].From)
		}
		for i := range p.Spec.Egress {
			noteBlocks(note, p.Spec.Egress[i].To)
		}
	}
	for _, p := range s.ClusterNetworkPolicies {
		for i := range p.Spec.Egress {
			for _, peer := range p.Spec.Egress[i].To {
				noteAll(note, peer.Networks)
			}
		}
	}
	for _, p := range s.AdminNetworkPolicies {
		for i := range p.Spec.Egress {
			for _, peer := range p.Spec.Egress[i].To {
				noteAll(note, peer.Networks)
			}
		}
	}
	for _, p := range s.BaselineAdminNetworkPolicies {
		for i := range p.Spec.Egress {
			for _, peer := range p.Spec.Egress[i].To {
				noteAll(note, peer.Networks)
			}
		}
	}
	return out
}

func noteBlocks(note func(string), peers []networkingv1.NetworkPolicyPeer) {
	for _, peer := range peers {
		if peer.IPBlock == nil {
			continue
		}
		note(peer.IPBlock.CIDR)
		for _, except := range peer.IPBlock.Except {
			note(except)
		}
	}
}

func noteAll[T ~string](note func(string), list []T) {
	for _, text := range list {
		note(string(text))
	}
}
