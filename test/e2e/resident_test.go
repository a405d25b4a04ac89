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
		expectAllMet(probe(ctx, twin))
		pods := probePods(ctx, twin.Namespace)
		var opened, closed []time.Duration
		for range rounds {
			since := now(ctx, twin)
			removePolicy(ctx, "allow-backend-to-mongodb")
			awaitVerdicts(ctx, twin, since, violations("PolicyDrift", closedByIngress...))
			opened = append(opened, time.Since(since.at))
			expectLatency(ctx, twin, v1alpha1.FlipOpened, since.at)

			since = now(ctx, twin)
			Expect(bed.Kubectl(ctx, "apply", "-f", bed.Path("config/samples/production/policies.yaml"))).To(Succeed())
			expectAllMet(awaitVerdicts(ctx, twin, since, nil))
			closed = append(closed, time.Since(since.at))
			expectLatency(ctx, twin, v1alpha1.FlipClosed, since.at)
		}
		Expect(probePods(ctx, twin.Namespace)).To(ConsistOf(pods))
		slices.Sort(opened)
		slices.Sort(closed)
		measured("policy deleted to verdict changed, resident, median", opened[rounds/2])
		measured("policies applied to verdict changed, resident, median", closed[rounds/2])
	}, SpecTimeout(5*time.Minute))
})

// expectLatency compares the enforcement latency of the status with what the agents have
// logged: the last of them applied the change when the last path flipped.
func expectLatency(ctx context.Context, key types.NamespacedName, direction v1alpha1.FlipDirection, since time.Time) {
	GinkgoHelper()
	var l *v1alpha1.EnforcementLatency
	await(ctx, key, func(e *v1alpha1.ConnectivityExpectation) bool {
		l = e.Status.EnforcementLatency
		return l != nil && l.Direction == direction && l.ChangedAt.After(since)
	})
	flipped := l.ChangedAt.Add(time.Duration(l.Milliseconds) * time.Millisecond)
	var applied []string
	nearest := time.Hour
	for _, a := range appliedSince(since) {
		off := a.off(flipped)
		applied = append(applied, fmt.Sprintf("%+dms", off.Milliseconds()))
		if off.Abs() < nearest.Abs() {
			nearest = off
		}
	}
	fmt.Printf("\nmeasured: enforcement latency %s: %d ms (precision %d ms), off the agents' log by %s\n", direction, l.Milliseconds, l.PrecisionMilliseconds, strings.Join(applied, " "))
	Expect(nearest.Abs()).To(BeNumerically("<", 100*time.Millisecond), "%v", applied)
}

// application is the time in which an agent put its rules into the kernel.
type application struct{ begun, ended time.Time }

// off tells how far a moment is from it: the kernel took the rules somewhere in between.
func (a application) off(at time.Time) time.Duration {
	switch {
	case at.Before(a.begun):
		return at.Sub(a.begun)
	case at.After(a.ended):
		return at.Sub(a.ended)
	}
	return 0
}

// appliedSince returns when the agents have applied changes, by their logs.
func appliedSince(since time.Time) []application {
	GinkgoHelper()
	line := regexp.MustCompile(`(?m)^time=(\S+) level=INFO msg=applied .* took=(\S+)`)
	var out []application
	for _, node := range []string{"node-a", "node-b"} {
		text, err := os.ReadFile("/var/lib/pathproof-lab/logs/agent-" + node + ".log")
		Expect(err).NotTo(HaveOccurred())
		for _, m := range line.FindAllStringSubmatch(string(text), -1) {
			at, err := time.Parse(time.RFC3339Nano, m[1])
			Expect(err).NotTo(HaveOccurred())
			took, err := time.ParseDuration(m[2])
			Expect(err).NotTo(HaveOccurred())
			if at.After(since) {
				out = append(out, application{at.Add(-took), at})
			}
		}
	}
	return out
}
