// Package controllers is the only code of the operator that talks to the API
// server. It gathers a snapshot, lets the pure packages plan, predict and judge,
// runs probe pods in between, and writes one status.
//
// A run lives in memory. Its pods carry the expectation and the run in their
// annotations, so that an operator that restarts recognizes pods of a run that it
// knows nothing of, deletes them and starts that run again. Nothing else has to
// be recovered, and no result can be mistaken for that of another run.
package controllers

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/podlog"
	"github.com/pathproof/pathproof/probepod"
)

// Options configure the reconciler.
type Options struct {
	// ProbeImage is the image of the probe pods.
	ProbeImage string
	// ProbeImagePullPolicy of the probe pods.
	ProbeImagePullPolicy corev1.PullPolicy
	// ImagePullSecrets are names of secrets in the namespaces of the expectations.
	ImagePullSecrets []string
	// ClusterDNS names the Service that pods resolve names with.
	ClusterDNS types.NamespacedName
	// IgnoredPolicyKinds are kinds of policy that are not looked for, as in
	// CiliumNetworkPolicy.cilium.io.
	IgnoredPolicyKinds []string
	// Implementation is what is known beforehand of the network implementation, of
	// which the rest is recognised by its pods.
	Implementation evaluator.Implementation
	// WarmUp is the time between a probe pod's first plan and its first attempt.
	WarmUp time.Duration
	// StartTimeout bounds the time from a pod's creation to its start.
	StartTimeout time.Duration
	// MaxProbePods bounds the probe pods that exist at a time, in all namespaces
	// and in one. A run that has begun may exceed them by its responders and one
	// probe, so that runs do not wait for each other for ever.
	MaxProbePods, MaxProbePodsPerNamespace int
}

// image is what the containers of probe pods run.
func (o Options) image() probepod.Image {
	return probepod.Image{Name: o.ProbeImage, PullPolicy: o.ProbeImagePullPolicy, PullSecrets: o.ImagePullSecrets}
}

// DefaultOptions are what the flags of the manager default to.
func DefaultOptions() Options {
	return Options{
		// A probe pod lives for seconds: asking a registry for every one would cost
		// more than the run.
		ProbeImagePullPolicy:     corev1.PullIfNotPresent,
		ClusterDNS:               types.NamespacedName{Namespace: "kube-system", Name: "kube-dns"},
		WarmUp:                   probepod.WarmUp,
		StartTimeout:             60 * time.Second,
		MaxProbePods:             200,
		MaxProbePodsPerNamespace: 50,
	}
}

// ExpectationReconciler reconciles ConnectivityExpectations.
type ExpectationReconciler struct {
	clock    clock.Clock
	client   client.Client
	recorder events.EventRecorder
	metrics  *Metrics
	options  Options
	tracker  *tracker
	// kinds reads the policies of kinds that the API server may not serve.
	kinds   *kindWatcher
	engines engineKeeper
	// logs reads what probe pods report.
	logs *podLogs
	// ways is what the canary knows of the ways between nodes.
	ways *CanaryWays
	// said is what was last logged of the implementation.
	said atomic.Pointer[string]
}

var _ reconcile.Reconciler = (*ExpectationReconciler)(nil)

// NewExpectationReconciler returns a reconciler. Its client must read from a
// cache that holds the indexes PodExpectationIndex, PodCNIIndex and PodResolverIndex.
func NewExpectationReconciler(c clock.WithTicker, cl client.Client, logs podlog.Reader, rec events.EventRecorder, m *Metrics, w *CanaryWays, o Options) *ExpectationReconciler {
	return &ExpectationReconciler{clock: c, client: cl, recorder: rec, metrics: m, ways: w, options: o, tracker: newTracker(), logs: newPodLogs(c, logs)}
}

// +kubebuilder:rbac:groups=pathproof.dev,resources=connectivityexpectations,verbs=get;list;watch
// +kubebuilder:rbac:groups=pathproof.dev,resources=connectivityexpectations/status,verbs=get;patch
// +kubebuilder:rbac:groups="",resources=pods,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",resources=namespaces;nodes;services;replicationcontrollers,verbs=get;list;watch
// +kubebuilder:rbac:groups=apps,resources=replicasets;daemonsets,verbs=get;list;watch
// +kubebuilder:rbac:groups=discovery.k8s.io,resources=endpointslices,verbs=get;list;watch
// +kubebuilder:rbac:groups=networking.k8s.io,resources=networkpolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=pathproof-system,resources=leases,verbs=get;create;update
// +kubebuilder:rbac:groups="",namespace=pathproof-system,resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=authentication.k8s.io,resources=tokenreviews,verbs=create
// +kubebuilder:rbac:groups=authorization.k8s.io,resources=subjectaccessreviews,verbs=create

// phase is one step of a reconcile. It returns true to end the reconcile there,
// after the status has been published.
type phase func(context.Context, *scope) (done bool, err error)

// Reconcile brings one expectation one step further.
func (r *ExpectationReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	exp := &v1alpha1.ConnectivityExpectation{}
	if err := r.client.Get(ctx, req.NamespacedName, exp); err != nil {
		if apierrors.IsNotFound(err) {
			return ctrl.Result{}, r.forget(ctx, req.NamespacedName)
		}
		return ctrl.Result{}, fmt.Errorf("reading expectation: %w", err)
	}
	if exp.DeletionTimestamp != nil {
		return ctrl.Result{}, r.forget(ctx, req.NamespacedName)
	}
	s := newScope(exp, r.tracker.get(exp), r.clock.Now())
	if s.track.unwritten {
		if err := r.publish(ctx, s); err != nil {
			return ctrl.Result{}, err
		}
		return ctrl.Result{RequeueAfter: writeRetry}, nil
	}
	for _, p := range []phase{
		r.sweep,    // delete pods of runs that are not under way
		r.suspend,  // end here when asked to
		r.gather,   // snapshot, resolution, predictions
		r.measure,  // how long has enforcement taken?
		r.schedule, // is a run due, or has one been overtaken?
		r.dispatch, // create responders and probes, hand out plans
		r.collect,  // read reports
		r.record,   // what have responders noted of checks that got no answer?
		r.judge,    // verdicts, once all reports are in
	} {
		done, err := p(ctx, s)
		if err != nil {
			s.markStale() // whatever fails, results grow old
			return ctrl.Result{}, errors.Join(err, r.publish(ctx, s))
		}
		if done {
			break
		}
	}
	if err := r.publish(ctx, s); err != nil {
		return ctrl.Result{}, err
	}
	// What is left undone here is for the sweep after the run.
	if err := errors.Join(sideBySide(s.over, func(pod *corev1.Pod) error { return r.deletePod(ctx, pod) })...); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: s.requeueAfter()}, nil
}

// forget ends what is left of an expectation that is gone.
func (r *ExpectationReconciler) forget(ctx context.Context, key types.NamespacedName) error {
	r.logs.forget(r.tracker.drop(key))
	r.metrics.Forget(key)
	r.metrics.ProbePods.Set(float64(r.tracker.allInFlight()))
	pods := &corev1.PodList{}
	if err := r.client.List(ctx, pods, client.InNamespace(key.Namespace), client.MatchingFields{PodExpectationIndex: key.Name}); err != nil {
		return fmt.Errorf("listing probe pods: %w", err)
	}
	for i := range pods.Items {
		if err := r.abandon(ctx, &pods.Items[i], key.Name); err != nil {
			return err
		}
	}
	return nil
}

// abandon ends with a pod of an expectation that is gone.
func (r *ExpectationReconciler) abandon(ctx context.Context, pod *corev1.Pod, name string) error {
	if !isResident(pod) {
		return r.deletePod(ctx, pod)
	}
	for _, o := range pod.OwnerReferences {
		if plan.IsExpectationRef(o) && o.Name == name {
			if err := r.leave(ctx, pod, o.UID); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *ExpectationReconciler) deletePod(ctx context.Context, pod *corev1.Pod) error {
	r.logs.Unfollow(pod.UID)
	if pod.DeletionTimestamp != nil {
		return nil
	}
	err := r.client.Delete(ctx, pod, client.Preconditions{UID: &pod.UID})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("deleting probe pod %s: %w", client.ObjectKeyFromObject(pod), err)
	}
	return nil
}
