package plan

import (
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// Placed is an edge, the node that it is probed from, and the responder that it ends at;
// nil if that is something else.
type Placed struct {
	Edge      *Edge
	Node      string
	Responder *Responder
}

// Suspect is a check on which the network does not do what the policies say: it is
// denied and open, or allowed and closed; or one that is allowed and whose target answers
// nobody.
type Suspect struct {
	// Placed is the check as the expectation resolves to it: the edge to a responder has
	// no address yet. One to a host is to the address that was probed.
	Placed
	// Addr is the address that was probed.
	Addr netip.Addr
	// Decision is the prediction that the network contradicts.
	Decision evaluator.Decision
	// Answered are checks that the target answered. They show that it listens.
	Answered []Placed
	// Silent says that the target is a pod that answers nobody.
	Silent bool
}

// HalfPath is a check of which policies can close one direction only. One without a key was
// not made.
type HalfPath struct {
	// Key is the Path of the edge, in the follow-up, and Node where it is probed from.
	Key, Node string
	// Missing says why no such check can be made; empty if there is one, or no need.
	Missing string
}

// Halves are the checks about one suspect: itself once more, from its source to a
// responder that no policy selects for ingress, and to its target from a source that
// none selects for egress. Of a path that is open, one that policies let through in that
// direction will do, where they select everybody. Of a silent suspect, they are those of StandIn, which is the
// path to a stand-in for its target.
type Halves struct{ Again, StandIn, Egress, Ingress HalfPath }

// FollowUp is the plan of a run that finds out which direction of each suspect fails.
type FollowUp struct {
	// Edges are in no path of the expectation: each has a name of its own in their place.
	Edges      []*Edge
	Responders []Responder
	// Halves are those of each suspect, in their order.
	Halves []Halves

	// at holds the nodes that each edge is probed from, by its key.
	at map[string][]string
}

// HalfPaths plans the half-paths of suspects. As other controls, they add no policy and
// are of identities of the namespace. Whether a direction could have failed on a half-path
// is predicted: it has to be allowed or denied as the suspect is.
func (p *Predictor) HalfPaths(namespace string, suspects []Suspect, nodes []*corev1.Node) *FollowUp {
	h := &halfPaths{
		FollowUp: &FollowUp{at: map[string][]string{}}, predictor: p, namespace: namespace, usable: usableNodes(nodes), sources: map[string]*Source{}, addrs: map[string]netip.Addr{},
	}
	for _, s := range suspects {
		h.sources[s.Edge.Source.Key] = s.Edge.Source
	}
	for _, s := range suspects {
		halves := Halves{Again: h.add(s.Placed)}
		if s.Silent {
			if halves.StandIn, s = h.standIn(s); halves.StandIn.Key == "" {
				h.Halves = append(h.Halves, halves)
				continue
			}
		}
		for _, a := range s.Answered {
			h.add(a)
		}
		// Of a path that is open, a direction that does not deny it has done nothing wrong.
		want := s.Decision.Verdict
		if want == evaluator.Allowed || s.Decision.Egress.Verdict == want {
			halves.Egress = h.egress(s)
		}
		if want == evaluator.Allowed || s.Decision.Ingress.Verdict == want {
			halves.Ingress = h.ingress(s)
		}
		h.Halves = append(h.Halves, halves)
	}
	return h.FollowUp
}

// halfPaths plans a follow-up.
type halfPaths struct {
	*FollowUp
	predictor *Predictor
	namespace string
	usable    []string
	// sources are those that have a probe pod anyway.
	sources map[string]*Source
	// addrs hold an address of a pod for each family that was asked for.
	addrs map[string]netip.Addr
}

// standIn makes the check to a stand-in for the target of a suspect, and returns that in its
// place. The stand-in answers, and has a record of what arrives.
func (h *halfPaths) standIn(s Suspect) (HalfPath, Suspect) {
	snapshot, end := &h.predictor.snapshot, s.Edge.Backends[0].Endpoint
	i := slices.IndexFunc(snapshot.Pods, func(p *corev1.Pod) bool { return p.Namespace == end.Namespace && p.Name == end.Pod })
	if i < 0 {
		return HalfPath{Missing: "pod " + s.Edge.Target.Name + " is gone"}, s
	}
	pod := snapshot.Pods[i]
	if refusal := snapshot.refuseStandIn(h.namespace, pod); refusal != "" {
		return HalfPath{Missing: refusal}, s
	}
	e := *s.Edge
	e.Target, e.Backends = standInTarget(pod, e.Port)
	s.Edge, s.Answered = &e, nil
	s.Responder = &Responder{
		Key: e.Target.Key, Namespace: pod.Namespace, Labels: e.Target.Labels, Name: e.Target.Name, Node: e.Target.Node, StandsFor: pod,
	}
	return h.add(s.Placed), s
}

// add makes a check of the follow-up, which is made once whoever needs it.
func (h *halfPaths) add(p Placed) HalfPath {
	e := *p.Edge
	e.Path, e.Control = "", false
	e.Path = e.ID()
	// Whichever pod asks, and whatever its own nameservers are: this one is in question.
	e.Via = netip.Addr{}
	if h.at[e.Path] == nil {
		h.Edges = append(h.Edges, &e)
	}
	if !slices.Contains(h.at[e.Path], p.Node) {
		h.at[e.Path] = append(h.at[e.Path], p.Node)
	}
	if p.Responder != nil {
		h.listen(*p.Responder, flow.PortRange{Protocol: e.Transport.Protocol(), First: e.Port, Last: e.Port})
	}
	return HalfPath{Key: e.Path, Node: p.Node}
}

func (h *halfPaths) listen(r Responder, port flow.PortRange) {
	i := slices.IndexFunc(h.Responders, func(x Responder) bool { return x.Key == r.Key })
	if i < 0 {
		r.Ports, i = nil, len(h.Responders)
		h.Responders = append(h.Responders, r)
	}
	if x := &h.Responders[i]; !slices.Contains(x.Ports, port) {
		x.Ports = append(x.Ports, port)
	}
}

// ingress makes the check to the suspect's target from a source without egress policies.
// The suspect's own source is none, whatever its policies: it is what is in question.
func (h *halfPaths) ingress(s Suspect) HalfPath {
	var best *Edge
	for _, source := range h.predictor.controlSources(h.namespace) {
		if source.Key == s.Edge.Source.Key {
			continue
		}
		e := h.to(s, source)
		if !h.predicted(e, s.Decision.Verdict) || !passes(e.Prediction.Egress, s.Decision.Verdict) {
			continue
		}
		if free := unpoliced(e.Prediction.Egress); free || best == nil {
			if best = e; free {
				break
			}
		}
	}
	if best != nil {
		if s.Responder != nil {
			// The address is not known before the responder runs anew.
			best.Target, best.Backends = s.Edge.Target, s.Edge.Backends
		}
		return h.add(Placed{Edge: best, Node: h.near(s.Node), Responder: s.Responder})
	}
	return HalfPath{Missing: "no other identity of the namespace is " + passing("egress", s.Decision.Verdict) + " and " + verb(s.Decision.Verdict) + " by the target's ingress policies"}
}

// to returns an edge from a source to the address of a suspect's target.
func (h *halfPaths) to(s Suspect, source *Source) *Edge {
	e := *s.Edge
	e.Source = source
	if known := h.sources[source.Key]; known != nil {
		e.Source = known // one identity is one probe pod on a node
	}
	if s.Responder != nil {
		e.Target.Addr = s.Addr
		if e.Backends[0].Endpoint.IsIdentity() { // a pod has its own
			e.Backends = slices.Clone(e.Backends)
			e.Backends[0].Endpoint.Addr = s.Addr
		}
	}
	return &e
}

// AtAddress returns the edge to one address of a host, or to the nameserver that a pod
// has: a resolver may return others the next time, and another pod may have others.
func (e *Edge) AtAddress(addr netip.Addr) *Edge {
	at := *e
	at.Target = Target{Kind: TargetAddress, Key: flow.ID("address", addr.String()), Name: e.TargetName([]netip.Addr{addr}), Addr: addr, Ready: true}
	at.Nameserver = 0
	at.Backends = []Backend{{Endpoint: flow.Endpoint{Addr: addr}, Port: e.Port}}
	return &at
}

// egress makes the check from the suspect's source to a responder without ingress
// policies. Beside it, somebody reaches that responder whom no policy concerns at either
// end: without that, its silence would prove nothing.
func (h *halfPaths) egress(s Suspect) HalfPath {
	port, ok := h.port(s)
	if !ok {
		return HalfPath{Missing: "the endpoints of the target have different ports, and policies see these"}
	}
	var best *Placed
	for _, labels := range h.responderLabels(s) {
		end := flow.Endpoint{Namespace: h.namespace, Labels: labels}
		r := Responder{
			Key: flow.ID("half-path", h.namespace, flow.FormatLabels(labels), s.Edge.Target.Node), Namespace: h.namespace, Labels: labels,
			Name: end.String(), Node: h.near(s.Edge.Target.Node),
		}
		e := &Edge{
			Source:    s.Edge.Source,
			Target:    Target{Kind: TargetResponder, Key: r.Key, Name: r.Name, Node: r.Node, Ready: true, Labels: labels},
			Transport: wire.Transport(s.Edge.Transport.Protocol()), Port: port,
		}
		if !h.predictedAt(e, end, s) || !passes(e.Prediction.Ingress, s.Decision.Verdict) {
			continue
		}
		if free := unpoliced(e.Prediction.Ingress); free || best == nil {
			if best = (&Placed{Edge: e, Node: s.Node, Responder: &r}); free {
				break
			}
		}
	}
	if best != nil {
		if c := h.unpolicedTo(best.Edge); c != nil {
			h.add(Placed{Edge: c, Node: s.Node, Responder: best.Responder})
		}
		return h.add(*best)
	}
	return HalfPath{Missing: "no identity of the namespace is " + passing("ingress", s.Decision.Verdict) + " and " + verb(s.Decision.Verdict) + " by the source's egress policies"}
}

// port returns the port that policies see of a suspect; false if there are several.
func (h *halfPaths) port(s Suspect) (uint16, bool) {
	backends := h.predictor.Backends(s.Edge, nil)
	for _, b := range backends {
		if b.Port != backends[0].Port {
			return 0, false
		}
	}
	if len(backends) == 0 {
		return s.Edge.Port, true
	}
	return backends[0].Port, true
}

// responderLabels lists the identities that a responder may have: the one without labels,
// that of the suspect's target, and those of the pods of the namespace.
func (h *halfPaths) responderLabels(s Suspect) []map[string]string {
	out := []map[string]string{{}}
	for _, b := range s.Edge.Backends {
		if b.Endpoint.IsIdentity() && b.Endpoint.Namespace == h.namespace && len(b.Endpoint.Labels) > 0 {
			out = append(out, b.Endpoint.Labels)
		}
	}
	for _, c := range h.predictor.controlSources(h.namespace) {
		if len(c.Labels) > 0 {
			out = append(out, c.Labels)
		}
	}
	return out
}

// unpolicedTo returns an edge to the target of another from a source without egress
// policies; nil if there is none.
func (h *halfPaths) unpolicedTo(e *Edge) *Edge {
	for _, source := range h.predictor.controlSources(h.namespace) {
		c := *e
		c.Source = source
		if known := h.sources[source.Key]; known != nil {
			c.Source = known
		}
		if h.predicted(&c, evaluator.Allowed) && unpoliced(c.Prediction.Egress) {
			return &c
		}
	}
	return nil
}

// predictedAt predicts an edge to a responder that has no address yet, as if it had
// that of some pod of the suspect's family, and tells whether it is as the suspect's.
func (h *halfPaths) predictedAt(e *Edge, end flow.Endpoint, s Suspect) bool {
	at := end
	at.Addr = h.podAddr(FamilyOf(s.Addr))
	// The source has to be taken to use the same family.
	e.Backends, e.Target.Addr = []Backend{{Endpoint: at, Port: e.Port}}, at.Addr
	ok := h.predicted(e, s.Decision.Verdict)
	e.Backends, e.Target.Addr = []Backend{{Endpoint: end, Port: e.Port}}, netip.Addr{}
	return ok
}

// podAddr returns an address of a family as a pod may have; zero if none has one.
func (h *halfPaths) podAddr(family string) netip.Addr {
	if known, ok := h.addrs[family]; ok {
		return known
	}
	h.addrs[family] = netip.Addr{}
	for _, pod := range h.predictor.pods {
		i := slices.IndexFunc(podAddrs(pod), func(a netip.Addr) bool { return FamilyOf(a) == family })
		if i >= 0 && !pod.Spec.HostNetwork {
			h.addrs[family] = podAddrs(pod)[i]
			break
		}
	}
	return h.addrs[family]
}

// predicted predicts an edge and tells whether it is as wanted, for whoever the probe
// stands for.
func (h *halfPaths) predicted(e *Edge, want evaluator.Verdict) bool {
	h.predictor.Predict([]*Edge{e})
	e.Declared = v1alpha1.ExpectDeny
	if want == evaluator.Allowed {
		e.Declared = v1alpha1.ExpectAllow
	}
	return e.Prediction.Verdict == want && !e.Diverges()
}

// unpoliced tells whether no policy has a say in a direction.
func unpoliced(d evaluator.DirectionDecision) bool {
	return d.Verdict == evaluator.Allowed && len(d.Isolating) == 0 && len(d.Selecting) == 0
}

// passes tells whether a direction cannot be what a half-path shows. Where the other one is
// to deny it and does not, that this one's policies let it through is enough. Where it is to
// be closed by the other one although it is allowed, they may be in the way themselves.
func passes(d evaluator.DirectionDecision, want evaluator.Verdict) bool {
	return unpoliced(d) || want == evaluator.Denied && d.Verdict == evaluator.Allowed
}

func passing(direction string, want evaluator.Verdict) string {
	if want == evaluator.Denied {
		return "let through by " + direction + " policies"
	}
	return "free of " + direction + " policies"
}

func verb(v evaluator.Verdict) string {
	if v == evaluator.Allowed {
		return "let through"
	}
	return "denied"
}

// near returns a node that a pod can be put on: that one if it is one.
func (h *halfPaths) near(node string) string {
	if slices.Contains(h.usable, node) {
		return node
	}
	return pick(h.usable, node)
}

// Place assigns the edges of the follow-up to probe pods, when those to responders have
// been given their addresses, or before.
func (f *FollowUp) Place(edges []*Edge) []Pod {
	at := map[string]map[string]*Pod{}
	for _, e := range edges {
		byNode := at[e.Source.Key]
		if byNode == nil {
			byNode = map[string]*Pod{}
			at[e.Source.Key] = byNode
		}
		for _, node := range f.at[e.Path] {
			if byNode[node] == nil {
				byNode[node] = &Pod{Source: e.Source, Node: node}
			}
			byNode[node].Edges = append(byNode[node].Edges, e)
		}
	}
	var out []Pod
	for _, source := range slices.Sorted(maps.Keys(at)) {
		for _, node := range slices.Sorted(maps.Keys(at[source])) {
			out = append(out, *at[source][node])
		}
	}
	return out
}
