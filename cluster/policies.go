package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	policyv1alpha1 "sigs.k8s.io/network-policy-api/apis/v1alpha1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/manifests"
)

// served is what an API server serves of what matters here.
type served struct {
	policies     []policyKind
	expectations bool
}

// policyKind is a kind of policy that the API server serves, in one version.
type policyKind struct {
	evaluator.PolicyKind
	resource schema.GroupVersionResource
	// unread says why it cannot be read; empty if nothing is known against it.
	unread string
}

// evaluated are the versions of the kinds that are evaluated.
var evaluated = map[string]schema.GroupVersion{
	"ClusterNetworkPolicy":       schema.GroupVersion(policyv1alpha2.GroupVersion),
	"AdminNetworkPolicy":         schema.GroupVersion(policyv1alpha1.GroupVersion),
	"BaselineAdminNetworkPolicy": schema.GroupVersion(policyv1alpha1.GroupVersion),
}

// served asks which kinds of policy there are.
func (r *reader) served(ctx context.Context) (served, error) {
	client, err := r.discoveryClient()
	if err != nil {
		return served{}, err
	}
	groups, lists, err := client.ServerGroupsAndResourcesWithContext(ctx)
	failed := (*discovery.ErrGroupDiscoveryFailed)(nil)
	if err != nil && !errors.As(err, &failed) {
		return served{}, fmt.Errorf("asking which kinds there are: %w", err)
	}
	out := find(groups, lists)
	if failed != nil {
		out.policies = append(out.policies, unanswered(failed)...)
	}
	return out, nil
}

// find picks the kinds of policy, each in one version: the one that is evaluated,
// or else the preferred one.
func find(groups []*metav1.APIGroup, lists []*metav1.APIResourceList) served {
	preferred := map[string]bool{}
	for _, g := range groups {
		preferred[g.PreferredVersion.GroupVersion] = true
	}
	var out served
	byKind, ranks := map[string]policyKind{}, map[string]int{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue // an API server that names its own version wrongly serves nothing
		}
		for i := range list.APIResources {
			resource := &list.APIResources[i]
			if strings.Contains(resource.Name, "/") {
				continue // a part of a resource
			}
			if gv == v1alpha1.GroupVersion && resource.Name == "connectivityexpectations" {
				out.expectations = true
			}
			kind, ok := manifests.PolicyKind(list.GroupVersion, resource.Kind)
			if !ok {
				continue
			}
			k := policyKind{PolicyKind: kind, resource: gv.WithResource(resource.Name)}
			if !slices.Contains(resource.Verbs, "list") {
				k.unread = "its API does not list them"
			}
			rank := 1
			switch {
			case kind.Modelled && gv == evaluated[kind.Kind]:
				rank = 3
			case preferred[list.GroupVersion]:
				rank = 2
			}
			if rank > ranks[kind.String()] {
				byKind[kind.String()], ranks[kind.String()] = k, rank
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byKind)) {
		out.policies = append(out.policies, byKind[name])
	}
	return out
}

// unanswered returns the kinds of policy in groups that are served, but by an
// aggregated API server that does not answer.
func unanswered(failed *discovery.ErrGroupDiscoveryFailed) []policyKind {
	var out []policyKind
	for gv, err := range failed.Groups {
		for _, k := range evaluator.PolicyKinds() {
			if k.Group == gv.Group {
				out = append(out, policyKind{PolicyKind: k, resource: gv.WithResource(k.Resource), unread: err.Error()})
			}
		}
	}
	return out
}

// policies lists the policies of one kind. One that cannot be read may have any.
func (r *reader) policies(ctx context.Context, k policyKind) error {
	err := error(nil)
	if k.unread == "" {
		err = r.list(ctx, k)
	}
	switch {
	case err == nil && k.unread == "", apierrors.IsNotFound(err):
		// The kind may have gone since it was asked for.
		return nil
	case ctx.Err() != nil, apierrors.IsUnauthorized(err), errors.As(err, new(*url.Error)):
		// This is about the cluster and not about the kind.
		return err
	case forbids(err, k.resource.Resource):
		k.unread = "the user may not list " + k.resource.GroupResource().String()
	case err != nil:
		k.unread = err.Error()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.out.Unmodelled = append(r.out.Unmodelled, manifests.UnmodelledPolicy{
		APIVersion: k.resource.GroupVersion().String(), Kind: k.Kind, Unread: k.unread,
	})
	return nil
}

// list lists the policies of one kind: in full if they are evaluated, and by name
// otherwise.
func (r *reader) list(ctx context.Context, k policyKind) error {
	s := &r.out.Snapshot
	if k.Modelled && k.resource.GroupVersion() == evaluated[k.Kind] {
		switch k.Kind {
		case "ClusterNetworkPolicy":
			return into(ctx, r, k, &policyv1alpha2.ClusterNetworkPolicyList{}, &s.ClusterNetworkPolicies)
		case "AdminNetworkPolicy":
			return into(ctx, r, k, &policyv1alpha1.AdminNetworkPolicyList{}, &s.AdminNetworkPolicies)
		case "BaselineAdminNetworkPolicy":
			return into(ctx, r, k, &policyv1alpha1.BaselineAdminNetworkPolicyList{}, &s.BaselineAdminNetworkPolicies)
		}
	}
	var found []manifests.UnmodelledPolicy
	err := pages(func(o metav1.ListOptions) (metav1.ListInterface, error) {
		page, err := r.metadata.Resource(k.resource).List(ctx, o)
		if err != nil {
			return nil, err
		}
		if o.Continue == "" {
			found = nil
		}
		for i := range page.Items {
			item := &page.Items[i]
			if k.mirrors(item.Name) {
				continue
			}
			found = append(found, manifests.UnmodelledPolicy{
				APIVersion: k.resource.GroupVersion().String(), Kind: k.Kind, Namespace: item.Namespace, Name: item.Name,
			})
		}
		return page, nil
	})
	if err != nil {
		return fmt.Errorf("listing %s: %w", k.resource.GroupResource(), err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.out.Unmodelled = append(r.out.Unmodelled, found...)
	return nil
}

// mirrors tells whether an object is a NetworkPolicy once more: the API server of
// Calico shows each of them under such a name.
func (k policyKind) mirrors(name string) bool {
	return k.Group == "projectcalico.org" && k.Kind == "NetworkPolicy" && strings.HasPrefix(name, "knp.default.")
}

// into lists policies in full.
func into[T metav1.Object](ctx context.Context, r *reader, k policyKind, list runtime.Object, target *[]T) error {
	items, err := all[T](ctx, r, k.resource, list)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	*target = items
	return nil
}

func compareUnmodelled(a, b manifests.UnmodelledPolicy) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.APIVersion, b.APIVersion), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
