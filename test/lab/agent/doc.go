// Package agent enforces NetworkPolicies and ClusterNetworkPolicies on one node of the
// lab.
//
// It is a test fixture: the independent half of a pair. The project's
// evaluator predicts what a policy does, this agent does it, and the
// end-to-end tests compare the two. The package is therefore written from the
// text of these APIs alone and must never import anything of the
// project, or both halves could share one misreading.
//
// Compile is pure: a [Snapshot] of pods, namespaces and policies becomes a
// [Ruleset], and [Ruleset.Text] writes that as one nftables transaction that
// replaces the node's whole table. [Run] watches the API server and hands each
// new text to nft.
//
// Each node polices only the pods that run on it: what leaves them (egress)
// and what reaches them (ingress). A flow between two nodes thus passes two
// agents, and one of them can be told to misbehave ([Mode]) while the other
// stays correct.
//
// What the API text leaves open, this agent decides as follows:
//
//   - an ipBlock matches pod addresses as well as outside ones;
//   - a pod on the host's network is neither selected nor a peer;
//   - of two ClusterNetworkPolicies of a tier and priority, the name decides which comes
//     first;
//   - a connection that was accepted once is kept when a policy changes;
//   - what is denied is denied for every IP protocol, ICMP too, but for IPv6's
//     neighbour discovery;
//   - a rule that allows pods allows both of their addresses, an ipBlock those of
//     its own family only;
//   - what the pod's own node sends is never denied: it leaves through the
//     output hook, and only the forward hook is policed.
package agent
