//go:build linux

package probe

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// politeClose is how long a closing connection may wait for the peer's end of
// it. A close() with unread data sends a RST, which some servers log as an
// aborted client.
const politeClose = 100 * time.Millisecond

// maxDatagram is how much of an answer is read. A resolver sends at most 512 bytes
// to who asks without EDNS(0) (RFC 1035, section 4.2.1); some send more.
const maxDatagram = 2048

// datagrams are buffers for answers. An attempt takes one when there is something to read,
// and not before: thousands may wait at the same time in a pod of 64 MiB.
var datagrams = sync.Pool{New: func() any { return new([maxDatagram]byte) }}

// stream opens a TCP or SCTP connection. Without a nonce the handshake is all
// there is; with one, our responder has to echo it.
func (s *session) stream(ctx context.Context, p flow.Protocol, target netip.AddrPort, nonce string) (a attempt) {
	c, err := s.open(ctx, p, target, s.timeout)
	if err != nil {
		if a := failed(err); p != flow.SCTP || !s.rawSCTP || a.outcome != wire.Unsupported {
			return a
		}
		return s.rawStream(ctx, target, nonce)
	}
	defer c.close()
	defer func() { a.span = c.span }()
	if err := c.connect(ctx); err != nil {
		a := failed(err)
		a.rtt = c.refusalTime(a.outcome)
		return a
	}
	a = attempt{outcome: wire.Connected, rtt: c.elapsed()}
	if p == flow.TCP {
		c.heard = c.answeredBy(c.opened.Add(a.rtt))
	}
	if nonce != "" {
		c.echo(nonce, &a)
	}
	if s.brief && p == flow.TCP {
		c.forget()
	} else {
		c.finish(ctx)
	}
	return a
}

// elapsed returns the time since the attempt began.
func (c *conn) elapsed() time.Duration { return max(time.Since(c.opened), 1) }

// refusalTime returns the elapsed time when the target itself refused: that is
// an answer, and its time is a round trip.
func (c *conn) refusalTime(o wire.Outcome) time.Duration {
	if o == wire.Refused {
		return c.elapsed()
	}
	return 0
}

// echo asks the peer of a connection to echo the nonce and records what came.
// Whatever goes wrong, the connection was made: the outcome stays Connected.
func (c *conn) echo(nonce string, a *attempt) {
	line, err := c.exchangeLine(request(nonce))
	a.echoed(line, err, nonce, c.local)
}

// echoed records whether a line is the echo of the nonce. local tells the address that
// it was asked for from.
func (a *attempt) echoed(line []byte, err error, nonce string, local func() netip.Addr) {
	if seen, ok := parseReply(line, nonce); ok {
		a.outcome = wire.Replied
		a.seenAs = translated(local(), seen)
		return
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		a.detail = "no echo: silence"
	case err == nil:
		a.detail = "no echo: another answer"
	case errors.Is(err, io.EOF):
		a.detail = "no echo: closed by peer"
	default:
		a.detail = "no echo: " + err.Error()
	}
}

// translated returns the address that the responder saw if it is not ours.
func translated(local, seen netip.Addr) netip.Addr {
	if local.IsValid() && local.WithZone("") != seen.Unmap() {
		return seen.Unmap()
	}
	return netip.Addr{}
}

// exchangeLine sends a line and reads one of at most maxLine bytes.
func (c *conn) exchangeLine(out []byte) ([]byte, error) {
	if _, err := c.file.Write(out); err != nil {
		return nil, err
	}
	line := make([]byte, 0, maxLine)
	for len(line) < maxLine {
		n, err := c.Read(line[len(line):maxLine])
		line = line[:len(line)+n]
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			return line[:i+1], nil
		}
		if err != nil {
			return line, err
		}
	}
	return line, nil
}

// finish ends a connection as a client does that has got what it wanted: it
// says so (FIN), reads what is left and lets the peer close.
func (c *conn) finish(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	err := c.raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
	if err != nil || c.file.SetDeadline(time.Now().Add(politeClose)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(c.file, 1<<16))
}

// forget ends a connection without leaving it in anybody's tables: without it, the kernel
// would keep its port for a minute, and the connection tables on the way its entry for
// two. The peer reads its end first (FIN), and nothing else: the reset that follows comes
// when there is nothing left to read.
func (c *conn) forget() {
	_ = c.raw.Control(func(fd uintptr) {
		if unix.Shutdown(int(fd), unix.SHUT_WR) == nil {
			_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		}
	})
}

// answeredBy returns when the answer to the first packet of a TCP connection had arrived,
// at the latest: by how long the kernel waited for it, or else when it was seen.
func (c *conn) answeredBy(seen time.Time) time.Time {
	at := seen
	_ = c.raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil || info.Rtt == 0 {
			return
		}
		if t := c.sent.Add(time.Duration(info.Rtt) * time.Microsecond); t.Before(at) {
			at = t
		}
	})
	return at
}

// datagram sends one datagram and waits for any answer.
func (s *session) datagram(ctx context.Context, target netip.AddrPort, nonce string) attempt {
	var a attempt
	at, err := s.converse(ctx, target, request(nonce), s.timeout, func(c *conn, b []byte) bool {
		a = attempt{outcome: wire.Connected, rtt: c.elapsed()}
		if nonce == "" {
			return true
		}
		if seen, ok := parseReply(b, nonce); ok {
			a.outcome = wire.Replied
			a.seenAs = translated(c.local(), seen)
		} else {
			a.detail = "no echo: another answer"
		}
		return true
	})
	if err != nil {
		a = failed(err)
	}
	a.span = at
	return a
}

// converse sends a datagram and hands every datagram that comes back to accept,
// until that returns true, and returns when it was sent; accept must not keep them. A
// connected socket takes none from other peers. The error is an *outcomeError.
func (s *stack) converse(ctx context.Context, target netip.AddrPort, out []byte, timeout time.Duration, accept func(*conn, []byte) bool) (span, error) {
	c, err := s.open(ctx, flow.UDP, target, timeout)
	if err != nil {
		return span{}, err
	}
	defer c.close()
	if err := c.connect(ctx); err != nil {
		return span{}, err
	}
	// Connecting a datagram socket sends nothing.
	c.sent = time.Time{}
	if _, err := c.file.Write(out); err != nil {
		return span{}, c.explainDatagram(ctx, err)
	}
	c.sent = time.Now()
	for accepted := false; !accepted; {
		err := c.receive(func(b []byte) { accepted = accept(c, b) })
		if err != nil {
			return c.span, c.explainDatagram(ctx, err)
		}
	}
	return c.span, nil
}

// receive waits for a datagram and hands it to take, which must not keep it. What is there
// when the deadline is noticed counts.
func (c *conn) receive(take func([]byte)) error {
	in, n, err := (*[maxDatagram]byte)(nil), 0, error(nil)
	read := func(fd uintptr) (done bool) {
		in = datagrams.Get().(*[maxDatagram]byte)
		if n, err = unix.Read(int(fd), in[:]); err == nil || !isAny(err, unix.EAGAIN, unix.EINTR) {
			return true
		}
		datagrams.Put(in)
		return false
	}
	if waited := c.raw.Read(read); waited != nil {
		there := false
		if !errors.Is(waited, os.ErrDeadlineExceeded) || c.raw.Control(func(fd uintptr) { there = read(fd) }) != nil || !there {
			return waited
		}
	}
	defer datagrams.Put(in)
	if err == nil {
		take(in[:n])
	}
	return err
}

// explainDatagram is explain for a protocol without handshake: there, a refusal
// is always an ICMP error, even if another reader had emptied the queue.
func (c *conn) explainDatagram(ctx context.Context, err error) error {
	err = c.explain(ctx, err)
	var oe *outcomeError
	if errors.As(err, &oe) && oe.outcome == wire.Refused {
		return &outcomeError{wire.Rejected, localDetail(unix.ECONNREFUSED)}
	}
	return err
}
