package plan

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// Predictor answers for edges. It is for one goroutine at a time.
type Predictor struct {
	engine   *evaluator.Engine
	snapshot Snapshot
	// pods are those of the snapshot, sorted: a cache lists objects in no order.
	pods []*corev1.Pod
	// byController is set when a policy selects pods by a label that controllers
	// own. Otherwise no policy can tell a probe from its workload.
	byController bool
	// controllable holds what controls in a namespace may be.
	controllable map[string][]*Source
	// byAddress is set when an ipBlock may tell pods apart by their addresses.
	byAddress bool
	// objects finds those of the snapshot, and is made when it is first needed. records
	// are what counts of those that were asked for.
	objects map[evaluator.Key][]any
	records map[evaluator.Key]record
	// learned are the addresses that probes have found, as in Input.
	learned map[string][]netip.Addr
	// nodeCaches are the addresses of NodeLocal DNSCache.
	nodeCaches []netip.Addr
	// bases are those of the sources that were asked for, and places what is exposed where.
	bases  map[*Source][]evaluator.Basis
	places map[place][]Backend
}

// NewPredictor returns a Predictor over a snapshot that engine was compiled from.
func NewPredictor(engine *evaluator.Engine, s Snapshot) *Predictor {
	pods := slices.Clone(s.Pods)
	slices.SortFunc(pods, byName)
	return &Predictor{
		engine: engine, snapshot: s, pods: pods, byController: s.selectsByController(), byAddress: blocksTellPodsApart(s), nodeCaches: s.nodeCacheAddrs(),
		records: map[evaluator.Key]record{}, bases: map[*Source][]evaluator.Basis{}, places: map[place][]Backend{},
	}
}

// selectsByController tells whether any policy selects pods by a label that controllers own.
func (s *Snapshot) selectsByController() bool {
	return slices.ContainsFunc(s.NetworkPolicies, selectsByController) ||
		slices.ContainsFunc(clusterWidePolicies(*s), func(w clusterWide) bool { return slices.ContainsFunc(w.pods, namesController) })
}

// blocksTellPodsApart tells whether an ipBlock may admit one pod of a workload, by
// its address, and not another.
func blocksTellPodsApart(s Snapshot) bool {
	return slices.ContainsFunc(s.NetworkPolicies, s.admitsPodsByBlock)
}

// admitsPodsByBlock tells whether an ingress rule has an ipBlock, and these may match pods:
// the address that is asked for there is that of the source, and the probe has another than
// the workload that it stands for.
func (s *Snapshot) admitsPodsByBlock(p *networkingv1.NetworkPolicy) bool {
	return s.Profile.IPBlockMatchesPods != evaluator.False && slices.ContainsFunc(p.Spec.Ingress, func(r networkingv1.NetworkPolicyIngressRule) bool { return len(blocks(r.From)) > 0 })
}

func selectsByController(p *networkingv1.NetworkPolicy) bool {
	selectors := []*metav1.LabelSelector{&p.Spec.PodSelector}
	add := func(peers []networkingv1.NetworkPolicyPeer) {
		for _, peer := range peers {
			selectors = append(selectors, peer.PodSelector)
		}
	}
	for _, rule := range p.Spec.Ingress {
		add(rule.From)
	}
	for _, rule := range p.Spec.Egress {
		add(rule.To)
	}
	return slices.ContainsFunc(selectors, namesController)
}

// namesController tells whether a selector asks for a label that controllers own.
func namesController(s *metav1.LabelSelector) bool {
	owned := func(key string) bool { return slices.Contains(controllerLabels, key) }
	return s != nil && (slices.ContainsFunc(slices.Collect(maps.Keys(s.MatchLabels)), owned) ||
		slices.ContainsFunc(s.MatchExpressions, func(r metav1.LabelSelectorRequirement) bool { return owned(r.Key) }))
}

// Predict sets the predictions of the edges. Where the probe will stand for a
// workload whose labels it does not carry in full, the workload's own prediction
// is made too.
func (p *Predictor) Predict(edges []*Edge) {
	for _, e := range edges {
		from := p.likelyAddr(e)
		e.Prediction = p.Decide(e, from, nil)
		e.Workload = e.Prediction
		if other, diverges := p.Divergence(e, from, nil); diverges {
			e.Workload = other
		}
	}
}

// Divergence predicts an edge for the workload that the probe stands for, if that
// differs from what is predicted for the probe, and tells whether it does. It has to be
// asked again once a host is resolved: before, nothing is known of either.
func (p *Predictor) Divergence(e *Edge, from netip.Addr, tried []netip.Addr) (evaluator.Decision, bool) {
	if !p.byController {
		return evaluator.Decision{}, false
	}
	probe := p.Decide(e, from, tried)
	for _, l := range e.Source.variants {
		if len(l) == len(e.Source.Labels) {
			continue
		}
		if d := p.decideAs(e, l, from, tried); !alike(d, probe) {
			return d, true
		}
	}
	return evaluator.Decision{}, false
}

// likelyAddr returns an address such as the probe pod will have: that of a pod of
// the same workload, or else of any pod. Without one, every ipBlock that could
// hold some pod would make the prediction undefined. judge predicts again with
// the address that the probe pod really had.
func (p *Predictor) likelyAddr(e *Edge) netip.Addr {
	want := e.Target.Addr
	match := func(pod *corev1.Pod) netip.Addr {
		for _, a := range podAddrs(pod) {
			// The target's own address would make it a pod that talks to itself.
			own := slices.ContainsFunc(e.Backends, func(b Backend) bool {
				return b.Endpoint.Addr == a || (b.Endpoint.Namespace == pod.Namespace && b.Endpoint.Pod == pod.Name)
			})
			if !own && (!want.IsValid() || a.Is4() == want.Is4()) {
				return a
			}
		}
		return netip.Addr{}
	}
	if e.Source.Workload != nil {
		if a := match(e.Source.Workload); a.IsValid() {
			return a
		}
	}
	for _, pod := range p.pods {
		if isLive(pod) && !pod.Spec.HostNetwork {
			if a := match(pod); a.IsValid() {
				return a
			}
		}
	}
	return netip.Addr{}
}

// Diverges tells whether policies would treat the probe differently from the
// workload that it stands for: then it proves nothing about the workload.
func (e *Edge) Diverges() bool { return !alike(e.Workload, e.Prediction) }

// alike tells whether two decisions are the same at each end. What is denied at both ends
// for one, and at one of them for the other, is the same as long as policies are enforced,
// and shows other faults of the enforcement.
func alike(a, b evaluator.Decision) bool {
	return a.Verdict == b.Verdict && a.Egress.Verdict == b.Egress.Verdict && a.Ingress.Verdict == b.Ingress.Verdict
}

// Describe says in words what was decided; at each end, where another decision differs in
// that alone.
func Describe(d, other evaluator.Decision) string {
	if d.Verdict != other.Verdict {
		return d.Verdict.String()
	}
	return fmt.Sprintf("%s (egress %s, ingress %s)", d.Verdict, d.Egress.Verdict, d.Ingress.Verdict)
}

// Decide predicts an edge from a probe pod at the given address (zero when it has
// none yet). tried holds the addresses of a host that the probe has tried.
func (p *Predictor) Decide(e *Edge, from netip.Addr, tried []netip.Addr) evaluator.Decision {
	return p.decideAs(e, e.Source.Labels, from, tried)
}

// Backends returns what a connection of the edge may end at, as policies see it.
// tried holds the addresses of a host that the probe has tried.
func (p *Predictor) Backends(e *Edge, tried []netip.Addr) []Backend {
	if e.Target.Kind == TargetService && p.OnOwnNode(e, tried) {
		return []Backend{{Endpoint: flow.Endpoint{Addr: e.Target.Addr}, Port: e.Port}}
	}
	switch e.Target.Kind {
	case TargetPod, TargetResponder, TargetService:
	case TargetAddress:
		// The address may be that of a Service after all.
		return p.backendsAt(e.Target.Addr, e.Transport, e.Port)
	case TargetHost, TargetNameserver:
		var out []Backend
		for _, addr := range tried {
			if p.OnOwnNode(e, tried) {
				out = append(out, Backend{Endpoint: flow.Endpoint{Addr: addr}, Port: e.Port})
				continue
			}
			out = append(out, p.backendsAt(addr, e.Transport, e.Port)...)
		}
		return out
	}
	return e.Backends
}

// decideAs predicts an edge from a pod with the given labels.
func (p *Predictor) decideAs(e *Edge, labels map[string]string, from netip.Addr, tried []netip.Addr) evaluator.Decision {
	switch {
	case len(tried) > 0:
	case e.Target.Kind == TargetNameserver:
		return evaluator.Decision{Reason: "which nameservers a pod has is known to the pod only"}
	case e.Target.Kind == TargetHost:
		return evaluator.Decision{Reason: "the name " + e.Target.Host + " is resolved by the probe only, so that its addresses are not known yet"}
	}
	backends := p.Backends(e, tried)
	switch {
	case len(backends) > 0:
	case e.Target.Kind == TargetNameserver:
		return evaluator.Decision{Reason: fmt.Sprintf("the nameserver %s is a Service without a ready endpoint for this port", tried[0])}
	case e.Target.Kind == TargetHost:
		return evaluator.Decision{Reason: fmt.Sprintf("the name %s resolved to %s, a Service without a ready endpoint for this port", e.Target.Host, tried[0])}
	case e.Target.Kind == TargetAddress:
		return evaluator.Decision{Reason: fmt.Sprintf("%s is a Service without a ready endpoint for this port: write to.service instead", e.Target.Addr)}
	}
	source := flow.Endpoint{Namespace: e.Source.Namespace, Labels: labels, Addr: from}
	// own says that the source has the address itself: what is at it would talk to itself.
	decide := func(from flow.Endpoint, own bool) evaluator.Decision {
		return p.overBehind(e, from, tried, own, p.overTwins(e, from, own, p.decideFrom(e, from, backends)))
	}
	d := decide(source, false)
	if p.byAddress && d.Verdict != evaluator.Undefined {
		d = p.overAddresses(e, source, backends, d, decide)
	}
	if p.OnOwnNode(e, tried) {
		d = p.atOwnNode(backends[0].Endpoint.Addr, d)
	}
	if e.Target.Range.IsValid() && d.Verdict != evaluator.Undefined {
		return p.overRange(e, source, d)
	}
	return d
}

// decideFrom combines the decisions for all backends.
func (p *Predictor) decideFrom(e *Edge, from flow.Endpoint, backends []Backend) evaluator.Decision {
	return DecideBackends(p.engine, from, backends, e.Transport.Protocol(), e.Target.Name)
}

// overAddresses looks for a pod of the source that policies treat differently from
// the probe, by its address alone (rule S10). An identity that need not exist could
// have any.
func (p *Predictor) overAddresses(e *Edge, from flow.Endpoint, backends []Backend, d evaluator.Decision, decide func(from flow.Endpoint, own bool) evaluator.Decision) evaluator.Decision {
	if e.Source.Workload == nil {
		if p.snapshot.Profile.IPBlockMatchesPods != evaluator.True {
			// Any policy with a block would leave every identity open.
			return d
		}
		from.Addr = netip.Addr{}
		if other := decide(from, false); other.Verdict != d.Verdict {
			return other
		}
		return d
	}
	probe := from.Addr
	for _, from.Addr = range e.Source.addrs {
		if probe.IsValid() && from.Addr.Is4() != probe.Is4() {
			continue
		}
		// A pod that is the target would be one that talks to itself.
		if slices.ContainsFunc(backends, func(b Backend) bool { return b.Endpoint.Addr == from.Addr }) {
			continue
		}
		other := decide(from, true)
		switch {
		case other.Verdict == evaluator.Undefined:
			return other
		case !alike(other, d):
			return evaluator.Decision{Rule: "S10", Reason: fmt.Sprintf("policies treat the addresses of %s differently: %s is %s, %s is %s",
				e.Source.Name, probe, Describe(d, other), from.Addr, Describe(other, d))}
		}
	}
	return d
}

// overTwins looks for a pod that policies treat differently from the one that a stand-in
// was made for, although it is the same stand-in: by its address, by the numbers of its
// ports, or by a label that controllers own. own leaves out the source itself.
func (p *Predictor) overTwins(e *Edge, from flow.Endpoint, own bool, d evaluator.Decision) evaluator.Decision {
	for _, twin := range e.Target.Twins {
		if own && slices.Contains(podAddrs(twin), from.Addr) {
			continue
		}
		if other := p.decideFrom(e, from, []Backend{twinBackend(twin, e.Port)}); !alike(other, d) {
			return evaluator.Decision{Reason: fmt.Sprintf("policies treat pods that have one stand-in differently: %s is %s, %s/%s is %s (write to.via: Endpoint to probe the pods themselves)",
				e.Target.Name, Describe(d, other), twin.Namespace, twin.Name, Describe(other, d))}
		}
	}
	return d
}

func twinBackend(pod *corev1.Pod, port uint16) Backend {
	return Backend{Endpoint: flow.Endpoint{Namespace: pod.Namespace, Pod: pod.Name}, Port: port}
}

// overRange looks for an address of the range that policies treat differently
// from the one that is probed. Verdicts can only change where an ipBlock or a range
// of a cluster-wide policy begins or ends, so these are the addresses to ask for.
func (p *Predictor) overRange(e *Edge, from flow.Endpoint, d evaluator.Decision) evaluator.Decision {
	r := e.Target.Range
	for _, addr := range p.edgesOfBlocks(p.engine.SourceBasis(from), r) {
		other := p.engine.Decide(flow.Flow{From: from, To: flow.Endpoint{Addr: addr}, Protocol: e.Transport.Protocol(), Port: e.Port})
		if other.Verdict != d.Verdict {
			return evaluator.Decision{Reason: fmt.Sprintf("policies treat parts of %s differently: %s is %s, %s is %s", r, e.Target.Addr, d.Verdict, addr, other.Verdict)}
		}
	}
	return d
}

// edgesOfBlocks returns the addresses of a range at which the answers for a source can
// change, by the policies that select it.
func (p *Predictor) edgesOfBlocks(source evaluator.Basis, r netip.Prefix) []netip.Addr {
	selecting := map[evaluator.Key]bool{}
	for _, key := range source.Objects {
		selecting[key] = true
	}
	out := []netip.Addr{r.Masked().Addr(), lastAddr(r)}
	add := func(cidr string) {
		block, err := netip.ParsePrefix(cidr)
		if err != nil || !block.Overlaps(r) {
			return
		}
		for _, a := range []netip.Addr{block.Masked().Addr(), lastAddr(block).Next()} {
			if a.IsValid() && r.Contains(a) {
				out = append(out, a)
			}
		}
	}
	for _, policy := range clusterWidePolicies(p.snapshot) {
		if !selecting[evaluator.Key{Kind: policy.kind, Name: policy.name}] {
			continue
		}
		for _, cidr := range policy.networks {
			add(cidr)
		}
	}
	for _, policy := range p.snapshot.NetworkPolicies {
		if !selecting[evaluator.Key{Kind: evaluator.KindNetworkPolicy, Namespace: policy.Namespace, Name: policy.Name}] {
			continue
		}
		for _, rule := range policy.Spec.Egress {
			for _, block := range blocks(rule.To) {
				add(block.CIDR)
				for _, except := range block.Except {
					add(except)
				}
			}
		}
	}
	return out
}

func blocks(peers []networkingv1.NetworkPolicyPeer) []*networkingv1.IPBlock {
	var out []*networkingv1.IPBlock
	for _, peer := range peers {
		if peer.IPBlock != nil {
			out = append(out, peer.IPBlock)
		}
	}
	return out
}

// lastAddr returns the highest address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

// backendsAt returns what policies see of an address: the pods behind it when it
// is a Service's, the address otherwise (the evaluator knows the pods' own).
func (p *Predictor) backendsAt(addr netip.Addr, t wire.Transport, port uint16) []Backend {
	for _, svc := range p.snapshot.Services {
		for _, ip := range svc.Spec.ClusterIPs {
			if ip != addr.String() {
				continue
			}
			sp := findServicePort(svc, t.Protocol(), intstr.FromInt32(int32(port)))
			if sp == nil {
				continue
			}
			return p.endpointsOf(svc, sp.Name, t.Protocol(), addr)
		}
	}
	return []Backend{{Endpoint: flow.Endpoint{Addr: addr}, Port: port}}
}

// endpointsOf returns the endpoints of a port of a Service, of the family of an address.
func (p *Predictor) endpointsOf(svc *corev1.Service, port string, protocol flow.Protocol, addr netip.Addr) []Backend {
	r := &resolver{in: Input{Snapshot: p.snapshot}}
	var out []Backend
	for _, b := range r.endpoints(svc, port, protocol) {
		if b.Endpoint.Addr.Is4() == addr.Is4() {
			out = append(out, b.Backend)
		}
	}
	return out
}

// Flows lists the flows whose predictions decide the edge's. It is false when the edge
// may turn out to end at something else: what a host is only the probe learns, and so it
// is with a nameserver before the first run.
func (p *Predictor) Flows(e *Edge) (flows []flow.Flow, whole bool) {
	var learned []netip.Addr
	whole = !e.Learns()
	if e.Target.Kind == TargetNameserver {
		// A host may turn out to be another one every time. The nameservers of a pod stay.
		learned, whole = p.learned[e.LearnedAs()]
	}
	targets := p.targets(e, learned)
	for _, from := range e.Source.identities() {
		for _, to := range targets {
			flows = append(flows, flow.Flow{From: from, To: to.Endpoint, Protocol: e.Transport.Protocol(), Port: to.Port})
		}
	}
	return flows, whole
}

// identities lists what policies may see of the pods that the source stands for, and of
// the probe.
func (s *Source) identities() []flow.Endpoint {
	out := []flow.Endpoint{{Namespace: s.Namespace, Labels: s.Labels}}
	for _, l := range s.variants {
		out = append(out, flow.Endpoint{Namespace: s.Namespace, Labels: l})
	}
	return out
}

// targets lists what an edge is predicted to end at: its backends, and of a range the
// addresses that are asked for beside it.
func (p *Predictor) targets(e *Edge, tried []netip.Addr) []Backend {
	out := slices.Concat(p.Backends(e, tried), p.behind(e, tried))
	for _, twin := range e.Target.Twins {
		out = append(out, twinBackend(twin, e.Port))
	}
	if !e.Target.Range.IsValid() {
		return out
	}
	for _, from := range p.sides(e.Source) {
		for _, addr := range p.edgesOfBlocks(from, e.Target.Range) {
			out = append(out, Backend{Endpoint: flow.Endpoint{Addr: addr}, Port: e.Port})
		}
	}
	return out
}

// Goal is what the rounds of an edge wait for: the prediction, or what was declared
// where the prediction is undefined.
func (e *Edge) Goal() wire.Goal {
	switch e.Prediction.Verdict {
	case evaluator.Allowed:
		return wire.GoalOpen
	case evaluator.Denied:
		return wire.GoalClosed
	case evaluator.Undefined:
	}
	if e.Declared == v1alpha1.ExpectAllow {
		return wire.GoalOpen
	}
	return wire.GoalClosed
}
