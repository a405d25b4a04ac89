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

// namedEnds bounds how many workloads are named on one line.
const namedEnds = 4

// line is a line of a table: a row, or several that differ in one end only.
type line struct {
	*Row
	from, to string
}

// lines gathers rows: a change of one policy is about as many sources, or targets, as
// there are workloads.
func (r *Report) lines() []line {
	lines := make([]line, 0, len(r.Rows))
	for i := range r.Rows {
		row := &r.Rows[i]
		l := line{row, row.From, row.To}
		if row.Pairs < row.Of {
			l.to += fmt.Sprintf(" (%d of %d pairs of pods)", row.Pairs, row.Of)
		}
		lines = append(lines, l)
	}
	lines = gather(lines, func(l *line) (end, other *string) { return &l.from, &l.to })
	return gather(lines, func(l *line) (end, other *string) { return &l.to, &l.from })
}

// gather makes one line of those that differ in an end, if they are many.
func gather(lines []line, ends func(*line) (end, other *string)) []line {
	type key struct {
		change                   Change
		other, ports             string
		before, why, after, then string
	}
	groups := map[key][]int{}
	of := make([]key, len(lines))
	for i := range lines {
		l := &lines[i]
		_, other := ends(l)
		of[i] = key{l.Change, *other, portsText(l.Row), l.Before, l.WhyBefore, l.After, l.WhyAfter}
		groups[of[i]] = append(groups[of[i]], i)
	}
	var out []line
	for i := range lines {
		switch group := groups[of[i]]; {
		case len(group) <= namedEnds:
			out = append(out, lines[i])
		case group[0] == i:
			var names []string
			for _, j := range group[:namedEnds-1] {
				end, _ := ends(&lines[j])
				names = append(names, *end)
			}
			l := lines[i]
			end, _ := ends(&l)
			*end = fmt.Sprintf("%s and %d more", strings.Join(names, ", "), len(group)-len(names))
			out = append(out, l)
		}
	}
	return out
}

// portsText names the ports of a row, and those of a range that the target declares.
func portsText(row *Row) string {
	ports := short(row.ranges)
	if len(row.Declared) > 0 && strings.Join(row.Declared, ", ") != ports {
		ports += " (declared: " + strings.Join(row.Declared, ", ") + ")"
	}
	return ports
}

// changes renders the rows, each with its reasons below it: they are too long to
// stand beside each other.
func (r *Report) changes(style explain.Style) string {
	lines := r.lines()
	rows := [][]string{{"CHANGE", "FROM", "TO", "PORTS"}}
	for i := range lines {
		l := &lines[i]
		rows = append(rows, []string{words[l.Change], l.from, l.to, portsText(l.Row)})
	}
	var b strings.Builder
	i := 0
	for text := range strings.Lines(style.Columns(rows, 0)) {
		b.WriteString(text)
		if i > 0 {
			l := &lines[i-1]
			fmt.Fprintf(&b, "  before: %s: %s\n  after:  %s: %s\n", l.Before, l.WhyBefore, l.After, l.WhyAfter)
		}
		i++
	}
	return b.String()
}
