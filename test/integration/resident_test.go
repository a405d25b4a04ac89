package integration

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/controllers"
	"github.com/pathproof/pathproof/test/testbed"
)

// residentSpec is toResponder with pods that stay.
const residentSpec = "probe: {mode: Resident}\n" + toResponder

var _ = Describe("an expectation with resident pods", func() {
	patient := func(o *controllers.Options) { o.StartTimeout = time.Minute }

	// uids returns the probe pods by name: one that was deleted and made again has another
	// UID.
	uids := func(ctx context.Context, w *world) map[string]string {
		GinkgoHelper()
		var list corev1.PodList
		Expect(k8s.List(ctx, &list, client.InNamespace(w.ns))).To(Succeed())
		out := map[string]string{}
		for _, p := range list.Items {
			if isResident(&p) && p.DeletionTimestamp == nil {
				out[p.Name] = string(p.UID)
			}
		}
		return out
	}
	owners := func(ctx context.Context, w *world) []int {
		GinkgoHelper()
		var list corev1.PodList
		Expect(k8s.List(ctx, &list, client.InNamespace(w.ns))).To(Succeed())
		var out []int
		for _, p := range list.Items {
			if isResident(&p) {
				out = append(out, len(p.OwnerReferences))
			}
		}
		return out
	}
	met := func(exp *v1alpha1.ConnectivityExpectation) {
		GinkgoHelper()
		Expect(testbed.Ready(exp).Status).To(Equal(metav1.ConditionTrue), testbed.Ready(exp).Message)
		Expect(exp.Status.Summary.Met).To(BeEquivalentTo(2))
	}

	It("runs in the same pods again, over a restart, and shares them", func(ctx SpecContext) {
		stop, _ := startOperator(patient)
		w := newWorld(ctx, nil)
		w.expect(ctx, residentSpec)
		met(w.result(ctx))
		first := uids(ctx, w)
		Expect(first).To(HaveLen(3))

		requestRun(ctx, w)
		met(w.get(ctx))
		Expect(uids(ctx, w)).To(Equal(first))
		stop()
		startOperator(patient)
		requestRun(ctx, w)
		met(w.get(ctx))
		Expect(uids(ctx, w)).To(Equal(first))

		other := &v1alpha1.ConnectivityExpectation{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "y"}, Spec: w.get(ctx).Spec}
		Expect(k8s.Create(ctx, other)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(client.IgnoreNotFound(k8s.Delete(ctx, other))).To(Succeed()) })
		Eventually(func() metav1.ConditionStatus {
			Expect(k8s.Get(ctx, client.ObjectKeyFromObject(other), other)).To(Succeed())
			return testbed.Ready(other).Status
		}).WithTimeout(20 * time.Second).Should(Equal(metav1.ConditionTrue))
		Expect(uids(ctx, w)).To(Equal(first))
		Expect(owners(ctx, w)).To(Equal([]int{2, 2, 2}))

		Expect(k8s.Delete(ctx, w.get(ctx))).To(Succeed())
		Eventually(func() []int { return owners(ctx, w) }).WithTimeout(10 * time.Second).Should(Equal([]int{1, 1, 1}))
		Expect(uids(ctx, w)).To(Equal(first))
		Expect(k8s.Delete(ctx, other)).To(Succeed())
		w.leavesNothing(ctx)
	}, SpecTimeout(2*time.Minute))

	It("answers a request that comes in the midst of a run", func(ctx SpecContext) {
		startOperator(patient)
		w := newWorld(ctx, nil)
		w.kubelet.set(func(k *kubelet) { k.hold = everyPod })
		w.expect(ctx, residentSpec)
		Eventually(func() map[string]string { return uids(ctx, w) }).WithTimeout(10 * time.Second).ShouldNot(BeEmpty())
		exp := w.get(ctx)
		patch(ctx, exp, func() { metav1.SetMetaDataAnnotation(&exp.ObjectMeta, v1alpha1.RequestedAtAnnotation, "midst") })
		w.kubelet.set(func(k *kubelet) { k.hold = nil })
		// No pod goes, and nothing else happens that would wake the operator.
		Eventually(func() string { return w.get(ctx).Status.LastHandledRequest }).WithTimeout(15 * time.Second).Should(Equal("midst"))
		met(w.get(ctx))
	}, SpecTimeout(time.Minute))

	It("replaces a pod that is deleted, and gives back those that it does not need", func(ctx SpecContext) {
		startOperator(patient)
		w := newWorld(ctx, nil)
		exp := w.expect(ctx, residentSpec)
		met(w.result(ctx))
		first := uids(ctx, w)
		for name := range first {
			Expect(k8s.Delete(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}})).To(Succeed())
		}
		requestRun(ctx, w)
		met(w.get(ctx))
		second := uids(ctx, w)
		Expect(second).To(HaveLen(3))
		for name := range second {
			Expect(first).To(HaveKey(name))
			Expect(first[name]).NotTo(Equal(second[name]))
		}

		By("another identity")
		patch(ctx, exp, func() { exp.Spec.Paths[0].From.Identity.Labels["tier"] = "front" })
		Eventually(func() int64 { return w.get(ctx).Status.ObservedGeneration }).WithTimeout(20 * time.Second).Should(Equal(exp.Generation))
		met(w.result(ctx))
		Eventually(func() map[string]string { return uids(ctx, w) }).WithTimeout(10 * time.Second).Should(HaveLen(3))
		Expect(uids(ctx, w)).NotTo(Equal(second))

		By("suspension")
		patch(ctx, exp, func() { exp.Spec.Suspend = true })
		w.leavesNothing(ctx)

		By("one shot")
		patch(ctx, exp, func() { exp.Spec.Suspend = false })
		Eventually(func() map[string]string { return uids(ctx, w) }).WithTimeout(20 * time.Second).Should(HaveLen(3))
		patch(ctx, exp, func() { exp.Spec.Probe.Mode = v1alpha1.ProbeModeOneShot })
		Eventually(func() int64 { return w.get(ctx).Status.ObservedGeneration }).WithTimeout(20 * time.Second).Should(Equal(exp.Generation))
		met(w.result(ctx))
		w.leavesNothing(ctx)
	}, SpecTimeout(2*time.Minute))

	// Pods that stay give no place back: nothing but the words can help.
	It("says so when there is no place for its pods", func(ctx SpecContext) {
		startOperator(func(o *controllers.Options) { o.MaxProbePodsPerNamespace = 1 })
		w := newWorld(ctx, nil)
		w.expect(ctx, "probe: {mode: Resident}\n"+paths)
		Eventually(func() string { return testbed.Ready(w.get(ctx)).Message }).WithTimeout(20 * time.Second).
			Should(ContainSubstring("waits for a place for a probe pod"))
		ready := testbed.Ready(w.get(ctx))
		Expect(ready.Reason).To(Equal(v1alpha1.ReasonPending))
		Expect(ready.Message).To(ContainSubstring("1 of 1 in namespace " + w.ns + " (--max-probe-pods-per-namespace)"))
	}, SpecTimeout(time.Minute))

	It("names what is wrong as with other pods", func(ctx SpecContext) {
		startOperator(patient)
		w := newWorld(ctx, nil)
		w.kubelet.set(func(k *kubelet) { k.outcome = nil })
		w.expect(ctx, residentSpec)
		w.result(ctx)
		Expect(causes(w.get(ctx))).To(Equal(map[string]string{"denied": "EnforcementMissing"}))
	}, SpecTimeout(time.Minute))
})
