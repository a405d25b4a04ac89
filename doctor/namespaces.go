package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/probepod"
)

const (
	// Label is on the namespaces. Its value is the run.
	Label = "pathproof.dev/doctor"
	// ExpiryAnnotation is when a namespace may be removed by another run, as of RFC 3339.
	ExpiryAnnotation = "pathproof.dev/expires-at"
	// NamePrefix begins the names of the namespaces.
	NamePrefix = "pathproof-doctor-"

	// afterwards is added to the longest examination: until then, the run that created them
	// is still about to delete its pods, and its namespaces.
	afterwards = 5 * time.Minute
)

// namespace is the first one.
func (d *Doctor) namespace() string { return NamePrefix + d.Run }

// namespaces are the two.
func (d *Doctor) namespaces() []string {
	return []string{d.namespace(), canary.NamespaceOf(d.namespace(), canary.Abroad)}
}

// podLifetime is when the kubelet ends the pods.
func (d *Doctor) podLifetime() time.Duration { return d.Timeout + afterwards }

// CleanUpCommand is what removes all that was created.
func (d *Doctor) CleanUpCommand() string {
	return "kubectl delete namespace " + strings.Join(d.namespaces(), " ")
}

// createNamespaces creates the namespaces. The requests are seen through to their end even
// if the context is cancelled: one that is on its way would come after what deletes them.
func (d *Doctor) createNamespaces(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.created = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	for _, name := range d.namespaces() {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{Label: d.Run, probepod.EnforceLabel: "restricted"},
			Annotations: map[string]string{ExpiryAnnotation: d.Clock.Now().Add(d.podLifetime() + afterwards).UTC().Format(time.RFC3339)},
		}}
		if _, err := d.Clients.Core.Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
			if refused(err) {
				return obstacle(fmt.Sprintf("the cluster refuses the namespace %s: %v", name, err), "Let admission accept namespaces named "+NamePrefix+"*.")
			}
			return fmt.Errorf("creating namespace %s: %w", name, err)
		}
	}
	return nil
}

// refused tells whether the API server has understood a request, and does not want it.
func refused(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)
}

// Delete asks for everything to be deleted that may have been created. It does nothing if
// nothing was.
func (d *Doctor) Delete(ctx context.Context) error {
	if !d.created {
		return nil
	}
	var errs []error
	for _, name := range d.namespaces() {
		errs = append(errs, d.deleteNamespace(ctx, name))
	}
	return errors.Join(errs...)
}

// deleteNamespace deletes a namespace with all that is in it, and tries again while the
// API server is away.
func (d *Doctor) deleteNamespace(ctx context.Context, name string) error {
	for try := 0; ; try++ {
		err := d.Clients.Core.Namespaces().Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)})
		switch {
		case err == nil, apierrors.IsNotFound(err), apierrors.IsConflict(err): // it is being deleted already
			return nil
		case try == 4 || apierrors.IsForbidden(err) || d.sleep(ctx, time.Second) != nil:
			return fmt.Errorf("deleting namespace %s: %w", name, err)
		}
	}
}

// AwaitGone waits until the namespaces are gone.
func (d *Doctor) AwaitGone(ctx context.Context) error {
	for d.created {
		list, err := d.Clients.Core.Namespaces().List(ctx, metav1.ListOptions{LabelSelector: Label + "=" + d.Run})
		if err == nil && len(list.Items) == 0 {
			return nil
		}
		if end := d.sleep(ctx, poll); end != nil {
			return errors.Join(end, err)
		}
	}
	return nil
}

// sweep removes what runs that were killed have left behind. Those of another run that may
// still be under way are left alone.
func (d *Doctor) sweep(ctx context.Context) error {
	list, err := d.Clients.Core.Namespaces().List(ctx, metav1.ListOptions{LabelSelector: Label})
	if err != nil {
		return fmt.Errorf("listing namespaces: %w", err)
	}
	var removed, others []string
	for i := range list.Items {
		ns := &list.Items[i]
		switch expires, err := time.Parse(time.RFC3339, ns.Annotations[ExpiryAnnotation]); {
		case !strings.HasPrefix(ns.Name, NamePrefix) || ns.DeletionTimestamp != nil:
		case err == nil && d.Clock.Now().After(expires):
			if err := d.deleteNamespace(ctx, ns.Name); err != nil {
				return err
			}
			removed = append(removed, ns.Name)
		default:
			others = append(others, ns.Name)
		}
	}
	if len(removed) > 0 {
		d.Say("note: removed what a run that was killed had left behind: namespaces " + strings.Join(removed, ", "))
	}
	if len(others) > 0 {
		d.Say("note: there are namespaces of another run, which is under way or was killed (they are removed when they have expired): " + strings.Join(others, ", "))
	}
	return nil
}
