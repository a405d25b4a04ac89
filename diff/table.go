package diff

import (
	"fmt"
	"strings"

	"github.com/pathproof/pathproof/explain"
)

// words are what changes are called in a table.
var words = map[Change]string{Opened: "opened", Closed: "closed", Clouded: "became undefined", Settled: "no longer undefined"}

// Table renders the report for people: the changes, the workloads that only one
// side has, and a line of counts.
func (r *Report) Table(style explain.Style) string {
	var b strings.Builder
	if len(r.Rows) > 0 {
		b.WriteString(r.changes(style) + "\n")
	}
	for _, w := range r.New {
		b.WriteString("new: " + w + "\n")
	}
	for _, w := range r.Removed {
		b.WriteString("removed: " + w + "\n")
	}
	if len(r.New)+len(r.Removed) > 0 {
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "%d opened, %d closed, %d became undefined, %d no longer undefined", r.Count(Opened), r.Count(Closed), r.Count(Clouded), r.Count(Settled))
	if r.Undefined > 0 {
		fmt.Fprintf(&b, "; between %d pairs of workloads something is undefined before and after", r.Undefined)
	}
	b.WriteString("\n")
	return b.String()
}

// changes renders the rows, each with its reasons below it: they are too long to
// stand beside each other.
func (r *Report) changes(style explain.Style) string {
	rows := [][]string{{"CHANGE", "FROM", "TO", "PORTS"}}
	for i := range r.Rows {
		row := &r.Rows[i]
		ports := short(row.ranges)
		if len(row.Declared) > 0 && strings.Join(row.Declared, ", ") != ports {
			ports += " (declared: " + strings.Join(row.Declared, ", ") + ")"
		}
		to := row.To
		if row.Pairs < row.Of {
			to += fmt.Sprintf(" (%d of %d pairs of pods)", row.Pairs, row.Of)
		}
		rows = append(rows, []string{words[row.Change], row.From, to, ports})
	}
	var b strings.Builder
	i := 0
	for line := range strings.Lines(style.Columns(rows, 0)) {
		b.WriteString(line)
		if i > 0 {
			row := &r.Rows[i-1]
			fmt.Fprintf(&b, "  before: %s: %s\n  after:  %s: %s\n", row.Before, row.WhyBefore, row.After, row.WhyAfter)
		}
		i++
	}
	return b.String()
}
