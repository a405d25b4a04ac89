package plan

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// controllerLabels are set by workload controllers on the pods they own. A probe
// pod that carried them could be adopted by such a controller, which would then
// delete it, or a real pod in its place.
var controllerLabels = []string{
	"pod-template-hash",
	"pod-template-generation",
	"controller-revision-hash",
	"statefulset.kubernetes.io/pod-name",
	"apps.kubernetes.io/pod-index",
	"batch.kubernetes.io/controller-uid",
	"batch.kubernetes.io/job-name",
	"batch.kubernetes.io/job-completion-index",
	"controller-uid",
	"job-name",
}

// IsControllerLabel tells whether workload controllers set a label, and not those
// who write workloads.
func IsControllerLabel(key string) bool { return slices.Contains(controllerLabels, key) }

// resolver carries what the steps of Resolve share.
type resolver struct {
	in      Input
	ns      string
	res     *Resolution
	sources map[string]*Source
	// matched and probed keep the pods of the coverage counts apart from each
	// other when several paths select the same pod.
	sourcePods, targetPods, probedPods map[string]bool
	// sourceTurns are, of the path that is being resolved, how many turns the nodes of
	// each source take. matched are the target pods of that path and their nodes, sourceOn
	// the nodes of its sources.
	sourceTurns []int
	matched     map[string]string
	sourceOn    map[string][]string
	// reaches tells whether a source of that path has an address of a target's family.
	reaches func(netip.Addr) bool
}

// Resolve finds the edges of an expectation, and predicts them. Their order is that of
// the paths in the spec, then by source, target and port.
func Resolve(in Input) *Resolution {
	r := &resolver{
		in: in, ns: in.Expectation.Namespace, res: &Resolution{Extent: &Extent{paths: map[string]*pathExtent{}}}, sources: map[string]*Source{},
		sourcePods: map[string]bool{}, targetPods: map[string]bool{}, probedPods: map[string]bool{},
	}
	for i := range in.Expectation.Spec.Paths {
		r.path(&in.Expectation.Spec.Paths[i])
	}
	r.res.SourcesMatched, r.res.TargetsMatched, r.res.TargetsProbed = len(r.sourcePods), len(r.targetPods), len(r.probedPods)
	if n := len(r.res.Edges); n > MaxEdges {
		first := r.res.Edges[MaxEdges]
		r.res.Obstacles = append(r.res.Obstacles, Obstacle{
			Path: first.Path, Declared: first.Declared, Reason: TooManyChecks, Source: first.Source.Name, Target: first.Target.Name,
			Message: fmt.Sprintf("the expectation resolves to %d checks and a run makes %d: lower coverage.maxSources or maxTargets, or split the expectation", n, MaxEdges),
		})
		r.res.Edges = r.res.Edges[:MaxEdges]
	}
	r.res.Predictor = NewPredictor(in.Engine, in.Snapshot)
	r.res.Predictor.learned = in.Learned
	r.res.Predictor.Predict(r.res.Edges)
	r.res.Provenance = provenance(in, r.res.Predictor, r.res)
	return r.res
}

func (r *resolver) path(p *v1alpha1.Path) {
	if from := string(p.From.Namespace); from != "" && from != r.ns {
		r.obstacle(p, SourceNamespaceRefused, fmt.Sprintf("from.namespace is %s: an expectation probes from its own namespace only; create it in %s instead", from, from), describeSource(from, p.From), "")
		return
	}
	r.sourceTurns, r.matched, r.sourceOn, r.reaches = nil, map[string]string{}, map[string][]string{}, nil
	sources, why := r.resolveSources(p)
	if len(sources) == 0 {
		r.obstacle(p, NoSourceMatched, why, describeSource(r.ns, p.From), "")
		return
	}
	r.reaches = func(a netip.Addr) bool {
		return p.From.Identity != nil || slices.ContainsFunc(sources, func(s *Source) bool { return s.reaches(a) })
	}
	obstacles := len(r.res.Obstacles)
	targets := r.targets(p, sources)
	if len(targets) == 0 && len(r.res.Obstacles) == obstacles {
		// A path that silently vanished would leave the rest green.
		r.obstacle(p, NoTargetMatched, "the target resolves to nothing that could be probed", describeSource(r.ns, p.From), "")
	}
	if p.To == nil || p.To.PodSelector == nil {
		for _, t := range targets {
			if question := t.edge.Question(); question != "" {
				// Which of the resolvers a pod has is not known yet.
				r.matched[question] = ""
				continue
			}
			r.matched[t.edge.Target.Name] = ""
			if t.edge.Target.Kind == TargetPod {
				r.matched[t.edge.Target.Name] = t.edge.Target.Node
			}
		}
	}
	r.res.Extent.add(p.Name, r.sourceOn, r.matched)
	r.edges(p, sources, targets)
}

func (r *resolver) obstacle(p *v1alpha1.Path, reason, message, source, target string) {
	r.res.Obstacles = append(r.res.Obstacles, Obstacle{
		Path: p.Name, Declared: p.Expect, Reason: reason, Message: message, Source: source, Target: target,
	})
}

// resolveSources returns the identities that a path begins at, or says why there
// is none.
func (r *resolver) resolveSources(p *v1alpha1.Path) ([]*Source, string) {
	if p.From.Identity != nil {
		s := r.source(v1alpha1.PlainLabels(p.From.Identity.Labels), nil)
		for _, k := range r.in.Sampling.Keep {
			if k.Source == s.Name && k.SourceNode != "" && !slices.Contains(s.kept, k.SourceNode) {
				s.kept = append(s.kept, k.SourceNode)
			}
		}
		slices.Sort(s.kept)
		r.sourceOn[s.Name] = s.allNodes
		return []*Source{s}, ""
	}
	selector, err := metav1.LabelSelectorAsSelector(p.From.PodSelector.AsMeta())
	if err != nil {
		return nil, fmt.Sprintf("from.podSelector cannot be parsed: %v", err)
	}
	groups := map[string][]*corev1.Pod{}
	hostNetwork := 0
	for _, pod := range r.in.Snapshot.Pods {
		if pod.Namespace != r.ns || !isLive(pod) || !selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		if pod.Spec.HostNetwork {
			hostNetwork++
			continue
		}
		r.sourcePods[pod.Namespace+"/"+pod.Name] = true
		key := flow.FormatLabels(IdentityLabels(pod.Labels))
		groups[key] = append(groups[key], pod)
	}
	var out []*Source
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		pods := groups[key]
		slices.SortFunc(pods, byName)
		s := r.source(IdentityLabels(pods[0].Labels), pods[0])
		// Another path may select other pods of the identity, on other nodes.
		s.Nodes = union(s.Nodes, r.sourceNodes(s, pods))
		s.allNodes = union(s.allNodes, sortedNodes(pods))
		r.sourceOn[s.Name] = sortedNodes(pods)
		s.addVariants(pods)
		out = append(out, s)
	}
	if len(out) == 0 && hostNetwork > 0 {
		return nil, fmt.Sprintf("only host-network pods match %s: they have no identity of their own that could be probed", describeSource(r.ns, p.From))
	}
	return out, "no running pod matches " + describeSource(r.ns, p.From)
}

// union returns the first list with what only the second has at its end.
func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, o := range b {
		if !slices.Contains(out, o) {
			out = append(out, o)
		}
	}
	return out
}

// source returns the one Source of an identity. An existing workload and an
// identity with the same labels are the same to every policy.
func (r *resolver) source(l map[string]string, workload *corev1.Pod) *Source {
	s := newSource(r.ns, l)
	if known, ok := r.sources[s.Key]; ok {
		s = known
	} else {
		r.sources[s.Key] = s
	}
	if s.Workload == nil {
		s.Workload = workload
	}
	return s
}

// newSource returns an identity that need not exist.
func newSource(namespace string, l map[string]string) *Source {
	return &Source{
		Key: flow.ID("source", namespace, flow.FormatLabels(l)), Namespace: namespace, Labels: l,
		Name: flow.Endpoint{Namespace: namespace, Labels: l}.String(),
	}
}

// addVariants notes the different label sets and the addresses of the pods that the
// source stands for: a policy may tell them apart although the probe cannot.
func (s *Source) addVariants(pods []*corev1.Pod) {
	if s.seen == nil {
		s.seen = map[string]bool{}
	}
	for _, pod := range pods {
		if key := flow.FormatLabels(pod.Labels); !s.seen[key] {
			s.seen[key] = true
			s.variants = append(s.variants, pod.Labels)
		}
		s.addrs = append(s.addrs, podAddrs(pod)...)
	}
}

// byName orders pods by namespace and name.
func byName(a, b *corev1.Pod) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// sourceNodes returns the nodes to probe from, at most coverage.maxSources, and notes
// how many turns all of them take.
func (r *resolver) sourceNodes(s *Source, pods []*corev1.Pod) []string {
	c := r.coverage()
	n := int(c.MaxSources)
	kept := func(node string) bool {
		return r.in.Sampling.keeps(func(k Pair) bool { return k.Source == s.Name && k.SourceNode == node })
	}
	var nodes []string
	for _, pod := range candidates(inOrder(pods, c.Spread), n, c.Spread, func(p *corev1.Pod) bool { return kept(p.Spec.NodeName) }) {
		if pod.Spec.NodeName != "" && !slices.Contains(nodes, pod.Spec.NodeName) {
			nodes = append(nodes, pod.Spec.NodeName)
		}
	}
	r.sourceTurns = append(r.sourceTurns, windows(len(nodes), n))
	r.res.Rotates = r.res.Rotates || len(nodes) > n
	return window(nodes, n, r.in.Sampling.Round, kept)
}

// chosenTargets returns the pods to probe, at most coverage.maxTargets.
func (r *resolver) chosenTargets(p *v1alpha1.Path, pods []*corev1.Pod) []*corev1.Pod {
	c := r.coverage()
	n := int(c.MaxTargets)
	kept := func(pod *corev1.Pod) bool {
		return r.in.Sampling.keeps(func(k Pair) bool { return k.Path == p.Name && k.Target == pod.Namespace+"/"+pod.Name })
	}
	list := candidates(inOrder(pods, c.Spread), n, c.Spread, kept)
	r.res.Rotates = r.res.Rotates || len(list) > n
	return window(list, n, targetTurn(r.in.Sampling.Round, windows(len(list), n), r.sourceTurns), kept)
}

// coverage returns the settings with the defaults of the API for those unset, so
// that a spec that did not pass an API server works too.
func (r *resolver) coverage() v1alpha1.Coverage {
	c := r.in.Expectation.Spec.Coverage
	c.MaxSources = cmp.Or(c.MaxSources, 2)
	c.MaxTargets = cmp.Or(c.MaxTargets, 3)
	c.Spread = cmp.Or(c.Spread, v1alpha1.SpreadNode)
	return c
}

func boolRank(first bool) int {
	if first {
		return 0
	}
	return 1
}

// IdentityLabels returns the labels that a probe pod carries for a workload.
func IdentityLabels(in map[string]string) map[string]string {
	out := maps.Clone(in)
	for _, l := range controllerLabels {
		delete(out, l)
	}
	return out
}

// isLive tells whether a pod can take part in traffic: pods that ended and pods
// that are being deleted cannot be relied on (rule S19).
func isLive(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

// IsReady tells whether a pod is Ready.
func IsReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func describeSource(ns string, s v1alpha1.Source) string {
	if s.Identity != nil {
		return ns + "/{" + flow.FormatLabels(v1alpha1.PlainLabels(s.Identity.Labels)) + "}"
	}
	return ns + "/" + describeSelector(s.PodSelector)
}

func describeSelector(s *v1alpha1.LabelSelector) string {
	if s == nil {
		return "{}"
	}
	return "{" + strings.TrimSpace(metav1.FormatLabelSelector(s.AsMeta())) + "}"
}

// transportOf converts a protocol of the API; unset means TCP.
func transportOf(p v1alpha1.Protocol) wire.Transport {
	return wire.Transport(cmp.Or(string(p), string(wire.TCP)))
}
