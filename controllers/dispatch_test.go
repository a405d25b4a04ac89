package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/probepod"
	"github.com/pathproof/pathproof/verdict"
)

// A node may not yet know of a pod that has just started: silence would be its ignorance, and
// no policy. Probes that have just started, too, wait for it themselves.
func TestYoungRespondersWarmUp(t *testing.T) {
	ready := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "pod-1"},
		Status: corev1.PodStatus{PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}, ContainerStatuses: []corev1.ContainerStatus{{
			Name: probepod.ContainerName, Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		}}},
	}
	for name, tc := range map[string]struct {
		resident, young bool
		after           time.Duration // the second look, after the first
		want            [2]bool
	}{
		"a resident one that was there": {resident: true, want: [2]bool{true, true}},
		"one that is for this run":      {young: true, want: [2]bool{true, true}},
		"a young one, too early":        {resident: true, young: true, after: 4999 * time.Millisecond, want: [2]bool{false, false}},
		"a young one, in time":          {resident: true, young: true, after: 5 * time.Second, want: [2]bool{false, true}},
	} {
		r := &ExpectationReconciler{options: DefaultOptions()}
		x := &responderRun{podRun: podRun{name: "p", uid: "pod-1", createdAt: epoch, young: tc.young}}
		pods := map[string]*corev1.Pod{"p": ready}
		s := &scope{
			now: epoch, exp: podExpectation(), track: &tracked{run: &run{resident: tc.resident, responders: []*responderRun{x}}},
			options: Options{WarmUp: 5 * time.Second}, pods: pods, residents: pods,
		}
		var got [2]bool
		r.observeResponder(s, x)
		got[0] = x.ready
		if !x.ready && s.requeue != 5*time.Second {
			t.Errorf("%s: looks again after %s", name, s.requeue)
		}
		s.now = epoch.Add(tc.after)
		r.observeResponder(s, x)
		if got[1] = x.ready; got != tc.want || x.obstacle != "" {
			t.Errorf("%s: ready %v, want %v (%s)", name, got, tc.want, x.detail)
		}
	}
}

// What refuses a plan for good ends the run. A pod that another one has taken the place of
// is refused with its UID, as any API server does it.
func TestPlansThatCannotBeGiven(t *testing.T) {
	kind := schema.GroupKind{Kind: "Pod"}
	uid := apierrors.NewInvalid(kind, "p", field.ErrorList{field.Invalid(field.NewPath("metadata", "uid"), "a", "field is immutable")})
	const gone verdict.Cause = "gone"
	long := apierrors.NewInvalid(kind, "p", field.ErrorList{field.TooLong(field.NewPath("metadata", "annotations"), "", 262144)})
	for name, tc := range map[string]struct {
		err  error
		want verdict.Cause // empty if it is tried again, gone if the pod has to be looked for
	}{
		"it was deleted":           {apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, "p"), gone},
		"another one has its name": {uid, gone},
		"a plan too long":          {long, verdict.ProbeRefused},
		"a webhook refuses it":     {apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "p", errors.New("no")), verdict.ProbeRefused},
		"the API server is away":   {apierrors.NewServiceUnavailable("away"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			refuses := interceptor.Funcs{Patch: func(context.Context, client.WithWatch, client.Object, client.Patch, ...client.PatchOption) error {
				return tc.err
			}}
			r := &ExpectationReconciler{client: fake.NewClientBuilder().WithInterceptorFuncs(refuses).Build(), logs: newPodLogs(clock.RealClock{}, nil)}
			p := &probeRun{podRun: podRun{name: "p", uid: "pod-1", addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}, plan: wire.Plan{ID: "plan-1", Checks: make([]wire.Check, 1)}}
			p.Edges = []*plan.Edge{{}} // without one it would be a spare pod
			s := &scope{now: epoch, exp: podExpectation(), track: &tracked{run: &run{resident: true}}}
			err := r.arm(t.Context(), s, []*probeRun{p})
			if tc.want == gone {
				if err != nil || p.done || p.obstacle != "" || p.wantsPlan() {
					t.Errorf("got %v, obstacle %q, done %v, wants its plan %v: a pod that has gone is to be found missing", err, p.obstacle, p.done, p.wantsPlan())
				}
				return
			}
			if (err != nil) != (tc.want == "") || p.obstacle != tc.want || p.wantsPlan() != (tc.want == "") {
				t.Errorf("got %v, obstacle %q (%s), wants its plan %v, want %q", err, p.obstacle, p.detail, p.wantsPlan(), tc.want)
			}
			if tc.want == "" {
				return
			}
			// The pod is there, takes a place, and is of no use any more.
			s.track.run.resident, s.pods = false, map[string]*corev1.Pod{"p": {ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "pod-1"}}}
			s.track.run.probes = []*probeRun{p}
			s.track.inFlight.Store(1)
			p.createdAt = epoch
			if waiting, err := r.collect(t.Context(), s); waiting || err != nil || !p.done || len(s.over) != 1 || s.track.inFlight.Load() != 0 {
				t.Errorf("the run waits: %v, %v; %d pods are over, %d in flight", waiting, err, len(s.over), s.track.inFlight.Load())
			}
		})
	}
}

func TestWritesGoSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var list []int
		for i := range 2*maxWrites + 1 {
			list = append(list, i)
		}
		bad := errors.New("odd")
		start := time.Now()
		errs := sideBySide(list, func(i int) error {
			time.Sleep(time.Second)
			if i%2 == 1 {
				return fmt.Errorf("%d: %w", i, bad)
			}
			return nil
		})
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("%d writes of a second took %v, want 3s: %d at a time", len(list), took, maxWrites)
		}
		for i, err := range errs {
			if odd := i%2 == 1; odd != errors.Is(err, bad) || (odd && err.Error() != fmt.Sprintf("%d: odd", i)) {
				t.Errorf("write %d ended with %v", i, err)
			}
		}
		if errs := sideBySide(nil, func(int) error { return bad }); len(errs) != 0 {
			t.Errorf("nothing to write ended with %v", errs)
		}
	})
}

// A pod that is replaced takes no place any more.
func TestReplacedPodsGiveBackTheirPlace(t *testing.T) {
	for name, tc := range map[string]struct {
		counted bool
		want    int32
	}{"one of this expectation": {true, 0}, "one that another has made, and that was just adopted": {false, 1}} {
		p := &probeRun{podRun: podRun{name: "p", uid: "pod-1", createdAt: epoch, seen: true, counted: tc.counted}, Pod: plan.Pod{Edges: []*plan.Edge{{}}}}
		s := &scope{now: epoch, exp: podExpectation(), track: &tracked{run: &run{resident: true, probes: []*probeRun{p}}}}
		s.track.inFlight.Store(1)
		r := &ExpectationReconciler{options: DefaultOptions(), logs: newPodLogs(clock.RealClock{}, nil)}
		if waiting, err := r.collect(t.Context(), s); !waiting || err != nil || !p.again || !p.createdAt.IsZero() {
			t.Errorf("%s: waits %v, %v, again %v", name, waiting, err, p.again)
		}
		if got := s.track.inFlight.Load(); got != tc.want {
			t.Errorf("%s: %d in flight, want %d", name, got, tc.want)
		}
	}
}
