package controllers

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/probepod"
)

// canaryMemo is what was made of each node and need not be made again while nothing has
// changed that it rests on. A reconcile looks at all nodes, which is cheap; what it makes
// anew, which is not, are the nodes that an event is about, and their neighbours.
type canaryMemo struct {
	// covered are the nodes in the ring, sorted.
	covered       []string
	ring, sources map[string][]string
	// names are those of a node's pods, in the order of canary.Roles.
	names map[string]made[[]client.ObjectKey]
	// blocks identify the policies of ipBlock that were found to be right.
	blocks map[string]made[string]
	rounds map[string]made[*canary.Round]
	// judged are the rounds whose reports have been looked at, but for those that have come
	// since.
	judged map[string]*canary.Round
	found  map[string]made[map[canary.Name]canary.Result]
}

// made is something, and all that it rests on.
type made[T any] struct {
	of   string
	what T
}

func newCanaryMemo() *canaryMemo {
	return &canaryMemo{
		names: map[string]made[[]client.ObjectKey]{}, blocks: map[string]made[string]{}, rounds: map[string]made[*canary.Round]{},
		judged: map[string]*canary.Round{}, found: map[string]made[map[canary.Name]canary.Result]{},
	}
}

// recall returns what was made of a node, or makes it anew if that rests on something else
// now, or on something that is not known, which is empty.
func recall[T any](known map[string]made[T], node, of string, anew func() T) T {
	if k, ok := known[node]; ok && k.of == of && of != "" {
		return k.what
	}
	what := anew()
	known[node] = made[T]{of, what}
	return what
}

// circle returns the ring of the nodes, and who probes whom in it.
func (m *canaryMemo) circle(nodes []string, neighbours int) (ring, sources map[string][]string) {
	slices.Sort(nodes)
	if m.ring != nil && slices.Equal(nodes, m.covered) && sameNeighbours(m.ring, neighbours) {
		return m.ring, m.sources
	}
	m.covered, m.ring = nodes, canary.Ring(nodes, neighbours)
	m.sources = canary.Sources(m.ring)
	forget(m.names, m.ring)
	forget(m.blocks, m.ring)
	forget(m.rounds, m.ring)
	forget(m.judged, m.ring)
	forget(m.found, m.ring)
	return m.ring, m.sources
}

func sameNeighbours(ring map[string][]string, neighbours int) bool {
	for _, targets := range ring {
		return len(targets) == min(neighbours+1, len(ring))
	}
	return true
}

// forget drops what is known of nodes that are gone.
func forget[T any](known map[string]T, ring map[string][]string) {
	maps.DeleteFunc(known, func(node string, _ T) bool { return ring[node] == nil })
}

// versions tells apart all states of a node's pods.
func (s *canaryScope) versions(b *strings.Builder, node string) {
	for _, role := range canary.Roles() {
		if pod := s.pods[node][role]; pod != nil {
			b.WriteString(string(pod.UID))
			b.WriteByte('@')
			b.WriteString(pod.ResourceVersion)
		}
		b.WriteByte(',')
	}
}

// common is what the plans of all nodes rest on.
func (s *canaryScope) common() string {
	parts := []string{string(s.canary.UID), strconv.FormatInt(s.canary.Generation, 10), s.options.WarmUp.String(), s.request, s.policies[""]}
	for _, row := range s.rows {
		parts = append(parts, row.Untestable)
	}
	return strings.Join(parts, "|")
}

// planRestsOn is what the plans of a node rest on: common, the round that was asked for, and
// the pods and policies of the node and of those that it probes.
func (s *canaryScope) planRestsOn(common, node string, asked time.Time) string {
	var b strings.Builder
	b.WriteString(common)
	b.WriteByte('|')
	if !asked.IsZero() {
		b.WriteString(strconv.FormatInt(asked.UnixNano(), 10))
	}
	for _, n := range append([]string{node}, s.ring[node]...) {
		if s.waiting[n] != "" {
			continue
		}
		b.WriteByte('|')
		b.WriteString(n)
		b.WriteByte(' ')
		b.WriteString(s.policies[n])
		b.WriteByte(' ')
		s.versions(&b, n)
	}
	return b.String()
}

// blockRestsOn is what is known of a policy of ipBlock, and the addresses in it.
func blockRestsOn(have *networkingv1.NetworkPolicy, sources, targets []netip.Addr) string {
	if have == nil {
		return ""
	}
	var b strings.Builder
	b.WriteString(string(have.UID))
	b.WriteByte('@')
	b.WriteString(have.ResourceVersion)
	for _, addrs := range [][]netip.Addr{sources, targets} {
		b.WriteByte('|')
		for _, addr := range addrs {
			b.WriteString(addr.String())
			b.WriteByte(',')
		}
	}
	return b.String()
}

// firstAddrs are the first addresses of the plain pods of nodes, as far as they are known.
func (s *canaryScope) firstAddrs(nodes []string) (out []netip.Addr) {
	for _, n := range nodes {
		if pod := s.pods[n][canary.Plain]; pod != nil && len(probepod.Addrs(pod)) > 0 {
			out = append(out, probepod.Addrs(pod)[0])
		}
	}
	return out
}

// foundRestsOn is what the results of a node rest on: the rounds that were judged of it and
// its neighbours. It is empty if one of them is missing, of which there is something to say
// that changes.
func (s *canaryScope) foundRestsOn(common, node string, fresh map[nodePair]pairResult) string {
	var b strings.Builder
	b.WriteString(common)
	add := func(from, to string) bool {
		res, ok := fresh[nodePair{from, to}]
		b.WriteByte('|')
		b.WriteString(from)
		b.WriteByte('>')
		b.WriteString(strconv.FormatUint(res.serial, 10))
		return ok
	}
	for _, from := range s.sources[node] {
		if !add(from, node) {
			return ""
		}
	}
	for _, to := range s.ring[node] {
		if !add(node, to) {
			return ""
		}
	}
	return b.String()
}
