package e2e

import (
	"context"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/test/testbed"
)

// The paths of the production scenario.
var (
	closedByIngress = []string{"frontend-to-mongodb", "stranger-to-mongodb"}
	closedByEgress  = []string{"backend-to-frontend"}
)

// violations returns what the findings are when exactly these paths have the
// cause, and no other path has any.
func violations(cause string, paths ...string) map[string][]string {
	out := map[string][]string{}
	for _, p := range paths {
		out[p] = []string{cause}
	}
	return out
}

var _ = Describe("the production scenario", Ordered, func() {
	var both pair
	BeforeAll(func(ctx SpecContext) {
		applyScenario(ctx, testbed.Production)
		both = pairOf(ctx, production)
	}, NodeTimeout(5*time.Minute))

	AfterEach(func(ctx SpecContext) {
		if bed.Lab {
			Expect(bed.Heal(ctx)).To(Succeed())
		}
	})

	It("is met", func(ctx SpecContext) {
		exp, resident := both.probe(ctx)
		expectRight(exp, testbed.Production)
		expectTheSame(exp, resident)
		for _, c := range []string{v1alpha1.ConditionPolicyAligned, v1alpha1.ConditionEnforced, v1alpha1.ConditionSatisfied, v1alpha1.ConditionPoliciesValid} {
			Expect(testbed.Condition(exp, c).Status).To(Equal(metav1.ConditionTrue), c)
		}
		Expect(exp.Status.ObservedGeneration).To(Equal(exp.Generation))
	}, SpecTimeout(3*time.Minute))

	DescribeTable("tells what the enforcement does", func(ctx SpecContext, mode, node string, want map[string][]string) {
		requireLab()
		Expect(bed.Break(ctx, mode, node)).To(Succeed())
		exp, resident := both.probe(ctx)
		Expect(verdicts(exp)).To(Equal(want), describe(exp))
		expectTheSame(exp, resident)
		if len(want) > 0 {
			Expect(testbed.Condition(exp, v1alpha1.ConditionEnforced).Status).To(Equal(metav1.ConditionFalse))
			Expect(testbed.Condition(exp, v1alpha1.ConditionPolicyAligned).Status).To(Equal(metav1.ConditionTrue))
		}
	},
		Entry("rejecting with ICMP is enforcement", SpecTimeout(3*time.Minute), "reject", "", map[string][]string{}),
		Entry("rejecting with RST is enforcement", SpecTimeout(3*time.Minute), "reject-rst", "", map[string][]string{}),
		Entry("off: every declared deny is open, no declared allow is touched", SpecTimeout(3*time.Minute), "off", "",
			violations("EnforcementMissing", slices.Concat(closedByIngress, closedByEgress)...)),
		Entry("ingress ignored", SpecTimeout(3*time.Minute), "ingress-ignored", "", violations("EnforcementMissing", closedByIngress...)),
		Entry("egress ignored", SpecTimeout(3*time.Minute), "egress-ignored", "", violations("EnforcementMissing", closedByEgress...)),
		Entry("egress ignored on one node", SpecTimeout(3*time.Minute), "egress-ignored", "node-a", violations("EnforcementMissing", closedByEgress...)),
		Entry("UDP ignored: no path of this scenario depends on it", SpecTimeout(3*time.Minute), "udp-ignored", "", map[string][]string{}),
	)

	It("tells of rules that come later than the settle window", func(ctx SpecContext) {
		requireLab()
		Expect(bed.Break(ctx, "slow=25s", "")).To(Succeed())
		exp, resident := both.probe(ctx)
		// The rules of new pods come too late altogether: those that deny, and those
		// that let the backend's probe in, without which MongoDB is not known to be up.
		Expect(verdicts(exp)).To(Equal(map[string][]string{
			"backend-to-frontend": {"EnforcementMissing"}, "backend-to-mongodb": {"TargetSilent"},
			"frontend-to-mongodb": {"TargetSilent"}, "stranger-to-mongodb": {"TargetSilent"},
		}), describe(exp))
		Expect(testbed.Condition(exp, v1alpha1.ConditionEnforced).Status).To(Equal(metav1.ConditionFalse))
		Expect(testbed.Condition(exp, v1alpha1.ConditionPolicyAligned).Status).To(Equal(metav1.ConditionTrue))
		// Pods that stay have had their rules since before.
		expectRight(resident, testbed.Production)
	}, SpecTimeout(3*time.Minute))

	It("names the node on which enforcement is off", func(ctx SpecContext) {
		requireLab()
		node := nodeOf(ctx, "mongodb")
		Expect(bed.Break(ctx, "off", node)).To(Succeed())
		oneShot, resident := both.probe(ctx)
		for _, exp := range []*v1alpha1.ConnectivityExpectation{oneShot, resident} {
			Expect(testbed.Ready(exp).Reason).To(Equal("EnforcementMissing"), describe(exp))
			for _, f := range exp.Status.Findings {
				Expect(f.Cause).To(Equal("EnforcementMissing"), describe(exp))
				if slices.Contains(closedByIngress, f.Path) {
					Expect(f.TargetNode).To(Equal(node))
					Expect(f.Predicted.Direction).To(Equal("Ingress"))
					Expect(f.Predicted.Policies).To(ConsistOf("production/allow-backend-to-mongodb"))
				} else {
					Expect(f.SourceNode).To(Equal(node), "egress is enforced on the source's node")
					Expect(f.Predicted.Direction).To(Equal("Egress"))
				}
				Expect(f.Message).To(ContainSubstring(node))
			}
			Expect(verdicts(exp)).To(HaveKey("stranger-to-mongodb"))
		}
	}, SpecTimeout(3*time.Minute))

	It("calls it drift when the ingress policy is deleted, by itself and soon", func(ctx SpecContext) {
		exp, resident := both.probe(ctx)
		expectAllMet(exp)
		expectTheSame(exp, resident)
		// The end of that run is no part of what is measured.
		Eventually(func() []string { return oneShotPods(ctx, production.Namespace) }).WithTimeout(30 * time.Second).Should(BeEmpty())
		since, residentSince := now(ctx, both.oneShot), now(ctx, both.resident)
		deletePolicy(ctx, both, "allow-backend-to-mongodb")
		exp = awaitVerdicts(ctx, both.oneShot, since, violations("PolicyDrift", closedByIngress...))
		measured("policy deleted to verdict changed", time.Since(since.at))
		expectTheSame(exp, awaitVerdicts(ctx, both.resident, residentSince, violations("PolicyDrift", closedByIngress...)))
		Expect(testbed.Condition(exp, v1alpha1.ConditionPolicyAligned).Status).To(Equal(metav1.ConditionFalse))
		Expect(testbed.Condition(exp, v1alpha1.ConditionEnforced).Status).To(Equal(metav1.ConditionTrue))
		Expect(exp.Status.LastRun.Trigger).To(BeElementOf("Change", "Repeated", "Interval"))
	}, SpecTimeout(5*time.Minute))

	It("calls it drift over UDP and TCP when DNS egress is forgotten", func(ctx SpecContext) {
		since, residentSince := now(ctx, both.oneShot), now(ctx, both.resident)
		deletePolicy(ctx, both, "allow-backend-dns")
		exp := awaitVerdicts(ctx, both.oneShot, since, violations("PolicyDrift", "backend-resolves"))
		expectTheSame(exp, awaitVerdicts(ctx, both.resident, residentSince, violations("PolicyDrift", "backend-resolves")))
		transports := map[string]string{}
		for _, f := range exp.Status.Findings {
			transports[f.Transport] = f.Observed.Result
		}
		Expect(transports).To(Equal(map[string]string{"DNS/UDP": "Blocked", "DNS/TCP": "Blocked"}), describe(exp))
	}, SpecTimeout(5*time.Minute))

	It("is not green when the target is down", func(ctx SpecContext) {
		scale(ctx, "mongodb", 0)
		DeferCleanup(func(ctx SpecContext) { scale(ctx, "mongodb", 1) })
		exp, resident := both.probe(ctx)
		expectTheSame(exp, resident)
		Expect(testbed.Ready(exp).Status).To(Equal(metav1.ConditionUnknown), describe(exp))
		Expect(verdicts(exp)).To(Equal(map[string][]string{
			"backend-to-mongodb": {"NoTargetMatched"}, "frontend-to-mongodb": {"NoTargetMatched"}, "stranger-to-mongodb": {"NoTargetMatched"},
		}), describe(exp))
	}, SpecTimeout(5*time.Minute))

	It("raises nothing in 20 runs in a row, and no Service ever sends traffic to a probe", func(ctx SpecContext) {
		watching, stop := context.WithCancel(ctx)
		ready := watchEndpoints(watching)
		for range 20 {
			exp, resident := both.probe(ctx)
			expectAllMet(exp)
			expectTheSame(exp, resident)
		}
		stop()
		looks, probes := (<-ready).looks, (<-ready).ready
		Expect(looks).To(BeNumerically(">", 100), "the endpoints were looked at during the runs")
		Expect(probes).To(BeEmpty(), "probe pods that were ready endpoints")
	}, SpecTimeout(15*time.Minute))
})

// removePolicy deletes a policy of the production scenario.
func removePolicy(ctx context.Context, name string) {
	GinkgoHelper()
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "production", Name: name}}
	Expect(bed.Client.Delete(ctx, policy)).To(Succeed())
}

// deletePolicy deletes a policy until the end of the spec.
func deletePolicy(ctx context.Context, both pair, name string) {
	GinkgoHelper()
	removePolicy(ctx, name)
	DeferCleanup(func(ctx SpecContext) {
		Expect(bed.Kubectl(ctx, "apply", "-f", bed.Path("config/samples/production/policies.yaml"))).To(Succeed())
		both.await(ctx, ready)
	})
}

func scale(ctx context.Context, name string, replicas int32) {
	GinkgoHelper()
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "production", Name: name}}
	Expect(bed.Client.Get(ctx, client.ObjectKeyFromObject(d), d)).To(Succeed())
	d.Spec.Replicas = &replicas
	Expect(bed.Client.Update(ctx, d)).To(Succeed())
	Eventually(func(g Gomega) {
		g.Expect(bed.Client.Get(ctx, client.ObjectKeyFromObject(d), d)).To(Succeed())
		g.Expect(d.Status.ReadyReplicas).To(Equal(replicas))
		g.Expect(podsOf(ctx, name)).To(HaveLen(int(replicas)))
	}).WithContext(ctx).WithTimeout(time.Minute).Should(Succeed())
}

func nodeOf(ctx context.Context, app string) string {
	GinkgoHelper()
	pods := podsOf(ctx, app)
	Expect(pods).NotTo(BeEmpty())
	return pods[0].Spec.NodeName
}

func isProbe(name string) bool {
	return strings.HasPrefix(name, "pathproof-")
}
