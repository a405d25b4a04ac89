// Command bench measures whole runs on a real cluster: how long they take from the
// moment in which all probe pods run, and how much processor time the machine spends on
// them, the API server and the kubelets included.
//
// It uses the lab on this machine, or the cluster of KUBECONFIG (of which it can tell
// times only). Figures of a machine that does other work, too, are about that work: the
// load average is printed with them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/pathproof/pathproof/test/testbed"
)

// namespace is where everything happens.
const namespace = "bench"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := flags.String("only", "", "run the benchmarks whose names hold this `text`")
	rounds := flags.Int("rounds", 3, "number of measured runs of each benchmark")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *rounds < 1 || flags.NArg() > 0 {
		return errors.New("-rounds wants a number above 0, and there are no arguments")
	}
	bed, err := testbed.Up(ctx, func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) })
	if err != nil {
		return err
	}
	b := &bench{bed: bed, rounds: *rounds}
	defer func() { err = errors.Join(err, b.close(context.WithoutCancel(ctx))) }()
	if bed.Lab {
		if err := bed.Heal(ctx); err != nil {
			return err
		}
		if b.usage, err = newUsage(); err != nil {
			return err
		}
	}
	if err := bed.Install(ctx); err != nil {
		return err
	}
	families, err := b.families(ctx)
	if err != nil {
		return err
	}
	found := false
	for _, w := range works(families) {
		if !strings.Contains(w.name, *only) {
			continue
		}
		found = true
		if failed := b.measure(ctx, w); failed != nil {
			// The others may have something to say all the same.
			err = errors.Join(err, fmt.Errorf("%s: %w", w.name, failed))
		}
	}
	if !found {
		return fmt.Errorf("no benchmark has %q in its name", *only)
	}
	return err
}

// bench measures works on one cluster.
type bench struct {
	bed    *testbed.Bed
	rounds int
	// usage is nil where the machine is not the cluster.
	usage *usage
}

func (b *bench) close(ctx context.Context) error {
	err := b.bed.Kubectl(ctx, "delete", "namespace", namespace, "--ignore-not-found", "--timeout=180s")
	if b.usage != nil {
		err = errors.Join(err, b.usage.close())
	}
	return errors.Join(err, b.bed.Close(ctx))
}

// measure prepares a work and prints what each of its runs took.
func (b *bench) measure(ctx context.Context, w work) error {
	fmt.Printf("\n%s\n  load average before: %s\n", w.title, loadAverage())
	if err := b.prepare(ctx, w); err != nil {
		return err
	}
	watch := newWatch(ctx, b.bed.Client)
	defer watch.stop()
	if w.resident || !w.large {
		// The first run is not measured: images and caches are cold, and pods that stay have
		// to start.
		if _, err := b.request(ctx, watch, w); err != nil {
			return err
		}
		if err := watch.quiet(ctx, w); err != nil {
			return err
		}
	}
	idle, err := b.idle(ctx)
	if err != nil {
		return err
	}
	for range b.rounds {
		r, err := b.round(ctx, watch, w, idle)
		if err != nil {
			return err
		}
		fmt.Println("  " + r.String())
	}
	fmt.Printf("  load average after: %s\n", loadAverage())
	return b.bed.Kubectl(ctx, "delete", "namespace", namespace, "--timeout=180s")
}

// result is one measured run.
type result struct {
	checks int
	// started is the time until all probe pods ran, which is none for those that stay.
	// complete is the time from there to the complete status.
	started, complete time.Duration
	// settled is the longest time until a check agreed with the prediction: more than one
	// second if packets of the first attempts were lost, since a round of attempts takes longer.
	settled time.Duration
	// cpu is what was spent until all that is left of the run is gone, and idle what is
	// spent in that time when nothing happens; nil where that is not known.
	cpu, idle *spent
	probes    peak
}

// String returns the figures for people.
func (r *result) String() string {
	s := fmt.Sprintf("complete after %.2f s", r.complete.Seconds())
	if r.started > 0 {
		s += fmt.Sprintf(", counted from when all probe pods ran, %.2f s after the request", r.started.Seconds())
	}
	if r.settled > time.Second {
		s += fmt.Sprintf("; some attempts were repeated after %.2f s", r.settled.Seconds())
	}
	if r.cpu != nil {
		perCheck := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(r.checks) }
		s += fmt.Sprintf("\n    processor time per check: the cluster %.2f ms and %.2f ms when idle, the machine %.2f ms and %.2f ms when idle",
			perCheck(r.cpu.cluster-r.idle.cluster), perCheck(r.idle.cluster), perCheck(r.cpu.machine-r.idle.machine), perCheck(r.idle.machine))
		s += "\n    of the cluster: " + r.cpu.shares(r.idle, r.checks)
	}
	if r.probes.pods > 0 {
		s += fmt.Sprintf("\n    memory of the largest of %d probes: %.1f MB", r.probes.pods, float64(r.probes.bytes)/1e6)
	}
	return s
}

// idleFor is how long the idle cluster is watched.
const idleFor = 5 * time.Second

// idle measures what is spent when nothing is asked for.
func (b *bench) idle(ctx context.Context) (*spent, error) {
	if b.usage == nil {
		return nil, nil
	}
	before, err := b.usage.read()
	if err != nil {
		return nil, err
	}
	select {
	case <-time.After(idleFor):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	after, err := b.usage.read()
	if err != nil {
		return nil, err
	}
	return after.since(before), nil
}

// round measures one run.
func (b *bench) round(ctx context.Context, watch *watch, w work, idle *spent) (*result, error) {
	var before *spent
	var err error
	if b.usage != nil {
		if before, err = b.usage.read(); err != nil {
			return nil, err
		}
	}
	stop := func() peak { return peak{} }
	if w.large && b.usage != nil {
		stop = watchProbes()
	}
	start := time.Now()
	r, err := b.request(ctx, watch, w)
	if err != nil {
		return nil, err
	}
	r.probes = stop()
	if err := watch.quiet(ctx, w); err != nil {
		return nil, err
	}
	if b.usage != nil {
		after, err := b.usage.read()
		if err != nil {
			return nil, err
		}
		r.cpu, r.idle = after.since(before), idle.over(time.Since(start), idleFor)
	}
	return r, nil
}
