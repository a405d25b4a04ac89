//go:build linux

package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

const (
	// recordMemory is how long something that arrived is remembered: longer than any run.
	recordMemory = 15 * time.Minute
	// maxRecorded bounds what is remembered of each kind. A responder of a plan at all
	// limits gets fewer requests in a run.
	maxRecorded = 1 << 15
	// maxSampleInterval separates two looks at the handshakes that have begun.
	maxSampleInterval = 2 * time.Second
	// handshakeAge is how long a handshake has to be under way to count as one whose answer
	// was lost: those that will be completed are so in a round trip.
	handshakeAge = 300 * time.Millisecond
	// settleTries bounds how often the handshakes are looked at while some of them end.
	settleTries = 5
)

// recorder notes what reaches a responder: requests by their nonce, and handshakes that
// were begun and never completed, by where they came from. A SYN whose answer is lost never
// becomes a connection, but the kernel lists it while it repeats its answer.
type recorder struct {
	kernel kernelTable
	logf   func(format string, args ...any)

	mu         sync.Mutex
	requests   map[requestKey]*heard
	handshakes map[handshake]*begun
	// lost counts what arrived and was not noted, for want of room.
	lost map[flow.Protocol]uint64
	// ended counts the handshakes of TCP that were noted and that the kernel has given up
	// before their time: its counters have them, too.
	ended uint64
	// blind says of which protocols handshakes cannot be seen at all, and why.
	blind map[flow.Protocol]string
	// first is what was so when the responder began; marks are what was so when each owner
	// was last answered.
	first mark
	marks map[string]mark
}

type requestKey struct {
	plan  string
	check int
}

// heard are the requests of a check in the last round of which one came.
type heard struct {
	round, count int
	at           time.Time
}

type handshake struct {
	protocol flow.Protocol
	port     uint16
	peer     netip.AddrPort
}

// begun is a handshake that was not completed. Of TCP, missed counts the looks since the
// kernel last listed it, and counted says that it is among those that ended before their time.
type begun struct {
	first, last time.Time
	missed      int
	counted     bool
}

// mark is a moment in the life of a recorder.
type mark struct {
	// answered is the ID of the request that was answered then.
	answered string
	at       time.Time
	// untold is what had gone without a note.
	untold map[flow.Protocol]tally
}

// tally counts what leaves no other trace than in the counters of the kernel.
type tally struct {
	kernel map[string]uint64
	// lost is what the recorder had no room for, and noted what the counters have, and the
	// recorder as well.
	lost, noted uint64
}

// since returns what was added after an earlier tally, and says where it was counted.
func (t tally) since(last tally) (more int64, what string) {
	var names []string
	if more = int64(t.lost - last.lost); more != 0 {
		names = append(names, fmt.Sprintf("no room: %d", more))
	}
	more -= int64(t.noted - last.noted)
	for _, name := range slices.Sorted(maps.Keys(t.kernel)) {
		if n := int64(t.kernel[name] - last.kernel[name]); n != 0 {
			more += n
			names = append(names, fmt.Sprintf("%s: %d", name, n))
		}
	}
	return more, strings.Join(names, ", ")
}

func newRecorder(logf func(string, ...any)) *recorder {
	return &recorder{
		kernel: kernelTable{dir: "/proc/self/net"}, logf: logf,
		requests: map[requestKey]*heard{}, handshakes: map[handshake]*begun{}, lost: map[flow.Protocol]uint64{},
		blind: map[flow.Protocol]string{}, marks: map[string]mark{},
	}
}

// request notes a request.
func (r *recorder) request(p flow.Protocol, nonce string) {
	plan, check, round, ok := wire.ParseRoundNonce(nonce)
	if !ok {
		return
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.requests[requestKey{plan, check}]
	switch {
	case a == nil:
		if !makeRoom(r.requests, func(a *heard) bool { return now.Sub(a.at) > recordMemory }) {
			r.lost[p]++
			return
		}
		r.requests[requestKey{plan, check}] = &heard{round, 1, now}
	case round > a.round:
		*a = heard{round, 1, now}
	case round == a.round:
		a.count, a.at = a.count+1, now
	}
}

// began notes a handshake that has begun.
func (r *recorder) began(p flow.Protocol, port uint16, peer netip.AddrPort) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note(handshake{p, port, unzoned(peer)}, time.Now())
}

// note notes a handshake, with the lock held.
func (r *recorder) note(h handshake, now time.Time) {
	if h.peer.Addr().IsLoopback() {
		return // the responder's own self-test
	}
	b := r.handshakes[h]
	switch {
	case b == nil:
		if !makeRoom(r.handshakes, func(b *begun) bool { return now.Sub(b.last) > recordMemory }) {
			r.lost[h.protocol]++
			return
		}
		b = &begun{first: now}
		r.handshakes[h] = b
	case b.missed > 1, h.protocol != flow.TCP && now.Sub(b.last) > r.kernel.lifetime():
		// The first is over, and the peer uses its port again.
		*b = begun{first: now}
	case b.counted:
		// One look at the table may have missed it. If it is another one after all, the
		// counters, which have the end of the first, say that something was not noted.
		b.counted = false
		r.ended--
	}
	b.last, b.missed = now, 0
}

// completed takes back a handshake: the answer was not lost.
func (r *recorder) completed(p flow.Protocol, port uint16, peer netip.AddrPort) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := handshake{p, port, unzoned(peer)}
	// One that was listed just now left the table because it was complete. What was there long
	// before was another one from the same port, which has ended.
	if b := r.handshakes[h]; b != nil && b.counted && time.Since(b.last) < 2*maxSampleInterval {
		r.ended--
	}
	delete(r.handshakes, h)
}

func unzoned(p netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(p.Addr().Unmap().WithZone(""), p.Port())
}

// makeRoom tells whether one more entry fits, once those that are too old are gone.
func makeRoom[K comparable, V any](m map[K]V, old func(V) bool) bool {
	if len(m) >= maxRecorded {
		maps.DeleteFunc(m, func(_ K, v V) bool { return old(v) })
	}
	return len(m) < maxRecorded
}

// begin takes the counters of the kernel as they are before anything arrives.
func (r *recorder) begin(tcp []uint16) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(tcp) > 0 {
		if err := r.kernel.shows(tcp); err != nil {
			r.blind[flow.TCP] = fmt.Sprintf("connections that have begun cannot be listed: %v", err)
		}
	}
	r.first = mark{at: time.Now(), untold: r.untold()}
	for p, why := range r.blind {
		r.logf("Not all of %s is recorded: %s", p, why)
	}
}

// watch looks at the handshakes of TCP that have begun until the context ends: often enough
// to see each, since the kernel keeps them until it has repeated its answer for some time.
func (r *recorder) watch(ctx context.Context, tcp []uint16) {
	if len(tcp) == 0 {
		return
	}
	every := min(maxSampleInterval, r.kernel.lifetime()/2)
	for sleep(ctx, every) {
		r.sample(tcp)
	}
}

// sample notes the handshakes of TCP that are under way, and those that ended. The lock is
// held while the table is read: whatever is completed in the meantime is taken back
// afterwards.
func (r *recorder) sample(tcp []uint16) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sampleLocked(tcp)
}

func (r *recorder) sampleLocked(tcp []uint16) {
	if len(tcp) == 0 || r.blind[flow.TCP] != "" {
		return
	}
	halfOpen, err := r.kernel.halfOpen()
	if err != nil {
		r.blind[flow.TCP] = fmt.Sprintf("connections that have begun cannot be listed: %v", err)
		return
	}
	life := r.kernel.lifetime()
	now, early := time.Now(), max(life/2, life-2*maxSampleInterval)
	for _, h := range halfOpen {
		if slices.Contains(tcp, h.port) {
			r.note(handshake{flow.TCP, h.port, unzoned(h.peer)}, now)
		}
	}
	for h, b := range r.handshakes {
		if h.protocol != flow.TCP || b.last.Equal(now) {
			continue
		}
		// One whose time was up leaves no trace in the counters. The answer is repeated for the
		// last time when half of it has passed, and it takes up to a sample to see the end.
		if b.missed++; b.missed == 1 && now.Sub(b.first) < early {
			b.counted = true
			r.ended++
		}
	}
}

// untold counts what has gone without a note so far, with the lock held.
func (r *recorder) untold() map[flow.Protocol]tally {
	out := map[flow.Protocol]tally{}
	for _, p := range []flow.Protocol{flow.TCP, flow.UDP, flow.SCTP} {
		counters, err := r.kernel.dropped(p)
		if err != nil && r.blind[p] == "" {
			r.blind[p] = fmt.Sprintf("the kernel's counters cannot be read: %v", err)
		}
		t := tally{kernel: counters, lost: r.lost[p]}
		if p == flow.TCP {
			t.noted = r.ended
		}
		out[p] = t
	}
	return out
}

// settle brings table and counters of the kernel together, with the lock held: a handshake
// that ends between a look at one and at the other would count as one that was never noted.
// What it returns was counted right before the last look, and was still so after it.
func (r *recorder) settle(tcp []uint16) map[flow.Protocol]tally {
	out := r.untold()
	for range settleTries {
		before := out
		r.sampleLocked(tcp)
		if out = r.untold(); maps.Equal(before[flow.TCP].kernel, out[flow.TCP].kernel) {
			break
		}
	}
	return out
}

// answer returns the record for a request; nil if the owner has been answered already.
func (r *recorder) answer(ctx context.Context, owner string, request wire.RecordRequest, tcp []uint16) *wire.Record {
	r.mu.Lock()
	last, known := r.marks[owner]
	r.mu.Unlock()
	if known && last.answered == request.ID {
		return nil
	}
	if !known {
		last = r.first
	}
	r.sample(tcp)
	asked := time.Now()
	if len(r.since(last.at, asked)) > 0 {
		// Those that are to be completed have the time for it.
		sleep(ctx, handshakeAge)
		r.sample(tcp)
	}
	record := &wire.Record{Version: wire.Version, ID: request.ID, Handshakes: r.since(last.at, asked)}
	r.mu.Lock()
	defer r.mu.Unlock()
	record.Requests = r.requestsOf(request)
	untold := r.settle(tcp)
	record.Unseen = maps.Clone(r.blind)
	for p, t := range untold {
		if more, what := t.since(last.untold[p]); more > 0 && record.Unseen[p] == "" {
			record.Unseen[p] = fmt.Sprintf("the responder dropped %d packets or handshakes without a trace (%s)", more, what)
		}
	}
	r.marks[owner] = mark{request.ID, asked, untold}
	return record
}

// since returns the handshakes that were begun after a time and were so at another one.
func (r *recorder) since(from, at time.Time) []wire.Handshakes {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := map[wire.Handshakes]int{}
	for h, b := range r.handshakes {
		if b.first.After(from) && !b.first.After(at) {
			counts[wire.Handshakes{Protocol: h.protocol, Port: h.port, From: h.peer.Addr()}]++
		}
	}
	var out []wire.Handshakes
	for h, n := range counts {
		h.Count = n
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b wire.Handshakes) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), a.From.Compare(b.From))
	})
	return out
}

// requestsOf returns what arrived of the checks asked for, with the lock held.
func (r *recorder) requestsOf(request wire.RecordRequest) []wire.Requests {
	var out []wire.Requests
	for _, plan := range slices.Sorted(maps.Keys(request.Checks)) {
		for _, check := range request.Checks[plan] {
			if a := r.requests[requestKey{plan, check}]; a != nil {
				out = append(out, wire.Requests{Plan: plan, Check: check, Round: a.round, Count: a.count})
			}
		}
	}
	return out
}

// Records answers the requests that were not answered before, and forgets the owners that
// ask no more. It takes up to handshakeAge for each.
func (r *Responder) Records(ctx context.Context, requests map[string]wire.RecordRequest) ([]wire.Record, error) {
	r.record.mu.Lock()
	maps.DeleteFunc(r.record.marks, func(owner string, _ mark) bool { _, asks := requests[owner]; return !asks })
	r.record.mu.Unlock()
	var out []wire.Record
	var errs []error
	for _, owner := range slices.Sorted(maps.Keys(requests)) {
		if v := requests[owner].Version; v != wire.Version {
			errs = append(errs, fmt.Errorf("record request version %d is not understood by this probe, which speaks version %d: use operator and probe images of the same release", v, wire.Version))
			continue
		}
		if record := r.record.answer(ctx, owner, requests[owner], r.tcpPorts()); record != nil {
			out = append(out, *record)
		}
	}
	return out, errors.Join(errs...)
}

// tcpPorts returns the ports of TCP that the responder listens on.
func (r *Responder) tcpPorts() []uint16 {
	var out []uint16
	for _, l := range r.listeners {
		if l.protocol == flow.TCP && !slices.Contains(out, l.port) {
			out = append(out, l.port)
		}
	}
	return out
}
