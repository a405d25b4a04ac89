package integration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus/testutil"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/controllers"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/test/testbed"
)

const paths = `paths:
- {name: allowed, expect: Allow, from: {identity: {labels: {app: web}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 5432}]}
- {name: denied, expect: Deny, from: {identity: {labels: {app: stranger}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 5432}]}
`

// world is one namespace with a database, the policy that protects it, and an
// expectation of its own.
type world struct {
	ns      string
	kubelet *kubelet
}

var worlds int

func newWorld(ctx context.Context, labels map[string]string) *world {
	GinkgoHelper()
	worlds++
	w := &world{ns: fmt.Sprintf("world-%d", worlds)}
	Expect(k8s.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.ns, Labels: labels}})).To(Succeed())
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "db", Labels: map[string]string{"app": "db"}},
		Spec: corev1.PodSpec{NodeName: "node-b", SecurityContext: restricted(), Containers: []corev1.Container{{Name: "db", Image: "db", SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(bool), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		}}}},
	}
	Expect(k8s.Create(ctx, pod)).To(Succeed())
	pod.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: "10.8.0.1", PodIPs: []corev1.PodIP{{IP: "10.8.0.1"}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
	Expect(k8s.Status().Update(ctx, pod)).To(Succeed())
	Expect(k8s.Create(ctx, w.policy())).To(Succeed())
	w.kubelet = startKubelet(w.ns)
	w.kubelet.outcome = enforced
	DeferCleanup(func(ctx SpecContext) {
		// Every operator sees every namespace: the next one must not find this one's.
		exp := &v1alpha1.ConnectivityExpectation{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "x"}}
		Expect(client.IgnoreNotFound(k8s.Delete(ctx, exp))).To(Succeed())
	})
	return w
}

func restricted() *corev1.PodSecurityContext {
	yes := true
	return &corev1.PodSecurityContext{RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
}

func (w *world) policy() *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "db"}, Spec: networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}},
		Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}}},
	}}
}

// enforced drops what comes from strangers.
func enforced(pod *corev1.Pod, _ wire.Check) wire.Outcome {
	if pod.Labels["app"] == "stranger" {
		return wire.TimedOut
	}
	return wire.Connected
}

func (w *world) expect(ctx context.Context, spec string) *v1alpha1.ConnectivityExpectation {
	GinkgoHelper()
	exp := &v1alpha1.ConnectivityExpectation{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "x"}}
	Expect(yaml.UnmarshalStrict([]byte(spec), &exp.Spec)).To(Succeed())
	Expect(k8s.Create(ctx, exp)).To(Succeed())
	return exp
}

func (w *world) get(ctx context.Context) *v1alpha1.ConnectivityExpectation {
	exp := &v1alpha1.ConnectivityExpectation{}
	if err := k8s.Get(ctx, client.ObjectKey{Namespace: w.ns, Name: "x"}, exp); err != nil {
		return &v1alpha1.ConnectivityExpectation{}
	}
	return exp
}

// result waits for a run that ended after the given number of runs had.
func (w *world) result(ctx context.Context) *v1alpha1.ConnectivityExpectation {
	GinkgoHelper()
	Eventually(func() bool {
		e := w.get(ctx)
		return e.Status.LastRun != nil && testbed.Ready(e).Reason != v1alpha1.ReasonPending
	}).WithTimeout(20 * time.Second).Should(BeTrue())
	return w.get(ctx)
}

func (w *world) pods(ctx context.Context) []string {
	GinkgoHelper()
	var list corev1.PodList
	Expect(k8s.List(ctx, &list, client.InNamespace(w.ns))).To(Succeed())
	var out []string
	for _, p := range list.Items {
		if strings.HasPrefix(p.Name, "pathproof-") {
			out = append(out, p.Name)
		}
	}
	return out
}

func (w *world) leavesNothing(ctx context.Context) {
	GinkgoHelper()
	Eventually(func() []string { return w.pods(ctx) }).WithTimeout(10 * time.Second).Should(BeEmpty())
}

func causes(e *v1alpha1.ConnectivityExpectation) map[string]string {
	out := map[string]string{}
	for _, f := range e.Status.Findings {
		out[f.Path] = f.Cause
	}
	return out
}

// reasons returns status and reason of every condition.
func reasons(e *v1alpha1.ConnectivityExpectation) map[string]string {
	out := map[string]string{}
	for _, c := range e.Status.Conditions {
		out[c.Type] = string(c.Status) + " " + c.Reason
	}
	return out
}

var _ = Describe("an expectation", func() {
	It("is met, and says so once", func(ctx SpecContext) {
		_, metrics := startOperator(nil)
		w := newWorld(ctx, nil)
		w.expect(ctx, paths)
		exp := w.result(ctx)
		Expect(testbed.Ready(exp).Status).To(Equal(metav1.ConditionTrue), testbed.Ready(exp).Message)
		Expect(exp.Status.ObservedGeneration).To(Equal(exp.Generation))
		Expect(exp.Status.Summary.Checks).To(BeNumerically(">=", 2))
		Expect(exp.Status.Summary.Met).To(Equal(exp.Status.Summary.Checks))
		Expect(reasons(exp)).To(Equal(map[string]string{
			"Ready": "True AllPathsMet", "PolicyAligned": "True PoliciesMatchIntent", "Enforced": "True NetworkMatchesPolicies",
			"Satisfied": "True NetworkMatchesIntent", "PoliciesValid": "True AllPoliciesParsed",
		}))
		for _, c := range exp.Status.Conditions {
			Expect(c.ObservedGeneration).To(Equal(exp.Generation), c.Type)
		}
		Expect(exp.Status.LastRun.Trigger).To(Equal("Created"))
		Expect(exp.Status.LastConclusiveAt).NotTo(BeNil())
		Expect(exp.Status.NextRunAt.Time).To(BeTemporally(">", time.Now().Add(4*time.Minute)))
		Expect(exp.Status.Findings).To(BeEmpty())
		// Two identities and one database; identities have no node of their own.
		c := exp.Status.Coverage
		Expect([]int32{c.Round, c.Runs, c.PairsMatched, c.PairsCovered, c.PairsPercent, c.NodePairsMatched}).To(Equal([]int32{0, 1, 2, 2, 100, 0}))
		w.leavesNothing(ctx)
		Expect(testutil.CollectAndCount(metrics, "pathproof_checks")).To(Equal(1))

		By("telling of the transition, and not of the same again")
		requestRun(ctx, w)
		Expect(events(ctx, w)).To(ConsistOf("AllPathsMet"))

		By("telling who collects metrics the same")
		Expect(testutil.ToFloat64(metrics.Active)).To(BeEquivalentTo(1))
		Expect(testutil.CollectAndCompare(metrics, strings.NewReader(fmt.Sprintf(`
# HELP pathproof_expectation_ready 1 for the status (True, False, Unknown) and the reason of the condition Ready of an expectation.
# TYPE pathproof_expectation_ready gauge
pathproof_expectation_ready{expectation=%q,namespace=%q,reason="AllPathsMet",status="True"} 1
`, w.get(ctx).Name, w.ns)), "pathproof_expectation_ready")).To(Succeed())

		By("dropping its series when it is gone")
		Expect(k8s.Delete(ctx, w.get(ctx))).To(Succeed())
		Eventually(func() int {
			return testutil.CollectAndCount(metrics, "pathproof_checks", "pathproof_expectation_ready", "pathproof_run_age_seconds")
		}).Should(BeZero())
	}, SpecTimeout(time.Minute))

	It("names path, node and policy when enforcement is missing", func(ctx SpecContext) {
		startOperator(nil)
		w := newWorld(ctx, nil)
		w.kubelet.set(func(k *kubelet) { k.outcome = nil })
		w.expect(ctx, paths)
		exp := w.result(ctx)
		Expect(causes(exp)).To(Equal(map[string]string{"denied": "EnforcementMissing"}))
		f := exp.Status.Findings[0]
		Expect(f.TargetNode).To(Equal("node-b"))
		Expect(f.SourceNode).To(HavePrefix("node-"))
		Expect(f.Predicted.Policies).To(ConsistOf(w.ns + "/db"))
		Expect(testbed.Ready(exp).Message).To(SatisfyAll(HavePrefix("path denied: "), ContainSubstring("on "+f.SourceNode+" to "), ContainSubstring("on node-b"), ContainSubstring("policy "+w.ns+"/db")))
		Expect(testbed.Condition(exp, v1alpha1.ConditionPolicyAligned).Status).To(Equal(metav1.ConditionTrue))
		Expect(testbed.Condition(exp, v1alpha1.ConditionEnforced).Status).To(Equal(metav1.ConditionFalse))
		// The second one has the direction that fails.
		Eventually(func() []string { return events(ctx, w) }).WithTimeout(15 * time.Second).Should(ConsistOf("EnforcementMissing", "EnforcementMissing"))
	}, SpecTimeout(time.Minute))

	It("sees drift when its policy is deleted, without waiting for the interval", func(ctx SpecContext) {
		startOperator(nil)
		w := newWorld(ctx, nil)
		w.expect(ctx, paths)
		w.result(ctx)
		w.kubelet.set(func(k *kubelet) { k.outcome = nil })
		Expect(k8s.Delete(ctx, w.policy())).To(Succeed())
		Eventually(func() string { return testbed.Ready(w.get(ctx)).Reason }).WithTimeout(15 * time.Second).Should(Equal("PolicyDrift"))
		Expect(w.get(ctx).Status.LastRun.Trigger).To(Equal("Change"))
	}, SpecTimeout(time.Minute))

	DescribeTable("is never green when the probe", func(ctx SpecContext, want string, end func(*corev1.Pod) *corev1.PodStatus) {
		startOperator(nil)
		w := newWorld(ctx, nil)
		w.kubelet.set(func(k *kubelet) { k.end = end })
		w.expect(ctx, paths)
		exp := w.result(ctx)
		Expect(causes(exp)).To(Equal(map[string]string{"allowed": want, "denied": want}))
		Expect(testbed.Ready(exp).Status).To(Equal(metav1.ConditionUnknown))
		w.leavesNothing(ctx)
	},
		Entry("never starts", SpecTimeout(time.Minute), "SourceNotReady", func(p *corev1.Pod) *corev1.PodStatus {
			return &corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{Name: "probe", State: corev1.ContainerState{
				Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff"}}}}}
		}),
		Entry("dies without a report", SpecTimeout(time.Minute), "ProbeFailed", func(p *corev1.Pod) *corev1.PodStatus {
			return terminated(corev1.PodFailed, corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137})
		}),
		Entry("leaves garbage", SpecTimeout(time.Minute), "ProbeFailed", func(p *corev1.Pod) *corev1.PodStatus {
			return terminated(corev1.PodSucceeded, corev1.ContainerStateTerminated{Reason: "Completed", Message: "panic: x"})
		}),
		Entry("reports on another plan", SpecTimeout(time.Minute), "ProbeFailed", func(p *corev1.Pod) *corev1.PodStatus {
			text, err := wire.EncodeReport(wire.Report{Version: wire.Version, ID: "other", Results: []wire.Result{{Outcomes: wire.Outcomes{wire.Connected}}}})
			Expect(err).NotTo(HaveOccurred())
			return terminated(corev1.PodSucceeded, corev1.ContainerStateTerminated{Reason: "Completed", Message: text})
		}),
		Entry("is evicted", SpecTimeout(time.Minute), "ProbeFailed", func(p *corev1.Pod) *corev1.PodStatus {
			return &corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "the node was low on memory"}
		}),
		Entry("reports for fewer checks than it was given", SpecTimeout(time.Minute), "ProbeFailed", func(p *corev1.Pod) *corev1.PodStatus {
			return reported(p, func(r *wire.Report) { r.Results = nil })
		}),
		Entry("could not run its plan", SpecTimeout(time.Minute), "ProbeFailed", func(p *corev1.Pod) *corev1.PodStatus {
			return reported(p, func(r *wire.Report) { r.Results, r.Error = nil, "no such file" })
		}),
		Entry("is of another release", SpecTimeout(time.Minute), "ProbeFailed", func(p *corev1.Pod) *corev1.PodStatus {
			return reported(p, func(r *wire.Report) { r.Version++ })
		}),
		Entry("is deleted by somebody while it runs", SpecTimeout(time.Minute), "ProbeFailed", func(p *corev1.Pod) *corev1.PodStatus {
			go func() {
				defer GinkgoRecover()
				time.Sleep(300 * time.Millisecond)
				Expect(client.IgnoreNotFound(k8s.Delete(context.Background(), p, client.GracePeriodSeconds(0)))).To(Succeed())
			}()
			return running(corev1.ContainerStatus{Name: "probe", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}})
		}),
		Entry("hides behind an injected container that ended well", SpecTimeout(time.Minute), "ProbeFailed", func(p *corev1.Pod) *corev1.PodStatus {
			status := reported(p, func(*wire.Report) {})
			if status == nil {
				return nil
			}
			good := status.ContainerStatuses[0]
			good.Name = "injected"
			bad := corev1.ContainerStatus{Name: "probe", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137}}}
			return running(good, bad)
		}),
	)

	stranger := map[string]string{"app": "stranger"}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: stranger}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "c"}}}}
	DescribeTable("refuses a probe whose labels are selected by a", func(ctx SpecContext, want string, object client.Object) {
		startOperator(nil)
		w := newWorld(ctx, nil)
		object.SetNamespace(w.ns)
		object.SetName("bare")
		Expect(k8s.Create(ctx, object)).To(Succeed())
		w.expect(ctx, paths)
		exp := w.result(ctx)
		Expect(causes(exp)).To(Equal(map[string]string{"denied": "ProbeRefused"}))
		Expect(exp.Status.Findings[0].Message).To(ContainSubstring(want))
		Expect(testbed.Ready(exp).Status).To(Equal(metav1.ConditionUnknown))
		Expect(w.kubelet.apps()).NotTo(ContainElement("stranger"))
	},
		Entry("ReplicaSet", SpecTimeout(time.Minute), "ReplicaSet bare", &appsv1.ReplicaSet{Spec: appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{MatchLabels: stranger}, Template: template}}),
		Entry("ReplicationController", SpecTimeout(time.Minute), "ReplicationController bare", &corev1.ReplicationController{Spec: corev1.ReplicationControllerSpec{Selector: stranger, Template: &template}}),
		Entry("DaemonSet", SpecTimeout(time.Minute), "DaemonSet bare", &appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: stranger}, Template: template}}),
		Entry("Service of pods that are not ready", SpecTimeout(time.Minute), "Service bare", &corev1.Service{Spec: corev1.ServiceSpec{Selector: stranger, PublishNotReadyAddresses: true, Ports: []corev1.ServicePort{{Port: 80}}}}),
	)

	It("probes where Pod Security is restricted, and says when a quota forbids it", func(ctx SpecContext) {
		startOperator(nil)
		w := newWorld(ctx, map[string]string{"pod-security.kubernetes.io/enforce": "restricted"})
		w.expect(ctx, paths)
		Expect(testbed.Ready(w.result(ctx)).Status).To(Equal(metav1.ConditionTrue))

		quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "none"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")}}}
		Expect(k8s.Create(ctx, quota)).To(Succeed())
		quota.Status.Hard, quota.Status.Used = quota.Spec.Hard, corev1.ResourceList{corev1.ResourcePods: resource.MustParse("1")}
		Expect(k8s.Status().Update(ctx, quota)).To(Succeed())
		requestRun(ctx, w)
		exp := w.get(ctx)
		Expect(causes(exp)).To(Equal(map[string]string{"allowed": "ProbeRefused", "denied": "ProbeRefused"}))
		Expect(exp.Status.Findings[0].Message).To(ContainSubstring("exceeded quota"))
	}, SpecTimeout(time.Minute))

	const sctpPath = "probe: {sctp: %s}\npaths:\n- {name: sctp, expect: Allow, from: {identity: {labels: {app: web}}}, to: {identity: {labels: {app: sctp}}}, ports: [{protocol: SCTP, port: 9000}]}\n" +
		"- {name: tcp, expect: Allow, from: {identity: {labels: {app: web}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 5432}]}\n"
	DescribeTable("asks for NET_RAW where that is allowed, and says where it is not", func(ctx SpecContext, level, sockets string, want map[string]string, capabilities []corev1.Capability) {
		startOperator(nil)
		w := newWorld(ctx, map[string]string{"pod-security.kubernetes.io/enforce": level})
		var added []corev1.Capability
		w.kubelet.set(func(k *kubelet) {
			k.outcome = func(pod *corev1.Pod, c wire.Check) wire.Outcome {
				added = append(added, pod.Spec.Containers[0].SecurityContext.Capabilities.Add...)
				return wire.Connected
			}
		})
		w.expect(ctx, fmt.Sprintf(sctpPath, sockets))
		exp := w.result(ctx)
		Expect(causes(exp)).To(Equal(want))
		if len(want) > 0 {
			Expect(exp.Status.Findings[0].Message).To(SatisfyAll(ContainSubstring("NET_RAW"), ContainSubstring(level)))
			Expect(testbed.Ready(exp).Status).To(Equal(metav1.ConditionUnknown))
		}
		w.kubelet.set(func(*kubelet) { Expect(slices.Compact(added)).To(Equal(capabilities)) })
	},
		Entry("privileged", SpecTimeout(time.Minute), "privileged", "Raw", map[string]string{}, []corev1.Capability{"NET_RAW"}),
		Entry("baseline", SpecTimeout(time.Minute), "baseline", "Raw", map[string]string{"sctp": "ProbeRefused", "tcp": "ProbeRefused"}, nil),
		Entry("restricted", SpecTimeout(time.Minute), "restricted", "Raw", map[string]string{"sctp": "ProbeRefused", "tcp": "ProbeRefused"}, nil),
		Entry("restricted, with the kernel's sockets", SpecTimeout(time.Minute), "restricted", "Kernel", map[string]string{}, nil),
	)

	It("ends its run when it is suspended, changed or deleted", func(ctx SpecContext) {
		startOperator(func(o *controllers.Options) { o.StartTimeout = time.Minute })
		w := newWorld(ctx, nil)
		w.kubelet.set(func(k *kubelet) { k.hold = everyPod })
		exp := w.expect(ctx, paths)
		Eventually(func() []string { return w.pods(ctx) }).WithTimeout(10 * time.Second).ShouldNot(BeEmpty())

		patch(ctx, exp, func() { exp.Spec.Suspend = true })
		w.leavesNothing(ctx)
		Eventually(func() string { return testbed.Ready(w.get(ctx)).Reason }).Should(Equal(v1alpha1.ReasonSuspended))

		patch(ctx, exp, func() { exp.Spec.Suspend = false })
		Eventually(func() []string { return w.pods(ctx) }).WithTimeout(10 * time.Second).ShouldNot(BeEmpty())
		old := w.pods(ctx)
		patch(ctx, exp, func() { exp.Spec.Probe.Attempts = 5 })
		Eventually(func() []string { return w.pods(ctx) }).WithTimeout(10 * time.Second).ShouldNot(Or(BeEmpty(), ContainElements(old[0])))

		Expect(k8s.Delete(ctx, exp)).To(Succeed())
		w.leavesNothing(ctx)
	}, SpecTimeout(time.Minute))

	It("says so when the configuration changes during every run", func(ctx SpecContext) {
		startOperator(func(o *controllers.Options) { o.StartTimeout = time.Minute })
		w := newWorld(ctx, nil)
		n := 0
		w.kubelet.set(func(k *kubelet) {
			k.end = func(p *corev1.Pod) *corev1.PodStatus {
				n++
				policy := w.policy()
				policy.Spec.Ingress[0].From[0].PodSelector.MatchLabels["n"] = fmt.Sprint(n)
				Expect(k8s.Update(ctx, policy)).To(Succeed())
				return nil
			}
		})
		w.expect(ctx, paths)
		// Ready is soon Pending again, since the change starts another run.
		Eventually(func() string { return testbed.Condition(w.get(ctx), v1alpha1.ConditionEnforced).Reason }).WithTimeout(40 * time.Second).Should(Equal("ChangedDuringProbe"))
		Expect(w.get(ctx).Status.Summary.Met).To(BeZero())
	}, SpecTimeout(time.Minute))

	DescribeTable("runs in waves under a limit of one pod", func(ctx SpecContext, spec string) {
		startOperator(func(o *controllers.Options) { o.MaxProbePods, o.MaxProbePodsPerNamespace = 1, 1 })
		w := newWorld(ctx, nil)
		w.expect(ctx, spec)
		exp := w.result(ctx)
		Expect(testbed.Ready(exp).Status).To(Equal(metav1.ConditionTrue), testbed.Ready(exp).Message)
		w.leavesNothing(ctx)
	},
		Entry("without responders", SpecTimeout(time.Minute), paths),
		Entry("with one responder", SpecTimeout(time.Minute), `paths:
- {name: one, expect: Allow, from: {identity: {labels: {app: a}}}, to: {identity: {labels: {app: r}}}, ports: [{port: 80}]}
- {name: two, expect: Allow, from: {identity: {labels: {app: b}}}, to: {identity: {labels: {app: r}}}, ports: [{port: 80}]}
`),
		Entry("with more responders than the limit", SpecTimeout(time.Minute), `paths:
- {name: one, expect: Allow, from: {identity: {labels: {app: a}}}, to: {identity: {labels: {app: r}}}, ports: [{port: 80}]}
- {name: two, expect: Allow, from: {identity: {labels: {app: b}}}, to: {identity: {labels: {app: s}}}, ports: [{port: 80}]}
`),
	)

	It("names a policy that cannot be parsed, and judges what that one cannot decide", func(ctx SpecContext) {
		startOperator(nil)
		w := newWorld(ctx, nil)
		// An octal range: what it means depends on who reads it.
		broken := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "octal"}, Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "old"}},
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "010.0.0.0/8"}}}}},
		}}
		Expect(k8s.Create(ctx, broken)).To(Succeed())
		w.expect(ctx, paths+"- {name: to-old, expect: Allow, from: {identity: {labels: {app: web}}}, to: {identity: {labels: {app: old}}}, ports: [{port: 80}]}\n")
		exp := w.result(ctx)
		Expect(causes(exp)).To(Equal(map[string]string{"to-old": "ImplementationDefined"}))
		Expect(exp.Status.Findings[0].Predicted.Rule).To(Equal("X1"))
		Expect(exp.Status.Summary.Met).To(BeNumerically(">=", 2))
		Expect(reasons(exp)).To(HaveKeyWithValue("PoliciesValid", "False InvalidPolicy"))
		Expect(exp.Status.Problems).To(HaveLen(1))
		Expect(exp.Status.Problems[0].Name).To(Equal(w.ns + "/octal"))
		Expect(exp.Status.Problems[0].Field).To(Equal("spec.ingress[0].from[0].ipBlock.cidr"))
		Expect(exp.Status.Problems[0].Message).To(ContainSubstring("write an address and a prefix length"))
	}, SpecTimeout(time.Minute))

	It("is refused by the API server when it is wrong", func(ctx SpecContext) {
		w := newWorld(ctx, nil)
		for spec, want := range map[string]string{
			strings.Replace(paths, "port: 5432", "port: 0", 1):         "port must be a number from 1 to 65535",
			strings.Replace(paths, "matchLabels: {app: db}", "", 1):    "an empty selector would select everything",
			strings.Replace(paths, "to: {", "to: {host: a.b, ", 1):     "to takes exactly one of",
			strings.Replace(paths, "name: denied", "name: allowed", 1): "Duplicate value",
			"probe: {watchMilliseconds: 40}\n" + paths:                 "write mode: Resident beside it",
			"probe: {mode: Resident, watchMilliseconds: 5}\n" + paths:  "should be greater than or equal to 20",
			"paths: []":                "should have at least 1 items",
			"paths:\n" + many(65):      "must have at most 64 items",
			address("192.0.2.1/24"):    "the range has bits set behind its prefix length",
			address("198.51.100.0/24"): "every one of ips must lie in cidr",
		} {
			exp := &v1alpha1.ConnectivityExpectation{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "bad"}}
			Expect(yaml.Unmarshal([]byte(spec), &exp.Spec)).To(Succeed())
			Expect(k8s.Create(ctx, exp)).To(MatchError(ContainSubstring(want)))
		}

		By("naming a field that does not exist")
		typo := &unstructured.Unstructured{}
		Expect(yaml.Unmarshal([]byte("spec:\n  suspended: true\n  "+strings.ReplaceAll(strings.TrimSpace(paths), "\n", "\n  ")), &typo.Object)).To(Succeed())
		typo.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("ConnectivityExpectation"))
		typo.SetNamespace(w.ns)
		typo.SetName("bad")
		Expect(client.WithFieldValidation(k8s, metav1.FieldValidationStrict).Create(ctx, typo)).To(MatchError(ContainSubstring(`unknown field "spec.suspended"`)))
	}, SpecTimeout(time.Minute))
})

func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "- {name: p%d, expect: Deny, from: {identity: {labels: {app: a}}}, to: {host: example.org}, ports: [{port: 80}]}\n", i)
	}
	return b.String()
}

func address(cidr string) string {
	return "paths:\n- {name: p, expect: Deny, from: {identity: {labels: {app: a}}}, to: {address: {cidr: " + cidr + ", ips: [192.0.2.1]}}, ports: [{port: 80}]}\n"
}

// running is the status of a pod that runs, with these containers.
func running(containers ...corev1.ContainerStatus) *corev1.PodStatus {
	return &corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: "10.9.1.1"}}, PodIP: "10.9.1.1", ContainerStatuses: containers}
}

// reported is the status of a probe that ended with a report in which every check
// is as declared, but for what change does to it; nil while the probe has no plan.
func reported(pod *corev1.Pod, change func(*wire.Report)) *corev1.PodStatus {
	GinkgoHelper()
	if pod.Annotations[wire.PlanAnnotation] == "" {
		return nil
	}
	plan, err := wire.DecodePlan(pod.Annotations[wire.PlanAnnotation])
	Expect(err).NotTo(HaveOccurred())
	report := wire.Report{Version: wire.Version, ID: plan.ID, KubeletProbes: 1}
	for _, c := range plan.Checks {
		o := enforced(pod, c)
		report.Results = append(report.Results, wire.Result{Outcomes: wire.Outcomes{o, o, o}, Rounds: 1})
	}
	change(&report)
	text, err := wire.EncodeReport(report)
	Expect(err).NotTo(HaveOccurred())
	return terminated(corev1.PodSucceeded, corev1.ContainerStateTerminated{Reason: "Completed", Message: text})
}

func terminated(phase corev1.PodPhase, t corev1.ContainerStateTerminated) *corev1.PodStatus {
	return &corev1.PodStatus{Phase: phase, ContainerStatuses: []corev1.ContainerStatus{{Name: "probe", State: corev1.ContainerState{Terminated: &t}}}}
}

func patch(ctx context.Context, exp *v1alpha1.ConnectivityExpectation, change func()) {
	GinkgoHelper()
	base := exp.DeepCopy()
	change()
	Expect(k8s.Patch(ctx, exp, client.MergeFrom(base))).To(Succeed())
}

// requestRun asks for a run and waits for its result.
func requestRun(ctx context.Context, w *world) {
	GinkgoHelper()
	exp := w.get(ctx)
	value := time.Now().String()
	patch(ctx, exp, func() { metav1.SetMetaDataAnnotation(&exp.ObjectMeta, v1alpha1.RequestedAtAnnotation, value) })
	Eventually(func() string { return w.get(ctx).Status.LastHandledRequest }).WithTimeout(15 * time.Second).Should(Equal(value))
}

func events(ctx context.Context, w *world) []string {
	GinkgoHelper()
	var list eventsv1.EventList
	Eventually(func() int {
		Expect(k8s.List(ctx, &list, client.InNamespace(w.ns))).To(Succeed())
		return len(list.Items)
	}).WithTimeout(10 * time.Second).Should(BeNumerically(">", 0))
	var out []string
	for _, e := range list.Items {
		out = append(out, e.Reason)
	}
	return out
}
