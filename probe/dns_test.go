//go:build linux

package probe

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"github.com/pathproof/pathproof/probe/wire"
)

// nameserver serves DNS over UDP and, if asked to, TCP on port 53 of an address
// in the namespace until the test ends.
func (n *namespace) nameserver(addr netip.Addr, tcp bool, handler dns.HandlerFunc) {
	n.t.Helper()
	address := netip.AddrPortFrom(addr, dnsPort).String()
	servers := []*dns.Server{{PacketConn: n.listenUDP(address), Handler: handler}}
	if tcp {
		var (
			l   net.Listener
			err error
		)
		n.do(func() { l, err = net.Listen("tcp", address) })
		if err != nil {
			n.t.Fatal(err)
		}
		servers = append(servers, &dns.Server{Listener: l, Handler: handler})
	}
	var wg sync.WaitGroup
	for _, s := range servers {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		wg.Go(func() { _ = s.ActivateAndServe() })
		<-started
	}
	n.t.Cleanup(func() {
		for _, s := range servers {
			_ = s.Shutdown()
		}
		wg.Wait()
	})
}

// zone answers by the first label of the name.
func zone(t *testing.T) dns.HandlerFunc {
	rcodes := map[string]int{
		"nxdomain": dns.RcodeNameError, "servfail": dns.RcodeServerFailure,
		"refused": dns.RcodeRefused, "notimp": dns.RcodeNotImplemented,
	}
	records := map[string][]string{
		"empty": {}, "v4only": {"10.91.2.2"}, "v6only": {"fd91:2::2"}, "nowhere": {"10.99.0.1", "fd91:2::2"},
		"a": {"10.91.2.3", "10.91.2.2", "fd91:2::2"}, "both": {"10.91.2.2", "fd91:2::2"},
	}
	return func(w dns.ResponseWriter, q *dns.Msg) {
		label := dns.SplitDomainName(q.Question[0].Name)[0]
		m := new(dns.Msg).SetReply(q)
		if addrs, ok := records[label]; ok {
			answer(t, m, addrs...)
		} else if rcode, ok := rcodes[label]; ok {
			m.Rcode = rcode
		} else if !misbehave(t, label, w, m) {
			return
		}
		// A client that gave up is no matter.
		_ = w.WriteMsg(m)
	}
}

// misbehave plays a server that is broken, or a path that is, and tells whether
// there is an answer to send.
func misbehave(t *testing.T, label string, w dns.ResponseWriter, m *dns.Msg) bool {
	switch label {
	case "big":
		_, overTCP := w.RemoteAddr().(*net.TCPAddr)
		if m.Truncated = !overTCP; overTCP {
			answer(t, m, "10.0.0.1", "10.0.0.2")
		}
	case "never":
		m.Truncated = true
		answer(t, m, "10.0.0.1")
	case "cut":
		answer(t, m, "10.0.0.1", "10.0.0.2")
		if _, overTCP := w.RemoteAddr().(*net.TCPAddr); overTCP {
			return true
		}
		m.Truncated = true
		b, err := m.Pack()
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(b[:len(b)-7])
		return false
	case "torn":
		answer(t, m, "10.0.0.1", "10.0.0.2")
		b, err := m.Pack()
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(b[:len(b)-7])
		return false
	case "otherid":
		m.Id++
		answer(t, m, "10.6.6.6")
	case "otherquestion":
		m.Question[0].Name = "evil.test."
		answer(t, m, "10.6.6.6")
	case "forged":
		forged := m.Copy()
		forged.Id++
		answer(t, forged, "10.6.6.6")
		_ = w.WriteMsg(forged)
		answer(t, m, "10.0.0.1")
	case "garbage":
		_, _ = w.Write([]byte("not a message"))
		return false
	case "hangup":
		_ = w.Close()
		return false
	case "silent":
		return false
	default:
		t.Errorf("question about %q, which is not in the zone", label)
	}
	return true
}

// answer adds those addresses that are of the type asked for.
func answer(t *testing.T, m *dns.Msg, addrs ...string) {
	question := m.Question[0]
	for _, text := range addrs {
		typ := "A"
		if netip.MustParseAddr(text).Is6() {
			typ = "AAAA"
		}
		if dns.StringToType[typ] != question.Qtype {
			continue
		}
		rr, err := dns.NewRR(question.Name + " 5 IN " + typ + " " + text)
		if err != nil {
			t.Error(err)
		}
		m.Answer = append(m.Answer, rr)
	}
}

func TestOutcomesOfDNS(t *testing.T) {
	l := newLab(t)
	l.server.nameserver(serverV4, true, zone(t))
	l.server.nameserver(serverV6, true, zone(t))
	const none = "NOERROR without a record of the type"
	torn := "dns: overflow unpacking uint32"
	cases := map[string]struct {
		name, qtype string
		want        wire.Outcome
		udp, tcp    string // wanted detail
	}{
		"records of the type are an answer":               {"a.test.", "A", wire.Connected, "NOERROR 10.91.2.2,10.91.2.3", "NOERROR 10.91.2.2,10.91.2.3"},
		"a name without final dot is fully qualified":     {"a.test", "A", wire.Connected, "NOERROR 10.91.2.2,10.91.2.3", "NOERROR 10.91.2.2,10.91.2.3"},
		"the type may be in small letters":                {"a.test.", "aaaa", wire.Connected, "NOERROR fd91:2::2", "NOERROR fd91:2::2"},
		"NXDOMAIN is name not found":                      {"nxdomain.test.", "A", wire.NameNotFound, "NXDOMAIN", "NXDOMAIN"},
		"NOERROR without records is name not found":       {"empty.test.", "A", wire.NameNotFound, none, none},
		"NOERROR with another type only is not found":     {"v4only.test.", "AAAA", wire.NameNotFound, none, none},
		"SERVFAIL is a failure of the server":             {"servfail.test.", "A", wire.ServerFailure, "SERVFAIL", "SERVFAIL"},
		"REFUSED is refused":                              {"refused.test.", "A", wire.DNSRefused, "REFUSED", "REFUSED"},
		"any other code is refused":                       {"notimp.test.", "A", wire.DNSRefused, "NOTIMP", "NOTIMP"},
		"a truncated answer is asked for over TCP":        {"big.test.", "A", wire.Connected, "truncated; over TCP: NOERROR 10.0.0.1,10.0.0.2", "NOERROR 10.0.0.1,10.0.0.2"},
		"so is one that is cut within a record":           {"cut.test.", "A", wire.Connected, "truncated; over TCP: NOERROR 10.0.0.1,10.0.0.2", "NOERROR 10.0.0.1,10.0.0.2"},
		"an answer that is truncated over TCP is none":    {"never.test.", "A", wire.Truncated, "truncated; over TCP: Truncated truncated over TCP", "truncated over TCP"},
		"a server that says nothing is silence":           {"silent.test.", "A", wire.TimedOut, "", "tcp connected, no answer: silence"},
		"an answer with another id is no answer":          {"otherid.test.", "A", wire.TimedOut, ignored, "tcp connected, no answer: silence"},
		"an answer to another question is no answer":      {"otherquestion.test.", "A", wire.TimedOut, ignored, "tcp connected, no answer: silence"},
		"a forged answer before the right one is ignored": {"forged.test.", "A", wire.Connected, "NOERROR 10.0.0.1", "NOERROR 10.0.0.1"},
		"garbage is no answer":                            {"garbage.test.", "A", wire.TimedOut, ignored, "tcp connected, no answer: silence"},
		"one that cannot be read is no silence":           {"torn.test.", "A", wire.Unanswered, "an answer that cannot be read: " + torn, "tcp connected, no answer: " + torn},
		"an unknown type is the probe's error":            {"a.test.", "WAT", wire.ProbeError, "unknown query type WAT", "unknown query type WAT"},
	}
	var r rows
	for name, tc := range cases {
		for transport, detail := range map[wire.Transport]string{wire.DNSUDP: tc.udp, wire.DNSTCP: tc.tcp} {
			want := tc.want
			if transport == wire.DNSTCP && want == wire.TimedOut {
				want = wire.Unanswered // the handshake has shown that the path is open
			}
			for _, addr := range []netip.Addr{serverV4, serverV6} {
				r.add(name+"/"+string(transport)+"/"+addr.String(), wire.Check{
					Transport: transport, Addr: addr, Port: 53, QueryName: tc.name, QueryType: tc.qtype,
				}, want, detail)
			}
		}
	}
	r.add("a server that hangs up gave no answer", wire.Check{
		Transport: wire.DNSTCP, Addr: serverV4, Port: 53, QueryName: "hangup.test.", QueryType: "A",
	}, wire.Unanswered, "tcp connected, no answer: closed by peer")
	r.run(t, l.client)
}

// UDP works, TCP is blocked: small answers arrive and large ones do not, which is
// a finding of its own.
func TestTruncatedAnswerWithTCPBlocked(t *testing.T) {
	cases := map[string]struct{ rule, detail string }{
		"nobody listens":  {"", "truncated; over TCP: Refused"},
		"TCP is dropped":  {"tcp dport 53 drop", "truncated; over TCP: TimedOut"},
		"TCP is rejected": {"tcp dport 53 reject with icmpx admin-prohibited", "truncated; over TCP: Rejected icmp 3/13 from " + routerV4.String()},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.server.nameserver(serverV4, false, zone(t))
			l.router.nft("table inet filter { chain forward { type filter hook forward priority 0; " + tc.rule + "; }; }")
			check := wire.Check{Transport: wire.DNSUDP, Addr: serverV4, Port: 53, QueryName: "big.test.", QueryType: "A"}
			small := check
			small.QueryName = "a.test."
			got := l.client.run(planOf(check, small))
			assertOutcome(t, got[0], wire.Truncated, tc.detail)
			assertOutcome(t, got[1], wire.Connected, "NOERROR 10.91.2.2,10.91.2.3")
		})
	}
}

// resolvConf writes a resolver configuration that names the servers.
func resolvConf(t *testing.T, servers ...string) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("search wrong.test\noptions ndots:5\n")
	for _, s := range servers {
		b.WriteString("nameserver " + s + "\n")
	}
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHostChecks(t *testing.T) {
	l := newLab(t)
	l.server.nameserver(serverV4, true, zone(t))
	l.server.handle(":80", func(net.Conn) {})
	cases := map[string]struct {
		host    string
		servers []string
		want    wire.Outcome
		tried   string
		detail  string
	}{
		"every address is connected to":             {"both.test", []string{"10.91.2.2"}, wire.Connected, "10.91.2.2 fd91:2::2", ""},
		"one family is enough, IPv4":                {"v4only.test.", []string{"10.91.2.2"}, wire.Connected, "10.91.2.2", ""},
		"one family is enough, IPv6":                {"v6only.test.", []string{"10.91.2.2"}, wire.Connected, "fd91:2::2", ""},
		"an address without a route is passed over": {"nowhere.test.", []string{"10.91.2.2"}, wire.Connected, "fd91:2::2", ""},
		"an address needs no resolver":              {"10.91.2.2", nil, wire.Connected, "10.91.2.2", ""},
		"the second server is asked":                {"v4only.test.", []string{"10.91.2.99", "10.91.2.2"}, wire.Connected, "10.91.2.2", ""},
		"NXDOMAIN":                                  {"nxdomain.test.", []string{"10.91.2.2"}, wire.NameNotFound, "", "resolver: NameNotFound NXDOMAIN"},
		"SERVFAIL":                                  {"servfail.test.", []string{"10.91.2.2"}, wire.ServerFailure, "", "resolver: ServerFailure SERVFAIL"},
		"a silent resolver":                         {"silent.test.", []string{"10.91.2.2"}, wire.DNSTimedOut, "", "resolver: TimedOut"},
		"a resolver that does not listen":           {"a.test.", []string{"10.91.1.1"}, wire.DNSTimedOut, "", "resolver: Rejected icmp 3/3 from 10.91.1.1"},
		"a resolver without a route":                {"a.test.", []string{"10.99.0.1"}, wire.NoRoute, "", "resolver: NoRoute local: network is unreachable"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &Runner{ResolvConf: resolvConf(t, tc.servers...)}
			got := l.client.runWith(r, planOf(wire.Check{Transport: wire.TCP, Host: tc.host, Port: 80}))[0]
			assertOutcome(t, got, tc.want, tc.detail)
			var tried []string
			for _, at := range got.Addresses {
				tried = append(tried, at.Addr.String())
				if len(at.Outcomes) != 2 {
					t.Errorf("got %v at %v, want the outcomes of two attempts", at.Outcomes, at.Addr)
				}
			}
			if got := strings.Join(tried, " "); got != tc.tried {
				t.Errorf("tried %s, want %s", got, tc.tried)
			}
		})
	}
}

func TestHostCheckWithoutResolverIsTheProbesError(t *testing.T) {
	cases := map[string]struct{ path, detail string }{
		"no file":   {filepath.Join(t.TempDir(), "none"), "reading resolver configuration: open "},
		"no server": {resolvConf(t), "reading resolver configuration: no nameserver in "},
		"no zone":   {resolvConf(t, "ten.dot.zero"), "reading resolver configuration: ParseAddr"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := &Runner{ResolvConf: tc.path}
			got := r.Run(t.Context(), planOf(wire.Check{Transport: wire.TCP, Host: "a.test.", Port: 80})).Results[0]
			if !got.Outcomes.All(func(o wire.Outcome) bool { return o == wire.ProbeError }) || !strings.HasPrefix(got.Detail, tc.detail) {
				t.Errorf("got %v %q, want ProbeError with %q", got.Outcomes, got.Detail, tc.detail)
			}
		})
	}
}

// A server that leaves out one family altogether, or fails for it, must not make
// a name look missing: only two answers that say so do.
func TestUnresolved(t *testing.T) {
	missing := attempt{outcome: wire.NameNotFound}
	cases := map[string]struct {
		attempts []attempt
		want     wire.Outcome
	}{
		"both families are missing":    {[]attempt{missing, missing}, wire.NameNotFound},
		"AAAA is missing, A timed out": {[]attempt{{outcome: wire.TimedOut}, missing}, wire.DNSTimedOut},
		"A is missing, AAAA timed out": {[]attempt{missing, {outcome: wire.TimedOut}}, wire.DNSTimedOut},
		"A is missing, AAAA failed":    {[]attempt{missing, {outcome: wire.ServerFailure}}, wire.ServerFailure},
		"both were rejected":           {[]attempt{{outcome: wire.Rejected}, {outcome: wire.Rejected}}, wire.DNSTimedOut},
		"no socket could be had":       {[]attempt{{outcome: wire.ProbeError}, {outcome: wire.ProbeError}}, wire.ProbeError},
		"an answer without addresses":  {[]attempt{{outcome: wire.Connected}, missing}, wire.NameNotFound},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := failed(unresolved(tc.attempts)).outcome; got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func FuzzParseAnswer(f *testing.F) {
	q := new(dns.Msg).SetQuestion("a.test.", dns.TypeA)
	good, err := new(dns.Msg).SetReply(q).Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseAnswer(q, b)
		if m == nil && err != nil {
			t.Errorf("%v of what answers nothing", err)
		}
		if m == nil || err != nil {
			return
		}
		if m.Id != q.Id || !m.Response {
			t.Errorf("accepted message %v", m)
		}
		if o := judge(q, m).outcome; !o.Answered() {
			t.Errorf("an answer was judged %v", o)
		}
	})
}
