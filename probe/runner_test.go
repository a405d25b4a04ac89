//go:build linux

package probe

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// local is a check that needs no network: the tests replace the attempt.
func local(goal wire.Goal) wire.Check {
	return wire.Check{Transport: wire.TCP, Addr: netip.MustParseAddr("127.0.0.1"), Port: 9, Goal: goal}
}

// dropped is an attempt that nothing answers, on the clock of the test.
func dropped(timeout time.Duration) func(context.Context, *wire.Check) attempt {
	return func(ctx context.Context, _ *wire.Check) attempt {
		if !sleep(ctx, timeout) {
			return failed(cancelled(ctx))
		}
		return attempt{outcome: wire.TimedOut}
	}
}

// script plays outcomes in the order in which attempts start. Attempts take no
// time.
func script(outcomes string) func(context.Context, *wire.Check) attempt {
	var n atomic.Int64
	return func(context.Context, *wire.Check) attempt {
		i := min(int(n.Add(1)), len(outcomes)) - 1
		return attempt{outcome: wire.Outcome(outcomes[i])}
	}
}

func TestRoundsRepeatUntilTheGoalIsMet(t *testing.T) {
	cases := map[string]struct {
		goal       wire.Goal
		settle     int
		script     string
		want       string
		rounds     int
		settledFor int
	}{
		"no goal is one round":                          {wire.GoalNone, 5000, "TT", "TT", 1, 0},
		"open at once is one round":                     {wire.GoalOpen, 5000, "RR", "RR", 1, 0},
		"closed at once is one round":                   {wire.GoalClosed, 5000, "TJ", "TJ", 1, 0},
		"a path that opens":                             {wire.GoalOpen, 5000, "TTTRRR", "RR", 3, 1400},
		"a path that closes":                            {wire.GoalClosed, 5000, "RRRTTF", "TF", 3, 1400},
		"without a settle window there is one round":    {wire.GoalOpen, 0, "TTRR", "TT", 1, 0},
		"the window ends before the goal is met":        {wire.GoalOpen, 1500, "T", "TT", 3, 1400},
		"no round starts after the window":              {wire.GoalOpen, 1400, "T", "TT", 2, 700},
		"flapping is reported as it is":                 {wire.GoalOpen, 1000, "RTRT", "RT", 2, 700},
		"what taught nothing does not close a path":     {wire.GoalClosed, 1000, "NNEE", "EE", 2, 700},
		"a refusal is closed: verdict needs evidence":   {wire.GoalClosed, 5000, "RRFF", "FF", 2, 700},
		"a resolver that is too busy for an answer":     {wire.GoalOpen, 5000, "CHCC", "CC", 2, 700},
		"a resolver that never answers":                 {wire.GoalOpen, 1000, "H", "HH", 2, 700},
		"a host whose name is not found was not tried":  {wire.GoalOpen, 1000, "X", "XX", 2, 700},
		"a silent resolver closes the path of a host":   {wire.GoalClosed, 5000, "OO", "OO", 1, 0},
		"an unsupported protocol is tried to the end":   {wire.GoalOpen, 1000, "P", "PP", 2, 700},
		"one answer of two does not make an open path":  {wire.GoalOpen, 5000, "RTRR", "RR", 2, 700},
		"one silence of two does not make a closed one": {wire.GoalClosed, 5000, "RTTT", "TT", 2, 700},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// A round of instant attempts takes 500 ms, the pause after it 200 ms.
				plan := planOf(local(tc.goal))
				plan.WarmUpMilliseconds, plan.SettleMilliseconds = 3000, tc.settle
				r := &Runner{try: script(tc.script)}
				got := r.Run(t.Context(), plan).Results[0]
				want := wire.Result{Rounds: tc.rounds, SettledMilliseconds: tc.settledFor}
				for _, o := range []byte(tc.want) {
					want.Outcomes = append(want.Outcomes, wire.Outcome(o))
				}
				if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("unexpected result (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// A full plan in which everything is dropped takes (2 - 1/attempts) timeouts, not
// that times the number of checks; and all attempts wait at the same time.
func TestChecksOverlap(t *testing.T) {
	for _, attempts := range []int{1, 2, 3, maxInFlight / wire.MaxChecks} {
		synctest.Test(t, func(t *testing.T) {
			plan := planOf()
			plan.Attempts = attempts
			for range wire.MaxChecks {
				plan.Checks = append(plan.Checks, local(wire.GoalNone))
			}
			timeout := time.Second
			var inFlight, most atomic.Int64
			r := &Runner{try: func(ctx context.Context, c *wire.Check) attempt {
				n := inFlight.Add(1)
				defer inFlight.Add(-1)
				for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
				}
				return dropped(timeout)(ctx, c)
			}}
			start := time.Now()
			report := r.Run(t.Context(), plan)
			last := time.Duration(wire.MaxChecks-1) * pace
			want := last + timeout/time.Duration(attempts)*time.Duration(attempts-1) + timeout
			if got := time.Since(start); got != want {
				t.Errorf("%d attempts: took %v, want %v", attempts, got, want)
			}
			if got := time.Duration(report.ElapsedMilliseconds) * time.Millisecond; got != want.Truncate(time.Millisecond) {
				t.Errorf("%d attempts: reported %v, want %v", attempts, got, want)
			}
			if got := most.Load(); got != int64(wire.MaxChecks*attempts) {
				t.Errorf("%d attempts: at most %d were in flight at once, want all %d", attempts, got, wire.MaxChecks*attempts)
			}
		})
	}
}

// It is the first plan that says that the pod's address is known, however long the probe
// has run by then. A pod that has warmed up need not wait again.
func TestRunWarmsUpBeforeTheFirstAttempt(t *testing.T) {
	cases := map[string]struct {
		// before and earlier are how long before the plan the runner was made, and ran
		// another one; earlier is 0 if it ran none.
		before, earlier, want time.Duration
	}{
		"the plan comes at once":                       {0, 0, 5 * time.Second},
		"the plan comes late":                          {time.Minute, 0, 5 * time.Second},
		"another one comes during the warm-up":         {time.Minute, 2 * time.Second, 3 * time.Second},
		"another one comes when the warm-up is over":   {2 * time.Minute, time.Minute, 0},
		"another one comes when the warm-up just ends": {time.Minute, 5 * time.Second, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				plan := planOf(local(wire.GoalNone))
				plan.Attempts, plan.WarmUpMilliseconds = 1, 5000
				var start time.Time
				first := time.Duration(-1)
				r := &Runner{try: func(context.Context, *wire.Check) attempt {
					if first < 0 && !start.IsZero() {
						first = time.Since(start)
					}
					return attempt{outcome: wire.Replied}
				}}
				time.Sleep(tc.before - tc.earlier) // in the bubble's time
				if tc.earlier > 0 {
					cut, cancel := context.WithCancel(t.Context())
					cancel()
					r.Run(cut, plan)
					time.Sleep(tc.earlier)
				}
				start = time.Now()
				r.Run(t.Context(), plan)
				if first != tc.want {
					t.Errorf("first attempt after %v, want %v", first, tc.want)
				}
			})
		})
	}
}

func TestPanicCostsOneCheckOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := local(wire.GoalNone)
		bad.Port = 666
		r := &Runner{try: func(_ context.Context, c *wire.Check) attempt {
			if c.Port == 666 {
				panic("the check is broken")
			}
			return attempt{outcome: wire.Replied}
		}}
		got := r.Run(t.Context(), planOf(local(wire.GoalNone), bad, local(wire.GoalNone))).Results
		assertOutcome(t, got[0], wire.Replied, "")
		assertOutcome(t, got[1], wire.ProbeError, "panic: the check is broken")
		assertOutcome(t, got[2], wire.Replied, "")
	})
}

func TestCancellationEndsTheRunAtOnce(t *testing.T) {
	cause := errors.New("terminated")
	cases := map[string]struct {
		after   time.Duration
		want    string
		started int64
	}{
		"during the warm-up":         {time.Second, "EEE", 0},
		"before the second attempt":  {2100 * time.Millisecond, "EEE", 1},
		"after the first attempt":    {3100 * time.Millisecond, "TEE", 3},
		"between two rounds":         {3800 * time.Millisecond, "TTT", 3},
		"in the middle of round two": {4000 * time.Millisecond, "EEE", 4},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(tc.after, func() { cancel(cause) })
				var started atomic.Int64
				r := &Runner{try: func(ctx context.Context, c *wire.Check) attempt {
					started.Add(1)
					return dropped(time.Second)(ctx, c)
				}}
				plan := planOf(local(wire.GoalOpen))
				plan.Attempts, plan.WarmUpMilliseconds, plan.SettleMilliseconds = 3, 2000, 60_000
				start := time.Now()
				got := r.Run(ctx, plan).Results[0]
				if took := time.Since(start); took != tc.after {
					t.Errorf("took %v, want %v", took, tc.after)
				}
				text, err := got.Outcomes.MarshalText()
				if err != nil || string(text) != tc.want {
					t.Errorf("got outcomes %s, want %s", text, tc.want)
				}
				if strings.Contains(tc.want, "E") && got.Detail != "cancelled: terminated" {
					t.Errorf("got detail %q", got.Detail)
				}
				if started.Load() != tc.started {
					t.Errorf("%d attempts were started, want %d", started.Load(), tc.started)
				}
			})
		})
	}
}

func TestInvalidPlanGivesAReport(t *testing.T) {
	got := Run(t.Context(), wire.Plan{Version: 9, ID: "run-1"})
	if got.Version != wire.Version || got.ID != "run-1" || !strings.Contains(got.Error, "version 9") || len(got.Results) != 0 {
		t.Errorf("got %+v, want a report with the error only", got)
	}
}

func TestSummarize(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	got := summarize([]attempt{
		{outcome: wire.Rejected, detail: "icmp 3/13 from 10.0.0.9", tried: b},
		{outcome: wire.Replied, rtt: 300 * time.Microsecond, seenAs: b, tried: a, untried: 2},
		{outcome: wire.Replied, rtt: 100 * time.Nanosecond, seenAs: a, tried: b},
		{outcome: wire.Rejected, detail: "icmp 3/13 from 10.0.0.9"},
		{outcome: wire.ProbeError, detail: "panic: x"},
	})
	want := wire.Result{
		Outcomes:        wire.Outcomes{wire.Rejected, wire.Replied, wire.Replied, wire.Rejected, wire.ProbeError},
		RTTMicroseconds: 1, SeenAs: b, Untried: 2,
		Addresses: []wire.AddressResult{
			{Addr: a, Outcomes: wire.Outcomes{wire.Replied}},
			{Addr: b, Outcomes: wire.Outcomes{wire.Rejected, wire.Replied}},
		},
		Detail: "icmp 3/13 from 10.0.0.9; panic: x",
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("unexpected result (-want +got):\n%s", diff)
	}
}

// hookSocket calls the hook before the nth socket (counted from 1) is opened.
func (n *namespace) hookSocket(nth int64, hook func()) socketFunc {
	var count atomic.Int64
	return func(domain, typ, proto int) (int, error) {
		if count.Add(1) == nth {
			hook()
		}
		return n.socket(domain, typ, proto)
	}
}

// The rules change while the run goes on: the round after the change is the one
// that is reported, with the time it took to get there.
func TestRunFollowsAChangeOfTheRules(t *testing.T) {
	const drop = `table inet filter { chain forward { type filter hook forward priority 0; meta l4proto { tcp, udp } th dport 8080 drop; }; }`
	cases := map[string]struct {
		goal          wire.Goal
		before, after string
		want          wire.Outcome
	}{
		"a path opens":  {wire.GoalOpen, drop, "delete table inet filter", wire.Replied},
		"a path closes": {wire.GoalClosed, "", drop, wire.TimedOut},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			for _, transport := range []wire.Transport{wire.TCP, wire.UDP} {
				l := newLab(t)
				l.server.serve(Config{Listen: []flow.PortRange{ports(transport.Protocol(), 8080)}})
				l.router.nft(tc.before)
				plan := planOf(wire.Check{Transport: transport, Addr: serverV4, Port: 8080, Nonce: "n1", Goal: tc.goal})
				plan.TimeoutMilliseconds, plan.SettleMilliseconds = 500, 30_000
				// The third socket is the first one of the second round.
				r := &Runner{socket: l.client.hookSocket(3, func() { l.router.nft(tc.after) })}
				got := l.client.runWith(r, plan)[0]
				assertOutcome(t, got, tc.want, "")
				// A SYN of round one that was dropped is sent again after the change, but
				// its attempt has ended by then: it cannot shorten the run.
				if got.Rounds != 2 || got.SettledMilliseconds < 200 {
					t.Errorf("%s: got %d rounds, settled after %d ms, want 2 and at least the pause", transport, got.Rounds, got.SettledMilliseconds)
				}
			}
		})
	}
}

func TestSourcePortsAreNeverUsedTwice(t *testing.T) {
	l := newLab(t)
	sources := make(chan string, 100)
	l.server.handle(":80", func(c net.Conn) { sources <- c.RemoteAddr().String() })
	// Few ports, so that the kernel would soon offer one again.
	l.client.do(func() { l.client.sysctl("net/ipv4/ip_local_port_range", "40000 40099") })
	plan := planOf(wire.Check{Transport: wire.TCP, Addr: serverV4, Port: 80, Goal: wire.GoalClosed})
	plan.Attempts, plan.TimeoutMilliseconds, plan.SettleMilliseconds = 10, 500, 2500
	got := l.client.run(plan)[0]
	if got.Rounds < 2 || !got.Outcomes.All(func(o wire.Outcome) bool { return o == wire.Connected }) {
		t.Errorf("got %d rounds of %v, want several of Connected", got.Rounds, got.Outcomes)
	}
	assertUnique(t, sources, got.Rounds*plan.Attempts)
}

func TestCancellationInterruptsSocketsInFlight(t *testing.T) {
	l := newLab(t)
	l.router.nft(filter)
	ctx, cancel := context.WithCancel(t.Context())
	var checks []wire.Check
	for _, transport := range []wire.Transport{wire.TCP, wire.UDP, wire.DNSUDP, wire.DNSTCP} {
		c := wire.Check{Transport: transport, Addr: serverV4, Port: 1001}
		if transport.IsDNS() {
			c.QueryName, c.QueryType = "a.test.", "A"
		}
		checks = append(checks, c)
	}
	plan := planOf(checks...)
	plan.Attempts, plan.TimeoutMilliseconds = 1, 60_000
	r := &Runner{socket: l.client.hookSocket(int64(len(checks)), cancel)}
	report := r.Run(ctx, plan)
	for _, got := range report.Results {
		assertOutcome(t, got, wire.ProbeError, "cancelled: context canceled")
	}
	if report.ElapsedMilliseconds >= plan.TimeoutMilliseconds {
		t.Errorf("run took %d ms in spite of the cancellation", report.ElapsedMilliseconds)
	}
}

// result makes the rounds of one check.
func (s *session) result(ctx context.Context, c *wire.Check) wire.Result {
	var result wire.Result
	done := make(chan struct{})
	s.begin(ctx, c, &result, func() { close(done) })
	<-done
	return result
}

// Attempts above the limit wait for their turn instead of failing, and their
// timeout starts when they get it.
func TestAttemptsWaitForTheirTurn(t *testing.T) {
	l := newLab(t)
	l.server.serve(Config{Listen: []flow.PortRange{ports(flow.UDP, 8080)}})
	s := (&Runner{socket: l.client.socket}).session(planOf(local(wire.GoalNone)))
	s.slots = make(chan struct{}, 1)
	check := wire.Check{Transport: wire.UDP, Addr: serverV4, Port: 8080, Nonce: "n1"}
	s.tries = 10
	got := s.result(t.Context(), &check)
	assertOutcome(t, got, wire.Replied, "")
}

func BenchmarkRun500ChecksDropped(b *testing.B) {
	l := newLab(b)
	l.router.nft(filter)
	plan := wire.Plan{Version: wire.Version, ID: "bench", TimeoutMilliseconds: 1000, Attempts: 3}
	for i := range wire.MaxChecks {
		plan.Checks = append(plan.Checks, wire.Check{
			Transport: []wire.Transport{wire.TCP, wire.UDP}[i%2], Addr: []netip.Addr{serverV4, serverV6}[i/2%2], Port: 1001,
		})
	}
	timeout := time.Duration(plan.TimeoutMilliseconds) * time.Millisecond
	for b.Loop() {
		for i, got := range l.client.run(plan) {
			if !got.Outcomes.All(func(o wire.Outcome) bool { return o == wire.TimedOut }) {
				b.Fatalf("check %d: got %v (%s), want TimedOut", i, got.Outcomes, got.Detail)
			}
		}
	}
	perRun := float64(b.Elapsed()) / float64(b.N)
	b.ReportMetric(perRun/float64(timeout)/float64(plan.Attempts), "total/(attempts×timeout)")
	b.ReportMetric(perRun/float64(timeout), "total/timeout")
}

// A host of very many addresses is tried at some, and says that it has more.
func TestHostWithMoreAddressesThanAreTried(t *testing.T) {
	s := (&Runner{try: func(context.Context, *wire.Check) attempt { return attempt{outcome: wire.Connected} }}).session(planOf(local(wire.GoalNone)))
	// One slot: an attempt that held one while it waits for others would never end.
	s.slots = make(chan struct{}, 1)
	s.addresses = func(context.Context, string) (addrs []netip.Addr, err error) {
		for i := range byte(wire.MaxHostAddresses + 2) {
			addrs = append(addrs, netip.AddrFrom4([4]byte{10, 0, 0, i}))
		}
		return addrs, nil
	}
	s.tries = 1
	got := s.result(t.Context(), &wire.Check{Transport: wire.TCP, Host: "many.test.", Port: 80})
	if len(got.Addresses) != wire.MaxHostAddresses || len(got.Outcomes) != wire.MaxHostAddresses || got.Untried != 2 {
		t.Errorf("got %+v, want the outcomes of %d addresses, and 2 that were not tried", got, wire.MaxHostAddresses)
	}
	if len(s.slots) != 0 {
		t.Error("a slot was not given back")
	}
}

// A resolver that fails at one attempt and answers another is asked again within the settle
// window, as a path that is open now and then is.
func TestRoundsWaitForAnswersThatAgree(t *testing.T) {
	for name, tc := range map[string]struct {
		goal wire.Goal
		os   wire.Outcomes
		host bool
		want bool
	}{
		// Of a resolver, that is an answer. A host was not even tried.
		"no name, each time":    {wire.GoalOpen, wire.Outcomes{wire.NameNotFound, wire.NameNotFound}, true, false},
		"all answered":          {wire.GoalOpen, wire.Outcomes{wire.Connected, wire.Connected}, false, true},
		"no record, each time":  {wire.GoalOpen, wire.Outcomes{wire.NameNotFound, wire.NameNotFound}, false, true},
		"answered and failed":   {wire.GoalOpen, wire.Outcomes{wire.Connected, wire.ServerFailure}, false, false},
		"answered and silent":   {wire.GoalOpen, wire.Outcomes{wire.Connected, wire.TimedOut}, false, false},
		"closed in either way":  {wire.GoalClosed, wire.Outcomes{wire.TimedOut, wire.Rejected}, false, true},
		"closed and answered":   {wire.GoalClosed, wire.Outcomes{wire.TimedOut, wire.Connected}, false, false},
		"nothing is waited for": {wire.GoalNone, wire.Outcomes{wire.ProbeError}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			transport := wire.DNSUDP
			if tc.host {
				transport = wire.TCP
			}
			if got := met(&wire.Check{Goal: tc.goal, Transport: transport}, tc.os); got != tc.want {
				t.Errorf("got %t, want %t", got, tc.want)
			}
		})
	}
}

// A responder tells rounds apart by the nonce, which the plan's check keeps.
func TestEachRoundHasItsOwnNonce(t *testing.T) {
	var got []string
	r := &Runner{try: func(_ context.Context, c *wire.Check) attempt {
		got = append(got, c.Nonce)
		if len(got) < 3 {
			return attempt{outcome: wire.TimedOut}
		}
		return attempt{outcome: wire.Replied}
	}}
	plan := planOf(wire.Check{Transport: wire.UDP, Addr: serverV4, Port: 8080, Nonce: "p.0", Goal: wire.GoalOpen})
	plan.Attempts, plan.SettleMilliseconds = 1, 60_000
	synctest.Test(t, func(t *testing.T) { r.Run(t.Context(), plan) })
	if want := []string{"p.0.1", "p.0.2", "p.0.3"}; !slices.Equal(got, want) {
		t.Errorf("got the nonces %q, want %q", got, want)
	}
}
