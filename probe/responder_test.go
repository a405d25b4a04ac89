//go:build linux

package probe

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// get asks for the readiness of a responder inside its namespace.
func (n *namespace) get(url string) (status int, body string) {
	n.t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
			n.do(func() { c, err = new(net.Dialer).DialContext(ctx, network, address) })
			return c, err
		},
	}}
	resp, err := client.Get(url)
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestReadinessFailsWhenAListenerIsDead(t *testing.T) {
	cases := map[string]struct {
		protocol flow.Protocol
		v6       bool
		want     string
	}{
		"TCP over IPv4": {flow.TCP, false, "not answering: TCP/8080 on IPv4: Refused\n"},
		"TCP over IPv6": {flow.TCP, true, "not answering: TCP/8080 on IPv6: Refused\n"},
		"UDP over IPv4": {flow.UDP, false, "not answering: UDP/8080 on IPv4: Rejected icmp 3/3 from 127.0.0.1\n"},
		"UDP over IPv6": {flow.UDP, true, "not answering: UDP/8080 on IPv6: Rejected icmp6 1/4 from ::1\n"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			n := newNamespace(t)
			r := n.serve(Config{HealthPort: 8099, Listen: []flow.PortRange{
				ports(flow.TCP, 8080), ports(flow.UDP, 8080), ports(flow.TCP, 53), ports(flow.UDP, 53),
			}})
			for _, url := range []string{"http://127.0.0.1:8099/ready", "http://[::1]:8099/ready"} {
				if status, body := n.get(url); status != http.StatusOK || body != "ok\n" {
					t.Errorf("all alive: got %d %q, want 200", status, body)
				}
			}
			for _, l := range r.listeners {
				if l.protocol == tc.protocol && l.port == 8080 && l.loopback.Is6() == tc.v6 {
					l.close()
				}
			}
			if status, body := n.get("http://127.0.0.1:8099/ready"); status != http.StatusServiceUnavailable || body != tc.want {
				t.Errorf("one dead: got %d %q, want 503 %q", status, body, tc.want)
			}
			if status, _ := n.get("http://127.0.0.1:8099/other"); status != http.StatusNotFound {
				t.Errorf("another path: got %d, want 404", status)
			}
		})
	}
}

// A listener that accepts but does not echo is as dead as a closed one.
func TestReadinessNeedsTheEchoNotTheHandshake(t *testing.T) {
	n := newNamespace(t)
	r := n.listen(Config{HealthPort: 8099, Listen: []flow.PortRange{ports(flow.TCP, 8080)}})
	// All slots taken before it starts: it accepts nothing, but the kernel still
	// completes handshakes.
	for range maxConnections {
		r.slots <- struct{}{}
	}
	n.start(r)
	status, body := n.get("http://127.0.0.1:8099/ready")
	if want := "not answering: TCP/8080 on IPv4: Connected no echo: silence, TCP/8080 on IPv6: Connected no echo: silence\n"; status != http.StatusServiceUnavailable || body != want {
		t.Errorf("got %d %q, want 503 %q", status, body, want)
	}
}

func TestResponderToleratesGarbage(t *testing.T) {
	n := newNamespace(t)
	n.serve(Config{Listen: []flow.PortRange{ports(flow.TCP, 8080), ports(flow.UDP, 8080)}})
	garbage := map[string][]byte{
		"nothing":           {},
		"another protocol":  []byte("GET / HTTP/1.1\r\n\r\n"),
		"an endless line":   bytes.Repeat([]byte("a"), 10*maxLine),
		"a reply":           reply("abc", netip.MustParseAddr("10.0.0.1")),
		"a short request":   []byte(magic + "abc\n"),
		"binary":            {0, 1, 2, 3, 255},
		"a line of nothing": []byte("\n"),
	}
	for name, b := range garbage {
		t.Run(name, func(t *testing.T) {
			var udp, tcp net.Conn
			n.do(func() {
				var err error
				udp, err = net.Dial("udp", "127.0.0.1:8080")
				n.must(err)
				tcp, err = net.Dial("tcp", "127.0.0.1:8080")
				n.must(err)
			})
			defer func() { _ = udp.Close() }()
			defer func() { _ = tcp.Close() }()
			// The good request behind it is answered; nothing is answered before.
			for _, out := range [][]byte{b, request("after")} {
				if _, err := udp.Write(out); err != nil {
					t.Fatal(err)
				}
			}
			in := make([]byte, maxLine)
			k, err := udp.Read(in)
			if _, ok := parseReply(in[:k], "after"); err != nil || !ok {
				t.Errorf("UDP: got %q, %v, want the echo of the good request", in[:k], err)
			}
			// The responder may reset the connection at any time from here on: what
			// counts is that it says nothing.
			_, _ = tcp.Write(b)
			_ = tcp.(*net.TCPConn).CloseWrite()
			got, err := io.ReadAll(tcp)
			// A connection is reset when the responder has not read it all. Over TCP,
			// where no source can be forged, a short request is as good as any.
			if err == nil && len(got) > 0 && name != "a short request" {
				t.Errorf("TCP: got %q, want nothing", got)
			}
		})
	}
}

// A host with two addresses answers from the one that was asked, or a connected
// client would not take the reply.
func TestUDPReplyLeavesFromTheAddressThatWasAsked(t *testing.T) {
	l := newLab(t)
	l.server.addresses("server", []string{"10.91.2.77/24", "fd91:2::77/64"})
	second := []netip.Addr{netip.MustParseAddr("10.91.2.77"), netip.MustParseAddr("fd91:2::77")}
	l.await(second...)
	l.server.serve(Config{Listen: []flow.PortRange{ports(flow.UDP, 8080)}})
	for _, addr := range append(second, serverV4, serverV6) {
		got := l.client.run(planOf(wire.Check{Transport: wire.UDP, Addr: addr, Port: 8080, Nonce: "n1"}))[0]
		assertOutcome(t, got, wire.Replied, "")
	}
}

func TestResponderServesIPv4WhenIPv6IsOff(t *testing.T) {
	n := newNamespace(t)
	n.do(func() {
		n.sysctl("net/ipv6/conf/all/disable_ipv6", "1")
	})
	var log []string
	r := n.serve(Config{
		HealthPort: 8099, Listen: []flow.PortRange{ports(flow.TCP, 8080)},
		Logf: func(format string, _ ...any) { log = append(log, format) },
	})
	if len(r.listeners) != 1 || len(log) != 1 {
		t.Errorf("got %d listeners and log %q, want one of each", len(r.listeners), log)
	}
	if status, body := n.get("http://127.0.0.1:8099/ready"); status != http.StatusOK {
		t.Errorf("got %d %q, want 200", status, body)
	}
}

func TestListenErrors(t *testing.T) {
	n := newNamespace(t)
	n.handle(":7000", func(net.Conn) {})
	cases := map[string]struct {
		cfg  Config
		want string
	}{
		"nothing to listen on":    {Config{}, "listening on 0 ports"},
		"too many ports":          {Config{Listen: []flow.PortRange{{Protocol: flow.TCP, First: 1, Last: 2000}}}, "listening on 2000 ports"},
		"a port that is taken":    {Config{Listen: []flow.PortRange{ports(flow.TCP, 7000)}}, "listening on TCP/7000: "},
		"a health port is taken":  {Config{Listen: []flow.PortRange{ports(flow.TCP, 7001)}, HealthPort: 7000}, "listening on health port 7000: "},
		"the health port is ours": {Config{Listen: []flow.PortRange{ports(flow.TCP, 7001)}, HealthPort: 7001}, "listening on health port 7001: "},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var err error
			n.do(func() { _, err = Listen(tc.cfg) })
			if err == nil || !strings.HasPrefix(err.Error(), tc.want) || errors.Is(err, ErrUnsupported) {
				t.Errorf("got error %v, want one with %q", err, tc.want)
			}
		})
	}
	t.Run("nothing stays open after an error", func(t *testing.T) {
		var err error
		var r *Responder
		n.do(func() { r, err = Listen(Config{Listen: []flow.PortRange{ports(flow.TCP, 7001)}}) })
		if err != nil {
			t.Fatal(err)
		}
		r.close()
	})
	t.Run("SCTP on a kernel without it is unsupported", func(t *testing.T) {
		if haveSCTP(t) {
			t.Skip("skipping: this kernel has SCTP")
		}
		var err error
		n.do(func() { _, err = Listen(Config{Listen: []flow.PortRange{ports(flow.SCTP, 9000)}}) })
		if !errors.Is(err, ErrUnsupported) || !strings.HasPrefix(err.Error(), "listening on SCTP/9000: ") {
			t.Errorf("got error %v, want ErrUnsupported", err)
		}
	})
}

func TestParseListen(t *testing.T) {
	cases := map[string]struct {
		text    string
		want    []flow.PortRange
		wantErr string
	}{
		"one port":             {"TCP/8080", []flow.PortRange{ports(flow.TCP, 8080)}, ""},
		"several":              {"TCP/8080, UDP/53,SCTP/9000", []flow.PortRange{ports(flow.TCP, 8080), ports(flow.UDP, 53), ports(flow.SCTP, 9000)}, ""},
		"a range":              {"TCP/8000-8003", []flow.PortRange{{Protocol: flow.TCP, First: 8000, Last: 8003}}, ""},
		"nothing":              {"", nil, `parsing ""`},
		"no port":              {"TCP", nil, `parsing "TCP"`},
		"port 0":               {"TCP/0", nil, `parsing "TCP/0"`},
		"a port above 65535":   {"TCP/65536", nil, `parsing "TCP/65536"`},
		"a range backwards":    {"TCP/9-8", nil, `parsing "TCP/9-8"`},
		"another protocol":     {"ICMP/8", nil, "want protocol TCP, UDP or SCTP"},
		"a protocol in small":  {"tcp/8", nil, "want protocol TCP, UDP or SCTP"},
		"an item that is gone": {"TCP/80,", nil, `parsing ""`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := ParseListen(tc.text)
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Errorf("got error %v, want one with %q", err, tc.wantErr)
				}
				return
			}
			if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
				t.Errorf("error %v, ports differ (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	n := newNamespace(t)
	var r *Responder
	n.do(func() {
		var err error
		r, err = Listen(Config{Listen: []flow.PortRange{ports(flow.TCP, 8080), ports(flow.UDP, 8080)}, HealthPort: 8099})
		n.must(err)
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- r.Serve(ctx) }()
	// A connection that is idle must not hold the end back.
	var idle net.Conn
	n.do(func() {
		var err error
		idle, err = net.Dial("tcp", "127.0.0.1:8080")
		n.must(err)
	})
	defer func() { _ = idle.Close() }()
	start := time.Now()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("got error %v", err)
	}
	if took := time.Since(start); took >= connectionTime {
		t.Errorf("took %v: it waited for the idle connection", took)
	}
}
