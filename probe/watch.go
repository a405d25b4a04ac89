//go:build linux

package probe

import (
	"context"
	"sync"
	"time"

	"github.com/pathproof/pathproof/probe/wire"
)

const (
	// confirmations is the number of attempts in a row that have to end without an answer
	// before a path counts as closed: one may have been lost.
	confirmations = 3
	// watchPace is the least time between two attempts of all that a pod watches, for
	// whomever. With more checks than fit, the distance of the attempts of each is larger;
	// the gap of a flip tells. So no pod makes more than 500 attempts a second. Those of TCP
	// are in the connection tables of their nodes for ten seconds after their end
	// (nf_conntrack_tcp_timeout_close), those of UDP for thirty.
	watchPace = 2 * time.Millisecond
	// watchTimeout bounds the timeout of a watched attempt. TCP repeats its first packet
	// after a second: an attempt that ends before is one packet, and says of one moment what
	// the path was.
	watchTimeout = 900 * time.Millisecond
	// watchedPorts is how many source ports of a watched check are not used again. The kernel
	// has 28,000 of them by default, which would last for ten minutes. At the closest
	// distance of attempts these are more than two minutes, after which a network has
	// forgotten a connection.
	watchedPorts = 8192
)

// turnstile keeps the attempts of all watched checks apart. Those who wait for their turn
// get it in the order in which they came, so that checks that are always late take equal
// turns. The zero turnstile is ready to use.
type turnstile struct {
	mu   sync.Mutex
	next time.Time
}

// take waits for the next turn and returns when that was due, and whether the context is
// still alive.
func (t *turnstile) take(ctx context.Context) (turn time.Time, ok bool) {
	t.mu.Lock()
	turn = later(time.Now(), t.next)
	t.next = turn.Add(watchPace)
	t.mu.Unlock()
	return turn, sleep(ctx, time.Until(turn))
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// flipFunc is told that a path is open, or closed, since a time, and how much earlier
// that may have been.
type flipFunc func(open bool, at time.Time, gap time.Duration)

// watchSession returns the session of a watched check.
func (r *Runner) watchSession(plan wire.Plan) *session {
	plan.Attempts = 1
	s := r.session(plan)
	s.timeout, s.brief = min(s.timeout, watchTimeout), true
	if s.stack != nil {
		s.remembered = watchedPorts
	}
	return s
}

// watch makes attempts of a check until the context ends, at equal distances as far as
// the turnstile lets it, and tells when it opens or closes. Attempts overlap: one does not
// wait for the silence of the one before.
func (s *session) watch(ctx context.Context, c *wire.Check, every time.Duration, turns *turnstile, flip flipFunc) {
	var mu sync.Mutex // guards state
	state := transitions{flip: flip}
	var underWay sync.WaitGroup
	defer underWay.Wait()
	for due := time.Now(); sleep(ctx, time.Until(due)); {
		turn, ok := turns.take(ctx)
		if !ok {
			return
		}
		due = turn.Add(every)
		mu.Lock()
		t := state.begin(time.Now())
		mu.Unlock()
		underWay.Go(func() {
			a := agreed(s.attempts(ctx, c))
			if a.outcome.OfName() && !c.Transport.IsDNS() {
				a.outcome = wire.ProbeError // the target was never tried
			}
			mu.Lock()
			defer mu.Unlock()
			t.note(a, time.Now())
			if ctx.Err() == nil {
				state.ended(t)
			}
		})
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
		if a.rtt > last.rtt || a.span.sent.After(last.span.sent) {
			last = a
		}
	}
	return last
}

// trial is one attempt of a watched check. Its packet met the path at some moment between
// start and sent, or end if it was answered. On a busy processor these can be far apart:
// whatever is concluded from them must hold wherever between them the moment was.
type trial struct {
	start, sent, end time.Time
	outcome          wire.Outcome
	done             bool
}

// note notes how the attempt of a trial ended, as seen now.
func (t *trial) note(a attempt, now time.Time) {
	t.outcome, t.start, t.sent, t.end = a.outcome, later(t.start, a.span.opened), now, now
	if !a.span.sent.IsZero() {
		t.sent = a.span.sent
	}
	switch {
	case !a.span.heard.IsZero():
		t.end = a.span.heard
	case a.rtt > 0:
		t.end = t.start.Add(a.rtt)
	}
}

// transitions finds the moments at which a path opens or closes, from attempts that
// overlap. Of its first attempts it learns what the path is. It looks at attempts in the
// order of their start, each when those before it have ended, so that of the two moments
// between which a path flipped neither is a guess.
type transitions struct {
	flip        flipFunc
	known, open bool
	// trials are those that are under way or whose turn has not come, in the order of
	// their start.
	trials []*trial
	// last is the latest start of an attempt that agreed with the state: until then the
	// path was as it is known to be.
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

// ended notes that an attempt has ended.
func (x *transitions) ended(t *trial) {
	t.done = true
	for len(x.trials) > 0 && x.trials[0].done {
		next := x.trials[0]
		x.trials = x.trials[1:]
		x.count(next)
	}
}

// count takes the next attempt in the order of their start into account.
func (x *transitions) count(t *trial) {
	switch {
	case t.outcome.Answered() && (!x.known || !x.open):
		x.become(true, x.firstAnswer(t), t.start)
	case t.outcome.Answered():
		x.last, x.closing = later(x.last, t.start), nil
	case !t.outcome.Closed():
		// It tells nothing about the path.
	case x.known && !x.open:
		x.last = later(x.last, t.start)
	default:
		if x.closing = append(x.closing, t); len(x.closing) == confirmations {
			x.become(false, firstSent(x.closing), t.start)
		}
	}
}

// become makes the path open or closed, which it was at a time at the latest, and still
// at the start of the last attempt.
func (x *transitions) become(open bool, at, last time.Time) {
	if x.known {
		at = later(at, x.last)
		x.flip(open, at, at.Sub(x.last))
	}
	x.known, x.open, x.last, x.closing = true, open, last, nil
}

// firstSent returns when the first of some attempts was sent, at the latest.
func firstSent(trials []*trial) time.Time {
	at := trials[0].sent
	for _, t := range trials[1:] {
		if t.sent.Before(at) {
			at = t.sent
		}
	}
	return at
}

// firstAnswer returns when the first answer arrived, to an attempt or to those after it: of
// attempts that began in short order, another than the first may have met the open path
// first.
func (x *transitions) firstAnswer(t *trial) time.Time {
	at := t.end
	for _, other := range x.trials {
		if other.done && other.outcome.Answered() && other.end.Before(at) {
			at = other.end
		}
	}
	return at
}
