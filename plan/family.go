package plan

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/pathproof/pathproof/api/v1alpha1"
)

// reaches tells whether the pods that the source stands for have an address of the
// family of a target. That is so for all that is known of an identity without pods,
// of pods that have no address yet, and of a target whose address the probe learns.
func (s *Source) reaches(target netip.Addr) bool {
	return !target.IsValid() || len(s.addrs) == 0 ||
		slices.ContainsFunc(s.addrs, func(a netip.Addr) bool { return FamilyOf(a) == FamilyOf(target) })
}

// FamilyOf names the family of a valid address.
func FamilyOf(addr netip.Addr) string {
	if addr.Unmap().Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// edges joins sources and targets: every address family that a pair shares is an edge
// of its own. A pair that shares none is an obstacle, since a path that silently
// vanished would leave the rest green.
func (r *resolver) edges(p *v1alpha1.Path, sources []*Source, targets []partial) {
	type pair struct{ source, target string }
	shared := map[pair]bool{}
	apart := map[pair]netip.Addr{}
	var order []pair
	for _, t := range targets {
		for _, s := range sources {
			if t.of != nil && !slices.Contains(t.of, s) {
				continue
			}
			k := pair{s.Name, t.edge.Target.Name}
			if t.edge.Transport.IsDNS() {
				// A resolver passes over nameservers of a family that it does not have.
				k.target = "the resolvers for " + t.edge.QueryName
			}
			if p.From.Identity == nil && !s.reaches(t.edge.Target.Addr) {
				if !apart[k].IsValid() {
					apart[k], order = t.edge.Target.Addr, append(order, k)
				}
				continue
			}
			shared[k] = true
			e := t.edge
			e.Path, e.Declared, e.Source = p.Name, p.Expect, s
			r.res.Edges = append(r.res.Edges, &e)
		}
	}
	for _, k := range order {
		if !shared[k] {
			r.obstacle(p, NoSharedFamily, fmt.Sprintf("no pod of the source has an %s address, and the target has no other", FamilyOf(apart[k])), k.source, k.target)
		}
	}
}
