// Package e2e tests the operator end to end: real nodes, real pods, real packets,
// and an enforcement agent that can be made to misbehave.
package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/test/testbed"
)

func TestE2E(t *testing.T) {
	RegisterFailHandler(Fail)
	suite, reporter := GinkgoConfiguration()
	suite.FailOnEmpty = true
	RunSpecs(t, "end to end", suite, reporter)
}

var (
	bed        *testbed.Bed
	production = testbed.Production.Key
)

var _ = BeforeSuite(func(ctx SpecContext) {
	var err error
	bed, err = testbed.Up(ctx, GinkgoT().Logf)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func(ctx SpecContext) { Expect(bed.Close(ctx)).To(Succeed()) })
	if bed.Lab {
		Expect(bed.Heal(ctx)).To(Succeed())
		healFaults(ctx)
	}
	// A suite that was killed has left its namespaces.
	Expect(bed.DeleteScenarios(ctx)).To(Succeed())
	Expect(bed.Install(ctx)).To(Succeed())
	Expect(bed.Kubectl(ctx, "delete", "enforcementcanary", "--all", "--timeout=60s")).To(Succeed())
}, NodeTimeout(40*time.Minute))

// Whoever sees only the end of the output has to learn what failed, and how.
var _ = ReportAfterSuite("failures", func(r Report) {
	for _, spec := range r.SpecReports {
		if !spec.Failed() {
			continue
		}
		fmt.Printf("\n=== failed: %s, at %s\n%s\n", spec.FullText(), spec.FailureLocation(), ends(spec.FailureMessage()))
	}
})

// ends shortens a long message. Its end says what was expected, which is not to be left out.
func ends(message string) string {
	const first, last = 4000, 4000
	if len(message) <= first+last {
		return message
	}
	return message[:first] + "\n[...]\n" + message[len(message)-last:]
}

// within bounds the wait for one result: a run takes a few seconds, and the
// machine may be busy.
func within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, 90*time.Second)
}

// probe runs an expectation once and returns the result.
func probe(ctx context.Context, key types.NamespacedName) *v1alpha1.ConnectivityExpectation {
	GinkgoHelper()
	ctx, cancel := within(ctx)
	defer cancel()
	exp, err := bed.Probe(ctx, key)
	Expect(err).NotTo(HaveOccurred())
	return exp
}

// await waits for a state without asking for a run.
func await(ctx context.Context, key types.NamespacedName, done func(*v1alpha1.ConnectivityExpectation) bool) *v1alpha1.ConnectivityExpectation {
	GinkgoHelper()
	ctx, cancel := within(ctx)
	defer cancel()
	exp, err := bed.Await(ctx, key, done)
	Expect(err).NotTo(HaveOccurred())
	return exp
}

// moment is one in the life of an expectation.
type moment struct {
	at  time.Time
	run v1alpha1.Run
}

// now returns the moment, with the last run.
func now(ctx context.Context, key types.NamespacedName) moment {
	GinkgoHelper()
	exp, err := bed.Expectation(ctx, key)
	Expect(err).NotTo(HaveOccurred())
	Expect(exp.Status.LastRun).NotTo(BeNil())
	return moment{time.Now(), *exp.Status.LastRun}
}

// before tells whether a run began before the moment. Its times are whole seconds.
func (m moment) before(run *v1alpha1.Run) bool {
	return run == nil || *run == m.run || run.StartedAt.Add(time.Second).Before(m.at)
}

// awaitVerdicts waits for a run since a moment that finds exactly this. A run on the way may
// find less: a resolver that a busy node takes for dead for a while is no target, and brings
// another run when it is back. What a run finds has to be true, though: of these paths their
// causes, of all others nothing but that it is not known.
func awaitVerdicts(ctx context.Context, key types.NamespacedName, since moment, want map[string][]string) *v1alpha1.ConnectivityExpectation {
	GinkgoHelper()
	onTheWay := ""
	return await(ctx, key, func(e *v1alpha1.ConnectivityExpectation) bool {
		if since.before(e.Status.LastRun) {
			return false
		}
		got := verdicts(e)
		for path, causes := range want {
			Expect(got[path]).To(Equal(causes), describe(e))
		}
		for _, f := range e.Status.Findings {
			if want[f.Path] == nil {
				Expect(f.Observed.Result).To(Equal("Inconclusive"), describe(e))
				Expect(f.Cause).NotTo(Equal("PolicyDrift"), describe(e))
			}
		}
		if len(got) > len(want) {
			if text := describe(e); text != onTheWay {
				GinkgoWriter.Printf("on the way: %s\n", text)
				onTheWay = text
			}
			return false
		}
		return testbed.Ready(e).Reason != v1alpha1.ReasonPending
	})
}

// What is waited for.

func ready(e *v1alpha1.ConnectivityExpectation) bool {
	return testbed.Ready(e).Status == metav1.ConditionTrue
}

func probed(e *v1alpha1.ConnectivityExpectation) bool { return e.Status.LastRun != nil }

// verdicts maps the paths that are not met to the causes found for them.
func verdicts(exp *v1alpha1.ConnectivityExpectation) map[string][]string {
	out := map[string][]string{}
	for _, f := range exp.Status.Findings {
		seen := false
		for _, c := range out[f.Path] {
			seen = seen || c == f.Cause
		}
		if !seen {
			out[f.Path] = append(out[f.Path], f.Cause)
		}
	}
	return out
}

func describe(exp *v1alpha1.ConnectivityExpectation) string {
	s := fmt.Sprintf("Ready=%s %s", testbed.Ready(exp).Status, testbed.Ready(exp).Reason)
	for _, f := range exp.Status.Findings {
		s += "\n  " + f.Cause + ": " + f.Message
		if f.Observed != nil {
			s += " [" + f.Observed.Outcomes + "; " + f.Observed.Evidence + "]"
		}
		for _, a := range f.Attributions {
			s += " [" + string(a.Direction) + ": " + a.Evidence + "]"
		}
	}
	return s
}

// measured prints a time that users wait for.
func measured(what string, d time.Duration) {
	fmt.Printf("\nmeasured: %s: %.1f s\n", what, d.Seconds())
}

func expectAllMet(exp *v1alpha1.ConnectivityExpectation) {
	GinkgoHelper()
	Expect(testbed.Ready(exp).Status).To(Equal(metav1.ConditionTrue), describe(exp))
	Expect(exp.Status.Summary.Met).To(Equal(exp.Status.Summary.Checks), describe(exp))
	Expect(exp.Status.Summary.Checks).To(BeNumerically(">", 0))
}

// applyScenario applies a scenario for as long as the container or the spec lasts.
func applyScenario(ctx context.Context, s testbed.Scenario) {
	GinkgoHelper()
	if s.LabOnly {
		requireLab()
	}
	Expect(bed.Apply(ctx, s)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) {
		Expect(bed.Kubectl(ctx, "delete", "namespace", s.Key.Namespace, "--timeout=120s")).To(Succeed())
	})
}

// expectRight compares a result with what is right while policies are enforced correctly.
func expectRight(exp *v1alpha1.ConnectivityExpectation, s testbed.Scenario) {
	GinkgoHelper()
	Expect(verdicts(exp)).To(Equal(s.Verdicts()), describe(exp))
	if s.Met() {
		expectAllMet(exp)
		return
	}
	Expect(testbed.Ready(exp).Status).NotTo(Equal(metav1.ConditionTrue), describe(exp))
	if !bed.Lab {
		return // how many checks a path has depends on the cluster
	}
	checks := map[string]int{}
	for _, f := range exp.Status.Findings {
		checks[f.Path]++
	}
	for path, found := range s.NotMet {
		Expect(checks[path]).To(Equal(found.Checks), "%s: %s", path, describe(exp))
	}
}

func requireLab() {
	if !bed.Lab {
		Skip("enforcement can be broken in the lab only: unset KUBECONFIG to run this")
	}
}
