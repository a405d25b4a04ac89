package evaluator

import "github.com/pathproof/pathproof/flow"

// Table holds the verdicts between pods: each of them as a source, each as a
// target, at each of a number of ports.
type Table struct {
	ports    int
	groups   int
	groupOf  []int
	verdicts []Verdict
}

// Table decides about all flows between the pods, which are named by their position
// in the lists.
func (e *Engine) Table(pods []flow.Endpoint, ports []flow.Port) *Table {
	t := &Table{ports: len(ports), groups: len(pods)}
	for i, from := range pods {
		t.groupOf = append(t.groupOf, i)
		for _, to := range pods {
			for _, p := range ports {
				t.verdicts = append(t.verdicts, e.Decide(flow.Flow{From: from, To: to, Protocol: p.Protocol, Port: p.Number}).Verdict)
			}
		}
	}
	return t
}

// Verdict returns that of the flow between two pods at a port.
func (t *Table) Verdict(from, to, port int) Verdict {
	return t.verdicts[(from*t.groups+to)*t.ports+port]
}

// Group returns a number from 0 to Groups()-1. Pods with the same number have the
// same verdicts, as a source and as a target, save for the traffic to themselves.
func (t *Table) Group(pod int) int { return t.groupOf[pod] }

// Groups returns the number of groups.
func (t *Table) Groups() int { return t.groups }
