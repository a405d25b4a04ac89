package matrix

import (
	"bufio"
	"encoding/json"
	"io"

	"github.com/pathproof/pathproof/evaluator"
)

// jsonHead is the document without its rows of verdicts, which are written as they
// are made.
type jsonHead struct {
	// Letters says what the letters of the verdicts mean.
	Letters map[string]string `json:"letters"`
	// Cells counts the cells by what they show.
	Cells map[string]int `json:"cells"`
	// Workloads are the sources and the targets.
	Workloads []jsonRow `json:"workloads"`
}

// jsonRow is a source and a target.
type jsonRow struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Kind      string   `json:"kind"`
	Workload  string   `json:"workload"`
	Pods      []string `json:"pods"`
	Ports     []string `json:"ports"`
	// Assumed is set where the port is not declared.
	Assumed bool `json:"portAssumed,omitempty"`
}

// letters stand for verdicts.
var letters = [...]byte{evaluator.Undefined: 'U', evaluator.Allowed: 'A', evaluator.Denied: 'D'}

// JSON writes the table for machines. A source has one string: for each target, in
// the order of the workloads, one letter for each of its ports, or - if it has none
// of those that are asked about. Spaces are between the targets.
func (m *Matrix) JSON(out io.Writer) error {
	counts := m.Count()
	head := jsonHead{Letters: map[string]string{"-": NotAsked.String()}, Cells: map[string]int{}, Workloads: make([]jsonRow, len(m.Rows))}
	for v, letter := range letters {
		head.Letters[string(letter)] = evaluator.Verdict(v).String()
	}
	for s := range states {
		head.Cells[s.String()] = counts[s]
	}
	for i := range m.Rows {
		r := &m.Rows[i]
		row := jsonRow{Namespace: r.Namespace, Name: r.Name, Kind: r.Kind, Workload: r.Workload, Pods: r.Pods, Ports: []string{}, Assumed: r.Assumed}
		for _, p := range r.Ports {
			row.Ports = append(row.Ports, p.String())
		}
		head.Workloads[i] = row
	}
	w := bufio.NewWriterSize(out, 1<<16)
	if err := m.writeHead(w, &head); err != nil {
		return err
	}
	var line []byte
	for from := range m.Rows {
		line = append(line[:0], "\n    \""...)
		for to := range m.Rows {
			if to > 0 {
				line = append(line, ' ')
			}
			for i := range m.Rows[to].Ports {
				line = append(line, letters[m.Verdict(from, to, i)])
			}
			if len(m.Rows[to].Ports) == 0 {
				line = append(line, '-')
			}
		}
		line = append(line, '"')
		if from < len(m.Rows)-1 {
			line = append(line, ',')
		}
		_, _ = w.Write(line)
	}
	_, _ = w.WriteString("\n  ]\n}\n")
	return w.Flush()
}

// writeHead writes the document up to the verdicts: a workload is a line.
func (m *Matrix) writeHead(w *bufio.Writer, head *jsonHead) error {
	field := func(name string, value any) error {
		text, err := json.Marshal(value)
		_, _ = w.WriteString("  \"" + name + "\": ")
		_, _ = w.Write(text)
		return err
	}
	_, _ = w.WriteString("{\n")
	if err := field("letters", head.Letters); err != nil {
		return err
	}
	_, _ = w.WriteString(",\n")
	if err := field("cells", head.Cells); err != nil {
		return err
	}
	_, _ = w.WriteString(",\n  \"workloads\": [")
	for i, row := range head.Workloads {
		text, err := json.Marshal(row)
		if err != nil {
			return err
		}
		if i > 0 {
			_ = w.WriteByte(',')
		}
		_, _ = w.WriteString("\n    ")
		_, _ = w.Write(text)
	}
	_, _ = w.WriteString("\n  ],\n  \"verdicts\": [")
	return nil
}
