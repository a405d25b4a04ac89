package integration

import (
	"net/netip"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/test/testbed"
)

// arrived puts all requests that are asked for into a record, as of the last round.
func arrived(q wire.RecordRequest, r *wire.Record) {
	for plan, checks := range q.Checks {
		for _, i := range checks {
			r.Requests = append(r.Requests, wire.Requests{Plan: plan, Check: i, Round: 1, Count: 3})
		}
	}
}

var _ = Describe("the record of a responder", func() {
	silent := func(*corev1.Pod, wire.Check) wire.Outcome { return wire.TimedOut }
	DescribeTable("tells lost replies from closed paths", func(ctx SpecContext, spec string, outcome func(*corev1.Pod, wire.Check) wire.Outcome, record func(wire.RecordRequest, *wire.Record), want map[string]string) {
		startOperator(nil)
		w := newWorld(ctx, nil)
		usual := w.kubelet.outcome
		w.kubelet.set(func(k *kubelet) {
			k.record = record
			if outcome != nil {
				k.outcome = outcome
			}
		})
		w.expect(ctx, spec)
		exp := w.result(ctx)
		Expect(causes(exp)).To(Equal(want))
		Expect(testbed.Ready(exp).Status).NotTo(Equal(metav1.ConditionTrue))
		w.kubelet.set(func(k *kubelet) { Expect(k.recorded).To(HaveLen(1)) })

		By("a run in which nothing is lost")
		w.kubelet.set(func(k *kubelet) { k.record, k.outcome = nil, usual })
		requestRun(ctx, w)
		Expect(testbed.Ready(w.get(ctx)).Status).To(Equal(metav1.ConditionTrue), testbed.Ready(w.get(ctx)).Message)
		w.kubelet.set(func(k *kubelet) { Expect(k.recorded).To(HaveLen(2)) })
	},
		Entry("of the denied path alone", SpecTimeout(time.Minute), toResponder, nil, arrived, map[string]string{"denied": "Delivered"}),
		Entry("of the denied path, in pods that stay", SpecTimeout(time.Minute), residentSpec, nil, arrived, map[string]string{"denied": "Delivered"}),
		Entry("of all paths", SpecTimeout(time.Minute), toResponder, silent, arrived, map[string]string{"allowed": "Delivered", "denied": "Delivered"}),
		Entry("of an earlier round", SpecTimeout(time.Minute), toResponder, silent, func(q wire.RecordRequest, r *wire.Record) {
			arrived(q, r)
			for i := range r.Requests {
				r.Requests[i].Round = 7
			}
		}, map[string]string{"allowed": "PathBroken", "denied": "PathBroken"}),
		Entry("unless its kernel has dropped some", SpecTimeout(time.Minute), toResponder, nil, func(_ wire.RecordRequest, r *wire.Record) {
			r.Unseen = map[flow.Protocol]string{flow.TCP: "in words"}
		}, map[string]string{"denied": "NotRecorded"}),
		Entry("unless a stranger knocked", SpecTimeout(time.Minute), toResponder, nil, func(_ wire.RecordRequest, r *wire.Record) {
			r.Handshakes = []wire.Handshakes{{Protocol: flow.TCP, Port: 5432, From: netip.MustParseAddr("203.0.113.9"), Count: 1}}
		}, map[string]string{"denied": "NotRecorded"}),
		Entry("unless it does not fit", SpecTimeout(time.Minute), toResponder, nil, func(_ wire.RecordRequest, r *wire.Record) { r.Trimmed = true },
			map[string]string{"denied": "NotRecorded"}),
		Entry("unless it answers another request", SpecTimeout(time.Minute), toResponder, nil, func(_ wire.RecordRequest, r *wire.Record) { r.ID = "other" },
			map[string]string{"denied": "NotRecorded"}),
	)

	It("is not asked for where every attempt was answered", func(ctx SpecContext) {
		startOperator(nil)
		w := newWorld(ctx, nil)
		w.expect(ctx, "coverage: {maxSources: 1}\npaths:\n- {name: allowed, expect: Allow, from: {identity: {labels: {app: web}}}, to: {identity: {labels: {app: db}}}, ports: [{port: 5432}]}\n")
		Expect(testbed.Ready(w.result(ctx)).Status).To(Equal(metav1.ConditionTrue))
		w.kubelet.set(func(k *kubelet) { Expect(k.recorded).To(BeEmpty()) })
		w.leavesNothing(ctx)
	}, SpecTimeout(time.Minute))

	It("is missing where the responder is deleted, and then nothing is green", func(ctx SpecContext) {
		startOperator(nil)
		w := newWorld(ctx, nil)
		w.kubelet.set(func(k *kubelet) { k.mute = true })
		w.expect(ctx, toResponder)
		Eventually(func() []string { return w.pods(ctx) }).WithTimeout(10 * time.Second).Should(HaveLen(3))
		Eventually(func() []string { return w.pods(ctx) }).WithTimeout(10 * time.Second).Should(HaveLen(1)) // the responder that was asked
		for _, name := range w.pods(ctx) {
			Expect(k8s.Delete(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}})).To(Succeed())
		}
		exp := w.result(ctx)
		Expect(causes(exp)).To(Equal(map[string]string{"denied": "NotRecorded"}))
		Expect(exp.Status.Findings[0].Observed.Evidence).To(ContainSubstring("deleted by somebody else"))
		w.leavesNothing(ctx)
	}, SpecTimeout(time.Minute))
})
