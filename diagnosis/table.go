package diagnosis

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
)

// mostColumns bounds the columns of the table. Nodes with the same results share one.
const mostColumns = 5

// column are nodes with the same results.
type column struct {
	nodes []*Node
	cells []cell
}

// cell is what was found of a feature on a node, in both directions.
type cell struct {
	text    string
	verdict canary.Verdict
}

// The words of cells. They tell the verdicts apart without any colour.
var cellWords = map[canary.Verdict]string{canary.Enforced: "yes", canary.NotEnforced: "NO", canary.Unsupported: "unsupported", canary.Unknown: "?"}

var cellColors = map[canary.Verdict]string{canary.Enforced: "\x1b[32m", canary.NotEnforced: "\x1b[1;31m", canary.Unknown: "\x1b[33m", canary.Unsupported: "\x1b[2m"}

// cell says in a word what a feature is on a node, or in one for each direction.
func (n *Node) cell(f v1alpha1.CanaryFeature) cell {
	var in, out canary.Verdict
	for _, row := range n.Rows {
		switch {
		case row.Feature != f:
		case row.Direction == v1alpha1.DirectionIngress:
			in = row.Verdict
		default:
			out = row.Verdict
		}
	}
	if in == out {
		return cell{cellWords[in], in}
	}
	return cell{"ingress " + cellWords[in] + ", egress " + cellWords[out], canary.Worse(in, out)}
}

// columns gathers the nodes with the same results, those that are worst first.
func (r *Report) columns() []column {
	var out []column
	for i := range r.Nodes {
		c := column{nodes: []*Node{&r.Nodes[i]}}
		for _, f := range r.Features {
			c.cells = append(c.cells, r.Nodes[i].cell(f))
		}
		if j := slices.IndexFunc(out, func(o column) bool { return slices.Equal(o.cells, c.cells) }); j >= 0 {
			out[j].nodes = append(out[j].nodes, c.nodes...)
			continue
		}
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(a, b column) int {
		return b.nodes[0].count(canary.NotEnforced) - a.nodes[0].count(canary.NotEnforced)
	})
	return out
}

func (c column) names() []string {
	var out []string
	for _, n := range c.nodes {
		out = append(out, n.Name)
	}
	return out
}

func (c column) head() string {
	if names := strings.Join(c.names(), ", "); len(c.nodes) <= 3 && len(names) <= 40 {
		return names
	}
	return fmt.Sprintf("%d nodes", len(c.nodes))
}

// Table writes the report for people. color asks for colours, as terminals show them.
func (r *Report) Table(out io.Writer, color bool) error {
	w := bufio.NewWriter(out)
	paint := func(v canary.Verdict, text string) string {
		if !color {
			return text
		}
		return cellColors[v] + text + "\x1b[0m"
	}
	fmt.Fprintf(w, "%s\n", paint(r.Verdict, r.Summary))
	if len(r.Nodes) > 0 || len(r.Implementations) > 0 {
		fmt.Fprintf(w, "\nNetwork:  %s\n", r.networkWords())
	}
	if len(r.Nodes) > 0 {
		fmt.Fprintf(w, "Tested:   %s\n", r.testedWords())
		r.matrix(w, paint)
	}
	for _, s := range r.sections() {
		fmt.Fprintf(w, "\n%s\n", s.title)
		for _, line := range s.lines {
			fmt.Fprintf(w, "  %s\n", line)
		}
	}
	return w.Flush()
}

// matrix writes a line for each feature.
func (r *Report) matrix(w *bufio.Writer, paint func(canary.Verdict, string) string) {
	columns := r.columns()
	left := 0
	for _, c := range columns[min(len(columns), mostColumns):] {
		left += len(c.nodes)
	}
	columns = columns[:min(len(columns), mostColumns)]
	first := len("FEATURE")
	for _, f := range r.Features {
		first = max(first, len(f))
	}
	widths := make([]int, len(columns))
	fmt.Fprintf(w, "\n%-*s", first, "FEATURE")
	for i, c := range columns {
		widths[i] = utf8.RuneCountInString(c.head())
		for _, cell := range c.cells {
			widths[i] = max(widths[i], len(cell.text))
		}
		if i == len(columns)-1 {
			widths[i] = 0
		}
		fmt.Fprintf(w, "  %-*s", widths[i], c.head())
	}
	fmt.Fprintln(w)
	for row, f := range r.Features {
		fmt.Fprintf(w, "%-*s", first, f)
		for i, c := range columns {
			text := c.cells[row].text
			fmt.Fprintf(w, "  %s%s", paint(c.cells[row].verdict, text), strings.Repeat(" ", max(0, widths[i]-len(text))))
		}
		fmt.Fprintln(w)
	}
	for _, c := range columns {
		if names := c.names(); c.head() != strings.Join(names, ", ") {
			fmt.Fprintf(w, "%s: %s\n", c.head(), strings.Join(names, ", "))
		}
	}
	if left > 0 {
		fmt.Fprintf(w, "%d more nodes have other results: -o html and -o json show them\n", left)
	}
}

func (r *Report) networkWords() string {
	if len(r.Implementations) == 0 {
		return "no implementation was recognised by its pods (docs/cni.md lists those that are)"
	}
	var out []string
	for _, i := range r.Implementations {
		text := fmt.Sprintf("%s, recognised by %d pods %s in %s", i.Name, i.Pods, i.RecognisedBy, i.Namespace)
		if i.EnforcesNothing {
			text += ", enforces no NetworkPolicy by itself"
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}

func (r *Report) testedWords() string {
	rounds := "1 round"
	if r.Rounds != 1 {
		rounds = fmt.Sprintf("%d rounds", r.Rounds)
	}
	return fmt.Sprintf("%d of %d nodes, %d features in both directions, %s, %.0f s", len(r.Nodes), r.NodesChosen, len(r.Features), rounds, r.ElapsedSeconds)
}

// section is a part of the report with a title.
type section struct {
	title string
	lines []string
}

// mostLines bounds the groups of a section.
const mostLines = 12

// sections are the reasons, and everything else there is to say below the table.
func (r *Report) sections() []section {
	var out []section
	for _, s := range []struct {
		title   string
		verdict canary.Verdict
	}{
		{"Not enforced", canary.NotEnforced}, {"Could not be found out", canary.Unknown}, {"Unsupported", canary.Unsupported},
	} {
		groups := r.groups(s.verdict)
		sec := section{title: s.title}
		for _, g := range groups[:min(len(groups), mostLines)] {
			sec.lines = append(sec.lines, r.groupWords(g)+": "+g.reason)
		}
		if more := len(groups) - len(sec.lines); more > 0 {
			sec.lines = append(sec.lines, fmt.Sprintf("and %d more: -o json has all", more))
		}
		out = append(out, sec)
	}
	out = append(out, section{"Not tested", r.Untested}, section{"Notes", r.Notes}, section{"Next steps", r.Next})
	return slices.DeleteFunc(out, func(s section) bool { return len(s.lines) == 0 })
}
