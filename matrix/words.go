package matrix

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
)

// glyphs tell the states apart without a colour.
var glyphs = [states]string{NotAsked: "·", Allowed: "✓", Denied: "✗", Undefined: "?", Mixed: "±"}

// shown is the order of the states in a legend.
var shown = []State{Allowed, Denied, Mixed, Undefined, NotAsked}

// meaning puts a state into words for a legend.
func meaning(s State) string {
	switch s {
	case Mixed:
		return "mixed, by port"
	case NotAsked:
		return "not asked, for lack of such a port"
	case Undefined:
		return "undefined, at a port at least"
	case Allowed, Denied, states:
	}
	return s.String()
}

// title says what the table is about.
func (m *Matrix) title() string {
	namespaces := len(m.namespaces())
	return fmt.Sprintf("Predicted paths between %s in %s", counted(len(m.Rows), "workload"), counted(namespaces, "namespace"))
}

// legend lists the states of cells with their numbers: those that occur and, since
// they explain the picture, always allowed and denied.
func (c *Counts) legend() []State {
	return slices.DeleteFunc(slices.Clone(shown), func(s State) bool {
		return c[s] == 0 && s != Allowed && s != Denied
	})
}

// subtitle says what was asked, in two lines.
func (m *Matrix) subtitle() [2]string {
	lines := [2]string{"Rows are sources, columns are targets.", "Targets are asked about the ports that they declare."}
	switch {
	case m.Asked != "":
		lines[1] = "All targets are asked about " + m.Asked + "."
	case slices.ContainsFunc(m.Rows, func(r Row) bool { return r.Assumed }):
		lines[1] = fmt.Sprintf("Targets are asked about the ports that they declare (*: none, so %s).", DefaultPort)
	}
	return lines
}

// footer says what a picture does not show.
const footer = "Point at a cell for its reason. The diagonal is about two pods of one workload, or a single pod and itself."

// counted writes a number with its noun.
func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// portWords lists ports; TCP/80, 443 for short.
func portWords(ports []flow.Port) string {
	var b strings.Builder
	for i, p := range ports {
		switch {
		case i > 0 && p.Protocol == ports[i-1].Protocol:
			fmt.Fprintf(&b, ", %d", p.Number)
		case i > 0:
			b.WriteString(", " + p.String())
		default:
			b.WriteString(p.String())
		}
	}
	return b.String()
}

// portLabel is portWords for where there is little room.
func (r *Row) portLabel() string {
	const most = 2
	switch {
	case r.Assumed:
		return "*"
	case len(r.Ports) > most+1:
		return portWords(r.Ports[:most]) + fmt.Sprintf(" +%d", len(r.Ports)-most)
	}
	return portWords(r.Ports)
}

// answer is what a cell says about some ports.
type answer struct {
	ports   []flow.Port
	verdict evaluator.Verdict
	why     string
}

// answers explains a cell; ports with one verdict for one reason are one answer.
func (m *Matrix) answers(from, to int) []answer {
	var out []answer
	for i, p := range m.Rows[to].Ports {
		v, why := m.Verdict(from, to, i), m.Why(from, to, i)
		at := slices.IndexFunc(out, func(a answer) bool { return a.verdict == v && a.why == why })
		if at < 0 {
			out = append(out, answer{verdict: v, why: why})
			at = len(out) - 1
		}
		out[at].ports = append(out[at].ports, p)
	}
	return out
}

// String renders an answer in a line.
func (a *answer) String() string {
	return portWords(a.ports) + ": " + stateOf(a.verdict).String() + " (" + a.why + ")"
}

// ends names both ends of a cell, and what the diagonal is about.
func (m *Matrix) endWords(from, to int) string {
	r := &m.Rows[from]
	switch {
	case from != to:
		return r.String() + " -> " + m.Rows[to].String()
	case len(r.Pods) > 1 || r.twin != nil:
		return r.String() + " -> another pod of it"
	}
	return r.String() + " -> itself"
}

// tooltip explains a cell in a few lines.
func (m *Matrix) tooltip(from, to int) string {
	text := m.endWords(from, to)
	answers := m.answers(from, to)
	if len(answers) == 0 {
		return text + "\n" + meaning(NotAsked)
	}
	for i := range answers {
		text += "\n" + answers[i].String()
	}
	return text
}

// sameFor is the same text for sources that are answered the same: reasons of the
// evaluator name the pod and its address where these are what is in doubt.
func (m *Matrix) sameFor(from, to int, answers []answer) string {
	text := fmt.Sprint(answers)
	text = strings.ReplaceAll(text, m.flow(from, to, 0).From.String(), "SOURCE")
	if a := m.Rows[from].address; a != "" {
		text = strings.ReplaceAll(text, a, "ADDRESS")
	}
	return text
}

// remark explains the cells of one target that say the same.
type remark struct {
	state State
	// ends names both ends of the first cell, from its source and to the target; others
	// counts the other sources.
	ends, from, to string
	others         int
	answers        []answer
}

// String names the cells.
func (r *remark) String() string {
	if r.others == 0 {
		return r.ends
	}
	return fmt.Sprintf("%s and %d more -> %s", r.from, r.others, r.to)
}

// remarks explains the cells that a glyph says too little about, those that are
// mixed or undefined. It returns how many cells are not among them, for the limit.
func (m *Matrix) remarks(limit int) (list []*remark, more int) {
	for to := range m.Rows {
		same := map[string]*remark{}
		for from := range m.Rows {
			s := m.State(from, to)
			if s != Mixed && s != Undefined {
				continue
			}
			if len(list) == limit && len(same) == 0 {
				more++ // not worth finding out why
				continue
			}
			answers := m.answers(from, to)
			key := m.sameFor(from, to, answers)
			switch r := same[key]; {
			case r != nil:
				r.others++
			case len(list) == limit:
				more++
			default:
				same[key] = &remark{state: s, ends: m.endWords(from, to), from: m.Rows[from].String(), to: m.Rows[to].String(), answers: answers}
				list = append(list, same[key])
			}
		}
	}
	return list, more
}
