package controllers

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
	"weak"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/plan"
)

// kindsRetry is when an expectation looks again whether all policies have been read.
const kindsRetry = 200 * time.Millisecond

// gather reads the snapshot from the cache, resolves the expectation against it
// and predicts every edge.
func (r *ExpectationReconciler) gather(ctx context.Context, s *scope) (bool, error) {
	// What is about to be read may be out of date before it is predicted from: until
	// then, every change has to wake the expectation again.
	s.track.outlook.Store(nil)
	reach, err := r.reachOf(ctx, s.exp)
	if err != nil {
		return false, err
	}
	s.track.takePolicyChange()
	snapshot, err := r.snapshot(ctx, reach)
	if err != nil {
		return false, err
	}
	whole, err := r.kinds.complete(ctx, &snapshot)
	if err != nil {
		return false, err
	}
	if !whole {
		// A prediction without some of the policies could be confidently wrong.
		s.again(kindsRetry)
		return true, nil
	}
	found, err := r.implementation(ctx)
	if err != nil {
		return false, err
	}
	snapshot.Profile = found.Profile
	s.options = r.options
	s.options.WarmUp = max(s.options.WarmUp, found.WarmUp)
	// The engine takes what is in reach and not in the snapshot for deleted: both have to
	// go by the same reach.
	engine := r.engines.engineFor(snapshot.Snapshot, reach)
	snapshot.Unmodelled = slices.DeleteFunc(snapshot.Unmodelled, func(u evaluator.Unmodelled) bool {
		return u.Namespace != "" && !reach.includes(u.Namespace)
	})
	s.snapshot = snapshot
	s.problems = engine.Problems(reach.includes)
	s.input = plan.Input{
		Expectation: s.exp, Snapshot: snapshot, Engine: engine, ClusterDNS: r.options.ClusterDNS, Learned: s.track.learned,
		Refusing: s.track.refusing,
		Sampling: s.track.sampling, Probed: true,
	}
	s.resolve()
	return false, nil
}

// resolve finds and predicts the edges of the input, with the controls that they need.
// An expectation is looked at whenever one of its pods has changed, which is no reason to
// do all of that again.
func (s *scope) resolve() {
	if f := s.track.foreseen.Value(); f.holds(s.input) {
		s.foreseen = f
	} else {
		s.foreseen = foresee(s.input)
		s.track.foreseen = weak.Make(s.foreseen)
	}
	if s.track.run != nil {
		s.track.run.foreseen = s.foreseen
	}
	s.resolution = s.foreseen.resolution
	s.track.outlook.Store(s.foreseen.outlook)
}

// foreseen is what an input was resolved to, and what it was.
type foreseen struct {
	generation int64
	engine     *evaluator.Engine
	// versions are those of the objects that the engine does not hold.
	versions   map[types.UID]string
	learned    map[string][]netip.Addr
	refusing   map[string]bool
	sampling   plan.Sampling
	resolution *plan.Resolution
	outlook    *outlook
}

func foresee(in plan.Input) *foreseen {
	resolution := plan.Resolve(in)
	resolution.Edges = append(resolution.Edges, resolution.Predictor.Controls(in.Expectation.Namespace, resolution.Edges)...)
	return &foreseen{
		generation: in.Expectation.Generation, engine: in.Engine, versions: versions(in.Snapshot),
		learned: in.Learned, refusing: in.Refusing, sampling: in.Sampling,
		resolution: resolution, outlook: newOutlook(in.Engine, resolution),
	}
}

// holds tells whether an input is resolved to the same. An engine is the same as long as
// no object in it changes. The round counts only if it makes a difference.
func (f *foreseen) holds(in plan.Input) bool {
	return f != nil && f.generation == in.Expectation.Generation && f.engine == in.Engine &&
		(f.sampling.Round == in.Sampling.Round || !f.resolution.Rotates) && slices.Equal(f.sampling.Keep, in.Sampling.Keep) &&
		maps.EqualFunc(f.learned, in.Learned, slices.Equal[[]netip.Addr]) && maps.Equal(f.refusing, in.Refusing) &&
		maps.Equal(f.versions, versions(in.Snapshot))
}

// versions returns the versions of the objects of a snapshot that no engine holds.
func versions(s plan.Snapshot) map[types.UID]string {
	out := make(map[types.UID]string, len(s.Services)+len(s.EndpointSlices)+len(s.Nodes))
	for _, o := range s.Services {
		out[o.UID] = o.ResourceVersion
	}
	for _, o := range s.EndpointSlices {
		out[o.UID] = o.ResourceVersion
	}
	for _, o := range s.Nodes {
		out[o.UID] = o.ResourceVersion
	}
	return out
}

// implementation finds out what enforces the policies. What is found is logged when
// it changes.
func (r *ExpectationReconciler) implementation(ctx context.Context) (evaluator.Detection, error) {
	found, err := detect(ctx, r.client, r.options.Implementation)
	if err != nil {
		return found, err
	}
	if before := r.said.Swap(&found.Note); found.Note != "" && (before == nil || *before != found.Note) {
		ctrl.LoggerFrom(ctx).Info("Assuming what the network implementation does", "found", found.Note, "profile", found.Profile.String())
	}
	return found, nil
}

// detect recognises the implementation by its pods, unless users say which it is.
func detect(ctx context.Context, cl client.Client, i evaluator.Implementation) (evaluator.Detection, error) {
	var pods corev1.PodList
	if err := cl.List(ctx, &pods, client.MatchingFields{PodCNIIndex: indexed}, client.UnsafeDisableDeepCopy); err != nil {
		return evaluator.Detection{}, fmt.Errorf("listing pods of network implementations: %w", err)
	}
	return i.Detect(pointers(pods.Items)), nil
}

// snapshot reads what an expectation with this reach can depend on. Probe pods are left
// out: they carry the labels of workloads.
func (r *ExpectationReconciler) snapshot(ctx context.Context, reach reach) (plan.Snapshot, error) {
	var (
		snap       plan.Snapshot
		namespaces corev1.NamespaceList
		nodes      corev1.NodeList
	)
	if err := r.client.List(ctx, &namespaces); err != nil {
		return snap, fmt.Errorf("listing namespaces: %w", err)
	}
	if err := r.client.List(ctx, &nodes); err != nil {
		return snap, fmt.Errorf("listing nodes: %w", err)
	}
	snap.Namespaces = pointers(namespaces.Items)
	snap.Nodes = pointers(nodes.Items)
	for _, scope := range reach.listOptions() {
		var (
			pods      corev1.PodList
			policies  networkingv1.NetworkPolicyList
			services  corev1.ServiceList
			endpoints discoveryv1.EndpointSliceList
		)
		for _, list := range []client.ObjectList{&pods, &policies, &services, &endpoints} {
			if err := r.client.List(ctx, list, scope...); err != nil {
				return snap, fmt.Errorf("listing %T: %w", list, err)
			}
		}
		for i := range pods.Items {
			if !plan.IsProbePod(&pods.Items[i]) {
				snap.Pods = append(snap.Pods, &pods.Items[i])
			}
		}
		snap.NetworkPolicies = append(snap.NetworkPolicies, pointers(policies.Items)...)
		snap.Services = append(snap.Services, pointers(services.Items)...)
		snap.EndpointSlices = append(snap.EndpointSlices, pointers(endpoints.Items)...)
	}
	return snap, nil
}

func pointers[T any](items []T) []*T {
	out := make([]*T, 0, len(items))
	for i := range items {
		out = append(out, &items[i])
	}
	return out
}

// reach says which namespaces an expectation depends on.
type reach struct {
	// everywhere is set when targets are selected by namespace labels, or by an
	// address that could be any pod's.
	everywhere bool
	namespaces map[string]bool
}

// reachOf finds out which namespaces an expectation depends on. A Service that is an
// alias can lead anywhere, as a host does.
func (r *ExpectationReconciler) reachOf(ctx context.Context, exp *v1alpha1.ConnectivityExpectation) (reach, error) {
	out := specReach(exp, r.options.ClusterDNS.Namespace)
	if err := r.reachOfNameservers(ctx, exp, &out); err != nil {
		return out, err
	}
	for _, p := range exp.Spec.Paths {
		if out.everywhere || p.To == nil || p.To.Service == nil {
			continue
		}
		key := client.ObjectKey{Namespace: cmp.Or(string(p.To.Service.Namespace), exp.Namespace), Name: p.To.Service.Name}
		var svc corev1.Service
		if err := r.client.Get(ctx, key, &svc); client.IgnoreNotFound(err) != nil {
			return out, fmt.Errorf("reading Service %s: %w", key, err)
		}
		// Of a Service without a selector, anything may be an endpoint.
		out.everywhere = svc.Spec.Type == corev1.ServiceTypeExternalName || (svc.UID != "" && len(svc.Spec.Selector) == 0)
	}
	return out, nil
}

// reachOfNameservers widens the reach where pods bring nameservers along, or have those of
// their node: these may be anything in the cluster.
func (r *ExpectationReconciler) reachOfNameservers(ctx context.Context, exp *v1alpha1.ConnectivityExpectation, out *reach) error {
	if !slices.ContainsFunc(exp.Spec.Paths, func(p v1alpha1.Path) bool { return p.DNS != nil }) {
		return nil
	}
	var pods corev1.PodList
	if err := r.client.List(ctx, &pods, client.InNamespace(exp.Namespace), client.MatchingFields{PodResolverIndex: indexed}, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("listing pods with resolvers of their own: %w", err)
	}
	out.everywhere = out.everywhere || len(pods.Items) > 0
	return nil
}

// specReach is what the spec alone says of it.
func specReach(exp *v1alpha1.ConnectivityExpectation, dnsNamespace string) reach {
	out := reach{namespaces: map[string]bool{exp.Namespace: true}}
	for _, p := range exp.Spec.Paths {
		switch {
		case p.DNS != nil:
			out.namespaces[dnsNamespace] = true
		case p.To == nil:
		case p.To.NamespaceSelector != nil, p.To.Address != nil, p.To.Host != "":
			out.everywhere = true
		case p.To.Namespace != "":
			out.namespaces[string(p.To.Namespace)] = true
		case p.To.Service != nil && p.To.Service.Namespace != "":
			out.namespaces[string(p.To.Service.Namespace)] = true
		}
	}
	return out
}

func (r reach) includes(namespace string) bool {
	return r.everywhere || r.namespaces[namespace]
}

func (r reach) listOptions() [][]client.ListOption {
	if r.everywhere {
		return [][]client.ListOption{nil}
	}
	var out [][]client.ListOption
	for ns := range r.namespaces {
		out = append(out, []client.ListOption{client.InNamespace(ns)})
	}
	return out
}
