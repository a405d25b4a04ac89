package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/diagnosis"
	"github.com/pathproof/pathproof/doctor"
	"github.com/pathproof/pathproof/podlog"
	"github.com/pathproof/pathproof/probepod"
)

const (
	// removal bounds the wait for what is deleted.
	removal = 90 * time.Second

	shortestDoctor = 30 * time.Second
	longestDoctor  = 30 * time.Minute
	mostNodes      = 500
)

// doctorFlags are the flags of doctor.
type doctorFlags struct {
	kubeconfig              *genericclioptions.ConfigFlags
	output, image, selector string
	nodes, features         []string
	maxNodes                int
	timeout                 time.Duration
}

// doctorOutputs are the values of -o.
var doctorOutputs = []string{"table", "json", "html"}

func newDoctor(s streams) *cobra.Command {
	var f doctorFlags
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find out whether a cluster enforces NetworkPolicies",
		Long: `doctor finds out with real packets whether the network of the cluster of the
kubeconfig enforces NetworkPolicies: on which nodes, for which features, in which
direction. It needs no operator, and leaves nothing behind.

It creates two namespaces with policies and, on each node, four small pods that
probe each other, for less than a minute if the nodes are quick to start pods. They
are removed in the end, also if it is interrupted. Other namespaces are not touched.

The exit code is 0 if everything that was tested is enforced, 1 if something is not,
2 for bad usage, and 3 if it could not be found out.`,
		Example: `  pathproof doctor
  pathproof doctor --nodes node-a,node-b --features DefaultDeny,EndPort
  pathproof doctor -o html > enforcement.html`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return invalid("%s takes no arguments, and got %q: name nodes with --nodes", cmd.CommandPath(), args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return runDoctor(cmd.Context(), s, &f) },
	}
	f.kubeconfig = clusterFlags(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&f.output, "output", "o", "table", "Output format: table, json or html.")
	flags.StringVar(&f.image, "image", releasedImage(version()), "Image of the probe pods. It has to be of the same release as this command.")
	flags.StringSliceVar(&f.nodes, "nodes", nil, "Names of nodes to test, separated by commas (default all).")
	flags.StringVarP(&f.selector, "selector", "l", "", "Test the nodes with these labels only.")
	flags.IntVar(&f.maxNodes, "max-nodes", 20, fmt.Sprintf("Test this many nodes at most: of more, the same sample every time. At most %d.", mostNodes))
	flags.StringSliceVar(&f.features, "features", nil, "Features to test, separated by commas (default all): "+strings.Join(featureNames(), ", ")+".")
	flags.DurationVar(&f.timeout, "timeout", 2*time.Minute, fmt.Sprintf("Longest time until the answer, from %s to %s. What was created is removed after it.", shortestDoctor, longestDoctor))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(doctorOutputs, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("features", cobra.FixedCompletions(featureNames(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

var release = regexp.MustCompile(`^v\d+\.\d+\.\d+$`)

// releasedImage returns the probe image of a release, and the latest for any other build.
func releasedImage(version string) string {
	tag, _, _ := strings.Cut(version, " ")
	if !release.MatchString(tag) {
		tag = "latest"
	}
	return "ghcr.io/pathproof/probe:" + tag
}

func featureNames() []string {
	var out []string
	for _, f := range canary.Features() {
		out = append(out, string(f))
	}
	return out
}

// chosenFeatures returns the features that are named, in the order of all; all if none is.
func (f *doctorFlags) chosenFeatures() ([]v1alpha1.CanaryFeature, error) {
	for _, name := range f.features {
		if !slices.ContainsFunc(featureNames(), func(n string) bool { return strings.EqualFold(n, name) }) {
			return nil, invalid("--features: there is no feature %q: write some of %s", name, strings.Join(featureNames(), ", "))
		}
	}
	return slices.DeleteFunc(canary.Features(), func(c v1alpha1.CanaryFeature) bool {
		return len(f.features) > 0 && !slices.ContainsFunc(f.features, func(n string) bool { return strings.EqualFold(n, string(c)) })
	}), nil
}

// config checks the flags and makes a configuration of them.
func (f *doctorFlags) config(s streams) (c doctor.Config, err error) {
	if err := oneOf("-o", f.output, doctorOutputs...); err != nil {
		return c, err
	}
	if _, err := labels.Parse(f.selector); err != nil {
		return c, invalid("-l %q is no label selector (%v): write one such as pool=workers", f.selector, err)
	}
	switch {
	case f.image == "":
		return c, invalid("--image is empty: name the probe image, for example --image %s", releasedImage(version()))
	case f.maxNodes < 1 || f.maxNodes > mostNodes:
		return c, invalid("--max-nodes is %d: write a number from 1 to %d", f.maxNodes, mostNodes)
	case f.timeout < shortestDoctor || f.timeout > longestDoctor:
		return c, invalid("--timeout is %s: write a time from %s to %s, for example --timeout 3m", f.timeout, shortestDoctor, longestDoctor)
	}
	features, err := f.chosenFeatures()
	if err != nil {
		return c, err
	}
	config, err := restConfig(f.kubeconfig, "no cluster is named: write --kubeconfig FILE, or set KUBECONFIG")
	if err != nil {
		return c, err
	}
	c = doctor.Config{
		Clock: clock.RealClock{}, Server: config.Host, Run: strings.ToLower(rand.Text()[:8]), Features: features, Nodes: f.nodes,
		Image:    probepod.Image{Name: f.image, PullPolicy: corev1.PullIfNotPresent},
		Selector: f.selector, MaxNodes: f.maxNodes, Timeout: f.timeout, Say: s.say, Progress: s.progress(),
	}
	return c, connect(&c, config)
}

// connect makes the clients.
func connect(c *doctor.Config, config *rest.Config) error {
	var err error
	if c.Clients, err = doctor.NewClients(config); err != nil {
		return invalid("%v", err)
	}
	// A log is followed for longer than a request may take.
	config = rest.CopyConfig(config)
	config.Timeout = 0
	if c.Logs, err = podlog.NewReader(config); err != nil {
		return invalid("%v", err)
	}
	return nil
}

// progress returns what tells what is going on, to people who watch.
func (s streams) progress() func(string) {
	if f, ok := s.err.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return func(string) {}
	}
	return func(text string) { s.say("... " + text) }
}

func runDoctor(ctx context.Context, s streams, f *doctorFlags) error {
	config, err := f.config(s)
	if err != nil {
		return err
	}
	// What reads the output may be gone by an interrupt, which goes to a whole pipeline. What
	// was created is to be removed all the same.
	signal.Ignore(syscall.SIGPIPE)
	// Lines of logs that cannot be read are told of by the report.
	ctx = klog.NewContext(ctx, klog.Logger{})
	impatient, end := secondSignal(ctx)
	defer end()
	d := doctor.New(config)
	report, examined := d.Examine(ctx)
	if examined != nil {
		s.say("interrupted: removing what was created (interrupt again to leave it)")
	}
	left := d.Delete(impatient)
	var printed error
	if report != nil {
		printed = writeReport(s, report, f.output)
	}
	if left == nil {
		config.Progress("removing the namespaces")
		waiting, cancel := context.WithTimeout(impatient, removal)
		defer cancel()
		left = d.AwaitGone(waiting)
	}
	if left != nil {
		s.say(fmt.Sprintf("error: not everything that was created is known to be gone (%v): to remove what is left: %s", reasonOf(left), d.CleanUpCommand()))
	}
	switch {
	case printed != nil:
		return &exitError{code: exitUndetermined, message: fmt.Sprintf("writing the report: %v", printed)}
	case examined != nil:
		return &exitError{code: exitUndetermined, message: "interrupted before it was found out"}
	}
	return exit(doctorCode(report))
}

// reasonOf says why something is left.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, context.Canceled):
		return "interrupted twice"
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("the cluster is still deleting it after %s", removal)
	}
	return err.Error()
}

// secondSignal returns a context that outlives the one of the command, which the first
// signal cancels: the second one does.
func secondSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		for range 2 {
			select {
			case <-signals:
			case <-out.Done():
			}
		}
		cancel()
	}()
	return out, func() { signal.Stop(signals); cancel() }
}

func writeReport(s streams, r *diagnosis.Report, output string) error {
	switch output {
	case "json":
		return r.JSON(s.out)
	case "html":
		return r.HTML(s.out)
	}
	return r.Table(s.out, s.color)
}

// doctorCode returns the exit code of a report: unknown is never 0.
func doctorCode(r *diagnosis.Report) int {
	switch r.Verdict {
	case canary.Enforced:
		return exitHolds
	case canary.NotEnforced:
		return exitFails
	default:
		return exitUndetermined
	}
}
