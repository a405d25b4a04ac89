package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pathproof/pathproof/check"
	"github.com/pathproof/pathproof/config/crd"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/explain"
	"github.com/pathproof/pathproof/manifests"
	"github.com/pathproof/pathproof/schema"
)

// checkFlags are the flags of check.
type checkFlags struct {
	input
	output, selector, clusterDNS string
	all, withCluster             bool
}

func newCheck(s streams) *cobra.Command {
	var f checkFlags
	cmd := &cobra.Command{
		Use:   "check -f PATH...",
		Short: "Compare expectations with policies",
		Long: `check compares every ConnectivityExpectation of the manifests with what their
policies say, for all pods that it selects.

With --with-cluster they are checked as they would be in the cluster of the
kubeconfig, once the manifests are applied: together with everything else that is
there, the expectations included. The cluster is only read.

Exit codes: 0 all of it holds, 1 policies drifted from what is declared, 2 bad
input, 3 something cannot be determined.`,
		Example: `  pathproof check -f manifests/
  kustomize build overlays/production | pathproof check -f - -o junit > report.xml
  pathproof check --with-cluster -f change.yaml`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runCheck(cmd.Context(), s, &f) },
	}
	f.flags(cmd)
	f.clusterFlags(cmd)
	flags := cmd.Flags()
	flags.Lookup("namespace").Usage = `Check the expectations of this namespace only. It is also that of objects that name none (default: check all; "default", or that of the context with --with-cluster).`
	flags.BoolVar(&f.withCluster, "with-cluster", false, "Lay the manifests over what the cluster of the kubeconfig holds. Without -f, check the cluster as it is.")
	flags.BoolVarP(&f.all, "all-namespaces", "A", false, "Check the expectations of all namespaces, although -n is given.")
	flags.StringVarP(&f.selector, "selector", "l", "", "Check the expectations with these labels only.")
	flags.StringVarP(&f.output, "output", "o", "table", "Output format: table, json, junit or sarif.")
	flags.StringVar(&f.clusterDNS, "cluster-dns", manifests.DefaultClusterDNS,
		"Service that pods resolve names with, as NAMESPACE/NAME. The default is assumed to exist if the manifests lack it.")
	return cmd
}

// options turns flags into what to check.
func (f *checkFlags) options() (check.Options, error) {
	var o check.Options
	if err := oneOf("-o", f.output, "table", "json", "junit", "sarif"); err != nil {
		return o, err
	}
	if !f.all {
		o.Namespace = f.namespace
	}
	selector, err := labels.Parse(f.selector)
	if err != nil {
		return o, invalid("-l %q is no label selector (%v): write one such as app=web", f.selector, err)
	}
	o.Selector = selector
	namespace, name, ok := strings.Cut(f.clusterDNS, "/")
	if !ok || namespace == "" || name == "" {
		return o, invalid("--cluster-dns %q is no Service: write NAMESPACE/NAME, as in %s", f.clusterDNS, manifests.DefaultClusterDNS)
	}
	o.ClusterDNS = types.NamespacedName{Namespace: namespace, Name: name}
	return o, nil
}

func runCheck(ctx context.Context, s streams, f *checkFlags) error {
	o, err := f.options()
	if err != nil {
		return err
	}
	validator := compileSchema()
	in, held, err := f.readFor(s)
	if err != nil {
		return err
	}
	o.Held = held
	f.warn(s, in)
	r, err := check.Run(ctx, in, validator, o)
	if err != nil {
		return err
	}
	for _, n := range r.Notes[len(in.Notes):] {
		s.say("warning: " + n)
	}
	for _, p := range r.Problems[len(in.Problems):] {
		s.say("error: " + p)
	}
	text, err := render(r, f.output, s)
	if err != nil {
		return err
	}
	if _, err := s.out.Write(text); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return exit(r.ExitCode())
}

// readFor reads the manifests, over the cluster if that is asked for. It returns the
// problems of what the cluster holds without them, too.
func (f *checkFlags) readFor(s streams) (*manifests.Result, []evaluator.Problem, error) {
	if !f.withCluster {
		in, err := f.readFiles(s)
		return in, nil, err
	}
	c, err := f.readCluster(true)
	if err != nil {
		return nil, nil, err
	}
	alone, err := f.overlay(s, c, nil)
	if err != nil {
		return nil, nil, err
	}
	_, held := evaluator.Compile(alone.Snapshot.Snapshot)
	if len(f.files) == 0 {
		return alone, held, nil
	}
	in, err := f.overlay(s, c, f.files)
	return in, held, err
}

// readFiles reads the manifests alone.
func (f *checkFlags) readFiles(s streams) (*manifests.Result, error) {
	for _, name := range []string{"kubeconfig", "context", "as", "request-timeout"} {
		if f.cmd.Flags().Changed(name) {
			return nil, invalid("--%s names a cluster, which check asks only if told to: write --with-cluster, too", name)
		}
	}
	if len(f.files) == 0 {
		return nil, invalid("no manifests are named: write -f FILE, -f FOLDER or -f - for the standard input, or --with-cluster to check the cluster as it is")
	}
	return f.read(s, f.clusterDNS)
}

// compileSchema compiles the CRD's rules while the manifests are read: that takes
// longer than everything else of a small check.
func compileSchema() func() (check.Validator, error) {
	type answer struct {
		v   *schema.Validator
		err error
	}
	done := make(chan answer, 1)
	go func() {
		v, err := schema.Parse(crd.ConnectivityExpectations)
		done <- answer{v, err}
	}()
	return func() (check.Validator, error) {
		a := <-done
		return a.v, a.err
	}
}

func render(r *check.Report, output string, s streams) ([]byte, error) {
	switch output {
	case "json":
		return r.JSON()
	case "junit":
		return r.JUnit()
	case "sarif":
		return r.SARIF(version())
	}
	if len(r.Rows) == 0 {
		return nil, nil
	}
	return []byte(r.Table(explain.Style{Color: s.color})), nil
}
