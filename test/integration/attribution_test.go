package integration

import (
	"context"
	"fmt"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/controllers"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/test/testbed"
)

// withFriend are the paths with another one that policies allow.
const withFriend = paths + "- {name: friend, expect: Allow, from: {identity: {labels: {app: friend}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 5432}]}\n"

// blamed renders what is found about each path, and which direction is named for it.
func blamed(e *v1alpha1.ConnectivityExpectation) map[string]string {
	out := map[string]string{}
	for _, f := range e.Status.Findings {
		s := f.Cause
		for _, a := range f.Attributions {
			node := a.Node
			if a.Direction == "Egress" && node == f.SourceNode {
				node = "source" // which the operator has chosen
			}
			s += fmt.Sprintf(" %s@%s", a.Direction, node)
			if a.Controlled {
				s += " controlled"
			}
		}
		out[f.Path] = s
	}
	return out
}

// blamesAtLast waits until every finding has what is wanted.
func (w *world) blamesAtLast(ctx context.Context, want map[string]string) {
	GinkgoHelper()
	Eventually(func() map[string]string { return blamed(w.get(ctx)) }).WithTimeout(20 * time.Second).Should(Equal(want))
}

// admitFriend lets the friend reach the database, too.
func (w *world) admitFriend(ctx context.Context) {
	GinkgoHelper()
	p := w.policy()
	p.Spec.Ingress[0].From[0].PodSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
		{Key: "app", Operator: metav1.LabelSelectorOpIn, Values: []string{"web", "friend"}},
	}}
	Expect(k8s.Update(ctx, p)).To(Succeed())
}

// keepIn keeps strangers from sending anything to anybody.
func (w *world) keepIn(ctx context.Context, app string) {
	GinkgoHelper()
	Expect(k8s.Create(ctx, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "keep-in"}, Spec: networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
	}})).To(Succeed())
}

const database = "10.8.0.1"

var _ = Describe("a violation", func() {
	patient := func(o *controllers.Options) { o.StartTimeout = time.Minute }

	DescribeTable("is attributed to a direction and a node, once, by pods that do not stay", func(ctx SpecContext, settings string) {
		startOperator(patient)
		w := newWorld(ctx, nil)
		w.kubelet.set(func(k *kubelet) { k.outcome = nil })
		w.expect(ctx, settings+paths)
		first := w.result(ctx)
		Expect(causes(first)).To(Equal(map[string]string{"denied": "EnforcementMissing"}))
		want := map[string]string{"denied": "EnforcementMissing Ingress@node-b controlled"}
		w.blamesAtLast(ctx, want)

		exp := w.get(ctx)
		const words = "; ingress of the target would have to close it, and node node-b does not"
		for _, f := range exp.Status.Findings {
			Expect(f.Message).To(HaveSuffix(words))
			Expect(f.Attributions[0].Evidence).To(ContainSubstring(w.ns + "/{} on " + f.SourceNode + " to " + w.ns + "/db TCP 5432 on node-b is open, too"))
			Expect(f.Attributions[0].At.IsZero()).To(BeFalse())
		}
		for _, c := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionEnforced, v1alpha1.ConditionSatisfied} {
			Expect(testbed.Condition(exp, c).Message).To(ContainSubstring(words), c)
		}
		Expect(testbed.Condition(exp, v1alpha1.ConditionPolicyAligned).Message).NotTo(ContainSubstring(words))
		// A follow-up is no result.
		Expect(exp.Status.LastRun).To(Equal(first.Status.LastRun))
		Expect(exp.Status.Summary).To(Equal(first.Status.Summary))
		Eventually(func() []string { return events(ctx, w) }).WithTimeout(5 * time.Second).Should(ConsistOf("EnforcementMissing", "EnforcementMissing"))

		By("leaving nothing of its own, and not looking again")
		oneShot := func() []string {
			var list corev1.PodList
			Expect(k8s.List(ctx, &list, client.InNamespace(w.ns))).To(Succeed())
			var out []string
			for _, p := range list.Items {
				if p.Annotations["pathproof.dev/run"] != "" {
					out = append(out, p.Name)
				}
			}
			return out
		}
		Eventually(oneShot).WithTimeout(10 * time.Second).Should(BeEmpty())
		Consistently(oneShot).WithTimeout(time.Second).Should(BeEmpty())

		By("keeping it through a run after a change that leaves the finding as it is")
		w.keepIn(ctx, "web")
		Eventually(func() bool { return w.get(ctx).Status.LastRun.StartedAt.After(first.Status.LastRun.StartedAt.Time) }).WithTimeout(15 * time.Second).Should(BeTrue())
		Expect(blamed(w.result(ctx))).To(HaveKeyWithValue("denied", want["denied"]))

		By("dropping it with the finding")
		w.kubelet.set(func(k *kubelet) { k.outcome = enforced })
		requestRun(ctx, w)
		Expect(blamed(w.get(ctx))).NotTo(HaveKey("denied"))
	},
		Entry("in one-shot mode", SpecTimeout(2*time.Minute), ""),
		Entry("in resident mode", SpecTimeout(2*time.Minute), "probe: {mode: Resident}\n"),
	)

	DescribeTable("names", func(ctx SpecContext, prepare func(context.Context, *world), outcome func(*corev1.Pod, wire.Check) wire.Outcome, want map[string]string) {
		startOperator(patient)
		w := newWorld(ctx, nil)
		prepare(ctx, w)
		w.kubelet.set(func(k *kubelet) { k.outcome = outcome })
		w.expect(ctx, "coverage: {maxSources: 1}\n"+withFriend)
		w.result(ctx)
		w.blamesAtLast(ctx, want)
		w.leavesNothing(ctx)
	},
		Entry("egress and ingress, where both deny and neither does", SpecTimeout(time.Minute), func(ctx context.Context, w *world) {
			w.admitFriend(ctx)
			w.keepIn(ctx, "stranger")
		}, nil, map[string]string{"denied": "EnforcementMissing Egress@source controlled Ingress@node-b controlled"}),
		Entry("ingress of the target that drops what policies allow", SpecTimeout(time.Minute), func(ctx context.Context, w *world) { w.admitFriend(ctx) },
			func(pod *corev1.Pod, c wire.Check) wire.Outcome {
				if c.Addr.String() == database && pod.Labels["app"] != "friend" {
					return wire.TimedOut
				}
				return wire.Connected
			}, map[string]string{"allowed": "UnexpectedBlock Ingress@node-b controlled"}),
		Entry("egress of the source that drops what policies allow", SpecTimeout(time.Minute), func(ctx context.Context, w *world) { w.admitFriend(ctx) },
			func(pod *corev1.Pod, c wire.Check) wire.Outcome {
				if app := pod.Labels["app"]; app == "web" || app == "stranger" {
					return wire.TimedOut
				}
				return wire.Connected
			}, map[string]string{"allowed": "UnexpectedBlock Egress@source controlled"}),
	)

	// The web is answered elsewhere, so that it is the database that is silent.
	DescribeTable("is told from a silent target by a stand-in for it", func(ctx SpecContext, standIn wire.Outcome, want, words string) {
		startOperator(patient)
		w := newWorld(ctx, nil)
		w.kubelet.set(func(k *kubelet) {
			k.outcome = func(pod *corev1.Pod, c wire.Check) wire.Outcome {
				switch {
				case c.Addr.String() == database:
					return wire.TimedOut
				case pod.Labels["app"] == "web" && c.Port == 5432:
					return standIn
				}
				return wire.Connected
			}
			k.record = arrived
		})
		w.expect(ctx, "coverage: {maxSources: 1}\n"+paths+
			"- {name: elsewhere, expect: Allow, from: {identity: {labels: {app: web}}}, to: {identity: {labels: {app: new}}}, ports: [{port: 80}]}\n")
		Expect(causes(w.result(ctx))).To(HaveKeyWithValue("allowed", "TargetSilent"))
		Eventually(func() string { return blamed(w.get(ctx))["allowed"] }).WithTimeout(20 * time.Second).Should(Equal(want))
		exp := w.get(ctx)
		for _, f := range exp.Status.Findings {
			if f.Path == "allowed" {
				Expect(f.Attributions[0].Evidence).To(ContainSubstring(words))
			}
		}
		Expect(testbed.Ready(exp).Status).To(Equal(metav1.ConditionUnknown), "silence is no violation")
		w.leavesNothing(ctx)
	},
		Entry("that answers", SpecTimeout(time.Minute), wire.Connected, "TargetSilent Unknown@", "a stand-in for the target answers"),
		Entry("that hears, and whose answers are lost as those of all", SpecTimeout(time.Minute), wire.TimedOut, "TargetSilent Egress@source controlled", "requests reach a stand-in for the target"),
	)

	It("is not kept waiting for, and is attributed anew on request", func(ctx SpecContext) {
		startOperator(patient)
		w := newWorld(ctx, nil)
		w.kubelet.set(func(k *kubelet) { k.outcome = nil })
		// The control without labels never runs.
		w.kubelet.set(func(k *kubelet) { k.hold = func(p *corev1.Pod) bool { return len(p.Labels) == 0 } })
		w.expect(ctx, paths)
		w.result(ctx)
		Eventually(func() bool {
			return slices.ContainsFunc(podList(ctx, w), func(p corev1.Pod) bool { return len(p.Labels) == 0 })
		}).WithTimeout(10 * time.Second).Should(BeTrue())
		requestRun(ctx, w)
		Expect(blamed(w.get(ctx))).To(Equal(map[string]string{"denied": "EnforcementMissing"}))
		w.kubelet.set(func(k *kubelet) { k.hold = nil })
		w.blamesAtLast(ctx, map[string]string{"denied": "EnforcementMissing Ingress@node-b controlled"})
		controls := func() (n int) {
			for _, app := range w.kubelet.apps() {
				if app == "" {
					n++
				}
			}
			return n
		}
		before := controls()
		Expect(before).To(BeNumerically(">", 0))
		requestRun(ctx, w)
		Eventually(controls).WithTimeout(15 * time.Second).Should(BeNumerically(">", before))
		w.blamesAtLast(ctx, map[string]string{"denied": "EnforcementMissing Ingress@node-b controlled"})
	}, SpecTimeout(time.Minute))

	It("keeps its direction when no control can be made", func(ctx SpecContext) {
		startOperator(nil) // a pod that does not start in 4 s never does
		w := newWorld(ctx, nil)
		w.kubelet.set(func(k *kubelet) {
			k.outcome = nil
			k.hold = func(p *corev1.Pod) bool { return len(p.Labels) == 0 }
		})
		w.expect(ctx, paths)
		w.blamesAtLast(ctx, map[string]string{"denied": "EnforcementMissing Ingress@node-b"})
		Expect(w.get(ctx).Status.Findings[0].Attributions[0].Evidence).To(HavePrefix("not controlled: the probe pod did not start within 4s"))
	}, SpecTimeout(time.Minute))
})

func podList(ctx context.Context, w *world) []corev1.Pod {
	GinkgoHelper()
	var list corev1.PodList
	Expect(k8s.List(ctx, &list, client.InNamespace(w.ns))).To(Succeed())
	return list.Items
}
