package controllers

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/podlog"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/probepod"
)

func aCanary() *v1alpha1.EnforcementCanary {
	return &v1alpha1.EnforcementCanary{
		ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.CanaryName, UID: "canary-1"},
		Spec:       v1alpha1.EnforcementCanarySpec{Namespace: "c", Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}}},
	}
}

func TestCanaryPod(t *testing.T) {
	c := aCanary()
	pod := canaryPod(c, canary.Features(), canary.Guarded, "node-a", podOptions())
	golden(t, "canary.yaml", pod)
	if !plan.IsProbePod(pod) {
		t.Error("a pod of the canary could be taken for a workload")
	}
	if got := canaryPod(c, canary.Features(), canary.Abroad, "node-a", podOptions()); got.Namespace != "c-abroad" || len(got.Spec.Containers) != 2 {
		t.Errorf("got a pod in %s with %d containers, want the second namespace and no listener for SCTP", got.Namespace, len(got.Spec.Containers))
	}
	raw := func(pod *corev1.Pod) (names []string) {
		for _, c := range pod.Spec.Containers {
			if probepod.AddsNetRaw(c) {
				names = append(names, c.Name)
			}
		}
		return names
	}
	if got := raw(pod); got != nil {
		t.Errorf("%v have NET_RAW, and nobody asked for it", got)
	}
	c.Spec.SCTP = v1alpha1.SCTPRaw
	if got := raw(canaryPod(c, canary.Features(), canary.Plain, "node-a", podOptions())); !slices.Equal(got, []string{"probe", "sctp"}) {
		t.Errorf("%v have NET_RAW, want those that speak SCTP", got)
	}
	if got := raw(canaryPod(c, []v1alpha1.CanaryFeature{v1alpha1.FeatureUDP}, canary.Plain, "node-a", podOptions())); got != nil {
		t.Errorf("%v have NET_RAW, and SCTP is not tested", got)
	}
	other := canaryPod(aCanary(), canary.Features(), canary.Guarded, "node-b", podOptions())
	if other.Name == pod.Name {
		t.Error("pods of two nodes have one name")
	}
}

// runningPod is a pod whose containers are as the function says.
func runningPod(change func(name string, s *corev1.ContainerStatus)) *corev1.Pod {
	pod := canaryPod(aCanary(), canary.Features(), canary.Guarded, "node-a", podOptions())
	pod.UID, pod.Spec.NodeName = "pod-1", "node-a"
	pod.CreationTimestamp = metav1.Time{Time: time.Unix(1_700_000_000, 0)}
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}}
	for _, c := range pod.Spec.Containers {
		s := corev1.ContainerStatus{Name: c.Name, Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
		if change != nil {
			change(c.Name, &s)
		}
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, s)
	}
	return pod
}

func ended(name string, code int32) func(string, *corev1.ContainerStatus) {
	return func(n string, s *corev1.ContainerStatus) {
		if n == name {
			s.Ready, s.State = false, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}
		}
	}
}

func TestCanaryPodTakesPart(t *testing.T) {
	notReady := func(name string) func(string, *corev1.ContainerStatus) {
		return func(n string, s *corev1.ContainerStatus) { s.Ready = n != name }
	}
	r := &CanaryReconciler{}
	for name, tc := range map[string]struct {
		pod             *corev1.Pod
		up, spent, sctp bool
		after           time.Duration
	}{
		"it runs":                   {pod: runningPod(nil), up: true},
		"the listener is not ready": {pod: runningPod(notReady("serve"))},
		"the prober is not ready":   {pod: runningPod(notReady("probe")), up: true},
		"SCTP is not ready":         {pod: runningPod(notReady("sctp"))},
		"the kernel has no SCTP":    {pod: runningPod(ended("sctp", 3)), up: true, sctp: true},
		"SCTP failed":               {pod: runningPod(ended("sctp", 1)), up: true, spent: true},
		"the listener ended":        {pod: runningPod(ended("serve", 3)), spent: true},
		"the prober ended":          {pod: runningPod(ended("probe", 0)), spent: true},
		"it is old":                 {pod: runningPod(nil), up: true, spent: true, after: 15 * time.Hour},
		"it is not old":             {pod: runningPod(nil), up: true, after: 11 * time.Hour},
	} {
		s := &canaryScope{canary: aCanary(), now: time.Unix(1_700_000_000, 0).Add(tc.after)}
		if up, why := canary.Up(tc.pod); up != tc.up || up != (why == "") {
			t.Errorf("%s: up is %v (%s), want %v", name, up, why, tc.up)
		}
		if got := r.spent(s, tc.pod, "node-a"); got != tc.spent {
			t.Errorf("%s: spent is %v, want %v", name, got, tc.spent)
		}
		if got := canary.LacksSCTP(tc.pod); got != tc.sctp {
			t.Errorf("%s: lacks SCTP is %v, want %v", name, got, tc.sctp)
		}
	}
}

// A report is kept once, whatever the log repeats, and the last few of a pod are.
func TestCanaryReports(t *testing.T) {
	r := newCanaryReports(clocktesting.NewFakePassiveClock(time.Unix(1_700_000_000, 0)))
	for _, turn := range []int64{0, 1, 1, 2, 3, 2} {
		r.take(t.Context(), "pod-1", wire.Message{Report: &wire.Report{ID: "plan-1", Turn: turn}})
	}
	r.take(t.Context(), "pod-1", wire.Message{Flip: &wire.Flip{}})
	if got := sortedTurns(r.of("pod-1", "plan-1")); !slices.Equal(got, []int64{1, 2, 3}) {
		t.Errorf("kept the turns %v, want the last three", got)
	}
	if len(r.changed) != 4 {
		t.Errorf("the canary was woken %d times, want once for each report that is new", len(r.changed))
	}
	if got := r.of("pod-1", "plan-2"); len(got) != 0 {
		t.Errorf("got %v of another plan", got)
	}
	r.drop("pod-1")
	if got := r.of("pod-1", "plan-1"); len(got) != 0 {
		t.Errorf("got %v of a pod that is gone", got)
	}
}

func sortedTurns(reports map[int64]canaryReport) (out []int64) {
	for turn := range reports {
		out = append(out, turn)
	}
	slices.Sort(out)
	return out
}

// twoNodes is the scope of two nodes that take part, with the pods that they need.
func twoNodes() *canaryScope {
	c := aCanary()
	s := &canaryScope{
		now: time.Unix(1_700_000_000, 0), canary: c, features: canary.Features(), rows: canary.Rows(canary.Features()),
		selected: []string{"a", "b"}, ring: canary.Ring([]string{"a", "b"}, 2), pods: canary.Pods{},
		waiting: map[string]string{}, policies: map[string]string{"": "p", "a": "pa", "b": "pb"},
		state: &canaryState{results: map[nodePair]pairResult{}, judged: map[string]string{}, memo: newCanaryMemo()},
	}
	s.sources = canary.Sources(s.ring)
	for i, node := range s.selected {
		s.pods[node] = map[canary.Role]*corev1.Pod{}
		for j, role := range canary.Roles() {
			pod := canaryPod(c, s.features, role, node, podOptions())
			pod.UID, pod.Spec.NodeName = types.UID(node+"-"+string(role)), node
			n := string(rune('1' + 4*i + j))
			pod.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0." + n}, {IP: "fd00::" + n}}
			s.pods[node][role] = pod
		}
	}
	return s
}

// A plan is another one as soon as something changes that its result depends on, and the
// same one otherwise: a restarted operator hands out nothing.
func TestPlanIDsNameAllThatAResultDependsOn(t *testing.T) {
	ids := func(change func(*canaryScope)) map[canary.Role]string {
		s := twoNodes()
		if change != nil {
			change(s)
		}
		out := map[canary.Role]string{}
		for role, p := range s.plan("a", time.Time{}).Pods {
			out[role] = p.Plan.ID
			if err := p.Plan.Validate(); p.Plan.ID == "" || err != nil {
				t.Errorf("%s: %v", role, err)
			}
		}
		return out
	}
	base := ids(nil)
	if len(base) != 4 {
		t.Fatalf("%d pods have plans", len(base))
	}
	for role, id := range ids(nil) {
		if base[role] != id {
			t.Errorf("the plan of %s differs for no reason", role)
		}
	}
	for name, change := range map[string]func(*canaryScope){
		"a request":                    func(s *canaryScope) { s.request = "now" },
		"another interval":             func(s *canaryScope) { s.canary.Spec.IntervalSeconds = 30 },
		"another policy for all":       func(s *canaryScope) { s.policies[""] = "q" },
		"another policy of the node":   func(s *canaryScope) { s.policies["a"] = "q" },
		"another policy of the target": func(s *canaryScope) { s.policies["b"] = "q" },
		"a target that is missing":     func(s *canaryScope) { s.waiting["b"] = "why" },
		"another canary":               func(s *canaryScope) { s.canary.UID = "canary-2" },
	} {
		for role, id := range ids(change) {
			if base[role] == id {
				t.Errorf("%s: the plan of %s stays the same", name, role)
			}
		}
	}
	for role, p := range twoNodes().plan("a", time.Unix(1, 0)).Pods {
		if base[role] == p.Plan.ID {
			t.Errorf("a round that was asked for: the plan of %s stays the same", role)
		}
	}
	// A pod that took the place of another has another UID, even at the same address.
	changed := ids(func(s *canaryScope) { s.pods["b"][canary.Guarded].UID = "new" })
	if changed[canary.Plain] == base[canary.Plain] || changed[canary.Friend] == base[canary.Friend] {
		t.Error("another guarded pod makes no other plan for those that probe it")
	}
}

// Old results, and those that are dated in the future, are unknown.
func TestOldResultsAreUnknown(t *testing.T) {
	r := &CanaryReconciler{logs: podlog.New(nil, nil, nil)}
	for name, tc := range map[string]struct {
		age  time.Duration
		want canary.Verdict
	}{
		"new":             {time.Minute, canary.Enforced},
		"two intervals":   {2 * time.Minute, canary.Enforced},
		"three intervals": {3 * time.Minute, canary.Unknown},
		"in the future":   {-time.Minute, canary.Unknown},
	} {
		s := twoNodes()
		rows := map[canary.Name]canary.Result{}
		for _, row := range s.rows {
			rows[row.Name()] = canary.Result{Verdict: canary.Enforced}
		}
		for from, targets := range s.ring {
			for _, to := range targets {
				s.state.results[nodePair{from, to}] = pairResult{at: s.now.Add(-tc.age), rows: rows}
			}
		}
		f := s.find(r)
		for node, rows := range f.nodes {
			for row, res := range rows {
				if res.Verdict != tc.want {
					t.Errorf("%s: %s %s on %s is %s (%s), want %s", name, row.Feature, row.Direction, node, res.Verdict, res.Message, tc.want)
				}
			}
		}
		s.summarize(f)
		want := map[canary.Verdict]metav1.ConditionStatus{canary.Enforced: metav1.ConditionTrue, canary.Unknown: metav1.ConditionUnknown}[tc.want]
		for _, c := range s.canary.Status.Conditions {
			if c.Status != want {
				t.Errorf("%s: %s is %s (%s), want %s", name, c.Type, c.Status, c.Message, want)
			}
		}
	}
}
