package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/test/testbed"
)

// tally counts what the runs of one scenario found.
type tally struct {
	scenario testbed.Scenario
	// runs are those that were completed, and checks those that they made.
	runs, checks int
	// right are the checks whose verdict is the right one.
	right int
	// inconclusive counts checks about which nothing was concluded although something
	// should have been, by their causes. That is allowed: it is no false word.
	inconclusive map[string]int
	// violations are checks that were said to be violated, or violated otherwise, and are
	// not. greens are checks that were said to be met and are not.
	violations, greens int
	// longest is the longest run.
	longest float64
}

func newTally(s testbed.Scenario) *tally {
	return &tally{scenario: s, inconclusive: map[string]int{}}
}

// falses tells how many false words there were.
func (t *tally) falses() int { return t.violations + t.greens }

// add counts a completed run and describes every false verdict of it.
func (t *tally) add(e *v1alpha1.ConnectivityExpectation) []string {
	var falses []string
	say := func(what, format string, args ...any) {
		falses = append(falses, fmt.Sprintf("%s in %s/%s: ", what, e.Namespace, e.Name)+fmt.Sprintf(format, args...))
	}
	st := e.Status
	t.runs++
	t.checks += int(st.Summary.Checks)
	t.longest = max(t.longest, st.LastRun.FinishedAt.Sub(st.LastRun.StartedAt.Time).Seconds())
	right := int(st.Summary.Met)
	found := map[string]int{}
	for _, f := range st.Findings {
		found[f.Path]++
		switch want, ok := t.scenario.NotMet[f.Path]; {
		case ok && f.Cause == want.Cause:
			right++
		case inconclusive(f):
			t.inconclusive[f.Cause]++
		default:
			t.violations++
			say("false violation", "%s", describe(f))
		}
	}
	// Not all of what was not met need be listed. What is left out is the least severe, so
	// that a violation is not among it.
	unlisted := int(st.Summary.Checks-st.Summary.Met) - len(st.Findings)
	green := 0
	for _, path := range slices.Sorted(maps.Keys(t.scenario.NotMet)) {
		want := t.scenario.NotMet[path]
		missing := max(0, want.Checks-found[path])
		left := min(missing, unlisted)
		unlisted, right = unlisted-left, right+left
		if missing -= left; missing > 0 {
			green += missing
			say("false green", "%d of %d checks of path %s are not among the findings, want %s", missing, want.Checks, path, want.Cause)
		}
	}
	if unlisted > 0 {
		t.inconclusive["NotListed"] += unlisted
	}
	switch ready := testbed.Ready(e); {
	case ready.Status == metav1.ConditionTrue && !t.scenario.Met() && green == 0:
		green = 1
		say("false green", "Ready is True: %s", ready.Message)
	case ready.Status == metav1.ConditionFalse && t.scenario.Met() && st.Summary.Violated == 0:
		t.violations++
		say("false violation", "Ready is False without a violated check: %s", ready.Message)
	}
	t.greens += green
	t.right += right - green
	return falses
}

// inconclusive tells whether a finding says that nothing could be concluded. When policies
// alone disagree with what is declared, something was, whatever was observed.
func inconclusive(f v1alpha1.Finding) bool {
	return f.Cause != "PolicyDrift" && (f.Observed == nil || f.Observed.Result == "Inconclusive")
}

func describe(f v1alpha1.Finding) string {
	s := fmt.Sprintf("%s of path %s: %s", f.Cause, f.Path, f.Message)
	if f.Observed != nil {
		s += fmt.Sprintf(" [%s, %s; %s]", f.Observed.Result, f.Observed.Outcomes, f.Observed.Evidence)
	}
	return s
}

// tallies are those of all scenarios.
type tallies []*tally

// completed is the number of runs that every scenario has completed.
func (ts tallies) completed() int {
	return slices.MinFunc(ts, func(a, b *tally) int { return cmp.Compare(a.runs, b.runs) }).runs
}

func (ts tallies) falses() int {
	n := 0
	for _, t := range ts {
		n += t.falses()
	}
	return n
}

// print prints the counts.
func (ts tallies) print(out io.Writer) {
	total := newTally(testbed.Scenario{})
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(name string, t *tally) {
		n := 0
		for _, k := range t.inconclusive {
			n += k
		}
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%.0f s\t\n", name, t.runs, t.checks, t.right, n, t.violations, t.greens, t.longest)
	}
	_, _ = fmt.Fprintln(w, "expectation\truns\tchecks\tright\tinconclusive\tfalse violations\tfalse greens\tlongest run\t")
	for _, t := range ts {
		row(t.scenario.Key.String(), t)
		total.runs, total.checks, total.right = total.runs+t.runs, total.checks+t.checks, total.right+t.right
		total.violations, total.greens, total.longest = total.violations+t.violations, total.greens+t.greens, max(total.longest, t.longest)
		for cause, n := range t.inconclusive {
			total.inconclusive[cause] += n
		}
	}
	row("all", total)
	_ = w.Flush()
	var causes []string
	for _, cause := range slices.Sorted(maps.Keys(total.inconclusive)) {
		causes = append(causes, fmt.Sprintf("%d %s", total.inconclusive[cause], cause))
	}
	if len(causes) > 0 {
		_, _ = fmt.Fprintf(out, "inconclusive: %s\n", strings.Join(causes, ", "))
	}
}
