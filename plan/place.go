package plan

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// Pod is one probe pod: an identity on a node, and what it checks from there.
type Pod struct {
	Source *Source
	Node   string
	// Part numbers the pods of one identity on one node, when their checks do not
	// fit into one plan.
	Part  int
	Edges []*Edge
}

// Responder is a pod that listens for the edges to one identity.
type Responder struct {
	Key       string
	Namespace string
	Labels    map[string]string
	Name      string
	Node      string
	Ports     []flow.PortRange
	// StandsFor is the pod that it is a stand-in for; nil if it is for none.
	StandsFor *corev1.Pod
}

// Responders returns the responders that the edges need, each on a node, and sets
// the node in the edges.
func Responders(edges []*Edge, nodes []*corev1.Node) []Responder {
	usable := usableNodes(nodes)
	byKey := map[string]*Responder{}
	for _, e := range edges {
		if e.Target.Kind != TargetResponder {
			continue
		}
		r, ok := byKey[e.Target.Key]
		if !ok {
			r = &Responder{Key: e.Target.Key, Namespace: e.Source.Namespace, Labels: e.Target.Labels, Name: e.Target.Name, StandsFor: e.Target.StandsFor}
			if r.Node = e.Target.Node; r.StandsFor == nil {
				r.Node = responderNode(e, edges, usable)
			}
			byKey[e.Target.Key] = r
		}
		e.Target.Node = r.Node
		port := flow.PortRange{Protocol: e.Transport.Protocol(), First: e.Port, Last: e.Port}
		if !slices.Contains(r.Ports, port) {
			r.Ports = append(r.Ports, port)
		}
	}
	var out []Responder
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		out = append(out, *byKey[key])
	}
	return out
}

// responderNode prefers a node that an open edge leads to already: its answer is
// the evidence that the node pair carries traffic.
func responderNode(e *Edge, edges []*Edge, usable []string) string {
	for _, other := range edges {
		if other.Target.Kind == TargetPod && other.OnPodNetwork() && other.Target.Node != "" && other.Prediction.Verdict == evaluator.Allowed && slices.Contains(usable, other.Target.Node) {
			return other.Target.Node
		}
	}
	return pick(usable, e.Target.Key)
}

// placement says which edges are probed from which node by which source.
type placement struct {
	maxSources int
	usable     []string
	edges      []*Edge
	// open holds the edges that can be controls, by listener and by target node. A
	// plan at its limit has too many edges to compare each with each.
	open, openOn map[string][]*Edge
	// at holds, for each source and node, the edges that are probed from there.
	at map[string]map[string][]*Edge
}

// Place assigns edges to probe pods. Sources that exist are probed from the nodes
// they run on. Identities that need not exist go where the evidence for their
// edges is. Then every edge that policies do not allow gets a positive control
// beside it, where the edges of the expectation hold one.
func Place(edges []*Edge, nodes []*corev1.Node, maxSources int) []Pod {
	p := &placement{maxSources: max(1, maxSources), usable: usableNodes(nodes), edges: edges, at: map[string]map[string][]*Edge{}}
	p.indexControls()
	for _, e := range edges {
		if e.Control {
			// It goes beside the edges that it is evidence for, and nowhere else.
			continue
		}
		for _, node := range e.Source.Nodes {
			p.add(e, node)
		}
	}
	for _, e := range edges {
		if len(e.Source.Nodes) == 0 && !e.Control {
			for _, node := range p.nodesForIdentity(e) {
				p.add(e, node)
			}
		}
	}
	p.addControls()
	return p.pods()
}

func (p *placement) add(e *Edge, node string) {
	byNode := p.at[e.Source.Key]
	if byNode == nil {
		byNode = map[string][]*Edge{}
		p.at[e.Source.Key] = byNode
	}
	if !slices.Contains(byNode[node], e) {
		byNode[node] = append(byNode[node], e)
	}
}

// nodesForIdentity returns where to probe an identity from that has no pods: nodes
// that are to be kept, then nodes of its positive controls, then, of an edge that policies
// do not allow, those from which the canary is its witness, then others, up to maxSources. An identity
// keeps the nodes that earlier edges gave it, so that it needs few pods.
func (p *placement) nodesForIdentity(e *Edge) []string {
	var out []string
	take := func(nodes []string) {
		for _, n := range nodes {
			if len(out) < p.maxSources && !slices.Contains(out, n) && slices.Contains(p.usable, n) {
				out = append(out, n)
			}
		}
	}
	for _, n := range e.Source.kept {
		if slices.Contains(p.usable, n) {
			out = append(out, n)
		}
	}
	take(slices.Sorted(maps.Keys(p.at[e.Source.Key])))
	if len(out) < p.maxSources {
		for _, c := range p.controls(e) {
			take(slices.Sorted(maps.Keys(p.at[c.Source.Key])))
		}
		if e.Prediction.Verdict != evaluator.Allowed {
			take(e.Witnessed)
		}
		take(rotate(p.usable, e.Source.Key))
	}
	if len(out) == 0 {
		// No usable node is known: leave the choice to the scheduler.
		return []string{""}
	}
	return out
}

// controls returns the edges whose answer would be evidence for e: first those to
// the same listener, then (for responders, whose listener the kubelet vouches
// for) any edge to the same node.
func (p *placement) controls(e *Edge) []*Edge {
	same := p.open[e.Listener()]
	out := slices.DeleteFunc(slices.Clone(same), func(c *Edge) bool { return c == e })
	if e.Target.Kind != TargetResponder || e.Target.Node == "" {
		return out
	}
	for _, c := range p.openOn[e.Target.Node] {
		if c != e && sameFamily(c, e) && c.Transport.Protocol() == e.Transport.Protocol() && !slices.Contains(same, c) {
			out = append(out, c)
		}
	}
	return out
}

func (p *placement) indexControls() {
	p.open, p.openOn = map[string][]*Edge{}, map[string][]*Edge{}
	for _, e := range p.edges {
		if !e.isOpen() {
			continue
		}
		p.open[e.Listener()] = append(p.open[e.Listener()], e)
		if e.OnPodNetwork() {
			p.openOn[e.Target.Node] = append(p.openOn[e.Target.Node], e)
		}
	}
}

// sameFamily tells whether two edges use the same kind of address, or may. Nodes
// that carry one kind need not carry the other.
func sameFamily(a, b *Edge) bool {
	return !a.Target.Addr.IsValid() || !b.Target.Addr.IsValid() || a.Target.Addr.Is4() == b.Target.Addr.Is4()
}

// addControls probes positive controls from every node from which an edge is
// probed that policies do not allow: an edge of the expectation, from one more node, or
// one that was made for it.
func (p *placement) addControls() {
	for _, e := range p.edges {
		if e.Prediction.Verdict == evaluator.Allowed {
			continue
		}
		for _, node := range slices.Sorted(maps.Keys(p.at[e.Source.Key])) {
			if !slices.Contains(p.at[e.Source.Key][node], e) {
				continue
			}
			controls := p.controls(e)
			covered := slices.ContainsFunc(controls, func(c *Edge) bool { return slices.Contains(p.at[c.Source.Key][node], c) })
			if !covered && len(controls) > 0 && (node == "" || slices.Contains(p.usable, node)) {
				p.add(controls[0], node)
			}
		}
	}
}

func (p *placement) pods() []Pod {
	sources := map[string]*Source{}
	for _, e := range p.edges {
		sources[e.Source.Key] = e.Source
	}
	var out []Pod
	for _, key := range slices.Sorted(maps.Keys(p.at)) {
		for _, node := range slices.Sorted(maps.Keys(p.at[key])) {
			part := 0
			for chunk := range slices.Chunk(p.at[key][node], wire.MaxChecks) {
				out = append(out, Pod{Source: sources[key], Node: node, Part: part, Edges: chunk})
				part++
			}
		}
	}
	return out
}

// usableNodes returns the names of nodes that a probe pod can be put on, sorted.
func usableNodes(nodes []*corev1.Node) []string {
	var out []string
	for _, n := range nodes {
		if n.Spec.Unschedulable || !nodeReady(n) || slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool {
			return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
		}) {
			continue
		}
		out = append(out, n.Name)
	}
	slices.Sort(out)
	return out
}

func nodeReady(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// rotate orders nodes by a hash with the key, so that different identities do not
// all start at the same node.
func rotate(nodes []string, key string) []string {
	out := slices.Clone(nodes)
	slices.SortFunc(out, func(a, b string) int { return cmp.Compare(flow.ID(a, key), flow.ID(b, key)) })
	return out
}

func pick(nodes []string, key string) string {
	if len(nodes) == 0 {
		return ""
	}
	return rotate(nodes, key)[0]
}
