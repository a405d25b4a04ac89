package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/manifests"
	"github.com/pathproof/pathproof/matrix"
)

// matrixFlags are the flags of matrix.
type matrixFlags struct {
	input
	output, selector string
	ports            []string
	all              bool
}

// matrixOutputs are the values of -o.
var matrixOutputs = []string{"table", "json", "csv", "html", "svg"}

func newMatrix(s streams) *cobra.Command {
	var f matrixFlags
	cmd := &cobra.Command{
		Use:   "matrix [-f PATH...]",
		Short: "Show which workloads may connect to which",
		Long: `matrix asks about every pair of workloads, and shows the answers as a truth table:
sources are its rows, targets its columns. Pods of one workload share a row as long
as no policy tells them apart.

Each target is asked about the ports that its containers declare, or about TCP/80
if they declare none. --port asks all targets about the same ports.

With -f the manifests are asked, without it the cluster of the kubeconfig.

The exit code is 0 for a table, 2 for bad input, and 3 for a table in which a
verdict is Undefined.`,
		Example: `  pathproof matrix -f manifests/
  pathproof matrix -f manifests/ -n production --port http -o html > production.html`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return runMatrix(s, &f) },
	}
	f.flags(cmd)
	f.clusterFlags(cmd)
	flags := cmd.Flags()
	flags.Lookup("namespace").Usage = `Show the pods of this namespace only. It is also that of objects that name none (default: show all; "default").`
	flags.BoolVarP(&f.all, "all-namespaces", "A", false, "Show the pods of all namespaces, although -n is given.")
	flags.StringVarP(&f.selector, "selector", "l", "", "Show the pods with these labels only.")
	flags.StringArrayVar(&f.ports, "port", nil, "Port to ask all targets about: a number or a name, after a protocol if it is not TCP, as in 80, http or UDP/53; may be repeated.")
	flags.StringVarP(&f.output, "output", "o", "table", "Output format: table, json, csv, html or svg.")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(matrixOutputs, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// matrixQuery says which pods to show, and what to ask about.
type matrixQuery struct {
	namespace string
	selector  labels.Selector
	ports     []matrix.Wanted
}

// query turns flags into a query.
func (f *matrixFlags) query() (q matrixQuery, err error) {
	if err := oneOf("-o", f.output, matrixOutputs...); err != nil {
		return q, err
	}
	if !f.all {
		q.namespace = f.namespace
	}
	if q.selector, err = labels.Parse(f.selector); err != nil {
		return q, invalid("-l %q is no label selector (%v): write one such as app=web", f.selector, err)
	}
	for _, text := range f.ports {
		protocol, port, err := portArgument(text)
		if err != nil {
			return q, err
		}
		if w := (matrix.Wanted{Protocol: protocol, Port: port}); !slices.Contains(q.ports, w) {
			q.ports = append(q.ports, w)
		}
	}
	return q, nil
}

// choose returns the pods of the query, with their workloads.
func (q *matrixQuery) choose(r *manifests.Result) []matrix.Pod {
	var out []matrix.Pod
	for _, p := range r.Snapshot.Pods {
		if (q.namespace != "" && p.Namespace != q.namespace) || !q.selector.Matches(labels.Set(p.Labels)) {
			continue
		}
		kind, name := manifests.Workload(p)
		out = append(out, matrix.Pod{Pod: p, Kind: kind, Workload: name})
	}
	return out
}

func runMatrix(s streams, f *matrixFlags) error {
	q, err := f.query()
	if err != nil {
		return err
	}
	r, err := f.read(s, "")
	if err != nil {
		return err
	}
	f.warn(s, r)
	if len(r.Problems) > 0 {
		return exit(exitInvalid)
	}
	engine, problems := evaluator.Compile(r.Snapshot.Snapshot)
	for _, p := range problems {
		s.say("warning: " + p.String())
	}
	m, err := matrix.New(engine, q.choose(r), q.ports)
	switch {
	case errors.Is(err, matrix.ErrNoPods) && len(r.Snapshot.Pods) > 0:
		return invalid("none of the %d pods in the input is chosen: write another -n or -l, or -A", len(r.Snapshot.Pods))
	case err != nil:
		return invalid("%v", err)
	}
	f.remark(s, m)
	if err := writeMatrix(s, m, f.output); err != nil {
		return err
	}
	if m.Count()[matrix.Undefined] > 0 || len(r.Unmodelled()) > 0 {
		return exit(exitUndetermined)
	}
	return nil
}

// remark says what is left out of the table, and what was assumed for it.
func (f *matrixFlags) remark(s streams, m *matrix.Matrix) {
	if m.Ended > 0 {
		s.say(fmt.Sprintf("note: pods that have ended are left out: %d", m.Ended))
	}
	var assumed []string
	for i := range m.Rows {
		if m.Rows[i].Assumed {
			assumed = append(assumed, m.Rows[i].String())
		}
	}
	const most = 5
	if n := len(assumed); n > most {
		assumed = append(assumed[:most], fmt.Sprintf("and %d more", n-most))
	}
	if len(assumed) > 0 {
		s.say(fmt.Sprintf("note: no port is declared by %s: asked about %s (--port asks about others)", strings.Join(assumed, ", "), matrix.DefaultPort))
	}
}

func writeMatrix(s streams, m *matrix.Matrix, output string) error {
	var err error
	switch output {
	case "json":
		err = m.JSON(s.out)
	case "csv":
		err = m.CSV(s.out)
	case "html":
		err = m.HTML(s.out)
	case "svg":
		err = m.SVG(s.out)
	default:
		err = m.Table(s.out, matrix.TextStyle{Color: s.color, Width: terminalWidth(s)})
	}
	var big *matrix.TooBigError
	if errors.As(err, &big) {
		return invalid("%v: choose with -n or -l, or write -o csv or -o json", big)
	}
	if err != nil {
		return fmt.Errorf("writing the table: %w", err)
	}
	return nil
}

// terminalWidth returns the width of the terminal that output goes to, and 0 if it
// goes to none.
func terminalWidth(s streams) int {
	f, ok := s.out.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}
