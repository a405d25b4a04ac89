package controllers

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/probepod"
)

// A pod that runs and should have answered by now is changed, so that its kubelet looks at
// it again: not before, and again only after some time. One that may not have its plan is
// changed early, but once.
func TestSilentPodsAreNudged(t *testing.T) {
	exp := podExpectation()
	epoch := time.Unix(1_700_000_000, 0)
	running := corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
		Name: probepod.ContainerName, Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
	}}}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: exp.Namespace, Name: "p", UID: "pod-1"}, Status: running}
	r := &ExpectationReconciler{
		logs:    readable(t, exp, "other", messageLine(t, wire.Message{Report: &wire.Report{Version: wire.Version, ID: "other"}})),
		options: DefaultOptions(), client: fake.NewClientBuilder().WithObjects(pod).Build(),
	}
	if err := r.client.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
		t.Fatal(err)
	}
	r.logs.expect(exp, "plan-1")
	r.logs.expect(exp, "plan-2")
	for _, id := range []string{"plan-2", "of nobody"} {
		r.logs.take(t.Context(), "pod-1", wire.Message{Taken: id})
	}
	if r.logs.taken(exp.UID, "of nobody") {
		t.Error("a plan is kept that nobody waits for")
	}
	silent := func(plan string) []*probeRun {
		return []*probeRun{{podRun: podRun{name: "p", uid: "pod-1", createdAt: epoch}, plan: wire.Plan{ID: plan}, armedAt: epoch}}
	}
	const round = 3500 * time.Millisecond // the warm-up, two attempts, and a second
	for name, tc := range map[string]struct {
		probes     []*probeRun
		responders []*responderRun
		oneShot    bool
		look       phase
		due, again time.Duration
	}{
		"a probe that has not said that it has its plan": {
			probes: silent("plan-1"), look: r.collect, due: time.Second, again: round,
		},
		"a probe that has":           {probes: silent("plan-2"), look: r.collect, due: round, again: round},
		"a probe that never says it": {probes: silent("plan-1"), oneShot: true, look: r.collect, due: round, again: round},
		"a responder": {
			responders: []*responderRun{{podRun: podRun{name: "p", uid: "pod-1", createdAt: epoch}, request: "request-1", askedAt: epoch}},
			look:       r.record, due: time.Second, again: time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, p := range tc.probes {
				p.Edges = []*plan.Edge{{}} // without one it would be a spare pod
			}
			track := &tracked{run: &run{resident: !tc.oneShot, probes: tc.probes, responders: tc.responders}}
			nudged := func() string {
				got := &corev1.Pod{}
				if err := r.client.Get(t.Context(), client.ObjectKeyFromObject(pod), got); err != nil {
					t.Fatal(err)
				}
				return got.Annotations["pathproof.dev/nudged-at"]
			}
			last := nudged()
			for _, step := range []struct {
				after time.Duration
				want  bool
			}{{0, false}, {tc.due - 1, false}, {tc.due, true}, {tc.due + tc.again - 1, false}, {tc.due + tc.again, true}} {
				there := map[string]*corev1.Pod{"p": pod}
				s := &scope{now: epoch.Add(step.after), exp: exp, track: track, options: r.options, residents: there, pods: there}
				if waiting, err := tc.look(t.Context(), s); !waiting || err != nil {
					t.Fatalf("after %s: got waiting=%v, %v", step.after, waiting, err)
				}
				if got := nudged(); (got != last) != step.want {
					t.Errorf("after %s: nudged at %q and before at %q, want a change: %v", step.after, got, last, step.want)
				}
				last = nudged()
				if s.requeue == 0 || s.requeue > tc.again {
					t.Errorf("after %s: looks again after %s, want at most %s", step.after, s.requeue, tc.again)
				}
			}
		})
	}
}
