// Package cluster reads from an API server, once and without changing anything,
// what predictions depend on: the command line's counterpart of the operator's
// caches. It lists with the permissions of whoever calls it, so that much of it is
// about what cannot be read:
//
//	what every prediction needs    a permission that is missing is an error, and all
//	                               that are missing are named at once
//	policies of other kinds        a kind that cannot be read makes Undefined what it
//	                               could decide, as in the operator
//	nodes                          are missed by few predictions: a note says so
//
// Which kinds of policy there are is asked by discovery, which knows those of
// aggregated API servers, too.
package cluster

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	policyv1alpha1 "sigs.k8s.io/network-policy-api/apis/v1alpha1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/manifests"
)

const (
	// pageSize is what kubectl asks for at once.
	pageSize = 500
	// atOnce bounds the requests that are under way: enough to hide the latency of a
	// distant API server, and few for a busy one.
	atOnce = 6
)

// Options say what to read.
type Options struct {
	// Expectations asks for the ConnectivityExpectations, too.
	Expectations bool
}

// reader reads one cluster.
type reader struct {
	config   *rest.Config
	codecs   serializer.CodecFactory
	params   runtime.ParameterCodec
	metadata metadata.Interface

	mu  sync.Mutex
	out manifests.Cluster // guarded by mu
	// missing are the resources that the user may not list, and needs; guarded by mu.
	missing []string
}

// Read reads the cluster of a client configuration.
func Read(ctx context.Context, config *rest.Config, o Options) (*manifests.Cluster, error) {
	r, err := newReader(config)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	core, out := corev1.SchemeGroupVersion, &r.out.Snapshot
	required(ctx, group, r, core.WithResource("namespaces"), &corev1.NamespaceList{}, &out.Namespaces)
	required(ctx, group, r, core.WithResource("pods"), &corev1.PodList{}, &out.Pods)
	required(ctx, group, r, core.WithResource("services"), &corev1.ServiceList{}, &out.Services)
	required(ctx, group, r, discoveryv1.SchemeGroupVersion.WithResource("endpointslices"), &discoveryv1.EndpointSliceList{}, &out.EndpointSlices)
	required(ctx, group, r, networkingv1.SchemeGroupVersion.WithResource("networkpolicies"), &networkingv1.NetworkPolicyList{}, &out.NetworkPolicies)
	group.Go(func() error { return r.nodes(ctx) })
	served, err := r.served(ctx)
	if err == nil {
		for _, k := range served.policies {
			group.Go(func() error { return r.policies(ctx, k) })
		}
		if o.Expectations && served.expectations {
			required(ctx, group, r, v1alpha1.GroupVersion.WithResource("connectivityexpectations"), &v1alpha1.ConnectivityExpectationList{}, &r.out.Expectations)
		}
	} else {
		group.Go(func() error { return err })
	}
	if err := group.Wait(); err != nil {
		return nil, Describe(config.Host, err)
	}
	if len(r.missing) > 0 {
		slices.Sort(r.missing)
		return nil, &permissionError{resources: r.missing}
	}
	slices.SortFunc(r.out.Unmodelled, compareUnmodelled)
	return &r.out, nil
}

func newReader(config *rest.Config) (*reader, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, discoveryv1.AddToScheme, networkingv1.AddToScheme,
		policyv1alpha1.Install, policyv1alpha2.Install, v1alpha1.AddToScheme,
	} {
		utilruntime.Must(add(scheme))
	}
	config = rest.CopyConfig(config)
	// The limit of requests under way is enough: a client-side rate makes one short
	// command wait for nothing.
	config.QPS = -1
	// Deprecations are of no use to somebody who asks for a prediction.
	config.WarningHandler = rest.NoWarnings{}
	client, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &reader{
		config: config, codecs: serializer.NewCodecFactory(scheme), params: runtime.NewParameterCodec(scheme),
		metadata: client,
	}, nil
}

// required starts to list a resource that no prediction can do without.
func required[T metav1.Object](ctx context.Context, group *errgroup.Group, r *reader, gvr schema.GroupVersionResource, list runtime.Object, into *[]T) {
	group.Go(func() error {
		items, err := all[T](ctx, r, gvr, list)
		r.mu.Lock()
		defer r.mu.Unlock()
		if forbids(err, gvr.Resource) {
			r.missing = append(r.missing, gvr.GroupResource().String())
			return nil
		}
		*into = items
		return err
	})
}

// nodes lists the nodes, if that is allowed.
func (r *reader) nodes(ctx context.Context) error {
	items, err := all[*corev1.Node](ctx, r, corev1.SchemeGroupVersion.WithResource("nodes"), &corev1.NodeList{})
	r.mu.Lock()
	defer r.mu.Unlock()
	if forbids(err, "nodes") {
		r.out.Notes = append(r.out.Notes, "nodes may not be listed: expectations about nodes cannot be resolved")
		return nil
	}
	r.out.Snapshot.Nodes = items
	return err
}

// all lists a resource in all namespaces, page by page. The list says of what type
// it is.
func all[T metav1.Object](ctx context.Context, r *reader, gvr schema.GroupVersionResource, list runtime.Object) ([]T, error) {
	client, err := r.client(gvr.GroupVersion())
	if err != nil {
		return nil, fmt.Errorf("making a client of %s: %w", gvr.GroupVersion(), err)
	}
	var out []T
	err = pages(func(o metav1.ListOptions) (metav1.ListInterface, error) {
		page := list.DeepCopyObject()
		if err := client.Get().Resource(gvr.Resource).VersionedParams(&o, r.params).Do(ctx).Into(page); err != nil {
			return nil, err
		}
		if o.Continue == "" {
			out = nil
		}
		err := meta.EachListItem(page, func(item runtime.Object) error {
			object, ok := item.(T)
			if !ok {
				return fmt.Errorf("%T is not of type %T", item, object)
			}
			object.SetManagedFields(nil)
			out = append(out, object)
			return nil
		})
		if err != nil {
			return nil, err
		}
		return meta.ListAccessor(page)
	})
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", gvr.GroupResource(), err)
	}
	return out, nil
}

// pages asks for page after page. A list that took so long that the API server has
// forgotten where it was is begun again, in one piece.
func pages(page func(metav1.ListOptions) (metav1.ListInterface, error)) error {
	o := metav1.ListOptions{Limit: pageSize}
	for {
		list, err := page(o)
		switch {
		case err != nil && o.Continue != "" && apierrors.IsResourceExpired(err):
			o = metav1.ListOptions{}
		case err != nil:
			return err
		case list.GetContinue() == "":
			return nil
		default:
			o.Continue = list.GetContinue()
		}
	}
}

// client returns a client of an API group.
func (r *reader) client(gv schema.GroupVersion) (rest.Interface, error) {
	config := rest.CopyConfig(r.config)
	config.GroupVersion, config.APIPath = &gv, "/apis"
	if gv.Group == "" {
		config.APIPath = "/api"
	}
	// What is served by CRDs is JSON only.
	config.AcceptContentTypes = "application/json"
	if gv.Group == "" || gv.Group == discoveryv1.GroupName || gv.Group == networkingv1.GroupName {
		config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	}
	config.NegotiatedSerializer = r.codecs.WithoutConversion()
	return rest.RESTClientFor(config)
}

// discoveryClient asks what the API server serves. It keeps nothing on disk: a kind
// of policy that was installed a minute ago must not be missed.
func (r *reader) discoveryClient() (*discovery.DiscoveryClient, error) {
	client, err := discovery.NewDiscoveryClientForConfig(r.config)
	if err != nil {
		return nil, fmt.Errorf("making a discovery client: %w", err)
	}
	return client, nil
}
