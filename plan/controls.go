package plan

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
)

// Controls returns edges that nobody declared, as evidence for those that policies do
// not allow: to the same target and port, from an identity of the same namespace that
// policies let through. Without one, silence proves nothing. Only listeners without
// such an edge among those of the expectation get one. Where policies let nobody
// through whose labels a pod of the namespace has, there is none.
//
// A control adds no policy and changes no label, so that it weakens nothing that is
// measured. The edges must have been predicted.
func (p *Predictor) Controls(namespace string, edges []*Edge) []*Edge {
	open, openPod := map[string]bool{}, false
	sources := map[string]*Source{}
	for _, e := range edges {
		sources[e.Source.Key] = e.Source
		if e.isOpen() {
			open[e.Listener()] = true
			openPod = openPod || (e.Target.Kind == TargetPod && e.OnPodNetwork())
		}
	}
	var out []*Edge
	for _, e := range edges {
		// The kubelet vouches for the listener of a responder, which is put where another
		// open edge leads to. A stand-in is where its pod is.
		vouched := e.Target.Kind == TargetResponder && e.Target.StandsFor == nil && openPod
		if open[e.Listener()] || vouched || !e.needsControl() || len(edges)+len(out) >= MaxEdges {
			continue
		}
		// The answer is the same for every edge to the listener.
		open[e.Listener()] = true
		if c := p.control(namespace, e); c != nil {
			if known := sources[c.Source.Key]; known != nil {
				// One identity is one probe pod on a node.
				c.Source = known
			}
			out = append(out, c)
		}
	}
	return out
}

// isOpen tells whether policies let the edge through, and treat the probe as they do
// the workload.
func (e *Edge) isOpen() bool { return e.Prediction.Verdict == evaluator.Allowed && !e.Diverges() }

// needsControl tells whether silence on the edge would have to be proven. That of a
// Service with several endpoints proves nothing anyway, unless its endpoints are checked,
// too, as those of the cluster DNS are; which address a host has only the probe learns.
func (e *Edge) needsControl() bool {
	provable := len(e.Backends) == 1 || (len(e.Backends) > 1 && e.Transport.IsDNS())
	return e.Prediction.Verdict != evaluator.Allowed && provable && !e.Learns()
}

// control returns an edge to the target of another, from an identity that policies let
// through; nil if there is none.
func (p *Predictor) control(namespace string, e *Edge) *Edge {
	for _, s := range p.controlSources(namespace) {
		if s.Key == e.Source.Key {
			continue
		}
		c := &Edge{
			Control: true, Declared: v1alpha1.ExpectAllow, Source: s, Target: e.Target, Backends: e.Backends,
			Transport: e.Transport, Port: e.Port, QueryName: e.QueryName, QueryType: e.QueryType, Search: e.Search, Answer: e.Answer,
		}
		if p.Predict([]*Edge{c}); c.isOpen() {
			return c
		}
	}
	return nil
}

// controlSources lists identities that a control may have: first the one without
// labels, which nothing but the pod itself can be mistaken for, then those of the pods
// of the namespace. Their probes need not run where the pods do.
func (p *Predictor) controlSources(namespace string) []*Source {
	if p.controllable == nil {
		p.controllable = map[string][]*Source{}
	}
	if known, ok := p.controllable[namespace]; ok {
		return known
	}
	pods := map[string]*corev1.Pod{}
	for _, pod := range p.pods {
		if pod.Namespace == namespace && isLive(pod) && !pod.Spec.HostNetwork {
			if key := flow.FormatLabels(IdentityLabels(pod.Labels)); pods[key] == nil {
				pods[key] = pod
			}
		}
	}
	sources := []*Source{newSource(namespace, map[string]string{})}
	for _, key := range slices.Sorted(maps.Keys(pods)) {
		if key != "" {
			sources = append(sources, newSource(namespace, IdentityLabels(pods[key].Labels)))
		}
	}
	p.controllable[namespace] = sources
	return sources
}
