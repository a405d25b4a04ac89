package evaluator

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/pathproof/pathproof/flow"
)

// endKind says what an end of a flow is.
type endKind uint8

const (
	// podEnd is a live pod of the snapshot.
	podEnd endKind = iota
	// identityEnd is a pod that need not exist.
	identityEnd
	// nodeEnd is an address of a node.
	nodeEnd
	// externalEnd is any other address.
	externalEnd
	// loopbackEnd is an address that never leaves its host.
	loopbackEnd
)

// end is a resolved end of a flow.
type end struct {
	endpoint flow.Endpoint
	kind     endKind
	// class and pod are nil where there is none.
	class *class
	pod   *pod
	// addr is the address in use; invalid means the pod's choice until the families
	// are matched, and unknown after that.
	addr netip.Addr
	// processes are the host-network pods that an address of a node may stand for.
	processes []*pod
}

// view is an end as one reading of the API sees it. Host-network pods are seen as
// pods by some and as their node by others (S13).
type view struct {
	endpoint flow.Endpoint
	kind     endKind
	// class is nil when the end is no pod.
	class *class
	pod   *pod
	addr  netip.Addr
	// policed is set when NetworkPolicies apply to the end, selectable when the
	// selectors of their peers do. Cluster-wide policies leave nothing open there.
	policed, selectable bool
	// target is set for the end that the flow goes to.
	target bool
}

// reading is what an implementation makes of host-network pods (S13).
type reading struct {
	policed, selectable bool
}

// hostReadings lists what implementations make of host-network pods. The first
// cannot tell them from their node.
var hostReadings = []reading{
	{policed: false, selectable: false},
	{policed: true, selectable: true},
	{policed: false, selectable: true},
	{policed: true, selectable: false},
}

// resolve finds what an endpoint stands for, or says why it cannot be known.
func (e *Engine) resolve(p flow.Endpoint) (end, *cause) {
	p.Addr = canonical(p.Addr)
	switch {
	case p.IsPod():
		return e.resolvePod(p)
	case p.IsIdentity():
		return e.resolveIdentity(p)
	case p.Pod != "":
		return end{}, &cause{RuleIncomplete, fmt.Sprintf("pod %s is named without its namespace", p.Pod)}
	default:
		return e.resolveAddr(p)
	}
}

// resolvePod resolves a pod by name.
func (e *Engine) resolvePod(p flow.Endpoint) (end, *cause) {
	o := e.pods[podKey{p.Namespace, p.Pod}]
	switch {
	case o == nil:
		return end{}, &cause{RuleIncomplete, fmt.Sprintf("pod %s is not in the snapshot", p)}
	case o.ambiguous:
		return end{}, &cause{RuleIncomplete, fmt.Sprintf("pod %s is defined more than once", p)}
	case o.terminated:
		return end{}, &cause{ruleTerminated, fmt.Sprintf("pod %s has ended, and its address may be in use by another pod", p)}
	case p.Addr.IsValid() && !slices.Contains(o.addrs, p.Addr):
		return end{}, &cause{RuleIncomplete, fmt.Sprintf("pod %s does not have the address %s", p, p.Addr)}
	}
	return end{endpoint: p, kind: podEnd, class: o.class, pod: o, addr: p.Addr}, nil
}

// resolveIdentity resolves a pod that need not exist. Its namespace has to.
func (e *Engine) resolveIdentity(p flow.Endpoint) (end, *cause) {
	n := e.namespaces[p.Namespace]
	if n == nil {
		return end{}, &cause{RuleIncomplete, fmt.Sprintf("namespace %s is not in the snapshot", p.Namespace)}
	}
	c := e.classes[classKey(p.Namespace, p.Labels)]
	if c == nil {
		c = e.newClass(n, p.Labels)
	}
	return end{endpoint: p, kind: identityEnd, class: c, addr: p.Addr}, nil
}

// resolveAddr resolves a bare address: to the pod that owns it, to a node, or to
// nothing that the snapshot knows.
func (e *Engine) resolveAddr(p flow.Endpoint) (end, *cause) {
	a := p.Addr
	switch {
	case !a.IsValid():
		return end{}, &cause{RuleIncomplete, "an end of the flow is neither a pod nor an address"}
	case a.IsUnspecified() || a.IsMulticast():
		return end{}, &cause{RuleIncomplete, fmt.Sprintf("%s is not the address of one end", a)}
	case a.IsLoopback():
		return end{endpoint: p, kind: loopbackEnd, addr: a}, nil
	}
	if owners := e.byAddr[a]; len(owners) > 1 {
		return end{}, &cause{RuleIncomplete, fmt.Sprintf("pods %s and %s both have the address %s", owners[0], owners[1], a)}
	} else if len(owners) == 1 {
		o := owners[0]
		p.Namespace, p.Pod = o.namespace, o.name
		return e.resolvePod(p)
	}
	if processes, ok := e.nodes[a]; ok {
		return end{endpoint: p, kind: nodeEnd, addr: a, processes: processes}, nil
	}
	return end{endpoint: p, kind: externalEnd, addr: a}, nil
}

// matchFamilies chooses the addresses of ends that do not name one: the first
// address of each that is of the same family as the other's (S24).
func matchFamilies(from, to *end) *cause {
	sources, targets := from.candidates(), to.candidates()
	if len(sources) == 0 || len(targets) == 0 {
		from.addr, to.addr = firstOf(sources), firstOf(targets)
		return nil
	}
	for _, t := range targets {
		for _, s := range sources {
			if s.Is4() == t.Is4() {
				from.addr, to.addr = s, t
				return nil
			}
		}
	}
	return &cause{ruleFamily, fmt.Sprintf("%s and %s have no addresses of the same family", from.endpoint, to.endpoint)}
}

// candidates lists the addresses that the end may use; none if it is not known.
func (n *end) candidates() []netip.Addr {
	if n.addr.IsValid() {
		return []netip.Addr{n.addr}
	}
	if n.pod != nil {
		return n.pod.addrs
	}
	return nil
}

// firstOf returns the first address, or the invalid one.
func firstOf(list []netip.Addr) netip.Addr {
	if len(list) == 0 {
		return netip.Addr{}
	}
	return list[0]
}

// onHost tells whether the end's traffic is, or may be, that of a host-network pod.
func (n *end) onHost() bool {
	return len(n.processes) > 0 || (n.pod != nil && n.pod.hostNetwork)
}

// plain is the view of an end that looks the same to everybody.
func (n *end) plain() view {
	isPod := n.class != nil
	return view{endpoint: n.endpoint, kind: n.kind, class: n.class, pod: n.pod, addr: n.addr, policed: isPod, selectable: isPod}
}

// views lists what the end may be under a reading. A bare address of a node may be
// the node itself or, if they can be told apart, any host-network pod on it.
func (n *end) views(r reading) []view {
	if !n.onHost() {
		return []view{n.plain()}
	}
	node := view{endpoint: n.endpoint, kind: nodeEnd, pod: n.pod, addr: n.addr}
	if r == hostReadings[0] {
		return []view{node}
	}
	asPod := func(p *pod) view {
		return view{
			endpoint: n.endpoint, kind: podEnd, class: p.class, pod: p, addr: n.addr,
			policed: r.policed, selectable: r.selectable,
		}
	}
	if n.pod != nil {
		return []view{asPod(n.pod)}
	}
	views := []view{node}
	for _, p := range n.processes {
		views = append(views, asPod(p))
	}
	return views
}

// isHost tells whether the traffic carries the address of a node.
func (v *view) isHost() bool {
	return v.kind == nodeEnd || (v.pod != nil && v.pod.hostNetwork)
}

// sharesNode tells whether the host end is the node of the pod.
func sharesNode(p, host *view) truth {
	if p.pod == nil || !host.isHost() {
		// The node of an identity is open: the answer is for a pod on another node.
		return no
	}
	if host.addr.IsValid() && slices.Contains(p.pod.hostAddrs, host.addr) {
		return yes
	}
	if host.pod != nil && host.pod.node != "" && p.pod.node != "" {
		return truthOf(host.pod.node == p.pod.node)
	}
	if len(p.pod.hostAddrs) == 0 || !host.addr.IsValid() {
		return maybe
	}
	return no
}
