package check

import (
	"fmt"

	"github.com/pathproof/pathproof/explain"
)

// Table renders the report for people: one row for each comparison, and a line of
// counts.
func (r *Report) Table(style explain.Style) string {
	rows := [][]string{{"PATH", "FROM", "TO", "PORT", "DECLARED", "PREDICTED", "RESULT", "WHY"}}
	for _, row := range r.Rows {
		rows = append(rows, []string{row.Path, row.From, row.To, row.Port, row.Declared, row.Predicted, string(row.Result), row.Why})
	}
	const result = 6
	return style.Columns(rows, result) +
		fmt.Sprintf("\n%d checks: %d hold, %d drift, %d undetermined\n", len(r.Rows), r.Count(Holds), r.Count(Drift), r.Count(Undetermined))
}
