package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/test/testbed"
)

var _ = Describe("name resolution", Ordered, func() {
	// resolvers are the cluster DNS and its endpoints.
	const endpoints, resolvers = 2, 1 + 2
	asDeclared, otherwise := testbed.AsDeclared.Key, testbed.Otherwise.Key
	var pods []string

	BeforeAll(func(ctx SpecContext) {
		requireLab()
		scale := func(ctx context.Context, n int) {
			Expect(bed.Kubectl(ctx, "-n", "kube-system", "scale", "deployment/coredns", fmt.Sprintf("--replicas=%d", n))).To(Succeed())
			Expect(bed.Kubectl(ctx, "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=60s")).To(Succeed())
		}
		scale(ctx, endpoints)
		DeferCleanup(func(ctx SpecContext) { scale(ctx, 1) })
		applyScenario(ctx, testbed.AsDeclared) // and Otherwise
		for _, p := range dnsPods(ctx) {
			pods = append(pods, p.Namespace+"/"+p.Name)
		}
		Expect(pods).To(HaveLen(endpoints))
	}, NodeTimeout(4*time.Minute))

	AfterEach(func(ctx SpecContext) { Expect(bed.Heal(ctx)).To(Succeed()) })

	// Six questions over two transports, two over one.
	const questions = 6*2 + 2

	DescribeTable("is as declared, at every resolver", func(ctx SpecContext, mode string) {
		Expect(bed.Break(ctx, mode, "")).To(Succeed())
		exp := probe(ctx, asDeclared)
		expectAllMet(exp)
		Expect(exp.Status.Summary.Checks).To(BeEquivalentTo(questions * resolvers))
		Expect(exp.Status.Coverage.PairsPercent).To(BeEquivalentTo(100))
	},
		Entry("where denied is dropped", SpecTimeout(3*time.Minute), "correct"),
		Entry("where denied is rejected", SpecTimeout(3*time.Minute), "reject"),
	)

	It("that works over UDP alone is a finding of its own, and so are answers", func(ctx SpecContext) {
		exp, resident := pairOf(ctx, otherwise).probe(ctx)
		expectTheSame(exp, resident)
		Expect(verdicts(exp)).To(Equal(map[string][]string{
			"forgets-tcp": {"DNSOverUDPOnly"}, "another-address": {"UnexpectedAnswer"}, "no-such-name": {"NameNotResolved"}, "short-without": {"NameNotResolved"},
		}), describe(exp))
		// What works over UDP is met.
		Expect(exp.Status.Summary.Met).To(BeEquivalentTo(resolvers), describe(exp))
		Expect(exp.Status.Summary.Violated).To(BeEquivalentTo(4*resolvers), describe(exp))
		Expect(testbed.Condition(exp, v1alpha1.ConditionPolicyAligned).Status).To(Equal(metav1.ConditionFalse))
		Expect(testbed.Condition(exp, v1alpha1.ConditionEnforced).Status).To(Equal(metav1.ConditionTrue), describe(exp))
		Expect(testbed.Condition(exp, v1alpha1.ConditionSatisfied).Status).To(Equal(metav1.ConditionFalse))
		targets := map[string][]string{}
		for _, f := range exp.Status.Findings {
			targets[f.Path] = append(targets[f.Path], f.Target)
			switch f.Path {
			case "forgets-tcp":
				Expect(f.Transport).To(Equal("DNS/TCP"))
				Expect(f.Message).To(And(ContainSubstring("UDP works, TCP does not"), ContainSubstring("names/dns-over-udp")))
				Expect(f.Predicted.Direction).To(Equal("Egress"))
				Expect(f.Observed.Result).To(Equal("Blocked"), describe(exp))
			case "another-address":
				Expect(f.Message).To(ContainSubstring("got NOERROR 10.96.77.77, want 10.96.77.78"))
				Expect(f.Observed.Result).To(Equal("Open"))
			case "no-such-name", "short-without":
				Expect(f.Message).To(ContainSubstring("NXDOMAIN"))
				Expect(f.Observed.Result).To(Equal("Open"), "an answer is an open path")
			}
		}
		for path, got := range targets {
			want := []string{"cluster DNS"}
			for _, p := range pods {
				want = append(want, "cluster DNS endpoint "+p)
			}
			for i := range got {
				got[i], _, _ = strings.Cut(got[i], " for ")
			}
			slices.Sort(want)
			slices.Sort(got)
			Expect(got).To(Equal(want), path)
		}
	}, SpecTimeout(3*time.Minute))

	It("is found open where it must not be, at each resolver", func(ctx SpecContext) {
		Expect(bed.Break(ctx, "egress-ignored", "")).To(Succeed())
		exp := probe(ctx, asDeclared)
		Expect(verdicts(exp)).To(Equal(violations("EnforcementMissing", "not-over-tcp", "not-at-all")), describe(exp))
		Expect(exp.Status.Summary.Violated).To(BeEquivalentTo(3 * resolvers))
	}, SpecTimeout(3*time.Minute))

	It("is told endpoint by endpoint, when one of them is closed", func(ctx SpecContext) {
		guarded := strings.TrimPrefix(pods[0], "kube-system/")
		Expect(bed.Kubectl(ctx, "-n", "kube-system", "label", "pod", guarded, "guarded=yes")).To(Succeed())
		Expect(bed.Kubectl(ctx, "apply", "-f", bed.Path("test/e2e/testdata/dns-guarded.yaml"))).To(Succeed())
		DeferCleanup(func(ctx SpecContext) {
			Expect(bed.Kubectl(ctx, "-n", "kube-system", "label", "pod", guarded, "guarded-")).To(Succeed())
			Expect(bed.Kubectl(ctx, "delete", "-f", bed.Path("test/e2e/testdata/dns-guarded.yaml"))).To(Succeed())
		})
		exp := await(ctx, asDeclared, func(e *v1alpha1.ConnectivityExpectation) bool { return testbed.Ready(e).Reason == "PolicyDrift" })
		for _, f := range exp.Status.Findings {
			if f.Cause == "PolicyDrift" {
				Expect(f.Target).To(HavePrefix("cluster DNS endpoint "+pods[0]+" for "), describe(exp))
			}
		}
	}, SpecTimeout(3*time.Minute))
})

var _ = Describe("NodeLocal DNSCache", Ordered, func() {
	key := testbed.Cached.Key

	BeforeAll(func(ctx SpecContext) {
		requireLab() // the nameserver of the nodes is the lab's
		DeferCleanup(func(ctx SpecContext) {
			Expect(bed.Kubectl(ctx, "delete", "-f", bed.Path(testbed.Cached.Manifests), "--ignore-not-found", "--timeout=120s")).To(Succeed())
		})
		applyScenario(ctx, testbed.Cached)
	}, NodeTimeout(3*time.Minute))

	It("is what pods ask that have it, on their own node, and nothing else is", func(ctx SpecContext) {
		exp, resident := pairOf(ctx, key).probe(ctx)
		expectTheSame(exp, resident)
		Expect(exp.Status.Summary).To(HaveValue(Equal(v1alpha1.Summary{Checks: 3, Met: 2, Unknown: 1})), describe(exp))
		// Whether policies keep a pod from its own node is up to the implementation.
		Expect(verdicts(exp)).To(Equal(violations("ImplementationDefined", "isolated")), describe(exp))
		f := exp.Status.Findings[0]
		Expect(f.Target).To(Equal("NodeLocal DNSCache 169.254.20.10 for kubernetes.default.svc.cluster.local."))
		Expect(f.TargetNode).To(And(Equal(f.SourceNode), Not(BeEmpty())))
		Expect(f.Predicted.Rule).To(Equal("S14"))
		Expect(f.Observed.Result).To(Equal("Open"))
		Expect(exp.Status.Coverage.PairsPercent).To(BeEquivalentTo(100))
	}, SpecTimeout(3*time.Minute))
})
