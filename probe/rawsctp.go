//go:build linux

package probe

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/sctp"
	"github.com/pathproof/pathproof/probe/wire"
)

// SCTP over a raw socket, for kernels without SCTP. Where the kernel has it, it must
// not be used: the kernel would answer the packets of associations that it knows
// nothing of with ABORT (RFC 9260, section 8.4), in the midst of ours.

// rawDetail marks the attempts that were made without the kernel's SCTP.
const rawDetail = "raw SCTP"

// rawStream is stream for SCTP over a raw socket.
func (s *session) rawStream(ctx context.Context, target netip.AddrPort, nonce string) attempt {
	a := s.rawAttempt(ctx, target, nonce)
	if a.outcome.Closed() && s.kernelSCTP(target.Addr()) {
		a = attempt{outcome: wire.ProbeError, detail: "the kernel got SCTP of its own meanwhile, and may have spoken for it"}
	}
	if a.detail == "" {
		a.detail = rawDetail
	} else {
		a.detail = rawDetail + ": " + a.detail
	}
	return a
}

// kernelSCTP tells whether the kernel has SCTP. Modules come while a probe runs.
func (s *stack) kernelSCTP(addr netip.Addr) bool {
	fd, err := s.newSocket(flow.SCTP, addr)
	if err != nil {
		return false
	}
	_ = unix.Close(fd)
	return true
}

func (s *session) rawAttempt(ctx context.Context, target netip.AddrPort, nonce string) attempt {
	source, err := s.claimRaw(target)
	if err != nil {
		return failed(err)
	}
	peer, err := s.peer(target.Addr())
	if err != nil {
		return failed(err)
	}
	if !peer.turn(ctx) {
		return failed(cancelled(ctx))
	}
	ports := rawPorts{source, target.Port()}
	events, err := peer.join(ports)
	if err != nil {
		return failed(err)
	}
	defer peer.leave(ports)
	c := &rawConn{peer: peer, events: events, client: sctp.NewClient(ports.source, ports.destination), span: span{opened: time.Now()}, timer: time.NewTimer(s.timeout)}
	c.deadline = c.opened.Add(s.timeout)
	defer c.timer.Stop()
	a := c.handshake(ctx)
	a.span = c.span
	if a.outcome != wire.Connected {
		return a
	}
	if nonce != "" {
		c.echo(ctx, nonce, &a)
	}
	c.finish(ctx)
	return a
}

// The usual ephemeral ports of Linux (ip(7), ip_local_port_range).
const (
	firstSource = 32768
	lastSource  = 60999
)

// claimRaw reserves a source port that this run never used for the target. No kernel
// gives out the ports of raw sockets.
func (s *stack) claimRaw(target netip.AddrPort) (uint16, error) {
	for range maxPortTries {
		var b [2]byte
		_, _ = rand.Read(b[:]) // never fails
		port := firstSource + binary.BigEndian.Uint16(b[:])%(lastSource-firstSource+1)
		if s.claim(portUse{flow.SCTP, port, target}) {
			return port, nil
		}
	}
	return 0, errNoPort
}

// rawConn is one association of one attempt.
type rawConn struct {
	peer   *rawPeer
	events <-chan rawEvent
	client *sctp.Client
	// span.opened is when the timer began to run.
	span
	timer    *time.Timer
	deadline time.Time
	// late is set once the time is up, and the last packets are looked for.
	late bool
}

// lateGrace is how long an attempt whose time is up waits for what had arrived in time to be
// handed to it.
const lateGrace = 10 * time.Millisecond

// handshake sets up the association. Once the target has answered the first packet,
// nothing that follows can be silence or a refusal: it came through and back.
func (c *rawConn) handshake(ctx context.Context) attempt {
	err := c.peer.send(c.client.Init())
	if err == nil {
		c.sent = time.Now()
	}
	if err == nil {
		err = c.await(ctx, func() bool { return c.client.State() >= sctp.Established })
	}
	rtt := max(time.Since(c.opened), 1)
	switch c.client.State() {
	case sctp.Established:
		return attempt{outcome: wire.Connected, rtt: rtt}
	case sctp.Ended:
		return attempt{outcome: wire.Connected, rtt: rtt, detail: "ended after the handshake"}
	case sctp.Refused:
		return attempt{outcome: wire.Refused, rtt: rtt}
	case sctp.Dropped:
		return half("ABORT")
	case sctp.CookieEchoed:
		if a := failed(err); a.detail != "" {
			return half(a.detail)
		}
		return half("silence")
	case sctp.CookieWait:
	}
	return failed(err)
}

// half is a handshake that the target began and did not end: nothing is learned from
// it, since the path was open to one packet and not, or not in time, to the next.
func half(what string) attempt {
	return attempt{outcome: wire.ProbeError, detail: "half a handshake: INIT ACK, then " + what}
}

// errEnded says that the peer ended an association that was set up.
var errEnded = errors.New("ended by peer")

// echo asks the peer to echo the nonce and records what came. Whatever goes wrong,
// the association was made: the outcome stays Connected.
func (c *rawConn) echo(ctx context.Context, nonce string, a *attempt) {
	if c.client.State() == sctp.Ended {
		return
	}
	var line []byte
	err := c.peer.send(c.client.Send(request(nonce)))
	if err == nil {
		err = c.await(ctx, func() bool {
			line = c.client.Received()
			if i := bytes.IndexByte(line, '\n'); i >= 0 {
				line = line[:i+1]
				return true
			}
			return len(line) >= maxLine || c.client.State() == sctp.Ended
		})
	}
	switch {
	case err == nil && c.client.State() == sctp.Ended:
		err = errEnded
	case err != nil && failed(err).outcome == wire.TimedOut:
		err = os.ErrDeadlineExceeded
	}
	a.echoed(line, err, nonce, func() netip.Addr { return c.peer.local })
}

// finish ends an association as a client does that has got what it wanted. A peer that
// does not answer is told to forget it.
func (c *rawConn) finish(ctx context.Context) {
	if c.client.State() != sctp.Established {
		return
	}
	c.timer.Reset(politeClose)
	c.deadline, c.late = time.Now().Add(politeClose), false
	err := c.peer.send(c.client.Shutdown())
	if err == nil {
		err = c.await(ctx, func() bool { return c.client.State() == sctp.Ended })
	}
	if err != nil {
		_ = c.peer.send(c.client.Abort())
	}
}

// await takes packets and answers them until done. The error is an *outcomeError.
func (c *rawConn) await(ctx context.Context, done func() bool) error {
	for !done() {
		select {
		case <-ctx.Done():
			return cancelled(ctx)
		case <-c.timer.C:
			if c.late {
				return c.silent(c.deadline)
			}
			// On a busy machine this is noticed some time later. What came in before must not be
			// called silence.
			c.late = true
			c.peer.catchUp()
			c.timer.Reset(lateGrace)
		case e := <-c.events:
			switch {
			case e.err != nil:
				return e.err
			case e.icmp != nil:
				if c.client.Owns(e.quoted) {
					return e.icmp.rejected()
				}
			default:
				if out := c.client.Receive(e.packet); out != nil {
					if err := c.peer.send(out); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}
