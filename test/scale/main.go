// Command scale runs the operator on a cluster of many nodes and measures what the canary
// costs there: requests to the API server, reconciles, processor time, memory and
// connections. API server and etcd are real, and so is the operator, which runs as a
// process of its own with the flags of its deployment. Nodes and pods are fakes (package
// kubelets).
//
// Then it lets a node stop enforcing, adds one, drains one, and lets one fall silent, and
// shows when the canary says so, and that it says nothing else. It ends with an error if
// the canary is wrong about a node, or if the operator makes 20 requests a second or more.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/pathproof/pathproof/canary"
)

// maxRequests is the bound of requests a second in steady state.
const maxRequests = 20

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	s := &simulation{}
	flags := flag.NewFlagSet("scale", flag.ContinueOnError)
	flags.IntVar(&s.nodes, "nodes", 1000, "`number` of nodes")
	flags.IntVar(&s.rounds, "intervals", 3, "`number` of intervals that steady state is measured for")
	flags.IntVar(&s.interval, "interval", 60, "the canary's interval, in `seconds`")
	events := flags.Bool("events", true, "after steady state, let nodes break, come, go and fall silent")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if s.nodes < 4 || s.rounds < 1 || flags.NArg() > 0 {
		return errors.New("-nodes wants at least 4, -intervals at least 1, and there are no arguments")
	}
	if err := s.start(ctx); err != nil {
		return errors.Join(err, s.stop(false))
	}
	defer func() { err = errors.Join(err, s.stop(err != nil && ctx.Err() == nil)) }()
	if err := s.begin(ctx); err != nil {
		return err
	}
	if err := s.steady(ctx); err != nil {
		return err
	}
	if !*events {
		return nil
	}
	return s.happen(ctx)
}

// begin creates the canary and waits until all nodes are covered.
func (s *simulation) begin(ctx context.Context) error {
	from, err := s.sample(ctx)
	if err != nil {
		return err
	}
	if err := s.createCanary(ctx); err != nil {
		return err
	}
	if _, err := s.await(ctx, 15*time.Minute, covers(s.nodes), only("")); err != nil {
		return fmt.Errorf("waiting for all nodes to be covered: %w", err)
	}
	return s.report(ctx, fmt.Sprintf("from the canary's creation to %d nodes covered", s.nodes), from)
}

// steady measures while nothing happens.
func (s *simulation) steady(ctx context.Context) error {
	// What is left of the beginning has an interval to end.
	if err := s.watch(ctx, s.every(), nil); err != nil {
		return err
	}
	from, err := s.sample(ctx)
	if err != nil {
		return err
	}
	if err := s.watch(ctx, time.Duration(s.rounds)*s.every(), func(st seen) error {
		if len(st.offenders) > 0 || !st.ready || st.covered != s.nodes {
			return fmt.Errorf("in steady state, the canary says: %s", st)
		}
		return nil
	}); err != nil {
		return err
	}
	to, err := s.sample(ctx)
	if err != nil {
		return err
	}
	s.print(fmt.Sprintf("steady state, %d intervals of %d s", s.rounds, s.interval), from, to)
	if rate := to.requestRate(from); rate >= maxRequests {
		return fmt.Errorf("%.1f requests a second, want less than %d", rate, maxRequests)
	}
	return nil
}

// happen lets nodes break, come, go and fall silent, each followed by what the canary has
// to say of it.
func (s *simulation) happen(ctx context.Context) error {
	victim, drained, silent := nodeName(s.nodes/3), nodeName(s.nodes/2), nodeName(s.nodes-1)
	for _, e := range []struct {
		what   string
		make   func() error
		until  func(seen) bool
		never  func(seen) error
		within int
	}{
		{
			"a node of them enforces nothing", func() error { s.fleet.Enforce(victim, false); return nil },
			// All rows but those of ClusterNetworkPolicy, which is not served. Of them the status lists the first.
			func(st seen) bool { return st.violations == len(canary.Rows(canary.Features())) }, only(victim), 2,
		},
		{
			"it enforces again", func() error { s.fleet.Enforce(victim, true); return nil },
			func(st seen) bool { return st.violations == 0 && st.ready }, only(victim), 2,
		},
		{
			"a node is added", func() error { return s.fleet.AddNodes(ctx, nodeName(s.nodes)) },
			covers(s.nodes + 1), only(""), 2,
		},
		{
			"a node is cordoned", func() error { return s.cordon(ctx, drained) },
			func(st seen) bool { return covers(s.nodes)(st) && st.leftOut["Cordoned"] == 1 }, only(""), 2,
		},
		{
			"a node falls silent and is not Ready", func() error { return s.fleet.SetReady(ctx, silent, false) },
			func(st seen) bool { return covers(s.nodes-1)(st) && st.leftOut["NotReady"] == 1 }, only(""), 2,
		},
	} {
		from, err := s.sample(ctx)
		if err != nil {
			return err
		}
		if err := e.make(); err != nil {
			return err
		}
		took, err := s.await(ctx, time.Duration(e.within)*s.every(), e.until, e.never)
		if err != nil {
			return fmt.Errorf("%s: %w", e.what, err)
		}
		if err := s.report(ctx, fmt.Sprintf("%s: said after %.1f s", e.what, took.Seconds()), from); err != nil {
			return err
		}
	}
	return nil
}

// only calls it an error if any node but this one is an offender.
func only(node string) func(seen) error {
	return func(st seen) error {
		for _, o := range st.offenders {
			if o != node {
				return fmt.Errorf("node %s is called an offender: %s", o, st)
			}
		}
		return nil
	}
}

// covers is a canary that is ready and covers so many nodes.
func covers(nodes int) func(seen) bool {
	return func(st seen) bool { return st.ready && st.covered == nodes }
}
