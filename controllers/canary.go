package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/podlog"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/probepod"
)

const (
	// canaryGather is how long events are gathered at least before the canary looks at them,
	// and canaryShare the share of the time that it may take to look, one in so many: in a
	// large cluster, reports come all the time. They are gathered for canaryGatherMost at
	// most, since a look that writes takes seconds, and what is reported must not wait long.
	canaryGather     = 300 * time.Millisecond
	canaryShare      = 10
	canaryGatherMost = 5 * time.Second
	// canaryRetry is when the canary looks again at what it has written, or goes on with
	// what was too much for one step.
	canaryRetry = time.Second
	// canaryBurst bounds the writes of one step, of each kind.
	canaryBurst = 100
)

// CanaryReconciler keeps the enforcement canary. Its phases are those of an expectation:
// gather, act, judge, and write one status.
type CanaryReconciler struct {
	clock    clock.WithTicker
	client   client.Client
	recorder events.EventRecorder
	metrics  *CanaryMetrics
	options  Options
	logs     *podlog.Follower
	// kinds tells whether ClusterNetworkPolicies are served; nil without a manager.
	kinds   *kindWatcher
	reports *canaryReports
	// ways answers expectations.
	ways *CanaryWays
	// state is what is remembered between reconciles, of which there is one at a time.
	state *canaryState
	// took is how long the last reconcile took, in nanoseconds. Watches read it.
	took atomic.Int64
}

var _ reconcile.Reconciler = (*CanaryReconciler)(nil)

// NewCanaryReconciler returns a reconciler, whose client reads from a cache with the index
// PodCNIIndex.
func NewCanaryReconciler(c clock.WithTicker, cl client.Client, logs podlog.Reader, rec events.EventRecorder, m *CanaryMetrics, w *CanaryWays, o Options) *CanaryReconciler {
	r := &CanaryReconciler{clock: c, client: cl, recorder: rec, metrics: m, ways: w, options: o, reports: newCanaryReports(c)}
	r.logs = podlog.New(c, logs, r.reports.take)
	return r
}

// +kubebuilder:rbac:groups=pathproof.dev,resources=enforcementcanaries,verbs=get;list;watch
// +kubebuilder:rbac:groups=pathproof.dev,resources=enforcementcanaries/status,verbs=get;patch
// +kubebuilder:rbac:groups="",resources=namespaces,verbs=create
// +kubebuilder:rbac:groups="",resources=pods/log,verbs=get
// +kubebuilder:rbac:groups=networking.k8s.io,resources=networkpolicies,verbs=create;patch;delete

// SetupWithManager registers the watches and the reconciler. beside was set up before: it
// reads the policies of the kinds that the API server serves.
func (r *CanaryReconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager, beside *ExpectationReconciler) error {
	r.kinds = beside.kinds
	r.logs.Lifetime = func() context.Context { return ctx }
	later := r.gathered()
	isOurs := predicate.NewPredicateFuncs(func(o client.Object) bool { return o.GetLabels()[canary.Label] != "" })
	ours := builder.WithPredicates(isOurs)
	c, err := ctrl.NewControllerManagedBy(mgr).
		Named("enforcementcanary").
		For(&v1alpha1.EnforcementCanary{}, builder.WithPredicates(specChanged())).
		Watches(&corev1.Pod{}, later, ours).
		Watches(&networkingv1.NetworkPolicy{}, later, ours).
		Watches(&corev1.Namespace{}, later, ours).
		Watches(&corev1.Node{}, later, builder.WithPredicates(nodeChanged())).
		Watches(&apiextensionsv1.CustomResourceDefinition{}, later, builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
			return o.GetName() == clusterPolicyCRD
		}))).
		WatchesRawSource(source.Channel(r.reports.changed, later)).
		WatchesRawSource(source.Channel(r.ways.asked, later)).
		WithOptions(controller.Options{MaxConcurrentReconciles: 1}).
		Build(r)
	if err != nil {
		return err
	}
	r.kinds.watches = append(r.kinds.watches, func(kind policyKind, o client.Object) error {
		if kind.name() != clusterPolicyCRD {
			return nil
		}
		return c.Watch(source.Kind(mgr.GetCache(), o, later, predicate.Predicate(isOurs)))
	})
	return nil
}

// gathered wakes the canary, once for all events of some time.
func (r *CanaryReconciler) gathered() handler.EventHandler {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	wake := func(q queue) {
		q.AddAfter(reconcile.Request{NamespacedName: types.NamespacedName{Name: v1alpha1.CanaryName}}, gatherFor(time.Duration(r.took.Load())))
	}
	return handler.Funcs{
		CreateFunc:  func(_ context.Context, _ event.CreateEvent, q queue) { wake(q) },
		UpdateFunc:  func(_ context.Context, _ event.UpdateEvent, q queue) { wake(q) },
		DeleteFunc:  func(_ context.Context, _ event.DeleteEvent, q queue) { wake(q) },
		GenericFunc: func(_ context.Context, _ event.GenericEvent, q queue) { wake(q) },
	}
}

// gatherFor is how long events are gathered after a reconcile that took so long.
func gatherFor(took time.Duration) time.Duration {
	return min(max(canaryGather, canaryShare*took), canaryGatherMost)
}

// nodeChanged passes what decides whether a node is covered, and not its heartbeats.
func nodeChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok1 := e.ObjectOld.(*corev1.Node)
		after, ok2 := e.ObjectNew.(*corev1.Node)
		if !ok1 || !ok2 {
			return true
		}
		was, _ := canary.LeftOut(before, nil)
		is, _ := canary.LeftOut(after, nil)
		return was != is || !maps.Equal(before.Labels, after.Labels) || !equality.Semantic.DeepEqual(before.Spec.Taints, after.Spec.Taints)
	}}
}

// canaryState is what is remembered of the canary between reconciles.
type canaryState struct {
	uid types.UID
	// since is when the operator, or the canary, began.
	since time.Time
	// results are those of the last round of each pair of nodes.
	results map[nodePair]pairResult
	// serial counts the results that there were.
	serial uint64
	// judged is the round of each node that was judged last.
	judged map[string]string
	// armed are the plans that pods were given, while the cache may not show it.
	armed map[types.UID]string
	// awaited are the plans on which pods are to report.
	awaited map[types.UID]*awaitedPlan
	// memo is what was made of each node.
	memo *canaryMemo
	// refusal is why the ClusterNetworkPolicy could not be written. It is tried again after
	// refusedUntil.
	refusal      string
	refusedUntil time.Time
	// violated holds the rows that are not enforced, as far as is known, and those that were
	// not until lately.
	violated map[rowOf]spell
	// status is what was last written.
	status *v1alpha1.EnforcementCanaryStatus
	// teller knows what was told by events.
	teller teller
}

// canaryScope is what the phases of one reconcile share.
type canaryScope struct {
	now    time.Time
	canary *v1alpha1.EnforcementCanary
	before *v1alpha1.EnforcementCanary
	state  *canaryState
	// options are those of the reconciler, with the warm-up that the network needs.
	options  Options
	features []v1alpha1.CanaryFeature
	rows     []canary.Row
	request  string

	// selected are the nodes that the selector selects, and leftOut those of them that get
	// no pods. Set by survey, as is the ring of the others.
	selected []string
	leftOut  map[string]remark
	ring     map[string][]string
	sources  map[string][]string
	// pods are those of each node, and waiting is why a node cannot take part yet. Set by
	// keepPods.
	pods    canary.Pods
	waiting map[string]string
	// policies identify those in force, for a node or (empty) for all. Set by
	// keepPolicies.
	policies map[string]string
	// rounds are the plans of each node that takes part. Set by arm.
	rounds map[string]*canary.Round

	requeue time.Duration
}

// remark is a reason with what there is to say of it.
type remark struct{ reason, message string }

// again asks for the next reconcile after d at the latest.
func (s *canaryScope) again(d time.Duration) {
	if s.requeue == 0 || d < s.requeue {
		s.requeue = max(d, 10*time.Millisecond)
	}
}

// Reconcile brings the canary one step further.
func (r *CanaryReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	start := r.clock.Now()
	defer func() { r.took.Store(int64(r.clock.Since(start))) }()
	c := &v1alpha1.EnforcementCanary{}
	if err := r.client.Get(ctx, req.NamespacedName, c); err != nil {
		if apierrors.IsNotFound(err) {
			r.forget()
			return ctrl.Result{}, nil
		}
		return ctrl.Result{}, fmt.Errorf("reading canary: %w", err)
	}
	if c.DeletionTimestamp != nil {
		r.forget()
		return ctrl.Result{}, nil
	}
	s, err := r.newCanaryScope(ctx, c)
	if err != nil {
		return ctrl.Result{}, err
	}
	for _, p := range []func(context.Context, *canaryScope) (done bool, err error){
		r.keepNamespaces,    // create them, or find out that they are somebody else's
		r.survey,            // which nodes, and who probes whom?
		r.keepPods,          // create those that are missing, delete those that are not needed
		r.keepPolicies,      // create them, and put right what was changed
		r.keepClusterPolicy, // the same, where there are ClusterNetworkPolicies
		r.arm,               // hand out plans
		r.judge,             // read reports
	} {
		done, err := p(ctx, s)
		if err != nil {
			// What is known grows old all the same.
			s.rounds = nil
			s.starting(err.Error())
			return ctrl.Result{}, errors.Join(err, r.publish(ctx, s))
		}
		if done {
			break
		}
	}
	if err := r.publish(ctx, s); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: s.requeue}, nil
}

func (r *CanaryReconciler) newCanaryScope(ctx context.Context, c *v1alpha1.EnforcementCanary) (*canaryScope, error) {
	found, err := detect(ctx, r.client, r.options.Implementation)
	if err != nil {
		return nil, err
	}
	now := r.clock.Now()
	if r.state == nil || r.state.uid != c.UID {
		r.forget()
		r.state = &canaryState{
			memo: newCanaryMemo(),
			uid:  c.UID, since: now, results: map[nodePair]pairResult{}, judged: map[string]string{}, armed: map[types.UID]string{}, awaited: map[types.UID]*awaitedPlan{},
			violated: knownViolations(c.Status),
		}
	}
	s := &canaryScope{
		now: now, canary: c, before: c.DeepCopy(), state: r.state, options: r.options,
		features: canary.Tested(c.Spec), request: truncate(c.Annotations[v1alpha1.RequestedAtAnnotation], maxRequest),
	}
	s.rows = canary.Rows(s.features)
	s.options.WarmUp = max(s.options.WarmUp, found.WarmUp)
	if s.state.status != nil {
		c.Status = *s.state.status.DeepCopy()
	}
	return s, nil
}

// forget drops what is remembered of a canary that is gone. Its objects go with it: they
// are owned by it, so that this takes no operator.
func (r *CanaryReconciler) forget() {
	r.logs.UnfollowAll()
	r.reports.clear()
	r.ways.clear()
	r.metrics.Forget()
	r.state = nil
}

// canaryOwner returns the owner reference of the canary's objects. It is a controller's, so
// that its pods are in the way of no drain.
func canaryOwner(c *v1alpha1.EnforcementCanary) []metav1.OwnerReference {
	return []metav1.OwnerReference{{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: "EnforcementCanary", Name: c.Name, UID: c.UID,
		Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(false),
	}}
}

func ownedByCanary(o client.Object, c *v1alpha1.EnforcementCanary) bool {
	return slices.ContainsFunc(o.GetOwnerReferences(), func(ref metav1.OwnerReference) bool { return ref.UID == c.UID })
}

// keepNamespaces creates the namespaces of the canary. It ends the reconcile while they
// are not there to be used.
func (r *CanaryReconciler) keepNamespaces(ctx context.Context, s *canaryScope) (bool, error) {
	for _, role := range []canary.Role{canary.Plain, canary.Abroad} {
		name := canary.NamespaceOf(string(s.canary.Spec.Namespace), role)
		var ns corev1.Namespace
		err := r.client.Get(ctx, client.ObjectKey{Name: name}, &ns)
		switch {
		case apierrors.IsNotFound(err):
			if err := r.client.Create(ctx, canaryNamespace(s.canary, name)); err != nil && !apierrors.IsAlreadyExists(err) {
				return false, fmt.Errorf("creating namespace %s: %w", name, err)
			}
			s.starting("namespace " + name + " is being created")
			s.again(canaryRetry)
			return true, nil
		case err != nil:
			return false, fmt.Errorf("reading namespace %s: %w", name, err)
		case ns.DeletionTimestamp != nil:
			s.starting("namespace " + name + " is being deleted, and created anew then")
			s.again(canaryRetry)
			return true, nil
		case !ownedByCanary(&ns, s.canary):
			r.metrics.Forget()
			r.ways.cover(nil, nil)
			s.refuse(fmt.Sprintf("namespace %s is there, and does not belong to this canary: delete it, or delete the canary and give it another spec.namespace", name))
			return true, nil
		}
	}
	return false, nil
}

func canaryNamespace(c *v1alpha1.EnforcementCanary, name string) *corev1.Namespace {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{canary.Label: c.Name, probepod.EnforceLabel: "restricted"}, OwnerReferences: canaryOwner(c),
	}}
	if c.Spec.SCTP == v1alpha1.SCTPRaw {
		ns.Labels[probepod.EnforceLabel] = "privileged"
	}
	return ns
}

// survey finds out which nodes are covered, and which probe which.
func (r *CanaryReconciler) survey(ctx context.Context, s *canaryScope) (bool, error) {
	var nodes corev1.NodeList
	selector := client.MatchingLabels(v1alpha1.PlainLabels(s.canary.Spec.NodeSelector))
	if err := r.client.List(ctx, &nodes, selector, client.UnsafeDisableDeepCopy); err != nil {
		return false, fmt.Errorf("listing nodes: %w", err)
	}
	s.leftOut = map[string]remark{}
	var covered []string
	for i := range nodes.Items {
		n := &nodes.Items[i]
		s.selected = append(s.selected, n.Name)
		if reason, message := canary.LeftOut(n, s.canary.Spec.Tolerations); reason != "" {
			s.leftOut[n.Name] = remark{reason, message}
			continue
		}
		covered = append(covered, n.Name)
	}
	slices.Sort(s.selected)
	s.ring, s.sources = s.state.memo.circle(covered, neighbours(s.canary))
	return false, nil
}

// The settings with the defaults of the API for those unset.

func neighbours(c *v1alpha1.EnforcementCanary) int {
	if c.Spec.Neighbours == 0 {
		return 2
	}
	return int(c.Spec.Neighbours)
}

func canaryInterval(c *v1alpha1.EnforcementCanary) time.Duration {
	if c.Spec.IntervalSeconds == 0 {
		return time.Minute
	}
	return time.Duration(c.Spec.IntervalSeconds) * time.Second
}

// frame is a plan of the canary without its checks.
func (s *canaryScope) frame(node string) wire.Plan {
	every := canaryInterval(s.canary)
	return wire.Plan{
		Version:             wire.Version,
		WarmUpMilliseconds:  int(s.options.WarmUp.Milliseconds()),
		SettleMilliseconds:  int(canary.Settle.Milliseconds()),
		TimeoutMilliseconds: int(canary.Timeout.Milliseconds()),
		Attempts:            canary.Attempts,
		EverySeconds:        int(every.Seconds()),
		// Nodes take turns, so that a large cluster is not probed in one moment.
		PhaseSeconds: int(jitter(types.UID(node), every).Seconds()),
	}
}
