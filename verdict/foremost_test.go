package verdict

import (
	"slices"
	"testing"
)

func TestForemostHidesNoPath(t *testing.T) {
	verdicts := make([]Verdict, 0, 8)
	for _, v := range []struct {
		path  string
		cause Cause
	}{
		{"a", EnforcementMissing}, {"a", EnforcementMissing}, {"a", EnforcementMissing}, {"b", EnforcementMissing},
		{"a", TargetSilent}, {"c", TargetSilent}, {"c", TargetSilent}, {"d", None},
	} {
		known := Verdict{Check: Check{Path: v.path}, Cause: v.cause}
		if v.cause == None {
			known.Aligned, known.Enforced, known.Satisfied = True, True, True
		}
		verdicts = append(verdicts, known)
	}
	for n, want := range [][]int{nil, {0}, {0, 3}, {0, 3, 4}, {0, 3, 4, 5}, {0, 1, 3, 4, 5}, {0, 1, 2, 3, 4, 5}, {0, 1, 2, 3, 4, 5, 6}, {0, 1, 2, 3, 4, 5, 6}} {
		if got := Foremost(verdicts, n); !slices.Equal(got, want) {
			t.Errorf("the foremost %d are %v, want %v", n, got, want)
		}
	}
}
