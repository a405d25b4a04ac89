package matrix

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// TextStyle is how a table is written for a terminal.
type TextStyle struct {
	// Color is set for terminals that have colours.
	Color bool
	// Width is that of the terminal; a table that is wider is continued below. Zero
	// means that lines may be of any length.
	Width int
}

// maxRemarks bounds what is said below a table.
const maxRemarks = 20

// Table writes the table for people. Columns have the numbers of the rows.
func (m *Matrix) Table(out io.Writer, style TextStyle) error {
	w := bufio.NewWriter(out)
	counts, lines := m.Count(), m.subtitle()
	fmt.Fprintf(w, "%s.\n%s\n", m.title(), strings.Join(lines[:], " "))
	t := textTable{m: m, w: w, style: style, number: len(strconv.Itoa(len(m.Rows)))}
	t.measure()
	for first := 0; first < len(m.Rows); {
		last := t.fit(first)
		_ = w.WriteByte('\n')
		t.block(first, last)
		first = last + 1
	}
	_ = w.WriteByte('\n')
	for i, s := range counts.legend() {
		if i > 0 {
			_, _ = w.WriteString("   ")
		}
		fmt.Fprintf(w, "%s %d %s", style.paint(s), counts[s], s)
	}
	_ = w.WriteByte('\n')
	list, more := m.remarks(maxRemarks)
	for i, r := range list {
		if i == 0 {
			_ = w.WriteByte('\n')
		}
		fmt.Fprintf(w, "%s %s\n", style.paint(r.state), r)
		for k := range r.answers {
			fmt.Fprintf(w, "    %s\n", r.answers[k].String())
		}
	}
	if more > 0 {
		fmt.Fprintf(w, "and %d more cells: -o csv has the reasons of all\n", more)
	}
	return w.Flush()
}

// paint writes the glyph of a state, with its colour.
func (s TextStyle) paint(state State) string {
	code := map[State]string{Allowed: "32", Denied: "31", Mixed: "33", Undefined: "35"}[state]
	if !s.Color || code == "" {
		return glyphs[state]
	}
	return "\x1b[" + code + "m" + glyphs[state] + "\x1b[0m"
}

// textTable writes the parts of a table.
type textTable struct {
	m     *Matrix
	w     *bufio.Writer
	style TextStyle
	// number, name and ports are the widths of what is in front of the cells.
	number, name, ports int
	// painted has the glyphs, so that they are not made for every cell.
	painted [states]string
}

// portsHead is the head of the ports of a row, which it has as a target.
const portsHead = "AS TARGET"

func (t *textTable) measure() {
	for i := range t.m.Rows {
		r := &t.m.Rows[i]
		t.name = max(t.name, utf8.RuneCountInString(r.label()))
		t.ports = max(t.ports, utf8.RuneCountInString(r.portLabel()))
	}
	t.name = max(t.name, len("SOURCE"))
	t.ports = max(t.ports, len(portsHead))
	if t.m.Asked != "" {
		t.ports = -3 // the same for all: no column
	}
	for s := range states {
		t.painted[s] = t.style.paint(s)
	}
}

// lead is the width of what is in front of the cells.
func (t *textTable) lead() int { return 2 + t.number + 1 + t.name + 2 + t.ports + 1 }

// bar tells whether a namespace begins at a column.
func (t *textTable) bar(column, first int) bool {
	return column > first && t.m.Rows[column].Namespace != t.m.Rows[column-1].Namespace
}

// fit returns the last column that has room beside the first.
func (t *textTable) fit(first int) int {
	if t.style.Width <= 0 {
		return len(t.m.Rows) - 1
	}
	width, last := t.lead(), first
	for c := first; c < len(t.m.Rows); c++ {
		width += 2
		if t.bar(c, first) {
			width += 2
		}
		if c > first && width > t.style.Width {
			break
		}
		last = c
	}
	return last
}

// block writes all rows with some of the columns. The numbers of columns stand
// upright, so that a column is as narrow as a glyph.
func (t *textTable) block(first, last int) {
	for digit := range t.number {
		source, target := "", ""
		if digit == t.number-1 {
			source, target = "SOURCE", portsHead
		}
		line := t.pad("", 2+t.number+1) + t.pad(source, t.name)
		if t.ports > 0 {
			line += "  " + t.pad(target, t.ports) + " "
		}
		for c := first; c <= last; c++ {
			if t.bar(c, first) {
				line += " |"
			}
			line += " " + fmt.Sprintf("%*d", t.number, c+1)[digit:digit+1]
		}
		_, _ = t.w.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	for _, s := range t.m.namespaces() {
		_, _ = t.w.WriteString(s.namespace + "\n")
		for r := s.first; r <= s.last; r++ {
			t.row(r, first, last)
		}
	}
}

func (t *textTable) row(r, first, last int) {
	row := &t.m.Rows[r]
	fmt.Fprintf(t.w, "  %*d %s", t.number, r+1, t.pad(row.label(), t.name))
	if t.ports > 0 {
		_, _ = t.w.WriteString("  " + t.pad(row.portLabel(), t.ports) + " ")
	}
	for c := first; c <= last; c++ {
		if t.bar(c, first) {
			_, _ = t.w.WriteString(" |")
		}
		_, _ = t.w.WriteString(" ")
		_, _ = t.w.WriteString(t.painted[t.m.State(r, c)])
	}
	_ = t.w.WriteByte('\n')
}

// pad fills up with spaces. Names have one column for each rune.
func (t *textTable) pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
}
