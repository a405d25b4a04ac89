package e2e

import (
	"fmt"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/test/testbed"
)

// dualstackChecks is the number of checks in one family: each of the targets (two
// pods, a Service, a responder, two addresses) from each of its sources, and each of
// those from both nodes.
const dualstackChecks = 2 * ((2 + 2) + 1 + (1 + 1) + (1 + 1) + 2)

var _ = Describe("pods with two addresses", Ordered, func() {
	var both pair
	// Which node the responder is on is the operator's choice.
	const broken = "node-b"

	BeforeAll(func(ctx SpecContext) {
		applyScenario(ctx, testbed.Dualstack)
		both = pairOf(ctx, testbed.Dualstack.Key)
	}, NodeTimeout(3*time.Minute))

	AfterEach(func(ctx SpecContext) { Expect(bed.Heal(ctx)).To(Succeed()) })

	DescribeTable("are checked at each of them", func(ctx SpecContext, mode string) {
		Expect(bed.Break(ctx, mode, "")).To(Succeed())
		exp, resident := both.probe(ctx)
		expectRight(exp, testbed.Dualstack)
		Expect(exp.Status.Summary.Checks).To(Equal(int32(2 * dualstackChecks)))
		expectTheSame(exp, resident)
	},
		Entry("where denied is dropped", SpecTimeout(3*time.Minute), "correct"),
		Entry("where denied is answered with ICMP and ICMPv6", SpecTimeout(3*time.Minute), "reject"),
		Entry("where denied is reset", SpecTimeout(3*time.Minute), "reject-rst"),
	)

	It("show a node that leaves IPv6 open", func(ctx SpecContext) {
		Expect(bed.Break(ctx, "ipv6-ignored", broken)).To(Succeed())
		exp, resident := both.probe(ctx)
		expectIPv6LeftOpen(exp, broken)
		expectIPv6LeftOpen(resident, broken)
	}, SpecTimeout(3*time.Minute))

	It("show all nodes that leave IPv6 open", func(ctx SpecContext) {
		Expect(bed.Break(ctx, "ipv6-ignored", "")).To(Succeed())
		exp, resident := both.probe(ctx)
		Expect(verdicts(exp)).To(Equal(violations("EnforcementMissing", "stranger-to-server", "stranger-to-responder", "client-to-excepted")), describe(exp))
		for _, f := range exp.Status.Findings {
			Expect(f.Family).To(Equal("IPv6"), describe(exp))
		}
		expectTheSame(exp, resident)
	}, SpecTimeout(3*time.Minute))

	// The forward path is open and the answer is lost. Nothing is wrongly open.
	It("are not green where answers are lost", func(ctx SpecContext) {
		Expect(bed.Break(ctx, "replies-dropped", broken)).To(Succeed())
		exp, resident := both.probe(ctx)
		expectAnswersLost(exp, broken)
		expectAnswersLost(resident, broken)
	}, SpecTimeout(3*time.Minute))
})

// expectIPv6LeftOpen expects that a node enforces nothing of IPv6, and that all else is met.
func expectIPv6LeftOpen(exp *v1alpha1.ConnectivityExpectation, broken string) {
	GinkgoHelper()
	// Ingress is enforced on the node of the target, from whichever node it comes;
	// egress is enforced on the node of the source.
	want := []string{
		"EnforcementMissing IPv6 client-to-excepted node-b to 2001:db8:203::20",
		"EnforcementMissing IPv6 stranger-to-server node-a to dualstack/server-b on node-b",
		"EnforcementMissing IPv6 stranger-to-server node-b to dualstack/server-b on node-b",
	}
	if responderIsOn(exp, broken) {
		want = append(want, "EnforcementMissing IPv6 stranger-to-responder node-a to dualstack/{app=responder} on node-b",
			"EnforcementMissing IPv6 stranger-to-responder node-b to dualstack/{app=responder} on node-b")
	}
	Expect(places(exp)).To(ConsistOf(want), describe(exp))
	Expect(exp.Status.Summary.Met).To(Equal(int32(2*dualstackChecks-len(want))), "IPv4 and the other node are as they were")
	Expect(testbed.Ready(exp).Reason).To(Equal("EnforcementMissing"))
	for _, f := range exp.Status.Findings {
		if f.Path != "client-to-excepted" { // its address says so itself
			Expect(f.Message).To(ContainSubstring("over IPv6"))
		}
	}
}

// expectAnswersLost expects that a node drops the answers on the connections that policies
// allow.
func expectAnswersLost(exp *v1alpha1.ConnectivityExpectation, broken string) {
	GinkgoHelper()
	Expect(testbed.Ready(exp).Status).To(Equal(metav1.ConditionFalse), describe(exp))
	worst := "UnexpectedBlock"
	if responderIsOn(exp, broken) {
		worst = "Delivered"
	}
	Expect(testbed.Ready(exp).Reason).To(Equal(worst), describe(exp))
	var want []string
	for _, family := range []struct{ name, partner string }{{"IPv4", "203.0.113.10"}, {"IPv6", "2001:db8:203::10"}} {
		want = append(want, fmt.Sprintf("UnexpectedBlock %s client-to-partner node-b to %s", family.name, family.partner))
		// Nobody gets an answer from the server, not even friends that get one elsewhere.
		for _, path := range []string{"friend-to-server", "stranger-to-server"} {
			for _, node := range []string{"node-a", "node-b"} {
				want = append(want, fmt.Sprintf("TargetSilent %s %s %s to dualstack/server-b on node-b", family.name, path, node))
			}
		}
	}
	if responderIsOn(exp, broken) {
		// Its record has the requests of friends, and none of strangers.
		for _, family := range []string{"IPv4", "IPv6"} {
			for _, node := range []string{"node-a", "node-b"} {
				want = append(want, fmt.Sprintf("Delivered %s friend-to-responder %s to dualstack/{app=responder} on node-b", family, node))
			}
		}
	}
	Expect(places(exp)).To(ConsistOf(want), describe(exp))
}

// responderIsOn tells whether something was found of the responder on a node.
func responderIsOn(exp *v1alpha1.ConnectivityExpectation, node string) bool {
	return slices.ContainsFunc(exp.Status.Findings, func(f v1alpha1.Finding) bool {
		return f.Target == "dualstack/{app=responder}" && f.TargetNode == node
	})
}

// places renders what each finding is about and where it is.
func places(exp *v1alpha1.ConnectivityExpectation) []string {
	var out []string
	for _, f := range exp.Status.Findings {
		s := fmt.Sprintf("%s %s %s %s to %s", f.Cause, f.Family, f.Path, f.SourceNode, f.Target)
		if f.TargetNode != "" {
			s += " on " + f.TargetNode
		}
		out = append(out, s)
	}
	return out
}
