package integration

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/test/testbed"
)

// offClock is the clock of this machine, off by some time.
type offClock struct {
	clock.RealClock
	by time.Duration
}

// Now has no reading of the monotonic clock, as the times in a status.
func (c offClock) Now() time.Time { return c.RealClock.Now().Round(0).Add(c.by) }

var _ = Describe("evidence", func() {
	DescribeTable("is of an unknown age or too old when the operator's clock is", func(ctx SpecContext, by time.Duration, words string) {
		stop, _ := startOperator(nil)
		w := newWorld(ctx, nil)
		w.expect(ctx, paths)
		first := w.result(ctx)
		Expect(testbed.Ready(first).Status).To(Equal(metav1.ConditionTrue), testbed.Ready(first).Message)
		stop()

		w.kubelet.set(func(k *kubelet) { k.hold = everyPod })
		startOperatorWith(offClock{by: by}, nil, nil)
		Eventually(func() string { return testbed.Ready(w.get(ctx)).Reason }).WithTimeout(10 * time.Second).Should(Equal(v1alpha1.ReasonStale))
		stale := testbed.Ready(w.get(ctx))
		Expect(stale.Status).To(Equal(metav1.ConditionUnknown))
		Expect(stale.Message).To(ContainSubstring(words))

		By("measuring again at once")
		w.kubelet.set(func(k *kubelet) { k.hold = nil })
		Eventually(func() metav1.ConditionStatus { return testbed.Ready(w.get(ctx)).Status }).WithTimeout(20 * time.Second).Should(Equal(metav1.ConditionTrue))
		again := w.get(ctx).Status.LastRun
		Expect(again.Trigger).To(Equal("Interval"))
		Expect(again.FinishedAt.Time).To(BeTemporally("~", time.Now().Add(by), time.Minute))
	},
		Entry("put back", SpecTimeout(time.Minute), -time.Hour, "the clock was put back"),
		Entry("put forward", SpecTimeout(time.Minute), time.Hour, "old, and the interval is"),
	)
})
