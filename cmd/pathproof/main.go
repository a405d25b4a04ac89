// The pathproof command predicts paths from manifests, from what a cluster holds, or
// from both. Of its commands, doctor alone sends packets, from pods that it creates and
// removes; the others change no cluster. All are wiring: packages manifests, cluster,
// check, diff, explain and doctor do the work.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Exit codes, the same for every command.
const (
	exitHolds = iota
	exitFails
	exitInvalid
	exitUndetermined
)

func main() {
	// Nearly everything that is allocated stays until the end, so that collecting
	// it often is a waste: a run of a few milliseconds would spend a third on it.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], streams{in: os.Stdin, out: os.Stdout, err: os.Stderr, color: isTerminal(os.Stdout)})
	stop()
	os.Exit(code)
}

// streams is what a command is connected to.
type streams struct {
	in       io.Reader
	out, err io.Writer
	// color is set where output may be coloured.
	color bool
}

// isTerminal tells whether a file shows colours. NO_COLOR turns them off, as
// no-color.org asks for.
func isTerminal(f *os.File) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

// exitError ends a command with a code. Its message may be empty: then everything
// was said already.
type exitError struct {
	code    int
	message string
}

// Error returns the message.
func (e *exitError) Error() string { return e.message }

// invalid is the error of a command that cannot be run as it was called.
func invalid(format string, args ...any) error {
	return &exitError{code: exitInvalid, message: fmt.Sprintf(format, args...)}
}

// exit is the error of a command that ended with a code and said why; nil for 0.
func exit(code int) error {
	if code == exitHolds {
		return nil
	}
	return &exitError{code: code}
}

// run runs a command line and returns its exit code.
func run(ctx context.Context, args []string, s streams) int {
	root := newRoot(s)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitHolds
	}
	// Whatever cobra itself refuses is a mistake in the call.
	code, message := exitInvalid, err.Error()
	if e := (*exitError)(nil); errors.As(err, &e) {
		code, message = e.code, e.message
	}
	if message != "" {
		_, _ = fmt.Fprintln(s.err, "error:", message)
	}
	return code
}

func newRoot(s streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "pathproof",
		Short: "Predict network paths from manifests and clusters, and test enforcement",
		Long: `pathproof predicts which network paths policies leave open: those of manifests (-f)
or, where a command can, those of the cluster of the kubeconfig, which it only
reads. Only doctor does more: it finds out with real packets whether a cluster
enforces policies at all.

Exit codes: 0 it holds, 1 it does not, 2 bad input or usage, 3 it could not be
determined.`,
		SilenceErrors: true, SilenceUsage: true, SuggestionsMinimumDistance: 2,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			hint := "see pathproof --help"
			if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
				hint = "did you mean " + strings.Join(similar, " or ") + "?"
			}
			return invalid("there is no command %q: %s", args[0], hint)
		},
	}
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return invalid("%v: see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(newPredict(s), newCheck(s), newExplain(s), newDiff(s), newMatrix(s), newDoctor(s), newVersion(s))
	return root
}

func newVersion(s streams) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(s.out, "pathproof", version())
			return err
		},
	}
}

// version returns what the go command recorded: a tag for an installed module, or
// a pseudo-version with the commit for a build from a checkout.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version + " " + info.GoVersion
}

// noArgs refuses arguments, which are mostly files without -f.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return invalid("%s takes no arguments, and got %q: write -f before each file or folder", cmd.CommandPath(), args[0])
	}
	return nil
}

// say writes a line to the error stream.
func (s streams) say(line string) { _, _ = fmt.Fprintln(s.err, line) }

// oneOf checks the value of -o.
func oneOf(flag, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return invalid("%s %q is unknown: write %s", flag, value, strings.Join(allowed, ", "))
}
