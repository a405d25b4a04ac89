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
	production = types.NamespacedName{Namespace: "production", Name: "mongodb"}
	features   = types.NamespacedName{Namespace: "features", Name: "features"}
)

var _ = BeforeSuite(func(ctx SpecContext) {
	var err error
	bed, err = testbed.Up(ctx, GinkgoT().Logf)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func(ctx SpecContext) { Expect(bed.Close(ctx)).To(Succeed()) })
	if bed.Lab {
		Expect(bed.Heal(ctx)).To(Succeed())
	}
	// A suite that was killed has left its namespaces.
	Expect(bed.Kubectl(ctx, "delete", "namespace", "production", "features", "life", "dualstack", "--ignore-not-found", "--timeout=120s")).To(Succeed())
	Expect(bed.Install(ctx)).To(Succeed())
	Expect(bed.Kubectl(ctx, "delete", "enforcementcanary", "--all", "--timeout=60s")).To(Succeed())
}, NodeTimeout(40*time.Minute))

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

func requireLab() {
	if !bed.Lab {
		Skip("enforcement can be broken in the lab only: unset KUBECONFIG to run this")
	}
}
