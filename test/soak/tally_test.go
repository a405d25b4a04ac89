package main

import (
	"maps"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/test/testbed"
)

func finding(path, cause, observed string) v1alpha1.Finding {
	return v1alpha1.Finding{Path: path, Cause: cause, Observed: &v1alpha1.Observation{Result: observed}}
}

// result is a run of four checks in which these were not met.
func result(ready metav1.ConditionStatus, violated int32, findings ...v1alpha1.Finding) *v1alpha1.ConnectivityExpectation {
	e := &v1alpha1.ConnectivityExpectation{}
	e.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: ready}}
	e.Status.Summary = &v1alpha1.Summary{Checks: 4, Met: 4 - int32(len(findings)), Violated: violated, Unknown: int32(len(findings)) - violated}
	start := time.Unix(1_700_000_000, 0)
	e.Status.LastRun = &v1alpha1.Run{StartedAt: metav1.Time{Time: start}, FinishedAt: metav1.Time{Time: start.Add(2 * time.Second)}}
	e.Status.Findings = findings
	return e
}

// unlisted makes one more check not met.
func unlisted(e *v1alpha1.ConnectivityExpectation) *v1alpha1.ConnectivityExpectation {
	e.Status.Summary.Met--
	e.Status.Summary.Unknown++
	return e
}

func TestTally(t *testing.T) {
	met := testbed.Scenario{}
	drift := testbed.Scenario{NotMet: map[string]testbed.Found{"p": {Cause: "PolicyDrift", Checks: 2}}}
	silent := testbed.Scenario{NotMet: map[string]testbed.Found{"p": {Cause: "TargetNotListening", Checks: 2}}}
	const yes, no, unknown = metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown
	cases := map[string]struct {
		scenario                  testbed.Scenario
		result                    *v1alpha1.ConnectivityExpectation
		right, violations, greens int
		inconclusive              map[string]int
	}{
		"all met":                           {met, result(yes, 0), 4, 0, 0, nil},
		"one violated":                      {met, result(no, 1, finding("p", "EnforcementMissing", "Open")), 3, 1, 0, nil},
		"one blocked":                       {met, result(no, 1, finding("p", "UnexpectedBlock", "Blocked")), 3, 1, 0, nil},
		"one drifted, unobserved":           {met, result(no, 1, finding("p", "PolicyDrift", "Inconclusive")), 3, 1, 0, nil},
		"one inconclusive":                  {met, result(unknown, 0, finding("p", "NoPositiveControl", "Inconclusive")), 3, 0, 0, map[string]int{"NoPositiveControl": 1}},
		"not ready for no reason":           {met, result(no, 0), 4, 1, 0, nil},
		"drift":                             {drift, result(no, 2, finding("p", "PolicyDrift", "Open"), finding("p", "PolicyDrift", "Open")), 4, 0, 0, nil},
		"drift that was missed":             {drift, result(yes, 0), 2, 0, 2, nil},
		"drift that was missed in part":     {drift, result(no, 1, finding("p", "PolicyDrift", "Open")), 3, 0, 1, nil},
		"drift taken for something else":    {drift, result(no, 2, finding("p", "PolicyDrift", "Open"), finding("p", "EnforcementMissing", "Open")), 3, 1, 0, nil},
		"drift and a false violation":       {drift, result(no, 3, finding("p", "PolicyDrift", "Open"), finding("p", "PolicyDrift", "Open"), finding("q", "UnexpectedBlock", "Blocked")), 3, 1, 0, nil},
		"more than is listed":               {silent, unlisted(result(unknown, 0, finding("p", "TargetNotListening", "Inconclusive"))), 4, 0, 0, nil},
		"nothing listens":                   {silent, result(unknown, 0, finding("p", "TargetNotListening", "Inconclusive"), finding("p", "TargetNotListening", "Inconclusive")), 4, 0, 0, nil},
		"nothing listens, and a block":      {silent, result(no, 1, finding("p", "TargetNotListening", "Inconclusive"), finding("p", "UnexpectedBlock", "Blocked")), 3, 1, 0, nil},
		"nothing listens, by another cause": {silent, result(unknown, 0, finding("p", "TargetNotListening", "Inconclusive"), finding("p", "ProbeFailed", "Inconclusive")), 3, 0, 0, map[string]int{"ProbeFailed": 1}},
		"ready in spite of findings":        {silent, result(yes, 0, finding("p", "TargetNotListening", "Inconclusive"), finding("p", "TargetNotListening", "Inconclusive")), 3, 0, 1, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := newTally(tc.scenario)
			falses := got.add(tc.result)
			if got.runs != 1 || got.checks != 4 || got.right != tc.right || got.violations != tc.violations || got.greens != tc.greens || got.longest != 2 {
				t.Errorf("got %+v, want right %d, violations %d, greens %d", got, tc.right, tc.violations, tc.greens)
			}
			if !maps.Equal(got.inconclusive, tc.inconclusive) {
				t.Errorf("inconclusive: got %v, want %v", got.inconclusive, tc.inconclusive)
			}
			if (len(falses) > 0) != (got.falses() > 0) {
				t.Errorf("%d false verdicts, described as %q", got.falses(), falses)
			}
		})
	}
}

func TestTalliesAddUp(t *testing.T) {
	a, b := newTally(testbed.Open), newTally(testbed.Drift)
	ts := tallies{a, b}
	a.add(result(metav1.ConditionUnknown, 0, finding("open", "Flapping", "Inconclusive")))
	a.add(result(metav1.ConditionTrue, 0))
	if ts.completed() != 0 {
		t.Errorf("%d runs of each are completed, want 0", ts.completed())
	}
	b.add(result(metav1.ConditionTrue, 0))
	if ts.completed() != 1 || ts.falses() != b.greens || b.greens != 16 {
		t.Errorf("got %d completed, %d false", ts.completed(), ts.falses())
	}
	var out strings.Builder
	ts.print(&out)
	for _, want := range []string{"life/open", "life/drift", "all", "inconclusive: 1 Flapping"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the counts lack %q:\n%s", want, out.String())
		}
	}
}
