package controllers

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/verdict"
)

const (
	// waysWait bounds the wait of a run for the canary: its pods get their plan within a
	// second or two, and a round takes canary.Bound at most.
	waysWait = canary.Bound + 8*time.Second
	// waysBurst bounds the nodes that make a round at the request of expectations at a
	// time: each takes four writes and a few seconds.
	waysBurst = 8
)

// CanaryWays is where expectations ask the canary whether nodes carry traffic. An answer
// counts for a run only if it was measured after the probes of that run had reported:
// what was measured before may have broken since, and then silence would be taken for
// a policy. When a report was read does not tell when it was measured, since logs may be
// late and clocks of nodes wrong. So the canary makes a round for whoever asks, on a plan
// whose name says when it was asked for. Answers live no longer than the operator.
type CanaryWays struct {
	// asked wakes the canary.
	asked chan event.GenericEvent

	mu sync.Mutex
	// covered are the pairs that the canary probes; nil until it has looked at its nodes.
	covered map[nodePair]bool
	// idle says why nodes do not take part.
	idle map[string]string
	// found is what the last round has shown of each pair.
	found map[nodePair]foundWays
	// wanted holds the nodes from which something is to be measured, after which moment.
	wanted map[string]time.Time
	// rounds is when the last round of each node was asked for, and busy are the nodes of
	// which it has not been seen.
	rounds map[string]time.Time
	busy   map[string]bool
}

// foundWays is what a round has shown of a pair of nodes.
type foundWays struct {
	// asked is when the round was asked for: nothing in it was measured before. It is zero
	// if nobody has asked.
	asked time.Time
	ways  map[canary.Way]canary.Carriage
	// before is what the round before had shown.
	before map[canary.Way]canary.Carriage
}

// NewCanaryWays returns one that knows nothing yet.
func NewCanaryWays() *CanaryWays {
	return &CanaryWays{
		asked: make(chan event.GenericEvent, 1), found: map[nodePair]foundWays{},
		wanted: map[string]time.Time{}, rounds: map[string]time.Time{}, busy: map[string]bool{},
	}
}

// of returns what the canary knows of the way of a check that was measured after a moment.
// If it may come to know, it is asked, and the answer is pending.
func (w *CanaryWays) of(c verdict.Check, after time.Time) (way verdict.Way, pending bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	pair := nodePair{c.SourceNode, c.TargetNode}
	switch {
	case w.covered == nil:
		return verdict.Way{Why: "it has only just begun"}, true
	case w.idle[pair.from] != "":
		return verdict.Way{Why: fmt.Sprintf("node %s does not take part: %s", pair.from, w.idle[pair.from])}, false
	case w.idle[pair.to] != "":
		return verdict.Way{Why: fmt.Sprintf("node %s does not take part: %s", pair.to, w.idle[pair.to])}, false
	case !w.covered[pair]:
		return verdict.Way{Why: fmt.Sprintf("it does not probe node %s from node %s: see its spec.neighbours and status.nodes", pair.to, pair.from)}, false
	}
	if found, ok := w.found[pair]; ok && !found.asked.Before(after) {
		return found.of(canary.Way{IPv6: !c.Addr.Unmap().Is4(), Protocol: c.Transport.Protocol()}), false
	}
	if w.wanted[pair.from].Before(after) {
		w.wanted[pair.from] = after
	}
	select {
	case w.asked <- event.GenericEvent{Object: &v1alpha1.EnforcementCanary{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.CanaryName}}}:
	default: // it is about to look anyway
	}
	return verdict.Way{Why: fmt.Sprintf("its pods on node %s gave no report within %s", pair.from, waysWait)}, true
}

// of returns what the round has shown of a way.
func (f foundWays) of(way canary.Way) verdict.Way {
	carriage, probed := f.ways[way]
	switch {
	case !probed:
		return verdict.Way{Why: fmt.Sprintf("it does not probe %s in this address family there", way.Protocol)}
	case carriage == canary.Broken:
		return verdict.Way{State: verdict.WayBroken}
	case carriage != canary.Carried:
		return verdict.Way{Why: "not all of its own probes were answered there"}
	case f.before[way] == canary.Broken:
		// It may have been broken while the run went on.
		return verdict.Way{Why: "its pods reach each other there, and did not in the round before"}
	}
	return verdict.Way{State: verdict.WayCarried}
}

// cover notes which nodes probe which, and why some do not take part.
func (w *CanaryWays) cover(ring map[string][]string, idle map[string]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.covered, w.idle = map[nodePair]bool{}, maps.Clone(idle)
	for from, targets := range ring {
		for _, to := range targets {
			w.covered[nodePair{from, to}] = true
		}
	}
	maps.DeleteFunc(w.found, func(pair nodePair, _ foundWays) bool { return !w.covered[pair] })
	for _, times := range []map[string]time.Time{w.wanted, w.rounds} {
		maps.DeleteFunc(times, func(node string, _ time.Time) bool { return ring[node] == nil })
	}
}

// witnesses returns the nodes that probe each node: others before the node itself, since
// what is within a node takes no way between nodes.
func (w *CanaryWays) witnesses() map[string][]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string][]string{}
	for pair := range w.covered {
		if w.idle[pair.from] == "" && w.idle[pair.to] == "" {
			out[pair.to] = append(out[pair.to], pair.from)
		}
	}
	for to, nodes := range out {
		slices.SortFunc(nodes, func(a, b string) int {
			if (a == to) != (b == to) {
				return map[bool]int{true: 1, false: -1}[a == to]
			}
			return strings.Compare(a, b)
		})
	}
	return out
}

// begin decides which of the nodes that are asked about make a round now, and tells
// whether some have to wait for their turn. A round that does not come to its end is made
// anew after waysWait.
func (w *CanaryWays) begin(now time.Time) (more bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.busy, func(node string, _ bool) bool { return !now.Before(w.rounds[node].Add(waysWait)) })
	for _, node := range slices.Sorted(maps.Keys(w.wanted)) {
		switch {
		case !w.rounds[node].Before(w.wanted[node]):
			delete(w.wanted, node) // it is under way
		case w.busy[node], len(w.busy) >= waysBurst, now.Before(w.wanted[node]):
			more = true // the last is asked for while this reconcile is under way
		default:
			w.rounds[node], w.busy[node] = now, true
			delete(w.wanted, node)
		}
	}
	return more
}

// round returns when the last round of a node was asked for; zero if none was.
func (w *CanaryWays) round(node string) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rounds[node]
}

// note keeps what a round of a node has shown that was asked for at a moment.
func (w *CanaryWays) note(node string, asked time.Time, pairs map[string]*canary.Pair) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for to, pair := range pairs {
		p := nodePair{node, to}
		w.found[p] = foundWays{asked: asked, ways: pair.Ways(), before: w.found[p].ways}
	}
	if w.rounds[node].Equal(asked) {
		delete(w.busy, node)
	}
}

// clear forgets everything: the canary is gone.
func (w *CanaryWays) clear() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.covered, w.idle = nil, nil
	clear(w.found)
	clear(w.wanted)
	clear(w.rounds)
	clear(w.busy)
}
