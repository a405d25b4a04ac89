package plan

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// wide is a cluster with more pods than a run probes, and a path between them.
func wide(sources, targets []string, maxSources, maxTargets int) (Snapshot, string) {
	s := cluster()
	s.Pods, s.NetworkPolicies = nil, nil
	for i, n := range sources {
		s.Pods = append(s.Pods, pod("ns", fmt.Sprintf("web-%d", i), n, fmt.Sprintf("10.1.%d.%d", i/250, i%250+1), "app=web"))
	}
	for i, n := range targets {
		s.Pods = append(s.Pods, pod("ns", fmt.Sprintf("db-%d", i), n, fmt.Sprintf("10.2.%d.%d", i/250, i%250+1), "app=db"))
	}
	return s, fmt.Sprintf("coverage: {maxSources: %d, maxTargets: %d}\n%s", maxSources, maxTargets, path(toDB))
}

// choice resolves a round, and returns the pairs of nodes and targets that it probes.
func choice(t *testing.T, s Snapshot, spec string, sampling Sampling) []Pair {
	t.Helper()
	var out []Pair
	res := resolveInput(Input{Expectation: expectation(t, spec), Snapshot: s, ClusterDNS: dns, Sampling: sampling})
	for _, e := range res.Edges {
		for _, n := range e.Source.Nodes {
			out = append(out, Pair{Path: e.Path, Source: e.Source.Name, SourceNode: n, Target: e.Target.Name, TargetNode: e.Target.Node})
		}
	}
	return out
}

// distinct counts the different values of a field.
func distinct(pairs []Pair, of func(Pair) string) int {
	seen := map[string]bool{}
	for _, p := range pairs {
		seen[of(p)] = true
	}
	return len(seen)
}

func sourceNode(p Pair) string { return p.SourceNode }
func target(p Pair) string     { return p.Target }
func targetNode(p Pair) string { return p.TargetNode }

// TestRoundsCoverEverything lets all pods have their turn: each target within as many
// runs as it takes to probe all, each node of a source likewise, and in time every pair.
func TestRoundsCoverEverything(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		nodes := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"})
		sources := rapid.SliceOfN(nodes, 1, 5).Draw(rt, "sources")
		targets := rapid.SliceOfN(nodes, 1, 6).Draw(rt, "targets")
		maxSources, maxTargets := rapid.IntRange(1, 3).Draw(rt, "maxSources"), rapid.IntRange(1, 3).Draw(rt, "maxTargets")
		s, spec := wide(sources, targets, maxSources, maxTargets)
		all := slices.Compact(slices.Sorted(slices.Values(sources)))
		turnsOfTargets, turnsOfNodes := windows(len(targets), maxTargets), windows(len(all), maxSources)
		var sofar []Pair
		for round := range turnsOfTargets * turnsOfNodes {
			now := choice(t, s, spec, Sampling{Round: round})
			if n := distinct(now, sourceNode); n != min(maxSources, len(all)) {
				rt.Fatalf("round %d probes from %d nodes", round, n)
			}
			if n := distinct(now, target); n != min(maxTargets, len(targets)) {
				rt.Fatalf("round %d probes %d targets", round, n)
			}
			sofar = append(sofar, now...)
			if n := distinct(sofar, target); round+1 == turnsOfTargets && n != len(targets) {
				rt.Errorf("after %d rounds, %d of %d targets were probed", round+1, n, len(targets))
			}
			if n := distinct(sofar, sourceNode); round+1 == turnsOfNodes && n != len(all) {
				rt.Errorf("after %d rounds, %d of %d nodes were probed from", round+1, n, len(all))
			}
		}
		if n := distinct(sofar, func(p Pair) string { return p.SourceNode + " " + p.Target }); n != len(all)*len(targets) {
			rt.Errorf("after all rounds, %d of %d pairs were probed", n, len(all)*len(targets))
		}
		if diff := cmp.Diff(choice(t, s, spec, Sampling{Round: 1}), choice(t, s, spec, Sampling{Round: 1})); diff != "" {
			rt.Errorf("the same round chooses differently:\n%s", diff)
		}
	})
}

// A round makes a difference where the resolution says so, and nowhere else.
func TestRotates(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		nodes := rapid.SampledFrom([]string{"a", "b", "c"})
		sources := rapid.SliceOfN(nodes, 1, 3).Draw(rt, "sources")
		targets := rapid.SliceOfN(nodes, 1, 3).Draw(rt, "targets")
		maxSources, maxTargets := rapid.IntRange(1, 3).Draw(rt, "maxSources"), rapid.IntRange(1, 3).Draw(rt, "maxTargets")
		s, spec := wide(sources, targets, maxSources, maxTargets)
		differs := false
		first := choice(t, s, spec, Sampling{})
		for round := range 9 {
			differs = differs || !slices.Equal(first, choice(t, s, spec, Sampling{Round: round + 1}))
		}
		if got := resolveInput(Input{Expectation: expectation(t, spec), Snapshot: s, ClusterDNS: dns}).Rotates; got != differs {
			rt.Errorf("rotates: %v, want %v", got, differs)
		}
	})
}

// Targets on nodes that have none yet have their turn before second ones.
func TestRoundsSpreadOverNodes(t *testing.T) {
	s, spec := wide([]string{"a"}, []string{"a", "a", "a", "b", "b", "b", "c", "d", "d"}, 1, 2)
	first := choice(t, s, spec, Sampling{})
	both := append(slices.Clone(first), choice(t, s, spec, Sampling{Round: 1})...)
	if n, m := distinct(first, targetNode), distinct(both, targetNode); n != 2 || m != 4 {
		t.Errorf("the first round probes targets on %d nodes and the first two on %d, want 2 and 4", n, m)
	}
}

// TestKeptPairsStayInEveryRound keeps pairs in the choice, and lets others have the
// places that are left.
func TestKeptPairsStayInEveryRound(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, spec := wide([]string{"a", "b", "c", "d", "e"}, []string{"a", "b", "c", "d", "e", "a", "b"}, 2, 3)
		keep := choice(t, s, spec, Sampling{Round: rapid.IntRange(0, 20).Draw(rt, "found")})
		keep = keep[:rapid.IntRange(1, len(keep)).Draw(rt, "kept")]
		var sofar []Pair
		for round := range 42 {
			now := choice(t, s, spec, Sampling{Round: round, Keep: keep})
			if distinct(now, sourceNode) > 2 || distinct(now, target) > 3 {
				rt.Fatalf("round %d probes more than it may: %v", round, now)
			}
			for _, k := range keep {
				if !slices.Contains(now, k) {
					rt.Fatalf("round %d leaves out %v, which is to be kept", round, k)
				}
			}
			sofar = append(sofar, now...)
		}
		if n := distinct(sofar, target); distinct(keep, target) < 3 && n != 7 {
			rt.Errorf("%d of 7 targets had their turn beside those that are kept", n)
		}
		if n := distinct(sofar, sourceNode); distinct(keep, sourceNode) < 2 && n != 5 {
			rt.Errorf("%d of 5 nodes had their turn beside those that are kept", n)
		}
	})
	t.Run("more than a run probes", func(t *testing.T) {
		s, spec := wide([]string{"a"}, []string{"a", "b", "c", "d"}, 1, 3)
		keep := choice(t, s, spec, Sampling{})
		s, spec = wide([]string{"a"}, []string{"a", "b", "c", "d"}, 1, 1)
		if diff := cmp.Diff(keep, choice(t, s, spec, Sampling{Round: 3, Keep: keep})); diff != "" {
			t.Errorf("(-kept +chosen):\n%s", diff)
		}
	})
	t.Run("one that is not ready any more", func(t *testing.T) {
		s, spec := wide([]string{"a"}, []string{"a", "b", "c", "d"}, 1, 2)
		keep := choice(t, s, spec, Sampling{})[:1]
		for _, p := range s.Pods {
			if "ns/"+p.Name == keep[0].Target {
				p.Status.Conditions = nil
			}
		}
		for round := range 4 {
			if now := choice(t, s, spec, Sampling{Round: round, Keep: keep}); !slices.Contains(now, keep[0]) {
				t.Errorf("round %d leaves it out: %v", round, now)
			}
			if now := choice(t, s, spec, Sampling{Round: round}); slices.Contains(now, keep[0]) {
				t.Errorf("round %d gives it a turn although nothing happened to it: %v", round, now)
			}
		}
	})
	t.Run("the node of an identity", func(t *testing.T) {
		s := cluster()
		spec := "coverage: {maxSources: 1}\npaths: [{name: p, expect: Deny, from: {identity: {labels: {app: x}}}, " + toDB + "}]"
		for _, n := range []string{"a", "b"} {
			res := resolveInput(Input{Expectation: expectation(t, spec), Snapshot: s, ClusterDNS: dns, Sampling: Sampling{
				Keep: []Pair{{Path: "p", Source: "ns/{app=x}", SourceNode: n}},
			}})
			for _, p := range Place(res.Edges, s.Nodes, 1) {
				if p.Node != n {
					t.Errorf("probed from %s, and a check from %s is to be kept", p.Node, n)
				}
			}
		}
	})
}

func TestExtent(t *testing.T) {
	s, _ := wide([]string{"a", "a", "b"}, []string{"b", "c", "c"}, 1, 1)
	spec := "coverage: {maxSources: 1, maxTargets: 1}\npaths:\n" +
		"- {name: p, expect: Deny, from: {podSelector: {matchLabels: {app: web}}}, " + toDB + "}\n" +
		"- {name: stranger, expect: Deny, from: {identity: {labels: {app: x}}}, " + toDB + "}\n" +
		"- {name: service, expect: Deny, from: {podSelector: {matchLabels: {app: web}}}, to: {address: {ips: [203.0.113.1]}}, ports: [{port: 1}]}\n"
	x := resolveInput(Input{Expectation: expectation(t, spec), Snapshot: s, ClusterDNS: dns}).Extent
	// Two nodes to three targets; the stranger to three; two nodes to an address. Nodes:
	// a and b to b and c, of the first path alone.
	if pairs, nodes := x.Counts(); pairs != 6+3+2 || nodes != 4 {
		t.Errorf("got %d pairs and %d pairs of nodes, want 11 and 4", pairs, nodes)
	}
	web, stranger := "ns/{app=web}", "ns/{app=x}"
	cases := map[string]struct {
		list             []Pair
		wantAll, wantFor int
	}{
		"a pair":                        {[]Pair{{"p", web, "a", "ns/db-0", "b"}}, 1, 1},
		"the same again":                {[]Pair{{"p", web, "a", "ns/db-0", "b"}, {"p", web, "a", "ns/db-0", "b"}}, 1, 1},
		"two of one pair of nodes":      {[]Pair{{"p", web, "a", "ns/db-1", "c"}, {"p", web, "a", "ns/db-2", "c"}}, 2, 1},
		"a stranger from two nodes":     {[]Pair{{"stranger", stranger, "a", "ns/db-0", "b"}, {"stranger", stranger, "b", "ns/db-0", "b"}}, 1, 0},
		"an address":                    {[]Pair{{"service", web, "a", "203.0.113.1", ""}}, 1, 0},
		"a node without a pod, as is":   {[]Pair{{"p", web, "z", "ns/db-0", "b"}}, 0, 0},
		"a target that is gone":         {[]Pair{{"p", web, "a", "ns/db-9", "b"}}, 0, 0},
		"a target that was elsewhere":   {[]Pair{{"p", web, "a", "ns/db-0", "a"}}, 0, 0},
		"a source that is not declared": {[]Pair{{"p", stranger, "a", "ns/db-0", "b"}}, 0, 0},
		"a path that is gone":           {[]Pair{{"q", web, "a", "ns/db-0", "b"}}, 0, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if pairs, nodes := x.Covered(tc.list); pairs != tc.wantAll || nodes != tc.wantFor {
				t.Errorf("got %d pairs and %d pairs of nodes, want %d and %d", pairs, nodes, tc.wantAll, tc.wantFor)
			}
		})
	}
}
