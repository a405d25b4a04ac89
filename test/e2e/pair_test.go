package e2e

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/test/testbed"
)

// inResidentPods makes an expectation that declares what another one does, and is probed
// from pods that stay, for as long as the container or the spec lasts.
func inResidentPods(ctx context.Context, key types.NamespacedName, change func(*v1alpha1.ProbeSettings)) types.NamespacedName {
	GinkgoHelper()
	twin, err := bed.Twin(ctx, key, change)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func(ctx SpecContext) { Expect(client.IgnoreNotFound(bed.Client.Delete(ctx, twin))).To(Succeed()) })
	return client.ObjectKeyFromObject(twin)
}

// pair is an expectation that is probed from pods of each run, and its twin in pods that
// stay. Both have to come to the same verdicts.
type pair struct{ oneShot, resident types.NamespacedName }

// pairOf makes the twin of an expectation. It runs when it is asked to, and on changes.
func pairOf(ctx context.Context, key types.NamespacedName) pair {
	GinkgoHelper()
	return pair{key, inResidentPods(ctx, key, func(p *v1alpha1.ProbeSettings) { p.IntervalSeconds = 86400 })}
}

// request asks both for a run. What it returns waits for the results.
func (p pair) request(ctx context.Context) (results func(context.Context) (oneShot, resident *v1alpha1.ConnectivityExpectation)) {
	GinkgoHelper()
	first, err := bed.Request(ctx, p.oneShot)
	Expect(err).NotTo(HaveOccurred())
	second, err := bed.Request(ctx, p.resident)
	Expect(err).NotTo(HaveOccurred())
	return func(ctx context.Context) (oneShot, resident *v1alpha1.ConnectivityExpectation) {
		GinkgoHelper()
		return await(ctx, p.oneShot, testbed.Answers(first)), await(ctx, p.resident, testbed.Answers(second))
	}
}

// probe runs both at the same time.
func (p pair) probe(ctx context.Context) (oneShot, resident *v1alpha1.ConnectivityExpectation) {
	GinkgoHelper()
	return p.request(ctx)(ctx)
}

// await waits for a state of both.
func (p pair) await(ctx context.Context, done func(*v1alpha1.ConnectivityExpectation) bool) (oneShot, resident *v1alpha1.ConnectivityExpectation) {
	GinkgoHelper()
	return await(ctx, p.oneShot, done), await(ctx, p.resident, done)
}

// expectTheSame compares the verdicts of both.
func expectTheSame(oneShot, resident *v1alpha1.ConnectivityExpectation) {
	GinkgoHelper()
	Expect(verdicts(resident)).To(Equal(verdicts(oneShot)), "resident: %s\none-shot: %s", describe(resident), describe(oneShot))
	Expect(resident.Status.Summary).To(Equal(oneShot.Status.Summary), describe(resident))
}
