package explain

import (
	"strings"
	"unicode/utf8"
)

// Columns lines up the cells of a table, of which the first row is the head. The
// cells of one column are words that stand out.
func (s Style) Columns(rows [][]string, words int) string {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	for n, row := range rows {
		for i, c := range row {
			padding := ""
			if i < len(row)-1 {
				padding = strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c)+3)
			}
			if i == words && n > 0 {
				c = s.Word(c)
			}
			b.WriteString(c + padding)
		}
		b.WriteString("\n")
	}
	return b.String()
}
