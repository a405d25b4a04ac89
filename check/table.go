package check

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/pathproof/pathproof/explain"
)

// Table renders the report for people: one row for each comparison, and a line of
// counts.
func (r *Report) Table(style explain.Style) string {
	cells := [][]string{{"PATH", "FROM", "TO", "PORT", "DECLARED", "PREDICTED", "RESULT", "WHY"}}
	for _, row := range r.Rows {
		cells = append(cells, []string{row.Path, row.From, row.To, row.Port, row.Declared, row.Predicted, string(row.Result), row.Why})
	}
	const result = 6
	widths := make([]int, len(cells[0]))
	for _, line := range cells {
		for i, c := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	for n, line := range cells {
		for i, c := range line {
			padding := ""
			if i < len(line)-1 {
				padding = strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c)+3)
			}
			if i == result && n > 0 {
				c = style.Word(c)
			}
			b.WriteString(c + padding)
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "\n%d checks: %d hold, %d drift, %d undetermined\n", len(r.Rows), r.Count(Holds), r.Count(Drift), r.Count(Undetermined))
	return b.String()
}
