package manifests

import "github.com/pathproof/pathproof/evaluator"

// Assume applies what is said of the network implementation, and what is known of
// the one whose agent is in the input. It is for once, after Read.
func (r *Result) Assume(i evaluator.Implementation) {
	found := i.Detect(r.Snapshot.Pods)
	if found.Note != "" {
		r.Notes = append(r.Notes, found.Note)
	}
	p := &found.Profile
	// Whether an address that was made up lies in a block says nothing: a block that
	// matches pods must not let a pod pass for it.
	for _, made := range []struct {
		up      bool
		setting *evaluator.Setting
		what    string
	}{
		{r.madePods, &p.IPBlockMatchesPods, "ipBlockMatchesPods=true is left out: pods of the manifests have no addresses that could be in an ipBlock"},
		{r.madeNodes, &p.IPBlockMatchesNodes, "ipBlockMatchesNodes=true is left out: host-network pods of the manifests have no addresses that could be in an ipBlock"},
	} {
		if made.up && *made.setting == evaluator.True {
			*made.setting = evaluator.Unset
			r.Notes = append(r.Notes, made.what)
		}
	}
	r.Snapshot.Profile = *p
}
