//go:build linux

package probe

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
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
	at := time.Since(n.start)
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
				s.watch(ctx, &watched, 20*ms, func(open bool, at time.Time, gap time.Duration) {
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
		s.watch(ctx, &watched, 20*time.Millisecond, func(open bool, _ time.Time, _ time.Duration) { t.Errorf("a flip to open=%v", open) })
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
	if msg.Report != nil {
		m.seen = append(m.seen, "report "+msg.Report.ID+" "+msg.Report.Error)
		return
	}
	m.seen = append(m.seen, fmt.Sprintf("flip %s open=%v", msg.Flip.Owner, msg.Flip.Open))
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
// one before.
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
			{"two owners", map[string]wire.Plan{"a": planNamed("a1", 0), "b": planNamed("b1", 0)}, []string{"report a1 ", "report b1 "}},
			{"the same again", map[string]wire.Plan{"a": planNamed("a1", 0), "b": planNamed("b1", 0)}, nil},
			{"one is new", map[string]wire.Plan{"a": planNamed("a2", 0), "b": planNamed("b1", 0)}, []string{"report a2 "}},
			{"one is gone", map[string]wire.Plan{"a": planNamed("a2", 0)}, nil},
			{"and back, to be run again", map[string]wire.Plan{"a": planNamed("a2", 0), "b": planNamed("b1", 0)}, []string{"report b1 "}},
			{"one that is no plan", map[string]wire.Plan{"b": {Version: wire.Version, ID: "b2"}}, []string{"report b2 plan has 0 checks, want 1 to 500"}},
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
			r := &Resident{Runner: &Runner{try: n.try}, Emit: func(m wire.Message) { at[m.Report.Turn] = time.Now() }}
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
		if got, want := out.take(), []string{"flip a open=false", "report a1 ", "report a3 "}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		other := planNamed("a4", 20)
		other.Checks = []wire.Check{{Transport: wire.TCP, Addr: netip.MustParseAddr("10.0.0.2"), Port: 80}}
		r.Apply(t.Context(), map[string]wire.Plan{"a": other})
		time.Sleep(16 * time.Second)
		if got, want := out.take(), []string{"flip a open=true", "report a4 "}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q: one check has taken the place of the other", got, want)
		}
		r.Apply(t.Context(), nil)
		time.Sleep(16 * time.Second)
		if got := out.take(); len(got) > 0 {
			t.Errorf("got %q from an owner that is gone", got)
		}
	})
}

// Two attempts in a row are answered, and the answer to the second is seen first: the first
// does not show that the path was closed when it began.
func TestAnswersSeenInTheWrongOrder(t *testing.T) {
	const ms = time.Millisecond
	start := time.Now()
	at := start.Add
	for name, tc := range map[string]struct {
		second time.Duration
		want   string
	}{
		"right after each other":   {305 * ms, "open at 306ms, gap 306ms"},
		"at their usual distances": {340 * ms, "open at 341ms, gap 41ms"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			x := transitions{known: true, last: start, flip: func(_ bool, moment time.Time, gap time.Duration) {
				got = append(got, fmt.Sprintf("open at %s, gap %s", moment.Sub(start), gap))
			}}
			first, second := x.begin(at(300*ms)), x.begin(at(tc.second))
			second.outcome, second.end = wire.Connected, at(tc.second+ms)
			x.ended(second)
			first.outcome, first.end = wire.Connected, at(301*ms)
			x.ended(first)
			if len(got) != 1 || got[0] != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
