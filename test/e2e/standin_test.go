package e2e

import (
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/test/testbed"
)

var _ = Describe("stand-ins and their records", Ordered, func() {
	var both pair

	BeforeAll(func(ctx SpecContext) {
		applyScenario(ctx, testbed.StandIn)
		both = pairOf(ctx, testbed.StandIn.Key)
	}, NodeTimeout(3*time.Minute))

	AfterEach(func(ctx SpecContext) { Expect(bed.Heal(ctx)).To(Succeed()) })

	tcpAndUDP := []string{"TCP", "UDP"}

	It("give the right verdict where the workload answers nothing", func(ctx SpecContext) {
		exp, resident := both.probe(ctx)
		expectAllMet(exp)
		expectTheSame(exp, resident)

		By("policies that are not enforced for UDP")
		Expect(bed.Break(ctx, "udp-ignored", "")).To(Succeed())
		exp, resident = both.probe(ctx)
		Expect(verdicts(exp)).To(Equal(violations("EnforcementMissing", "stranger-to-silent", "stranger-to-db")), describe(exp))
		Expect(transportsOf(exp)).To(Equal(map[string][]string{"stranger-to-silent": {"UDP"}, "stranger-to-db": {"UDP"}}))
		expectTheSame(exp, resident)
	}, SpecTimeout(4*time.Minute))

	// What policies deny stays denied, and the records prove it.
	It("tell that replies to what policies allow are lost", func(ctx SpecContext) {
		Expect(bed.Break(ctx, "replies-dropped", "")).To(Succeed())
		exp, resident := both.probe(ctx)
		Expect(testbed.Ready(exp).Status).To(Equal(metav1.ConditionFalse), describe(exp))
		Expect(verdicts(exp)).To(Equal(violations("Delivered", "friend-to-silent", "friend-to-db")), describe(exp))
		Expect(transportsOf(exp)).To(Equal(map[string][]string{"friend-to-silent": {"UDP"}, "friend-to-db": tcpAndUDP}))
		for _, f := range exp.Status.Findings {
			Expect(f.Observed.Result).To(Equal("OneWay"))
			Expect(f.Observed.Outcomes).To(Equal("Delivered"))
		}
		expectTheSame(exp, resident)

		By("replies that come again")
		Expect(bed.Heal(ctx)).To(Succeed())
		exp, resident = both.probe(ctx)
		expectAllMet(exp)
		expectTheSame(exp, resident)
	}, SpecTimeout(4*time.Minute))

	// To the probe, the paths look closed as declared.
	It("tell that requests arrive which policies deny", func(ctx SpecContext) {
		Expect(bed.Break(ctx, "replies-denied", "")).To(Succeed())
		exp, resident := both.probe(ctx)
		Expect(testbed.Ready(exp).Status).To(Equal(metav1.ConditionFalse), describe(exp))
		Expect(verdicts(exp)).To(Equal(violations("Delivered", "stranger-to-silent", "stranger-to-db")), describe(exp))
		Expect(transportsOf(exp)).To(Equal(map[string][]string{"stranger-to-silent": {"UDP"}, "stranger-to-db": tcpAndUDP}))
		expectTheSame(exp, resident)
	}, SpecTimeout(4*time.Minute))
})

// transportsOf maps the paths to the transports of their findings.
func transportsOf(exp *v1alpha1.ConnectivityExpectation) map[string][]string {
	out := map[string][]string{}
	for _, f := range exp.Status.Findings {
		if !slices.Contains(out[f.Path], f.Transport) {
			out[f.Path] = append(out[f.Path], f.Transport)
			slices.Sort(out[f.Path])
		}
	}
	return out
}
