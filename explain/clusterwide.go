package explain

import "github.com/pathproof/pathproof/evaluator"

// clusterWide says what the cluster-wide policies do about one direction, and
// whether one of them decides.
func clusterWide(d evaluator.DirectionDecision) (lines []string, decided bool) {
	if d.PassedBy != nil {
		lines = append(lines, d.PassedBy.Describe()+" leaves it to the next tier.")
	}
	switch {
	case d.DeniedBy != nil:
		lines, decided = append(lines, d.DeniedBy.Describe()+" denies it"+when(d.Tier)), true
	case d.AllowedBy != nil && d.AllowedBy.IsClusterWide():
		lines, decided = append(lines, d.AllowedBy.Describe()+" allows it"+when(d.Tier)), true
	}
	return lines, decided
}

// when says why a tier had its say.
func when(t evaluator.Tier) string {
	switch t {
	case evaluator.TierAdmin:
		return ", before any NetworkPolicy is asked (Admin tier)."
	case evaluator.TierBaseline:
		return ", since no NetworkPolicy isolates the pod (Baseline tier)."
	case evaluator.TierNone, evaluator.TierNetworkPolicy:
	}
	return "."
}
