package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	// Kubeconfigs may ask for any of the ways to log in that kubectl knows.
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/pathproof/pathproof/cluster"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/manifests"
)

// input holds the flags of commands that read manifests, and those of commands that
// can read a cluster.
type input struct {
	files       []string
	namespace   string
	ignoreKinds []string
	assume      []string
	// kubeconfig is nil for commands that never talk to a cluster.
	kubeconfig *genericclioptions.ConfigFlags
	cmd        *cobra.Command
}

func (i *input) flags(cmd *cobra.Command) {
	i.cmd = cmd
	f := cmd.Flags()
	f.StringArrayVarP(&i.files, "filename", "f", nil, "File or folder of manifests, or - for the standard input; may be repeated. Folders are read recursively.")
	f.StringVarP(&i.namespace, "namespace", "n", "", `Namespace of objects that name none (default "default").`)
	f.StringSliceVar(&i.ignoreKinds, "ignore-policy-kinds", nil, "Kinds of policy that are taken to decide nothing, as KIND or KIND.GROUP, separated by commas.")
	f.StringSliceVar(&i.assume, "assume", nil, "What the network implementation does where the API leaves it open, as KEY=true|false, separated by commas, or cni=NAME, or cni=none: "+
		strings.Join(evaluator.AssumptionKeys(), ", ")+". May be repeated.")
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json")
}

// clusterFlags adds the flags that choose a cluster, which share the namespace.
func (i *input) clusterFlags(cmd *cobra.Command) {
	i.kubeconfig = clusterFlags(cmd)
	// It has its flag already.
	i.kubeconfig.Namespace = &i.namespace
	cmd.Flags().Lookup("namespace").Usage = `Namespace of names and objects without one (default "default", or that of the context if a cluster is asked).`
}

// read reads the manifests or, for a command that can, the cluster if there are
// none. It says on the error stream what was skipped and assumed, and what is wrong.
func (i *input) read(s streams, clusterDNS string) (*manifests.Result, error) {
	switch {
	case len(i.files) > 0:
		return i.load(i.files, i.options(s, clusterDNS))
	case i.kubeconfig == nil:
		return nil, invalid("no manifests are named: write -f FILE, -f FOLDER or -f - for the standard input")
	}
	c, err := i.readCluster(false)
	if err != nil {
		return nil, err
	}
	return i.overlay(s, c, nil)
}

// load reads manifests, and assumes of the network implementation what was told or
// what is known of it.
func (i *input) load(files []string, o manifests.Options) (*manifests.Result, error) {
	implementation, err := evaluator.ParseImplementation(i.assume)
	if err != nil {
		return nil, invalid("--assume: %v", err)
	}
	r := manifests.Read(files, o)
	r.Assume(implementation)
	return r, nil
}

func (i *input) options(s streams, clusterDNS string) manifests.Options {
	return manifests.Options{Namespace: i.namespace, IgnoredKinds: i.ignoreKinds, Stdin: s.in, ClusterDNS: clusterDNS}
}

// overlay lays manifests over a cluster.
func (i *input) overlay(s streams, c *manifests.Cluster, files []string) (*manifests.Result, error) {
	o := i.options(s, "")
	o.Cluster, o.Namespace = c, i.currentNamespace()
	return i.load(files, o)
}

// readCluster reads the cluster that the flags name.
func (i *input) readCluster(expectations bool) (*manifests.Cluster, error) {
	config, err := restConfig(i.kubeconfig, "no manifests and no cluster are named: write -f FILE or -f FOLDER for manifests, or --kubeconfig FILE for a cluster")
	if err != nil {
		return nil, err
	}
	c, err := cluster.Read(i.cmd.Context(), config, cluster.Options{Expectations: expectations})
	if err != nil {
		return nil, invalid("%v", err)
	}
	return c, nil
}

// clusterFlags adds those of kubectl's flags that choose a cluster and a user.
func clusterFlags(cmd *cobra.Command) *genericclioptions.ConfigFlags {
	all := genericclioptions.NewConfigFlags(true)
	f := &genericclioptions.ConfigFlags{KubeConfig: all.KubeConfig, Context: all.Context, Impersonate: all.Impersonate, Timeout: all.Timeout}
	f.AddFlags(cmd.Flags())
	_ = cmd.MarkFlagFilename("kubeconfig")
	return f
}

// restConfig returns the configuration of the cluster that the flags name. none is what to
// say if they name none.
func restConfig(flags *genericclioptions.ConfigFlags, none string) (*rest.Config, error) {
	raw, err := flags.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return nil, invalid("reading the kubeconfig: %v", err)
	}
	// kubectl would ask localhost:8080 then, which says nothing about what is missing.
	if len(raw.Contexts) == 0 && len(raw.Clusters) == 0 && os.Getenv("KUBERNETES_SERVICE_HOST") == "" {
		return nil, invalid("%s", none)
	}
	config, err := flags.ToRESTConfig()
	if err != nil {
		if clientcmd.IsContextNotFound(err) || errors.Is(err, os.ErrNotExist) {
			return nil, invalid("%v: kubectl config get-contexts lists what there is", err)
		}
		return nil, invalid("reading the kubeconfig: %v", err)
	}
	return config, nil
}

// currentNamespace is the one of names without one: that of -n, or of the context
// if a cluster is asked.
func (i *input) currentNamespace() string {
	if i.kubeconfig != nil && i.namespace == "" {
		if namespace, _, err := i.kubeconfig.ToRawKubeConfigLoader().Namespace(); err == nil {
			return namespace
		}
	}
	return cmp.Or(i.namespace, "default")
}

// warn says what a prediction leaves out.
func (i *input) warn(s streams, r *manifests.Result) {
	for _, p := range r.Problems {
		s.say("error: " + p.String())
	}
	for _, k := range r.Unmodelled() {
		s.say(fmt.Sprintf("warning: %s: not evaluated, so that what they could decide is undefined; if they decide nothing, say --ignore-policy-kinds %s", k, k.Kind))
	}
	for _, n := range r.Notes {
		s.say("note: " + n)
	}
	var skipped []string
	for _, k := range r.Skipped {
		if k.Hint != "" {
			s.say(fmt.Sprintf("note: %s is a %s, which is not applied: only the files beside it are read; to have it applied: %s", k.First, k.Kind, k.Hint))
		} else if !k.Policy || !slices.Contains(r.Unmodelled(), k) {
			skipped = append(skipped, fmt.Sprintf("%d %s", k.Count, k.Kind))
		}
	}
	if len(skipped) > 0 {
		s.say("note: skipped " + strings.Join(skipped, ", "))
	}
}
