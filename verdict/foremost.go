package verdict

// Foremost returns the indices of at most n verdicts that are not met, in their order. The
// first of each path and cause comes before a second one of any, so that a path of many
// pairs does not hide another.
func Foremost(verdicts []Verdict, n int) []int {
	type kind struct {
		path  string
		cause Cause
	}
	seen := map[kind]bool{}
	taken := make([]bool, len(verdicts))
	left := n
	for _, again := range []bool{false, true} {
		for i, v := range verdicts {
			k := kind{v.Check.Path, v.Cause}
			if v.Met() || taken[i] || left == 0 || (seen[k] && !again) {
				continue
			}
			seen[k], taken[i] = true, true
			left--
		}
	}
	var out []int
	for i, t := range taken {
		if t {
			out = append(out, i)
		}
	}
	return out
}
