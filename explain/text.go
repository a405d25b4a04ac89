package explain

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Style wraps words that stand out; the zero value leaves them plain.
type Style struct {
	// Color is set for terminals.
	Color bool
}

// Word colours a word by what it means: open, closed or neither.
func (s Style) Word(word string) string {
	if !s.Color {
		return word
	}
	code := "33"
	switch word {
	case "Allowed", "Holds", "opened", Allows:
		code = "32"
	case "Denied", "Drift", "closed":
		code = "31"
	}
	return "\x1b[" + code + "m" + word + "\x1b[0m"
}

// Text writes answers for people.
func Text(out io.Writer, answers []Answer, style Style) error {
	var b strings.Builder
	for i, a := range answers {
		if i > 0 {
			b.WriteString("\n")
		}
		a.text(&b, style)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func (a *Answer) text(b *strings.Builder, style Style) {
	fmt.Fprintf(b, "%s -> %s %s: %s\n", a.From, a.To, a.Port, style.Word(a.Verdict))
	if a.Reason != "" {
		fmt.Fprintf(b, "  %s\n", reason(a.Rule, a.Reason))
	}
	if len(a.Assumed) > 0 {
		fmt.Fprintf(b, "  This holds for a network implementation with %s.\n", strings.Join(a.Assumed, ", "))
	}
	if a.Egress.Subject == "" {
		return
	}
	b.WriteString("\n")
	a.Egress.text(b, "Egress from", "egress", style)
	b.WriteString("\n")
	a.Ingress.text(b, "Ingress to", "ingress", style)
	for _, c := range a.Change {
		b.WriteString("\n" + c + "\n")
	}
}

func reason(rule, text string) string {
	if rule == "" {
		return text
	}
	return text + " (rule " + rule + ")"
}

func (d *Direction) text(b *strings.Builder, title, section string, style Style) {
	fmt.Fprintf(b, "%s %s: %s\n", title, d.Subject, style.Word(d.Verdict))
	if d.Reason != "" {
		fmt.Fprintf(b, "  %s\n", reason(d.Rule, d.Reason))
	}
	for _, line := range d.ClusterWide {
		b.WriteString("  " + line + "\n")
	}
	tierText(b, "The Admin tier comes before NetworkPolicies", d.Admin)
	d.networkPolicies(b, section)
	tierText(b, "The Baseline tier is for pods that no NetworkPolicy isolates", d.Baseline)
}

// networkPolicies goes through the NetworkPolicies.
func (d *Direction) networkPolicies(b *strings.Builder, section string) {
	switch {
	case len(d.Policies) == 0 && d.Decided && !d.baselineDecides():
		b.WriteString("  NetworkPolicies are not asked.\n")
		return
	case len(d.Policies) == 0 && d.Reason != "":
		return
	case !d.IsPod:
		b.WriteString("  It is no pod, so no NetworkPolicy applies to it.\n")
		return
	case len(d.Policies) == 0 && len(d.Admin)+len(d.Baseline) > 0:
		fmt.Fprintf(b, "  No NetworkPolicy selects it for %s.\n", section)
		return
	case len(d.Policies) == 0:
		fmt.Fprintf(b, "  No NetworkPolicy selects it for %s, so nothing is closed.\n", section)
		return
	}
	fmt.Fprintf(b, "  %s for %s. %s\n", selects(len(d.Policies)), section, d.ofRules())
	for _, p := range d.Policies {
		fmt.Fprintf(b, "  %s selects pods %s\n", p.Name, p.Selector)
		if len(p.Rules) == 0 {
			fmt.Fprintf(b, "    has no %s rule, and so allows nothing\n", section)
		}
		for _, r := range p.Rules {
			r.text(b)
		}
	}
}

// baselineDecides tells whether it is the Baseline tier that has decided.
func (d *Direction) baselineDecides() bool {
	return slices.ContainsFunc(d.Baseline, func(p *ClusterPolicy) bool { return p.NotReached == "" })
}

func (r *Rule) text(b *strings.Builder) {
	words := map[string]string{Allows: "allows it", MayAllow: "may allow it", DoesNotAllow: "does not allow it"}
	fmt.Fprintf(b, "    rule %d (%s) %s", r.Index, r.Text, words[r.Answer])
	for i, w := range r.Why {
		if i == 0 {
			b.WriteString(": " + w)
		} else {
			b.WriteString("; and " + w)
		}
	}
	b.WriteString("\n")
}

func selects(n int) string {
	if n == 1 {
		return "1 NetworkPolicy selects it"
	}
	return fmt.Sprintf("%d NetworkPolicies select it", n)
}

// ofRules says how many rules allow the flow.
func (d *Direction) ofRules() string {
	count := map[string]int{}
	rules := 0
	for _, p := range d.Policies {
		rules += len(p.Rules)
		for _, r := range p.Rules {
			count[r.Answer]++
		}
	}
	allowing, open := count[Allows], count[MayAllow]
	switch {
	case rules == 0:
		return "There is no rule."
	case rules == 1 && allowing == 1:
		return "The only rule allows this connection."
	case rules == 1 && open == 1:
		return "The only rule may allow this connection."
	case rules == 1:
		return "The only rule does not allow this connection."
	case allowing == 0 && open > 0:
		return fmt.Sprintf("None of %d rules allows this connection for certain.", rules)
	case allowing == 0:
		return fmt.Sprintf("None of %d rules allows this connection.", rules)
	case allowing == 1:
		return fmt.Sprintf("1 of %d rules allows this connection, which is enough.", rules)
	}
	return fmt.Sprintf("%d of %d rules allow this connection; one is enough.", allowing, rules)
}
