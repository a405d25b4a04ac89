package e2e

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/test/testbed"
)

var _ = Describe("resident probes", Ordered, func() {
	const rounds = 5
	var twin types.NamespacedName

	BeforeAll(func(ctx SpecContext) {
		requireLab()
		applyScenario(ctx, testbed.Production)
		exp, err := bed.Expectation(ctx, production)
		Expect(err).NotTo(HaveOccurred())
		twin = inResidentPods(ctx, production, func(p *v1alpha1.ProbeSettings) {
			p.IntervalSeconds, p.TimeoutMilliseconds, p.WatchMilliseconds = 600, 500, 40
		})
		// What is measured is one expectation.
		Expect(bed.Client.Delete(ctx, exp)).To(Succeed())
	}, NodeTimeout(5*time.Minute))

	AfterEach(func(ctx SpecContext) { Expect(bed.Heal(ctx)).To(Succeed()) })

	It("tell of a changed policy soon, and how long it took to be enforced", func(ctx SpecContext) {
		const policy = "production/allow-backend-to-mongodb"
		expectAllMet(probe(ctx, twin))
		pods := probePods(ctx, twin.Namespace)
		var opened, closed []time.Duration
		for range rounds {
			since := now(ctx, twin)
			removePolicy(ctx, "allow-backend-to-mongodb")
			awaitVerdicts(ctx, twin, since, violations("PolicyDrift", closedByIngress...))
			opened = append(opened, time.Since(since.at))
			expectLatency(ctx, twin, v1alpha1.FlipOpened, since.at, policy)

			since = now(ctx, twin)
			Expect(bed.Kubectl(ctx, "apply", "-f", bed.Path("config/samples/production/policies.yaml"))).To(Succeed())
			expectAllMet(awaitVerdicts(ctx, twin, since, nil))
			closed = append(closed, time.Since(since.at))
			expectLatency(ctx, twin, v1alpha1.FlipClosed, since.at, policy)
		}
		Expect(probePods(ctx, twin.Namespace)).To(ConsistOf(pods))
		slices.Sort(opened)
		slices.Sort(closed)
		measured("policy deleted to verdict changed, resident, median", opened[rounds/2])
		measured("policies applied to verdict changed, resident, median", closed[rounds/2])
	}, SpecTimeout(5*time.Minute))
})

var _ = Describe("a pod that watches twenty checks", Ordered, func() {
	const (
		rounds = 5
		policy = "watched/server"
	)
	var twin types.NamespacedName

	BeforeAll(func(ctx SpecContext) {
		applyScenario(ctx, testbed.Watched)
		twin = inResidentPods(ctx, testbed.Watched.Key, func(p *v1alpha1.ProbeSettings) {
			p.IntervalSeconds, p.TimeoutMilliseconds, p.SettleSeconds, p.WatchMilliseconds = 86400, 500, 2, 20
		})
		Expect(bed.Kubectl(ctx, "-n", "watched", "delete", "cxp", testbed.Watched.Key.Name)).To(Succeed())
	}, NodeTimeout(3*time.Minute))

	It("measures how long each change took to be enforced", func(ctx SpecContext) {
		exp := probe(ctx, twin)
		expectAllMet(exp)
		Expect(exp.Status.Summary.Checks).To(BeEquivalentTo(2*20), "of two sources")
		server := &networkingv1.NetworkPolicy{}
		Expect(bed.Client.Get(ctx, types.NamespacedName{Namespace: "watched", Name: "server"}, server)).To(Succeed())
		var precision []time.Duration
		for range rounds {
			since := now(ctx, twin)
			Expect(bed.Client.Delete(ctx, server)).To(Succeed())
			awaitVerdicts(ctx, twin, since, violations("PolicyDrift", "stranger-to-server"))
			precision = append(precision, expectLatency(ctx, twin, v1alpha1.FlipOpened, since.at, policy))

			since = now(ctx, twin)
			server = &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: server.Namespace, Name: server.Name}, Spec: server.Spec}
			Expect(bed.Client.Create(ctx, server)).To(Succeed())
			expectAllMet(awaitVerdicts(ctx, twin, since, nil))
			precision = append(precision, expectLatency(ctx, twin, v1alpha1.FlipClosed, since.at, policy))
		}
		slices.Sort(precision)
		fmt.Printf("\nmeasured: precision of enforcement latency with 20 checks: median %s, worst %s\n", precision[rounds], precision[2*rounds-1])
	}, SpecTimeout(4*time.Minute))
})

// expectLatency compares the enforcement latency of the status with what the agents have
// logged, and returns its precision. Both are times between which something happened, the
// flip of the path and the kernel's taking of the rules, and these are the same: however
// busy the machine is, the times have a moment in common, or one of them is wrong.
func expectLatency(ctx context.Context, key types.NamespacedName, direction v1alpha1.FlipDirection, since time.Time, policy string) time.Duration {
	GinkgoHelper()
	var l *v1alpha1.EnforcementLatency
	await(ctx, key, func(e *v1alpha1.ConnectivityExpectation) bool {
		l = e.Status.EnforcementLatency
		return l != nil && l.Direction == direction && l.ChangedAt.After(since)
	})
	Expect(l.Milliseconds).To(BeNumerically("~", max(0, l.FlippedAt.Sub(l.ChangedAt.Time)).Milliseconds(), 1))
	precision := time.Duration(l.PrecisionMilliseconds) * time.Millisecond
	flip := period{l.FlippedAt.Add(-precision), l.FlippedAt.Time}
	var applied []period
	// The kernel has the rules before the agent says so.
	Eventually(func() []period {
		applied = appliedSince(since, policy)
		return applied
	}).WithContext(ctx).WithTimeout(10 * time.Second).ShouldNot(BeEmpty())
	off := time.Hour
	var offs []string
	for _, a := range applied {
		offs = append(offs, fmt.Sprintf("%+dms (took %s)", flip.off(a).Milliseconds(), a.ended.Sub(a.begun)))
		if d := flip.off(a); d.Abs() < off.Abs() {
			off = d
		}
	}
	fmt.Printf("\nmeasured: enforcement latency %s: %d ms (precision %d ms), off the agents' log by %s\n", direction, l.Milliseconds, l.PrecisionMilliseconds, strings.Join(offs, ", "))
	Expect(off.Abs()).To(BeNumerically("<", 100*time.Millisecond), "%v", offs)
	return precision
}

// period is two moments between which something happened.
type period struct{ begun, ended time.Time }

// off tells how far it is after another one, which is nothing if they overlap.
func (p period) off(other period) time.Duration {
	switch {
	case p.begun.After(other.ended):
		return p.begun.Sub(other.ended)
	case p.ended.Before(other.begun):
		return p.ended.Sub(other.begun)
	}
	return 0
}

// appliedSince returns when the agents have put a change of a policy into their kernels, by
// their logs. An agent whose node the change does not concern puts nothing.
func appliedSince(since time.Time, policy string) []period {
	GinkgoHelper()
	line := regexp.MustCompile(`(?m)^time=(\S+) level=INFO msg=applied .* policies=(\S+) took=(\S+)`)
	var out []period
	for _, node := range []string{"node-a", "node-b"} {
		text, err := os.ReadFile("/var/lib/pathproof-lab/logs/agent-" + node + ".log")
		Expect(err).NotTo(HaveOccurred())
		for _, m := range line.FindAllStringSubmatch(string(text), -1) {
			at, err := time.Parse(time.RFC3339Nano, m[1])
			Expect(err).NotTo(HaveOccurred())
			took, err := time.ParseDuration(m[3])
			Expect(err).NotTo(HaveOccurred())
			if at.After(since) && slices.Contains(strings.Split(m[2], ","), policy) {
				out = append(out, period{at.Add(-took), at})
			}
		}
	}
	return out
}
