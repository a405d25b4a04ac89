//go:build linux

package probe

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pathproof/pathproof/probe/wire"
)

var watched = wire.Check{Transport: wire.TCP, Addr: netip.MustParseAddr("10.0.0.1"), Port: 80}

// network is a path that opens and closes at given times after its start, first open or
// first closed.
type network struct {
	start   time.Time
	open    bool
	changes []time.Duration
	timeout time.Duration
	// lost are the times at which an attempt begins that gets no answer although the path
	// is open.
	lost []time.Duration
	// resent is how long after its start an attempt tries once more, as TCP does; 0 for
	// never.
	resent time.Duration
}

func (n *network) isOpen(at time.Duration) bool {
	open := n.open
	for _, change := range n.changes {
		if at >= change {
			open = !open
		}
	}
	return open
}

func (n *network) try(ctx context.Context, _ *wire.Check) attempt {
	now := time.Now()
	a := n.meet(ctx, now.Sub(n.start))
	a.span = span{opened: now, sent: now}
	return a
}

func (n *network) meet(ctx context.Context, at time.Duration) attempt {
	if n.isOpen(at) && !slices.Contains(n.lost, at) {
		sleep(ctx, time.Millisecond)
		return attempt{outcome: wire.Connected, rtt: time.Millisecond}
	}
	if n.resent > 0 && n.resent < n.timeout {
		sleep(ctx, n.resent)
		if n.isOpen(at + n.resent) {
			return attempt{outcome: wire.Connected, rtt: n.resent}
		}
	}
	sleep(ctx, n.timeout-time.Since(n.start)+at)
	return attempt{outcome: wire.TimedOut}
}

// The moments are those of the network, within the distance of two attempts, and the gap
// tells how much earlier they may have been.
func TestWatchFindsTheMomentOfAFlip(t *testing.T) {
	const ms = time.Millisecond
	cases := map[string]struct {
		network network
		want    []string
	}{
		"stays open":                        {network{open: true}, nil},
		"stays closed":                      {network{}, nil},
		"closes":                            {network{open: true, changes: []time.Duration{2010 * ms}}, []string{"closed at 2020ms, gap 20ms"}},
		"opens":                             {network{changes: []time.Duration{2010 * ms}}, []string{"open at 2021ms, gap 21ms"}},
		"closes and opens again":            {network{open: true, changes: []time.Duration{1010 * ms, 3010 * ms}}, []string{"closed at 1020ms, gap 20ms", "open at 3021ms, gap 21ms"}},
		"is closed for less than a timeout": {network{open: true, changes: []time.Duration{1010 * ms, 1210 * ms}}, []string{"closed at 1020ms, gap 20ms", "open at 1221ms, gap 21ms"}},
		"two lost packets are no flip":      {network{open: true, lost: []time.Duration{1000 * ms, 1020 * ms}}, nil},
		"an answer to what was sent again":  {network{changes: []time.Duration{2010 * ms}, resent: 300 * ms}, []string{"open at 2020ms, gap 320ms"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := tc.network
				n.start, n.timeout = time.Now(), 500*ms
				s := (&Runner{try: n.try}).session(wire.Plan{Attempts: 1, TimeoutMilliseconds: int(n.timeout.Milliseconds())})
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				var got []string
				s.watch(ctx, &watched, 20*ms, new(turnstile), func(open bool, at time.Time, gap time.Duration) {
					state := "closed"
					if open {
						state = "open"
					}
					got = append(got, fmt.Sprintf("%s at %dms, gap %dms", state, at.Sub(n.start).Milliseconds(), gap.Milliseconds()))
				})
				if !slices.Equal(got, tc.want) {
					t.Errorf("got %q, want %q", got, tc.want)
				}
			})
		})
	}
}

// What tells nothing about the path is no flip.
func TestWatchIgnoresItsOwnFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		try := func(context.Context, *wire.Check) attempt {
			if time.Since(start) > time.Second {
				return attempt{outcome: wire.AddressUnavailable}
			}
			return attempt{outcome: wire.Connected, rtt: time.Microsecond}
		}
		s := (&Runner{try: try}).session(wire.Plan{Attempts: 1, TimeoutMilliseconds: 500})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		s.watch(ctx, &watched, 20*time.Millisecond, new(turnstile), func(open bool, _ time.Time, _ time.Duration) { t.Errorf("a flip to open=%v", open) })
	})
}

// messages collects what a resident emits.
type messages struct {
	mu   sync.Mutex
	seen []string
}

func (m *messages) emit(msg wire.Message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case msg.Report != nil:
		m.seen = append(m.seen, "report "+msg.Report.ID+" "+msg.Report.Error)
	case msg.Taken != "":
		m.seen = append(m.seen, "taken "+msg.Taken)
	default:
		m.seen = append(m.seen, fmt.Sprintf("flip %s open=%v", msg.Flip.Owner, msg.Flip.Open))
	}
}

func (m *messages) take() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := m.seen
	m.seen = nil
	slices.Sort(out)
	return out
}

func planNamed(id string, watch int) wire.Plan {
	p := planOf(watched)
	p.ID, p.WatchMilliseconds = id, watch
	return p
}

// Each owner's plan is run once, beside those of others; a new one takes the place of the
// one before. That it was read is said of each.
func TestResidentRunsEveryNewPlanOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out messages
		n := network{start: time.Now(), open: true, timeout: time.Second}
		r := &Resident{Runner: &Runner{try: n.try}, Emit: out.emit}
		defer r.Close()
		steps := []struct {
			name  string
			plans map[string]wire.Plan
			want  []string
		}{
			{"none", nil, nil},
			{"two owners", map[string]wire.Plan{"a": planNamed("a1", 0), "b": planNamed("b1", 0)}, []string{"report a1 ", "report b1 ", "taken a1", "taken b1"}},
			{"the same again", map[string]wire.Plan{"a": planNamed("a1", 0), "b": planNamed("b1", 0)}, nil},
			{"one is new", map[string]wire.Plan{"a": planNamed("a2", 0), "b": planNamed("b1", 0)}, []string{"report a2 ", "taken a2"}},
			{"one is gone", map[string]wire.Plan{"a": planNamed("a2", 0)}, nil},
			{"and back, to be run again", map[string]wire.Plan{"a": planNamed("a2", 0), "b": planNamed("b1", 0)}, []string{"report b1 ", "taken b1"}},
			{"one without an ID", map[string]wire.Plan{"a": planNamed("", 0), "b": planNamed("b1", 0)}, []string{"report  plan has no id"}},
			{"one that is no plan", map[string]wire.Plan{"b": {Version: wire.Version, ID: "b2"}}, []string{"report b2 plan has 0 checks, want 1 to 500", "taken b2"}},
		}
		for _, step := range steps {
			r.Apply(t.Context(), step.plans)
			time.Sleep(10 * time.Second)
			if got := out.take(); !slices.Equal(got, step.want) {
				t.Errorf("%s: got %q, want %q", step.name, got, step.want)
			}
		}
	})
}

// A plan that is to be run again and again is run at once, and then in step with the clock,
// so that two pods that get it at different times make the same turns.
func TestResidentRepeatsInStepWithTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network{start: time.Now(), open: true, timeout: time.Second}
		turns := func(late time.Duration) (at map[int64]time.Time, stop func()) {
			at = map[int64]time.Time{}
			r := &Resident{Runner: &Runner{try: n.try}, Emit: func(m wire.Message) {
				if m.Report != nil {
					at[m.Report.Turn] = time.Now()
				}
			}}
			time.Sleep(late)
			p := planNamed("p", 0)
			p.EverySeconds, p.PhaseSeconds = 30, 7
			r.Apply(t.Context(), map[string]wire.Plan{"a": p})
			return at, r.Close
		}
		time.Sleep(11 * time.Second)
		first, stop := turns(0)
		defer stop()
		second, stop2 := turns(3 * time.Second)
		defer stop2()
		time.Sleep(2 * time.Minute)
		if len(first) != 5 || len(second) != 5 || !first[0].Before(second[0]) {
			t.Fatalf("got the turns %v and %v, want the first one at once and four more of each", first, second)
		}
		for turn, at := range first {
			if turn == 0 {
				continue
			}
			if s := at.Unix(); s < turn*30+7 || s > turn*30+9 {
				t.Errorf("turn %d was reported at %v, want %d s after 1970 or little later", turn, at, turn*30+7)
			}
			if !second[turn].Equal(at) {
				t.Errorf("turn %d was reported at %v and %v, want the same moment", turn, at, second[turn])
			}
		}
	})
}

// A plan that is overtaken by the next leaves no report; its watches go on, so that what
// flips meanwhile is told, and end with their check or their owner.
func TestResidentWatchesOverPlans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out messages
		n := network{start: time.Now(), open: true, timeout: time.Second, changes: []time.Duration{5 * time.Second, 20 * time.Second, 30 * time.Second}}
		r := &Resident{Runner: &Runner{try: n.try}, Emit: out.emit}
		defer r.Close()
		r.Apply(t.Context(), map[string]wire.Plan{"a": planNamed("a1", 20)})
		time.Sleep(4 * time.Second)
		r.Apply(t.Context(), map[string]wire.Plan{"a": planNamed("a2", 20)})
		r.Apply(t.Context(), map[string]wire.Plan{"a": planNamed("a3", 20)})
		time.Sleep(5 * time.Second)
		if got, want := out.take(), []string{"flip a open=false", "report a1 ", "report a3 ", "taken a1", "taken a2", "taken a3"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		other := planNamed("a4", 20)
		other.Checks = []wire.Check{{Transport: wire.TCP, Addr: netip.MustParseAddr("10.0.0.2"), Port: 80}}
		r.Apply(t.Context(), map[string]wire.Plan{"a": other})
		time.Sleep(16 * time.Second)
		if got, want := out.take(), []string{"flip a open=true", "report a4 ", "taken a4"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q: one check has taken the place of the other", got, want)
		}
		r.Apply(t.Context(), nil)
		time.Sleep(16 * time.Second)
		if got := out.take(); len(got) > 0 {
			t.Errorf("got %q from an owner that is gone", got)
		}
	})
}

// On a busy processor attempts are sent long after their turn, and answers are seen late and
// in any order. Whatever is seen, the path flipped between the moment of the flip and its
// gap before.
func TestFlipsAreWithinTheirGapHoweverLateTheyAreSeen(t *testing.T) {
	const ms = time.Millisecond
	start := time.Now()
	at := func(n int) time.Time { return start.Add(time.Duration(n) * ms) }
	type seen struct {
		// began is the turn of the attempt, opened and sent are about its packet, and answered
		// is when its answer arrived; 0 for never.
		began, opened, sent, answered int
	}
	for name, tc := range map[string]struct {
		open     bool
		attempts []seen
		// order is that in which they are seen to end.
		order []int
		want  []string
	}{
		"opens, and the second answer is seen first": {
			false, []seen{{300, 300, 300, 301}, {305, 305, 305, 306}}, []int{1, 0}, []string{"open at 301ms, gap 301ms"},
		},
		"opens, and the answer to an attempt that was sent late is the first": {
			false, []seen{{300, 350, 350, 351}, {340, 340, 341, 0}, {380, 380, 380, 381}}, []int{2, 0, 1}, []string{"open at 351ms, gap 351ms"},
		},
		"opens after silence": {
			false, []seen{{300, 300, 301, 0}, {340, 340, 340, 341}}, []int{1, 0}, []string{"open at 341ms, gap 41ms"},
		},
		"closes before an attempt is sent": {
			true, []seen{{300, 300, 300, 301}, {340, 390, 391, 0}, {380, 392, 392, 0}, {420, 420, 420, 0}}, []int{3, 2, 1, 0},
			[]string{"closed at 391ms, gap 91ms"},
		},
		"closes, and the second packet was the first": {
			true, []seen{{300, 300, 300, 301}, {340, 390, 391, 0}, {380, 380, 380, 0}, {420, 420, 420, 0}}, []int{0, 1, 2, 3},
			[]string{"closed at 380ms, gap 80ms"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			x := transitions{known: true, open: tc.open, last: start, flip: func(open bool, moment time.Time, gap time.Duration) {
				got = append(got, fmt.Sprintf("%s at %s, gap %s", map[bool]string{true: "open", false: "closed"}[open], moment.Sub(start), gap))
			}}
			var trials []*trial
			for _, a := range tc.attempts {
				trials = append(trials, x.begin(at(a.began)))
			}
			for _, i := range tc.order {
				a := tc.attempts[i]
				ended := attempt{outcome: wire.TimedOut, span: span{opened: at(a.opened), sent: at(a.sent)}}
				if a.answered > 0 {
					ended.outcome, ended.rtt, ended.span.heard = wire.Connected, time.Hour, at(a.answered)
				}
				trials[i].note(ended, at(5000))
				x.ended(trials[i])
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// What is not known of an attempt that nobody answered makes the gap larger, not the moment
// earlier.
func TestTrialWithoutTimesOnTheWire(t *testing.T) {
	start, now := time.Now(), time.Now().Add(time.Second)
	trial := trial{start: start}
	trial.note(attempt{outcome: wire.TimedOut}, now)
	if !trial.start.Equal(start) || !trial.sent.Equal(now) {
		t.Errorf("began at %v and was sent by %v, want %v and %v", trial.start, trial.sent, start, now)
	}
	trial.note(attempt{outcome: wire.Connected, rtt: time.Millisecond}, now)
	if want := start.Add(time.Millisecond); !trial.end.Equal(want) {
		t.Errorf("was answered by %v, want %v", trial.end, want)
	}
}

// However many checks are watched for however many owners, a pod makes an attempt every
// 2 ms at most, and the checks take equal turns: 20 of them 40 ms apart.
func TestWatchesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		at := map[string][]time.Time{}
		var all []time.Time
		try := func(_ context.Context, c *wire.Check) attempt {
			mu.Lock()
			defer mu.Unlock()
			at[c.Key()] = append(at[c.Key()], time.Now())
			all = append(all, time.Now())
			return attempt{outcome: wire.Connected, rtt: time.Microsecond}
		}
		planOf := func(id string, first, n int) wire.Plan {
			p := planNamed(id, 20)
			p.Checks = nil
			for i := range n {
				p.Checks = append(p.Checks, wire.Check{Transport: wire.TCP, Addr: watched.Addr, Port: uint16(first + i)})
			}
			return p
		}
		r := &Resident{Runner: &Runner{try: try}, Emit: func(wire.Message) {}}
		step := func(plans map[string]wire.Plan, want time.Duration) {
			t.Helper()
			r.Apply(t.Context(), plans)
			time.Sleep(10 * time.Second) // the runs of the plans are over
			mu.Lock()
			clear(at)
			all = nil
			mu.Unlock()
			time.Sleep(10 * time.Second)
			mu.Lock()
			defer mu.Unlock()
			for i := range all[1:] {
				if d := all[i+1].Sub(all[i]); d < watchPace {
					t.Errorf("two attempts are %s apart", d)
				}
			}
			for key, times := range at {
				for i := range times[1:] {
					if d := times[i+1].Sub(times[i]); d != want {
						t.Fatalf("attempts of check %s are %s apart, want %s", key, d, want)
					}
				}
			}
		}
		defer r.Close()
		step(map[string]wire.Plan{"a": planOf("a1", 1, 5)}, 20*time.Millisecond)
		step(map[string]wire.Plan{"a": planOf("a1", 1, 5), "b": planOf("b1", 100, 15)}, 40*time.Millisecond)
		step(map[string]wire.Plan{"a": planOf("a2", 1, 35), "b": planOf("b1", 100, 15)}, 100*time.Millisecond)
		step(map[string]wire.Plan{"b": planOf("b1", 100, 15)}, 30*time.Millisecond)
	})
}

// A watched connection is over at once, and all that its peer sees is its end.
func TestWatchedConnectionsEndForBoth(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	target := l.Addr().(*net.TCPAddr).AddrPort()
	s := new(Runner).watchSession(wire.Plan{TimeoutMilliseconds: 5000})
	if s.timeout != watchTimeout {
		t.Errorf("an attempt waits %s, want %s", s.timeout, watchTimeout)
	}
	defer s.close()
	a := s.attempt(t.Context(), &wire.Check{Transport: wire.TCP, Addr: target.Addr(), Port: target.Port()})
	if a.outcome != wire.Connected {
		t.Fatalf("got %+v, want a connection", a)
	}
	if at := a.span; at.opened.IsZero() || at.sent.Before(at.opened) || !at.heard.After(at.opened) || at.heard.Sub(at.opened) > a.rtt {
		t.Errorf("opened at %v, sent at %v, heard at %v, after %s: want this order", at.opened, at.sent, at.heard, a.rtt)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = peer.Close() }()
	if got, err := io.ReadAll(peer); err != nil || len(got) > 0 {
		t.Errorf("the peer read %q and %v, want nothing and no error", got, err)
	}
	if states := socketStates(t, target); len(states) > 0 {
		t.Errorf("the kernel keeps connections in the states %q, want none", states)
	}
}

// socketStates returns the states of the connections of a listener, at both ends, as the
// kernel numbers them.
func socketStates(t *testing.T, listener netip.AddrPort) []string {
	t.Helper()
	text, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	port := fmt.Sprintf(":%04X", listener.Port())
	var out []string
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 4 || f[3] == "0A" || !strings.HasSuffix(f[1], port) && !strings.HasSuffix(f[2], port) {
			continue
		}
		out = append(out, f[3])
	}
	return out
}
