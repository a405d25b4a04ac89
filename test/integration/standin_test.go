package integration

import (
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/test/testbed"
)

var _ = Describe("a stand-in", func() {
	const toDB = `coverage: {maxSources: 1}
paths:
- {name: allowed, expect: Allow, from: {identity: {labels: {app: web}}}, to: {podSelector: {matchLabels: {app: db}}, via: VIA}, ports: [{port: 5432}]}
- {name: denied, expect: Deny, from: {identity: {labels: {app: stranger}}}, to: {podSelector: {matchLabels: {app: db}}, via: VIA}, ports: [{port: 5432}]}
`
	via := func(v string) string { return strings.ReplaceAll(toDB, "VIA", v) }
	// nobodyListens is what a pod answers; a responder answers the nonce.
	nobodyListens := func(pod *corev1.Pod, c wire.Check) wire.Outcome {
		if out := enforced(pod, c); out != wire.Connected || c.Nonce != "" {
			return out
		}
		return wire.Refused
	}

	It("takes the place of a pod at which nothing listened, from the next run on", func(ctx SpecContext) {
		startOperator(nil)
		w := newWorld(ctx, nil)
		w.kubelet.set(func(k *kubelet) { k.outcome = nobodyListens })
		exp := w.expect(ctx, via("Auto"))
		Expect(causes(w.result(ctx))).To(HaveKeyWithValue("allowed", "TargetNotListening"))
		provenance := w.get(ctx).Status.LastRun.Provenance

		By("the next run")
		requestRun(ctx, w)
		got := w.get(ctx)
		Expect(testbed.Ready(got).Status).To(Equal(metav1.ConditionTrue), testbed.Ready(got).Message)
		Expect(got.Status.LastRun.ProbePods).To(BeEquivalentTo(3))
		Expect(got.Status.LastRun.Provenance).To(Equal(provenance), "what a run has found out is no change of the configuration")

		By("one after another spec")
		patch(ctx, exp, func() { exp.Spec.Probe.Attempts = 4 })
		Eventually(func() int64 { return w.get(ctx).Status.ObservedGeneration }).WithTimeout(20 * time.Second).Should(Equal(exp.Generation))
		w.result(ctx)
		requestRun(ctx, w)
		Expect(causes(w.get(ctx))).To(HaveKeyWithValue("allowed", "TargetNotListening"))
	}, SpecTimeout(time.Minute))

	It("is asked for, or never", func(ctx SpecContext) {
		startOperator(nil)
		w := newWorld(ctx, nil)
		w.kubelet.set(func(k *kubelet) { k.outcome = nobodyListens })
		exp := w.expect(ctx, via("StandIn"))
		Expect(testbed.Ready(w.result(ctx)).Status).To(Equal(metav1.ConditionTrue), testbed.Ready(w.get(ctx)).Message)
		patch(ctx, exp, func() {
			for i := range exp.Spec.Paths {
				exp.Spec.Paths[i].To.Via = "Endpoint"
			}
		})
		Eventually(func() int64 { return w.get(ctx).Status.ObservedGeneration }).WithTimeout(20 * time.Second).Should(Equal(exp.Generation))
		w.result(ctx)
		for range 2 {
			requestRun(ctx, w)
			Expect(causes(w.get(ctx))).To(HaveKeyWithValue("allowed", "TargetNotListening"))
		}
	}, SpecTimeout(time.Minute))

	It("is refused with words that say what to write instead", func(ctx SpecContext) {
		startOperator(nil)
		w := newWorld(ctx, nil)
		labels := map[string]string{"app": "db"}
		Expect(k8s.Create(ctx, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "bare"}, Spec: appsv1.ReplicaSetSpec{
			Replicas: new(int32), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
		}})).To(Succeed())
		w.expect(ctx, via("StandIn"))
		exp := w.result(ctx)
		Expect(causes(exp)).To(Equal(map[string]string{"allowed": "StandInRefused", "denied": "StandInRefused"}))
		Expect(testbed.Ready(exp).Status).To(Equal(metav1.ConditionUnknown))
		Expect(exp.Status.Findings[0].Message).To(SatisfyAll(ContainSubstring("ReplicaSet bare"), ContainSubstring("to.via: Endpoint")))
		w.leavesNothing(ctx)
	}, SpecTimeout(time.Minute))
})
