// Command soak probes the expectations of the end-to-end tests again and again, from pods
// that stay, while policies are enforced correctly and every processor is busy. It compares
// each verdict of each run with the right one and counts. What it looks for is rare: a
// violation that is none, and a path that is called met and is not.
//
// Nothing but the lab can be soaked: elsewhere it is not known that enforcement is correct.
// Exit codes: 0 when all runs were completed without a false verdict, else 1.
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

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/test/testbed"
)

const (
	// poll is how often all statuses are read. A run that has ended is followed by a pause,
	// so that none is missed.
	poll = 250 * time.Millisecond
	// runTimeout bounds one run: ten times of what one takes on a busy machine.
	runTimeout = 3 * time.Minute
	// every is the number of runs after which the counts are printed.
	every = 10
)

// defaultSettle is the default of spec.probe.settleSeconds.
const defaultSettle = 10

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	s := soak{now: time.Now}
	flag.IntVar(&s.runs, "runs", 200, "`number` of runs of each expectation")
	flag.DurationVar(&s.pause, "pause", 3*time.Second, "`time` between the end of a run and the start of the next")
	flag.BoolVar(&s.load, "load", true, "keep every processor busy")
	flag.Parse()
	err := s.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

// soak is one soak.
type soak struct {
	runs  int
	pause time.Duration
	load  bool
	now   func() time.Time

	bed      *testbed.Bed
	subjects []*subject
	tallies  tallies
}

// subject is an expectation that is soaked.
type subject struct {
	key   client.ObjectKey
	tally *tally
	// request is what a run was last asked for with, at a time; zero when none is awaited.
	request   string
	requested time.Time
	// due is when the next one is asked for.
	due time.Time
	// last identifies the last run that was counted.
	last string
}

func (s *soak) run(ctx context.Context) (err error) {
	if os.Getenv("KUBECONFIG") != "" {
		return errors.New("it needs the lab, of which it is known that policies are enforced correctly: unset KUBECONFIG")
	}
	if s.runs < 1 || s.pause < time.Second {
		return errors.New("want at least one run (-runs) and a pause of at least 1s (-pause)")
	}
	bed, err := testbed.Up(ctx, func(format string, args ...any) { fmt.Printf(format+"\n", args...) })
	if err != nil {
		return err
	}
	s.bed = bed
	defer func() {
		// Also after Ctrl-C, nothing stays behind.
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute)
		defer cancel()
		err = errors.Join(err, bed.DeleteScenarios(cleanup), bed.Close(cleanup))
	}()
	if err := s.prepare(ctx); err != nil {
		return err
	}
	if s.load {
		defer busy()()
	}
	start := s.now()
	err = s.loop(ctx)
	fmt.Printf("\n%d runs of each expectation in %s:\n", s.tallies.completed(), s.now().Sub(start).Round(time.Second))
	s.tallies.print(os.Stdout)
	if n := s.tallies.falses(); n > 0 {
		err = errors.Join(err, fmt.Errorf("%d false verdicts", n))
	}
	return err
}

// prepare installs the operator and puts every scenario in place: its twin in pods that stay,
// and not the expectation itself.
func (s *soak) prepare(ctx context.Context) error {
	if err := errors.Join(s.bed.Heal(ctx), s.bed.DeleteScenarios(ctx)); err != nil {
		return err
	}
	if err := s.bed.Install(ctx); err != nil {
		return err
	}
	for _, scenario := range testbed.Scenarios {
		if err := s.bed.Apply(ctx, scenario); err != nil {
			return err
		}
	}
	for _, scenario := range testbed.Scenarios {
		twin, err := s.bed.Twin(ctx, scenario.Key, func(p *v1alpha1.ProbeSettings) {
			p.IntervalSeconds = 86400
			// Some tests are in a hurry. An agent on a busy node is not, and what is soaked is
			// the window that users have.
			p.SettleSeconds = max(p.SettleSeconds, defaultSettle)
		})
		if err != nil {
			return err
		}
		original, err := s.bed.Expectation(ctx, scenario.Key)
		if err != nil {
			return err
		}
		if err := s.bed.Client.Delete(ctx, original); err != nil {
			return fmt.Errorf("deleting expectation %s: %w", scenario.Key, err)
		}
		t := newTally(scenario)
		s.tallies = append(s.tallies, t)
		s.subjects = append(s.subjects, &subject{key: client.ObjectKeyFromObject(twin), tally: t})
	}
	return nil
}

// loop asks for runs and counts them until there were enough of each.
func (s *soak) loop(ctx context.Context) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	printed := 0
	for s.tallies.completed() < s.runs {
		select {
		case <-ctx.Done():
			return fmt.Errorf("ended after %d of %d runs: %w", s.tallies.completed(), s.runs, context.Cause(ctx))
		case <-tick.C:
		}
		if err := s.look(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		if n := s.tallies.completed(); n >= printed+every && n < s.runs {
			printed = n - n%every
			fmt.Printf("\nafter %d runs of each expectation:\n", n)
			s.tallies.print(os.Stdout)
		}
	}
	return nil
}

// look looks at all expectations.
func (s *soak) look(ctx context.Context) error {
	var list v1alpha1.ConnectivityExpectationList
	if err := s.bed.Client.List(ctx, &list); err != nil {
		return fmt.Errorf("listing expectations: %w", err)
	}
	found := map[client.ObjectKey]*v1alpha1.ConnectivityExpectation{}
	for i := range list.Items {
		found[client.ObjectKeyFromObject(&list.Items[i])] = &list.Items[i]
	}
	for _, x := range s.subjects {
		exp := found[x.key]
		if exp == nil {
			return fmt.Errorf("expectation %s is gone", x.key)
		}
		if err := s.step(ctx, x, exp); err != nil {
			return err
		}
	}
	return nil
}

// step looks at one expectation: it counts a run that has ended, whatever started it, and
// asks for the next one when that is due.
func (s *soak) step(ctx context.Context, x *subject, exp *v1alpha1.ConnectivityExpectation) (err error) {
	now := s.now()
	if run := identity(exp); run != "" && run != x.last {
		x.last = run
		for _, text := range x.tally.add(exp) {
			fmt.Printf("%s %s\n", now.Format(time.TimeOnly), text)
		}
		if x.request != "" && exp.Status.LastHandledRequest == x.request {
			x.request = ""
		}
		x.due = now.Add(s.pause)
	}
	switch {
	case x.request != "" && now.Sub(x.requested) > runTimeout:
		return fmt.Errorf("no run of %s ended within %s: Ready is %s: %s", x.key, runTimeout, testbed.Ready(exp).Reason, testbed.Ready(exp).Message)
	case x.request == "" && !now.Before(x.due) && x.tally.runs < s.runs:
		if x.request, err = s.bed.Request(ctx, x.key); err != nil {
			return err
		}
		x.requested = now
	}
	return nil
}

// identity identifies the last run of an expectation; empty if there was none.
func identity(e *v1alpha1.ConnectivityExpectation) string {
	run := e.Status.LastRun
	if run == nil {
		return ""
	}
	return fmt.Sprint(run.StartedAt.Unix(), run.FinishedAt.Unix(), run.Trigger, e.Status.LastHandledRequest)
}
