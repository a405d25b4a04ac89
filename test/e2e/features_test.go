package e2e

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/pathproof/pathproof/test/testbed"
)

var _ = Describe("the features of NetworkPolicy", Ordered, func() {
	var both pair
	BeforeAll(func(ctx SpecContext) {
		applyScenario(ctx, testbed.Features)
		both = pairOf(ctx, testbed.Features.Key)
	}, NodeTimeout(2*time.Minute))

	AfterEach(func(ctx SpecContext) { Expect(bed.Heal(ctx)).To(Succeed()) })

	DescribeTable("tells which one is not enforced", func(ctx SpecContext, mode, node string, want map[string][]string) {
		Expect(bed.Break(ctx, mode, node)).To(Succeed())
		exp, resident := both.probe(ctx)
		Expect(verdicts(exp)).To(Equal(want), describe(exp))
		if len(want) == 0 {
			expectAllMet(exp)
		}
		expectTheSame(exp, resident)
	},
		Entry("all of them are, by default", SpecTimeout(3*time.Minute), "correct", "", map[string][]string{}),
		Entry("all of them are, with rejects", SpecTimeout(3*time.Minute), "reject", "", map[string][]string{}),
		Entry("UDP", SpecTimeout(3*time.Minute), "udp-ignored", "", violations("EnforcementMissing", "stranger-to-udp")),
		Entry("endPort, read as no end", SpecTimeout(3*time.Minute), "endport-ignored", "", violations("EnforcementMissing", "outside-range")),
		Entry("endPort, read as a single port", SpecTimeout(3*time.Minute), "endport-single", "", violations("UnexpectedBlock", "inside-range")),
		Entry("except", SpecTimeout(3*time.Minute), "except-ignored", "", violations("EnforcementMissing", "client-to-excepted")),
		Entry("namespaceSelector", SpecTimeout(3*time.Minute), "namespaceselector-ignored", "", violations("EnforcementMissing", "stranger-to-guarded")),
		Entry("ingress", SpecTimeout(3*time.Minute), "ingress-ignored", "",
			violations("EnforcementMissing", "stranger-to-udp", "outside-range", "stranger-to-guarded")),
		Entry("egress", SpecTimeout(3*time.Minute), "egress-ignored", "", violations("EnforcementMissing", "client-to-excepted")),
	)
})
