package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	// patience is far beyond what any step takes on a slow machine.
	patience = 2 * time.Minute
	// tempo is how often a condition is looked at.
	tempo = 100 * time.Millisecond
)

// await looks at a condition until it holds. It ends early when a process that
// the condition depends on has died, and says what that process said last.
func (l *Lab) await(ctx context.Context, what string, needs []string, holds func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not within %s", patience))
	defer cancel()
	for {
		err := holds(ctx)
		if err == nil {
			return nil
		}
		for _, name := range needs {
			r, ok := l.processes.Get(name)
			if ok && l.processes.Alive(r) {
				continue
			}
			return fmt.Errorf("waiting for %s: %s has ended; %s ends with:\n%s", what, name, r.Log, tail(r.Log, 15))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w: %w", what, context.Cause(ctx), err)
		case <-time.After(tempo):
		}
	}
}

func (l *Lab) awaitAPI(ctx context.Context, client kubernetes.Interface) error {
	return l.await(ctx, "the API server", []string{"etcd", "kube-apiserver"}, func(ctx context.Context) error {
		_, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err
	})
}

func (l *Lab) awaitNodes(ctx context.Context) error {
	client, err := l.Client()
	if err != nil {
		return err
	}
	var needs []string
	for _, n := range l.nodes {
		needs = append(needs, l.containerdSpec(n).Name)
		for _, s := range l.nodeProcesses(n) {
			needs = append(needs, s.Name)
		}
	}
	return l.await(ctx, "the nodes", needs, func(ctx context.Context) error {
		var missing []error
		for _, n := range l.nodes {
			missing = append(missing, nodeReady(ctx, client, n.Name))
		}
		return errors.Join(missing...)
	})
}

// nodeReady returns nil if a node is ready and takes pods, or why not. The node controller
// takes away its taints up to a minute later than the kubelet of the node has reported,
// after an outage of the API server: it has to open its watches again.
func nodeReady(ctx context.Context, client kubernetes.Interface, name string) error {
	node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, t := range node.Spec.Taints {
		if t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable {
			return fmt.Errorf("%s has the taint %s", name, t.ToString())
		}
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			if c.Status == corev1.ConditionTrue {
				return nil
			}
			return fmt.Errorf("%s is not ready: %s", name, c.Message)
		}
	}
	return fmt.Errorf("%s has not reported yet", name)
}

// awaitDNS waits until a Service's name resolves on every node: that takes a
// running pod, its image, the routes, kube-proxy and the endpoints.
func (l *Lab) awaitDNS(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range l.nodes {
		g.Go(func() error {
			return l.await(ctx, "cluster DNS on "+n.Name, []string{"kube-controller-manager", "kube-scheduler"}, func(ctx context.Context) error {
				ctx, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				out, err := marked(ctx, "nsenter", "--net=/run/netns/"+n.Netns,
					selfPath, "resolve", "kubernetes.default.svc.cluster.local.").CombinedOutput()
				if err != nil {
					return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
				}
				return nil
			})
		})
	}
	return g.Wait()
}
