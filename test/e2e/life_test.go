package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/test/testbed"
)

// The life of a run: what starts it, what ends it early, and what must not be left.
var _ = Describe("a run", Ordered, func() {
	const namespace = "life"
	key := types.NamespacedName{Namespace: namespace, Name: "life"}

	BeforeAll(func(ctx SpecContext) {
		Expect(bed.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})).To(Succeed())
		DeferCleanup(func(ctx SpecContext) {
			Expect(bed.Kubectl(ctx, "delete", "namespace", namespace, "--timeout=120s")).To(Succeed())
		})
	}, NodeTimeout(3*time.Minute))

	createWith := func(ctx context.Context, probe, paths string) {
		GinkgoHelper()
		apply(ctx, "apiVersion: pathproof.dev/v1alpha1\nkind: ConnectivityExpectation\nmetadata: {name: life, namespace: life}\nspec:\n"+
			"  probe: {intervalSeconds: 86400, "+probe+"}\n  paths:\n"+paths)
		DeferCleanup(func(ctx SpecContext) {
			Expect(bed.Kubectl(ctx, "-n", namespace, "delete", "cxp", "life", "--ignore-not-found")).To(Succeed())
			Eventually(func() []string { return probePods(ctx, namespace) }).WithTimeout(30 * time.Second).Should(BeEmpty())
		})
	}

	create := func(ctx context.Context, paths string) {
		GinkgoHelper()
		createWith(ctx, "", paths)
	}

	// One open path and the same path to a port that no policy closes, where
	// nothing listens.
	const open = "  - {name: open, expect: Allow, from: {identity: {labels: {app: a}}}, to: {identity: {labels: {app: b}}}, ports: [{port: 8080}]}\n"

	It("is complete soon after the expectation was applied", func(ctx SpecContext) {
		start := time.Now()
		create(ctx, open)
		exp := await(ctx, key, func(e *v1alpha1.ConnectivityExpectation) bool { return e.Status.LastRun != nil })
		measured("kubectl apply to a complete status, with a responder", time.Since(start))
		expectAllMet(exp)
		Expect(exp.Status.LastRun.Trigger).To(Equal("Created"))
	}, SpecTimeout(3*time.Minute))

	It("is not green for a port on which nothing listens", func(ctx SpecContext) {
		create(ctx, "  - {name: dns-wrong-port, expect: Allow, from: {identity: {labels: {app: a}}}, "+
			"to: {podSelector: {matchLabels: {k8s-app: kube-dns}}, namespace: kube-system}, ports: [{port: 9999}]}\n"+
			"  - {name: denied-wrong-port, expect: Deny, from: {identity: {labels: {app: a}}}, "+
			"to: {podSelector: {matchLabels: {k8s-app: kube-dns}}, namespace: kube-system}, ports: [{port: 9999}]}\n")
		exp := await(ctx, key, func(e *v1alpha1.ConnectivityExpectation) bool { return e.Status.LastRun != nil })
		Expect(verdicts(exp)).To(Equal(map[string][]string{"dns-wrong-port": {"TargetNotListening"}, "denied-wrong-port": {"PolicyDrift"}}), describe(exp))
		Expect(exp.Status.Summary.Met).To(BeZero())
	}, SpecTimeout(3*time.Minute))

	It("makes a positive control for a closed path that stands alone", func(ctx SpecContext) {
		policy := filepath.Join(GinkgoT().TempDir(), "policy.yaml")
		Expect(os.WriteFile(policy, []byte("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: stranger, namespace: life}\n"+
			"spec: {podSelector: {matchLabels: {app: stranger}}, policyTypes: [Egress]}\n"), 0o600)).To(Succeed())
		Expect(bed.Kubectl(ctx, "apply", "-f", policy)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(bed.Kubectl(ctx, "delete", "-f", policy)).To(Succeed()) })
		create(ctx, "  - {name: alone, expect: Deny, from: {identity: {labels: {app: stranger}}}, "+
			"to: {podSelector: {matchLabels: {k8s-app: kube-dns}}, namespace: kube-system}, ports: [{port: 53}]}\n")
		exp := await(ctx, key, func(e *v1alpha1.ConnectivityExpectation) bool { return e.Status.LastRun != nil })
		expectAllMet(exp)
		// The control is evidence, and no check of its own: its pods are more than those of
		// the path, of which each makes a check of each address.
		var dns corev1.PodList
		Expect(bed.Client.List(ctx, &dns, client.InNamespace("kube-system"), client.MatchingLabels{"k8s-app": "kube-dns"})).To(Succeed())
		addresses := 0
		for _, pod := range dns.Items {
			addresses += len(pod.Status.PodIPs)
		}
		Expect(addresses).To(BeNumerically(">", 0))
		Expect(exp.Status.LastRun.ProbePods).To(BeNumerically(">", int(exp.Status.Summary.Checks)/addresses), describe(exp))
	}, SpecTimeout(3*time.Minute))

	It("is not green when no pod matches", func(ctx SpecContext) {
		create(ctx, "  - {name: nobody, expect: Deny, from: {podSelector: {matchLabels: {app: nobody}}}, to: {identity: {labels: {app: b}}}, ports: [{port: 80}]}\n"+
			"  - {name: nowhere, expect: Deny, from: {identity: {labels: {app: a}}}, to: {podSelector: {matchLabels: {app: nowhere}}}, ports: [{port: 80}]}\n")
		exp := await(ctx, key, func(e *v1alpha1.ConnectivityExpectation) bool { return e.Status.LastRun != nil })
		Expect(verdicts(exp)).To(Equal(map[string][]string{"nobody": {"NoSourceMatched"}, "nowhere": {"NoTargetMatched"}}), describe(exp))
		Expect(testbed.Ready(exp).Status).To(Equal(metav1.ConditionUnknown))
	}, SpecTimeout(3*time.Minute))

	It("says so when the kernel lacks SCTP", func(ctx SpecContext) {
		if fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 132); err == nil {
			_ = syscall.Close(fd)
			Skip("this kernel has SCTP sockets")
		}
		requireLab() // the nodes' kernel is this machine's
		create(ctx, "  - {name: sctp, expect: Allow, from: {identity: {labels: {app: a}}}, to: {identity: {labels: {app: b}}}, ports: [{protocol: SCTP, port: 9000}]}\n")
		exp := await(ctx, key, func(e *v1alpha1.ConnectivityExpectation) bool { return e.Status.LastRun != nil })
		Expect(verdicts(exp)).To(Equal(map[string][]string{"sctp": {"Unsupported"}}), describe(exp))
		Expect(testbed.Ready(exp).Status).To(Equal(metav1.ConditionUnknown))
	}, SpecTimeout(3*time.Minute))

	It("proves SCTP paths without the kernel's SCTP", func(ctx SpecContext) {
		requireLab() // its image has the file capability
		apply(ctx, "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: sctp, namespace: life}\n"+
			"spec: {podSelector: {matchLabels: {app: sctp}}, ingress: [{from: [{podSelector: {matchLabels: {app: a}}}], ports: [{protocol: SCTP, port: 9000}]}]}\n")
		path := func(name, expect, from string, port int) string {
			return fmt.Sprintf("  - {name: %s, expect: %s, from: {identity: {labels: {app: %s}}}, to: {identity: {labels: {app: sctp}}}, ports: [{protocol: SCTP, port: %d}]}\n", name, expect, from, port)
		}
		createWith(ctx, "sctp: Raw", path("open", "Allow", "a", 9000)+path("stranger", "Deny", "b", 9000)+path("port", "Deny", "a", 9001))
		exp := await(ctx, key, func(e *v1alpha1.ConnectivityExpectation) bool { return e.Status.LastRun != nil })
		expectAllMet(exp)
	}, SpecTimeout(3*time.Minute))

	It("leaves no pod when the expectation is deleted in its midst", func(ctx SpecContext) {
		create(ctx, open)
		Eventually(func() []string { return probePods(ctx, namespace) }).WithTimeout(30 * time.Second).ShouldNot(BeEmpty())
		Expect(bed.Kubectl(ctx, "-n", namespace, "delete", "cxp", "life")).To(Succeed())
		Eventually(func() []string { return probePods(ctx, namespace) }).WithTimeout(10 * time.Second).Should(BeEmpty())
	}, SpecTimeout(3*time.Minute))

	DescribeTable("survives kill -9 of the operator", func(ctx SpecContext, delay time.Duration) {
		requireLab() // the operator's process is one of this machine
		create(ctx, open)
		expectAllMet(await(ctx, key, func(e *v1alpha1.ConnectivityExpectation) bool { return e.Status.LastRun != nil }))
		request := strconv.FormatInt(time.Now().UnixNano(), 10)
		Expect(bed.Kubectl(ctx, "-n", namespace, "annotate", "cxp", "life", "--overwrite", v1alpha1.RequestedAtAnnotation+"="+request)).To(Succeed())
		time.Sleep(delay) // the phase in which the operator dies
		killOperator(ctx)
		exp := await(ctx, key, func(e *v1alpha1.ConnectivityExpectation) bool { return e.Status.LastHandledRequest == request })
		expectAllMet(exp)
		Eventually(func() []string { return probePods(ctx, namespace) }).WithTimeout(15 * time.Second).Should(BeEmpty())
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
