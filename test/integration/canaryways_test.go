package integration

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/test/testbed"
)

var _ = Describe("the canary as evidence", func() {
	It("shows that nodes carry traffic where nobody may reach anybody, as long as they do", func(ctx SpecContext) {
		startOperator(nil)
		w := newWorld(ctx, nil)
		Expect(k8s.Create(ctx, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "nothing"}, Spec: networkingv1.NetworkPolicySpec{
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
		}})).To(Succeed())
		w.kubelet.set(func(k *kubelet) { k.outcome = func(*corev1.Pod, wire.Check) wire.Outcome { return wire.TimedOut } })
		w.expect(ctx, "coverage: {maxSources: 1}\npaths:\n"+
			"- {name: closed, expect: Deny, from: {identity: {labels: {app: stranger}}}, to: {identity: {labels: {app: vault}}}, ports: [{port: 8200}]}\n")
		found := func(cause, words string) {
			GinkgoHelper()
			Expect(testbed.Inconclusive(w.get(ctx), "closed", cause, words)).To(Succeed())
		}
		w.result(ctx)
		found("NoPositiveControl", "the canary does not know the way either: there is no EnforcementCanary")

		By("a canary")
		m := newCoalMine()
		m.create(ctx, nil)
		m.complete(ctx)
		green := func() {
			GinkgoHelper()
			requestRun(ctx, w)
			exp := w.get(ctx)
			Expect(testbed.Ready(exp).Status).To(Equal(metav1.ConditionTrue), testbed.Ready(exp).Message)
			Expect(exp.Status.LastRun.CanaryEvidence).To(BeEquivalentTo(1))
		}
		green()
		green()

		By("nodes that are cut apart since the last round")
		m.breaks(func(_, _ string, p canary.Probe) wire.Outcome {
			if p.From == canary.Guarded || p.To == canary.Guarded {
				return 0
			}
			return wire.TimedOut
		})
		requestRun(ctx, w)
		found("PathBroken", "nor do pods of the canary, which no policy selects, reach each other between these nodes")

		By("nodes that may have been cut apart during the run")
		m.breaks(nil)
		requestRun(ctx, w)
		found("NoPositiveControl", "its pods reach each other there, and did not in the round before")
		green()

		By("a canary that has gone")
		Expect(k8s.Delete(ctx, m.get(ctx))).To(Succeed())
		requestRun(ctx, w)
		found("NoPositiveControl", "there is no EnforcementCanary")
	}, SpecTimeout(2*time.Minute))
})
