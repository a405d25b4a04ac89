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
	"github.com/pathproof/pathproof/probe/sctp"
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

// So it is with SCTP over a raw socket, which all attempts to an address share.
func TestLateIsNotSilentOfRawSCTP(t *testing.T) {
	now := time.Now()
	address := netip.MustParseAddr("10.0.0.1")
	for name, tc := range map[string]struct {
		answered bool
		sent     time.Duration // after it was opened; 0 for not at all
		want     wire.Outcome  // 0 if the handshake goes on
	}{
		"an answer that was there":      {true, time.Millisecond, 0},
		"a packet that had its time":    {false, time.Millisecond, wire.TimedOut},
		"one that left at the very end": {false, 59 * time.Second, wire.ProbeError},
		"one that was never sent":       {false, 0, wire.ProbeError},
	} {
		t.Run(name, func(t *testing.T) {
			// What the kernel has got, and nobody has read.
			far, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = far.Close() }()
			near, err := newStack(nil).open(t.Context(), flow.UDP, netip.MustParseAddrPort(far.LocalAddr().String()), time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			defer near.close()
			if err := near.connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			peer := &rawPeer{file: near.file, raw: near.raw, v6: true, waiting: map[rawPorts]chan<- rawEvent{}}
			ports := rawPorts{40000, 9000}
			events, err := peer.join(ports)
			if err != nil {
				t.Fatal(err)
			}
			c := &rawConn{peer: peer, events: events, client: sctp.NewClient(ports.source, ports.destination), timer: time.NewTimer(0)}
			c.opened, c.deadline = now.Add(-time.Minute), now
			if tc.sent > 0 {
				c.sent = c.opened.Add(tc.sent)
			}
			host := sctp.NewHost(func(uint16, netip.Addr, []byte) []byte { return nil })
			host.Listen(ports.destination)
			if ack := host.Receive(now, address, netip.MustParseAddr("10.0.0.2"), c.client.Init()); tc.answered {
				if _, err := far.WriteTo(ack, net.UDPAddrFromAddrPort(netip.AddrPortFrom(near.local(), localPort(t, near)))); err != nil {
					t.Fatal(err)
				}
			}
			err = c.await(t.Context(), func() bool { return c.client.State() == sctp.CookieEchoed })
			var oe *outcomeError
			if errors.As(err, &oe); (err == nil) != (tc.want == 0) || (err != nil && oe.outcome != tc.want) {
				t.Errorf("got %v, want %s", err, tc.want)
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
