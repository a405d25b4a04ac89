// Package matrix asks about every pair of pods, and draws the answers as a truth
// table: sources are its rows, targets its columns.
//
// Pods of one workload that no policy tells apart share a row, so that the table is
// about what people deploy. Each target is asked about at its own ports. All
// verdicts come from the evaluator's table of them; its decisions, which have the
// reasons, are asked for where a reason is shown, one for each cell and port.
package matrix

import (
	"cmp"
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/explain"
	"github.com/pathproof/pathproof/flow"
)

// Pod is a pod of the snapshot that the engine was compiled from.
type Pod struct {
	*corev1.Pod
	// Kind and Workload name what made the pod, such as Deployment and web. A pod
	// that nothing made is of kind Pod and has its own name.
	Kind, Workload string
}

// KindPod is the kind of a pod that no workload made.
const KindPod = "Pod"

// Row is a source and a target: the pods of a workload that no policy tells apart.
type Row struct {
	// Namespace, Kind and Workload are those of the pods.
	Namespace, Kind, Workload string
	// Name is short, and the only one of its kind in the namespace.
	Name string
	// Pods are the names of the pods, sorted.
	Pods []string
	// Ports are what the row is asked about as a target, sorted.
	Ports []flow.Port
	// Assumed is set where no container declares a port, so that DefaultPort is asked.
	Assumed bool

	// members are the positions of the pods, and asked those of the ports, in the
	// evaluator's table.
	members, asked []int
	// address is that of the first pod; it may be empty.
	address string
	// twin is set for the only pod of a workload, which may have several: it is a
	// second one like it. The verdicts between the two are in own.
	twin *flow.Endpoint
	own  []evaluator.Verdict
}

// String returns namespace/name.
func (r *Row) String() string { return r.Namespace + "/" + r.Name }

// Matrix is the truth table. Every row is a column, too. It is for one goroutine at a
// time, because it remembers reasons.
type Matrix struct {
	Rows []Row
	// Asked is what was asked of all targets, in words; empty if each was asked at its
	// own ports.
	Asked string
	// Ended counts pods that were left out because they have ended.
	Ended int

	engine *evaluator.Engine
	table  *evaluator.Table
	ends   []flow.Endpoint
	// sentences are the reasons so far.
	sentences map[sentence]string
}

// ErrNoPods is the error of a table that would be empty.
var ErrNoPods = errors.New("there are no pods to make a table of")

// New makes the table of some pods, at the ports that are wanted or, if there are
// none, at those that each target declares.
func New(engine *evaluator.Engine, pods []Pod, wanted []Wanted) (*Matrix, error) {
	m := &Matrix{Asked: words(wanted), engine: engine, sentences: map[sentence]string{}}
	running := make([]Pod, 0, len(pods))
	for _, p := range pods {
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			m.Ended++
			continue
		}
		running = append(running, p)
	}
	if len(running) == 0 {
		return nil, ErrNoPods
	}
	slices.SortFunc(running, func(a, b Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Workload, b.Workload),
			cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	ports, asked, err := choosePorts(running, wanted)
	if err != nil {
		return nil, err
	}
	for _, p := range running {
		m.ends = append(m.ends, flow.Endpoint{Namespace: p.Namespace, Pod: p.Name})
	}
	m.table = engine.Table(m.ends, ports)
	m.group(running, ports, asked, len(wanted) == 0)
	return m, nil
}

// State is what a cell shows.
type State uint8

// The states of a cell.
const (
	// NotAsked: the target has none of the ports in question.
	NotAsked State = iota
	// Allowed and Denied: that is the verdict at every port.
	Allowed
	Denied
	// Undefined: that is the verdict at one port at least. It outranks the others, for
	// it must not look like an answer.
	Undefined
	// Mixed: some ports are allowed, and others denied.
	Mixed
	// states is their number.
	states
)

// String returns the state in a word.
func (s State) String() string {
	return [...]string{"not asked", "allowed", "denied", "undefined", "mixed"}[s]
}

// stateOf is the state of a cell whose only verdict this is.
func stateOf(v evaluator.Verdict) State {
	switch v {
	case evaluator.Allowed:
		return Allowed
	case evaluator.Denied:
		return Denied
	case evaluator.Undefined:
	}
	return Undefined
}

// Verdict returns that of the flow from a row to one of the ports of another. On the
// diagonal it is about two pods of the row; about a second one like it, where a
// workload has one pod; and otherwise about the traffic of a pod to itself.
func (m *Matrix) Verdict(from, to, port int) evaluator.Verdict {
	source, target := &m.Rows[from], &m.Rows[to]
	switch {
	case from == to && len(source.members) > 1:
		return m.table.Verdict(source.members[0], source.members[1], target.asked[port])
	case from == to && source.twin != nil:
		return source.own[port]
	}
	return m.table.Verdict(source.members[0], target.members[0], target.asked[port])
}

// State returns what the cell of a source and a target shows.
func (m *Matrix) State(from, to int) State {
	state := NotAsked
	for port := range m.Rows[to].Ports {
		switch s := stateOf(m.Verdict(from, to, port)); {
		case s == Undefined:
			return Undefined
		case state == NotAsked:
			state = s
		case state != s:
			state = Mixed
		}
	}
	return state
}

// Counts is how many cells have a state.
type Counts [states]int

// Count counts the cells by their state.
func (m *Matrix) Count() Counts {
	var c Counts
	for from := range m.Rows {
		for to := range m.Rows {
			c[m.State(from, to)]++
		}
	}
	return c
}

// Why says in a line why policies allow or deny the flow, or leave it undefined.
func (m *Matrix) Why(from, to, port int) string {
	d := m.engine.Decide(m.flow(from, to, port))
	if d.Verdict == evaluator.Undefined {
		// It names the pods, and is of no use to any other cell.
		return explain.Short(d)
	}
	key := sentence{d.Verdict, partOf(&d.Egress), partOf(&d.Ingress)}
	why, ok := m.sentences[key]
	if !ok {
		why = explain.Short(d)
		m.sentences[key] = why
	}
	return why
}

// sentence is what a reason is made of. Decisions share what they point to, so that
// few sentences do for many cells.
type sentence struct {
	verdict         evaluator.Verdict
	egress, ingress part
}

// part is what a direction adds to a sentence.
type part struct {
	verdict             evaluator.Verdict
	tier                evaluator.Tier
	allowedBy, deniedBy *evaluator.RuleRef
	isolating           *evaluator.PolicyRef
	policies            int
	reason              string
}

func partOf(d *evaluator.DirectionDecision) part {
	var first *evaluator.PolicyRef
	if len(d.Isolating) > 0 {
		first = &d.Isolating[0]
	}
	return part{d.Verdict, d.Tier, d.AllowedBy, d.DeniedBy, first, len(d.Isolating), d.Reason}
}

// flow is what a verdict is about, by the first pods of the rows.
func (m *Matrix) flow(from, to, port int) flow.Flow {
	source, target := &m.Rows[from], &m.Rows[to]
	f := flow.Flow{
		From: m.ends[source.members[0]], To: m.ends[target.members[0]],
		Protocol: target.Ports[port].Protocol, Port: target.Ports[port].Number,
	}
	if from == to && len(source.members) > 1 {
		f.To = m.ends[source.members[1]]
	} else if from == to && source.twin != nil {
		f.From = *source.twin
	}
	return f
}
