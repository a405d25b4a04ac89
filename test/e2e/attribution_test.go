package e2e

import (
	"context"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/test/testbed"
)

var _ = Describe("the direction and the node that fail", Ordered, ContinueOnFailure, func() {
	key := testbed.Attribution.Key
	const broken = "node-b"

	BeforeAll(func(ctx SpecContext) {
		applyScenario(ctx, testbed.Attribution)
	}, NodeTimeout(3*time.Minute))

	AfterEach(func(ctx SpecContext) { Expect(bed.Heal(ctx)).To(Succeed()) })

	DescribeTable("are named", func(ctx SpecContext, mode, family string, want map[string]string) {
		Expect(bed.Break(ctx, mode, broken)).To(Succeed())
		exp := probe(ctx, key)
		if len(want) == 0 {
			expectAllMet(exp)
			return
		}
		exp = await(ctx, key, attributed)
		Expect(blamed(exp)).To(Equal(want), describe(exp))
		for _, f := range exp.Status.Findings {
			if len(f.Attributions) > 0 && family != "" {
				Expect(f.Family).To(Equal(family), describe(exp))
			}
			for _, a := range f.Attributions {
				Expect(f.Message).To(MatchRegexp("(?i)%s of the (source|target) .*node %s", a.Direction, a.Node), describe(exp))
			}
		}
	},
		Entry("none, where denied is answered with ICMP", SpecTimeout(3*time.Minute), "reject", "", nil),
		Entry("none, where denied is reset", SpecTimeout(3*time.Minute), "reject-rst", "", nil),
		Entry("nothing enforced", SpecTimeout(3*time.Minute), "off", "", merge(
			fails("EnforcementMissing Ingress@node-b controlled", "stranger-to-tcp", "stranger-to-udp", "stranger-to-sctp", "stranger-to-guarded", "stranger-to-named", "stranger-outside-range"),
			fails("EnforcementMissing Egress@node-b controlled", "client-to-closed-port", "client-to-excepted"),
			fails("EnforcementMissing Egress@node-b controlled Ingress@node-b controlled", "client-to-server"))),
		Entry("ingress ignored", SpecTimeout(3*time.Minute), "ingress-ignored", "",
			fails("EnforcementMissing Ingress@node-b controlled", "stranger-to-tcp", "stranger-to-udp", "stranger-to-sctp", "stranger-to-guarded", "stranger-to-named", "stranger-outside-range")),
		Entry("egress ignored", SpecTimeout(3*time.Minute), "egress-ignored", "",
			fails("EnforcementMissing Egress@node-b controlled", "client-to-closed-port", "client-to-excepted")),
		Entry("UDP ignored", SpecTimeout(3*time.Minute), "udp-ignored", "", fails("EnforcementMissing Ingress@node-b controlled", "stranger-to-udp")),
		Entry("SCTP ignored", SpecTimeout(3*time.Minute), "sctp-ignored", "", fails("EnforcementMissing Ingress@node-b controlled", "stranger-to-sctp")),
		Entry("IPv6 ignored", SpecTimeout(3*time.Minute), "ipv6-ignored", "IPv6", merge(
			fails("EnforcementMissing Ingress@node-b controlled", "stranger-to-tcp", "stranger-to-udp", "stranger-to-sctp", "stranger-to-guarded", "stranger-to-named", "stranger-outside-range"),
			fails("EnforcementMissing Egress@node-b controlled", "client-to-closed-port", "client-to-excepted"),
			fails("EnforcementMissing Egress@node-b controlled Ingress@node-b controlled", "client-to-server"))),
		Entry("namespaceSelector ignored", SpecTimeout(3*time.Minute), "namespaceselector-ignored", "", fails("EnforcementMissing Ingress@node-b controlled", "stranger-to-guarded")),
		Entry("named ports unresolved", SpecTimeout(3*time.Minute), "named-ports-unresolved", "", fails("EnforcementMissing Ingress@node-b controlled", "stranger-to-named")),
		Entry("endPort, read as no end", SpecTimeout(3*time.Minute), "endport-ignored", "", fails("EnforcementMissing Ingress@node-b controlled", "stranger-outside-range")),
		Entry("endPort, read as a single port", SpecTimeout(3*time.Minute), "endport-single", "", fails("UnexpectedBlock Ingress@node-b controlled", "stranger-inside-range")),
		// Egress is enforced towards everything else, so that no control fails with it.
		Entry("except ignored", SpecTimeout(3*time.Minute), "except-ignored", "", fails("EnforcementMissing Egress@node-b", "client-to-excepted")),
		// Of the pods there that are probed themselves, nothing can be concluded: nobody gets an
		// answer. Responders have a record of what came, and stand-ins tell of the pods.
		Entry("answers to what is allowed dropped", SpecTimeout(3*time.Minute), "replies-dropped", "", merge(
			fails("UnexpectedBlock Egress@node-b controlled", "client-to-open-port", "client-to-partner"),
			fails("Delivered Ingress@node-b controlled", "stranger-inside-range"),
			fails("TargetSilent Ingress@node-b controlled", "friend-to-all", "friend-to-server"))),
		// To who asks a pod, that looks like what policies say.
		Entry("answers to what is denied dropped", SpecTimeout(3*time.Minute), "replies-denied", "", fails("Delivered Ingress@node-b controlled", "stranger-outside-range")),
	)

	Context("where stand-ins have records, of every protocol", Ordered, func() {
		key := testbed.Records.Key
		BeforeAll(func(ctx SpecContext) {
			Expect(bed.Apply(ctx, testbed.Records)).To(Succeed())
			expectAllMet(probe(ctx, key))
		}, NodeTimeout(2*time.Minute))

		DescribeTable("are named", func(ctx SpecContext, mode string, want map[string]string, transports map[string][]string) {
			Expect(bed.Break(ctx, mode, broken)).To(Succeed())
			probe(ctx, key)
			exp := await(ctx, key, attributed)
			Expect(blamed(exp)).To(Equal(want), describe(exp))
			Expect(transportsOf(exp)).To(Equal(transports), describe(exp))
		},
			Entry("answers to what is allowed dropped", SpecTimeout(3*time.Minute), "replies-dropped", merge(
				fails("Delivered Ingress@node-b controlled", "friend-to-server"), fails("Delivered Egress@node-b controlled", "client-to-open-port")),
				map[string][]string{"friend-to-server": {"SCTP", "TCP", "UDP"}, "client-to-open-port": {"TCP"}}),
			Entry("answers to what is denied dropped", SpecTimeout(3*time.Minute), "replies-denied", merge(
				fails("Delivered Ingress@node-b controlled", "stranger-to-server"), fails("Delivered Egress@node-b controlled", "client-to-closed-port")),
				map[string][]string{"stranger-to-server": {"SCTP", "TCP", "UDP"}, "client-to-closed-port": {"TCP"}}),
		)
	})

	DescribeTable("are named where the agent does not know the kind of a policy", func(ctx SpecContext, mode string) {
		Expect(bed.Apply(ctx, testbed.Clusterwide)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) {
			Expect(bed.Kubectl(ctx, "delete", "-f", bed.Path(testbed.Clusterwide.Manifests))).To(Succeed())
		})
		expectAllMet(probe(ctx, testbed.Clusterwide.Key))
		Expect(bed.Break(ctx, mode, broken)).To(Succeed())
		probe(ctx, testbed.Clusterwide.Key)
		exp := await(ctx, testbed.Clusterwide.Key, attributed)
		Expect(blamed(exp)).To(Equal(fails("EnforcementMissing Ingress@node-b controlled", "stranger-to-named")), describe(exp))
	},
		Entry("of ClusterNetworkPolicies", SpecTimeout(3*time.Minute), "clusternetworkpolicy-ignored"),
	)

	DescribeTable("are named where labels changed and the agent did not see it", func(ctx SpecContext, mode string, more map[string]string) {
		relabel := func(ctx context.Context, joined, freed string) {
			GinkgoHelper()
			Expect(bed.Kubectl(ctx, "-n", "attribution", "label", "--overwrite", "pod", "joined", "app="+joined)).To(Succeed())
			Expect(bed.Kubectl(ctx, "-n", "attribution", "label", "--overwrite", "pod", "freed", "app="+freed)).To(Succeed())
		}
		Expect(bed.Break(ctx, mode, broken)).To(Succeed())
		relabel(ctx, "server", "free")
		Expect(bed.Apply(ctx, testbed.Stale)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) {
			Expect(bed.Kubectl(ctx, "-n", "attribution", "delete", "cxp", testbed.Stale.Key.Name)).To(Succeed())
		})
		// It is done first, so that agents have seen it when the next entry breaks one.
		DeferCleanup(func(ctx SpecContext) { relabel(ctx, "free", "server") })
		exp := await(ctx, testbed.Stale.Key, func(e *v1alpha1.ConnectivityExpectation) bool {
			return e.Status.LastRun != nil && attributed(e)
		})
		Expect(blamed(exp)).To(Equal(merge(fails("EnforcementMissing Ingress@node-b controlled", "stranger-to-joined"), more)), describe(exp))
		Eventually(func() []string { return oneShotPods(ctx, "attribution") }).WithTimeout(30 * time.Second).Should(BeEmpty())
	},
		Entry("ever", SpecTimeout(3*time.Minute), "stale", fails("UnexpectedBlock Ingress@node-b controlled", "stranger-to-freed")),
		// It has not seen the probes either: it keeps all of them out of the pod that it takes
		// for isolated, and leaves a stand-in for that alone. So the pod is silent, and that is
		// all that is known.
		Entry("in time", SpecTimeout(3*time.Minute), "slow=10m", fails("TargetSilent Unknown@", "stranger-to-freed", "friend-to-both")),
	)
})

// contradicts tells whether a finding is about the network, and not about what is
// declared or not known.
func contradicts(f v1alpha1.Finding) bool {
	return slices.Contains([]string{"EnforcementMissing", "Delivered", "DriftMasked", "UnexpectedBlock", "BlockedOutsidePolicy"}, f.Cause)
}

// silent tells whether a finding is about a pod of which a stand-in can tell more.
func silent(f v1alpha1.Finding) bool {
	return f.Cause == "TargetSilent" && f.Predicted != nil && f.Predicted.Verdict == "Allowed"
}

// attributed tells whether a direction is named for all that the network does wrong.
func attributed(exp *v1alpha1.ConnectivityExpectation) bool {
	for _, f := range exp.Status.Findings {
		if (contradicts(f) || silent(f)) && len(f.Attributions) == 0 {
			return false
		}
	}
	return true
}

// fails returns what blamed does for paths that fail alike.
func fails(how string, paths ...string) map[string]string {
	out := map[string]string{}
	for _, p := range paths {
		out[p] = how
	}
	return out
}

func merge(all ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, m := range all {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}

// blamed renders what the network does wrong on each path, and which directions and nodes
// are named for it. Findings of a path that differ are all there.
func blamed(exp *v1alpha1.ConnectivityExpectation) map[string]string {
	out := map[string]string{}
	for _, f := range exp.Status.Findings {
		if !contradicts(f) && !silent(f) {
			continue
		}
		s := f.Cause
		for _, a := range f.Attributions {
			s += " " + string(a.Direction) + "@" + a.Node
			if a.Controlled {
				s += " controlled"
			}
		}
		if known := out[f.Path]; known != "" && known != s {
			s = known + " / " + s
		}
		out[f.Path] = s
	}
	return out
}
