// Package diagnosis says in words, tables and pages whether a cluster enforces
// NetworkPolicies: what "pathproof doctor" prints. It is pure: package doctor measures.
//
// What is unknown is never called enforced. A cluster is called Enforced only if every row
// of every node of the choice was concluded, none of them was NotEnforced, and on every
// node something was Enforced: nodes without anything that could have failed prove nothing.
package diagnosis

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
)

// LeftOutSampled is the reason of nodes that were left out because there are too many. The
// others are those of package canary.
const LeftOutSampled = "Sampled"

// LeftOut is a node of the choice that was not tested.
type LeftOut struct {
	Node    string `json:"node"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Implementation is a network implementation that was recognised.
type Implementation struct {
	Name string `json:"name"`
	// RecognisedBy is the label of its agent's pods, and Namespace where they are.
	RecognisedBy string `json:"recognisedBy"`
	Namespace    string `json:"namespace"`
	// Pods is the number of them.
	Pods int `json:"pods"`
	// EnforcesNothing is set for one that enforces no NetworkPolicy by itself.
	EnforcesNothing bool `json:"enforcesNothing,omitempty"`
}

// Results are those of each row of each node that was tested.
type Results map[string]map[canary.Name]canary.Result

// Findings are what was found out.
type Findings struct {
	// Server is the address of the API server, and Image that of the probes.
	Server, Image   string
	StartedAt       time.Time
	Elapsed         time.Duration
	Rounds          int
	Implementations []Implementation
	// Chosen is the number of nodes that the user has chosen; all if nothing was said.
	Chosen  int
	LeftOut []LeftOut
	Rows    []canary.Row
	Results Results
	// Notes are what there is to say beside the results.
	Notes []string
	// Obstacle says why nothing could be measured; empty if something was.
	Obstacle string
	// Advice is what to do about the obstacle.
	Advice []string
}

// Row is what was found of a feature in a direction on a node.
type Row struct {
	Feature   v1alpha1.CanaryFeature   `json:"feature"`
	Direction v1alpha1.CanaryDirection `json:"direction"`
	Verdict   canary.Verdict           `json:"verdict"`
	Reason    string                   `json:"reason,omitempty"`
}

// Node is a node that was tested.
type Node struct {
	Name string `json:"name"`
	Rows []Row  `json:"rows"`
}

// Report is the answer.
type Report struct {
	// Verdict is Enforced, NotEnforced or Unknown.
	Verdict canary.Verdict `json:"verdict"`
	// Summary says it in a sentence or two.
	Summary         string                   `json:"summary"`
	Server          string                   `json:"server,omitempty"`
	Implementations []Implementation         `json:"implementations"`
	Features        []v1alpha1.CanaryFeature `json:"features"`
	// NodesChosen counts those that were tested and those that were left out.
	NodesChosen int       `json:"nodesChosen"`
	Nodes       []Node    `json:"nodes"`
	LeftOut     []LeftOut `json:"leftOut"`
	// Untested says what could not be tested, and why.
	Untested []string `json:"untested"`
	Notes    []string `json:"notes"`
	// Next are the next steps.
	Next           []string  `json:"next"`
	Image          string    `json:"image,omitempty"`
	Rounds         int       `json:"rounds"`
	StartedAt      time.Time `json:"startedAt"`
	ElapsedSeconds float64   `json:"elapsedSeconds"`
}

// New judges what was found.
func New(f Findings) *Report {
	r := &Report{
		Server: f.Server, Image: f.Image, Rounds: f.Rounds, NodesChosen: f.Chosen, StartedAt: f.StartedAt.UTC(),
		ElapsedSeconds: float64(f.Elapsed.Round(100*time.Millisecond).Milliseconds()) / 1000,
		// Lists are never null: a reader of JSON may count on them.
		Implementations: append([]Implementation{}, f.Implementations...), LeftOut: append([]LeftOut{}, f.LeftOut...),
		Notes: append([]string{}, f.Notes...), Nodes: []Node{}, Features: []v1alpha1.CanaryFeature{}, Untested: []string{}, Next: []string{},
	}
	slices.SortFunc(r.LeftOut, func(a, b LeftOut) int { return cmp.Compare(a.Node, b.Node) })
	for _, row := range f.Rows {
		if !slices.Contains(r.Features, row.Feature) {
			r.Features = append(r.Features, row.Feature)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Results)) {
		n := Node{Name: name}
		for _, row := range f.Rows {
			res, ok := f.Results[name][row.Name()]
			if !ok {
				res = canary.Result{Verdict: canary.Unknown, Message: "it was not measured"}
			}
			n.Rows = append(n.Rows, Row{Feature: row.Feature, Direction: row.Direction, Verdict: res.Verdict, Reason: res.Message})
		}
		r.Nodes = append(r.Nodes, n)
	}
	r.Verdict = r.verdict(f.Obstacle)
	r.Summary = r.summary(f.Obstacle)
	r.Untested = append(r.Untested, r.untested(f.Obstacle)...)
	r.Next = append(r.Next, f.Advice...)
	r.Next = append(r.Next, r.next(f.Obstacle)...)
	return r
}

// count returns the number of rows with a verdict.
func (r *Report) count(v canary.Verdict) int {
	n := 0
	for i := range r.Nodes {
		n += r.Nodes[i].count(v)
	}
	return n
}

func (n *Node) count(v canary.Verdict) int {
	c := 0
	for _, row := range n.Rows {
		if row.Verdict == v {
			c++
		}
	}
	return c
}

// proven tells whether a node is known to enforce all that it supports.
func (n *Node) proven() bool {
	return n.count(canary.Enforced) > 0 && n.count(canary.NotEnforced) == 0 && n.count(canary.Unknown) == 0
}

func (r *Report) verdict(obstacle string) canary.Verdict {
	switch {
	case r.count(canary.NotEnforced) > 0:
		return canary.NotEnforced
	case obstacle != "" || len(r.Nodes) == 0 || slices.ContainsFunc(r.LeftOut, LeftOut.matters):
		return canary.Unknown
	case slices.ContainsFunc(r.Nodes, func(n Node) bool { return !n.proven() }):
		return canary.Unknown
	}
	return canary.Enforced
}

// matters tells whether a node may run pods whose policies nobody has tested. A sample is
// what the user has asked for, and on the others no probe could ever run.
func (l LeftOut) matters() bool {
	switch l.Reason {
	case LeftOutSampled, canary.LeftOutVirtual, canary.LeftOutWindows:
		return false
	}
	return true
}

// MaxRounds is how many rounds Weigh may ask for.
const MaxRounds = 3

// Weigh makes one result of those of several rounds, and tells whether one more round could
// say more, unless these are the last ones. It takes two rounds in a row to call something
// NotEnforced, and when rounds disagree, the last two decide. What they leave open is Unknown.
// A round that concludes nothing counts for nothing.
func Weigh(rounds []Results, last bool) (out Results, notes []string, again bool) {
	out = Results{}
	last = last || len(rounds) == MaxRounds
	late := map[canary.Name]bool{}
	for node, rows := range rounds[len(rounds)-1] {
		out[node] = map[canary.Name]canary.Result{}
		for name, newest := range rows {
			var concluded []canary.Result
			for _, round := range rounds {
				if res := round[node][name]; res.Verdict != canary.Unknown && res.Verdict != "" {
					concluded = append(concluded, res)
				}
			}
			res, more := weigh(concluded, newest)
			switch n := len(concluded); {
			case !more || !last:
			case n == 1:
				res = canary.Result{Verdict: canary.Unknown, Message: "it was seen in one round only: it was " + describe(res)}
			case n > 1:
				res = canary.Result{Verdict: canary.Unknown, Message: "the rounds disagree: it was " + describe(concluded[n-2]) + ", and then " + describe(res)}
			}
			if res.Verdict == canary.Enforced && concluded[0].Verdict == canary.NotEnforced {
				late[name] = true
			}
			out[node][name], again = res, again || (more && !last)
		}
	}
	if len(late) > 0 {
		notes = append(notes, "Policies take effect late: something was not enforced in the first round, several seconds after the pods had started, and was in the last two.")
	}
	return out, notes, again
}

// weigh weighs the conclusions on one row. more is set if they do not settle it.
func weigh(concluded []canary.Result, newest canary.Result) (res canary.Result, more bool) {
	switch n := len(concluded); n {
	case 0:
		return newest, true
	case 1:
		return concluded[0], concluded[0].Verdict == canary.NotEnforced
	default:
		return concluded[n-1], concluded[n-1].Verdict != concluded[n-2].Verdict
	}
}

func describe(res canary.Result) string {
	if res.Message == "" {
		return string(res.Verdict)
	}
	return string(res.Verdict) + " (" + res.Message + ")"
}
