//go:build linux

// Package probe puts checks on the wire and reports what happened, as package
// wire names it. It has two halves: a Runner, which makes attempts (TCP, UDP,
// SCTP, DNS) and says how each one ended, and a Responder, which answers them
// and proves by an echoed nonce that it was the one who answered.
//
// Nothing here judges. A run states the outcome of every attempt of the last
// round, also when they disagree; an error is never taken for a denial. What is
// known only to the kernel (was it a RST or an ICMP error, and whose?) is read
// from the socket's error queue and not guessed from errno.
//
// The package builds on Linux only: the error queue has no equivalent elsewhere.
package probe

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pathproof/pathproof/probe/wire"
)

const (
	// roundPause separates two rounds of a check. It keeps a check that fails at
	// once (a RST, a local error) from spinning through the settle window, and it
	// is the resolution with which enforcement latency can be measured.
	roundPause = 200 * time.Millisecond
	// pace separates the starts of two checks. Without it the first packets of a
	// full plan arrive in one burst at a neighbour that is not resolved yet, and
	// the kernel drops what exceeds its queue (unres_qlen_bytes, about 150
	// packets), which would look like a policy. 500 checks start within 25 ms.
	pace = 50 * time.Microsecond
)

// Runner runs plans. The zero Runner is ready to use.
type Runner struct {
	// ResolvConf is the resolver configuration that checks by host or by nameserver
	// use. Empty means /etc/resolv.conf.
	ResolvConf string
	// Kubelet counts the readiness probes of the pod for the report; nil counts
	// none.
	Kubelet *Kubelet
	// RawSCTP lets SCTP go over a raw socket, which takes CAP_NET_RAW, where the kernel
	// has no SCTP of its own.
	RawSCTP bool

	// firstPlan is when the first plan came, set once, from which the warm-up counts: a
	// pod gets one when its address is known to those who enforce policies, which may be
	// long after its start.
	firstPlan time.Time
	once      sync.Once

	// socket opens a socket; nil means socket(2). Tests open theirs in network
	// namespaces of their own.
	socket socketFunc
	// try makes one attempt at an address; nil means on the wire.
	try func(context.Context, *wire.Check) attempt
	// look finds what is wrong with the pod's network; nil means by its interfaces.
	look func() string
}

// Run runs a plan with the zero Runner.
func Run(ctx context.Context, plan wire.Plan) wire.Report {
	return new(Runner).Run(ctx, plan)
}

// Run runs all checks of a plan and always returns a report: an invalid plan
// gives one with Error, and whatever a cancelled context cut short is a
// ProbeError. It takes the warm-up plus, for every round, (2 - 1/attempts)
// times the timeout at most, independent of the number of checks as long as
// they make at most maxInFlight attempts a round; beyond that some wait for
// their turn, up to one timeout more. Attempts of SCTP over a raw socket wait
// rawPace for each other to the same address. A check by host takes up to one timeout
// more for its resolver, and a run in which nothing answered waits up to
// kubeletWait for a first readiness probe.
func (r *Runner) Run(ctx context.Context, plan wire.Plan) wire.Report {
	start := time.Now()
	report := wire.Report{Version: wire.Version, ID: plan.ID}
	if err := plan.Validate(); err != nil {
		report.Error = err.Error()
		return report
	}
	before := 0
	if r.Kubelet != nil {
		before = r.Kubelet.Count()
	}
	s := r.session(plan)
	defer s.close()
	r.once.Do(func() { r.firstPlan = start })
	sleep(ctx, time.Until(r.firstPlan.Add(time.Duration(plan.WarmUpMilliseconds)*time.Millisecond)))
	s.warm = time.Now()

	report.Nameservers = s.nameservers(plan.Checks)
	report.Results = make([]wire.Result, len(plan.Checks))
	var wg sync.WaitGroup
	for i := range plan.Checks {
		if plan.Checks[i].Nameserver > max(1, len(report.Nameservers)) {
			report.Results[i].Absent = true
			continue
		}
		wg.Add(1)
		go func() {
			sleep(ctx, time.Duration(i)*pace)
			s.begin(ctx, &plan.Checks[i], &report.Results[i], wg.Done)
		}()
	}
	wg.Wait()
	if r.Kubelet != nil {
		if needsEvidence(plan.Checks, report.Results) {
			r.Kubelet.await(ctx, before)
		}
		report.KubeletProbes = r.Kubelet.Count() - before
	}
	if !answered(plan.Checks, report.Results) {
		report.Trouble = r.trouble()
	}
	report.ElapsedMilliseconds = int(time.Since(start).Milliseconds())
	return report
}

// trouble says what is wrong with the pod's own network.
func (r *Runner) trouble() string {
	if r.look == nil {
		return trouble()
	}
	return r.look()
}

// answered tells whether a target of a run answered at all.
func answered(checks []wire.Check, results []wire.Result) bool {
	for i, r := range results {
		if r.Outcomes.Any(func(o wire.Outcome) bool { return o.AnsweredOver(checks[i].Transport) }) {
			return true
		}
	}
	return false
}

// needsEvidence tells whether a run met silence or rejections and not one answer.
// It proves something about the paths only if the pod's own interface is known
// to work.
func needsEvidence(checks []wire.Check, results []wire.Result) bool {
	return !answered(checks, results) && slices.ContainsFunc(results, func(r wire.Result) bool { return r.Outcomes.Any(wire.Outcome.Closed) })
}

// session is the state of one run.
type session struct {
	*stack
	tries   int
	timeout time.Duration
	settle  time.Duration
	// resolver reads the resolver configuration of the pod, once.
	resolver func() (resolverConfig, error)
	try      func(context.Context, *wire.Check) attempt
	// addresses resolves a host to the addresses that an attempt is made to.
	addresses func(context.Context, string) ([]netip.Addr, error)
	// slots holds one token for each attempt in flight.
	slots chan struct{}
	// warm is the end of the warm-up.
	warm time.Time
	// brief lets TCP connections end at once and without a trace, where there are many.
	brief bool
}

func (r *Runner) session(plan wire.Plan) *session {
	s := &session{
		tries:   plan.Attempts,
		timeout: time.Duration(plan.TimeoutMilliseconds) * time.Millisecond,
		settle:  time.Duration(plan.SettleMilliseconds) * time.Millisecond,
		try:     r.try,
		slots:   make(chan struct{}, attemptLimit()),
	}
	s.resolver = sync.OnceValues(func() (resolverConfig, error) {
		return readResolverConfig(cmp.Or(r.ResolvConf, "/etc/resolv.conf"))
	})
	if s.try == nil {
		s.stack = newStack(r.socket)
		s.rawSCTP = r.RawSCTP
		s.try = s.attempt
	}
	s.addresses = func(ctx context.Context, host string) ([]netip.Addr, error) {
		addrs, err := s.resolve(ctx, host)
		if err != nil {
			return nil, err
		}
		return s.reachable(addrs), nil
	}
	return s
}

// nameservers returns those of the pod, if there is a check that they matter for. One
// that cannot be read is told of by the checks that need it.
func (s *session) nameservers(checks []wire.Check) []netip.Addr {
	if !slices.ContainsFunc(checks, func(c wire.Check) bool { return c.Transport.IsDNS() }) {
		return nil
	}
	conf, _ := s.resolver()
	return conf.servers
}

// close closes what the attempts have in common.
func (s *session) close() {
	if s.stack != nil {
		s.closePeers()
	}
}

// course is a check on its way through its rounds. No goroutine waits for the attempts of
// a round, which would take a quarter of the memory: the one that ends last goes on.
type course struct {
	// check is that of the plan, with the nonce of the round.
	check wire.Check
	nonce string
	// result is where the last round goes, and done is called when it is there.
	result *wire.Result
	done   func()
	// number is that of the round, and began the time at which it did, since the end of the
	// warm-up.
	number int
	began  time.Duration
	// attempts are those of the round, of which underWay have not ended.
	attempts [][]attempt
	underWay atomic.Int32
}

// begin begins the first round of a check. Rounds are repeated until the goal of the check
// is met or no further round may start, and the last round is the result.
func (s *session) begin(ctx context.Context, c *wire.Check, result *wire.Result, done func()) {
	s.round(ctx, &course{check: *c, nonce: c.Nonce, result: result, done: done, attempts: make([][]attempt, s.tries)})
}

// ended goes on with a check when all attempts of a round have ended.
func (s *session) ended(ctx context.Context, x *course) {
	if x.underWay.Add(-1) > 0 {
		return
	}
	*x.result = summarize(slices.Concat(x.attempts...))
	x.result.Rounds = x.number
	x.result.SettledMilliseconds = int(x.began.Milliseconds())
	if met(&x.check, x.result.Outcomes) || time.Since(s.warm)+roundPause >= s.settle || !sleep(ctx, roundPause) {
		x.done()
		return
	}
	s.round(ctx, x)
}

// met tells whether a round reached what the check waits for.
func met(c *wire.Check, os wire.Outcomes) bool {
	switch c.Goal {
	case wire.GoalOpen:
		// A resolver that is too busy to answer, or that answers some attempts only, may do
		// better in a later round.
		return os.All(func(o wire.Outcome) bool {
			return o.AnsweredOver(c.Transport) && o != wire.Unanswered && o == os[0]
		})
	case wire.GoalClosed:
		return os.All(wire.Outcome.Closed)
	case wire.GoalNone:
	}
	return true
}

// round starts the attempts of the next round at equal distances, so that they
// overlap: one does not wait for the end of the one before.
func (s *session) round(ctx context.Context, x *course) {
	x.number++
	x.began = time.Since(s.warm)
	if x.nonce != "" {
		x.check.Nonce = wire.RoundNonce(x.nonce, x.number)
	}
	x.underWay.Store(int32(s.tries))
	interval := s.timeout / time.Duration(s.tries)
	start := time.Now()
	for i := range s.tries {
		due := start.Add(time.Duration(i) * interval)
		if !sleep(ctx, time.Until(due)) || x.check.Host == "" && !s.acquire(ctx) {
			x.attempts[i] = []attempt{failed(cancelled(ctx))}
			s.ended(ctx, x)
			continue
		}
		// Not before it is due: thousands of sleeping goroutines would take more
		// memory than those that work.
		go func() {
			x.attempts[i] = s.attempts(ctx, &x.check)
			if x.check.Host == "" {
				s.release()
			}
			s.ended(ctx, x)
		}()
	}
}

// acquire waits for a free slot and tells whether the context is still alive.
func (s *session) acquire(ctx context.Context) bool {
	select {
	case s.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *session) release() { <-s.slots }

// guarded turns a panic into a failed attempt: a bug in one check must not cost
// the results of the others.
func (s *session) guarded(ctx context.Context, c *wire.Check) (a attempt) {
	defer func() {
		if p := recover(); p != nil {
			a = attempt{outcome: wire.ProbeError, detail: fmt.Sprintf("panic: %v", p)}
		}
	}()
	return s.try(ctx, c)
}

// sleep waits and tells whether the context is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

const (
	// maxInFlight is what a full plan of 5 attempts has in flight at once. An attempt
	// takes about 8 KiB, and the operator gives its pods 64 MiB: all 5000 attempts
	// of the largest plan would not fit. They take their turns, which costs little,
	// since half of them start when the first have ended.
	maxInFlight = 2500
	// socketsPerAttempt is for the two queries that resolve a host.
	socketsPerAttempt = 2
	// reservedFiles stay free for the standard streams, the poller, the plan, the
	// report, the readiness endpoint, and for sockets with an unwanted source port.
	reservedFiles = 64
)

// attemptLimit raises the soft limit of open files to the hard one and returns
// how many attempts may be in flight: those beyond wait for their turn instead of
// ending in EMFILE.
func attemptLimit() int {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return 1
	}
	if lim.Cur < lim.Max {
		raised := unix.Rlimit{Cur: lim.Max, Max: lim.Max}
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &raised) == nil {
			lim.Cur = lim.Max
		}
	}
	if lim.Cur >= maxInFlight*socketsPerAttempt+reservedFiles {
		return maxInFlight
	}
	return max(1, (int(lim.Cur)-reservedFiles)/socketsPerAttempt)
}
