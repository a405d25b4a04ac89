package plan

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// A stand-in is a responder with the identity of an existing pod, on its node. It answers
// where the pod would not: most of what speaks UDP is silent when it does not understand,
// and a port may be declared open before anything listens there.

// viaStandIn tells whether a stand-in takes the place of a pod, which could be probed at
// endpoints. refusal says why it was asked for and cannot be had.
func (r *resolver) viaStandIn(p *v1alpha1.Path, pod *corev1.Pod, endpoints []partial) (yes bool, refusal string) {
	switch cmp.Or(p.To.Via, v1alpha1.ViaAuto) {
	case v1alpha1.ViaEndpoint:
		return false, ""
	case v1alpha1.ViaStandIn:
		refusal = r.refuseStandIn(pod)
		return refusal == "", refusal
	case v1alpha1.ViaAuto:
	}
	return slices.ContainsFunc(endpoints, r.prefersStandIn) && r.refuseStandIn(pod) == "", ""
}

// prefersStandIn tells whether a pod is not expected to answer. SCTP of the kernel is left
// to the pod: a stand-in could not record what arrives.
func (r *resolver) prefersStandIn(endpoint partial) bool {
	switch e := &endpoint.edge; {
	case e.Transport == wire.UDP:
		return true
	case e.Transport == wire.SCTP && r.in.Expectation.Spec.Probe.SCTP == v1alpha1.SCTPRaw:
		return true
	default:
		return r.in.Refusing[e.Listener()]
	}
}

func (r *resolver) refuseStandIn(pod *corev1.Pod) string {
	return r.in.Snapshot.refuseStandIn(r.ns, pod)
}

// refuseStandIn tells why an expectation of a namespace gets no stand-in for a pod, and what
// to write instead.
func (s *Snapshot) refuseStandIn(namespace string, pod *corev1.Pod) string {
	name := pod.Namespace + "/" + pod.Name
	identity := IdentityLabels(pod.Labels)
	const instead = ": write to.via: Endpoint to probe the pod itself"
	switch owner := owningController(pod); {
	case pod.Namespace != namespace:
		return fmt.Sprintf("pod %s is in another namespace than the expectation, and a workload's identity is only handed out in its own%s", name, instead)
	case pod.Spec.HostNetwork:
		return fmt.Sprintf("pod %s is on the host network, where policies see the node and no pod%s", name, instead)
	case pod.Spec.NodeName != "" && !s.takesPods(pod.Spec.NodeName):
		return fmt.Sprintf("node %s of pod %s takes no new pods%s", pod.Spec.NodeName, name, instead)
	case owner != "":
		return fmt.Sprintf("the %s of pod %s would adopt a pod with the same labels, and delete one in its place%s, or to.identity with other labels", owner, name, instead)
	case len(identity) < len(pod.Labels) && s.selectsByController():
		return fmt.Sprintf("policies select by labels that only workload controllers set, which pod %s has and its stand-in would not%s", name, instead)
	}
	for _, svc := range s.Services {
		if svc.Namespace == pod.Namespace && svc.Spec.PublishNotReadyAddresses && len(svc.Spec.Selector) > 0 && labels.SelectorFromSet(svc.Spec.Selector).Matches(labels.Set(identity)) {
			return fmt.Sprintf("Service %s publishes addresses of pods that are not ready, so that it would send its traffic to a stand-in for pod %s%s", svc.Name, name, instead)
		}
	}
	return ""
}

// owningController names the controller of a pod whose selector matches the labels that a
// stand-in has; empty if there is none. That of a Deployment's ReplicaSet asks for a hash.
func owningController(pod *corev1.Pod) string {
	for _, o := range pod.OwnerReferences {
		hashed := pod.Labels["pod-template-hash"] != ""
		if o.Controller != nil && *o.Controller && (o.Kind == "DaemonSet" || o.Kind == "ReplicationController" || (o.Kind == "ReplicaSet" && !hashed)) {
			return o.Kind + " " + o.Name
		}
	}
	return ""
}

// takesPods tells whether a pod may be put on a node. Manifests need not have nodes.
func (s *Snapshot) takesPods(node string) bool {
	i := slices.IndexFunc(s.Nodes, func(n *corev1.Node) bool { return n.Name == node })
	return i < 0 || len(usableNodes(s.Nodes[i:i+1])) > 0
}

// standInTarget is the target of a path at the stand-in for a pod. Pods of one identity on
// one node have the same.
func standInTarget(pod *corev1.Pod, port uint16) (Target, []Backend) {
	identity := IdentityLabels(pod.Labels)
	return Target{
		Kind: TargetResponder, Key: flow.ID("stand-in", pod.Namespace, flow.FormatLabels(identity), pod.Spec.ServiceAccountName, pod.Spec.NodeName),
		Name: pod.Namespace + "/" + pod.Name, Node: pod.Spec.NodeName, Ready: true, Labels: identity, StandsFor: pod,
	}, []Backend{twinBackend(pod, port)}
}

// StandInDiffers tells whether policies treat a stand-in at its address differently from the
// pod that it stands for: then it proves nothing about the pod. That of a port by name is
// not known of an identity, and the stand-in declares the names of the pod.
func (p *Predictor) StandInDiffers(e *Edge, from netip.Addr) (evaluator.Decision, bool) {
	if e.Target.StandsFor == nil || !e.Target.Addr.IsValid() {
		return evaluator.Decision{}, false
	}
	pod, standIn := *e, e.toResponder(e.Target.Labels)
	pod.Target.Twins = nil
	its, pods := p.Decide(standIn, from, nil), p.Decide(&pod, from, nil)
	differs := func(its, pods evaluator.DirectionDecision) bool {
		named := its.Verdict == evaluator.Undefined && its.Rule == evaluator.RuleNamedPort
		return !named && its.Verdict != pods.Verdict
	}
	return its, differs(its.Egress, pods.Egress) || differs(its.Ingress, pods.Ingress)
}

// toResponder returns the edge as it is to its responder, which has some labels.
func (e *Edge) toResponder(labels map[string]string) *Edge {
	out := *e
	out.Target.Twins = nil
	out.Backends = []Backend{{Endpoint: flow.Endpoint{Namespace: e.Source.Namespace, Labels: labels, Addr: e.Target.Addr}, Port: e.Backends[0].Port}}
	return &out
}

// Unlike says in words how policies treat the pods of an edge differently with the labels
// that they turned out to have than with those that they were made with, which somebody has
// changed; empty if they do not. Labels are nil of a pod that is none of ours.
func (p *Predictor) Unlike(e *Edge, source, responder map[string]string, from netip.Addr, tried []netip.Addr) string {
	if source != nil && !maps.Equal(source, e.Source.Labels) {
		made := p.Decide(e, from, tried)
		if is := p.decideAs(e, source, from, tried); !alike(is, made) {
			return fmt.Sprintf("somebody, or a webhook, changed the labels of the probe pod to %s: with these the path would be %s, and with those of %s %s",
				flow.FormatLabels(source), Describe(is, made), e.Source.Name, Describe(made, is))
		}
	}
	if responder != nil && e.Target.Kind == TargetResponder && !maps.Equal(responder, e.Target.Labels) {
		made := p.Decide(e.toResponder(e.Target.Labels), from, nil)
		if is := p.Decide(e.toResponder(responder), from, nil); !alike(is, made) {
			return fmt.Sprintf("somebody, or a webhook, changed the labels of the responder to %s: with these the path would be %s, and with those of %s %s",
				flow.FormatLabels(responder), Describe(is, made), e.Target.Name, Describe(made, is))
		}
	}
	return ""
}

// TwinNames are those of the other pods that have the same stand-in.
func (t *Target) TwinNames() []string {
	var out []string
	for _, pod := range t.Twins {
		out = append(out, pod.Namespace+"/"+pod.Name)
	}
	return out
}
