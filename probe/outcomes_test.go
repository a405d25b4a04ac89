//go:build linux

package probe

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// filter is what the router does to the lab's forwarded packets, by port: each
// rule is one way in which real enforcers say no.
const filter = `
table inet filter {
	chain forward {
		type filter hook forward priority 0
		meta l4proto { tcp, udp } th dport 1001 drop
		tcp dport 1002 reject with tcp reset
		meta l4proto { tcp, udp } th dport 1003 reject with icmpx admin-prohibited
		meta l4proto { tcp, udp } th dport 1004 reject with icmpx port-unreachable
		meta l4proto { tcp, udp } th dport 1005 reject with icmpx host-unreachable
		udp sport 1006 drop
	}
}`

// servers starts everything that answers in the lab.
func (l *lab) servers(t *testing.T) {
	l.server.serve(Config{Listen: []flow.PortRange{
		ports(flow.TCP, 8080), ports(flow.UDP, 8080),
		ports(flow.TCP, 1001), ports(flow.TCP, 1002), ports(flow.TCP, 1003), ports(flow.TCP, 1004), ports(flow.TCP, 1005),
		ports(flow.UDP, 1001), ports(flow.UDP, 1003), ports(flow.UDP, 1004), ports(flow.UDP, 1005),
	}})
	l.server.handle(":2001", func(c net.Conn) { _, _ = fmt.Fprint(c, "220 mail ready\r\n") })
	l.server.handle(":2002", func(c net.Conn) { _, _ = bufio.NewReader(c).ReadString('\n') })
	l.server.handle(":2003", func(c net.Conn) { _, _ = c.Read(make([]byte, 1<<10)); _, _ = c.Read(make([]byte, 1)) })
	pc := l.server.listenUDP(":2001")
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 1<<10)
		for {
			_, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo([]byte("not the echo"), from)
		}
	})
	t.Cleanup(func() {
		_ = pc.Close()
		wg.Wait()
	})
}

// Each row is a fact on the wire and the outcome that it has to end in, for IPv4
// and IPv6 alike.
func TestOutcomesOfTransports(t *testing.T) {
	l := newLab(t)
	l.router.nft(filter)
	l.servers(t)
	cases := map[string]struct {
		transport wire.Transport
		port      uint16
		nonce     string
		want      wire.Outcome
		v4, v6    string // wanted detail
	}{
		"TCP to our responder is an echo of the nonce":    {wire.TCP, 8080, "n1", wire.Replied, "", ""},
		"TCP without a nonce is a handshake":              {wire.TCP, 8080, "", wire.Connected, "", ""},
		"TCP to a server that speaks first is no echo":    {wire.TCP, 2001, "n1", wire.Connected, "no echo: another answer", "no echo: another answer"},
		"TCP to a server that hangs up is no echo":        {wire.TCP, 2002, "n1", wire.Connected, "no echo: closed by peer", "no echo: closed by peer"},
		"TCP to a server that says nothing is no echo":    {wire.TCP, 2003, "n1", wire.Connected, "no echo: silence", "no echo: silence"},
		"TCP to a closed port is refused by the target":   {wire.TCP, 3000, "n1", wire.Refused, "", ""},
		"TCP that a filter resets looks like a refusal":   {wire.TCP, 1002, "n1", wire.Refused, "", ""},
		"TCP that is dropped is silence":                  {wire.TCP, 1001, "n1", wire.TimedOut, "", ""},
		"TCP admin-prohibited is rejected by the router":  {wire.TCP, 1003, "n1", wire.Rejected, "icmp 3/13 from 10.91.1.1", "icmp6 1/1 from fd91:1::1"},
		"TCP port-unreachable is no RST":                  {wire.TCP, 1004, "n1", wire.Rejected, "icmp 3/3 from 10.91.1.1", "icmp6 1/4 from fd91:1::1"},
		"TCP host-unreachable is rejected by the router":  {wire.TCP, 1005, "n1", wire.Rejected, "icmp 3/1 from 10.91.1.1", "icmp6 1/3 from fd91:1::1"},
		"UDP to our responder is an echo of the nonce":    {wire.UDP, 8080, "n1", wire.Replied, "", ""},
		"UDP without a nonce is any answer":               {wire.UDP, 2001, "", wire.Connected, "", ""},
		"UDP to another server is no echo":                {wire.UDP, 2001, "n1", wire.Connected, "no echo: another answer", "no echo: another answer"},
		"UDP to a closed port is rejected by the target":  {wire.UDP, 3000, "n1", wire.Rejected, "icmp 3/3 from 10.91.2.2", "icmp6 1/4 from fd91:2::2"},
		"UDP that is dropped is silence":                  {wire.UDP, 1001, "n1", wire.TimedOut, "", ""},
		"UDP admin-prohibited is rejected by the router":  {wire.UDP, 1003, "n1", wire.Rejected, "icmp 3/13 from 10.91.1.1", "icmp6 1/1 from fd91:1::1"},
		"UDP port-unreachable of the router is named so":  {wire.UDP, 1004, "n1", wire.Rejected, "icmp 3/3 from 10.91.1.1", "icmp6 1/4 from fd91:1::1"},
		"UDP host-unreachable is rejected by the router":  {wire.UDP, 1005, "n1", wire.Rejected, "icmp 3/1 from 10.91.1.1", "icmp6 1/3 from fd91:1::1"},
		"DNS over UDP to a closed port is rejected":       {wire.DNSUDP, 3000, "", wire.Rejected, "icmp 3/3 from 10.91.2.2", "icmp6 1/4 from fd91:2::2"},
		"DNS over TCP to a closed port is refused":        {wire.DNSTCP, 3000, "", wire.Refused, "", ""},
		"DNS over TCP that is rejected by ICMP is no RST": {wire.DNSTCP, 1004, "", wire.Rejected, "icmp 3/3 from 10.91.1.1", "icmp6 1/4 from fd91:1::1"},
		"DNS over UDP that is dropped is silence":         {wire.DNSUDP, 1001, "", wire.TimedOut, "", ""},
	}
	var r rows
	for name, tc := range cases {
		for _, family := range []struct {
			name   string
			addr   netip.Addr
			detail string
		}{{"IPv4", serverV4, tc.v4}, {"IPv6", serverV6, tc.v6}} {
			c := wire.Check{Transport: tc.transport, Addr: family.addr, Port: tc.port, Nonce: tc.nonce}
			if tc.transport.IsDNS() {
				c.QueryName, c.QueryType = "a.test.", "A"
			}
			r.add(name+"/"+family.name, c, tc.want, family.detail)
		}
	}
	r.run(t, l.client)
}

// rows are checks that run in one plan, as they do in a pod, and are looked at
// one by one.
type rows struct {
	checks []wire.Check
	tests  []func(*testing.T, wire.Result)
	names  []string
}

func (r *rows) add(name string, c wire.Check, want wire.Outcome, detail string) {
	r.checks = append(r.checks, c)
	r.names = append(r.names, name)
	r.tests = append(r.tests, func(t *testing.T, got wire.Result) {
		assertOutcome(t, got, want, detail)
		if answered := want.Answered() || want == wire.Refused; (got.RTTMicroseconds > 0) != answered {
			t.Errorf("got a round trip of %d µs for %v", got.RTTMicroseconds, want)
		}
	})
}

func (r *rows) run(t *testing.T, n *namespace) {
	t.Helper()
	r.runWith(t, n, &Runner{})
}

func (r *rows) runWith(t *testing.T, n *namespace, runner *Runner) {
	t.Helper()
	for i, got := range n.runWith(runner, planOf(r.checks...)) {
		t.Run(r.names[i], func(t *testing.T) { r.tests[i](t, got) })
	}
}

// assertOutcome fails unless every attempt ended in the outcome.
func assertOutcome(t *testing.T, got wire.Result, want wire.Outcome, detail string) {
	t.Helper()
	if len(got.Outcomes) == 0 || !got.Outcomes.All(func(o wire.Outcome) bool { return o == want }) {
		t.Errorf("got outcomes %v (%s), want only %v", got.Outcomes, got.Detail, want)
	}
	if got.Detail != detail {
		t.Errorf("got detail %q, want %q", got.Detail, detail)
	}
}

// What the pod's own stack says before anything is sent, or on behalf of a
// neighbour that does not answer.
func TestOutcomesOfTheLocalStack(t *testing.T) {
	l := newLab(t)
	l.client.routeType("10.92.1.0/24", unix.RTN_PROHIBIT)
	l.client.routeType("10.92.2.0/24", unix.RTN_UNREACHABLE)
	l.client.routeType("10.92.3.0/24", unix.RTN_BLACKHOLE)
	l.client.nft(`table inet out { chain out { type filter hook output priority 0; meta l4proto { tcp, udp } th dport 1009 drop; }; }`)
	// A neighbour is given up after three requests, one second apart by default.
	l.client.do(func() { l.client.sysctl("net/ipv4/neigh/client/retrans_time_ms", "20") })

	check := func(transport wire.Transport, addr string, port uint16) wire.Check {
		return wire.Check{Transport: transport, Addr: netip.MustParseAddr(addr), Port: port}
	}
	cases := map[string]struct {
		check  wire.Check
		want   wire.Outcome
		detail string
	}{
		"no route, TCP":  {check(wire.TCP, "10.99.0.1", 80), wire.NoRoute, "local: network is unreachable"},
		"no route, UDP":  {check(wire.UDP, "10.99.0.1", 80), wire.NoRoute, "local: network is unreachable"},
		"no route, IPv6": {check(wire.TCP, "fd99::1", 80), wire.NoRoute, "local: network is unreachable"},
		"a route of type unreachable is no route":    {check(wire.TCP, "10.92.2.1", 80), wire.NoRoute, "local: no route to host"},
		"a route of type blackhole is no route":      {check(wire.UDP, "10.92.3.1", 80), wire.NoRoute, "local: invalid argument"},
		"a route of type prohibit rejects":           {check(wire.TCP, "10.92.1.1", 80), wire.Rejected, "local: permission denied"},
		"a local filter that drops UDP rejects":      {check(wire.UDP, "10.91.2.2", 1009), wire.Rejected, "local: operation not permitted"},
		"a local filter that drops TCP is silence":   {check(wire.TCP, "10.91.2.2", 1009), wire.TimedOut, ""},
		"a neighbour that is not there rejects, TCP": {check(wire.TCP, "10.91.1.77", 80), wire.Rejected, "icmp 3/1 from 10.91.1.2"},
		"a neighbour that is not there rejects, UDP": {check(wire.UDP, "10.91.1.78", 80), wire.Rejected, "icmp 3/1 from 10.91.1.2"},
	}
	var r rows
	for name, tc := range cases {
		r.add(name, tc.check, tc.want, tc.detail)
	}
	r.run(t, l.client)
}

// When the kernel has only ports that were used for the target before, the
// attempt says so: to reuse one would probe a connection that the network knows.
func TestAddressUnavailableWhenPortsRunOut(t *testing.T) {
	l := newLab(t)
	// An even number of ports: the kernel's search goes by even and odd ports, and of an
	// odd number it leaves out one, by chance (inet_csk_find_open_port).
	l.client.do(func() { l.client.sysctl("net/ipv4/ip_local_port_range", "40000 40005") })
	sources := make(chan string, 100)
	l.server.handle(":80", func(c net.Conn) { sources <- c.RemoteAddr().String() })
	plan := planOf(wire.Check{Transport: wire.TCP, Addr: serverV4, Port: 80})
	plan.Attempts = 8
	got := l.client.run(plan)[0]
	count := map[wire.Outcome]int{}
	for _, o := range got.Outcomes {
		count[o]++
	}
	if count[wire.Connected] != 6 || count[wire.AddressUnavailable] != 2 {
		t.Errorf("got %v (%s), want 6 Connected and 2 AddressUnavailable", got.Outcomes, got.Detail)
	}
	assertUnique(t, sources, count[wire.Connected])
}

// assertUnique takes n sources and fails unless they differ. A server may accept
// a connection after the client has closed it: so it waits for all.
func assertUnique(t *testing.T, sources <-chan string, n int) {
	t.Helper()
	seen := map[string]bool{}
	for range n {
		source := <-sources
		if seen[source] {
			t.Errorf("source %s was used twice", source)
		}
		seen[source] = true
	}
}

// The probe cannot know that its nonce arrived; the responder does. Together
// they are the outcome Delivered.
func TestDeliveredIsKnownToTheResponder(t *testing.T) {
	l := newLab(t)
	l.router.nft(filter)
	seen := make(chan string, 8)
	l.server.serve(Config{
		Listen: []flow.PortRange{ports(flow.UDP, 1006)},
		Seen:   func(_ flow.Protocol, _ uint16, nonce string, from netip.Addr) { seen <- nonce + " " + from.String() },
	})
	got := l.client.run(planOf(wire.Check{Transport: wire.UDP, Addr: serverV4, Port: 1006, Nonce: "one-way"}))[0]
	assertOutcome(t, got, wire.TimedOut, "")
	for range got.Outcomes {
		if s := <-seen; s != "one-way.1 "+clientV4.String() {
			t.Errorf("responder saw %q", s)
		}
	}
}

func TestSCTPWithoutKernelSupportIsUnsupported(t *testing.T) {
	if haveSCTP(t) {
		t.Skip("skipping: this kernel has SCTP")
	}
	n := newNamespace(t)
	for _, addr := range []netip.Addr{serverV4, serverV6} {
		got := n.run(planOf(wire.Check{Transport: wire.SCTP, Addr: addr, Port: 80, Nonce: "n1"}))[0]
		assertOutcome(t, got, wire.Unsupported, "local: protocol not supported")
	}
}

// By whatever this machine has, the kernel's SCTP or raw sockets.
func TestSCTPHandshake(t *testing.T) {
	detail := ""
	if !haveSCTP(t) {
		detail = rawDetail
	}
	l := newLab(t)
	l.router.nft(`table inet filter { chain forward { type filter hook forward priority 0; sctp dport 1001 drop; }; }`)
	l.server.serve(Config{RawSCTP: true, Listen: []flow.PortRange{ports(flow.SCTP, 9000), ports(flow.SCTP, 1001)}})
	for _, addr := range []netip.Addr{serverV4, serverV6} {
		got := l.client.runWith(rawRunner(), planOf(
			wire.Check{Transport: wire.SCTP, Addr: addr, Port: 9000, Nonce: "n1"},
			wire.Check{Transport: wire.SCTP, Addr: addr, Port: 9001, Nonce: "n1"},
			wire.Check{Transport: wire.SCTP, Addr: addr, Port: 1001, Nonce: "n1"},
		))
		assertOutcome(t, got[0], wire.Replied, detail)
		assertOutcome(t, got[1], wire.Refused, detail)
		assertOutcome(t, got[2], wire.TimedOut, detail)
	}
}

func haveSCTP(t *testing.T) bool {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP)
	if err != nil {
		return false
	}
	_ = unix.Close(fd)
	return true
}

// Errors of the probe's own are never taken for silence or a denial.
func TestProbeErrorWhenSocketsCannotBeOpened(t *testing.T) {
	cases := map[string]struct {
		errno  unix.Errno
		want   wire.Outcome
		detail string
	}{
		"too many files":                    {unix.EMFILE, wire.ProbeError, "opening socket: too many open files"},
		"a sandbox forbids the socket":      {unix.EPERM, wire.ProbeError, "opening socket: operation not permitted"},
		"out of memory":                     {unix.ENOBUFS, wire.ProbeError, "opening socket: no buffer space available"},
		"the kernel has no such protocol":   {unix.EPROTONOSUPPORT, wire.Unsupported, "local: protocol not supported"},
		"the kernel has no such family":     {unix.EAFNOSUPPORT, wire.Unsupported, "local: address family not supported by protocol"},
		"the protocol has no such sockets":  {unix.ESOCKTNOSUPPORT, wire.Unsupported, "local: socket type not supported"},
		"the kernel has no such family now": {unix.EPFNOSUPPORT, wire.Unsupported, "local: protocol family not supported"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := &Runner{socket: func(int, int, int) (int, error) { return -1, tc.errno }}
			plan := planOf(wire.Check{Transport: wire.TCP, Addr: netip.MustParseAddr("127.0.0.1"), Port: 9})
			plan.TimeoutMilliseconds = 10
			assertOutcome(t, r.Run(t.Context(), plan).Results[0], tc.want, tc.detail)
		})
	}
}

// The responder sees the address that NAT on the path made of the probe's.
func TestSeenAs(t *testing.T) {
	l := newLab(t)
	l.server.serve(Config{Listen: []flow.PortRange{ports(flow.TCP, 8080), ports(flow.UDP, 8080)}})
	var checks []wire.Check
	for _, transport := range []wire.Transport{wire.TCP, wire.UDP} {
		for _, addr := range []netip.Addr{serverV4, serverV6} {
			checks = append(checks, wire.Check{Transport: transport, Addr: addr, Port: 8080, Nonce: "n1"})
		}
	}
	for _, got := range l.client.run(planOf(checks...)) {
		assertOutcome(t, got, wire.Replied, "")
		if got.SeenAs.IsValid() {
			t.Errorf("without NAT: got SeenAs %v, want none", got.SeenAs)
		}
	}
	l.router.nft(`table inet nat { chain post { type nat hook postrouting priority 100; oifname "server" masquerade; }; }`)
	for i, got := range l.client.run(planOf(checks...)) {
		assertOutcome(t, got, wire.Replied, "")
		want := "10.91.2.1"
		if checks[i].Addr.Is6() {
			want = "fd91:2::1"
		}
		if got.SeenAs.String() != want {
			t.Errorf("with NAT: got SeenAs %v, want %s", got.SeenAs, want)
		}
	}
}

func TestClipMakesDetailsFitForAReport(t *testing.T) {
	cases := map[string]struct{ in, want string }{
		"short text stays":                {"icmp 3/13 from 10.0.0.1", "icmp 3/13 from 10.0.0.1"},
		"control characters are replaced": {"TXT \x1b[31m\nred", "TXT ?[31m?red"},
		"broken UTF-8 is replaced":        {"a\xffb", "a?b"},
		"long text is cut":                {strings.Repeat("a", 200), strings.Repeat("a", 117) + "…"},
		"no rune is cut in the half":      {strings.Repeat("ä", 100), strings.Repeat("ä", 58) + "…"},
		"120 bytes stay":                  {strings.Repeat("a", 120), strings.Repeat("a", 120)},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := clip(tc.in); got != tc.want || len(got) > maxDetailBytes {
				t.Errorf("got %q (%d bytes), want %q", got, len(got), tc.want)
			}
		})
	}
}
