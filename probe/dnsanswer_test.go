//go:build linux

package probe

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"github.com/pathproof/pathproof/probe/wire"
)

// records serves a zone file and nothing else. Names in broken get SERVFAIL.
func records(t *testing.T, broken []string, lines ...string) dns.HandlerFunc {
	t.Helper()
	var zone []dns.RR
	for _, line := range lines {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		zone = append(zone, rr)
	}
	return func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		name, known := q.Question[0].Name, false
		for followed := true; followed; {
			followed = false
			for _, rr := range zone {
				if rr.Header().Name != name {
					continue
				}
				known = true
				if c, ok := rr.(*dns.CNAME); ok && q.Question[0].Qtype != dns.TypeCNAME {
					m.Answer = append(m.Answer, rr)
					name, followed = c.Target, true
				} else if rr.Header().Rrtype == q.Question[0].Qtype {
					m.Answer = append(m.Answer, rr)
				}
			}
		}
		switch {
		case slices.Contains(broken, q.Question[0].Name):
			m.Rcode = dns.RcodeServerFailure
		case !known:
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m)
	}
}

func addrs(texts ...string) (out []netip.Addr) {
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

func TestAnswersThatAreAskedFor(t *testing.T) {
	l := newLab(t)
	l.server.nameserver(serverV4, true, records(t, []string{"broken.test."},
		"a.test. 5 IN A 10.0.0.1", "a.test. 5 IN A 10.0.0.2", "a.test. 5 IN AAAA fd00::1",
		"alias.test. 5 IN CNAME a.test.", "twice.test. 5 IN CNAME alias.test.", "dangling.test. 5 IN CNAME none.test.", "text.test. 5 IN TXT x"))
	absent := wire.Answer{NotFound: true}
	cases := map[string]struct {
		name, qtype string
		answer      wire.Answer
		want        wire.Outcome
		detail      string
	}{
		"all addresses, in another order":  {"a.test.", "A", wire.Answer{Addresses: addrs("10.0.0.2", "10.0.0.1")}, wire.Connected, "NOERROR 10.0.0.1,10.0.0.2"},
		"an address written twice":         {"a.test.", "A", wire.Answer{Addresses: addrs("10.0.0.1", "10.0.0.2", "10.0.0.1")}, wire.Connected, "NOERROR 10.0.0.1,10.0.0.2"},
		"an IPv6 address":                  {"a.test.", "AAAA", wire.Answer{Addresses: addrs("fd00::1")}, wire.Connected, "NOERROR fd00::1"},
		"one of them is missing":           {"a.test.", "A", wire.Answer{Addresses: addrs("10.0.0.1", "10.0.0.2", "10.0.0.3")}, wire.AnswerDiffers, "NOERROR 10.0.0.1,10.0.0.2"},
		"one is too many":                  {"a.test.", "A", wire.Answer{Addresses: addrs("10.0.0.1")}, wire.AnswerDiffers, "NOERROR 10.0.0.1,10.0.0.2"},
		"another address":                  {"a.test.", "AAAA", wire.Answer{Addresses: addrs("fd00::2")}, wire.AnswerDiffers, "NOERROR fd00::1"},
		"the addresses of an alias":        {"alias.test.", "A", wire.Answer{Addresses: addrs("10.0.0.1", "10.0.0.2")}, wire.Connected, "NOERROR 10.0.0.1,10.0.0.2"},
		"addresses of no name":             {"none.test.", "A", wire.Answer{Addresses: addrs("10.0.0.1")}, wire.NameNotFound, "NXDOMAIN"},
		"an alias":                         {"alias.test.", "A", wire.Answer{CNAME: "A.test."}, wire.Connected, "NOERROR 10.0.0.1,10.0.0.2 CNAME a.test."},
		"an alias, asked for as such":      {"alias.test.", "CNAME", wire.Answer{CNAME: "a.test."}, wire.Connected, "NOERROR a.test."},
		"the first alias of two":           {"twice.test.", "A", wire.Answer{CNAME: "alias.test."}, wire.Connected, "NOERROR 10.0.0.1,10.0.0.2 CNAME alias.test."},
		"the last alias of two":            {"twice.test.", "A", wire.Answer{CNAME: "a.test."}, wire.AnswerDiffers, "NOERROR 10.0.0.1,10.0.0.2 CNAME alias.test."},
		"no alias at all":                  {"a.test.", "A", wire.Answer{CNAME: "b.test."}, wire.AnswerDiffers, "NOERROR 10.0.0.1,10.0.0.2"},
		"an alias of nothing":              {"dangling.test.", "A", wire.Answer{CNAME: "none.test."}, wire.NameNotFound, "NOERROR without a record of the type"},
		"no such name":                     {"none.test.", "A", absent, wire.NameNotFound, "NXDOMAIN"},
		"no record of the type":            {"text.test.", "A", absent, wire.NameNotFound, "NOERROR without a record of the type"},
		"a name that must not exist":       {"a.test.", "A", absent, wire.AnswerDiffers, "NOERROR 10.0.0.1,10.0.0.2"},
		"a failure is no proof of absence": {"broken.test.", "A", absent, wire.ServerFailure, "SERVFAIL"},
	}
	var r rows
	for name, tc := range cases {
		for _, transport := range []wire.Transport{wire.DNSUDP, wire.DNSTCP} {
			r.add(name+"/"+string(transport), wire.Check{
				Transport: transport, Addr: serverV4, Port: dnsPort, QueryName: tc.name, QueryType: tc.qtype, Answer: tc.answer,
			}, tc.want, tc.detail)
		}
	}
	r.run(t, l.client)
}

func TestSearchLists(t *testing.T) {
	l := newLab(t)
	l.server.nameserver(serverV4, true, records(t, []string{"half.ns.test."},
		"db.ns.test. 5 IN A 10.0.0.1", "db. 5 IN A 10.0.0.9", "api.svc.test. 5 IN A 10.0.0.2", "db.other.svc.test. 5 IN A 10.0.0.3",
		"api.ns.test. 5 IN TXT x", "half.svc.test. 5 IN A 10.0.0.4", "two.dots.test. 5 IN A 10.0.0.5", "two.dots.test.ns.test. 5 IN A 10.0.0.6"))
	// The root is a search domain in clusters that want fewer lookups.
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("search ns.test . svc.test.\noptions ndots:2\nnameserver 10.91.2.2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		name   string
		search bool
		want   wire.Outcome
		detail string
	}{
		"the first that exists":                      {"db", true, wire.Connected, "db.ns.test. NOERROR 10.0.0.1"},
		"a dot more turns the list off":              {"db.", true, wire.Connected, "db. NOERROR 10.0.0.9"},
		"without a list the name is fully qualified": {"db", false, wire.Connected, "NOERROR 10.0.0.9"},
		"no record of the type goes on":              {"api", true, wire.Connected, "api.svc.test. NOERROR 10.0.0.2"},
		"fewer dots than ndots: the list is first":   {"db.other", true, wire.Connected, "db.other.svc.test. NOERROR 10.0.0.3"},
		"as many dots: the name is first":            {"two.dots.test", true, wire.Connected, "two.dots.test. NOERROR 10.0.0.5"},
		"a failing server goes on":                   {"half", true, wire.Connected, "half.svc.test. NOERROR 10.0.0.4"},
		"nothing exists":                             {"none", true, wire.NameNotFound, "none. NXDOMAIN"},
	}
	var r rows
	for name, tc := range cases {
		for _, transport := range []wire.Transport{wire.DNSUDP, wire.DNSTCP} {
			r.add(name+"/"+string(transport), wire.Check{
				Transport: transport, Nameserver: 1, Port: dnsPort, QueryName: tc.name, QueryType: "A", Search: tc.search,
			}, tc.want, tc.detail)
		}
	}
	r.runWith(t, l.client, &Runner{ResolvConf: conf})
}

// A failure among the names of a search list leaves open whether one of them exists.
func TestSearchThatFoundNothingAndAFailure(t *testing.T) {
	l := newLab(t)
	l.server.nameserver(serverV4, false, records(t, []string{"x.wrong.test."}, "a. 5 IN A 10.0.0.1"))
	got := l.client.runWith(&Runner{ResolvConf: resolvConf(t, "10.91.2.2")}, planOf(wire.Check{
		Transport: wire.DNSUDP, Nameserver: 1, Port: dnsPort, QueryName: "x", QueryType: "A", Search: true, Answer: wire.Answer{NotFound: true},
	}))[0]
	assertOutcome(t, got, wire.ServerFailure, "x.wrong.test. SERVFAIL")
}

// A server that has answered about one name is not out of reach when it says nothing about the
// next: it may ask others, who are. Silence about all names is silence.
func TestSearchThatMeetsSilence(t *testing.T) {
	l := newLab(t)
	var silentAbout atomic.Value // the end of the names that it says nothing about
	l.server.nameserver(serverV4, true, func(w dns.ResponseWriter, q *dns.Msg) {
		if strings.HasSuffix(q.Question[0].Name, silentAbout.Load().(string)) {
			return
		}
		m := new(dns.Msg).SetReply(q)
		m.Rcode = dns.RcodeNameError
		_ = w.WriteMsg(m) // a client that gave up is no matter
	})
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("search ns.test corp.test other.test\noptions ndots:2\nnameserver 10.91.2.2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for silent, want := range map[string]map[wire.Transport]wire.Outcome{
		"corp.test.": {wire.DNSUDP: wire.Unanswered, wire.DNSTCP: wire.Unanswered},
		"none.":      {wire.DNSUDP: wire.NameNotFound, wire.DNSTCP: wire.NameNotFound},
		"ns.test.":   {wire.DNSUDP: wire.TimedOut, wire.DNSTCP: wire.Unanswered},
	} {
		silentAbout.Store(silent)
		for transport, outcome := range want {
			got := l.client.runWith(&Runner{ResolvConf: conf}, planOf(wire.Check{
				Transport: transport, Nameserver: 1, Port: dnsPort, QueryName: "db", QueryType: "A", Search: true,
			}))[0]
			if !got.Outcomes.All(func(o wire.Outcome) bool { return o == outcome }) {
				t.Errorf("silent about %s, over %s: got %s (%s), want %s", silent, transport, got.Outcomes, got.Detail, outcome)
			}
		}
	}
}

func TestNameserversOfThePod(t *testing.T) {
	l := newLab(t)
	answers := map[netip.Addr]string{serverV4: "10.0.0.4", serverV6: "10.0.0.6"}
	for addr, a := range answers {
		l.server.nameserver(addr, true, records(t, nil, "a.test. 5 IN A "+a))
	}
	ask := func(n int) wire.Check {
		return wire.Check{Transport: wire.DNSUDP, Nameserver: n, Port: dnsPort, QueryName: "a.test.", QueryType: "A", Goal: wire.GoalOpen}
	}
	cases := map[string]struct {
		servers []string
		want    []netip.Addr
	}{
		"one":                            {[]string{"10.91.2.2"}, addrs("10.91.2.2")},
		"one of each family":             {[]string{"fd91:2::2", "10.91.2.2"}, addrs("fd91:2::2", "10.91.2.2")},
		"no more than resolvers look at": {[]string{"10.91.2.2", "fd91:2::2", "10.91.2.2", "10.99.0.1"}, addrs("10.91.2.2", "fd91:2::2", "10.91.2.2")},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			plan := planOf(ask(1), ask(2), ask(3))
			plan.SettleMilliseconds = 60_000 // nothing is waited for that is not there
			r := &Runner{ResolvConf: resolvConf(t, tc.servers...), socket: l.client.socket}
			report := r.Run(t.Context(), plan)
			if !slices.Equal(report.Nameservers, tc.want) {
				t.Errorf("got nameservers %v, want %v", report.Nameservers, tc.want)
			}
			for i, got := range report.Results {
				if i >= len(tc.want) {
					if !got.Absent || len(got.Outcomes) > 0 {
						t.Errorf("nameserver %d: got %+v, want it absent", i+1, got)
					}
					continue
				}
				assertOutcome(t, got, wire.Connected, "NOERROR "+answers[tc.want[i]])
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		r := &Runner{ResolvConf: resolvConf(t)}
		report := r.Run(t.Context(), planOf(ask(1), ask(2)))
		if got := report.Results[0].Outcomes; len(report.Nameservers) > 0 || !got.All(func(o wire.Outcome) bool { return o == wire.ProbeError }) {
			t.Errorf("got %v and %v, want a failure of the probe", report.Nameservers, got)
		}
		if !report.Results[1].Absent {
			t.Errorf("got %+v for the second, want it absent", report.Results[1])
		}
	})
	t.Run("they are no matter to other checks", func(t *testing.T) {
		r := &Runner{ResolvConf: resolvConf(t, "10.91.2.2"), socket: l.client.socket}
		if got := r.Run(t.Context(), planOf(wire.Check{Transport: wire.TCP, Addr: serverV4, Port: 1})).Nameservers; got != nil {
			t.Errorf("got %v", got)
		}
	})
}

// An answer counts only if it comes from the resolver that was asked: neither another
// port nor another address speaks for it (RFC 5452, section 9.1).
func TestAnswersFromElsewhereAreIgnored(t *testing.T) {
	for name, from := range map[string]string{"another port": "10.91.2.2:5353", "another address": "10.91.2.3:53"} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			// Both addresses of the server are one host, so that the router lets the answer pass.
			l.server.addresses("server", []string{"10.91.2.3/24"})
			elsewhere := l.server.listenUDP(from)
			l.server.nameserver(serverV4, false, func(w dns.ResponseWriter, q *dns.Msg) {
				m := new(dns.Msg).SetReply(q)
				answer(t, m, "10.6.6.6")
				b, err := m.Pack()
				if err != nil {
					t.Error(err)
				}
				if _, err := elsewhere.WriteTo(b, w.RemoteAddr().(*net.UDPAddr)); err != nil {
					t.Error(err)
				}
				if q.Question[0].Name == "both.test." {
					right := new(dns.Msg).SetReply(q)
					answer(t, right, "10.0.0.1")
					_ = w.WriteMsg(right)
				}
			})
			check := wire.Check{Transport: wire.DNSUDP, Addr: serverV4, Port: dnsPort, QueryName: "a.test.", QueryType: "A"}
			both := check
			both.QueryName = "both.test."
			got := l.client.run(planOf(check, both))
			// The kernel of the client rejects what no socket takes.
			assertOutcome(t, got[0], wire.TimedOut, "")
			assertOutcome(t, got[1], wire.Connected, "NOERROR 10.0.0.1")
		})
	}
}

// Queries cannot be told from each other by their ids.
func TestQueryIDsAreRandom(t *testing.T) {
	l := newLab(t)
	ids := make(chan uint16, 64)
	l.server.nameserver(serverV4, false, func(w dns.ResponseWriter, q *dns.Msg) {
		ids <- q.Id
		m := new(dns.Msg).SetReply(q)
		answer(t, m, "10.0.0.1")
		_ = w.WriteMsg(m)
	})
	plan := planOf(wire.Check{Transport: wire.DNSUDP, Addr: serverV4, Port: dnsPort, QueryName: "a.test.", QueryType: "A"})
	plan.Attempts = wire.MaxAttempts
	l.client.run(plan)
	close(ids)
	var got []uint16
	for id := range ids {
		got = append(got, id)
	}
	if len(got) != wire.MaxAttempts {
		t.Fatalf("got %d queries, want %d", len(got), wire.MaxAttempts)
	}
	slices.Sort(got)
	// Of ten random ids, two are the same once in 1500 runs, and five once in 10^14.
	if distinct := slices.Compact(slices.Clone(got)); len(distinct) < 6 || got[len(got)-1]-got[0] < 64 {
		t.Errorf("ids are not random: %v", got)
	}
}
