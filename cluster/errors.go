package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// permissionError says what the user may not read, all of it at once.
type permissionError struct {
	resources []string
}

// Error names the permissions, and where they can come from.
func (e *permissionError) Error() string {
	return fmt.Sprintf("the user of the kubeconfig may not list %s in all namespaces, and predictions need that: "+
		"have a ClusterRole with the verb list on them bound to the user (the role view holds all of them but those of pathproof.dev), or name another --context",
		strings.Join(e.resources, ", "))
}

// forbids tells whether an error is the API server's refusal to let the user list
// the resource, and not one that is about the user's identity.
func forbids(err error, resource string) bool {
	status := apierrors.APIStatus(nil)
	if !apierrors.IsForbidden(err) || !errors.As(err, &status) {
		return false
	}
	details := status.Status().Details
	return details == nil || details.Kind == "" || details.Kind == resource
}

// Describe turns an error of the client into one that says what to do.
func Describe(host string, err error) error {
	unreachable := (*url.Error)(nil)
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted while reading the cluster")
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("the cluster at %s does not accept the credentials of the kubeconfig: log in again, or name another --context", host)
	case errors.As(err, &unreachable):
		return fmt.Errorf("the cluster at %s cannot be reached: %w: check that it runs, and that --context is the right one", host, unreachable.Err)
	}
	return fmt.Errorf("reading the cluster at %s: %w", host, err)
}
