package explain

import (
	"fmt"
	"strings"
)

// tierText goes through the cluster-wide policies of a tier, in the order in which
// they are asked.
func tierText(b *strings.Builder, title string, policies []*ClusterPolicy) {
	if len(policies) == 0 {
		return
	}
	fmt.Fprintf(b, "  %s:\n", title)
	for _, p := range policies {
		p.text(b)
	}
}

func (p *ClusterPolicy) text(b *strings.Builder) {
	b.WriteString("  " + p.Name)
	if p.Priority != nil {
		fmt.Fprintf(b, ", priority %d", *p.Priority)
	}
	if p.NotReached != "" {
		fmt.Fprintf(b, ", is not asked: %s\n", p.NotReached)
		return
	}
	b.WriteString("\n")
	rest := len(p.Rules)
	for i := range p.Rules {
		if p.Rules[i].Answer == NotReached {
			rest = i
			break
		}
		p.Rules[i].text(b)
	}
	switch last := len(p.Rules) - 1; {
	case rest == last:
		fmt.Fprintf(b, "    rule %d is not reached\n", last)
	case rest < last:
		fmt.Fprintf(b, "    rules %d to %d are not reached\n", rest, last)
	}
	if p.Note != "" {
		fmt.Fprintf(b, "    %s\n", p.Note)
	}
}

func (r *ClusterRule) text(b *strings.Builder) {
	title := ""
	if r.Title != "" {
		title = r.Title + ": "
	}
	words := map[string]string{Matches: "matches", MayMatch: "may match", DoesNotMatch: "does not match"}
	fmt.Fprintf(b, "    rule %d (%s%s) %s: %s\n", r.Index, title, r.Text, words[r.Answer], strings.Join(r.Why, "; and "))
}
