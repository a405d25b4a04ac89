package integration

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/controllers"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/test/testbed"
)

// toResponder are the paths to an identity: three pods are started for them.
const toResponder = `coverage: {maxSources: 1}
paths:
- {name: allowed, expect: Allow, from: {identity: {labels: {app: web}}}, to: {identity: {labels: {app: db}}}, ports: [{port: 5432}]}
- {name: denied, expect: Deny, from: {identity: {labels: {app: stranger}}}, to: {identity: {labels: {app: db}}}, ports: [{port: 5432}]}
`

// front lets a test see and disturb the status writes of the operator.
type front struct {
	client.Client
	// before is called before every write.
	before func(*v1alpha1.ConnectivityExpectation)
	writes atomic.Int32
}

type frontWriter struct {
	client.SubResourceWriter
	front *front
}

func (f *front) Status() client.SubResourceWriter { return frontWriter{f.Client.Status(), f} }

func (w frontWriter) Patch(ctx context.Context, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
	w.front.writes.Add(1)
	if w.front.before != nil {
		w.front.before(o.(*v1alpha1.ConnectivityExpectation))
	}
	return w.SubResourceWriter.Patch(ctx, o, p, opts...)
}

var _ = Describe("the operator", func() {
	patient := func(o *controllers.Options) { o.StartTimeout = time.Minute }

	DescribeTable("starts a run again when it is restarted", func(ctx SpecContext, hold func(*corev1.Pod) bool, ran []string, left int) {
		w := newWorld(ctx, nil)
		stop, _ := startOperator(patient)
		w.kubelet.set(func(k *kubelet) { k.hold = hold })
		w.expect(ctx, toResponder)
		Eventually(func() []string { return w.kubelet.apps() }).WithTimeout(10 * time.Second).Should(ConsistOf(ran))
		Eventually(func() []string { return w.pods(ctx) }).WithTimeout(10 * time.Second).Should(HaveLen(left))
		stop()
		before := w.pods(ctx)
		Expect(before).To(HaveLen(left))

		startOperator(patient)
		Eventually(func() []string { return w.pods(ctx) }).WithTimeout(10 * time.Second).Should(SatisfyAll(Not(BeEmpty()), Not(ContainElement(BeElementOf(before)))))
		w.kubelet.set(func(k *kubelet) { k.hold = nil })
		exp := w.result(ctx)
		Expect(testbed.Ready(exp).Status).To(Equal(metav1.ConditionTrue), testbed.Ready(exp).Message)
		Expect(exp.Status.LastRun.ProbePods).To(BeEquivalentTo(3))
		w.leavesNothing(ctx)
	},
		Entry("after the pods were created", SpecTimeout(time.Minute), everyPod, nil, 3),
		Entry("after the responder has started", SpecTimeout(time.Minute), probes, []string{"db"}, 3),
		Entry("after one report is in", SpecTimeout(time.Minute), probesOf("stranger"), []string{"db", "web"}, 2),
	)

	// While a responder starts, the probes start beside it, without a plan.
	responders := func(pod *corev1.Pod) bool { return !probes(pod) }

	It("gives probes their plans when the responder listens, and not before", func(ctx SpecContext) {
		startOperator(patient)
		w := newWorld(ctx, nil)
		w.kubelet.set(func(k *kubelet) { k.hold = responders })
		w.expect(ctx, toResponder)
		Eventually(func() []string { return w.pods(ctx) }).WithTimeout(10 * time.Second).Should(HaveLen(3))
		Consistently(func() []string { return planned(ctx, w) }).WithTimeout(500 * time.Millisecond).Should(BeEmpty())
		w.kubelet.set(func(k *kubelet) { k.hold = nil })
		exp := w.result(ctx)
		Expect(testbed.Ready(exp).Status).To(Equal(metav1.ConditionTrue), testbed.Ready(exp).Message)
		Expect(exp.Status.LastRun.ProbePods).To(BeEquivalentTo(3))
		w.leavesNothing(ctx)
	}, SpecTimeout(time.Minute))

	It("discards the probes of a responder that never listens", func(ctx SpecContext) {
		startOperator(func(o *controllers.Options) { o.StartTimeout = 2 * time.Second })
		w := newWorld(ctx, nil)
		w.kubelet.set(func(k *kubelet) { k.hold = responders })
		w.expect(ctx, toResponder)
		exp := w.result(ctx)
		Expect(causes(exp)).To(Equal(map[string]string{"allowed": "TargetNotListening", "denied": "TargetNotListening"}))
		Expect(exp.Status.LastRun.ProbePods).To(BeEquivalentTo(3))
		Expect(exp.Status.Coverage.SourcesProbed).To(BeZero())
		Expect(w.kubelet.apps()).To(BeEmpty())
		w.leavesNothing(ctx)
	}, SpecTimeout(time.Minute))

	It("misses a probe that somebody deletes before it has its plan", func(ctx SpecContext) {
		startOperator(patient)
		w := newWorld(ctx, nil)
		w.kubelet.set(func(k *kubelet) { k.hold = responders })
		w.expect(ctx, toResponder)
		Eventually(func() []string { return w.pods(ctx) }).WithTimeout(10 * time.Second).Should(HaveLen(3))
		Expect(k8s.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(w.ns), client.MatchingLabels{"app": "stranger"}, client.GracePeriodSeconds(0))).To(Succeed())
		w.kubelet.set(func(k *kubelet) { k.hold = nil })
		exp := w.result(ctx)
		Expect(causes(exp)).To(Equal(map[string]string{"denied": "ProbeFailed"}))
		Expect(exp.Status.Findings[0].Message).To(ContainSubstring("deleted by somebody else"))
		w.leavesNothing(ctx)
	}, SpecTimeout(time.Minute))

	It("starts a run of a changed spec again when it is restarted", func(ctx SpecContext) {
		w := newWorld(ctx, nil)
		stop, _ := startOperator(patient)
		w.expect(ctx, paths)
		exp := w.result(ctx)
		w.kubelet.set(func(k *kubelet) { k.hold = everyPod })
		// Nothing that the snapshot depends on: only the generation tells.
		patch(ctx, exp, func() { exp.Spec.Probe.Attempts = 5 })
		Eventually(func() string { return testbed.Ready(w.get(ctx)).Reason }).WithTimeout(10 * time.Second).Should(Equal(v1alpha1.ReasonPending))
		stop()
		w.kubelet.set(func(k *kubelet) { k.hold = nil })
		startOperator(patient)
		Eventually(func() metav1.Condition { return testbed.Ready(w.get(ctx)) }).WithTimeout(15 * time.Second).Should(HaveField("Status", metav1.ConditionTrue))
		Expect(w.get(ctx).Status.ObservedGeneration).To(Equal(exp.Generation))
		w.leavesNothing(ctx)
	}, SpecTimeout(time.Minute))

	It("deletes the pods and the series of an expectation that is deleted during a run", func(ctx SpecContext) {
		_, metrics := startOperator(patient)
		w := newWorld(ctx, nil)
		exp := w.expect(ctx, toResponder)
		w.result(ctx)
		count := func() int {
			return testutil.CollectAndCount(metrics, "pathproof_checks", "pathproof_conclusive_run_age_seconds")
		}
		Expect(count()).To(Equal(2))
		w.leavesNothing(ctx)
		w.kubelet.set(func(k *kubelet) { k.hold = probes })
		patch(ctx, exp, func() { metav1.SetMetaDataAnnotation(&exp.ObjectMeta, v1alpha1.RequestedAtAnnotation, "now") })
		Eventually(func() []string { return w.pods(ctx) }).WithTimeout(10 * time.Second).Should(HaveLen(3))
		Eventually(func() float64 { return testutil.ToFloat64(metrics.ProbePods) }).Should(BeEquivalentTo(3))
		Expect(k8s.Delete(ctx, exp)).To(Succeed())
		w.leavesNothing(ctx)
		Eventually(count).Should(BeZero())
		Eventually(func() float64 { return testutil.ToFloat64(metrics.ProbePods) }).Should(BeZero())
	}, SpecTimeout(time.Minute))

	It("does not lose a result when its write conflicts", func(ctx SpecContext) {
		w := newWorld(ctx, nil)
		conflicts := 0
		startOperatorWith(clock.RealClock{}, nil, func(c client.Client) client.Client {
			return &front{Client: c, before: func(exp *v1alpha1.ConnectivityExpectation) {
				if exp.Status.LastRun == nil || conflicts == 3 {
					return
				}
				conflicts++
				// A label starts no reconcile: the operator has to come back on its own.
				rival := &v1alpha1.ConnectivityExpectation{ObjectMeta: metav1.ObjectMeta{Namespace: exp.Namespace, Name: exp.Name}}
				Expect(k8s.Patch(ctx, rival, client.RawPatch(client.Merge.Type(), fmt.Appendf(nil, `{"metadata":{"labels":{"n":"%d"}}}`, conflicts)))).To(Succeed())
			}}
		})
		w.expect(ctx, toResponder)
		exp := w.result(ctx)
		Expect(conflicts).To(Equal(3))
		Expect(testbed.Ready(exp).Status).To(Equal(metav1.ConditionTrue), testbed.Ready(exp).Message)
		Consistently(func() []string { return w.kubelet.apps() }).WithTimeout(time.Second).Should(ConsistOf("db", "web", "stranger"), "it took one run")
		Expect(events(ctx, w)).To(ConsistOf("AllPathsMet"))
	}, SpecTimeout(time.Minute))

	It("writes no status when there is nothing new", func(ctx SpecContext) {
		var f *front
		startOperatorWith(clock.RealClock{}, nil, func(c client.Client) client.Client {
			f = &front{Client: c}
			return f
		})
		w := newWorld(ctx, nil)
		w.expect(ctx, paths)
		w.result(ctx)
		w.leavesNothing(ctx)
		time.Sleep(500 * time.Millisecond)
		before := f.writes.Load()
		for i := range 5 {
			Expect(k8s.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: fmt.Sprintf("s%d", i)}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}})).To(Succeed())
			time.Sleep(100 * time.Millisecond)
		}
		Expect(f.writes.Load() - before).To(BeZero())
	}, SpecTimeout(time.Minute))

	It("answers a request once, however long it is", func(ctx SpecContext) {
		w := newWorld(ctx, nil)
		startOperator(nil)
		exp := w.expect(ctx, paths)
		w.result(ctx)
		one := len(w.kubelet.apps())
		patch(ctx, exp, func() {
			metav1.SetMetaDataAnnotation(&exp.ObjectMeta, v1alpha1.RequestedAtAnnotation, strings.Repeat("x", 300))
		})
		Eventually(func() string { return w.get(ctx).Status.LastHandledRequest }).WithTimeout(10 * time.Second).Should(SatisfyAll(HavePrefix("xxx"), HaveLen(256)))
		Expect(w.get(ctx).Status.LastRun.Trigger).To(Equal("Requested"))
		Expect(w.get(ctx).Status.Coverage.Round).To(BeEquivalentTo(1))
		Expect(w.get(ctx).Status.Coverage.Runs).To(BeEquivalentTo(2))
		Consistently(func() int { return len(w.kubelet.apps()) }).WithTimeout(1500 * time.Millisecond).Should(Equal(2 * one))
	}, SpecTimeout(time.Minute))

	It("tells of transitions only", func(ctx SpecContext) {
		startOperator(nil)
		w := newWorld(ctx, nil)
		w.expect(ctx, paths)
		w.result(ctx)
		w.kubelet.set(func(k *kubelet) { k.outcome = nil })
		for range 2 {
			requestRun(ctx, w)
		}
		// The last one is about the direction that fails.
		want := []string{"AllPathsMet", "EnforcementMissing", "EnforcementMissing"}
		Eventually(func() []string { return events(ctx, w) }).WithTimeout(10 * time.Second).Should(ConsistOf(want))
		requestRun(ctx, w)
		Eventually(func() bool { return len(w.get(ctx).Status.Findings[0].Attributions) > 0 }).WithTimeout(10 * time.Second).Should(BeTrue())
		Consistently(func() []string { return events(ctx, w) }).WithTimeout(time.Second).Should(ConsistOf(want))
	}, SpecTimeout(time.Minute))

	It("splits the checks of an identity over pods when a plan cannot hold them", func(ctx SpecContext) {
		startOperator(nil)
		w := newWorld(ctx, nil)
		var spec strings.Builder
		spec.WriteString("coverage: {maxSources: 1}\npaths:\n")
		for path := range 3 {
			fmt.Fprintf(&spec, "- name: p%d\n  expect: Allow\n  from: {identity: {labels: {app: web}}}\n  to: {address: {ips: [192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4, 192.0.2.5, 192.0.2.6, 192.0.2.7, 192.0.2.8]}}\n  ports:\n", path)
			for port := range 16 {
				fmt.Fprintf(&spec, "  - {port: %d, endPort: %d}\n", 1000+10*port, 1009+10*port)
			}
		}
		w.expect(ctx, spec.String())
		exp := w.result(ctx)
		Expect(exp.Status.Summary.Checks).To(BeNumerically(">", wire.MaxChecks))
		Expect(exp.Status.Summary.Met).To(Equal(exp.Status.Summary.Checks), testbed.Ready(exp).Message)
		Expect(exp.Status.LastRun.ProbePods).To(BeEquivalentTo(2))
	}, SpecTimeout(time.Minute))

	It("does not take an injected container for its responder", func(ctx SpecContext) {
		startOperator(nil)
		w := newWorld(ctx, nil)
		w.kubelet.set(func(k *kubelet) {
			k.outcome = func(pod *corev1.Pod, _ wire.Check) wire.Outcome { return wire.TimedOut }
			k.end = func(pod *corev1.Pod) *corev1.PodStatus {
				if probes(pod) {
					return nil
				}
				now := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}
				return running(corev1.ContainerStatus{Name: "injected", Ready: true, State: now}, corev1.ContainerStatus{Name: "probe", State: now})
			}
		})
		w.expect(ctx, toResponder)
		Expect(causes(w.result(ctx))).To(Equal(map[string]string{"allowed": "TargetNotListening", "denied": "TargetNotListening"}))
	}, SpecTimeout(time.Minute))
})

// planned returns the pods that have a plan.
func planned(ctx context.Context, w *world) []string {
	GinkgoHelper()
	var list corev1.PodList
	Expect(k8s.List(ctx, &list, client.InNamespace(w.ns))).To(Succeed())
	var out []string
	for _, p := range list.Items {
		if p.Annotations[wire.PlanAnnotation] != "" {
			out = append(out, p.Name)
		}
	}
	return out
}
