// Package plan turns an expectation and a snapshot of the cluster into an
// ordered, bounded list of checks, and places them on nodes. It is pure and
// deterministic: the same input gives the same plan in every process.
//
// The steps are
//
//	Resolve   selectors, names and ranges to edges: one source identity, one
//	          target address, one port; each is predicted with the evaluator
//	Predict   edges anew, once the addresses of responders are known
//	Place     edges in probe pods, such that every edge that policies close has an
//	          edge beside it that they open: same target and port, same node pair.
//	          Without that neighbour, silence proves nothing.
package plan

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// MaxEdges bounds the checks of one expectation. A spec at all its limits could
// ask for over a million.
const MaxEdges = 10_000

// Snapshot is everything that a plan depends on. It must not hold probe pods:
// they carry workload labels and would be taken for workloads.
type Snapshot struct {
	evaluator.Snapshot
	Services       []*corev1.Service
	EndpointSlices []*discoveryv1.EndpointSlice
	Nodes          []*corev1.Node
}

// Input is what Resolve works on.
type Input struct {
	Expectation *v1alpha1.ConnectivityExpectation
	Snapshot    Snapshot
	// Engine was compiled from the snapshot.
	Engine *evaluator.Engine
	// ClusterDNS names the Service that pods resolve names with.
	ClusterDNS types.NamespacedName
	// Learned holds the addresses that probes have tried of each host, which results
	// that stand rest on. What of the cluster is there is part of the provenance.
	Learned map[string][]netip.Addr
	// Refusing are the listeners of pods that refused every connection when they were last
	// probed: nothing listens there.
	Refusing map[string]bool
	// Sampling chooses among the pods that match.
	Sampling Sampling
	// Probed says that the edges will be probed: then each endpoint of the cluster DNS is
	// asked on its own, and the nameservers that only a pod can tell are found out.
	Probed bool
}

// Source is an identity that edges begin at. Pods that no policy can tell apart
// are one Source.
type Source struct {
	// Key identifies the source within the plan.
	Key       string
	Namespace string
	// Labels are what the probe pod carries: those of the workload without the
	// ones that its controllers own.
	Labels map[string]string
	// Name is the identity for people, as namespace/{labels}.
	Name string
	// Workload is one of the pods that the source stands for; nil for an identity
	// that need not exist.
	Workload *corev1.Pod
	// variants are the label sets of those pods, with what their controllers set;
	// seen keeps them apart. addrs are their addresses.
	variants []map[string]string
	addrs    []netip.Addr
	seen     map[string]bool
	// Nodes are those that the workload's pods run on and that are probed from, in
	// order of preference; empty for an identity that need not exist. allNodes are all
	// that its pods run on. Both are those of all paths.
	Nodes    []string
	allNodes []string
	// kept are nodes that an identity has to be probed from.
	kept []string
}

// TargetKind says what an edge ends at.
type TargetKind uint8

// The kinds of target.
const (
	TargetPod TargetKind = iota
	TargetResponder
	TargetService
	TargetAddress
	TargetHost
	// TargetNameserver is a nameserver of the probe's pod, by its place in the resolver
	// configuration.
	TargetNameserver
)

// Backend is what a policy sees of a target: a pod, an identity or an address,
// and the port after Service translation.
type Backend struct {
	Endpoint flow.Endpoint
	Port     uint16
}

// Target is what an edge ends at.
type Target struct {
	Kind TargetKind
	// Key identifies the target within the plan, without the port.
	Key string
	// Name is the target for people.
	Name string
	// Addr is the address to probe; zero for a host, for a nameserver and for a responder
	// that has not been started.
	Addr netip.Addr
	// Node is the node of the target pod, or of the only endpoint of a Service;
	// empty when there is none or several.
	Node  string
	Ready bool
	// HostNetwork says that what is called a pod is at the address of a node.
	HostNetwork bool
	// Host is the name that a host target is resolved from.
	Host string
	// Labels are those of a responder.
	Labels map[string]string
	// StandsFor is the pod that a responder is a stand-in for; nil if it is for none.
	StandsFor *corev1.Pod
	// Twins are the others that have the same stand-in.
	Twins []*corev1.Pod
	// Range is what an address target stands for; zero when it stands for itself.
	Range netip.Prefix
}

// Edge is one check before it is placed: one source identity, one target, one
// port.
type Edge struct {
	// Path is empty for a control.
	Path     string
	Declared v1alpha1.Expect
	Source   *Source
	Target   Target
	// Backends are what policies apply to. Empty for a host and a nameserver, whose
	// addresses only the probe learns.
	Backends  []Backend
	Transport wire.Transport
	Port      uint16
	// QueryName and QueryType are the question of a DNS edge.
	QueryName, QueryType string
	// Search says that QueryName is completed with the search list of the pod.
	Search bool
	// Answer is what the resolver has to answer.
	Answer wire.Answer
	// Nameserver is the place of a nameserver target, from 1.
	Nameserver int
	// Via is the nameserver that leads to the target of a DNS edge: pods that do not have
	// it do not ask the target. Zero means that all do.
	Via netip.Addr
	// Witnessed are the nodes from which the way to the target's node can be shown to carry
	// traffic without a control, in the order in which they are best used.
	Witnessed []string
	// Control is set for an edge that nobody declared, and that is evidence only.
	Control bool

	// Prediction and Workload are set by Resolve, and anew by Predict: the answer for the probe's
	// identity, and for the workload that it stands for. If only some of the
	// workload's pods are treated differently from the probe, it is the answer for
	// those.
	Prediction, Workload evaluator.Decision
}

// OnPodNetwork tells whether the edge goes from pod to pod. What is sent to a node may take
// another way than that, and what is sent to a Service goes by way of a proxy.
func (e *Edge) OnPodNetwork() bool {
	return e.Target.Kind == TargetResponder || (e.Target.Kind == TargetPod && !e.Target.HostNetwork)
}

// ID identifies the edge over runs.
func (e *Edge) ID() string {
	return flow.ID(e.Path, e.Source.Key, e.Target.Key, string(e.Transport), flow.PortRange{First: e.Port, Last: e.Port}.String(), e.QueryName, e.QueryType)
}

// Listener identifies what must be alive for the edge to be answered. Checks of
// the same listener are each other's positive controls.
func (e *Edge) Listener() string {
	return flow.ID(e.Target.Key, string(e.Transport.Protocol()), flow.PortRange{First: e.Port, Last: e.Port}.String())
}

// Reasons of an Obstacle. They are causes of package verdict.
const (
	NoSourceMatched        = "NoSourceMatched"
	NoTargetMatched        = "NoTargetMatched"
	TargetNotReady         = "TargetNotReady"
	PortNotFound           = "PortNotFound"
	NoSharedFamily         = "NoSharedFamily"
	SourceNamespaceRefused = "SourceNamespaceRefused"
	TooManyChecks          = "TooManyChecks"
	StandInRefused         = "StandInRefused"
)

// Obstacle is a path, or a part of one, that resolves to nothing that could be
// checked. It counts as a check about which nothing is known.
type Obstacle struct {
	Path           string
	Declared       v1alpha1.Expect
	Reason         string
	Message        string
	Source, Target string
	Transport      wire.Transport
	Port           uint16
}

// Resolution is what an expectation resolves to.
type Resolution struct {
	Edges     []*Edge
	Obstacles []Obstacle
	// SourcesMatched, TargetsMatched and TargetsProbed count existing pods.
	SourcesMatched, TargetsMatched, TargetsProbed int
	// Extent is all that the paths match.
	Extent *Extent
	// Rotates says that another round would choose other pods: more match than a run probes.
	Rotates bool
	// Provenance is the hash of everything in the snapshot that the edges and
	// their predictions depend on.
	Provenance string
	// Predictor has predicted the edges.
	Predictor *Predictor
}
