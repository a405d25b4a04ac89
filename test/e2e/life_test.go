package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/test/testbed"
)

// The life of a run: what starts it, what ends it early, and what must not be left.
var _ = Describe("a run", Ordered, func() {
	const namespace = "life"

	BeforeAll(func(ctx SpecContext) {
		Expect(bed.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})).To(Succeed())
		DeferCleanup(func(ctx SpecContext) {
			Expect(bed.Kubectl(ctx, "delete", "namespace", namespace, "--timeout=120s")).To(Succeed())
		})
	}, NodeTimeout(3*time.Minute))

	// create applies a scenario until the end of the spec.
	create := func(ctx context.Context, s testbed.Scenario) {
		GinkgoHelper()
		if s.LabOnly {
			requireLab()
		}
		Expect(bed.Apply(ctx, s)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) {
			Expect(bed.Kubectl(ctx, "delete", "--ignore-not-found", "-f", bed.Path(s.Manifests))).To(Succeed())
			Eventually(func() []string { return probePods(ctx, namespace) }).WithTimeout(30 * time.Second).Should(BeEmpty())
		})
	}
	// firstRuns creates a scenario and its twin, and returns what their first runs found,
	// which has to be right.
	firstRuns := func(ctx context.Context, s testbed.Scenario) *v1alpha1.ConnectivityExpectation {
		GinkgoHelper()
		create(ctx, s)
		exp, resident := pairOf(ctx, s.Key).await(ctx, probed)
		expectRight(exp, s)
		expectTheSame(exp, resident)
		return exp
	}

	It("is complete soon after the expectation was applied", func(ctx SpecContext) {
		start := time.Now()
		create(ctx, testbed.Open)
		exp := await(ctx, testbed.Open.Key, probed)
		measured("kubectl apply to a complete status, with a responder", time.Since(start))
		expectRight(exp, testbed.Open)
		Expect(exp.Status.LastRun.Trigger).To(Equal("Created"))
		// The twin would have been part of what is measured.
		expectTheSame(exp, await(ctx, pairOf(ctx, testbed.Open.Key).resident, probed))
	}, SpecTimeout(3*time.Minute))

	It("is not green for a port on which nothing listens", func(ctx SpecContext) {
		exp := firstRuns(ctx, testbed.WrongPort)
		Expect(exp.Status.Summary.Met).To(BeZero())
	}, SpecTimeout(3*time.Minute))

	It("makes a positive control for a closed path that stands alone", func(ctx SpecContext) {
		exp := firstRuns(ctx, testbed.Alone)
		// The control is evidence, and no check of its own: its pods are more than those of
		// the path, of which each makes a check of each address.
		addresses := 0
		for _, pod := range dnsPods(ctx) {
			addresses += len(pod.Status.PodIPs)
		}
		Expect(addresses).To(BeNumerically(">", 0))
		Expect(exp.Status.LastRun.ProbePods).To(BeNumerically(">", int(exp.Status.Summary.Checks)/addresses), describe(exp))
	}, SpecTimeout(3*time.Minute))

	It("is not green when no pod matches", func(ctx SpecContext) {
		exp := firstRuns(ctx, testbed.Nobody)
		Expect(testbed.Ready(exp).Status).To(Equal(metav1.ConditionUnknown))
	}, SpecTimeout(3*time.Minute))

	It("says so when the kernel lacks SCTP", func(ctx SpecContext) {
		requireLab() // the nodes' kernel is this machine's
		if testbed.KernelSCTP() {
			Skip("this kernel has SCTP sockets")
		}
		exp := firstRuns(ctx, testbed.SCTP)
		Expect(testbed.Ready(exp).Status).To(Equal(metav1.ConditionUnknown))
	}, SpecTimeout(3*time.Minute))

	It("proves SCTP paths without the kernel's SCTP", func(ctx SpecContext) {
		firstRuns(ctx, testbed.SCTPRaw)
	}, SpecTimeout(3*time.Minute))

	It("tells what is declared and contradicted by policies, whatever the protocol", func(ctx SpecContext) {
		exp := firstRuns(ctx, testbed.Drift)
		Expect(testbed.Ready(exp).Reason).To(Equal("PolicyDrift"), describe(exp))
		for _, f := range exp.Status.Findings {
			want := map[v1alpha1.Expect]string{v1alpha1.ExpectAllow: "Blocked", v1alpha1.ExpectDeny: "Open"}[f.Declared]
			Expect(f.Observed.Result).To(Equal(want), describe(exp))
		}
		Expect(testbed.Condition(exp, v1alpha1.ConditionEnforced).Status).To(Equal(metav1.ConditionTrue))
	}, SpecTimeout(3*time.Minute))

	It("leaves no pod when the expectation is deleted in its midst", func(ctx SpecContext) {
		create(ctx, testbed.Open)
		both := pairOf(ctx, testbed.Open.Key)
		for _, pods := range []func(context.Context, string) []string{oneShotPods, residentPods} {
			Eventually(func() []string { return pods(ctx, namespace) }).WithTimeout(30 * time.Second).ShouldNot(BeEmpty())
		}
		Expect(bed.Kubectl(ctx, "-n", namespace, "delete", "cxp", both.oneShot.Name, both.resident.Name)).To(Succeed())
		Eventually(func() []string { return probePods(ctx, namespace) }).WithTimeout(10 * time.Second).Should(BeEmpty())
	}, SpecTimeout(3*time.Minute))

	DescribeTable("survives kill -9 of the operator", func(ctx SpecContext, delay time.Duration) {
		requireLab()                                   // the operator's process is one of this machine
		Expect(bed.RestartOperator(ctx)).To(Succeed()) // whatever the specs before have done to it
		create(ctx, testbed.Open)
		both := pairOf(ctx, testbed.Open.Key)
		exp, resident := both.await(ctx, probed)
		expectAllMet(exp)
		expectTheSame(exp, resident)
		stay := residentPods(ctx, namespace)
		results := both.request(ctx)
		time.Sleep(delay) // the phase in which the operator dies
		killOperator(ctx)
		exp, resident = results(ctx)
		expectAllMet(exp)
		expectTheSame(exp, resident)
		Eventually(func() []string { return oneShotPods(ctx, namespace) }).WithTimeout(15 * time.Second).Should(BeEmpty())
		Expect(residentPods(ctx, namespace)).To(ConsistOf(stay))
	},
		Entry("as the run begins", SpecTimeout(4*time.Minute), 100*time.Millisecond),
		Entry("while the responder starts", SpecTimeout(4*time.Minute), 1500*time.Millisecond),
		Entry("while the probe runs", SpecTimeout(4*time.Minute), 4*time.Second),
	)
})

// killOperator kills the operator's process without warning.
func killOperator(ctx context.Context) {
	GinkgoHelper()
	var pods corev1.PodList
	Expect(bed.Client.List(ctx, &pods, client.InNamespace("pathproof-system"), client.MatchingLabels{"app.kubernetes.io/component": "manager"})).To(Succeed())
	Expect(pods.Items).NotTo(BeEmpty())
	killed := 0
	for _, pod := range pods.Items {
		for _, pid := range processesOf(&pod) {
			if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); strings.TrimSpace(string(comm)) == "manager" {
				Expect(syscall.Kill(pid, syscall.SIGKILL)).To(Succeed())
				killed++
			}
		}
	}
	Expect(killed).To(BeNumerically(">", 0), "the operator's process was found")
}
