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
		rtt    time.Duration
		stray  bool
	)
	err := s.converse(ctx, server, packed, timeout, func(c *conn, b []byte) bool {
		if answer = parseAnswer(q, b); answer == nil {
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
		return a, nil
	}
	a := judge(q, answer)
	a.rtt = rtt
	return a, answer
}

func (s *stack) queryTCP(ctx context.Context, server netip.AddrPort, q *dns.Msg, packed []byte, timeout time.Duration) (attempt, *dns.Msg) {
	c, err := s.open(ctx, flow.TCP, server, timeout)
	if err != nil {
		return failed(err), nil
	}
	defer c.close()
	if err := c.connect(ctx); err != nil {
		a := failed(err)
		if a.outcome == wire.Connected {
			// A reset after the handshake: for DNS that is no answer.
			a.outcome = wire.TimedOut
		}
		a.rtt = c.refusalTime(a.outcome)
		return a, nil
	}
	answer, err := c.exchangeDNS(q, packed)
	if err != nil {
		if ctx.Err() != nil {
			return failed(cancelled(ctx)), nil
		}
		if a := failed(c.silence()); late(ctx, err) && a.outcome == wire.ProbeError {
			return a, nil
		}
		// The handshake succeeded, but the question is what counts for a DNS check:
		// it got no answer. The detail says how far it came.
		return attempt{outcome: wire.TimedOut, detail: "tcp connected, no answer: " + reason(err)}, nil
	}
	a := judge(q, answer)
	a.rtt = c.elapsed()
	c.finish(ctx)
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
		if answer := parseAnswer(q, in); answer != nil {
			return answer, nil
		}
	}
}

// parseAnswer returns the message if it answers the question, and nil for
// anything else. Some servers leave the question out of an error; that is
// accepted, since the id still matches and only a success could mislead.
func parseAnswer(q *dns.Msg, b []byte) *dns.Msg {
	m := new(dns.Msg)
	if m.Unpack(b) != nil || !m.Response || m.Id != q.Id {
		return nil
	}
	switch {
	case len(m.Question) == 0 && m.Rcode != dns.RcodeSuccess:
		return m
	case len(m.Question) != 1:
		return nil
	}
	got, want := m.Question[0], q.Question[0]
	if !strings.EqualFold(got.Name, want.Name) || got.Qtype != want.Qtype || got.Qclass != want.Qclass {
		return nil
	}
	return m
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
