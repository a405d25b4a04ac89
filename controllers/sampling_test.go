package controllers

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/verdict"
)

func TestNextSampling(t *testing.T) {
	found := []v1alpha1.Finding{{Path: "p", Source: "s", SourceNode: "a", Target: "t", TargetNode: "b", Port: 1}, {Path: "p", Source: "s", SourceNode: "a", Target: "t", TargetNode: "b", Port: 2}}
	kept := []plan.Pair{{Path: "p", Source: "s", SourceNode: "a", Target: "t", TargetNode: "b"}}
	other := []plan.Pair{{Path: "p", Source: "s", SourceNode: "z", Target: "u"}}
	last := plan.Sampling{Round: 7, Keep: other}
	cases := map[string]struct {
		trigger  string
		findings []v1alpha1.Finding
		failed   int32
		want     plan.Sampling
	}{
		"the interval moves on":                            {triggerInterval, nil, 0, plan.Sampling{Round: 8}},
		"a request moves on":                               {triggerRequested, nil, 0, plan.Sampling{Round: 8}},
		"a change is measured where it was seen":           {triggerChange, nil, 0, plan.Sampling{Round: 7}},
		"so is another spec":                               {triggerSpecChanged, nil, 0, plan.Sampling{Round: 7}},
		"what was not met stays, once for all its ports":   {triggerInterval, found, 2, plan.Sampling{Round: 8, Keep: kept}},
		"also after a change":                              {triggerChange, found, 2, plan.Sampling{Round: 7, Keep: kept}},
		"a repeated run is the same":                       {triggerRepeated, found, 2, last},
		"more failures than are listed hold everything":    {triggerInterval, found, 3, last},
		"a name that was cut holds everything":             {triggerInterval, []v1alpha1.Finding{{Source: strings.Repeat("x", 509) + "..."}}, 1, last},
		"and so does one of a target":                      {triggerInterval, []v1alpha1.Finding{{Target: strings.Repeat("x", 509) + "..."}}, 1, last},
		"the first run of an expectation begins somewhere": {triggerCreated, nil, 0, plan.Sampling{Round: 7}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			st := &v1alpha1.ConnectivityExpectationStatus{Findings: tc.findings, Summary: &v1alpha1.Summary{Checks: 100, Violated: tc.failed}}
			if diff := cmp.Diff(tc.want, nextSampling(last, st, tc.trigger)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// crowd is an expectation about more pods than a run probes, and the scope of a
// reconcile of it.
func crowd(t *testing.T, targets int) *scope {
	t.Helper()
	selector := func(app string) *v1alpha1.LabelSelector {
		return &v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"app": v1alpha1.LabelValue(app)}}
	}
	exp := &v1alpha1.ConnectivityExpectation{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "x", UID: "1", Generation: 1},
		Spec: v1alpha1.ConnectivityExpectationSpec{
			Coverage: v1alpha1.Coverage{MaxSources: 1, MaxTargets: 2}, Probe: v1alpha1.ProbeSettings{IntervalSeconds: 100},
			Paths: []v1alpha1.Path{{
				Name: "p", Expect: v1alpha1.ExpectAllow, From: v1alpha1.Source{PodSelector: selector("web")},
				To: &v1alpha1.Target{PodSelector: selector("db")}, Ports: []v1alpha1.Port{{Port: intstr.FromInt32(5432)}},
			}},
		},
	}
	s := newScope(exp, &tracked{}, epoch)
	snap := plan.Snapshot{Snapshot: evaluator.Snapshot{Namespaces: []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}}}}
	add := func(app string, i int, node string) {
		snap.Pods = append(snap.Pods, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("%s-%d", app, i), Labels: map[string]string{"app": app}},
			Spec:       corev1.PodSpec{NodeName: node},
			Status: corev1.PodStatus{
				Phase: corev1.PodRunning, PodIP: fmt.Sprintf("10.0.%d.%d", len(app), i+1),
				Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			},
		})
	}
	for i := range 2 {
		add("web", i, fmt.Sprintf("node-%d", i))
	}
	for i := range targets {
		add("db", i, fmt.Sprintf("node-%d", i%2))
	}
	s.input = plan.Input{Expectation: s.exp, Snapshot: snap}
	s.input.Engine, _ = evaluator.Compile(snap.Snapshot)
	return s
}

// reconcile goes on to a time at which a run may be due, as a new reconcile does.
func (s *scope) reconcile(t *testing.T, after time.Duration) {
	t.Helper()
	s.now = s.now.Add(after)
	s.input.Sampling, s.input.Learned = s.track.sampling, s.track.learned
	s.resolution = plan.Resolve(s.input)
	if _, err := (&ExpectationReconciler{ways: NewCanaryWays()}).schedule(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

// finish ends the run under way: every check is answered but those to the bad targets.
func (s *scope) finish(t *testing.T, bad ...string) (probed []string) {
	t.Helper()
	current := s.track.run
	if current == nil {
		t.Fatal("no run is under way")
	}
	current.probes, current.edges = nil, nil
	s.verdicts = nil
	for _, e := range s.resolution.Edges {
		probed = append(probed, e.Target.Name)
		for _, node := range e.Source.Nodes {
			c := edgeCheck(e)
			c.SourceNode = node
			v := verdict.Verdict{Check: c, Observed: verdict.Open, Cause: verdict.None, Aligned: verdict.True, Enforced: verdict.True, Satisfied: verdict.True}
			if slices.Contains(bad, e.Target.Name) {
				v.Observed, v.Cause, v.Enforced, v.Satisfied = verdict.Blocked, verdict.UnexpectedBlock, verdict.False, verdict.False
			}
			s.verdicts = append(s.verdicts, v)
		}
	}
	summary := verdict.Summarize(s.verdicts)
	s.summary = &summary
	s.track.last = lastRun{startedAt: current.startedAt, finishedAt: s.now, generation: current.generation, provenance: current.provenance}
	s.track.recordCoverage(current.generation, s.verdicts)
	s.prior = *s.exp.Status.DeepCopy()
	setResult(s, current)
	s.track.run = nil
	return probed
}

// TestRotationIsNoChange runs by the interval: each run is about other targets, and
// between them nothing looks like a change.
func TestRotationIsNoChange(t *testing.T) {
	s := crowd(t, 6)
	s.reconcile(t, 0)
	probed := map[string]int{}
	for _, name := range s.finish(t) {
		probed[name]++
	}
	for i := range 2 {
		s.reconcile(t, time.Second)
		if s.track.run != nil || !s.track.changedAt.IsZero() {
			t.Fatalf("after run %d: a run is under way: %t, a change is noted: %t", i, s.track.run != nil, !s.track.changedAt.IsZero())
		}
		s.reconcile(t, 120*time.Second)
		if s.track.run == nil || s.track.run.trigger != triggerInterval {
			t.Fatalf("no run by the interval: %+v", s.track.run)
		}
		before := s.track.run
		s.reconcile(t, time.Second)
		if s.track.run != before || !s.track.changedAt.IsZero() {
			t.Fatal("the run is given up, or a change is noted, because it chose other pods")
		}
		for _, name := range s.finish(t) {
			probed[name]++
		}
	}
	if len(probed) != 6 {
		t.Errorf("three runs of two targets probed %v, want all six", probed)
	}
	// A new operator finds in the status where the last one was.
	s.track = newTracker().get(s.exp)
	s.reconcile(t, time.Second)
	if s.track.run != nil || s.track.sampling.Round != 2 {
		t.Errorf("after a restart: run %+v, round %d, want none and 2", s.track.run, s.track.sampling.Round)
	}
}

// TestChangeIsMeasuredWhereItWasSeen changes something about the pods of a run.
func TestChangeIsMeasuredWhereItWasSeen(t *testing.T) {
	s := crowd(t, 6)
	s.reconcile(t, 0)
	first := s.finish(t)
	s.input.Snapshot.NetworkPolicies = []*networkingv1.NetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "deny"}}}
	s.input.Engine, _ = evaluator.Compile(s.input.Snapshot.Snapshot)
	s.reconcile(t, time.Second)
	s.reconcile(t, time.Second)
	if s.track.run == nil || s.track.run.trigger != triggerChange {
		t.Fatalf("no run for the change: %+v", s.track.run)
	}
	if diff := cmp.Diff(first, s.finish(t)); diff != "" {
		t.Errorf("the run is about other pods (-before +after):\n%s", diff)
	}
}

// TestFailuresStayInTheChoice lets one target of many be cut off: once it was found, every
// run probes it and reports it, whoever's turn it is, until it is good. A restart of the
// operator makes no difference.
func TestFailuresStayInTheChoice(t *testing.T) {
	const bad = "shop/db-3"
	s := crowd(t, 6)
	found := 0
	others := map[string]bool{}
	for run := range 20 {
		s.reconcile(t, 120*time.Second)
		probed := s.finish(t, bad)
		reported := slices.ContainsFunc(s.exp.Status.Findings, func(f v1alpha1.Finding) bool { return f.Target == bad })
		if slices.Contains(probed, bad) {
			found++
		} else if found > 0 {
			t.Fatalf("run %d probes %v and not what had failed", run, probed)
		}
		if found > 0 && !reported {
			t.Fatalf("run %d does not report what has failed: %+v", run, s.exp.Status.Findings)
		}
		for _, name := range probed {
			others[name] = true
		}
		if run == 10 {
			s.track = newTracker().get(s.exp)
		}
	}
	if found < 15 || len(others) != 6 {
		t.Errorf("the failure was seen by %d runs, and %d targets had their turn; want most, and 6", found, len(others))
	}
	s.reconcile(t, 120*time.Second)
	if probed := s.finish(t); !slices.Contains(probed, bad) || len(s.exp.Status.Findings) != 0 {
		t.Errorf("it is good again: probed %v, findings %+v", probed, s.exp.Status.Findings)
	}
}

func TestCoverageOfTheLastRuns(t *testing.T) {
	s := crowd(t, 6)
	for i, want := range []string{"1 2 6 33 0", "2 4 6 66 1", "3 6 6 100 2", "4 6 6 100 3"} {
		// One node of the source at a time: 12 pairs in all, of which a run covers 2.
		s.reconcile(t, 120*time.Second)
		s.finish(t)
		c := s.exp.Status.Coverage
		targets := map[string]bool{}
		for _, run := range s.track.covered {
			for _, p := range run {
				targets[p.Target] = true
			}
		}
		if got := fmt.Sprint(c.Runs, len(targets), 6, 100*len(targets)/6, c.Round); got != want {
			t.Errorf("run %d: runs, targets, of them, percent, round: got %s, want %s", i, got, want)
		}
	}
	for range 12 {
		s.reconcile(t, 120*time.Second)
		s.finish(t)
	}
	c := s.exp.Status.Coverage
	if c.Runs != coverageRuns || c.PairsMatched != 12 || c.PairsCovered != 12 || c.PairsPercent != 100 || c.NodePairsMatched != 4 || c.NodePairsCovered != 4 || c.NodePairsPercent != 100 {
		t.Errorf("after many runs: %+v", c)
	}
	if len(s.track.covered) != coverageRuns {
		t.Errorf("%d runs are remembered", len(s.track.covered))
	}
	s.exp.Generation = 2
	s.reconcile(t, time.Second)
	s.finish(t)
	if c := s.exp.Status.Coverage; c.Runs != 1 || c.PairsCovered != 2 || c.PairsPercent != 16 {
		t.Errorf("after another spec: %+v", c)
	}
}

// A pair counts only if all its checks came to a conclusion.
func TestConclusions(t *testing.T) {
	check := func(target string, port uint16, o verdict.Observed) verdict.Verdict {
		return verdict.Verdict{Check: verdict.Check{Path: "p", Source: "s", SourceNode: "a", Target: target, Port: port}, Observed: o}
	}
	got := conclusions([]verdict.Verdict{
		check("x", 1, verdict.Open), check("x", 2, verdict.Inconclusive), check("y", 1, verdict.Blocked), check("y", 2, verdict.Open), check("z", 1, verdict.Inconclusive),
	})
	if diff := cmp.Diff([]plan.Pair{{Path: "p", Source: "s", SourceNode: "a", Target: "y"}}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	both, one := check("x", 1, verdict.Blocked), check("x", 1, verdict.Inconclusive)
	both.Check.Twins, one.Check.Twins = []string{"twin"}, []string{"twin"}
	if got := conclusions([]verdict.Verdict{both}); len(got) != 2 || got[1].Target != "twin" {
		t.Errorf("what a stand-in shows is so of all its pods: got %+v", got)
	}
	if got := conclusions([]verdict.Verdict{check("twin", 2, verdict.Open), one}); len(got) != 0 {
		t.Errorf("what a stand-in does not show is known of none of its pods: got %+v", got)
	}
	for _, tc := range []struct{ part, whole, want int }{{0, 0, 0}, {1, 3, 33}, {2, 3, 66}, {3, 3, 100}, {999, 1000, 99}} {
		if got := percent(tc.part, tc.whole); int(got) != tc.want {
			t.Errorf("%d of %d are %d percent, want %d", tc.part, tc.whole, got, tc.want)
		}
	}
}
