package plan

import (
	"cmp"
	"maps"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/flow"
)

// Sampling says which of the matching pods a run probes, where more match than
// coverage allows. The same Sampling chooses the same pods while these stay.
type Sampling struct {
	// Round moves the choice on: runs of consecutive rounds choose other targets and
	// other nodes of sources, until all had their turn.
	Round int
	// Keep are pairs that have to stay in the choice, whichever round it is. They take
	// the place of others.
	Keep []Pair
}

// Pair is a place that a path is probed from and a target, by their names.
type Pair struct {
	Path, Source, SourceNode, Target, TargetNode string
}

// keeps tells whether one of the pairs that have to stay is of this kind.
func (s *Sampling) keeps(is func(Pair) bool) bool { return slices.ContainsFunc(s.Keep, is) }

// window chooses n of a list: those to be kept, even if they are more, and of the others
// those whose turn it is. The order is that of the list, whatever the reason to be
// chosen.
func window[T any](list []T, n, turn int, kept func(T) bool) []T {
	n = min(n, len(list))
	if n == 0 {
		return nil
	}
	chosen, left := make([]bool, len(list)), n
	for i, o := range list {
		if kept(o) {
			chosen[i] = true
			left--
		}
	}
	turns := windows(len(list), n)
	start := turn % turns * n
	if left < n {
		// What is kept takes the places of the last of each window. Windows that move by
		// one whenever all had their turn do not always pass over the same.
		start += turn / turns
	}
	for i := 0; left > 0; i++ {
		if at := (start + i) % len(list); !chosen[at] {
			chosen[at] = true
			left--
		}
	}
	out := make([]T, 0, n)
	for i, o := range list {
		if chosen[i] {
			out = append(out, o)
		}
	}
	return out
}

// windows is the number of turns that a list takes.
func windows(size, n int) int { return max(1, (size+n-1)/max(1, n)) }

// targetTurn is the turn of the targets of a path in a round. Sources take one turn a
// round. If the targets did, too, and both took the same number of turns, each target
// would only ever meet the same nodes: so they skip one whenever everybody is where
// they began.
func targetTurn(round, targets int, sources []int) int {
	cycle := targets
	for _, n := range sources {
		if cycle > math.MaxInt32 {
			// No operator lives to see the end of that.
			break
		}
		cycle = lcm(cycle, n)
	}
	return round + round/cycle
}

func lcm(a, b int) int {
	x, y := a, b
	for y != 0 {
		x, y = y, x%y
	}
	return a / x * b
}

// inOrder orders pods for the choice: ready ones first, then by a hash of the name, so
// that the choice does not favour the oldest or the first in the alphabet; with
// SpreadNode, pods on nodes that have none before come first.
func inOrder(pods []*corev1.Pod, spread v1alpha1.Spread) []*corev1.Pod {
	order := slices.Clone(pods)
	hash := make(map[*corev1.Pod]string, len(order))
	for _, p := range order {
		hash[p] = flow.ID(p.Namespace, p.Name)
	}
	slices.SortFunc(order, func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(boolRank(IsReady(a)), boolRank(IsReady(b))), cmp.Compare(hash[a], hash[b]))
	})
	if spread == v1alpha1.SpreadNode {
		seen := map[string]int{}
		round := make(map[*corev1.Pod]int, len(order))
		for _, p := range order {
			round[p] = seen[p.Spec.NodeName]
			seen[p.Spec.NodeName]++
		}
		slices.SortStableFunc(order, func(a, b *corev1.Pod) int { return cmp.Compare(round[a], round[b]) })
	}
	return order
}

// candidates are the pods that take turns: the ready ones, and the others only where
// these cannot fill a window, or when one is to be kept. A pod that is not ready would
// leave a run without a result.
func candidates(order []*corev1.Pod, n int, spread v1alpha1.Spread, kept func(*corev1.Pod) bool) []*corev1.Pod {
	ready := slices.DeleteFunc(slices.Clone(order), func(p *corev1.Pod) bool { return !IsReady(p) })
	enough := len(ready) >= n
	if spread == v1alpha1.SpreadNode {
		// A node is worth more than readiness.
		enough = len(sortedNodes(ready)) >= n
	}
	if !enough {
		return order
	}
	return slices.DeleteFunc(slices.Clone(order), func(p *corev1.Pod) bool { return !IsReady(p) && !kept(p) })
}

// Extent is what the paths of an expectation match, chosen or not.
type Extent struct {
	paths map[string]*pathExtent
}

// pathExtent holds, of one path, the nodes of each source and the node of each target.
type pathExtent struct {
	sources map[string][]string
	targets map[string]string
}

// add notes what a path matches: the nodes of each source, and the node of each target.
func (x *Extent) add(path string, sources map[string][]string, targets map[string]string) {
	x.paths[path] = &pathExtent{sources: sources, targets: targets}
}

// Counts returns the number of pairs, and that of pairs of nodes, path by path. A source
// is a pair with a target on each node that it has pods on, or once if it has none.
func (x *Extent) Counts() (pairs, nodePairs int) {
	for _, p := range x.paths {
		places, from, to := 0, map[string]bool{}, map[string]bool{}
		for _, nodes := range p.sources {
			places += max(1, len(nodes))
			for _, n := range nodes {
				from[n] = true
			}
		}
		for _, n := range p.targets {
			if n != "" {
				to[n] = true
			}
		}
		pairs += places * len(p.targets)
		nodePairs += len(from) * len(to)
	}
	return min(pairs, math.MaxInt32), min(nodePairs, math.MaxInt32)
}

// Covered counts those of the pairs that the expectation still matches, and their pairs
// of nodes. A pair that is listed twice counts once.
func (x *Extent) Covered(list []Pair) (pairs, nodePairs int) {
	seen, seenNodes := map[Pair]bool{}, map[Pair]bool{}
	for _, c := range list {
		p := x.paths[c.Path]
		if p == nil {
			continue
		}
		nodes, isSource := p.sources[c.Source]
		node, isTarget := p.targets[c.Target]
		if !isSource || !isTarget || (len(nodes) > 0 && !slices.Contains(nodes, c.SourceNode)) {
			continue
		}
		// A pod that came back elsewhere under its name is another target.
		if node != "" && node != c.TargetNode {
			continue
		}
		if len(nodes) == 0 {
			c.SourceNode = ""
		}
		c.TargetNode = node
		seen[c] = true
		if c.SourceNode != "" && node != "" {
			seenNodes[Pair{Path: c.Path, SourceNode: c.SourceNode, TargetNode: node}] = true
		}
	}
	return len(seen), len(seenNodes)
}

// sortedNodes lists the nodes of pods.
func sortedNodes(pods []*corev1.Pod) []string {
	nodes := map[string]bool{}
	for _, p := range pods {
		if p.Spec.NodeName != "" {
			nodes[p.Spec.NodeName] = true
		}
	}
	return slices.Sorted(maps.Keys(nodes))
}
