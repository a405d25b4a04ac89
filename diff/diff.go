// Package diff compares the paths of workloads that two states of a cluster
// leave open: the one before a change of manifests, and the one after it.
//
// It compares all ports of all protocols, with few questions: ports that no policy
// tells apart have the same answer, and so have pods that no policy tells apart,
// which the evaluator's Table finds. The steps are
//
//	pair     the pods of both sides, by name, or else by workload: those of a
//	         Deployment have other names after every change
//	divide   all ports into classes, of which one port is asked (ports.go)
//	compare  the tables of both sides, class by class
//	say      what changed as rows between workloads, each with its reasons
//
// Addresses outside of the cluster are divided like ports, into regions of which
// one address is asked (addresses.go).
//
// A workload that only one side has opens and closes no path: it is named apart.
package diff

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
)

// Change is what happened to a path.
type Change string

// What can happen to a path.
const (
	Opened Change = "Opened"
	Closed Change = "Closed"
	// Clouded: it was allowed or denied, and is Undefined now.
	Clouded Change = "BecameUndefined"
	// Settled: it was Undefined, and is allowed or denied now.
	Settled Change = "NoLongerUndefined"
)

// order is that of the report: what matters most comes first.
var order = map[Change]int{Opened: 0, Closed: 1, Clouded: 2, Settled: 3}

// Row is a change of the paths from one workload to another, or between a workload
// and addresses outside of the cluster.
type Row struct {
	Change Change `json:"change"`
	// From and To are workloads, or ranges of addresses.
	From string `json:"from"`
	To   string `json:"to"`
	// Ports are all that the row is about, as TCP/80 or TCP/8000-8099.
	Ports []string `json:"ports"`
	// Declared are those of them that containers of the target declare.
	Declared []string `json:"declared,omitempty"`
	// Before and After are Allowed, Denied or Undefined.
	Before    string `json:"before"`
	WhyBefore string `json:"whyBefore"`
	After     string `json:"after"`
	WhyAfter  string `json:"whyAfter"`
	// Pairs counts the pairs of pods that the row is about, and Of those of the two
	// workloads: fewer if their pods differ in labels, or among their own.
	Pairs int `json:"podPairs"`
	Of    int `json:"ofPodPairs"`

	ranges []flow.PortRange
}

// Report is what a change of manifests changes.
type Report struct {
	Rows []Row `json:"rows"`
	// New and Removed are workloads that only one side has.
	New     []string `json:"new,omitempty"`
	Removed []string `json:"removed,omitempty"`
	// Undefined counts the pairs of workloads with paths that are Undefined on both
	// sides, so that it cannot be said whether they changed.
	Undefined int `json:"undefinedOnBothSides"`
	// Unmodelled are kinds of policy that were not evaluated.
	Unmodelled []string `json:"unmodelled,omitempty"`
	Notes      []string `json:"notes,omitempty"`
}

// Side is one of the two states.
type Side struct {
	Snapshot evaluator.Snapshot
	// Engine is compiled from the snapshot.
	Engine *evaluator.Engine
}

// Workload is what pods belong to.
type Workload struct {
	Namespace, Kind, Name string
}

// Compare compares two states. The function tells the workload of a pod.
func Compare(before, after Side, workloadOf func(*corev1.Pod) Workload) *Report {
	classes := portClasses(&before.Snapshot, &after.Snapshot)
	c := &comparison{
		before: newSide(before, classes), after: newSide(after, classes),
		ports: classes, rows: map[rowKey]*Row{}, report: &Report{Rows: []Row{}},
	}
	c.meet(workloadOf)
	c.undefined = newPairSet(len(c.workloads))
	c.between()
	c.within()
	c.outside(regions(&before.Snapshot, &after.Snapshot))
	return c.finish()
}

// Count returns how many rows are about a change.
func (r *Report) Count(change Change) int {
	n := 0
	for i := range r.Rows {
		if r.Rows[i].Change == change {
			n++
		}
	}
	return n
}

// ExitCode returns 1 if a path was opened or closed, 3 if nothing is known to be but
// something became Undefined, ceased to be or was not evaluated, and 0 if no path
// changed.
func (r *Report) ExitCode() int {
	switch {
	case r.Count(Opened)+r.Count(Closed) > 0:
		return 1
	case len(r.Rows) > 0 || len(r.Unmodelled) > 0:
		return 3
	}
	return 0
}

// JSON renders the report for machines.
func (r *Report) JSON() ([]byte, error) {
	out := struct {
		*Report
		Summary map[Change]int `json:"summary"`
	}{r, map[Change]int{}}
	for change := range order {
		out.Summary[change] = r.Count(change)
	}
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the report: %w", err)
	}
	return append(text, '\n'), nil
}

// changeOf names what happened between two verdicts; empty if nothing did.
func changeOf(before, after evaluator.Verdict) Change {
	switch {
	case before == after:
		return ""
	case after == evaluator.Undefined:
		return Clouded
	case before == evaluator.Undefined:
		return Settled
	case after == evaluator.Allowed:
		return Opened
	}
	return Closed
}

// compareRows orders rows by change, then by name and port.
func compareRows(a, b Row) int {
	return cmp.Or(
		cmp.Compare(order[a.Change], order[b.Change]), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To),
		slices.CompareFunc(a.ranges, b.ranges, comparePorts), cmp.Compare(a.WhyBefore, b.WhyBefore), cmp.Compare(a.WhyAfter, b.WhyAfter),
	)
}
