package plan

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// edge is an edge to a pod that is made by hand.
func edge(source, target string, v evaluator.Verdict, nodes ...string) *Edge {
	d := evaluator.Decision{Verdict: v}
	return &Edge{
		Path: "p", Declared: v1alpha1.ExpectDeny, Source: &Source{Key: source, Namespace: "ns", Name: source, Nodes: nodes},
		Target: Target{Kind: TargetPod, Key: target, Name: target, Addr: netip.MustParseAddr("10.0.0.1"), Node: "t"}, Transport: wire.TCP, Port: 1,
		Prediction: d, Workload: d,
	}
}

func witnessed(e *Edge, from ...string) *Edge {
	e.Witnessed = from
	return e
}

func nodeList(names ...string) []*corev1.Node {
	var out []*corev1.Node
	for _, n := range names {
		out = append(out, node(n))
	}
	return out
}

// placed renders "source on node: targets" for every probe pod.
func placed(pods []Pod) []string {
	var out []string
	for _, p := range pods {
		var to []string
		for _, e := range p.Edges {
			to = append(to, e.Target.Key)
		}
		out = append(out, fmt.Sprintf("%s on %s: %s", p.Source.Key, p.Node, strings.Join(to, " ")))
	}
	return out
}

func TestPlace(t *testing.T) {
	const allowed, denied, undefined = evaluator.Allowed, evaluator.Denied, evaluator.Undefined
	cases := map[string]struct {
		edges      []*Edge
		nodes      []*corev1.Node
		maxSources int
		want       []string
	}{
		"a workload is probed from where it runs": {
			[]*Edge{edge("web", "db", allowed, "b", "c")}, nodeList("a", "b", "c"), 2, []string{"web on b: db", "web on c: db"},
		},
		"an identity is put beside its control": {
			[]*Edge{edge("stranger", "db", denied), edge("web", "db", allowed, "c")}, nodeList("a", "b", "c"), 1, []string{"stranger on c: db", "web on c: db"},
		},
		"an identity keeps the nodes that it has": {
			[]*Edge{edge("stranger", "db", denied), edge("stranger", "cache", denied), edge("web", "db", allowed, "c")}, nodeList("a", "b", "c"), 1,
			[]string{"stranger on c: db cache", "web on c: db"},
		},
		"a denied workload gets a control on its node": {
			[]*Edge{edge("batch", "db", denied, "a"), edge("web", "db", allowed, "c")}, nodeList("a", "b", "c"), 1,
			[]string{"batch on a: db", "web on a: db", "web on c: db"},
		},
		"so does one whose prediction is undefined": {
			[]*Edge{edge("batch", "db", undefined, "a"), edge("web", "db", allowed, "c")}, nodeList("a", "c"), 1,
			[]string{"batch on a: db", "web on a: db", "web on c: db"},
		},
		"one control on a node is enough for all": {
			[]*Edge{edge("one", "db", denied, "a"), edge("two", "db", denied, "a"), edge("web", "db", allowed, "c")}, nodeList("a", "c"), 1,
			[]string{"one on a: db", "two on a: db", "web on a: db", "web on c: db"},
		},
		"an open edge needs none": {
			[]*Edge{edge("batch", "db", allowed, "a"), edge("web", "db", allowed, "c")}, nodeList("a", "c"), 1, []string{"batch on a: db", "web on c: db"},
		},
		"what reaches another port is no control": {
			[]*Edge{edge("batch", "db", denied, "a"), func() *Edge { e := edge("web", "db", allowed, "c"); e.Port = 2; return e }()}, nodeList("a", "c"), 1,
			[]string{"batch on a: db", "web on c: db"},
		},
		"what uses another protocol is no control": {
			[]*Edge{edge("batch", "db", denied, "a"), func() *Edge { e := edge("web", "db", allowed, "c"); e.Transport = wire.UDP; return e }()}, nodeList("a", "c"), 1,
			[]string{"batch on a: db", "web on c: db"},
		},
		"what diverges is no control": {
			[]*Edge{edge("batch", "db", denied, "a"), func() *Edge {
				e := edge("web", "db", allowed, "c")
				e.Workload.Verdict = denied
				return e
			}()}, nodeList("a", "c"), 1, []string{"batch on a: db", "web on c: db"},
		},
		"no control is put on a node that cannot take it": {
			[]*Edge{edge("batch", "db", denied, "gone"), edge("web", "db", allowed, "c")}, nodeList("a", "c"), 1, []string{"batch on gone: db", "web on c: db"},
		},
		"an identity without a control goes where there is a witness, if that can take it": {
			[]*Edge{witnessed(edge("stranger", "db", denied), "gone", "e", "b")}, nodeList("a", "b", "c", "d", "e"), 2, []string{"stranger on b: db", "stranger on e: db"},
		},
		"a control comes before a witness": {
			[]*Edge{edge("web", "db", allowed, "c"), witnessed(edge("stranger", "db", denied), "e", "b")}, nodeList("a", "b", "c", "d", "e"), 1, []string{"stranger on c: db", "web on c: db"},
		},
		"what policies allow needs no witness": {
			[]*Edge{witnessed(edge("web", "db", allowed), rotate([]string{"a", "b", "c", "d", "e"}, "web")[4])}, nodeList("a", "b", "c", "d", "e"), 1,
			[]string{"web on " + rotate([]string{"a", "b", "c", "d", "e"}, "web")[0] + ": db"},
		},
		"without a usable node, the scheduler chooses for identity and control": {
			[]*Edge{edge("stranger", "db", denied), edge("other", "db", allowed)}, nil, 1, []string{"other on : db", "stranger on : db"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			for range 3 {
				if diff := cmp.Diff(tc.want, placed(Place(tc.edges, tc.nodes, tc.maxSources))); diff != "" {
					t.Fatalf("placement (-want +got):\n%s", diff)
				}
			}
		})
	}
	t.Run("at least one node is used whatever is asked for", func(t *testing.T) {
		if got := Place([]*Edge{edge("x", "db", denied)}, nodeList("a", "b"), 0); len(got) != 1 {
			t.Errorf("got %v", placed(got))
		}
	})
	t.Run("different identities do not all start at the same node", func(t *testing.T) {
		var edges []*Edge
		for i := range 20 {
			edges = append(edges, edge(fmt.Sprint(i), fmt.Sprint(i), denied))
		}
		used := map[string]bool{}
		for _, p := range Place(edges, nodeList("a", "b", "c"), 1) {
			used[p.Node] = true
		}
		if len(used) != 3 {
			t.Errorf("20 identities are on the nodes %v", used)
		}
	})
}

// The kubelet vouches for a responder, so that any traffic between the same nodes
// is evidence, if it is of the same address family.
func TestControlsOfResponders(t *testing.T) {
	to := func(e *Edge, addr string) *Edge {
		e.Target.Kind, e.Target.Addr, e.Target.Labels = TargetResponder, netip.MustParseAddr(addr), map[string]string{"a": "b"}
		return e
	}
	four, six := edge("web", "db", evaluator.Allowed, "c"), edge("web", "db6", evaluator.Allowed, "c")
	six.Target.Addr = netip.MustParseAddr("fd00::1")
	host, service := edge("web", "agent", evaluator.Allowed, "c"), edge("web", "service", evaluator.Allowed, "c")
	host.Target.HostNetwork, service.Target.Kind = true, TargetService
	cases := map[string]struct {
		edges []*Edge
		want  []string
	}{
		"what reaches the node, or goes by way of a proxy, is none": {
			[]*Edge{to(edge("batch", "new", evaluator.Denied, "a"), "10.0.0.9"), host, service},
			[]string{"batch on a: new", "web on c: agent service"},
		},
		"IPv4": {[]*Edge{to(edge("batch", "new", evaluator.Denied, "a"), "10.0.0.9"), four, six}, []string{"batch on a: new", "web on a: db", "web on c: db db6"}},
		"IPv6": {[]*Edge{to(edge("batch", "new", evaluator.Denied, "a"), "fd00::9"), four, six}, []string{"batch on a: new", "web on a: db6", "web on c: db db6"}},
		"the same listener comes first": {
			[]*Edge{to(edge("batch", "new", evaluator.Denied, "a"), "10.0.0.9"), four, to(edge("friend", "new", evaluator.Allowed, "c"), "10.0.0.9")},
			[]string{"batch on a: new", "friend on a: new", "friend on c: new", "web on c: db"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, placed(Place(tc.edges, nodeList("a", "c"), 1))); diff != "" {
				t.Errorf("placement (-want +got):\n%s", diff)
			}
		})
	}
}

func TestResponders(t *testing.T) {
	const spec = "paths:\n" +
		"- {name: new, expect: Deny, from: {podSelector: {matchLabels: {app: web}}}, to: {identity: {labels: {app: new}}}, ports: [{port: 1, endPort: 3}, {port: 1}, {port: 9, protocol: UDP}]}\n" +
		"- {name: same, expect: Deny, from: {identity: {labels: {app: x}}}, to: {identity: {labels: {app: new}}}, ports: [{port: 4}]}\n" +
		"- {name: open, expect: Allow, from: {podSelector: {matchLabels: {app: web}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 1}]}\n"
	s := cluster()
	res := resolveInput(Input{Expectation: expectation(t, spec), Snapshot: s, ClusterDNS: dns})
	predict(s, res.Edges)
	got := Responders(res.Edges, s.Nodes)
	if len(got) != 1 {
		t.Fatalf("got %d responders for one identity: %+v", len(got), got)
	}
	r := got[0]
	wantPorts := []flow.PortRange{{Protocol: flow.TCP, First: 1, Last: 1}, {Protocol: flow.TCP, First: 3, Last: 3}, {Protocol: flow.UDP, First: 9, Last: 9}, {Protocol: flow.TCP, First: 4, Last: 4}}
	if diff := cmp.Diff(wantPorts, r.Ports); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
	// The database is on b, and is open to web: traffic to b is evidence.
	if r.Namespace != "ns" || r.Labels["app"] != "new" || r.Node != "b" {
		t.Errorf("got %+v", r)
	}
	for _, e := range res.Edges {
		if e.Target.Kind == TargetResponder && e.Target.Node != "b" {
			t.Errorf("the edge to %s does not know its node", e.Target.Name)
		}
	}
	t.Run("an open edge to a node is none to its pods", func(t *testing.T) {
		s := cluster()
		s.Nodes[1].Name, s.Nodes[0].Name = "d", "c" // no pod of the cluster is on either
		for _, p := range s.Pods {
			p.Spec.HostNetwork = p.Name == "db-1"
			if p.Name == "db-1" {
				p.Spec.NodeName = "c"
			}
		}
		res := resolveInput(Input{Expectation: expectation(t, spec), Snapshot: s, ClusterDNS: dns})
		predict(s, res.Edges)
		want := pick([]string{"c", "d"}, flow.ID("responder", "ns", "app=new"))
		if got := Responders(res.Edges, s.Nodes); got[0].Node != want {
			t.Errorf("got node %q, want %q, as without the edge", got[0].Node, want)
		}
	})
	t.Run("without an open edge, any usable node will do", func(t *testing.T) {
		s := cluster()
		s.Nodes[1].Spec.Unschedulable = true
		res := resolveInput(Input{Expectation: expectation(t, spec), Snapshot: s, ClusterDNS: dns})
		predict(s, res.Edges)
		if got := Responders(res.Edges, s.Nodes); got[0].Node != "a" {
			t.Errorf("got node %q", got[0].Node)
		}
		if got := Responders(res.Edges, nil); got[0].Node != "" {
			t.Errorf("without nodes: got node %q", got[0].Node)
		}
	})
}

func TestUsableNodes(t *testing.T) {
	cases := map[string]struct {
		change func(*corev1.Node)
		want   bool
	}{
		"ready":                          {func(*corev1.Node) {}, true},
		"cordoned":                       {func(n *corev1.Node) { n.Spec.Unschedulable = true }, false},
		"not ready":                      {func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }, false},
		"without a condition":            {func(n *corev1.Node) { n.Status.Conditions = nil }, false},
		"tainted against scheduling":     {func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Effect: corev1.TaintEffectNoSchedule}} }, false},
		"tainted against execution":      {func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Effect: corev1.TaintEffectNoExecute}} }, false},
		"tainted with a mere preference": {func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Effect: corev1.TaintEffectPreferNoSchedule}} }, true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			n := node("a")
			tc.change(n)
			if got := len(usableNodes([]*corev1.Node{n})) == 1; got != tc.want {
				t.Errorf("usable: %v, want %v", got, tc.want)
			}
		})
	}
}

// A plan at its limit has to be placed within a reconcile.
func TestChunksHoldWhatOneProbeTakes(t *testing.T) {
	var edges []*Edge
	for i := range 2*wire.MaxChecks + 1 {
		e := edge("web", fmt.Sprint(i), evaluator.Denied, "a")
		e.Source = &Source{Key: "web", Nodes: []string{"a"}}
		edges = append(edges, e)
	}
	pods := Place(edges, nodeList("a"), 1)
	var sizes, parts []int
	seen := map[*Edge]bool{}
	for _, p := range pods {
		sizes, parts = append(sizes, len(p.Edges)), append(parts, p.Part)
		for _, e := range p.Edges {
			seen[e] = true
		}
	}
	if diff := cmp.Diff([][]int{{wire.MaxChecks, wire.MaxChecks, 1}, {0, 1, 2}}, [][]int{sizes, parts}); diff != "" {
		t.Errorf("sizes and parts (-want +got):\n%s", diff)
	}
	if len(seen) != len(edges) {
		t.Errorf("%d of %d edges are placed", len(seen), len(edges))
	}
}

// aWorld draws a cluster and an expectation in which everything may or may not
// reach everything.
func aWorld(t *rapid.T) (Snapshot, string) {
	nodes := []string{"a", "b", "c", "d"}
	apps := []string{"web", "db", "api", "job"}
	s := Snapshot{Snapshot: evaluator.Snapshot{Namespaces: []*corev1.Namespace{namespace("ns"), namespace("kube-system")}}}
	for _, n := range nodes {
		o := node(n)
		o.Spec.Unschedulable = rapid.IntRange(0, 5).Draw(t, "cordoned") == 0
		s.Nodes = append(s.Nodes, o)
	}
	for i := range rapid.IntRange(1, 8).Draw(t, "pods") {
		app := rapid.SampledFrom(apps).Draw(t, "app")
		p := pod("ns", fmt.Sprintf("p-%d", i), rapid.SampledFrom(nodes).Draw(t, "node"), fmt.Sprintf("10.0.0.%d", i+1), "app="+app, fmt.Sprintf("pod-template-hash=%d", i%2))
		s.Pods = append(s.Pods, p)
	}
	for i := range rapid.IntRange(0, 4).Draw(t, "policies") {
		p := ingressFrom(fmt.Sprintf("n-%d", i), rapid.SampledFrom(apps).Draw(t, "selected"), rapid.SampledFrom(apps).Draw(t, "admitted"))
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0:
			p.Spec.Ingress[0].From[0].PodSelector.MatchLabels = map[string]string{"pod-template-hash": "1"}
		case 1:
			p.Spec.Ingress[0].From[0] = networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/30"}}
		}
		s.NetworkPolicies = append(s.NetworkPolicies, p)
	}
	var b strings.Builder
	b.WriteString("paths:\n")
	for i := range rapid.IntRange(1, 4).Draw(t, "paths") {
		from := rapid.SampledFrom([]string{"podSelector: {matchLabels: {app: %s}}", "identity: {labels: {app: %s}}"}).Draw(t, "from")
		to := rapid.SampledFrom([]string{"podSelector: {matchLabels: {app: %s}}", "identity: {labels: {app: %s}}"}).Draw(t, "to")
		fmt.Fprintf(&b, "- {name: p%d, expect: %s, from: {%s}, to: {%s}, ports: [{port: %d}]}\n", i, rapid.SampledFrom([]string{"Allow", "Deny"}).Draw(t, "expect"),
			fmt.Sprintf(from, rapid.SampledFrom(apps).Draw(t, "source")), fmt.Sprintf(to, rapid.SampledFrom(apps).Draw(t, "target")), rapid.IntRange(1, 2).Draw(t, "port"))
	}
	return s, b.String()
}

// Silence proves nothing without a neighbour that is answered. So every edge that
// policies do not open has one on its node, where the expectation holds one at
// all and the node takes pods.
func TestPlacementInvariants(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, spec := aWorld(rt)
		res := resolveInput(Input{Expectation: expectation(t, spec), Snapshot: s, ClusterDNS: dns})
		predict(s, res.Edges)
		Responders(res.Edges, s.Nodes)
		predict(s, res.Edges)
		usable := usableNodes(s.Nodes)
		open := func(e *Edge) bool { return e.Prediction.Verdict == evaluator.Allowed && !e.Diverges() }
		sameListener := func(a, b *Edge) bool {
			return a.Target.Key == b.Target.Key && a.Port == b.Port && a.Transport.Protocol() == b.Transport.Protocol()
		}
		pods := Place(res.Edges, s.Nodes, 2)
		count := map[*Edge]int{}
		for _, p := range pods {
			for _, e := range p.Edges {
				count[e]++
				if e.Source.Key != p.Source.Key {
					rt.Errorf("%s is probed by %s", e.Path, p.Source.Name)
				}
				if !slices.Contains(p.Source.Nodes, p.Node) && p.Node != "" && !slices.Contains(usable, p.Node) {
					rt.Errorf("%s is put on %s, which takes no pods", p.Source.Name, p.Node)
				}
				control := func(c *Edge) bool { return open(c) && c != e && sameListener(c, e) }
				if e.Prediction.Verdict == evaluator.Allowed || !slices.ContainsFunc(res.Edges, control) || (p.Node != "" && !slices.Contains(usable, p.Node)) {
					continue
				}
				if !slices.ContainsFunc(pods, func(q Pod) bool { return q.Node == p.Node && slices.ContainsFunc(q.Edges, control) }) &&
					e.Target.Kind != TargetResponder {
					rt.Errorf("%s to %s is %v from node %q, and nothing on that node is let through", e.Source.Name, e.Target.Name, e.Prediction.Verdict, p.Node)
				}
			}
		}
		for _, e := range res.Edges {
			if count[e] == 0 {
				rt.Errorf("the edge %s to %s of path %s is not placed", e.Source.Name, e.Target.Name, e.Path)
			}
			if len(e.Source.Nodes) == 0 && !open(e) && count[e] > 2 {
				rt.Errorf("an identity that is no control is probed from %d nodes", count[e])
			}
		}
	})
}

// The same cluster in another order gives the same plan, to the letter.
func TestPlansDoNotDependOnOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, spec := aWorld(rt)
		want := renderWithPredictions(t, spec, s)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		shuffle(rng, s.Pods)
		shuffle(rng, s.Namespaces)
		shuffle(rng, s.Nodes)
		shuffle(rng, s.NetworkPolicies)
		if diff := cmp.Diff(want, renderWithPredictions(t, spec, s)); diff != "" {
			rt.Errorf("plans (-one order +another):\n%s", diff)
		}
	})
}

func renderWithPredictions(t *testing.T, spec string, s Snapshot) string {
	t.Helper()
	res := resolveInput(Input{Expectation: expectation(t, spec), Snapshot: s, ClusterDNS: dns})
	p := predict(s, res.Edges)
	responders := Responders(res.Edges, s.Nodes)
	p.Predict(res.Edges)
	var b strings.Builder
	b.WriteString(res.Provenance + "\n")
	for _, e := range res.Edges {
		fmt.Fprintf(&b, "%s %s: %v %v %s %s\n", e.ID(), describe(e), e.Prediction.Verdict, e.Workload.Verdict, e.Goal(), e.Prediction.Reason)
	}
	for _, o := range res.Obstacles {
		fmt.Fprintf(&b, "%+v\n", o)
	}
	for _, r := range responders {
		fmt.Fprintf(&b, "%+v\n", r)
	}
	for _, pod := range Place(res.Edges, s.Nodes, 2) {
		fmt.Fprintf(&b, "%s %s %d:", pod.Source.Name, pod.Node, pod.Part)
		for _, e := range pod.Edges {
			b.WriteString(" " + e.ID())
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestProvenanceInDetail(t *testing.T) {
	type change = func(*Snapshot)
	api := path("to: {namespace: other, podSelector: {matchLabels: {app: api}}}, ports: [{port: main}]")
	svc := path("to: {service: {name: web}}, ports: [{port: 80}]")
	resolver := path("dns: {names: [a.b]}")
	deny := func(ns string, directions ...networkingv1.PolicyType) change {
		return func(s *Snapshot) {
			s.NetworkPolicies = append(s.NetworkPolicies, &networkingv1.NetworkPolicy{
				ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "deny"}, Spec: networkingv1.NetworkPolicySpec{PolicyTypes: directions},
			})
		}
	}
	cases := map[string]struct {
		spec        string
		change      change
		wantChanged bool
	}{
		"ingress to the target":                   {api, deny("other"), true},
		"egress of the target":                    {api, deny("other", networkingv1.PolicyTypeEgress), false},
		"egress of the source":                    {api, deny("ns", networkingv1.PolicyTypeEgress), true},
		"ingress to the source":                   {api, deny("ns"), false},
		"a policy in a third namespace":           {api, deny("kube-system"), false},
		"a policy at the cluster DNS":             {resolver, deny("kube-system"), true},
		"a label of the target's namespace":       {api, func(s *Snapshot) { s.Namespaces[1].Labels["team"] = "y" }, true},
		"the target's namespace is being deleted": {api, func(s *Snapshot) { s.Namespaces[1].Status.Phase = corev1.NamespaceTerminating }, true},
		"a label of a third namespace":            {api, func(s *Snapshot) { s.Namespaces[2].Labels["team"] = "y" }, false},
		"a label of a policy":                     {api, func(s *Snapshot) { s.NetworkPolicies[0].Labels = map[string]string{"a": "b"} }, false},
		"the resource version of a policy":        {api, func(s *Snapshot) { s.NetworkPolicies[0].ResourceVersion = "7" }, false},
		"the number behind a named port":          {api, func(s *Snapshot) { s.Pods[3].Spec.Containers[0].Ports[0].ContainerPort = 8081 }, true},
		"another port of the target": {api, func(s *Snapshot) {
			s.Pods[3].Spec.Containers[0].Ports = append(s.Pods[3].Spec.Containers[0].Ports, corev1.ContainerPort{Name: "x", ContainerPort: 1})
		}, true},
		"the target joins the host network": {api, func(s *Snapshot) { s.Pods[3].Spec.HostNetwork = true }, true},
		"the target's node":                 {api, func(s *Snapshot) { s.Pods[3].Spec.NodeName = "b" }, true},
		"a second address of the target": {api, func(s *Snapshot) {
			s.Pods[3].Status.PodIPs = append(s.Pods[3].Status.PodIPs, corev1.PodIP{IP: "fd00::3"})
		}, true},
		"one more target": {api, func(s *Snapshot) { s.Pods = append(s.Pods, pod("other", "api-2", "b", "10.0.2.9", "app=api")) }, true},
		"an unrelated pod of the target's namespace":         {api, func(s *Snapshot) { s.Pods = append(s.Pods, pod("other", "x", "b", "10.0.2.9", "app=x")) }, false},
		"an unrelated pod of the source's namespace":         {api, func(s *Snapshot) { s.Pods[2].Labels["v"] = "2" }, false},
		"an unrelated Service":                               {api, func(s *Snapshot) { s.Services = nil }, false},
		"a taint of a node":                                  {api, func(s *Snapshot) { s.Nodes[0].Spec.Unschedulable = true }, false},
		"a rollout of the source on the same nodes":          {api, func(s *Snapshot) { s.Pods[0].Name, s.Pods[0].Labels["pod-template-hash"] = "web-9", "9" }, false},
		"a source is not ready":                              {api, func(s *Snapshot) { s.Pods[0].Status.Conditions[0].Status = corev1.ConditionFalse }, false},
		"the other source is not ready":                      {api, func(s *Snapshot) { s.Pods[1].Status.Conditions[0].Status = corev1.ConditionFalse }, false},
		"the source is gone":                                 {api, func(s *Snapshot) { s.Pods = s.Pods[2:] }, true},
		"an endpoint is no longer ready":                     {svc, func(s *Snapshot) { f := false; s.EndpointSlices[2].Endpoints[0].Conditions.Ready = &f }, true},
		"the port behind the Service":                        {svc, func(s *Snapshot) { *s.EndpointSlices[2].Ports[0].Port = 9090 }, true},
		"the cluster address":                                {svc, func(s *Snapshot) { s.Services[1].Spec.ClusterIPs[0] = "10.96.0.21" }, true},
		"an annotation of the Service":                       {svc, func(s *Snapshot) { s.Services[1].Annotations = map[string]string{"a": "b"} }, false},
		"a label of a pod behind the Service":                {svc, func(s *Snapshot) { s.Pods[1].Labels["v"] = "2" }, true},
		"the hints and the zone of an endpoint":              {svc, func(s *Snapshot) { z := "z"; s.EndpointSlices[2].Endpoints[0].Zone = &z }, false},
		"the order of the endpoints":                         {svc, func(s *Snapshot) { slices.Reverse(s.EndpointSlices[2].Endpoints) }, false},
		"the Service is gone, so that an obstacle is left":   {svc, func(s *Snapshot) { s.Services = s.Services[:1] }, true},
		"an endpoint of another Service than the one probed": {svc, func(s *Snapshot) { s.EndpointSlices[3].Endpoints = nil }, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			before := resolve(t, tc.spec, nil).Provenance
			if again := resolve(t, tc.spec, nil).Provenance; again != before {
				t.Fatal("the same cluster has two provenances")
			}
			if got := resolve(t, tc.spec, tc.change).Provenance != before; got != tc.wantChanged {
				t.Errorf("provenance changed: %v, want %v", got, tc.wantChanged)
			}
		})
	}
}

// Pods of a Deployment come back under another name. As long as they are where
// they were, nothing has changed for a policy or for a probe.
func TestProvenanceOutlivesRestartsOfTheSource(t *testing.T) {
	want := resolve(t, path(toDB), nil).Provenance
	for i := range 20 {
		got := resolve(t, path(toDB), func(s *Snapshot) {
			old := s.Pods[i%2]
			s.Pods[i%2] = pod("ns", fmt.Sprintf("web-%d", 10+i), old.Spec.NodeName, fmt.Sprintf("10.0.9.%d", i), "app=web", "pod-template-hash=3")
		}).Provenance
		if got != want {
			t.Errorf("restart %d changed the provenance", i)
		}
	}
}

func TestProvenanceTellsObstaclesApart(t *testing.T) {
	gone := resolve(t, path(toDB), func(s *Snapshot) { s.Pods[2].Status.Phase = corev1.PodFailed }).Provenance
	pending := resolve(t, path(toDB), func(s *Snapshot) { s.Pods[2].Status = corev1.PodStatus{} }).Provenance
	if gone == pending {
		t.Error("a target that is gone and one that is pending have the same provenance")
	}
}

// Pods of the canary go from pod to pod, as controls of responders have to. What goes to a
// Service or to a node goes elsewhere.
func TestEdgesOnThePodNetwork(t *testing.T) {
	const node, agent = "192.0.2.1", "10.0.9.1"
	for name, tc := range map[string]struct {
		to   string
		want bool
	}{
		"a pod":                          {"to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 1}]", true},
		"a responder":                    {"to: {identity: {labels: {app: new}}}, ports: [{port: 1}]", true},
		"a host-network pod":             {"to: {podSelector: {matchLabels: {app: agent}}}, ports: [{port: 1}]", false},
		"a Service":                      {"to: {service: {name: web}}, ports: [{port: 80}]", false},
		"pods of a headless Service":     {"to: {service: {name: headless}}, ports: [{port: 80}]", true},
		"host-network pods of another":   {"to: {service: {name: agents}}, ports: [{port: 80}]", false},
		"nodes that are endpoints":       {"to: {service: {name: nodes}}, ports: [{port: 80}]", false},
		"what is elsewhere, and no node": {"to: {service: {name: outside}}, ports: [{port: 80}]", true},
		"an address":                     {"to: {address: {ips: ['10.0.2.2']}}, ports: [{port: 1}]", false},
		"a host":                         {"to: {host: example.org}, ports: [{port: 1}]", false},
	} {
		res := resolve(t, path(tc.to), func(s *Snapshot) {
			s.Nodes[0].Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "a"}, {Type: corev1.NodeInternalIP, Address: node}}
			p := pod("ns", "agent", "a", agent, "app=agent")
			p.Spec.HostNetwork = true
			s.Pods = append(s.Pods, p)
			for name, endpoint := range map[string]string{"agents": "agent/a/" + agent, "nodes": "/a/" + node, "outside": "/a/203.0.113.1"} {
				s.Services = append(s.Services, service("ns", name, []string{"None"}, corev1.ServicePort{Name: "http", Port: 80}))
				s.EndpointSlices = append(s.EndpointSlices, slice("ns", name, "http", corev1.ProtocolTCP, 8080, endpoint))
			}
		})
		if len(res.Edges) == 0 {
			t.Errorf("%s: no edges: %+v", name, res.Obstacles)
		}
		for _, e := range res.Edges {
			if got := e.OnPodNetwork(); got != tc.want {
				t.Errorf("%s: got %v, want %v", name, got, tc.want)
			}
		}
	}
}
