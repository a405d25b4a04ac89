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
	kind endKind
	// class and pod are nil where there is none.
	class *class
	pod   *pod
	// labels are those of an identity.
	labels map[string]string
	// addr is the address in use; invalid means the pod's choice until the families
	// are matched, and unknown after that.
	addr netip.Addr
	// processes are the host-network pods that an address of a node may stand for.
	processes []resident
}

// String names the end: a pod by its name, even if the flow names its address.
func (n *end) String() string {
	named := flow.Endpoint{Labels: n.labels, Addr: n.addr}
	switch {
	case n.pod != nil:
		return n.pod.String()
	case n.kind == identityEnd:
		named.Namespace = n.class.namespace.name
	}
	return named.String()
}

// view is an end as one reading of the API sees it. Host-network pods are seen as
// pods by some, with a class, and as their node by others (S13).
type view struct {
	end
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

// resolve finds what an endpoint stands for, or says why it cannot be known. The shard
// is that of the endpoint's namespace, nil if there is none.
func (n *end) resolve(e *Engine, s *shard, p *flow.Endpoint) *cause {
	n.addr = canonical(p.Addr)
	switch {
	case p.IsPod():
		return n.resolvePod(s, p.Namespace, p.Pod)
	case p.IsIdentity():
		return n.resolveIdentity(e, s, p.Namespace, p.Labels)
	case p.Pod != "":
		return &cause{RuleIncomplete, fmt.Sprintf("pod %s is named without its namespace", p.Pod)}
	default:
		return n.resolveAddr(e)
	}
}

// resolvePod resolves a pod by name.
func (n *end) resolvePod(s *shard, namespace, name string) *cause {
	var r resident
	if s != nil {
		r = s.pods[name]
	}
	switch o := r.pod; {
	case o == nil:
		return &cause{RuleIncomplete, fmt.Sprintf("pod %s/%s is not in the snapshot", namespace, name)}
	case o.ambiguous:
		return &cause{RuleIncomplete, fmt.Sprintf("pod %s is defined more than once", o)}
	case o.terminated:
		return &cause{ruleTerminated, fmt.Sprintf("pod %s has ended, and its address may be in use by another pod", o)}
	case n.addr.IsValid() && !slices.Contains(o.addrs, n.addr):
		return &cause{RuleIncomplete, fmt.Sprintf("pod %s does not have the address %s", o, n.addr)}
	}
	n.kind, n.class, n.pod = podEnd, r.class, r.pod
	return nil
}

// resolveIdentity resolves a pod that need not exist. Its namespace has to.
func (n *end) resolveIdentity(e *Engine, s *shard, namespace string, labels map[string]string) *cause {
	if s == nil {
		return &cause{RuleIncomplete, fmt.Sprintf("namespace %s is not in the snapshot", namespace)}
	}
	n.kind, n.class, n.labels = identityEnd, e.identityClass(s, labels), labels
	return nil
}

// identityClass returns the class of pods with the labels, of which there need not
// be any.
func (e *Engine) identityClass(s *shard, set map[string]string) *class {
	key := classKey(set)
	if c := s.classes[key]; c != nil {
		return c
	}
	return e.newClass(s, key, newLabelSet(set))
}

// resolveAddr resolves a bare address: to the pod that owns it, to a node, or to
// nothing that the snapshot knows.
func (n *end) resolveAddr(e *Engine) *cause {
	a := n.addr
	switch {
	case !a.IsValid():
		return &cause{RuleIncomplete, "an end of the flow is neither a pod nor an address"}
	case a.IsUnspecified() || a.IsMulticast():
		return &cause{RuleIncomplete, fmt.Sprintf("%s is not the address of one end", a)}
	case a.IsLoopback():
		n.kind = loopbackEnd
		return nil
	}
	n.kind = externalEnd
	known := e.addressOf(a)
	switch {
	case known == nil:
	case len(known.owners) > 1:
		return &cause{RuleIncomplete, fmt.Sprintf("pods %s and %s both have the address %s", known.owners[0], known.owners[1], a)}
	case len(known.owners) == 1:
		owner := known.owners[0]
		return n.resolvePod(e.shards[owner.namespace], owner.namespace, owner.name)
	case known.hosts > 0:
		n.kind = nodeEnd
		for _, p := range known.processes {
			n.processes = append(n.processes, resident{p, e.classOf(p)})
		}
	}
	return nil
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
	return &cause{ruleFamily, fmt.Sprintf("%s and %s have no addresses of the same family", from.String(), to.String())}
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
	v := view{end: *n}
	v.seePlainly()
	return v
}

// seePlainly makes the view that of an end that looks the same to everybody.
func (v *view) seePlainly() {
	isPod := v.class != nil
	v.policed, v.selectable = isPod, isPod
}

// view returns one of the things that the end may be under a reading, by its index;
// false when there are no more. A bare address of a node may be the node itself or, if
// they can be told apart, any host-network pod on it.
func (n *end) view(r reading, i int) (view, bool) {
	asNode := *n
	asNode.kind, asNode.class = nodeEnd, nil
	asPod := func(p resident) view {
		pod := *n
		pod.kind, pod.class, pod.pod = podEnd, p.class, p.pod
		return view{end: pod, policed: r.policed, selectable: r.selectable}
	}
	switch {
	case !n.onHost():
		return n.plain(), i == 0
	case r == hostReadings[0]:
		return view{end: asNode}, i == 0
	case n.pod != nil:
		return asPod(resident{n.pod, n.class}), i == 0
	case i == 0:
		return view{end: asNode}, true
	case i <= len(n.processes):
		return asPod(n.processes[i-1]), true
	}
	return view{}, false
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
