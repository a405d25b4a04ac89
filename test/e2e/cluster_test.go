package e2e

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// podsOf returns the workload's pods in production, without probe pods.
func podsOf(ctx context.Context, app string) []corev1.Pod {
	GinkgoHelper()
	var list corev1.PodList
	Expect(bed.Client.List(ctx, &list, client.InNamespace("production"), client.MatchingLabels{"app": app})).To(Succeed())
	var out []corev1.Pod
	for _, p := range list.Items {
		if !isProbe(p.Name) && p.DeletionTimestamp == nil {
			out = append(out, p)
		}
	}
	return out
}

// probePods returns the probe pods of a namespace.
func probePods(ctx context.Context, namespace string) []string {
	GinkgoHelper()
	return append(oneShotPods(ctx, namespace), residentPods(ctx, namespace)...)
}

// oneShotPods returns those of the runs under way, and residentPods those that stay.

func oneShotPods(ctx context.Context, namespace string) []string {
	GinkgoHelper()
	return probePodsWhere(ctx, namespace, func(p *corev1.Pod) bool { return !staysBetweenRuns(p) })
}

func residentPods(ctx context.Context, namespace string) []string {
	GinkgoHelper()
	return probePodsWhere(ctx, namespace, staysBetweenRuns)
}

func staysBetweenRuns(p *corev1.Pod) bool { return p.Annotations["pathproof.dev/resident"] != "" }

func probePodsWhere(ctx context.Context, namespace string, of func(*corev1.Pod) bool) []string {
	GinkgoHelper()
	var list corev1.PodList
	Expect(bed.Client.List(ctx, &list, client.InNamespace(namespace))).To(Succeed())
	var out []string
	for i := range list.Items {
		if p := &list.Items[i]; isProbe(p.Name) && of(p) {
			out = append(out, p.Name)
		}
	}
	return out
}

// endpointWatch is what watchEndpoints saw.
type endpointWatch struct {
	looks int
	ready []string
}

// watchEndpoints looks at the endpoints of production until the context ends. The
// channel then holds what it saw, for any number of readers.
func watchEndpoints(ctx context.Context) <-chan endpointWatch {
	out := make(chan endpointWatch)
	go func() {
		defer GinkgoRecover()
		var seen endpointWatch
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-tick.C:
				seen.look(ctx)
			}
		}
		for range 2 {
			out <- seen
		}
	}()
	return out
}

func (w *endpointWatch) look(ctx context.Context) {
	var slices discoveryv1.EndpointSliceList
	if err := bed.Client.List(ctx, &slices, client.InNamespace("production")); err != nil {
		return
	}
	w.looks++
	for _, s := range slices.Items {
		for _, ep := range s.Endpoints {
			ready := ep.Conditions.Ready == nil || *ep.Conditions.Ready
			if ready && ep.TargetRef != nil && isProbe(ep.TargetRef.Name) {
				w.ready = append(w.ready, s.Name+": "+ep.TargetRef.Name)
			}
		}
	}
}
