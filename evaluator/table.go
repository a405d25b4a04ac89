package evaluator

import (
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/pathproof/pathproof/flow"
)

// Table holds the verdicts between pods: each of them as a source, each as a
// target, at each of a number of ports. It takes time and memory for pairs of groups,
// not for pairs of pods.
type Table struct {
	// groupOf holds the group of each pod.
	groupOf []int
	groups  int
	// kindOf holds the kind of each pod: pods of a kind differ from each other at most
	// in how they relate to nodes, which matters to host-network pods only. It is -1
	// for pods that are decided about one by one.
	kindOf []int
	kinds  []podKind
	// ports holds the verdicts between kinds.
	ports []kindVerdicts
	// odd numbers the pods without a kind; asSource and asTarget hold their verdicts
	// with all pods, at all ports.
	odd                map[int]int
	asSource, asTarget []Verdict
}

// podKind stands for pods that no policy can tell apart.
type podKind struct {
	view view
	// first and second are two of the pods by their position, second is -1 if there is
	// only one.
	first, second int
	// simple tells for each direction that the verdicts can be made up from those of the
	// directions.
	simple [directions]bool
}

// kindVerdicts holds the verdicts at one port, by source and target.
type kindVerdicts struct {
	allowed, undefined []bitset
}

// Table decides about all flows between the pods, which are named by their position
// in the lists.
func (e *Engine) Table(pods []flow.Endpoint, ports []flow.Port) *Table {
	t := &Table{groupOf: make([]int, len(pods)), kindOf: make([]int, len(pods)), odd: map[int]int{}}
	t.sort(e, pods)
	rows := newTableRows(t.kinds)
	for _, p := range ports {
		t.ports = append(t.ports, rows.verdicts(p))
	}
	t.fill(e, pods, ports)
	return t
}

// Verdict returns that of the flow between two pods at a port.
func (t *Table) Verdict(from, to, port int) Verdict {
	source, target := t.kindOf[from], t.kindOf[to]
	switch {
	case source < 0:
		return t.asSource[(t.odd[from]*len(t.ports)+port)*len(t.groupOf)+to]
	case target < 0:
		return t.asTarget[(t.odd[to]*len(t.ports)+port)*len(t.groupOf)+from]
	case from == to:
		// S15
		return Allowed
	}
	v := &t.ports[port]
	switch {
	case v.allowed[source].has(target):
		return Allowed
	case v.undefined[source].has(target):
		return Undefined
	}
	return Denied
}

// Group returns a number from 0 to Groups()-1. Pods with the same number have the
// same verdicts, as a source and as a target, save for the traffic between each other
// if they are one pod.
func (t *Table) Group(pod int) int { return t.groupOf[pod] }

// Groups returns the number of groups.
func (t *Table) Groups() int { return t.groups }

// sort finds the kinds and the groups of the pods.
func (t *Table) sort(e *Engine, pods []flow.Endpoint) {
	d := e.distinctions()
	ends := make([]end, len(pods))
	seen := make(map[*pod]bool, len(pods))
	kinds, groups := map[string]int{}, map[string]int{}
	for i := range pods {
		why := ends[i].resolve(e, e.shards[pods[i].Namespace], &pods[i])
		if why != nil || ends[i].kind != podEnd || ends[i].onHost() || seen[ends[i].pod] {
			t.kindOf[i] = -1
			t.odd[i] = len(t.odd)
			continue
		}
		seen[ends[i].pod] = true
		key := d.of(&ends[i])
		kind, ok := kinds[key]
		if !ok {
			kind = len(t.kinds)
			kinds[key] = kind
			t.kinds = append(t.kinds, newPodKind(&ends[i], i))
		} else if t.kinds[kind].second < 0 {
			t.kinds[kind].second = i
		}
		t.kindOf[i] = kind
	}
	for i := range pods {
		key := "odd " + pods[i].String() + " " + pods[i].Addr.String()
		if t.kindOf[i] >= 0 {
			key = "kind " + string(appendPart(nil, d.of(&ends[i])))
			if len(t.odd) > 0 {
				key += nodesOf(ends[i].pod)
			}
		}
		group, ok := groups[key]
		if !ok {
			group = len(groups)
			groups[key] = group
		}
		t.groupOf[i] = group
	}
	t.groups = len(groups)
}

// nodesOf returns what host-network pods can tell pods apart by.
func nodesOf(p *pod) string {
	b := appendPart(nil, p.node)
	for _, a := range p.hostAddrs {
		b = appendPart(b, a.String())
	}
	return string(b)
}

func newPodKind(n *end, position int) podKind {
	k := podKind{view: n.plain(), first: position, second: -1}
	addrs := n.candidates()
	k.view.addr = firstOf(addrs)
	for d := range directions {
		// Cluster-wide policies can leave open what both directions share, and which of
		// several addresses is in use depends on the other end.
		k.simple[d] = n.class.tiers[d] == nil && len(addrs) == 1
	}
	return k
}

// set sets a verdict.
func (v *kindVerdicts) set(source, target int, verdict Verdict) {
	v.allowed[source].remove(target)
	v.undefined[source].remove(target)
	switch verdict {
	case Allowed:
		v.allowed[source].add(target)
	case Undefined:
		v.undefined[source].add(target)
	case Denied:
	}
}

// fill decides what the verdicts of single directions do not tell.
func (t *Table) fill(e *Engine, pods []flow.Endpoint, ports []flow.Port) {
	t.asSource = make([]Verdict, len(t.odd)*len(ports)*len(pods))
	t.asTarget = make([]Verdict, len(t.odd)*len(ports)*len(pods))
	decide := func(from, to, port int) Verdict {
		return e.Decide(flow.Flow{From: pods[from], To: pods[to], Protocol: ports[port].Protocol, Port: ports[port].Number}).Verdict
	}
	inParallel(len(t.kinds), func(source int) {
		for port := range ports {
			for target := range t.kinds {
				a, b := &t.kinds[source], &t.kinds[target]
				if a.simple[egress] && b.simple[ingress] {
					continue
				}
				from, to := a.first, b.first
				if source == target {
					if to = b.second; to < 0 {
						continue
					}
				}
				t.ports[port].set(source, target, decide(from, to, port))
			}
		}
	})
	inParallel(len(pods), func(i int) {
		for odd, row := range t.odd {
			for port := range ports {
				t.asSource[(row*len(ports)+port)*len(pods)+i] = decide(odd, i, port)
				t.asTarget[(row*len(ports)+port)*len(pods)+i] = decide(i, odd, port)
			}
		}
	})
}

// inParallel calls f for the numbers below n, on all processors.
func inParallel(n int, f func(int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}
