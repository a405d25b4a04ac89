//go:build linux

package probe

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/sctp"
	"github.com/pathproof/pathproof/probe/wire"
)

// newRawLab is a lab in which SCTP goes over raw sockets. It skips where the kernel has
// SCTP, which answers in place of raw sockets.
func newRawLab(t *testing.T) *lab {
	t.Helper()
	if haveSCTP(t) {
		t.Skip("skipping: this kernel has SCTP, which would answer for the raw socket")
	}
	return newLab(t)
}

func rawRunner() *Runner { return &Runner{RawSCTP: true} }

// The same facts on the wire as for TCP, and the outcomes that they have to end in.
func TestOutcomesOfRawSCTP(t *testing.T) {
	l := newRawLab(t)
	l.router.nft(`
table inet filter {
	chain forward {
		type filter hook forward priority 0
		sctp dport 1001 drop
		sctp dport 1003 reject with icmpx admin-prohibited
		sctp dport 1004 reject with icmpx port-unreachable
		sctp dport 1005 reject with icmpx host-unreachable
		sctp sport 1006 drop
		sctp dport 1007 sctp chunk cookie-echo exists drop
		sctp dport 1008 sctp chunk cookie-echo exists reject with icmpx admin-prohibited
		sctp dport 1009 sctp chunk data exists drop
	}
}`)
	seen := make(chan string, 64)
	l.server.serve(Config{
		RawSCTP: true,
		Listen:  []flow.PortRange{{Protocol: flow.SCTP, First: 1001, Last: 1009}, ports(flow.SCTP, 9000)},
		Seen: func(p flow.Protocol, port uint16, nonce string, from netip.Addr) {
			select {
			case seen <- nonce + " " + from.String():
			default:
			}
		},
	})
	cases := map[string]struct {
		port   uint16
		nonce  string
		want   wire.Outcome
		v4, v6 string
	}{
		"our responder echoes the nonce":        {9000, "n1", wire.Replied, "raw SCTP", "raw SCTP"},
		"without a nonce it is a handshake":     {9000, "", wire.Connected, "raw SCTP", "raw SCTP"},
		"a closed port refuses":                 {3000, "n1", wire.Refused, "raw SCTP", "raw SCTP"},
		"what is dropped is silence":            {1001, "n1", wire.TimedOut, "raw SCTP", "raw SCTP"},
		"admin-prohibited is rejected":          {1003, "n1", wire.Rejected, "raw SCTP: icmp 3/13 from 10.91.1.1", "raw SCTP: icmp6 1/1 from fd91:1::1"},
		"port-unreachable is rejected":          {1004, "n1", wire.Rejected, "raw SCTP: icmp 3/3 from 10.91.1.1", "raw SCTP: icmp6 1/4 from fd91:1::1"},
		"host-unreachable is rejected":          {1005, "n1", wire.Rejected, "raw SCTP: icmp 3/1 from 10.91.1.1", "raw SCTP: icmp6 1/3 from fd91:1::1"},
		"what is dropped on its way back, too":  {1006, "n1", wire.TimedOut, "raw SCTP", "raw SCTP"},
		"a target that answered is not silent":  {1007, "n1", wire.ProbeError, "raw SCTP: half a handshake: INIT ACK, then silence", "raw SCTP: half a handshake: INIT ACK, then silence"},
		"a target that answered is not refused": {1008, "n1", wire.ProbeError, "raw SCTP: half a handshake: INIT ACK, then icmp 3/13 from 10.91.1.1", "raw SCTP: half a handshake: INIT ACK, then icmp6 1/1 from fd91:1::1"},
		"a handshake is no echo":                {1009, "n1", wire.Connected, "raw SCTP: no echo: silence", "raw SCTP: no echo: silence"},
	}
	var r rows
	for name, tc := range cases {
		for _, family := range []struct {
			name   string
			addr   netip.Addr
			detail string
		}{{"IPv4", serverV4, tc.v4}, {"IPv6", serverV6, tc.v6}} {
			r.add(name+"/"+family.name, wire.Check{Transport: wire.SCTP, Addr: family.addr, Port: tc.port, Nonce: tc.nonce}, tc.want, family.detail)
		}
	}
	r.runWith(t, l.client, rawRunner())
	if s := <-seen; !strings.HasPrefix(s, "n1.1 10.91.1.2") && !strings.HasPrefix(s, "n1.1 fd91:1::2") {
		t.Errorf("the responder saw %q", s)
	}
}

// A kernel that follows associations knows SCTP as well as one that makes them: it
// checks sums, tags and the order of the handshake, and calls all else invalid.
func TestRawSCTPPassesAStatefulFirewall(t *testing.T) {
	l := newRawLab(t)
	l.router.do(func() { l.router.sysctl("net/netfilter/nf_conntrack_checksum", "1") })
	l.router.nft(`
table inet filter {
	chain forward {
		type filter hook forward priority 0; policy drop;
		meta l4proto { icmp, ipv6-icmp } accept
		ct state established accept
		ip daddr 10.91.2.2 sctp dport 9000 ct state new sctp chunk init exists accept
		ip6 daddr fd91:2::2 sctp dport 9000 ct state new sctp chunk init exists accept
	}
}`)
	l.server.serve(Config{RawSCTP: true, Listen: []flow.PortRange{ports(flow.SCTP, 9000)}})
	for _, addr := range []netip.Addr{serverV4, serverV6} {
		got := l.client.runWith(rawRunner(), planOf(wire.Check{Transport: wire.SCTP, Addr: addr, Port: 9000, Nonce: "n1"}))[0]
		assertOutcome(t, got, wire.Replied, "raw SCTP")
	}
	// It does look at the sum: the same packet is invalid with a wrong one.
	l.router.nft(`table inet sums { counter invalid { }; chain forward { type filter hook forward priority -1; meta l4proto sctp ct state invalid counter name invalid drop; }; }`)
	packet := sctp.NewClient(40000, 9000).Init()
	packet[8]++
	l.client.do(func() {
		c, err := net.Dial("ip4:132", serverV4.String())
		if err != nil {
			t.Error(err)
			return
		}
		_, err = c.Write(packet)
		l.client.must(errors.Join(err, c.Close()))
	})
	l.router.do(func() {
		out, err := exec.Command("nft", "list", "counter", "inet", "sums", "invalid").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "packets 1 ") {
			t.Errorf("got %v and %s, want one invalid packet", err, out)
		}
	})
}

// A full plan must not drown the one socket at the other end in packets.
func TestRawSCTPFullPlan(t *testing.T) {
	l := newRawLab(t)
	l.server.serve(Config{RawSCTP: true, Listen: []flow.PortRange{{Protocol: flow.SCTP, First: 9000, Last: 9000 + wire.MaxChecks - 1}}})
	var checks []wire.Check
	for i := range wire.MaxChecks {
		checks = append(checks, wire.Check{Transport: wire.SCTP, Addr: serverV4, Port: uint16(9000 + i), Nonce: "n1"})
	}
	for i, got := range l.client.runWith(rawRunner(), planOf(checks...)) {
		if !got.Outcomes.All(func(o wire.Outcome) bool { return o == wire.Replied }) {
			t.Errorf("port %d: got %v (%s), want only Replied", checks[i].Port, got.Outcomes, got.Detail)
		}
	}
}

// The way through a translation of addresses, which sums anew.
func TestRawSCTPThroughNAT(t *testing.T) {
	l := newRawLab(t)
	l.router.nft(`table inet nat { chain post { type nat hook postrouting priority 100; oifname "server" masquerade; }; }`)
	l.server.serve(Config{RawSCTP: true, Listen: []flow.PortRange{ports(flow.SCTP, 9000)}})
	for addr, want := range map[netip.Addr]string{serverV4: "10.91.2.1", serverV6: "fd91:2::1"} {
		got := l.client.runWith(rawRunner(), planOf(wire.Check{Transport: wire.SCTP, Addr: addr, Port: 9000, Nonce: "n1"}))[0]
		assertOutcome(t, got, wire.Replied, "raw SCTP")
		if got.SeenAs.String() != want {
			t.Errorf("got SeenAs %v, want %s", got.SeenAs, want)
		}
	}
}

// A host without any SCTP says so by ICMP, which is no refusal of the port.
func TestRawSCTPToAHostWithoutSCTP(t *testing.T) {
	l := newRawLab(t)
	got := l.client.runWith(rawRunner(), planOf(
		wire.Check{Transport: wire.SCTP, Addr: serverV4, Port: 9000},
		wire.Check{Transport: wire.SCTP, Addr: serverV6, Port: 9000},
		wire.Check{Transport: wire.SCTP, Addr: netip.MustParseAddr("10.99.0.1"), Port: 9000},
	))
	assertOutcome(t, got[0], wire.Rejected, "raw SCTP: icmp 3/2 from 10.91.2.2")
	assertOutcome(t, got[1], wire.Rejected, "raw SCTP: icmp6 4/1 from fd91:2::2")
	assertOutcome(t, got[2], wire.NoRoute, "raw SCTP: local: network is unreachable")
}

// A raw socket gets the errors of every attempt to the same address. Each has to end as
// its own packets did.
func TestRawSCTPAttemptsDoNotMixUp(t *testing.T) {
	l := newRawLab(t)
	l.router.nft(`table inet filter { chain forward { type filter hook forward priority 0; sctp dport 1003 reject with icmpx admin-prohibited; sctp dport 1001 drop; }; }`)
	l.server.serve(Config{RawSCTP: true, Listen: []flow.PortRange{ports(flow.SCTP, 9000)}})
	var checks []wire.Check
	var want []wire.Outcome
	for range 20 {
		for port, outcome := range map[uint16]wire.Outcome{9000: wire.Replied, 1003: wire.Rejected, 1001: wire.TimedOut, 3000: wire.Refused} {
			for _, addr := range []netip.Addr{serverV4, serverV6} {
				checks = append(checks, wire.Check{Transport: wire.SCTP, Addr: addr, Port: port, Nonce: "n1"})
				want = append(want, outcome)
			}
		}
	}
	plan := planOf(checks...)
	plan.Attempts = 5
	for i, got := range l.client.runWith(rawRunner(), plan) {
		if !got.Outcomes.All(func(o wire.Outcome) bool { return o == want[i] }) {
			t.Errorf("port %d: got %v (%s), want %v", checks[i].Port, got.Outcomes, got.Detail, want[i])
		}
	}
}

func TestRawSCTPNeedsPermission(t *testing.T) {
	l := newRawLab(t)
	check := wire.Check{Transport: wire.SCTP, Addr: serverV4, Port: 9000, Nonce: "n1"}
	forbidden := func(domain, typ, proto int) (int, error) {
		if typ&0xf == unix.SOCK_RAW {
			return -1, unix.EPERM
		}
		return l.client.socket(domain, typ, proto)
	}
	t.Run("no capability", func(t *testing.T) {
		got := l.client.runWith(&Runner{RawSCTP: true, socket: forbidden}, planOf(check))[0]
		assertOutcome(t, got, wire.Unsupported, "raw SCTP: no SCTP in this kernel, and no CAP_NET_RAW: local: operation not permitted")
	})
	t.Run("not asked for", func(t *testing.T) {
		assertOutcome(t, l.client.run(planOf(check))[0], wire.Unsupported, "local: protocol not supported")
	})
}

// A kernel that loads its module in the midst of a run would abort what the raw socket
// set up: then a refusal, or silence, says nothing.
func TestRawSCTPDistrustsAKernelThatGotSCTP(t *testing.T) {
	l := newRawLab(t)
	l.server.serve(Config{RawSCTP: true, Listen: []flow.PortRange{ports(flow.SCTP, 9000)}})
	for port, want := range map[uint16]wire.Outcome{3000: wire.ProbeError, 9000: wire.Replied} {
		asked := 0
		got := l.client.runWith(&Runner{RawSCTP: true, socket: func(domain, typ, proto int) (int, error) {
			if typ&0xf == unix.SOCK_STREAM && proto == unix.IPPROTO_SCTP {
				if asked++; asked == 1 {
					return -1, unix.EPROTONOSUPPORT
				}
				proto = unix.IPPROTO_TCP // a socket that can be bound, as SCTP's could
			}
			return l.client.socket(domain, typ, proto)
		}}, func() wire.Plan {
			plan := planOf(wire.Check{Transport: wire.SCTP, Addr: serverV4, Port: port, Nonce: "n1"})
			plan.Attempts = 1
			return plan
		}())[0]
		if got.Outcomes[0] != want {
			t.Errorf("port %d: got %v (%s), want %v", port, got.Outcomes, got.Detail, want)
		}
	}
}

// Sockets of the same target never use a source port twice.
func TestRawSourcePortsAreClaimedOnce(t *testing.T) {
	s := newStack(nil)
	target := netip.MustParseAddrPort("10.0.0.1:9000")
	used := map[uint16]bool{}
	for range 2000 {
		port, err := s.claimRaw(target)
		if err != nil {
			t.Fatal(err)
		}
		if used[port] || port < firstSource || port > lastSource {
			t.Fatalf("port %d was used before, or is no ephemeral port", port)
		}
		used[port] = true
	}
	for port := firstSource; port <= lastSource; port++ {
		s.claim(portUse{flow.SCTP, uint16(port), target})
	}
	if _, err := s.claimRaw(target); !errors.Is(err, errNoPort) {
		t.Errorf("got error %v when every port was used, want %v", err, errNoPort)
	}
}

// The readiness of a responder is that of its raw sockets, too.
func TestReadinessOfRawSCTP(t *testing.T) {
	if haveSCTP(t) {
		t.Skip("skipping: this kernel has SCTP, which would answer for the raw socket")
	}
	n := newNamespace(t)
	// A port of the range that clients choose their source ports from must not confuse it.
	r := n.serve(Config{RawSCTP: true, HealthPort: 8099, Listen: []flow.PortRange{ports(flow.SCTP, 9000), ports(flow.TCP, 9000), {Protocol: flow.SCTP, First: 40000, Last: 40009}}})
	if status, body := n.get("http://127.0.0.1:8099/ready"); status != http.StatusOK {
		t.Fatalf("all alive: got %d %q, want 200", status, body)
	}
	r.raw[true].close()
	status, body := n.get("http://127.0.0.1:8099/ready")
	if want := "not answering: SCTP/9000 on IPv6: TimedOut raw SCTP, SCTP/40000 on IPv6: TimedOut raw SCTP"; status != http.StatusServiceUnavailable || !strings.HasPrefix(body, want) {
		t.Errorf("IPv6 is dead: got %d %q, want 503 %q", status, body, want)
	}
}

// When the kernel gets SCTP while a responder runs, it speaks for the responder's
// address: it is no evidence any more.
func TestReadinessOfRawSCTPEndsWithTheKernels(t *testing.T) {
	if haveSCTP(t) {
		t.Skip("skipping: this kernel has SCTP, which would answer for the raw socket")
	}
	n := newNamespace(t)
	r := n.listen(Config{RawSCTP: true, HealthPort: 8099, Listen: []flow.PortRange{ports(flow.SCTP, 9000)}})
	var loaded atomic.Bool
	r.newSocket = func(domain, typ, proto int) (int, error) {
		if loaded.Load() && typ&0xf == unix.SOCK_STREAM && proto == unix.IPPROTO_SCTP {
			// A socket that is refused, as SCTP's would be: nobody listens on it.
			proto = unix.IPPROTO_TCP
		}
		return n.socket(domain, typ, proto)
	}
	n.start(r)
	if status, body := n.get("http://127.0.0.1:8099/ready"); status != http.StatusOK {
		t.Fatalf("without the module: got %d %q, want 200", status, body)
	}
	loaded.Store(true)
	status, body := n.get("http://127.0.0.1:8099/ready")
	if want := "not answering: SCTP/9000 on IPv4: "; status != http.StatusServiceUnavailable || !strings.HasPrefix(body, want) {
		t.Errorf("with it: got %d %q, want 503 %q", status, body, want)
	}
}

// A host with two addresses answers from the one that was asked.
func TestRawSCTPReplyLeavesFromTheAddressThatWasAsked(t *testing.T) {
	l := newRawLab(t)
	l.server.addresses("server", []string{"10.91.2.77/24", "fd91:2::77/64"})
	second := []netip.Addr{netip.MustParseAddr("10.91.2.77"), netip.MustParseAddr("fd91:2::77")}
	l.await(second...)
	l.server.serve(Config{RawSCTP: true, Listen: []flow.PortRange{ports(flow.SCTP, 9000)}})
	for _, addr := range append(second, serverV4, serverV6) {
		got := l.client.runWith(rawRunner(), planOf(wire.Check{Transport: wire.SCTP, Addr: addr, Port: 9000, Nonce: "n1"}))[0]
		assertOutcome(t, got, wire.Replied, "raw SCTP")
	}
}
