//go:build linux

package probe

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/pathproof/pathproof/probe/wire"
)

// Resident runs the plans of several owners side by side, again and again. What it finds
// goes out as messages.
type Resident struct {
	// Runner runs the plans. Its Kubelet counts for all of them.
	Runner *Runner
	// Emit takes the messages, several at a time.
	Emit func(wire.Message)

	// owners are what each owner has under way. Only Apply and Close touch it.
	owners map[string]*residency
	// turns keeps the attempts of all watches apart.
	turns turnstile
	// running holds all goroutines.
	running sync.WaitGroup
}

// residency is what one owner has under way.
type residency struct {
	plan wire.Plan
	// cancel ends the run of the plan.
	cancel context.CancelFunc
	// watched ends the watches, by the key of the check.
	watched map[string]context.CancelFunc
}

// Apply makes the plans of all owners those given. A plan with another ID than the last
// one of its owner is run, in its place if that still runs. Watches go on over plans: a
// flip would be lost otherwise whenever a change of policy brings a new plan.
func (r *Resident) Apply(ctx context.Context, plans map[string]wire.Plan) {
	if r.owners == nil {
		r.owners = map[string]*residency{}
	}
	for owner, o := range r.owners {
		if _, ok := plans[owner]; !ok {
			o.end()
			delete(r.owners, owner)
		}
	}
	for owner, plan := range plans {
		o := r.owners[owner]
		if o != nil && o.plan.ID == plan.ID {
			continue
		}
		if o == nil {
			o = &residency{watched: map[string]context.CancelFunc{}}
			r.owners[owner] = o
		} else {
			o.cancel()
		}
		o.start(ctx, r, owner, plan)
	}
}

// start runs a plan, and watches what it asks for. It says first that it has it: a kubelet may
// lose a plan, and whoever gave it would learn of that by a report that is overdue.
func (o *residency) start(ctx context.Context, r *Resident, owner string, plan wire.Plan) {
	if plan.ID != "" {
		r.Emit(wire.Message{Taken: plan.ID})
	}
	runCtx, cancel := context.WithCancel(ctx)
	if plan.TimeoutMilliseconds != o.plan.TimeoutMilliseconds || plan.WatchMilliseconds != o.plan.WatchMilliseconds {
		o.unwatch(nil)
	}
	o.plan, o.cancel = plan, cancel
	r.running.Go(func() { r.run(runCtx, plan) })
	o.watch(ctx, r, owner)
}

// run runs a plan, and again whenever it is due. A run that would begin while the last one
// goes on is left out.
func (r *Resident) run(ctx context.Context, plan wire.Plan) {
	every, phase := time.Duration(plan.EverySeconds)*time.Second, time.Duration(plan.PhaseSeconds)*time.Second
	for turn := int64(0); ; {
		report := r.Runner.Run(ctx, plan)
		report.Turn = turn
		if ctx.Err() != nil {
			return
		}
		r.Emit(wire.Message{Report: &report})
		if every == 0 || plan.Validate() != nil {
			return
		}
		var wait time.Duration
		turn, wait = nextTurn(time.Now(), every, phase)
		if !sleep(ctx, wait) {
			return
		}
	}
}

// nextTurn returns the number of the next turn, and the time until it begins.
func nextTurn(now time.Time, every, phase time.Duration) (turn int64, wait time.Duration) {
	since := time.Duration(now.UnixNano()) - phase
	turn = int64(since/every) + 1
	return turn, time.Duration(turn)*every - since
}

// watch begins the watches that are missing, and ends those of checks that are not in the
// plan any more.
func (o *residency) watch(ctx context.Context, r *Resident, owner string) {
	checks := map[string]wire.Check{}
	if o.plan.WatchMilliseconds > 0 && o.plan.Validate() == nil {
		for _, c := range o.plan.Checks {
			checks[c.Key()] = c
		}
	}
	o.unwatch(checks)
	every := time.Duration(o.plan.WatchMilliseconds) * time.Millisecond
	for key, c := range checks {
		if o.watched[key] != nil {
			continue
		}
		watchCtx, cancel := context.WithCancel(ctx)
		o.watched[key] = cancel
		s := r.Runner.watchSession(o.plan)
		r.running.Go(func() {
			defer s.close()
			s.watch(watchCtx, &c, every, &r.turns, func(open bool, at time.Time, gap time.Duration) {
				r.Emit(wire.Message{Flip: &wire.Flip{
					Version: wire.Version, Owner: owner, Check: key, Open: open,
					AtMicroseconds: at.UnixMicro(), GapMicroseconds: gap.Microseconds(),
				}})
			})
		})
	}
}

// unwatch ends all watches but those of the checks given.
func (o *residency) unwatch(but map[string]wire.Check) {
	maps.DeleteFunc(o.watched, func(key string, cancel context.CancelFunc) bool {
		if _, ok := but[key]; ok {
			return false
		}
		cancel()
		return true
	})
}

func (o *residency) end() {
	o.cancel()
	o.unwatch(nil)
}

// Close ends everything that is under way and waits for it.
func (r *Resident) Close() {
	for _, o := range r.owners {
		o.end()
	}
	r.owners = nil
	r.running.Wait()
}
