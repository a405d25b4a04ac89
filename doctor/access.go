package doctor

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// needed is what the user has to be allowed to do.
func (d *Doctor) needed() []authorizationv1.ResourceAttributes {
	core := func(verb, resource, subresource, namespace string) authorizationv1.ResourceAttributes {
		return authorizationv1.ResourceAttributes{Verb: verb, Version: "v1", Resource: resource, Subresource: subresource, Namespace: namespace}
	}
	out := []authorizationv1.ResourceAttributes{
		core("list", "nodes", "", ""),
		core("list", "namespaces", "", ""), core("create", "namespaces", "", ""), core("delete", "namespaces", "", ""),
	}
	for _, ns := range d.namespaces() {
		out = append(out, core("create", "pods", "", ns), core("list", "pods", "", ns), core("patch", "pods", "", ns), core("get", "pods", "log", ns))
	}
	for _, verb := range []string{"create", "list"} {
		out = append(out, authorizationv1.ResourceAttributes{Verb: verb, Group: networkingv1.GroupName, Version: "v1", Resource: "networkpolicies", Namespace: d.namespace()})
	}
	return out
}

// checkAccess asks whether the user may do all that is needed, before anything is created.
func (d *Doctor) checkAccess(ctx context.Context) error {
	var mu sync.Mutex
	missing := map[string]bool{}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	needed := d.needed()
	for i := range needed {
		group.Go(func() error {
			review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &needed[i]}}
			answer, err := d.Clients.Authorization.SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
			if err != nil {
				return fmt.Errorf("asking what the user may do: %w", err)
			}
			if !answer.Status.Allowed {
				mu.Lock()
				defer mu.Unlock()
				missing[permission(needed[i])] = true
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	var list []string
	for _, n := range needed {
		if p := permission(n); missing[p] {
			list = append(list, p)
			delete(missing, p)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return obstacle("the user of the kubeconfig may not "+strings.Join(list, ", "),
		"Run it as a user who may, as one with the ClusterRole cluster-admin, or name another --context: the permissions are listed in docs/doctor.md. Nothing was created.")
}

func permission(a authorizationv1.ResourceAttributes) string {
	resource := a.Resource
	if a.Subresource != "" {
		resource += "/" + a.Subresource
	}
	return a.Verb + " " + resource
}
