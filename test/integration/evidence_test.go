package integration

import (
	"context"
	"errors"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/controllers"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/test/testbed"
)

// offClock is the clock of this machine, off by some time.
type offClock struct {
	clock.RealClock
	by time.Duration
}

// Now has no reading of the monotonic clock, as the times in a status.
func (c offClock) Now() time.Time { return c.RealClock.Now().Round(0).Add(c.by) }

// withoutPods fails to create pods, as an API server whose webhook does not answer.
type withoutPods struct{ client.Client }

func (c *withoutPods) Create(ctx context.Context, o client.Object, opts ...client.CreateOption) error {
	if _, ok := o.(*corev1.Pod); ok {
		return apierrors.NewInternalError(errors.New("failed calling webhook"))
	}
	return c.Client.Create(ctx, o, opts...)
}

// inconclusive is testbed.Inconclusive.
func inconclusive(exp *v1alpha1.ConnectivityExpectation, path, cause string, words ...string) {
	GinkgoHelper()
	Expect(testbed.Inconclusive(exp, path, cause, words...)).To(Succeed())
}

// What docs/evidence.md lists, as far as it cannot be done to real nodes.
var _ = Describe("evidence", func() {
	DescribeTable("is of an unknown age or too old when the operator's clock is", func(ctx SpecContext, by time.Duration, words string) {
		stop, _ := startOperator(nil)
		w := newWorld(ctx, nil)
		w.expect(ctx, paths)
		first := w.result(ctx)
		Expect(testbed.Ready(first).Status).To(Equal(metav1.ConditionTrue), testbed.Ready(first).Message)
		stop()

		w.kubelet.set(func(k *kubelet) { k.hold = everyPod })
		startOperatorWith(offClock{by: by}, nil, nil)
		Eventually(func() string { return testbed.Ready(w.get(ctx)).Reason }).WithTimeout(10 * time.Second).Should(Equal(v1alpha1.ReasonStale))
		stale := testbed.Ready(w.get(ctx))
		Expect(stale.Status).To(Equal(metav1.ConditionUnknown))
		Expect(stale.Message).To(ContainSubstring(words))

		By("measuring again at once")
		w.kubelet.set(func(k *kubelet) { k.hold = nil })
		Eventually(func() metav1.ConditionStatus { return testbed.Ready(w.get(ctx)).Status }).WithTimeout(20 * time.Second).Should(Equal(metav1.ConditionTrue))
		again := w.get(ctx).Status.LastRun
		Expect(again.Trigger).To(Equal("Interval"))
		Expect(again.FinishedAt.Time).To(BeTemporally("~", time.Now().Add(by), time.Minute))
	},
		Entry("put back", SpecTimeout(time.Minute), -time.Hour, "the clock was put back"),
		Entry("put forward", SpecTimeout(time.Minute), time.Hour, "old, and the interval is"),
	)

	It("grows old while the API server can create no probe, and refuses none", func(ctx SpecContext) {
		stop, _ := startOperator(nil)
		w := newWorld(ctx, nil)
		w.expect(ctx, paths)
		Expect(testbed.Ready(w.result(ctx)).Status).To(Equal(metav1.ConditionTrue))
		stop()

		_, metrics := startOperatorWith(offClock{by: time.Hour}, nil, func(c client.Client) client.Client {
			return &withoutPods{Client: c}
		})
		Eventually(func() string { return testbed.Ready(w.get(ctx)).Reason }).WithTimeout(10 * time.Second).Should(Equal(v1alpha1.ReasonStale))
		stale := testbed.Ready(w.get(ctx))
		Expect(stale.Status).To(Equal(metav1.ConditionUnknown))
		Expect(stale.Message).To(ContainSubstring("the last result is"))
		Expect(testutil.CollectAndCount(metrics, "pathproof_run_age_seconds")).To(Equal(1))
	}, SpecTimeout(time.Minute))

	It("is refused when a report was cut off", func(ctx SpecContext) {
		startOperator(nil)
		w := newWorld(ctx, nil)
		w.kubelet.set(func(k *kubelet) {
			k.end = func(p *corev1.Pod) *corev1.PodStatus {
				encoded := p.Annotations[wire.PlanAnnotation]
				if encoded == "" {
					return nil
				}
				whole := k.report(p, encoded)
				return terminated(corev1.PodSucceeded, corev1.ContainerStateTerminated{Reason: "Completed", Message: whole[:len(whole)/2]})
			}
		})
		w.expect(ctx, paths)
		inconclusive(w.result(ctx), "denied", "ProbeFailed", "decoding report: the message was cut off after")
		w.leavesNothing(ctx)
	}, SpecTimeout(time.Minute))

	It("is missing while the node of the source does not start the probe", func(ctx SpecContext) {
		startOperator(nil)
		w := newWorld(ctx, nil)
		w.kubelet.set(func(k *kubelet) { k.hold = probesOf("stranger") })
		w.expect(ctx, paths)
		inconclusive(w.result(ctx), "denied", "SourceNotReady", "the probe pod did not start within 4s: it is Pending")
		w.leavesNothing(ctx)
	}, SpecTimeout(time.Minute))

	It("is missing when the probe was killed before it could report", func(ctx SpecContext) {
		startOperator(nil)
		w := newWorld(ctx, nil)
		w.kubelet.set(func(k *kubelet) {
			k.end = func(p *corev1.Pod) *corev1.PodStatus {
				if p.Labels["app"] != "stranger" {
					return nil
				}
				return terminated(corev1.PodFailed, corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137})
			}
		})
		w.expect(ctx, paths)
		inconclusive(w.result(ctx), "denied", "ProbeFailed", "the probe left no report: OOMKilled, exit code 137")
		w.leavesNothing(ctx)
	}, SpecTimeout(time.Minute))

	It("is none when attempts disagree, as where packets are lost", func(ctx SpecContext) {
		startOperator(nil)
		w := newWorld(ctx, nil)
		w.kubelet.set(func(k *kubelet) {
			k.end = func(p *corev1.Pod) *corev1.PodStatus {
				if p.Labels["app"] != "stranger" {
					return nil
				}
				return reported(p, func(r *wire.Report) {
					for i := range r.Results {
						r.Results[i].Outcomes = wire.Outcomes{wire.TimedOut, wire.Connected, wire.TimedOut}
					}
				})
			}
		})
		w.expect(ctx, paths)
		inconclusive(w.result(ctx), "denied", "Flapping", "attempts from different source ports disagree")
		w.leavesNothing(ctx)
	}, SpecTimeout(time.Minute))

	It("is missing when the probe has no source port left", func(ctx SpecContext) {
		startOperator(nil)
		w := newWorld(ctx, nil)
		w.kubelet.set(func(k *kubelet) {
			k.outcome = func(p *corev1.Pod, c wire.Check) wire.Outcome {
				if p.Labels["app"] == "stranger" {
					return wire.AddressUnavailable
				}
				return enforced(p, c)
			}
		})
		w.expect(ctx, paths)
		inconclusive(w.result(ctx), "denied", "ProbeFailed", "an attempt tells nothing about the path")
		w.leavesNothing(ctx)
	}, SpecTimeout(time.Minute))

	It("is not asked for before the address of the probe is known", func(ctx SpecContext) {
		startOperator(func(o *controllers.Options) { o.WarmUp = 0 })
		w := newWorld(ctx, nil)
		w.kubelet.set(func(k *kubelet) {
			k.end = func(p *corev1.Pod) *corev1.PodStatus {
				if !probes(p) {
					return nil
				}
				status := running(corev1.ContainerStatus{Name: "probe", Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}})
				status.PodIP, status.PodIPs = "", nil
				return status
			}
		})
		w.expect(ctx, toResponder)
		Eventually(func() []string { return w.kubelet.apps() }).WithTimeout(10 * time.Second).Should(ConsistOf("db"))
		Consistently(func() []string { return planned(ctx, w) }).WithTimeout(500 * time.Millisecond).Should(BeEmpty())
		inconclusive(w.result(ctx), "denied", "SourceNotReady", "it runs, and its status has no address")
		w.leavesNothing(ctx)
	}, SpecTimeout(time.Minute))

	It("is missing when the responder dies while it is probed", func(ctx SpecContext) {
		startOperator(func(o *controllers.Options) { o.StartTimeout = time.Minute })
		w := newWorld(ctx, nil)
		w.kubelet.set(func(k *kubelet) {
			k.hold = func(p *corev1.Pod) bool { return probes(p) && p.Annotations[wire.PlanAnnotation] != "" }
		})
		w.expect(ctx, toResponder)
		Eventually(func() []string { return w.kubelet.apps() }).WithTimeout(10 * time.Second).Should(ConsistOf("db"))
		// The probes have their plans only once the operator has seen it listen.
		Eventually(func() []string { return planned(ctx, w) }).WithTimeout(10 * time.Second).Should(HaveLen(2))
		w.killResponder(ctx)
		w.kubelet.set(func(k *kubelet) { k.hold = nil })
		inconclusive(w.result(ctx), "denied", "TargetNotListening", "the kubelet did not see the responder listen during the whole run")
		w.leavesNothing(ctx)
	}, SpecTimeout(time.Minute))
})

// killResponder ends the responder as a container that was killed.
func (w *world) killResponder(ctx context.Context) {
	GinkgoHelper()
	var list corev1.PodList
	Expect(k8s.List(ctx, &list, client.InNamespace(w.ns))).To(Succeed())
	killed := 0
	for i := range list.Items {
		if pod := &list.Items[i]; pod.Annotations["pathproof.dev/run"] != "" && !probes(pod) {
			pod.Status.Phase = corev1.PodFailed
			pod.Status.ContainerStatuses = terminated(corev1.PodFailed, corev1.ContainerStateTerminated{Reason: "Error", ExitCode: 137}).ContainerStatuses
			Expect(k8s.Status().Update(ctx, pod)).To(Succeed())
			killed++
		}
	}
	Expect(killed).To(Equal(1))
}
