//go:build linux

// Command probe is the one binary in the probe image. It runs a plan of checks
// and leaves the report where the kubelet picks it up, runs one plan after the other
// in a pod that stays, or answers the probes of others.
//
// Exit codes: 0 when a report was written (whatever is in it: the container must
// not be restarted) or when serving or staying was ended by a signal; 1 when the report
// could not be written or a port could not be opened; 2 for wrong usage; 3 when
// this kernel lacks a protocol to listen on, which no restart can change.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/pathproof/pathproof/probe"
	"github.com/pathproof/pathproof/probe/wire"
)

const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnsupported = 3
)

const usage = `usage: probe COMMAND [FLAGS]

commands:
  run      make the checks of a plan once and write a report
  stay     run every new plan in the pod's annotations and print the reports
  serve    answer probes on a set of ports
  version  print the version

Run "probe COMMAND -h" for the flags of a command.
`

const rawSCTPUsage = "speak SCTP over a raw socket, which takes CAP_NET_RAW, where the kernel has no SCTP"

// version is set by the linker; without it the module's version is printed.
var version = ""

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	p := program{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	code := p.main(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// program is the command with its streams.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
}

func (p program) main(ctx context.Context, args []string) int {
	if len(args) == 0 {
		_, _ = io.WriteString(p.stderr, usage)
		return exitUsage
	}
	switch command, rest := args[0], args[1:]; command {
	case "run":
		return p.run(ctx, rest)
	case "stay":
		return p.stay(ctx, rest)
	case "serve":
		return p.serve(ctx, rest)
	case "version":
		_, _ = fmt.Fprintf(p.stdout, "probe %s (wire version %d)\n", release(), wire.Version)
		return exitOK
	case "help", "-h", "-help", "--help":
		_, _ = io.WriteString(p.stdout, usage)
		return exitOK
	default:
		p.logf("unknown command %q", command)
		_, _ = io.WriteString(p.stderr, usage)
		return exitUsage
	}
}

// parse parses the flags of a command. ok is false when the command has to end
// with the code.
func (p program) parse(flags *flag.FlagSet, args []string) (code int, ok bool) {
	flags.SetOutput(p.stderr)
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitOK, false
	case err != nil:
		return exitUsage, false
	case flags.NArg() > 0:
		p.logf("unexpected argument %q", flags.Arg(0))
		return exitUsage, false
	}
	return exitOK, true
}

func (p program) run(ctx context.Context, args []string) int {
	flags := flag.NewFlagSet("probe run", flag.ContinueOnError)
	planPath := flags.String("plan", wire.PlanPath, "`file` with the plan, - for standard input")
	wait := flags.Duration("plan-wait", planWait, "longest `time` to wait for a plan that is not there yet")
	reportPath := flags.String("report", "/dev/termination-log", "`file` to write the report to, - for standard output")
	healthPort := flags.Uint("health-port", 0, "TCP `port` on which /ready answers the kubelet's readiness probes, which the report counts; 0 for none")
	raw := flags.Bool("raw-sctp", false, rawSCTPUsage)
	printReport := flags.Bool("print-report", false, "print the report to standard output, too, as soon as it is there, unless the run was cut short")
	plain := flags.Bool("json", false, "read the plan and write the report as plain JSON, for people")
	if code, ok := p.parse(flags, args); !ok {
		return code
	}
	if !p.validPort(*healthPort) {
		return exitUsage
	}
	report := p.runPlan(ctx, planSource{*planPath, *wait, *plain}, uint16(*healthPort), *raw)
	if *printReport && ctx.Err() == nil {
		p.emitter()(wire.Message{Report: &report})
	}
	if err := p.writeReport(*reportPath, *plain, report); err != nil {
		p.logf("%v", err)
		return exitFailed
	}
	return exitOK
}

// planSource says where a plan comes from.
type planSource struct {
	path string
	// wait bounds the wait for a plan that is not there yet.
	wait time.Duration
	// plain is set for plain JSON.
	plain bool
}

// runPlan always returns a report: what went wrong is in its Error.
func (p program) runPlan(ctx context.Context, source planSource, healthPort uint16, rawSCTP bool) wire.Report {
	failed := func(id string, err error) wire.Report {
		p.logf("%v", err)
		return wire.Report{Version: wire.Version, ID: id, Error: err.Error()}
	}
	runner := probe.Runner{RawSCTP: rawSCTP}
	if healthPort != 0 {
		// Before there is a plan: a kubelet that is refused would raise events.
		k, err := probe.ListenKubelet(healthPort)
		if err != nil {
			return failed("", err)
		}
		defer k.Close()
		runner.Kubelet = k
	}
	plan, err := p.readPlan(ctx, source)
	if err != nil {
		return failed(plan.ID, err)
	}
	p.logf("running %d checks of plan %s", len(plan.Checks), plan.ID)
	return runner.Run(ctx, plan)
}

func (p program) validPort(port uint) bool {
	if port > 65535 {
		p.logf("health port %d is above 65535", port)
		return false
	}
	return true
}

func (p program) logf(format string, args ...any) {
	_, _ = fmt.Fprintf(p.stderr, "probe: "+format+"\n", args...)
}

// release returns the version of this binary.
func release() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
