//go:build linux

package probe

import (
	"context"
	"time"

	"github.com/pathproof/pathproof/probe/wire"
)

const (
	// confirmations is the number of attempts in a row that have to end without an answer
	// before a path counts as closed: one may have been lost.
	confirmations = 3
	// watchPace is the least time between the attempts of all watched checks of a plan.
	// More checks than fit make the distance of the attempts of each larger; the gap of a
	// flip tells. Every attempt leaves an entry in the node's connection table for a while.
	watchPace = 5 * time.Millisecond
	// maxOverlap bounds the attempts of a watched check that are under way.
	maxOverlap = 100
	// unseen is how long the answers to two attempts may be seen in the wrong order, on a
	// processor that is busy.
	unseen = 15 * time.Millisecond
	// watchedPorts is how many source ports of a watched check are not used again. The kernel
	// has 28,000 of them by default, which would last for twenty minutes. At the closest
	// distance of attempts these are more than two minutes, after which a network has
	// forgotten a closed connection (nf_conntrack_tcp_timeout_time_wait).
	watchedPorts = 8192
)

// flipFunc is told that a path is open, or closed, since a time, and how much earlier
// that may have been.
type flipFunc func(open bool, at time.Time, gap time.Duration)

// watch makes attempts of a check at equal distances until the context ends, and tells
// when it opens or closes. They overlap: one does not wait for the silence of the one
// before.
func (s *session) watch(ctx context.Context, c *wire.Check, every time.Duration, flip flipFunc) {
	every = max(every, s.timeout/maxOverlap)
	tick := time.NewTicker(every)
	defer tick.Stop()
	state := transitions{flip: flip}
	ended := make(chan *trial)
	underWay := 0
	for {
		select {
		case <-tick.C:
			t := state.begin(time.Now())
			underWay++
			go func() {
				a := agreed(s.attempts(ctx, c))
				t.outcome, t.end = a.outcome, time.Now()
				if a.rtt > 0 {
					t.end = t.start.Add(a.rtt)
				}
				ended <- t
			}()
		case t := <-ended:
			underWay--
			if ctx.Err() == nil {
				state.ended(t)
			}
		case <-ctx.Done():
			for ; underWay > 0; underWay-- {
				<-ended
			}
			return
		}
	}
}

// agreed is what the attempts at all addresses of a host come to: a path to it is open
// when all are answered, and closed when none is. Those that disagree tell nothing.
func agreed(at []attempt) attempt {
	last := at[0]
	for _, a := range at[1:] {
		if a.outcome.Answered() != last.outcome.Answered() || a.outcome.Closed() != last.outcome.Closed() {
			return attempt{outcome: wire.ProbeError}
		}
		if a.rtt > last.rtt {
			last = a
		}
	}
	return last
}

// trial is one attempt of a watched check.
type trial struct {
	start, end time.Time
	outcome    wire.Outcome
	done       bool
}

// transitions finds the moments at which a path opens or closes, from attempts that
// overlap. Of its first attempts it learns what the path is.
type transitions struct {
	flip        flipFunc
	known, open bool
	// trials are those that are under way or whose turn has not come, in the order of
	// their start.
	trials []*trial
	// last is the start of the last attempt that agreed with the state.
	last time.Time
	// closing are attempts without an answer since the last answer.
	closing []*trial
}

// begin notes that an attempt starts.
func (x *transitions) begin(at time.Time) *trial {
	t := &trial{start: at}
	x.trials = append(x.trials, t)
	return t
}

// ended notes how an attempt ended. An answer counts at once; a silence when all
// attempts before it have ended.
func (x *transitions) ended(t *trial) {
	t.done = true
	x.reopen()
	for len(x.trials) > 0 && x.trials[0].done {
		next := x.trials[0]
		x.trials = x.trials[1:]
		x.count(next)
		// Answers may have come before the silence before them was certain.
		x.reopen()
	}
}

// count takes the next attempt in the order of their start into account.
func (x *transitions) count(t *trial) {
	switch {
	case t.outcome.Answered():
		x.last, x.closing = t.start, nil
	case !t.outcome.Closed():
		// It tells nothing about the path.
	case x.known && !x.open:
		x.last = t.start
	default:
		if x.closing = append(x.closing, t); len(x.closing) < confirmations {
			return
		}
		if at := x.closing[0].start; x.known {
			x.flip(false, at, at.Sub(x.last))
		}
		x.known, x.open, x.last, x.closing = true, false, t.start, nil
	}
}

// reopen looks for the first answer, unless the path is open. Attempts that began before
// it say no more than that the path was closed until then.
func (x *transitions) reopen() {
	if x.known && x.open {
		return
	}
	var t *trial
	for _, other := range x.trials {
		if other.done && other.outcome.Answered() && (t == nil || other.end.Before(t.end)) {
			t = other
		}
	}
	if t == nil {
		return
	}
	before := x.last
	for x.trials[0] != t {
		// One that began just before may have been answered, too, and nobody has looked yet.
		if early := x.trials[0]; early.done && early.outcome.Closed() || t.start.Sub(early.start) >= unseen {
			before = early.start
		}
		x.trials = x.trials[1:]
	}
	if x.known {
		x.flip(true, t.end, t.end.Sub(before))
	}
	x.known, x.open, x.last, x.closing = true, true, t.start, nil
}
