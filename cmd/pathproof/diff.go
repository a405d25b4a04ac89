package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/pathproof/pathproof/diff"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/explain"
	"github.com/pathproof/pathproof/manifests"
)

// diffFlags are the flags of diff.
type diffFlags struct {
	input
	from   []string
	output string
}

func newDiff(s streams) *cobra.Command {
	var f diffFlags
	cmd := &cobra.Command{
		Use:   "diff [--from PATH...] -f PATH...",
		Short: "Show the paths that a change of manifests opens and closes",
		Long: `diff compares the paths between workloads, and between workloads and addresses
outside of the cluster, before a change and after it, at all ports.

Without --from, before is the cluster of the kubeconfig as it is, and after is the
same cluster once the manifests of -f are applied. The cluster is only read. With
--from no cluster is asked: before are the manifests of --from, and after are those
of -f, each of them complete.

Exit codes: 0 no path changes, 1 paths are opened or closed, 2 bad input, 3 some
become undefined or cease to be, or something was not evaluated.`,
		Example: `  pathproof diff -f change.yaml
  git worktree add /tmp/main main && pathproof diff --from /tmp/main/manifests -f manifests`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return runDiff(s, &f) },
	}
	f.flags(cmd)
	f.clusterFlags(cmd)
	cmd.Flags().StringArrayVar(&f.from, "from", nil, "File or folder of the manifests before the change; may be repeated. No cluster is asked then.")
	cmd.Flags().StringVarP(&f.output, "output", "o", "table", "Output format: table or json.")
	_ = cmd.MarkFlagFilename("from", "yaml", "yml", "json")
	return cmd
}

func runDiff(s streams, f *diffFlags) error {
	if err := oneOf("-o", f.output, "table", "json"); err != nil {
		return err
	}
	switch {
	case len(f.files) == 0:
		return invalid("no manifests are named: write -f FILE, -f FOLDER or -f - for the standard input")
	case slices.Contains(f.files, "-") && slices.Contains(f.from, "-"):
		return invalid("both sides cannot come from the standard input: write one of them to a file")
	}
	before, after, err := f.sides(s)
	if err != nil {
		return err
	}
	f.warn(s, after)
	if len(f.from) > 0 {
		f.warnOnce(s, before, after)
	}
	if len(before.Problems)+len(after.Problems) > 0 {
		return exit(exitInvalid)
	}
	old, oldProblems := evaluator.Compile(before.Snapshot.Snapshot)
	next, problems := evaluator.Compile(after.Snapshot.Snapshot)
	bad := false
	for _, p := range problems {
		// What a cluster holds already is no mistake of the change.
		if len(f.from) == 0 && slices.Contains(oldProblems, p) {
			s.say("warning: " + p.String())
			continue
		}
		bad = true
		s.say("error: " + p.String())
	}
	if bad {
		return exit(exitInvalid)
	}
	r := diff.Compare(diff.Side{Snapshot: before.Snapshot.Snapshot, Engine: old}, diff.Side{Snapshot: after.Snapshot.Snapshot, Engine: next}, workloadOf)
	r.Notes = after.Notes
	for _, k := range after.Unmodelled() {
		r.Unmodelled = append(r.Unmodelled, k.String())
	}
	return f.print(s, r)
}

// sides reads what is before the change and what is after it.
func (f *diffFlags) sides(s streams) (before, after *manifests.Result, err error) {
	if len(f.from) > 0 {
		o := f.options(s, "")
		if before, err = f.load(f.from, o); err != nil {
			return nil, nil, err
		}
		after, err = f.load(f.files, o)
		return before, after, err
	}
	c, err := f.readCluster(false)
	if err != nil {
		return nil, nil, err
	}
	if before, err = f.overlay(s, c, nil); err != nil {
		return nil, nil, err
	}
	after, err = f.overlay(s, c, f.files)
	return before, after, err
}

// warnOnce says of one side what was not said of the other.
func (f *diffFlags) warnOnce(s streams, r, other *manifests.Result) {
	rest := *r
	rest.Notes = slices.DeleteFunc(slices.Clone(r.Notes), func(n string) bool { return slices.Contains(other.Notes, n) })
	f.warn(s, &rest)
}

// workloadOf names what a pod belongs to.
func workloadOf(p *corev1.Pod) diff.Workload {
	kind, name := manifests.Workload(p)
	return diff.Workload{Namespace: p.Namespace, Kind: kind, Name: name}
}

func (f *diffFlags) print(s streams, r *diff.Report) error {
	text := []byte(r.Table(explain.Style{Color: s.color}))
	if f.output == "json" {
		var err error
		if text, err = r.JSON(); err != nil {
			return err
		}
	}
	if _, err := s.out.Write(text); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return exit(r.ExitCode())
}
