//go:build linux

package probe

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// On a busy machine a deadline is noticed late. What the kernel has got by then counts, and
// what was never sent proves nothing: neither may be called silence, which would make an
// open path look closed.
func TestLateIsNotSilent(t *testing.T) {
	const timeout = time.Hour
	open := func(t *testing.T, p flow.Protocol, target net.Addr) *conn {
		t.Helper()
		c, err := newStack(nil).open(t.Context(), p, netip.MustParseAddrPort(target.String()), timeout)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.close)
		return c
	}
	past := func(t *testing.T, c *conn) {
		t.Helper()
		if err := c.file.SetDeadline(time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	outcome := func(err error) wire.Outcome {
		var oe *outcomeError
		if !errors.As(err, &oe) {
			return 0
		}
		return oe.outcome
	}
	t.Run("a handshake that was done", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		c := open(t, flow.TCP, l.Addr())
		if err := c.raw.Control(func(fd uintptr) { _, err = c.startConnect(int(fd)) }); err != nil {
			t.Fatal(err)
		}
		c.sent = c.opened
		if _, err := l.Accept(); err != nil {
			t.Fatal(err)
		}
		past(t, c)
		if err := c.connect(t.Context()); err != nil {
			t.Errorf("got %v (%s), want a connection", err, outcome(err))
		}
	})
	t.Run("an answer that was there", func(t *testing.T) {
		l, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		c := open(t, flow.UDP, l.LocalAddr())
		if err := c.connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		from := net.UDPAddrFromAddrPort(netip.AddrPortFrom(c.local(), localPort(t, c)))
		if _, err := l.WriteTo([]byte("here"), from); err != nil {
			t.Fatal(err)
		}
		past(t, c)
		var got string
		if err := c.receive(func(b []byte) { got = string(b) }); err != nil || got != "here" {
			t.Errorf("got %q, %v", got, err)
		}
		if err := c.receive(func([]byte) { t.Error("something was read again") }); !late(t.Context(), err) {
			t.Errorf("with nothing there: got %v, want the deadline", err)
		}
	})
	for name, tc := range map[string]struct {
		sent time.Duration // before the deadline; 0 for not at all
		want wire.Outcome
	}{
		"a packet that was never sent":  {0, wire.ProbeError},
		"one that left at the very end": {timeout / 100, wire.ProbeError},
		"one that had its time":         {timeout * 99 / 100, wire.TimedOut},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			c := open(t, flow.UDP, l.LocalAddr())
			if tc.sent > 0 {
				c.sent = c.deadline.Add(-tc.sent)
			}
			past(t, c)
			err = c.receive(func([]byte) { t.Error("something was read") })
			if got := outcome(c.explainDatagram(t.Context(), err)); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func localPort(t *testing.T, c *conn) uint16 {
	t.Helper()
	var port uint16
	err := c.raw.Control(func(fd uintptr) {
		if sa, err := unix.Getsockname(int(fd)); err == nil {
			port = addrPort(sa).Port()
		}
	})
	if err != nil || port == 0 {
		t.Fatalf("no local port: %v", err)
	}
	return port
}
