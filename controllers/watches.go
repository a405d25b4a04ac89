package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
	policyv1alpha1 "sigs.k8s.io/network-policy-api/apis/v1alpha1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/probe/wire"
)

// PodExpectationIndex is the cache index of probe pods by the names of their
// expectations.
const PodExpectationIndex = "pathproof.dev/expectation"

// PodCNIIndex is the cache index of the pods of network implementations, and
// PodResolverIndex that of pods whose resolvers need not be those of the cluster. All of
// these are under indexed.
const (
	PodCNIIndex      = "pathproof.dev/cni"
	PodResolverIndex = "pathproof.dev/resolver"
	indexed          = "any"
)

// concurrentReconciles is the number of expectations worked on at a time. A
// reconcile waits for nothing but the API server.
const concurrentReconciles = 4

// indexPods makes the indexes.
func indexPods(ctx context.Context, indexer client.FieldIndexer) error {
	those := func(is func(*corev1.Pod) bool) func(*corev1.Pod) []string {
		return func(pod *corev1.Pod) []string {
			if is(pod) {
				return []string{indexed}
			}
			return nil
		}
	}
	for name, keys := range map[string]func(*corev1.Pod) []string{
		PodExpectationIndex: func(pod *corev1.Pod) []string {
			if plan.IsProbePod(pod) {
				return expectationsOf(pod)
			}
			return nil
		},
		PodCNIIndex:      those(func(pod *corev1.Pod) bool { return evaluator.CNIOf(pod) != nil }),
		PodResolverIndex: those(func(pod *corev1.Pod) bool { return !plan.IsProbePod(pod) && plan.HasOwnResolvers(pod) }),
	} {
		err := indexer.IndexField(ctx, &corev1.Pod{}, name, func(o client.Object) []string {
			if pod, ok := o.(*corev1.Pod); ok {
				return keys(pod)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("indexing pods by %s: %w", name, err)
		}
	}
	return nil
}

// SetupWithManager registers the indexes, the watches and the reconciler.
func (r *ExpectationReconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager) error {
	if err := indexPods(ctx, mgr.GetFieldIndexer()); err != nil {
		return err
	}
	inReach := handler.EnqueueRequestsFromMapFunc(r.inReach)
	everyone := func(ctx context.Context, _ client.Object) []reconcile.Request {
		return r.dependents(ctx, func(reach) bool { return true })
	}
	r.logs.Lifetime = func() context.Context { return ctx }
	// What waits for the lease is started with it.
	err := mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		r.metrics.Active.Set(1)
		defer r.metrics.Active.Set(0)
		<-ctx.Done()
		return nil
	}))
	if err != nil {
		return fmt.Errorf("adding the metric of the operator that acts: %w", err)
	}
	r.kinds = newKindWatcher(r.client, mgr.GetCache(), r.options.IgnoredPolicyKinds)
	c, err := ctrl.NewControllerManagedBy(mgr).
		Named("connectivityexpectation").
		For(&v1alpha1.ConnectivityExpectation{}, builder.WithPredicates(specChanged())).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(r.ofPod), builder.WithPredicates(podChanged())).
		Watches(&networkingv1.NetworkPolicy{}, r.ofPolicy(), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&corev1.Namespace{}, inReach, builder.WithPredicates(predicate.Or(predicate.LabelChangedPredicate{}, namespaceTerminates()))).
		Watches(&corev1.Service{}, inReach).
		Watches(&discoveryv1.EndpointSlice{}, inReach).
		WatchesRawSource(source.Channel(r.logs.changed, &handler.EnqueueRequestForObject{})).
		WatchesRawSource(source.Channel(r.kinds.changed, handler.EnqueueRequestsFromMapFunc(everyone))).
		WithOptions(controller.Options{MaxConcurrentReconciles: concurrentReconciles}).
		Build(r)
	if err != nil {
		return err
	}
	r.kinds.watches = append(r.kinds.watches, func(kind policyKind, o client.Object) error {
		concerned := func(ctx context.Context, o client.Object) []reconcile.Request {
			if ns := o.GetNamespace(); ns != "" && ns != kind.Root {
				return r.inReach(ctx, o)
			}
			return everyone(ctx, o)
		}
		return c.Watch(source.Kind(mgr.GetCache(), o, handler.EnqueueRequestsFromMapFunc(concerned), predicate.Predicate(predicate.GenerationChangedPredicate{})))
	})
	return r.kinds.setup(mgr)
}

// inReach maps an object to the expectations that may depend on its namespace.
// Whether they really do is what their provenance tells.
func (r *ExpectationReconciler) inReach(ctx context.Context, o client.Object) []reconcile.Request {
	ns := o.GetNamespace()
	if ns == "" {
		ns = o.GetName()
	}
	return r.dependents(ctx, func(reach reach) bool { return reach.includes(ns) })
}

// ofPolicy wakes the expectations whose predictions a change of a NetworkPolicy may
// change.
func (r *ExpectationReconciler) ofPolicy() handler.EventHandler {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	wake := func(ctx context.Context, q queue, versions ...client.Object) {
		now := r.clock.Now()
		changes := map[*evaluator.Engine]policyChange{}
		for _, exp := range r.concerned(ctx, func(in reach) bool { return in.includes(versions[0].GetNamespace()) }) {
			if o := r.tracker.outlook(exp); o != nil {
				change, ok := changes[o.engine]
				if !ok {
					change = newPolicyChange(o.engine, versions)
					changes[o.engine] = change
				}
				if !o.mayChange(change) {
					continue
				}
			}
			r.tracker.policyChanged(exp, now)
			q.Add(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(exp)})
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { wake(ctx, q, e.Object) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) { wake(ctx, q, e.ObjectOld, e.ObjectNew) },
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { wake(ctx, q, e.Object) },
	}
}

// dependents returns the expectations whose reach is of the kind asked for.
func (r *ExpectationReconciler) dependents(ctx context.Context, asked func(reach) bool) []reconcile.Request {
	var out []reconcile.Request
	for _, exp := range r.concerned(ctx, asked) {
		out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(exp)})
	}
	return out
}

// concerned lists the expectations whose reach is of the kind asked for.
func (r *ExpectationReconciler) concerned(ctx context.Context, asked func(reach) bool) []*v1alpha1.ConnectivityExpectation {
	var list v1alpha1.ConnectivityExpectationList
	if err := r.client.List(ctx, &list); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "Listing expectations for a changed object")
		return nil
	}
	return slices.DeleteFunc(pointers(list.Items), func(exp *v1alpha1.ConnectivityExpectation) bool {
		reach, err := r.reachOf(ctx, exp)
		if err != nil {
			ctrl.LoggerFrom(ctx).Error(err, "Finding out what an expectation depends on; it is looked at in any case", "expectation", client.ObjectKeyFromObject(exp))
		}
		return err == nil && !asked(reach)
	})
}

// ofPod maps a probe pod to its expectations, and any other pod to the expectations
// that may depend on it.
func (r *ExpectationReconciler) ofPod(ctx context.Context, o client.Object) []reconcile.Request {
	if pod, ok := o.(*corev1.Pod); ok && plan.IsProbePod(pod) {
		var out []reconcile.Request
		for _, name := range expectationsOf(pod) {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKey{Namespace: pod.Namespace, Name: name}})
		}
		return out
	}
	return r.inReach(ctx, o)
}

// specChanged passes what a user can change: our own status writes must not start
// another reconcile.
func specChanged() predicate.Predicate {
	return predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{})
}

// podChanged passes updates of a pod that a plan or a run can depend on.
func podChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok1 := e.ObjectOld.(*corev1.Pod)
		after, ok2 := e.ObjectNew.(*corev1.Pod)
		if !ok1 || !ok2 || plan.IsProbePod(after) {
			return true
		}
		return !maps.Equal(before.Labels, after.Labels) || before.Spec.NodeName != after.Spec.NodeName ||
			before.Status.Phase != after.Status.Phase || !slices.Equal(before.Status.PodIPs, after.Status.PodIPs) ||
			plan.IsReady(before) != plan.IsReady(after) || (before.DeletionTimestamp == nil) != (after.DeletionTimestamp == nil)
	}}
}

func namespaceTerminates() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return (e.ObjectOld.GetDeletionTimestamp() == nil) != (e.ObjectNew.GetDeletionTimestamp() == nil)
	}}
}

// AddToScheme adds all types that the operator reads or writes to a scheme.
func AddToScheme(s *runtime.Scheme) error {
	return errors.Join(clientgoscheme.AddToScheme(s), v1alpha1.AddToScheme(s), apiextensionsv1.AddToScheme(s),
		policyv1alpha1.Install(s), policyv1alpha2.Install(s))
}

// CacheOptions say what the operator's cache keeps of the objects: in a cluster of
// many pods, what it does not read is most of its memory.
func CacheOptions() cache.Options {
	return cache.Options{
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Pod{}: {Transform: stripPod},
			&apiextensionsv1.CustomResourceDefinition{}: {Transform: stripCRD},
		},
	}
}

// stripPod keeps of a pod in the cache what the operator reads.
func stripPod(o any) (any, error) {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	pod.ManagedFields = nil
	if !plan.IsProbePod(pod) {
		pod.Annotations = nil
	} else {
		// Nobody reads the plans but the pod.
		maps.DeleteFunc(pod.Annotations, func(key, _ string) bool {
			return key == wire.PlanAnnotation || strings.HasPrefix(key, wire.PlanKeyPrefix)
		})
	}
	// The version of a network implementation is in its image.
	isCNI := evaluator.CNIOf(pod) != nil
	// The addresses of NodeLocal DNSCache are in its arguments.
	isNodeCache := plan.IsNodeCache(pod)
	pod.Spec.Volumes, pod.Spec.Affinity, pod.Spec.TopologySpreadConstraints = nil, nil, nil
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			c, image, args := &list[i], list[i].Image, list[i].Args
			list[i] = corev1.Container{Name: c.Name, Ports: c.Ports, RestartPolicy: c.RestartPolicy}
			if isCNI {
				list[i].Image = image
			}
			if isNodeCache {
				list[i].Args = args
			}
		}
	}
	return pod, nil
}
