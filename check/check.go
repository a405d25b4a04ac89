// Package check compares what expectations declare with what the policies of the
// same manifests say. It is what the operator does before it probes, without a
// cluster: resolve, predict, compare.
package check

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/explain"
	"github.com/pathproof/pathproof/manifests"
	"github.com/pathproof/pathproof/plan"
)

// Outcome is what became of one comparison.
type Outcome string

// The outcomes of a comparison.
const (
	// Holds: the policies say what was declared.
	Holds Outcome = "Holds"
	// Drift: they say the opposite.
	Drift Outcome = "Drift"
	// Undetermined: they leave it open, or there is nothing to compare.
	Undetermined Outcome = "Undetermined"
)

// Row is one comparison: a source, a target and a port of a path.
type Row struct {
	// Expectation is namespace/name.
	Expectation string `json:"expectation"`
	Path        string `json:"path"`
	From        string `json:"from"`
	To          string `json:"to"`
	// Port is protocol and port, as in TCP/80.
	Port string `json:"port,omitempty"`
	// Declared is Allow or Deny, Predicted is Allowed, Denied or Undefined.
	Declared  string  `json:"declared"`
	Predicted string  `json:"predicted"`
	Result    Outcome `json:"result"`
	Why       string  `json:"why"`
	// File and Line are where the path is declared; File is empty for one that a
	// cluster holds.
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
}

// Report is the result of a check.
type Report struct {
	Rows []Row `json:"rows"`
	// Problems are input that cannot be used.
	Problems []string `json:"problems,omitempty"`
	// Unmodelled are kinds of policy that were not evaluated.
	Unmodelled []string `json:"unmodelled,omitempty"`
	Notes      []string `json:"notes,omitempty"`
}

// Count returns how many rows have an outcome.
func (r *Report) Count(o Outcome) int {
	n := 0
	for _, row := range r.Rows {
		if row.Result == o {
			n++
		}
	}
	return n
}

// ExitCode returns 2 for bad input, 1 for drift, 3 if something is undetermined,
// and 0 if everything holds. Bad input comes first: what was not read might have
// changed any of the answers.
func (r *Report) ExitCode() int {
	switch {
	case len(r.Problems) > 0:
		return 2
	case r.Count(Drift) > 0:
		return 1
	case r.Count(Undetermined) > 0 || len(r.Unmodelled) > 0:
		return 3
	}
	return 0
}

// Validator finds what an API server would refuse in an expectation.
type Validator interface {
	Validate(ctx context.Context, object map[string]any) field.ErrorList
}

// Options say what to check.
type Options struct {
	// Namespace and Selector choose expectations; empty and nil choose all.
	Namespace string
	Selector  labels.Selector
	// ClusterDNS is the Service that names are resolved with.
	ClusterDNS types.NamespacedName
	// Held are problems of objects that a cluster holds already: what these could decide
	// is undefined, but they are no mistake of the input.
	Held []evaluator.Problem
}

// Run checks the expectations of manifests. The validator is asked for only if
// there is an expectation to validate.
func Run(ctx context.Context, in *manifests.Result, validator func() (Validator, error), o Options) (*Report, error) {
	r := &Report{Rows: []Row{}, Notes: in.Notes}
	for _, p := range in.Problems {
		r.Problems = append(r.Problems, p.String())
	}
	for _, k := range in.Unmodelled() {
		r.Unmodelled = append(r.Unmodelled, k.String())
	}
	if len(r.Problems) > 0 {
		// Answers would be about something else than what was written.
		return r, nil
	}
	engine, problems := evaluator.Compile(in.Snapshot.Snapshot)
	for _, p := range problems {
		if slices.Contains(o.Held, p) {
			r.Notes = append(slices.Clip(r.Notes), "what it could decide is undefined: "+p.String())
		} else {
			r.Problems = append(r.Problems, p.String())
		}
	}
	chosen := choose(in.Expectations, o)
	if len(chosen) == 0 {
		r.Problems = append(r.Problems, nothing(in.Expectations))
		return r, nil
	}
	v, err := validator()
	if err != nil {
		return nil, err
	}
	for i := range chosen {
		e := &chosen[i]
		if refused := validate(ctx, v, e); len(refused) > 0 {
			// What does not pass admission does not exist in a cluster.
			r.Problems = append(r.Problems, refused...)
			continue
		}
		r.Rows = append(r.Rows, rows(e, in.Snapshot, engine, o)...)
	}
	return r, nil
}

// nothing says why there is nothing to check, which must not look like success.
func nothing(all []manifests.Expectation) string {
	if len(all) == 0 {
		return "there is no ConnectivityExpectation in the input: nothing was checked"
	}
	return fmt.Sprintf("none of the %d ConnectivityExpectations in the input is chosen: write another -n or -l, or -A", len(all))
}

func choose(all []manifests.Expectation, o Options) []manifests.Expectation {
	var out []manifests.Expectation
	for _, e := range all {
		if (o.Namespace == "" || e.Object.Namespace == o.Namespace) && (o.Selector == nil || o.Selector.Matches(labels.Set(e.Object.Labels))) {
			out = append(out, e)
		}
	}
	slices.SortStableFunc(out, func(a, b manifests.Expectation) int {
		return cmp.Or(cmp.Compare(a.Object.Namespace, b.Object.Namespace), cmp.Compare(a.Object.Name, b.Object.Name))
	})
	return out
}

// validate returns what an API server would refuse, with where it is.
func validate(ctx context.Context, v Validator, e *manifests.Expectation) []string {
	if e.JSON == nil {
		return nil
	}
	name := "ConnectivityExpectation " + e.Object.Namespace + "/" + e.Object.Name
	object, err := decode(e.JSON)
	if err != nil {
		return []string{fmt.Sprintf("%s: %s: %v", e.Place, name, err)}
	}
	var out []string
	for _, err := range v.Validate(ctx, object) {
		out = append(out, fmt.Sprintf("%s: %s: %v", place(e, err.Field), name, err))
	}
	return out
}

// place returns where a field of an expectation is: on the line of its path, if it
// belongs to one.
func place(e *manifests.Expectation, name string) manifests.Place {
	out := e.Place
	for i := range e.Object.Spec.Paths {
		if p := fmt.Sprintf("spec.paths[%d]", i); name == p || strings.HasPrefix(name, p+".") {
			out.Line = cmp.Or(e.PathLines[e.Object.Spec.Paths[i].Name], out.Line)
		}
	}
	return out
}

// decode keeps integers apart from other numbers, as the API server does.
func decode(text []byte) (map[string]any, error) {
	object := map[string]any{}
	if err := utiljson.Unmarshal(text, &object); err != nil {
		return nil, err
	}
	return object, nil
}

// rows resolves, predicts and compares one expectation.
func rows(e *manifests.Expectation, s plan.Snapshot, engine *evaluator.Engine, o Options) []Row {
	object := e.Object.DeepCopy()
	// Coverage bounds what probes cost. Predictions cost nothing, so all are made.
	object.Spec.Coverage.MaxTargets = plan.MaxEdges
	resolution := plan.Resolve(plan.Input{Expectation: object, Snapshot: s, Engine: engine, ClusterDNS: o.ClusterDNS})
	order := map[string]int{}
	for i := range object.Spec.Paths {
		order[object.Spec.Paths[i].Name] = i
	}
	row := func(path string, declared v1alpha1.Expect) Row {
		return Row{
			Expectation: object.Namespace + "/" + object.Name, Path: path, Declared: string(declared),
			File: e.Place.File, Line: cmp.Or(e.PathLines[path], e.Place.Line),
		}
	}
	var out []Row
	for _, edge := range resolution.Edges {
		r := row(edge.Path, edge.Declared)
		r.From, r.To, r.Port = edge.Source.Name, edge.Target.Name, fmt.Sprintf("%s/%d", edge.Transport.Protocol(), edge.Port)
		r.compare(edge)
		out = append(out, r)
	}
	for _, x := range resolution.Obstacles {
		r := row(x.Path, x.Declared)
		r.From, r.To = x.Source, x.Target
		r.Predicted, r.Result, r.Why = evaluator.Undefined.String(), Undetermined, x.Reason+": "+x.Message
		out = append(out, r)
	}
	slices.SortStableFunc(out, func(a, b Row) int { return cmp.Compare(order[a.Path], order[b.Path]) })
	return out
}

// compare sets the outcome of a row.
func (r *Row) compare(e *plan.Edge) {
	d := e.Prediction
	r.Predicted, r.Why = d.Verdict.String(), explain.Short(d)
	want := evaluator.Denied
	if e.Declared == v1alpha1.ExpectAllow {
		want = evaluator.Allowed
	}
	switch {
	case e.Diverges():
		// Neither answer is that of all pods that the path is about.
		r.Predicted, r.Result = evaluator.Undefined.String(), Undetermined
		r.Why = fmt.Sprintf("policies select by labels that controllers set, and treat pods of %s differently: %s and %s", e.Source.Name, plan.Describe(d, e.Workload), plan.Describe(e.Workload, d))
	case d.Verdict == evaluator.Undefined:
		r.Result = Undetermined
	case d.Verdict == want:
		r.Result = Holds
	default:
		r.Result = Drift
	}
}

// JSON renders the report for machines.
func (r *Report) JSON() ([]byte, error) {
	out := struct {
		*Report
		Summary map[Outcome]int `json:"summary"`
	}{r, map[Outcome]int{Holds: r.Count(Holds), Drift: r.Count(Drift), Undetermined: r.Count(Undetermined)}}
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the report: %w", err)
	}
	return append(text, '\n'), nil
}
