package explain

import (
	"slices"

	"github.com/pathproof/pathproof/evaluator"
)

// assumed lists the assumptions without which the answer would be another.
func (x *explainer) assumed(d evaluator.Decision) []string {
	all := x.snapshot.Profile.Assumptions()
	if len(all) == 0 || !x.changes(d, nil) {
		return nil
	}
	var out []string
	for i := range all {
		if x.changes(d, slices.Delete(slices.Clone(all), i, i+1)) {
			out = append(out, all[i])
		}
	}
	if len(out) == 0 {
		// Each of several is enough.
		return all
	}
	return out
}

// withoutAssumptions explains as if nothing was assumed.
func (x *explainer) withoutAssumptions() *explainer {
	y := *x
	y.few.Profile = evaluator.Profile{}
	return &y
}

// changes tells whether the verdicts are others under these assumptions.
func (x *explainer) changes(d evaluator.Decision, assumptions []string) bool {
	s := x.snapshot
	// They are some of those that the snapshot has, so that they can be read.
	s.Profile, _ = evaluator.ParseAssumptions(assumptions)
	engine, _ := evaluator.Compile(s)
	other := engine.Decide(x.f)
	return d.Verdict != other.Verdict || d.Egress.Verdict != other.Egress.Verdict || d.Ingress.Verdict != other.Ingress.Verdict
}
