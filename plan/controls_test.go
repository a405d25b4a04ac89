package plan

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// Wherever a closed edge is probed, an open edge to the same listener is probed
// from the same node, if the expectation holds one and the node can be used.
func TestEveryClosedEdgeHasAControlBesideIt(t *testing.T) {
	s := cluster()
	for i, name := range []string{"c", "d", "e"} {
		s.Nodes = append(s.Nodes, node(name))
		s.Pods = append(s.Pods, pod("ns", "stranger-"+name, name, fmt.Sprintf("10.0.3.%d", i+1), "app=stranger"))
	}
	res := resolveInput(Input{ClusterDNS: dns, Snapshot: s, Expectation: expectation(t, "coverage: {maxSources: 5}\npaths:\n"+
		"- {name: open, expect: Allow, from: {podSelector: {matchLabels: {app: web}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 1}, {port: 2}]}\n"+
		"- {name: closed, expect: Deny, from: {podSelector: {matchLabels: {app: stranger}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 1}, {port: 2}]}\n"+
		"- {name: new, expect: Deny, from: {identity: {labels: {app: x}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 1}]}\n")})
	predict(s, res.Edges)
	type place struct{ listener, node string }
	open, closed := map[place]bool{}, map[place]*Edge{}
	for _, p := range Place(res.Edges, s.Nodes, 5) {
		for _, e := range p.Edges {
			at := place{e.listener(), p.Node}
			if e.Prediction.Verdict == evaluator.Allowed {
				open[at] = true
			} else {
				closed[at] = e
			}
		}
	}
	if len(closed) < 6 {
		t.Fatalf("only %d closed edges were placed", len(closed))
	}
	for at, e := range closed {
		if !open[at] {
			t.Errorf("path %s from node %s to %s has no control beside it", e.Path, at.node, e.Target.Name)
		}
	}
}

func TestOneResponderServesAllPaths(t *testing.T) {
	spec := "paths:\n" +
		"- {name: a, expect: Allow, from: {podSelector: {matchLabels: {app: web}}}, to: {identity: {labels: {app: new}}}, ports: [{port: 1}, {protocol: UDP, port: 1}]}\n" +
		"- {name: b, expect: Deny, from: {identity: {labels: {app: x}}}, to: {identity: {labels: {app: new}}}, ports: [{port: 1}, {port: 2}]}\n"
	s := cluster()
	res := resolve(t, spec, nil)
	predict(s, res.Edges)
	got := Responders(res.Edges, s.Nodes)
	if len(got) != 1 {
		t.Fatalf("got %d responders, want one for both paths", len(got))
	}
	want := []flow.PortRange{{Protocol: flow.TCP, First: 1, Last: 1}, {Protocol: flow.UDP, First: 1, Last: 1}, {Protocol: flow.TCP, First: 2, Last: 2}}
	if diff := cmp.Diff(want, got[0].Ports); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
	if !slices.Contains([]string{"a", "b"}, got[0].Node) || got[0].Namespace != "ns" || got[0].Labels["app"] != "new" {
		t.Errorf("got %+v", got[0])
	}
	for _, e := range res.Edges {
		if e.Target.Node != got[0].Node {
			t.Errorf("an edge leads to node %q, the responder is on %s", e.Target.Node, got[0].Node)
		}
	}
}

func TestIdentityWithoutUsableNodeIsLeftToTheScheduler(t *testing.T) {
	res := resolve(t, "paths: [{name: p, expect: Deny, from: {identity: {labels: {app: x}}}, to: {address: {ips: [203.0.113.1]}}, ports: [{port: 1}]}]", nil)
	pods := Place(res.Edges, nil, 2)
	if len(pods) != 1 || pods[0].Node != "" || len(pods[0].Edges) != 1 {
		t.Errorf("got %+v", pods)
	}
}

func TestChunksHoldEveryEdgeOnce(t *testing.T) {
	src := &Source{Key: "s", Namespace: "ns", Nodes: []string{"a"}}
	var edges []*Edge
	for i := range 2*wire.MaxChecks + 1 {
		edges = append(edges, &Edge{Source: src, Target: Target{Key: fmt.Sprint(i)}, Transport: wire.TCP, Port: 1})
	}
	var sizes, parts []int
	for _, p := range Place(edges, []*corev1.Node{node("a")}, 1) {
		sizes, parts = append(sizes, len(p.Edges)), append(parts, p.Part)
	}
	if diff := cmp.Diff([][]int{{wire.MaxChecks, wire.MaxChecks, 1}, {0, 1, 2}}, [][]int{sizes, parts}); diff != "" {
		t.Errorf("sizes and parts (-want +got):\n%s", diff)
	}
}
