package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
)

// provenance hashes what the edges and their predictions depend on, and nothing else:
// for each edge where it is probed from and to, what the predictions say, and what
// they rest on. Beside that, what is assumed of the implementation, and the obstacles.
// Restarted source pods (unless policies tell them apart), changed annotations and
// policies that select neither end leave it as it is.
func provenance(in Input, p *Predictor, res *Resolution) string {
	h := sha256.New()
	for _, e := range res.Edges {
		// Which node comes first hangs on the names of the source's pods.
		nodes := strings.Join(slices.Sorted(slices.Values(e.Source.Nodes)), ",")
		fmt.Fprintf(h, "edge %s %s %s %v %v\n", e.ID(), e.Source.Key, nodes, e.Target.Ready, e.Target.Node)
		hashDecision(h, &e.Prediction)
		hashDecision(h, &e.Workload)
		if e.Transport.IsDNS() {
			fmt.Fprintf(h, "resolvers %s\n", e.Source.resolverText())
		}
		fmt.Fprintf(h, "rests on %s\n", p.Grounds(e, in.Learned[e.LearnedAs()]))
	}
	for _, o := range res.Obstacles {
		fmt.Fprintf(h, "obstacle %s %s %s\n", o.Path, o.Reason, o.Target)
	}
	// What is assumed of the implementation is part of every prediction.
	fmt.Fprintf(h, "profile %s\n", in.Snapshot.Profile)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// hashDecision hashes an answer without its words. That is not the same as hashing
// what it rests on: while the probe has no address, it depends on a likely one.
func hashDecision(h io.Writer, d *evaluator.Decision) {
	fmt.Fprintf(h, "decision %s %s\n", d.Verdict, d.Rule)
	for _, side := range []*evaluator.DirectionDecision{&d.Egress, &d.Ingress} {
		fmt.Fprintf(h, "side %s %s %s %v %v\n", side.Verdict, side.Tier, side.Rule, side.Selecting, side.Isolating)
		for _, rule := range []*evaluator.RuleRef{side.AllowedBy, side.DeniedBy, side.PassedBy} {
			if rule != nil {
				fmt.Fprintf(h, "%s %d", rule.PolicyRef, rule.Index)
			}
			fmt.Fprintln(h)
		}
	}
}

// Grounds is a hash of what every prediction of an edge rests on: the objects at both
// ends that the evaluator names, as far as they count. tried holds the addresses that the
// probe has tried of a host, or has found for nameservers. Predictors of two snapshots that return the same for
// an edge predict it the same from any address.
func (p *Predictor) Grounds(e *Edge, tried []netip.Addr) string {
	g := &grounds{records: map[string]bool{}, blocks: map[netip.Prefix]bool{}, at: map[netip.Addr]bool{}}
	for _, b := range p.sides(e.Source) {
		p.addEnd(g, sourceSide, "", b)
	}
	if !e.Learns() {
		p.addTargets(g, "", p.targets(e, nil))
	}
	for _, addr := range tried {
		found, behind := p.backendsAt(addr, e.Transport, e.Port), p.exposed(addr, e.Transport, e.Port)
		p.addTargets(g, addr.String(), behind)
		itself := len(found) == 1 && found[0].Endpoint.Namespace == "" && found[0].Endpoint.Addr == addr
		if b := p.engine.TargetBasis(flow.Endpoint{Addr: addr}); itself && len(b.Objects) == 0 && !b.Node {
			// Nothing of the cluster is at that address, and which of the many outside of it
			// the next resolver returns is no change.
			continue
		}
		g.records["tried "+addr.String()] = true
		p.addTargets(g, addr.String(), found)
	}
	if g.byController {
		for _, l := range e.Source.variants {
			g.records["variant "+flow.FormatLabels(l)] = true
		}
	}
	// Whether a block holds all pods of the source is part of its prediction, and which of
	// their addresses it holds is not.
	for _, a := range e.Source.addrs {
		if class := g.class(a); class != "" {
			g.records["address "+class] = true
		}
	}
	h := sha256.New()
	for _, r := range slices.Sorted(maps.Keys(g.records)) {
		fmt.Fprintln(h, r)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// sourceSide marks what is about the source of an edge.
const sourceSide = "source"

// grounds collects the records of one edge.
type grounds struct {
	records map[string]bool
	// byController is set when one of the policies tells pods of the source apart by what
	// their controllers set.
	byController bool
	// blocks are those by which the policies of the targets may tell them apart, and at the
	// addresses of the targets.
	blocks map[netip.Prefix]bool
	at     map[netip.Addr]bool
}

// class is what policies may see of an address of the source; empty if that is nothing.
func (g *grounds) class(a netip.Addr) string {
	if len(g.blocks) == 0 {
		return ""
	}
	if g.at[a] {
		return a.String() // a pod that talks to itself
	}
	held := []string{FamilyOf(a)}
	for b := range g.blocks {
		if b.Contains(a) {
			held = append(held, b.String())
		}
	}
	slices.Sort(held)
	return strings.Join(held, " ")
}

// addTargets adds what an edge may end at, or one that tries an address.
func (p *Predictor) addTargets(g *grounds, at string, list []Backend) {
	for _, t := range list {
		if t.Endpoint.Addr.IsValid() {
			g.at[t.Endpoint.Addr] = true
		}
		p.addEnd(g, "target "+at, fmt.Sprintf("%s %s %d", t.Endpoint, t.Endpoint.Addr, t.Port), p.engine.TargetBasis(t.Endpoint))
	}
}

func (p *Predictor) addEnd(g *grounds, side, name string, b evaluator.Basis) {
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s %v", side, name, b.Node)
	for _, key := range b.Objects {
		r := p.record(key)
		g.byController = g.byController || r.byController
		if side != sourceSide {
			// Those of the source's own policies are about what it is sent.
			for _, b := range r.blocks {
				g.blocks[b] = true
			}
		}
		text.WriteString(" " + r.hash)
	}
	g.records[text.String()] = true
}

// sides returns the different bases of what policies may see of a source. Label sets
// that policies do not tell apart have one: which label sets there are changes with
// every rollout.
func (p *Predictor) sides(s *Source) []evaluator.Basis {
	if known, ok := p.bases[s]; ok {
		return known
	}
	var out []evaluator.Basis
	for _, from := range s.identities() {
		b := p.engine.SourceBasis(from)
		if !slices.ContainsFunc(out, func(o evaluator.Basis) bool { return slices.Equal(o.Objects, b.Objects) }) {
			out = append(out, b)
		}
	}
	p.bases[s] = out
	return out
}

// record is what counts of an object.
type record struct {
	hash         string
	byController bool
	// blocks are the ranges of a policy that may tell pods of a source apart.
	blocks []netip.Prefix
}

// record returns what counts of an object. One that the snapshot does not hold is no
// more than its name.
func (p *Predictor) record(key evaluator.Key) record {
	if r, ok := p.records[key]; ok {
		return r
	}
	if p.objects == nil {
		p.objects = indexObjects(p.snapshot)
	}
	var r record
	texts := []string{}
	for _, o := range p.objects[key] {
		text := ""
		switch o := o.(type) {
		case *corev1.Pod:
			text = podText(o)
		case *corev1.Namespace:
			text = fmt.Sprintf("%s %v", flow.FormatLabels(o.Labels), o.DeletionTimestamp != nil || o.Status.Phase == corev1.NamespaceTerminating)
		case *networkingv1.NetworkPolicy:
			text = specText(o.Spec)
			r.byController = r.byController || selectsByController(o)
			if p.snapshot.admitsPodsByBlock(o) {
				r.blocks = append(r.blocks, ingressRanges(o)...)
			}
		case clusterWide:
			text = specText(o.spec)
			r.byController = r.byController || slices.ContainsFunc(o.pods, namesController)
		}
		texts = append(texts, text)
	}
	// A manifest may define an object twice, and a cache lists objects in no order.
	slices.Sort(texts)
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q", key, texts))
	r.hash = hex.EncodeToString(sum[:16])
	p.records[key] = r
	return r
}

// ingressRanges lists the ranges, and those that are left out of them, of the ingress rules of
// a policy. What cannot be parsed is part of no answer.
func ingressRanges(o *networkingv1.NetworkPolicy) []netip.Prefix {
	var out []netip.Prefix
	for _, rule := range o.Spec.Ingress {
		for _, block := range blocks(rule.From) {
			for _, text := range append([]string{block.CIDR}, block.Except...) {
				if prefix, err := netip.ParsePrefix(text); err == nil {
					out = append(out, prefix.Masked())
				}
			}
		}
	}
	return out
}

// indexObjects finds the objects of a snapshot by their keys.
func indexObjects(s Snapshot) map[evaluator.Key][]any {
	out := map[evaluator.Key][]any{}
	add := func(kind, namespace, name string, o any) {
		key := evaluator.Key{Kind: kind, Namespace: namespace, Name: name}
		out[key] = append(out[key], o)
	}
	for _, o := range s.Pods {
		add(evaluator.KindPod, o.Namespace, o.Name, o)
	}
	for _, o := range s.Namespaces {
		add(evaluator.KindNamespace, "", o.Name, o)
	}
	for _, o := range s.NetworkPolicies {
		add(evaluator.KindNetworkPolicy, o.Namespace, o.Name, o)
	}
	for _, o := range clusterWidePolicies(s) {
		add(o.kind, "", o.name, o)
	}
	return out
}

// specText writes down a spec. One of API types always marshals.
func specText(spec any) string {
	text, _ := json.Marshal(spec)
	return string(text)
}

// podText is what policies see of a pod, and which pod it is: one that took another's
// place is another to what enforces the policies.
func podText(o *corev1.Pod) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %v %v %s %v", o.UID, flow.FormatLabels(o.Labels), o.Spec.HostNetwork,
		o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed, o.Status.PodIP, o.Status.PodIPs)
	if o.Spec.HostNetwork {
		fmt.Fprintf(&b, " %s %v", o.Status.HostIP, o.Status.HostIPs)
	}
	for _, c := range slices.Concat(o.Spec.InitContainers, o.Spec.Containers) {
		sidecar := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		for _, port := range c.Ports {
			fmt.Fprintf(&b, " port %v %s %s %d", sidecar, port.Name, port.Protocol, port.ContainerPort)
		}
	}
	return b.String()
}
