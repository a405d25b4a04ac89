package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pathproof/pathproof/test/lab/cluster"
	"github.com/pathproof/pathproof/test/lab/gate"
	"github.com/pathproof/pathproof/test/lab/nodad"
)

// usageError marks a mistake of the caller: exit status 2.
type usageError struct{ error }

func main() {
	switch filepath.Base(os.Args[0]) {
	case gate.PluginName:
		os.Exit(gate.Main())
	case nodad.PluginName:
		os.Exit(nodad.Main())
	}
	os.Exit(run())
}

func run() int {
	// Debian keeps nft, ip and runc where some root shells do not look.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin"); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second interrupt ends the program at once, as usual.
	context.AfterFunc(ctx, stop)

	err := rootCommand().ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if !errors.Is(err, errQuiet) {
		fmt.Fprintln(os.Stderr, "lab:", err)
	}
	var usage usageError
	var node *cluster.UnknownNodeError
	var process *cluster.UnknownProcessError
	if errors.As(err, &usage) || errors.As(err, &node) || errors.As(err, &process) {
		return 2
	}
	return 1
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "lab",
		Short:         "A real Kubernetes cluster on this machine, whose policy enforcement can be broken on purpose",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(upCommand(), downCommand(), statusCommand(), kubeconfigCommand(), assetsCommand(),
		imageCommand(), loadCommand(), unloadCommand(), stopCommand(), breakCommand(), healCommand(), modesCommand(),
		agentCommand(), externalCommand(), resolveCommand())
	for _, c := range append(root.Commands(), root) {
		args := c.Args
		c.Args = func(cmd *cobra.Command, given []string) error {
			if err := args(cmd, given); err != nil {
				return usageError{fmt.Errorf("%w; usage: %s", err, cmd.UseLine())}
			}
			return nil
		}
	}
	return root
}

// printer returns a function that writes progress to stderr, with the time
// since the start: stdout is for what a script wants to read.
func printer() func(format string, args ...any) {
	start := time.Now()
	return func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}
}
