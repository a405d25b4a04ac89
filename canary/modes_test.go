package canary

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/test/lab/agent"
)

// labNode is what the lab's agent on a node has in force.
type labNode struct{ agent.Ruleset }

// passes tells whether the agent lets a packet through in one direction, whose other end
// is peer.
func (n labNode) passes(guarded, peer netip.Addr, ingress bool, p Probe) bool {
	protocol := corev1.Protocol(p.Transport.Protocol())
	if n.Off || slices.Contains(n.Unpoliced, protocol) || (n.IPv6Unpoliced && peer.Is6()) {
		return true
	}
	i := slices.IndexFunc(n.Guards, func(g agent.Guard) bool { return g.Addr == guarded })
	if i < 0 {
		return true
	}
	chain := n.Guards[i].Egress
	if ingress {
		chain = n.Guards[i].Ingress
	}
	matches := func(a agent.Allow) bool {
		peers := a.Peers == nil || slices.ContainsFunc(a.Peers, func(q agent.Peer) bool {
			return q.Prefix.Contains(peer) && !slices.ContainsFunc(q.Except, func(e netip.Prefix) bool { return e.Contains(peer) })
		})
		ports := a.Ports == nil || slices.ContainsFunc(a.Ports, func(m agent.PortMatch) bool {
			return m.Protocol == protocol && (m.First == 0 || (m.First <= int32(p.Port) && int32(p.Port) <= m.Last))
		})
		return peers && ports
	}
	if chain == nil {
		return true
	}
	for _, ruling := range chain.Admin {
		if matches(ruling.Allow) && ruling.Action == policyv1alpha2.ClusterNetworkPolicyRuleActionDeny {
			return false
		}
	}
	return !chain.Isolated || slices.ContainsFunc(chain.Allow, matches)
}

// answers tells whether the agent lets the answers out of, or in to, an isolated pod.
func (n labNode) answers(guarded netip.Addr, ingress bool) bool {
	i := slices.IndexFunc(n.Guards, func(g agent.Guard) bool { return g.Addr == guarded })
	return !n.RepliesDropped || i < 0 || (ingress && n.Guards[i].Ingress == nil) || (!ingress && n.Guards[i].Egress == nil)
}

// lab is two nodes, of which b misbehaves.
func lab(t *testing.T, mode string) map[string]labNode {
	t.Helper()
	s := agent.Snapshot{
		Policies: Policies("c", everything()), Namespaces: map[string]map[string]string{},
		ClusterPolicies: []*policyv1alpha2.ClusterNetworkPolicy{ClusterPolicy("default", "c")},
	}
	for _, ns := range []string{"c", "c" + AbroadSuffix} {
		s.Namespaces[ns] = map[string]string{corev1.LabelMetadataName: ns, Label: "default"}
	}
	_, _, named := Listeners()
	var plain []netip.Addr
	for _, node := range []string{"a", "b"} {
		plain = append(plain, address(node, Plain, false))
		for _, r := range Roles() {
			s.Pods = append(s.Pods, agent.Pod{
				Namespace: NamespaceOf("c", r), Name: string(r) + "-" + node, Node: node,
				Labels: map[string]string{Label: "default", RoleLabel: string(r), NodeLabel: NodeID(node)},
				Addrs:  []netip.Addr{address(node, r, false), address(node, r, true)},
				Ports:  []agent.NamedPort{{Name: NamedPort, Protocol: corev1.ProtocolTCP, Port: int32(named)}},
			})
		}
	}
	for _, node := range []string{"a", "b"} {
		s.Policies = append(s.Policies, BlockPolicy("c", node, plain, plain))
	}
	out := map[string]labNode{}
	for node, name := range map[string]string{"a": agent.ModeCorrect, "b": mode} {
		m, err := agent.ParseMode(name)
		if err != nil {
			t.Fatal(err)
		}
		s.Node = node
		out[node] = labNode{agent.Compile(s, m)}
	}
	return out
}

// onLab is what a round from a node to another shows.
func onLab(nodes map[string]labNode, rows []Row, from, to string) Pair {
	o := Pair{From: from, To: to, Outcomes: map[Probe]wire.Outcomes{}, Listening: true, Awake: true}
	for _, role := range Roles() {
		for _, p := range Probes(rows, role) {
			source, target := address(from, p.From, p.IPv6), address(to, p.To, p.IPv6)
			through := nodes[from].passes(source, target, false, p) && nodes[to].passes(target, source, true, p) &&
				nodes[from].answers(source, false) && nodes[to].answers(target, true)
			o.Outcomes[p] = three(map[bool]wire.Outcome{true: wire.Replied, false: wire.TimedOut}[through])
		}
	}
	return o
}

// Every way in which the lab's agent misbehaves on a node shows in the rows of that node
// that it should, and in no other row and on no other node.
func TestModesOfTheLab(t *testing.T) {
	rows := Rows(everything())
	in, out := v1alpha1.DirectionIngress, v1alpha1.DirectionEgress
	want := map[string]map[Name]Verdict{
		agent.ModeOff:                      union(all(NotEnforced, in), all(NotEnforced, out)),
		agent.ModeIngressIgnored:           all(NotEnforced, in),
		agent.ModeEgressIgnored:            all(NotEnforced, out),
		agent.ModeUDPIgnored:               both(NotEnforced, v1alpha1.FeatureUDP),
		agent.ModeSCTPIgnored:              both(NotEnforced, v1alpha1.FeatureSCTP),
		agent.ModeIPv6Ignored:              both(NotEnforced, v1alpha1.FeatureIPv6),
		agent.ModeEndPortIgnored:           both(NotEnforced, v1alpha1.FeatureEndPort),
		agent.ModeEndPortSingle:            both(Unsupported, v1alpha1.FeatureEndPort),
		agent.ModeExceptIgnored:            both(NotEnforced, v1alpha1.FeatureIPBlock),
		agent.ModeNamespaceSelectorIgnored: both(NotEnforced, v1alpha1.FeatureNamespaceSelector),
		agent.ModeNamedPortsUnresolved:     both(NotEnforced, v1alpha1.FeatureNamedPort),
		agent.ModeClusterPoliciesIgnored:   both(NotEnforced, v1alpha1.FeatureClusterNetworkPolicy),
		agent.ModeRepliesDropped:           union(all(NotEnforced, in, v1alpha1.FeatureDefaultDeny), all(NotEnforced, out, v1alpha1.FeatureDefaultDeny)),
	}
	for _, mode := range agent.Modes {
		t.Run(mode.Name, func(t *testing.T) {
			nodes := lab(t, mode.Name)
			for _, node := range []string{"a", "b"} {
				other := map[string]string{"a": "b", "b": "a"}[node]
				got := map[Name]Verdict{}
				for _, row := range rows {
					across := onLab(nodes, rows, other, node)
					if row.Direction == out {
						across = onLab(nodes, rows, node, other)
					}
					res := Combine([]Result{Judge(row, onLab(nodes, rows, node, node))}, []Result{Judge(row, across)})
					if res.Verdict != Enforced {
						got[row.Name()] = res.Verdict
					}
				}
				expected := map[Name]Verdict{}
				if node == "b" {
					expected = want[mode.Name]
				}
				if !maps.Equal(got, expected) {
					t.Errorf("node %s: got %v, want %v", node, fmt.Sprint(got), fmt.Sprint(expected))
				}
			}
		})
	}
}
