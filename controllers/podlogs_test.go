package controllers

import (
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/podlog"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/probepod"
	"github.com/pathproof/pathproof/verdict"
)

func messageLine(t *testing.T, m wire.Message) string {
	t.Helper()
	line, err := wire.EncodeMessage(m)
	if err != nil {
		t.Fatal(err)
	}
	return line + "\n"
}

// A log is opened again when it ends or cannot be read, until its pod is gone. What it says
// of a plan that somebody waits for wakes that expectation, once.
func TestPodLogsAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exp := podExpectation()
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "p", UID: "pod-1"}}
		forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "pods/log"}, "p", errors.New("no"))
		text := "probe: words for people\n" +
			messageLine(t, wire.Message{Report: &wire.Report{Version: wire.Version, ID: "other"}}) +
			messageLine(t, wire.Message{Report: &wire.Report{Version: wire.Version, ID: "plan-1"}}) +
			messageLine(t, wire.Message{Flip: &wire.Flip{Version: wire.Version, Owner: string(exp.UID), Check: "c"}}) +
			messageLine(t, wire.Message{Flip: &wire.Flip{Version: wire.Version, Owner: "stranger", Check: "c"}})
		var opened []error
		gone := apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, "p")
		answers := []error{forbidden, nil, nil, gone, gone}
		r := newPodLogs(clock.RealClock{}, func(context.Context, types.NamespacedName, string, time.Time) (io.ReadCloser, error) {
			err := answers[len(opened)]
			opened = append(opened, err)
			return io.NopCloser(strings.NewReader(text)), err
		})
		r.Lifetime = t.Context
		r.expect(exp, "plan-1")
		r.Follow(pod, podlog.Backlog)
		r.Follow(pod, podlog.Backlog) // one reader is enough
		synctest.Wait()
		if report, err := r.report(exp.UID, pod.UID, "plan-1"); report != nil || !apierrors.IsForbidden(err) {
			t.Errorf("got %v, %v, want no report and the reason", report, err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(opened) != 4 {
			t.Errorf("the log was opened %d times, want 4", len(opened))
		}
		if report, err := r.report(exp.UID, pod.UID, "plan-1"); report == nil || err != nil {
			t.Errorf("got %v, %v, want the report", report, err)
		}
		if flips := r.takeFlips(exp.UID); len(flips) != 1 || flips[0].pod != pod.UID || len(r.takeFlips(exp.UID)) != 0 {
			t.Errorf("got flips %v, want one, once", flips)
		}
		if got := len(r.changed); got != 2 {
			t.Errorf("the expectation was woken %d times, want once for the report and once for the flip", got)
		}
		r.Follow(pod, podlog.Backlog)
		synctest.Wait()
		if len(opened) != len(answers) {
			t.Error("a pod that is gone is still followed")
		}
		r.forget(exp.UID)
		if report, _ := r.report(exp.UID, pod.UID, "plan-1"); report != nil {
			t.Error("a report outlived its expectation")
		}
	})
}

// Of the answers that are awaited together, the last one wakes the expectation. Any other
// wakes it, and so does the reader itself if all came before it said what it waits for.
func TestLastAwaitedAnswerWakes(t *testing.T) {
	exp := podExpectation()
	r := newPodLogs(clock.RealClock{}, nil)
	report := func(id string) { r.take(t.Context(), "pod-1", wire.Message{Report: &wire.Report{ID: id}}) }
	record := func(id string) { r.take(t.Context(), "pod-2", wire.Message{Record: &wire.Record{ID: id}}) }
	for _, id := range []string{"early", "a", "b", "lost", "stray"} {
		r.expect(exp, id)
	}
	r.expectRecord(exp, "c")
	for _, step := range []struct {
		what string
		do   func()
		want int
	}{
		{"nothing is awaited", func() { report("early") }, 1},
		{"the first of two", func() { r.await(exp.UID, []string{"early", "a", "b"}); report("a") }, 0},
		{"one that comes twice", func() { report("a") }, 0},
		{"one that is not awaited", func() { report("stray") }, 1},
		{"the last of two", func() { report("b") }, 1},
		{"a record beside a pod that was given up", func() {
			r.await(exp.UID, []string{"lost", "c"})
			r.await(exp.UID, []string{"c"})
			record("c")
		}, 1},
	} {
		step.do()
		got := 0
		for ; len(r.changed) > 0; got++ {
			<-r.changed
		}
		if got != step.want {
			t.Errorf("%s: woken %d times, want %d", step.what, got, step.want)
		}
	}
	// As where a write is tried again whose answer was lost.
	r.expect(exp, "a")
	r.expectRecord(exp, "c")
	for _, tc := range []struct {
		ids  []string
		want bool
	}{{nil, false}, {[]string{"lost"}, false}, {[]string{"a", "lost"}, false}, {[]string{"a", "b", "c"}, true}} {
		if got := r.await(exp.UID, tc.ids); got != tc.want {
			t.Errorf("all of %q have come: got %v, want %v", tc.ids, got, tc.want)
		}
	}
}

// unreadable cannot read the log of the pod pod-1, for this reason.
func unreadable(t *testing.T, reason error) *podLogs {
	t.Helper()
	now := clocktesting.NewFakeClock(time.Unix(1_700_000_000, 0))
	r := newPodLogs(now, func(context.Context, types.NamespacedName, string, time.Time) (io.ReadCloser, error) {
		return nil, reason
	})
	r.Lifetime = t.Context
	r.Follow(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "pod-1"}}, podlog.Backlog)
	// It is noted before the wait for the next try.
	for !now.HasWaiters() {
		runtime.Gosched()
	}
	return r
}

// Without the permission, the reason is said, and nothing is waited for.
func TestResidentWithoutPermissionToReadLogs(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "pods/log"}, "p", errors.New("no"))
	r := &ExpectationReconciler{logs: unreadable(t, forbidden), options: DefaultOptions()}
	s := &scope{now: now, exp: podExpectation(), track: &tracked{run: &run{resident: true}}}
	p := &probeRun{podRun: podRun{uid: "pod-1", createdAt: now}, plan: wire.Plan{ID: "plan-1"}, armedAt: now}
	r.read(s, p, &corev1.Pod{})
	if !p.done || p.obstacle != verdict.ProbeFailed || !strings.Contains(p.detail, "permission to get pods/log") {
		t.Errorf("got done=%v %s %q", p.done, p.obstacle, p.detail)
	}
}

// readable reads a log that has this text, and follows the pod pod-1 until it is read.
func readable(t *testing.T, exp *v1alpha1.ConnectivityExpectation, plan, text string) *podLogs {
	t.Helper()
	r := newPodLogs(clock.RealClock{}, func(ctx context.Context, _ types.NamespacedName, _ string, _ time.Time) (io.ReadCloser, error) {
		rest, end := io.Pipe()
		context.AfterFunc(ctx, func() { _ = end.Close() })
		return struct {
			io.Reader
			io.Closer
		}{io.MultiReader(strings.NewReader(text), rest), rest}, nil
	})
	r.Lifetime = t.Context
	r.expect(exp, plan)
	r.Follow(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "pod-1"}}, podlog.Backlog)
	<-r.changed
	return r
}

// A pod of one run is done when its report is there, by whichever way it came first.
func TestReportOfOneShotPod(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	report := wire.Report{Version: wire.Version, ID: "plan-1", Results: []wire.Result{{Outcomes: wire.Outcomes{wire.Replied}}}}
	message, err := wire.EncodeReport(report)
	if err != nil {
		t.Fatal(err)
	}
	pod := func(state corev1.ContainerState) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{UID: "pod-1"},
			Status:     corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: probepod.ContainerName, State: state}}},
		}
	}
	running := pod(corev1.ContainerState{Running: &corev1.ContainerStateRunning{}})
	ended := pod(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: message}})
	evicted := pod(corev1.ContainerState{Running: &corev1.ContainerStateRunning{}})
	evicted.DeletionTimestamp = &metav1.Time{Time: now}
	evicted.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI"}}
	exp := podExpectation()
	forbidden := func() *podLogs {
		return unreadable(t, apierrors.NewForbidden(schema.GroupResource{Resource: "pods/log"}, "p", errors.New("no")))
	}
	logged := func() *podLogs { return readable(t, exp, "plan-1", messageLine(t, wire.Message{Report: &report})) }
	for name, tc := range map[string]struct {
		logs       func() *podLogs
		pod        *corev1.Pod
		disruption string
		done       bool
		detail     string
	}{
		"it is in the log of a pod that runs":        {logged, running, "", true, ""},
		"it is in the log of a pod that then goes":   {logged, evicted, "evicted", true, ""},
		"the log must not be read, and the pod runs": {forbidden, running, "", false, ""},
		"the log must not be read":                   {forbidden, ended, "", true, ""},
		"the pod goes before it is there":            {forbidden, evicted, "evicted", true, "evicted before it had reported"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &ExpectationReconciler{logs: tc.logs(), options: DefaultOptions()}
			s := &scope{now: now, exp: exp, track: &tracked{run: &run{}}, options: r.options}
			p := &probeRun{
				podRun: podRun{uid: "pod-1", createdAt: now, seen: true, disruption: tc.disruption},
				plan:   wire.Plan{ID: "plan-1", Checks: make([]wire.Check, 1)}, armedAt: now,
			}
			r.read(s, p, tc.pod)
			if p.done != tc.done || (p.report != nil) != (tc.done && tc.detail == "") || !strings.Contains(p.detail, tc.detail) || (tc.detail == "") != (p.obstacle == "") {
				t.Errorf("got done=%v, report %v, %s %q", p.done, p.report, p.obstacle, p.detail)
			}
		})
	}
}

// A log is let go with its pod: it would be opened again and again otherwise.
func TestLogOfADeletedPodIsLetGo(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "p", UID: "pod-1"}}
	closed := make(chan struct{})
	logs := newPodLogs(clock.RealClock{}, func(ctx context.Context, _ types.NamespacedName, _ string, _ time.Time) (io.ReadCloser, error) {
		<-ctx.Done()
		close(closed)
		return nil, ctx.Err()
	})
	logs.Lifetime = t.Context
	logs.Follow(pod, podlog.Backlog)
	r := &ExpectationReconciler{logs: logs, client: fake.NewClientBuilder().WithObjects(pod).Build()}
	if err := r.deletePod(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	<-closed
}
