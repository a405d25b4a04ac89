package controllers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	policyv1alpha1 "sigs.k8s.io/network-policy-api/apis/v1alpha1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/plan"
)

const (
	// syncPatience bounds the wait for the first list of a kind that has come, and
	// syncPoll is how often it is asked for.
	syncPatience = 10 * time.Second
	syncPoll     = 200 * time.Millisecond
	// syncRetry is when a kind is tried again that could not be listed.
	syncRetry = 30 * time.Second
)

// policyKind is a kind of policy other than NetworkPolicy, which the API server may
// or may not serve.
type policyKind struct {
	evaluator.PolicyKind
	evaluated
}

// evaluated says how to read a kind that the evaluator knows. It is empty for
// others, of which any version will do and the metadata is enough.
type evaluated struct {
	version string
	list    func() client.ObjectList
	object  func() client.Object
}

// readers are the kinds that are evaluated.
var readers = map[string]evaluated{
	"ClusterNetworkPolicy.policy.networking.k8s.io": {
		version: "v1alpha2",
		list:    func() client.ObjectList { return &policyv1alpha2.ClusterNetworkPolicyList{} },
		object:  func() client.Object { return &policyv1alpha2.ClusterNetworkPolicy{} },
	},
	"AdminNetworkPolicy.policy.networking.k8s.io": {
		version: "v1alpha1",
		list:    func() client.ObjectList { return &policyv1alpha1.AdminNetworkPolicyList{} },
		object:  func() client.Object { return &policyv1alpha1.AdminNetworkPolicy{} },
	},
	"BaselineAdminNetworkPolicy.policy.networking.k8s.io": {
		version: "v1alpha1",
		list:    func() client.ObjectList { return &policyv1alpha1.BaselineAdminNetworkPolicyList{} },
		object:  func() client.Object { return &policyv1alpha1.BaselineAdminNetworkPolicy{} },
	},
}

// name is the name of the kind's CRD.
func (k policyKind) name() string { return k.Resource + "." + k.Group }

// +kubebuilder:rbac:groups=apiextensions.k8s.io,resources=customresourcedefinitions,verbs=get;list;watch
// +kubebuilder:rbac:groups=policy.networking.k8s.io,resources=clusternetworkpolicies;adminnetworkpolicies;baselineadminnetworkpolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=cilium.io,resources=ciliumnetworkpolicies;ciliumclusterwidenetworkpolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=crd.projectcalico.org;projectcalico.org,resources=networkpolicies;globalnetworkpolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=crd.antrea.io,resources=networkpolicies;clusternetworkpolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=k8s.ovn.org,resources=egressfirewalls,verbs=get;list;watch
// +kubebuilder:rbac:groups=network.openshift.io,resources=egressnetworkpolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=vpcresources.k8s.aws,resources=securitygrouppolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=consul.hashicorp.com,resources=serviceintentions,verbs=get;list;watch
// +kubebuilder:rbac:groups=kuma.io,resources=meshtrafficpermissions;trafficpermissions,verbs=get;list;watch
// +kubebuilder:rbac:groups=networking.k8s.aws,resources=applicationnetworkpolicies;clusternetworkpolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=k8s.cni.cncf.io,resources=multi-networkpolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=security.istio.io,resources=authorizationpolicies;peerauthentications,verbs=get;list;watch
// +kubebuilder:rbac:groups=policy.linkerd.io,resources=servers;serverauthorizations;authorizationpolicies,verbs=get;list;watch

// CheckPolicyKinds tells whether these are kinds that can be ignored, and which
// there are otherwise.
func CheckPolicyKinds(names []string) error {
	var all []string
	for _, k := range evaluator.PolicyKinds() {
		all = append(all, k.String())
	}
	for _, name := range names {
		if !slices.Contains(all, name) {
			return fmt.Errorf("%q is not among the kinds that are looked for: %s", name, strings.Join(all, ", "))
		}
	}
	return nil
}

// kindWatcher reads the policy kinds that the API server serves. It follows their
// CRDs as these come and go.
type kindWatcher struct {
	client client.Client
	cache  cache.Cache
	// watches wake who depends on an object of a kind when that changes. They are added
	// before the manager starts.
	watches []func(policyKind, client.Object) error
	// changed wakes all expectations: a kind has come or gone. The objects of one that
	// is gone raise no events.
	changed chan event.GenericEvent
	// kinds are those that are not ignored, by the name of their CRD.
	kinds map[string]policyKind

	mu sync.Mutex
	// served are the kinds that are read or that should be, by the name of their
	// CRD.
	served map[string]servedKind
}

// servedKind is a kind that the API server serves.
type servedKind struct {
	gvk schema.GroupVersionKind
	// synced is set once the kind's objects are in the cache, and failed when that
	// has been waited for in vain: then there may be any.
	synced, failed bool
}

var _ reconcile.Reconciler = (*kindWatcher)(nil)

func newKindWatcher(cl client.Client, c cache.Cache, ignored []string) *kindWatcher {
	w := &kindWatcher{client: cl, cache: c, changed: make(chan event.GenericEvent), kinds: map[string]policyKind{}, served: map[string]servedKind{}}
	for _, known := range evaluator.PolicyKinds() {
		if !slices.Contains(ignored, known.String()) {
			k := policyKind{known, readers[known.String()]}
			w.kinds[k.name()] = k
		}
	}
	return w
}

func (w *kindWatcher) setup(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("policykinds").
		For(&apiextensionsv1.CustomResourceDefinition{}).
		WithEventFilter(predicate.NewPredicateFuncs(func(o client.Object) bool { _, ok := w.kinds[o.GetName()]; return ok })).
		// A kind that cannot be read is waited for; the others must not wait with it.
		WithOptions(controller.Options{MaxConcurrentReconciles: max(1, len(w.kinds))}).
		Complete(w)
}

// Reconcile starts or stops reading one kind.
func (w *kindWatcher) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	kind := w.kinds[req.Name]
	gvk, err := w.serves(ctx, kind)
	if err != nil {
		return ctrl.Result{}, err
	}
	known := w.get(req.Name)
	if !known.gvk.Empty() && known.gvk != gvk {
		ctrl.LoggerFrom(ctx).Info("Stopping to read a policy kind", "kind", kind.String())
		if err := w.cache.RemoveInformer(ctx, kind.newObject(known.gvk)); err != nil {
			return ctrl.Result{}, fmt.Errorf("ending the watch of %s: %w", kind, err)
		}
		known = servedKind{}
		w.set(req.Name, known)
		w.wake(ctx)
	}
	if gvk.Empty() || known.synced {
		return ctrl.Result{}, nil
	}
	return w.start(ctx, kind, gvk)
}

// start reads the objects of a kind for the first time. What cannot be read is
// tried again.
func (w *kindWatcher) start(ctx context.Context, kind policyKind, gvk schema.GroupVersionKind) (ctrl.Result, error) {
	ctrl.LoggerFrom(ctx).Info("Starting to read a policy kind", "kind", kind.String(), "version", gvk.Version)
	// An API server that has just established a CRD may not know its kind for a
	// moment.
	var last error
	err := wait.PollUntilContextTimeout(ctx, syncPoll, syncPatience, true, func(ctx context.Context) (bool, error) {
		_, last = w.cache.GetInformer(ctx, kind.newObject(gvk))
		return last == nil, nil
	})
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(last, "Reading a policy kind; every flow that it could decide is undefined until then", "kind", kind.String())
		w.set(kind.name(), servedKind{gvk: gvk, failed: true})
		w.wake(ctx)
		return ctrl.Result{RequeueAfter: syncRetry}, nil //nolint:nilerr // it is tried again, and the state says so
	}
	for _, watch := range w.watches {
		if err := watch(kind, kind.newObject(gvk)); err != nil {
			return ctrl.Result{}, fmt.Errorf("watching %s: %w", kind, err)
		}
	}
	w.set(kind.name(), servedKind{gvk: gvk, synced: true})
	w.wake(ctx)
	return ctrl.Result{}, nil
}

func (w *kindWatcher) wake(ctx context.Context) {
	select {
	case w.changed <- event.GenericEvent{Object: &metav1.PartialObjectMetadata{}}:
	case <-ctx.Done():
	}
}

func (w *kindWatcher) get(name string) servedKind {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.served[name]
}

func (w *kindWatcher) set(name string, k servedKind) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.served[name] = k
}

// serves returns the version in which the API server serves a kind, or an empty one.
func (w *kindWatcher) serves(ctx context.Context, kind policyKind) (schema.GroupVersionKind, error) {
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := w.client.Get(ctx, client.ObjectKey{Name: kind.name()}, crd); err != nil {
		if apierrors.IsNotFound(err) {
			return schema.GroupVersionKind{}, nil
		}
		return schema.GroupVersionKind{}, fmt.Errorf("reading CRD %s: %w", kind.name(), err)
	}
	if crd.DeletionTimestamp != nil || !established(crd) {
		return schema.GroupVersionKind{}, nil
	}
	for _, v := range crd.Spec.Versions {
		if v.Served && (kind.version == "" || kind.version == v.Name) {
			return schema.GroupVersionKind{Group: kind.Group, Version: v.Name, Kind: kind.Kind}, nil
		}
	}
	return schema.GroupVersionKind{}, nil
}

func established(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return slices.ContainsFunc(crd.Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
		return c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue
	})
}

// newObject returns an object of the kind to watch. Of kinds that are not
// evaluated, the metadata is enough.
func (k policyKind) newObject(gvk schema.GroupVersionKind) client.Object {
	if k.object != nil {
		return k.object()
	}
	o := &metav1.PartialObjectMetadata{}
	o.SetGroupVersionKind(gvk)
	return o
}

// kindState is whether the objects of a kind are known.
type kindState int

const (
	kindUnserved kindState = iota
	kindIgnored
	kindReading
	kindRead
	kindFailed
)

// state tells whether the objects of a kind are known, by the name of its CRD. The CRD is
// asked and not only what Reconcile knows: it may not have come to a kind yet.
func (w *kindWatcher) state(ctx context.Context, name string) (kindState, error) {
	kind, ok := w.kinds[name]
	if !ok {
		return kindIgnored, nil
	}
	gvk, err := w.serves(ctx, kind)
	switch known := w.get(name); {
	case err != nil:
		return kindUnserved, err
	case gvk.Empty():
		return kindUnserved, nil
	case known.gvk != gvk || (!known.synced && !known.failed):
		return kindReading, nil
	case known.failed:
		return kindFailed, nil
	}
	return kindRead, nil
}

// complete adds the policies of all served kinds to a snapshot. It returns false
// while some are still being read.
func (w *kindWatcher) complete(ctx context.Context, s *plan.Snapshot) (bool, error) {
	for name, kind := range w.kinds {
		state, err := w.state(ctx, name)
		if err != nil {
			return false, err
		}
		switch state {
		case kindUnserved, kindIgnored:
		case kindReading:
			return false, nil
		case kindFailed:
			s.Unmodelled = append(s.Unmodelled, evaluator.Unmodelled{Kind: kind.String()})
		case kindRead:
			if err := w.add(ctx, kind, w.get(name).gvk, s); err != nil {
				return false, err
			}
		}
	}
	return true, nil
}

func (w *kindWatcher) add(ctx context.Context, kind policyKind, gvk schema.GroupVersionKind, s *plan.Snapshot) error {
	var list client.ObjectList = &metav1.PartialObjectMetadataList{}
	if kind.list != nil {
		list = kind.list()
	} else {
		list.GetObjectKind().SetGroupVersionKind(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
	}
	if err := w.client.List(ctx, list); err != nil {
		return fmt.Errorf("listing %s: %w", kind, err)
	}
	switch l := list.(type) {
	case *policyv1alpha2.ClusterNetworkPolicyList:
		s.ClusterNetworkPolicies = pointers(l.Items)
	case *policyv1alpha1.AdminNetworkPolicyList:
		s.AdminNetworkPolicies = pointers(l.Items)
	case *policyv1alpha1.BaselineAdminNetworkPolicyList:
		s.BaselineAdminNetworkPolicies = pointers(l.Items)
	case *metav1.PartialObjectMetadataList:
		for _, o := range l.Items {
			s.Unmodelled = append(s.Unmodelled, kind.Clouds(o.Namespace, o.Name))
		}
	}
	return nil
}

// stripCRD keeps of a CRD in the cache what the operator reads.
func stripCRD(o any) (any, error) {
	if crd, ok := o.(*apiextensionsv1.CustomResourceDefinition); ok {
		crd.ManagedFields, crd.Annotations = nil, nil
		for i := range crd.Spec.Versions {
			v := &crd.Spec.Versions[i]
			crd.Spec.Versions[i] = apiextensionsv1.CustomResourceDefinitionVersion{Name: v.Name, Served: v.Served, Storage: v.Storage}
		}
	}
	return o, nil
}
