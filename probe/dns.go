//go:build linux

package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// This file is the only user of miekg/dns besides the resolver's configuration,
// and it uses the codec alone. Queries travel over the same sockets as all other
// attempts, so that a DNS check has the same timeouts, source ports and error
// queue as they have.

// ask makes one attempt of a DNS check: one query, or one for each name that the search
// list makes, as glibc does (resolver(3), res_search): the next name is asked for when
// one does not exist, has no record of the type, or its server fails; whatever else
// comes is the result. All of it takes one timeout at most. Once the server has answered
// about one name, silence about the next one is none of the path.
func (s *session) ask(ctx context.Context, c *wire.Check, server netip.AddrPort) attempt {
	names := []string{dns.Fqdn(c.QueryName)}
	if c.Search {
		conf, err := s.resolver()
		if err != nil {
			return failed(err)
		}
		names = conf.names(c.QueryName)
	}
	deadline := time.Now().Add(s.timeout)
	var last, failure attempt
	for i, name := range names {
		left := time.Until(deadline)
		if left < time.Millisecond {
			if i == 0 {
				return attempt{outcome: wire.ProbeError, detail: "held up: no time left to ask"}
			}
			last.outcome, last.detail = wire.Unanswered, "no time left to ask for "+name
			return last
		}
		a, m := s.query(ctx, c.Transport, server, name, c.QueryType, left)
		if m != nil {
			a = compared(a, m, c.Answer)
		}
		if c.Search {
			a.detail = strings.TrimSuffix(name+" "+a.detail, " ")
		}
		if i > 0 && a.outcome.Closed() {
			// What answered before is not out of reach. A server that asks others may be slow to
			// say that it has no answer.
			last.outcome, last.detail = wire.Unanswered, a.detail+" "+a.outcome.String()+", after an answer about another name"
			return last
		}
		switch last = a; a.outcome {
		case wire.NameNotFound:
		case wire.ServerFailure:
			failure = a
		default:
			return a
		}
	}
	if failure.outcome != 0 {
		// That no name exists is not certain.
		return failure
	}
	return last
}

// compared tells whether an answer with records is the one that was asked for.
func compared(a attempt, m *dns.Msg, want wire.Answer) attempt {
	if a.outcome != wire.Connected || want.IsZero() {
		return a
	}
	same := false
	switch {
	case want.NotFound:
	case want.CNAME != "":
		target, alias := canonicalName(m)
		if same = strings.EqualFold(target, want.CNAME); alias && m.Question[0].Qtype != dns.TypeCNAME {
			a.detail += " CNAME " + target
		}
	default:
		// Each is in its list once.
		got, wanted := addresses(m), slices.Clone(want.Addresses)
		slices.SortFunc(got, netip.Addr.Compare)
		slices.SortFunc(wanted, netip.Addr.Compare)
		same = slices.Equal(slices.Compact(got), slices.Compact(wanted))
	}
	if !same {
		a.outcome = wire.AnswerDiffers
	}
	return a
}

// canonicalName returns what the name that was asked for is an alias of.
func canonicalName(m *dns.Msg) (target string, ok bool) {
	for _, rr := range m.Answer {
		if c, is := rr.(*dns.CNAME); is && strings.EqualFold(c.Hdr.Name, m.Question[0].Name) {
			return c.Target, true
		}
	}
	return "", false
}

// query sends one question to one resolver and returns how it ended, with the
// answer if one came. An answer over UDP that is truncated is asked for again
// over TCP (RFC 7766, section 5), within the same timeout.
func (s *stack) query(ctx context.Context, t wire.Transport, server netip.AddrPort, name, qtype string, timeout time.Duration) (attempt, *dns.Msg) {
	code, ok := dns.StringToType[strings.ToUpper(qtype)]
	if !ok {
		return attempt{outcome: wire.ProbeError, detail: "unknown query type " + qtype}, nil
	}
	// Without EDNS(0), as the stub resolvers of most images ask.
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), code)
	packed, err := q.Pack()
	if err != nil {
		return attempt{outcome: wire.ProbeError, detail: "packing query: " + err.Error()}, nil
	}
	if t == wire.DNSTCP {
		return s.queryTCP(ctx, server, q, packed, timeout)
	}
	start := time.Now()
	a, answer := s.queryUDP(ctx, server, q, packed, timeout)
	if answer == nil || !answer.Truncated {
		return a, answer
	}
	q.Id = dns.Id()
	if packed, err = q.Pack(); err != nil {
		return attempt{outcome: wire.ProbeError, detail: "packing query: " + err.Error()}, nil
	}
	remaining := max(timeout-time.Since(start), time.Millisecond)
	retry, full := s.queryTCP(ctx, server, q, packed, remaining)
	switch {
	case full != nil:
		retry.rtt = a.rtt
		retry.detail = "truncated; over TCP: " + retry.detail
		return retry, full
	case ctx.Err() != nil:
		return retry, nil
	}
	detail := "truncated; over TCP: " + retry.outcome.String()
	if retry.detail != "" {
		detail += " " + retry.detail
	}
	return attempt{outcome: wire.Truncated, rtt: a.rtt, detail: detail}, nil
}

// ignored is added to a silence in which something else was heard.
const ignored = "ignored an answer to another question"

func (s *stack) queryUDP(ctx context.Context, server netip.AddrPort, q *dns.Msg, packed []byte, timeout time.Duration) (attempt, *dns.Msg) {
	var (
		answer *dns.Msg
		broken error
		rtt    time.Duration
		stray  bool
	)
	at, err := s.converse(ctx, server, packed, timeout, func(c *conn, b []byte) bool {
		if answer, broken = parseAnswer(q, b); answer == nil {
			// Forged or late: RFC 5452, section 9.1, says to wait for the right one.
			stray = true
			return false
		}
		rtt = c.elapsed()
		return true
	})
	if err != nil {
		a := failed(err)
		if stray && a.outcome == wire.TimedOut {
			a.detail = ignored
		}
		a.span = at
		return a, nil
	}
	if broken != nil {
		return attempt{outcome: wire.Unanswered, detail: "an answer that cannot be read: " + broken.Error(), rtt: rtt, span: at}, nil
	}
	a := judge(q, answer)
	a.rtt, a.span = rtt, at
	return a, answer
}

func (s *stack) queryTCP(ctx context.Context, server netip.AddrPort, q *dns.Msg, packed []byte, timeout time.Duration) (a attempt, answer *dns.Msg) {
	c, err := s.open(ctx, flow.TCP, server, timeout)
	if err != nil {
		return failed(err), nil
	}
	defer c.close()
	// That it connected is an answer, whatever came of the question.
	begun := c.span
	defer func() { a.span = begun }()
	if err := c.connect(ctx); err != nil {
		begun = c.span
		a := failed(err)
		if a.outcome == wire.Connected {
			// A reset after the handshake: for DNS that is no answer.
			a.outcome, a.rtt = wire.Unanswered, c.elapsed()
			return a, nil
		}
		a.rtt = c.refusalTime(a.outcome)
		return a, nil
	}
	begun = c.span
	opened := c.elapsed()
	answer, err = c.exchangeDNS(q, packed)
	if err != nil {
		if ctx.Err() != nil {
			return failed(cancelled(ctx)), nil
		}
		if a := failed(c.silence()); late(ctx, err) && a.outcome == wire.ProbeError {
			return a, nil
		}
		// The handshake succeeded, so that nothing on the path is in the way.
		return attempt{outcome: wire.Unanswered, rtt: opened, detail: "tcp connected, no answer: " + reason(err)}, nil
	}
	a = judge(q, answer)
	a.rtt = c.elapsed()
	c.finish(ctx)
	if answer.Truncated {
		// There is nothing else to ask over, and part of an answer is none.
		return attempt{outcome: wire.Truncated, rtt: a.rtt, detail: "truncated over TCP"}, nil
	}
	return a, answer
}

// reason shortens the usual errors of a connection that gave no answer.
func reason(err error) string {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed by peer"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "silence"
	}
	return err.Error()
}

// exchangeDNS sends a message over TCP, with its length before it (RFC 1035,
// section 4.2.2), and reads messages until one answers the question.
func (c *conn) exchangeDNS(q *dns.Msg, packed []byte) (*dns.Msg, error) {
	// One write: some servers expect length and message in one segment (RFC 7766,
	// section 8).
	out := binary.BigEndian.AppendUint16(nil, uint16(len(packed)))
	c.sent = time.Time{} // what counts is the question
	if _, err := c.file.Write(append(out, packed...)); err != nil {
		return nil, err
	}
	c.sent = time.Now()
	for {
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return nil, err
		}
		in := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, in); err != nil {
			return nil, err
		}
		if answer, err := parseAnswer(q, in); answer != nil {
			return answer, err
		}
	}
}

// parseAnswer returns the message if it answers the question, and nil for
// anything else. Some servers leave the question out of an error; that is
// accepted, since the id still matches and only a success could mislead. So is a
// truncated message that ends in the middle of a record: what it says is that the answer
// has to be had over TCP. Of any other message that answers the question and has a record
// that cannot be read, the error says why: it is no silence.
func parseAnswer(q *dns.Msg, b []byte) (*dns.Msg, error) {
	m := new(dns.Msg)
	err := m.Unpack(b)
	if m.Truncated {
		err = nil
	}
	if !m.Response || m.Id != q.Id {
		return nil, nil
	}
	switch {
	case len(m.Question) == 0 && m.Rcode != dns.RcodeSuccess && err == nil:
		return m, nil
	case len(m.Question) != 1:
		return nil, nil
	}
	got, want := m.Question[0], q.Question[0]
	if !strings.EqualFold(got.Name, want.Name) || got.Qtype != want.Qtype || got.Qclass != want.Qclass {
		return nil, nil
	}
	return m, err
}

// judge names the outcome of an answer (RFC 1035, section 4.1.1; NOERROR without
// a record of the type is the NODATA of RFC 2308, section 2.2).
func judge(q, m *dns.Msg) attempt {
	rcode := dns.RcodeToString[m.Rcode]
	switch m.Rcode {
	case dns.RcodeNameError:
		return attempt{outcome: wire.NameNotFound, detail: rcode}
	case dns.RcodeServerFailure:
		return attempt{outcome: wire.ServerFailure, detail: rcode}
	case dns.RcodeSuccess:
	default:
		return attempt{outcome: wire.DNSRefused, detail: rcode}
	}
	var values []string
	for _, rr := range m.Answer {
		if t := rr.Header().Rrtype; t == q.Question[0].Qtype || q.Question[0].Qtype == dns.TypeANY {
			values = append(values, strings.TrimPrefix(rr.String(), rr.Header().String()))
		}
	}
	if len(values) == 0 {
		return attempt{outcome: wire.NameNotFound, detail: rcode + " without a record of the type"}
	}
	// Servers rotate records; sorted, the attempts of a round give one detail.
	slices.Sort(values)
	return attempt{outcome: wire.Connected, detail: rcode + " " + strings.Join(values, ",")}
}
