package diagnosis

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
)

// group are rows with one verdict that can be said in one line.
type group struct {
	nodes      []string
	directions []v1alpha1.CanaryDirection
	features   []v1alpha1.CanaryFeature
	// reason is that of the first row.
	reason string
}

// groups gathers the rows with a verdict: first the features of a node's direction, then
// directions with the same features, then nodes with the same of both.
func (r *Report) groups(v canary.Verdict) []group {
	var out []group
	for i := range r.Nodes {
		for _, g := range r.Nodes[i].groups(v) {
			if j := slices.IndexFunc(out, func(o group) bool {
				return slices.Equal(o.directions, g.directions) && slices.Equal(o.features, g.features)
			}); j >= 0 {
				out[j].nodes = append(out[j].nodes, g.nodes...)
				continue
			}
			out = append(out, g)
		}
	}
	return out
}

func (n *Node) groups(v canary.Verdict) []group {
	var out []group
	for _, d := range []v1alpha1.CanaryDirection{v1alpha1.DirectionIngress, v1alpha1.DirectionEgress} {
		g := group{nodes: []string{n.Name}, directions: []v1alpha1.CanaryDirection{d}}
		for _, row := range n.Rows {
			if row.Direction == d && row.Verdict == v {
				g.features = append(g.features, row.Feature)
				if g.reason == "" {
					g.reason = row.Reason
				}
			}
		}
		switch {
		case len(g.features) == 0:
		case len(out) > 0 && slices.Equal(out[0].features, g.features):
			out[0].directions = append(out[0].directions, d)
		default:
			out = append(out, g)
		}
	}
	return out
}

// mostNamed bounds the nodes that are named in a line.
const mostNamed = 5

func (r *Report) nodeWords(names []string) string {
	switch {
	case len(names) == len(r.Nodes) && len(names) > 1:
		return "every node"
	case len(names) > mostNamed:
		return fmt.Sprintf("%s and %d more nodes", strings.Join(names[:mostNamed], ", "), len(names)-mostNamed)
	}
	return strings.Join(names, ", ")
}

func directionWords(d []v1alpha1.CanaryDirection) string {
	if len(d) == 2 {
		return "ingress and egress"
	}
	return strings.ToLower(string(d[0]))
}

func (r *Report) featureWords(features []v1alpha1.CanaryFeature) string {
	if len(features) == len(r.Features) && len(features) > 1 {
		return fmt.Sprintf("all %d features", len(features))
	}
	without := r.unsupported()
	if supported := len(r.Features) - len(without); len(features) == supported && supported > 1 &&
		!slices.ContainsFunc(features, func(f v1alpha1.CanaryFeature) bool { return slices.Contains(without, f) }) {
		return fmt.Sprintf("all %d features that are supported", supported)
	}
	var out []string
	for _, f := range features {
		out = append(out, string(f))
	}
	return strings.Join(out, ", ")
}

func (r *Report) groupWords(g group) string {
	return fmt.Sprintf("%s on %s (%s)", r.featureWords(g.features), r.nodeWords(g.nodes), directionWords(g.directions))
}

// summary says in a sentence or two what was found.
func (r *Report) summary(obstacle string) string {
	switch r.Verdict {
	case canary.NotEnforced:
		return r.notEnforced()
	case canary.Enforced:
		return r.enforced("NetworkPolicies are enforced on ")
	default:
		if obstacle == "" {
			obstacle = r.doubt()
		}
		if r.count(canary.Enforced) > 0 {
			return "Not everything could be found out: " + obstacle + ". " + r.enforced("As far as is known, NetworkPolicies are enforced on ")
		}
		return "It could not be found out whether NetworkPolicies are enforced: " + obstacle + "."
	}
}

// enforced counts the nodes that are known to enforce, after a beginning.
func (r *Report) enforced(beginning string) string {
	proven := 0
	for i := range r.Nodes {
		if r.Nodes[i].proven() {
			proven++
		}
	}
	text := fmt.Sprintf("%s%d of %d nodes, ingress and egress", beginning, proven, r.NodesChosen)
	switch {
	case r.NodesChosen == 1 && proven == 1:
		text = beginning + "the one node, ingress and egress, as far as traffic within a node goes"
	case r.Verdict == canary.Enforced && proven < r.NodesChosen:
		text = fmt.Sprintf("%sall %d nodes that were tested, of %d, ingress and egress", beginning, proven, r.NodesChosen)
	}
	if features := r.unsupported(); len(features) > 0 {
		text += "; unsupported: " + r.featureWords(features)
	}
	return text + "."
}

// unsupported lists the features that some node lacks.
func (r *Report) unsupported() []v1alpha1.CanaryFeature {
	var out []v1alpha1.CanaryFeature
	for _, f := range r.Features {
		if slices.ContainsFunc(r.Nodes, func(n Node) bool {
			return slices.ContainsFunc(n.Rows, func(row Row) bool { return row.Feature == f && row.Verdict == canary.Unsupported })
		}) {
			out = append(out, f)
		}
	}
	return out
}

func (r *Report) notEnforced() string {
	nodes := 0
	leak := false
	for i := range r.Nodes {
		if r.Nodes[i].count(canary.NotEnforced) > 0 {
			nodes++
		}
		leak = leak || slices.ContainsFunc(r.Nodes[i].Rows, func(row Row) bool {
			// Of a default deny, nothing can be blocked that should not be.
			return row.Feature == v1alpha1.FeatureDefaultDeny && row.Verdict == canary.NotEnforced
		})
	}
	var text string
	if r.count(canary.Enforced) == 0 && leak {
		text = fmt.Sprintf("NetworkPolicies are NOT enforced on this cluster: on %d of %d nodes, traffic gets through that no rule allows", nodes, r.NodesChosen)
	} else {
		var parts []string
		groups := r.groups(canary.NotEnforced)
		for _, g := range groups[:min(len(groups), 3)] {
			parts = append(parts, r.groupWords(g))
		}
		if more := len(groups) - len(parts); more > 0 {
			parts = append(parts, fmt.Sprintf("and %d more, see below", more))
		}
		text = fmt.Sprintf("NetworkPolicies are NOT fully enforced: on %d of %d nodes, the network does not do what they say: %s", nodes, r.NodesChosen, strings.Join(parts, "; "))
	}
	if n := r.count(canary.Unknown); n > 0 {
		text += fmt.Sprintf(". Of %d rows more, nothing could be found out", n)
	}
	return text + "."
}

// doubt says what keeps the answer open.
func (r *Report) doubt() string {
	if groups := r.groups(canary.Unknown); len(groups) > 0 {
		g := groups[0]
		return r.groupWords(g) + ": " + g.reason
	}
	for _, l := range r.LeftOut {
		if l.matters() {
			return "node " + l.Node + " was not tested: " + l.Message
		}
	}
	for i := range r.Nodes {
		if r.Nodes[i].count(canary.Enforced) == 0 {
			return "nothing that was asked for could be tested on node " + r.Nodes[i].Name + ": " + r.Nodes[i].Rows[0].Reason
		}
	}
	return "no node was tested"
}

// untested says what was not tested, and why.
func (r *Report) untested(obstacle string) []string {
	var out []string
	byReason := map[string][]string{}
	messages := map[string]string{}
	var reasons []string
	for _, l := range r.LeftOut {
		key := l.Reason + "\x00" + l.Message
		if byReason[key] == nil {
			reasons = append(reasons, key)
			messages[key] = l.Message
		}
		byReason[key] = append(byReason[key], l.Node)
	}
	for _, key := range reasons {
		names := byReason[key]
		text := strings.Join(names[:min(len(names), mostNamed)], ", ")
		if more := len(names) - mostNamed; more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
		out = append(out, fmt.Sprintf("%s: %s", text, messages[key]))
	}
	if len(r.Nodes) == 1 && obstacle == "" {
		out = append(out, "traffic between nodes: one node was tested, so that all results are of traffic within it")
	}
	return out
}

// next says what to do next.
func (r *Report) next(obstacle string) []string {
	var active, passive []string
	for _, i := range r.Implementations {
		if i.EnforcesNothing {
			passive = append(passive, i.Name)
		} else {
			active = append(active, i.Name)
		}
	}
	switch {
	case r.Verdict == canary.Enforced:
		return []string{
			"Declare which paths must be open and which closed, with ConnectivityExpectations: doctor knows of the network, and nothing of your policies.",
			"Have it watched: the EnforcementCanary tests the same all the time, on every node (docs/canary.md).",
		}
	case r.Verdict == canary.Unknown && obstacle != "":
		return nil
	case r.Verdict == canary.Unknown:
		return []string{"Run it again when what is named above has been dealt with, or for some of the nodes only (--nodes, --selector)."}
	case r.count(canary.Enforced) == 0 && len(active) > 0:
		return []string{fmt.Sprintf("%s was recognised: check that its agent runs on the nodes, and that NetworkPolicies are switched on in its configuration.", strings.Join(active, " and "))}
	case r.count(canary.Enforced) == 0 && len(passive) > 0:
		return []string{fmt.Sprintf("%s enforces no NetworkPolicy by itself: install an implementation beside it, or another network plugin, that does.", strings.Join(passive, " and "))}
	case r.count(canary.Enforced) == 0:
		return []string{"Install a network plugin that enforces NetworkPolicies, or switch the enforcement of yours on; until then, every NetworkPolicy of this cluster is without effect."}
	}
	var out []string
	for i := range r.Nodes {
		if r.Nodes[i].count(canary.NotEnforced) > 0 && len(out) < 3 && r.count(canary.NotEnforced) > 0 && !r.everywhere() {
			out = append(out, fmt.Sprintf("Look at the network's agent on %s: kubectl get pods -A -o wide --field-selector spec.nodeName=%[1]s", r.Nodes[i].Name))
		}
	}
	return append(out, "Do not rely on policies that use what is not enforced, and ask the network's documentation for it.")
}

// everywhere tells whether every node has something that is not enforced: then it is the
// network, and no single agent.
func (r *Report) everywhere() bool {
	return !slices.ContainsFunc(r.Nodes, func(n Node) bool { return n.count(canary.NotEnforced) == 0 })
}
