package controllers

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/pathproof/pathproof/probepod"
)

// A pod that is an hour old is replaced, but not in the midst of another expectation's run.
func TestResidentPodsAreReplacedWhenNobodyNeedsThem(t *testing.T) {
	mine := podExpectation()
	other := podExpectation()
	other.Name, other.UID = "other", "other"
	for name, tc := range map[string]struct {
		age         time.Duration
		shared, run bool
		want, young bool
	}{
		"a minute":                              {age: time.Minute, want: true},
		"a moment":                              {age: 2 * time.Second, want: true, young: true},
		"an hour":                               {age: time.Hour, want: true},
		"more":                                  {age: time.Hour + time.Second},
		"more, and shared":                      {age: time.Hour + time.Second, shared: true},
		"more, and needed by another run":       {age: time.Hour + time.Second, shared: true, run: true, want: true},
		"nearly two, and needed by another run": {age: 91 * time.Minute, shared: true, run: true},
		"more, and a run that has nothing to do with it": {age: time.Hour + time.Second, run: true},
	} {
		t.Run(name, func(t *testing.T) {
			pod := probepod.New(mine.Namespace, "p", map[string]string{"app": "a"}, "", probepod.Image{})
			pod.Annotations[expectationAnnotation] = mine.Name
			pod.UID, pod.Annotations[residentAnnotation], pod.CreationTimestamp = "pod-1", "true", metav1.NewTime(epoch.Add(-tc.age))
			pod.OwnerReferences = []metav1.OwnerReference{ownerReference(mine)}
			if tc.shared {
				pod.OwnerReferences = append(pod.OwnerReferences, ownerReference(other))
			}
			r := &ExpectationReconciler{client: fake.NewClientBuilder().WithObjects(pod).Build(), options: DefaultOptions(), tracker: newTracker(), logs: newPodLogs(nil, nil)}
			r.tracker.m[types.NamespacedName{Namespace: other.Namespace, Name: other.Name}] = &tracked{uid: other.UID}
			if tc.run {
				r.tracker.get(other).begin(&run{})
			}
			s := &scope{now: epoch, exp: mine, track: &tracked{run: &run{resident: true, startedAt: epoch}}}
			p := &podRun{name: "p"}
			if settled, err := r.reuse(t.Context(), s, p); err != nil || !settled {
				t.Fatalf("got %v, %v", settled, err)
			}
			left := &corev1.Pod{}
			gone := r.client.Get(t.Context(), client.ObjectKeyFromObject(pod), left) != nil
			if gone == tc.want || p.createdAt.IsZero() == tc.want || p.young != tc.young || p.obstacle != "" {
				t.Errorf("deleted %v, taken %v, young %v, want it taken: %v, young %v", gone, !p.createdAt.IsZero(), p.young, tc.want, tc.young)
			}
		})
	}
	t.Run("a run that has ended needs nothing", func(t *testing.T) {
		tr := newTracker()
		e := tr.get(other)
		e.begin(&run{})
		e.begin(nil)
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: mine.Namespace, OwnerReferences: []metav1.OwnerReference{ownerReference(other)}}}
		if tr.needs(pod, mine) {
			t.Error("got true")
		}
		if e.begin(&run{}); !tr.needs(pod, mine) || tr.needs(pod, other) {
			t.Error("one under way is that of the other, and not its own")
		}
	})
}
