package plan

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

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
			at := place{e.Listener(), p.Node}
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

func TestControlsOfTargetsThatNoPathMayReach(t *testing.T) {
	const deny = "paths:\n- {name: p, expect: Deny, from: {identity: {labels: {app: stranger}}}, "
	toDB := "to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 5432}]}\n"
	const toNew, toDBAllowed = "to: {identity: {labels: {app: new}}}, ports: [{port: 1}]}\n",
		"- {name: q, expect: Allow, from: {podSelector: {matchLabels: {app: web}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 5432}]}\n"
	sealed := func(s *Snapshot) { s.NetworkPolicies = append(s.NetworkPolicies, ingressFrom("db", "db", "nobody")) }
	noEgress := func(s *Snapshot) {
		p := ingressFrom("egress", "stranger", "x")
		p.Spec.PolicyTypes, p.Spec.Ingress = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}, nil
		s.NetworkPolicies = []*networkingv1.NetworkPolicy{p}
	}
	cases := map[string]struct {
		spec   string
		change func(*Snapshot)
		want   []string
	}{
		"an identity that policies let through": {spec: deny + toDB, want: []string{"ns/{app=web} to ns/db-1"}},
		"the one without labels comes first":    {spec: deny + toDB, change: noEgress, want: []string{"ns/{} to ns/db-1"}},
		"nobody may reach the target":           {spec: deny + toDB, change: func(s *Snapshot) { s.NetworkPolicies = nil; sealed(s) }},
		"a path of the expectation is one":      {spec: deny + toDB + "- {name: q, expect: Allow, from: {podSelector: {matchLabels: {app: web}}}, " + toDB},
		"a path to another port is none":        {spec: deny + toDB + "- {name: q, expect: Allow, from: {podSelector: {matchLabels: {app: web}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 1}]}\n", want: []string{"ns/{app=web} to ns/db-1"}},
		"two closed paths share one":            {spec: deny + toDB + "- {name: q, expect: Deny, from: {identity: {labels: {app: x}}}, " + toDB, want: []string{"ns/{app=web} to ns/db-1"}},
		"a responder, beside a path to a pod": {spec: deny + toNew + toDBAllowed, change: func(s *Snapshot) {
			s.NetworkPolicies = []*networkingv1.NetworkPolicy{ingressFrom("new", "new", "friend")}
			s.Pods = append(s.Pods, pod("ns", "friend", "a", "10.0.3.1", "app=friend"))
		}},
		"a responder, beside a path to a pod at the address of its node": {spec: deny + toNew + toDBAllowed, change: func(s *Snapshot) {
			s.NetworkPolicies = []*networkingv1.NetworkPolicy{ingressFrom("new", "new", "friend")}
			for _, p := range s.Pods {
				p.Spec.HostNetwork = p.Name == "db-1"
			}
			s.Pods = append(s.Pods, pod("ns", "friend", "a", "10.0.3.1", "app=friend"))
		}, want: []string{"ns/{app=friend} to ns/{app=new}"}},
		"an open path needs none": {spec: deny + "to: {podSelector: {matchLabels: {app: web}}}, ports: [{port: 80}]}"},
		"silence of several endpoints is nothing": {spec: deny + "to: {service: {name: web}}, ports: [{port: 80}]}", change: func(s *Snapshot) {
			s.NetworkPolicies = []*networkingv1.NetworkPolicy{ingressFrom("web", "web", "x")}
		}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := cluster()
			if tc.change != nil {
				tc.change(&s)
			}
			res := resolve(t, tc.spec, tc.change)
			engine, _ := evaluator.Compile(s.Snapshot)
			p := NewPredictor(engine, s)
			p.Predict(res.Edges)
			controls := p.Controls("ns", res.Edges)
			var got []string
			for _, c := range controls {
				got = append(got, c.Source.Name+" to "+c.Target.Name)
				if !c.Control || c.Path != "" || c.Prediction.Verdict != evaluator.Allowed {
					t.Errorf("got %+v", c)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Fatalf("controls (-want +got):\n%s", diff)
			}
			checkBeside(t, append(res.Edges, controls...), s.Nodes)
		})
	}
}

// checkBeside asserts that controls are probed from where a closed edge to the same
// listener is, and from nowhere else.
func checkBeside(t *testing.T, edges []*Edge, nodes []*corev1.Node) {
	t.Helper()
	type place struct{ listener, node string }
	closed, controls := map[place]bool{}, map[place]bool{}
	made := map[string]bool{}
	for _, p := range Place(edges, nodes, 2) {
		for _, e := range p.Edges {
			at := place{e.Listener(), p.Node}
			switch {
			case e.Control:
				controls[at], made[e.Listener()] = true, true
			case e.Prediction.Verdict != evaluator.Allowed:
				closed[at] = true
			}
		}
	}
	for at := range controls {
		if !closed[at] {
			t.Errorf("a control is probed from %s for nothing", at.node)
		}
	}
	for at := range closed {
		if made[at.listener] && !controls[at] {
			t.Errorf("a closed edge is probed from %s without its control", at.node)
		}
	}
}
