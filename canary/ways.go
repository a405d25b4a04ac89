package canary

import (
	"slices"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// Way is a protocol in an address family: nodes that carry one need not carry another.
type Way struct {
	IPv6     bool
	Protocol flow.Protocol
}

// Carriage is what became of the probes of a way.
type Carriage uint8

// What can become of them. The zero value says nothing: they disagree, or something else
// was the matter than the way.
const (
	CarriageUnclear Carriage = iota
	// Carried: all of them were answered.
	Carried
	// Broken: all of them met silence, or somebody else's rejection.
	Broken
)

// Ways says which ways between the two nodes carry traffic, by the probes of which neither
// end is guarded. Those that a policy selects prove nothing: it may deny them, or be what
// lets them through. A way without a probe is left out.
func (o Pair) Ways() map[Way]Carriage {
	type counts struct{ all, answered, lost int }
	by := map[Way]*counts{}
	for p, outcomes := range o.Outcomes {
		if p.From == Guarded || p.To == Guarded || len(outcomes) == 0 {
			continue
		}
		w := Way{IPv6: p.IPv6 || o.FirstIPv6, Protocol: p.Transport.Protocol()}
		if by[w] == nil {
			by[w] = &counts{}
		}
		c := by[w]
		c.all++
		switch {
		case o.read(p) == answered:
			c.answered++
		case !slices.ContainsFunc(outcomes, func(o wire.Outcome) bool { return o != wire.TimedOut && o != wire.Rejected }):
			c.lost++
		}
	}
	out := map[Way]Carriage{}
	for w, c := range by {
		switch c.all {
		case c.answered:
			out[w] = Carried
		case c.lost:
			out[w] = Broken
		default:
			out[w] = CarriageUnclear
		}
	}
	return out
}
