package controllers

import (
	"slices"
	"strings"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/verdict"
)

// coverageRuns is the number of runs that coverage is counted over. Their pairs are
// kept in memory.
const coverageRuns = 10

// resample chooses what the run that is about to start probes. In between, the choice
// stays as the last run made it: what is compared with the last run is the same pods.
func (r *ExpectationReconciler) resample(s *scope, trigger string) {
	next := nextSampling(s.track.sampling, &s.exp.Status, trigger)
	if next.Round == s.track.sampling.Round && slices.Equal(next.Keep, s.track.sampling.Keep) {
		return
	}
	s.track.sampling, s.input.Sampling = next, next
	s.resolve()
}

// nextSampling moves the choice on when nothing but time has passed. After a change,
// the run is about what it did to the same pods. A check that was not met stays in the
// choice, or a failure would vanish because it was somebody else's turn. If not all of
// them are listed, the choice stays as it is.
func nextSampling(last plan.Sampling, st *v1alpha1.ConnectivityExpectationStatus, trigger string) plan.Sampling {
	if trigger == triggerRepeated || !allListed(st) {
		return last
	}
	next := plan.Sampling{Round: last.Round, Keep: pairsOf(st.Findings)}
	if trigger == triggerInterval || trigger == triggerRequested {
		next.Round++
	}
	return next
}

// allListed tells whether the findings are all checks that were not met, each with its
// full names.
func allListed(st *v1alpha1.ConnectivityExpectationStatus) bool {
	if st.Summary != nil && int(st.Summary.Violated+st.Summary.Unknown) > len(st.Findings) {
		return false
	}
	return !slices.ContainsFunc(st.Findings, func(f v1alpha1.Finding) bool {
		return strings.HasSuffix(f.Source, truncated) || strings.HasSuffix(f.Target, truncated)
	})
}

// pairsOf returns what the findings are about.
func pairsOf(findings []v1alpha1.Finding) []plan.Pair {
	var out []plan.Pair
	for _, f := range findings {
		p := plan.Pair{Path: f.Path, Source: f.Source, SourceNode: f.SourceNode, Target: f.Target, TargetNode: f.TargetNode}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// conclusions returns the pairs about which the run came to a conclusion: of all their
// checks, or one port would speak for the others.
func conclusions(verdicts []verdict.Verdict) []plan.Pair {
	open := map[plan.Pair]bool{}
	var order []plan.Pair
	for _, v := range verdicts {
		c := v.Check
		for _, target := range append([]string{c.Target}, c.Twins...) {
			p := plan.Pair{Path: c.Path, Source: c.Source, SourceNode: c.SourceNode, Target: target, TargetNode: c.TargetNode}
			if c.Question != "" {
				// All resolvers together are the target.
				p.Target, p.TargetNode = c.Question, ""
			}
			if _, ok := open[p]; !ok {
				order = append(order, p)
			}
			open[p] = open[p] || v.Observed == verdict.Inconclusive
		}
	}
	return slices.DeleteFunc(order, func(p plan.Pair) bool { return open[p] })
}

// recordCoverage takes the run into account.
func (t *tracked) recordCoverage(generation int64, verdicts []verdict.Verdict) {
	if t.coveredGeneration != generation {
		// A path of the same name may be about something else.
		t.covered, t.coveredGeneration = nil, generation
	}
	t.covered = append(t.covered, conclusions(verdicts))
	t.covered = t.covered[max(0, len(t.covered)-coverageRuns):]
}

// setCoverage writes what the last runs covered of what the paths match.
func setCoverage(st *v1alpha1.CoverageStatus, t *tracked, x *plan.Extent) {
	matched, nodesMatched := x.Counts()
	covered, nodesCovered := x.Covered(slices.Concat(t.covered...))
	st.Round, st.Runs = int32(t.sampling.Round), int32(len(t.covered))
	st.PairsMatched, st.PairsCovered, st.PairsPercent = int32(matched), int32(covered), percent(covered, matched)
	st.NodePairsMatched, st.NodePairsCovered, st.NodePairsPercent = int32(nodesMatched), int32(nodesCovered), percent(nodesCovered, nodesMatched)
}

// percent rounds down, so that 100 is all of them.
func percent(part, whole int) int32 {
	if whole == 0 {
		return 0
	}
	return int32(100 * int64(part) / int64(whole))
}
