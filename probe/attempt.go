//go:build linux

package probe

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// maxDetailBytes is the bound of wire.Result.Detail.
const maxDetailBytes = 120

// attempt is how one attempt ended.
type attempt struct {
	outcome wire.Outcome
	// rtt is the time to the target's answer; 0 when it did not answer.
	rtt time.Duration
	// seenAs is the source address that our responder saw, when NAT changed it.
	seenAs netip.Addr
	// tried is the address of the check's host that the attempt was made to.
	tried netip.Addr
	// untried is the number of addresses of the host that no attempt was made to.
	untried int
	detail  string
	// span is when it was on the wire, as far as that is known.
	span span
}

// span bounds when an attempt was on the wire.
type span struct {
	// opened is before its first packet, from when the timeout runs, and sent after it;
	// zero until then.
	opened, sent time.Time
	// heard is when the answer to the first packet had arrived, if the kernel tells: a busy
	// processor lets who waits for it know late.
	heard time.Time
}

// silent is the outcome of an attempt that nothing answered until its deadline. It says
// nothing about the path when the probe itself was held up: then its packet left too late to
// be answered, or not at all.
func (s *span) silent(deadline time.Time) error {
	if timeout := deadline.Sub(s.opened); s.sent.IsZero() || deadline.Sub(s.sent) < timeout/2 {
		return &outcomeError{wire.ProbeError, "held up: the time to answer was over before the packet had left"}
	}
	return &outcomeError{outcome: wire.TimedOut}
}

// outcomeError is an error that already knows which outcome it is.
type outcomeError struct {
	outcome wire.Outcome
	detail  string
}

func (e *outcomeError) Error() string { return e.detail }

// failed turns an error into an attempt. An error that nobody classified is the
// probe's own: it proves nothing about the path.
func failed(err error) attempt {
	var oe *outcomeError
	if errors.As(err, &oe) {
		return attempt{outcome: oe.outcome, detail: oe.detail}
	}
	return attempt{outcome: wire.ProbeError, detail: err.Error()}
}

// cancelled is the error of an attempt that the end of the run cut short.
func cancelled(ctx context.Context) error {
	return &outcomeError{wire.ProbeError, "cancelled: " + context.Cause(ctx).Error()}
}

// attempt makes one attempt of a check on the wire, at the check's address.
func (s *session) attempt(ctx context.Context, c *wire.Check) attempt {
	target := netip.AddrPortFrom(c.Addr.Unmap(), c.Port)
	switch c.Transport {
	case wire.TCP:
		return s.stream(ctx, flow.TCP, target, c.Nonce)
	case wire.SCTP:
		return s.stream(ctx, flow.SCTP, target, c.Nonce)
	case wire.UDP:
		return s.datagram(ctx, target, c.Nonce)
	case wire.DNSUDP, wire.DNSTCP:
		return s.ask(ctx, c, target)
	}
	return attempt{outcome: wire.ProbeError, detail: "unknown transport " + string(c.Transport)}
}

// summarize makes the result of a round. Each distinct detail is kept once, in
// the order of the attempts.
func summarize(round []attempt) wire.Result {
	var (
		result  wire.Result
		details []string
	)
	for _, a := range round {
		result.Outcomes = append(result.Outcomes, a.outcome)
		if us := int(a.rtt.Microseconds()); a.rtt > 0 && (result.RTTMicroseconds == 0 || us < result.RTTMicroseconds) {
			// Below one microsecond would read as "no answer".
			result.RTTMicroseconds = max(1, us)
		}
		if !result.SeenAs.IsValid() {
			result.SeenAs = a.seenAs
		}
		if a.tried.IsValid() {
			result.Addresses = addOutcome(result.Addresses, a)
		}
		result.Untried = max(result.Untried, a.untried)
		if a.detail != "" && !slices.Contains(details, a.detail) {
			details = append(details, a.detail)
		}
	}
	slices.SortFunc(result.Addresses, func(a, b wire.AddressResult) int { return a.Addr.Compare(b.Addr) })
	result.Detail = clip(strings.Join(details, "; "))
	return result
}

// addOutcome adds the outcome of an attempt to those at its address.
func addOutcome(at []wire.AddressResult, a attempt) []wire.AddressResult {
	i := slices.IndexFunc(at, func(r wire.AddressResult) bool { return r.Addr == a.tried })
	if i < 0 {
		i = len(at)
		at = append(at, wire.AddressResult{Addr: a.tried})
	}
	at[i].Outcomes = append(at[i].Outcomes, a.outcome)
	return at
}

// clip makes a text fit for a report: printable, valid UTF-8, at most
// maxDetailBytes. Details may quote what a stranger put into a DNS record.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if len(s) <= maxDetailBytes {
		return s
	}
	const ellipsis = "…"
	cut := maxDetailBytes - len(ellipsis)
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + ellipsis
}
