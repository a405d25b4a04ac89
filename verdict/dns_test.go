package verdict

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/probe/wire"
)

var (
	dnsGuard = evaluator.PolicyRef{Namespace: "ns", Name: "guard"}
	// dnsDenied is what is predicted where a policy forgets DNS.
	dnsDenied = evaluator.Decision{Verdict: evaluator.Denied, Egress: evaluator.DirectionDecision{Verdict: evaluator.Denied, Isolating: []evaluator.PolicyRef{dnsGuard}}}
)

// ask is a check of one question to one resolver, from one pod.
func ask(transport wire.Transport, d Declared, p evaluator.Verdict, o wire.Outcome) Check {
	return with(check("dns", d, p, o), over(transport), toPort(53), func(c *Check) {
		c.ID, c.Target, c.Question = string(transport), "cluster DNS for a.b.", "A a.b."
		if p == evaluator.Denied {
			c.Prediction = dnsDenied
		}
	})
}

// otherPod is a check that shows that the resolver answers others.
func otherPod(c Check) Check {
	return with(c, named("other-"+c.ID), ended(wire.Connected), func(c *Check) {
		c.Path, c.Prediction = "other", evaluator.Decision{Verdict: evaluator.Allowed}
	})
}

func TestOneTransportWorksAndTheOtherDoesNot(t *testing.T) {
	const allow, deny = Allow, Deny
	udp := func(d Declared, p evaluator.Verdict, o wire.Outcome) Check { return ask(wire.DNSUDP, d, p, o) }
	tcp := func(d Declared, p evaluator.Verdict, o wire.Outcome) Check { return ask(wire.DNSTCP, d, p, o) }
	cases := map[string]struct {
		// silent is what is judged, works what answers over the other transport.
		silent, works                            Check
		proved                                   bool
		wantCause                                Cause
		wantAligned, wantEnforced, wantSatisfied Status
		wantMessage                              string
	}{
		"no policy lets TCP through": {tcp(allow, evaluator.Denied, wire.TimedOut), udp(allow, evaluator.Allowed, wire.Connected), true,
			DNSOverUDPOnly, False, True, False, "UDP works, TCP does not, so that answers that do not fit a datagram fail: policy ns/guard denies it (egress)"},
		"something else blocks TCP": {tcp(allow, evaluator.Allowed, wire.TimedOut), udp(allow, evaluator.Allowed, wire.Connected), true,
			DNSOverUDPOnly, True, False, False, "UDP works, TCP does not, so that answers that do not fit a datagram fail: it is blocked although no policy denies it"},
		"nobody gets through over TCP": {tcp(allow, evaluator.Allowed, wire.TimedOut), udp(allow, evaluator.Allowed, wire.Connected), false,
			DNSOverUDPOnly, True, Unknown, Unknown, "UDP works, TCP does not, so that answers that do not fit a datagram fail: ns/{app=dns} on node node-a got answers elsewhere and none here, although policies let it through: the target answers nobody"},
		"the resolver does not listen on TCP": {tcp(allow, evaluator.Allowed, wire.Refused), udp(allow, evaluator.Allowed, wire.NameNotFound), false,
			DNSOverUDPOnly, True, Unknown, Unknown, "nothing listens there, or a filter resets"},
		"no policy lets UDP through": {udp(allow, evaluator.Denied, wire.TimedOut), tcp(allow, evaluator.Allowed, wire.Connected), true,
			DNSOverTCPOnly, False, True, False, "TCP works, UDP does not, which resolvers ask over first: policy ns/guard denies it (egress)"},
		"the other does not work either": {tcp(allow, evaluator.Denied, wire.TimedOut), udp(allow, evaluator.Denied, wire.TimedOut), true,
			PolicyDrift, False, True, False, "must be open, but policy ns/guard denies it (egress)"},
		"the other is another resolver": {tcp(allow, evaluator.Denied, wire.TimedOut), with(udp(allow, evaluator.Allowed, wire.Connected), toAddr(neighbour)), true,
			PolicyDrift, False, True, False, "must be open"},
		"the other is another question": {tcp(allow, evaluator.Denied, wire.TimedOut), with(udp(allow, evaluator.Allowed, wire.Connected), func(c *Check) { c.Question = "A c.d." }), true,
			PolicyDrift, False, True, False, "must be open"},
		"the other is another pod's": {tcp(allow, evaluator.Denied, wire.TimedOut), with(udp(allow, evaluator.Allowed, wire.Connected), func(c *Check) { c.Pod = "else" }), true,
			PolicyDrift, False, True, False, "must be open"},
		"one of two is declared closed, and is": {tcp(deny, evaluator.Denied, wire.TimedOut), with(udp(allow, evaluator.Allowed, wire.Connected), func(c *Check) { c.Path = "udp" }), true,
			None, True, True, True, "is as declared"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			checks := []Check{tc.silent, tc.works}
			if tc.proved {
				checks = append(checks, otherPod(tc.silent))
			}
			v := verdictOf(t, checks...)
			if v.Cause != tc.wantCause || v.Aligned != tc.wantAligned || v.Enforced != tc.wantEnforced || v.Satisfied != tc.wantSatisfied {
				t.Errorf("got %s, Aligned %v, Enforced %v, Satisfied %v; want %s, %v, %v, %v",
					v.Cause, v.Aligned, v.Enforced, v.Satisfied, tc.wantCause, tc.wantAligned, tc.wantEnforced, tc.wantSatisfied)
			}
			if m := Message(v); !strings.Contains(m, tc.wantMessage) {
				t.Errorf("got the message %q, want it to contain %q", m, tc.wantMessage)
			}
			if (v.Observed == Blocked) != tc.proved {
				t.Errorf("got %v: %s", v.Observed, v.Evidence)
			}
		})
	}
	t.Run("UDP that answers truncated, while TCP does not", func(t *testing.T) {
		x := udp(allow, evaluator.Allowed, wire.Truncated)
		x.Result.Detail = "truncated; over TCP: TimedOut"
		v := verdictOf(t, x)
		if m := Message(v); v.Cause != DNSOverUDPOnly || v.Observed != Open || v.Satisfied != False || !strings.HasSuffix(m, "and TCP gives none (truncated; over TCP: TimedOut)") {
			t.Errorf("got %v %s: %s", v.Observed, v.Cause, m)
		}
	})
}

// What a resolver answers is judged apart from whether it can be reached.
func TestAnswersAsDeclared(t *testing.T) {
	want := func(a wire.Answer, p evaluator.Verdict, o wire.Outcome) Check {
		return with(ask(wire.DNSUDP, Allow, p, o), func(c *Check) { c.Answer, c.Result.Detail = a, "NOERROR 10.0.0.9" })
	}
	addresses := wire.Answer{Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}}
	alias, absent := wire.Answer{CNAME: "c.d."}, wire.Answer{NotFound: true}
	cases := map[string]struct {
		check                       Check
		wantCause                   Cause
		wantEnforced, wantSatisfied Status
		wantMessage                 string
	}{
		"the addresses":                           {want(addresses, evaluator.Allowed, wire.Connected), None, True, True, "is as declared"},
		"other addresses":                         {want(addresses, evaluator.Allowed, wire.AnswerDiffers), UnexpectedAnswer, True, False, "got NOERROR 10.0.0.9, want 10.0.0.1,10.0.0.2"},
		"no address":                              {want(addresses, evaluator.Allowed, wire.NameNotFound), NameNotResolved, True, False, "does not resolve"},
		"another alias":                           {want(alias, evaluator.Allowed, wire.AnswerDiffers), UnexpectedAnswer, True, False, "want an alias of c.d."},
		"a name that must not exist":              {want(absent, evaluator.Allowed, wire.NameNotFound), None, True, True, "is as declared"},
		"a name that must not exist, and does":    {want(absent, evaluator.Allowed, wire.AnswerDiffers), UnexpectedAnswer, True, False, "want that there is no such record"},
		"a name of which nothing is known":        {want(absent, evaluator.Allowed, wire.ServerFailure), NameNotResolved, True, False, "does not resolve"},
		"a resolver that takes the question only": {want(absent, evaluator.Allowed, wire.Unanswered), NameNotResolved, True, False, "does not resolve"},
		"a truncated answer over TCP":             {with(want(addresses, evaluator.Allowed, wire.Truncated), over(wire.DNSTCP)), NameNotResolved, True, False, "does not resolve"},
		"another answer, for want of policing":    {want(addresses, evaluator.Denied, wire.AnswerDiffers), DriftMasked, False, False, "only because the network does not enforce"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			v := verdictOf(t, tc.check)
			if v.Observed != Open || v.Cause != tc.wantCause || v.Enforced != tc.wantEnforced || v.Satisfied != tc.wantSatisfied {
				t.Errorf("got %v, %s, Enforced %v, Satisfied %v; want Open, %s, %v, %v", v.Observed, v.Cause, v.Enforced, v.Satisfied, tc.wantCause, tc.wantEnforced, tc.wantSatisfied)
			}
			if m := Message(v); !strings.Contains(m, tc.wantMessage) {
				t.Errorf("got the message %q, want it to contain %q", m, tc.wantMessage)
			}
			if v.Met() != (tc.wantCause == None) {
				t.Errorf("met: %t", v.Met())
			}
		})
	}
	t.Run("the right answer now and then", func(t *testing.T) {
		for _, other := range []wire.Outcome{wire.Unanswered, wire.ServerFailure, wire.AnswerDiffers} {
			v := verdictOf(t, with(want(addresses, evaluator.Allowed, wire.Connected), ended(wire.Connected, other)))
			if v.Observed != Inconclusive || v.Cause != Flapping || v.Satisfied != Unknown {
				t.Errorf("%s: got %v, %s, Satisfied %v; want Inconclusive, Flapping, Unknown", other, v.Observed, v.Cause, v.Satisfied)
			}
		}
	})
	t.Run("a handshake without an answer shows that a closed path is open", func(t *testing.T) {
		if v := verdictOf(t, ask(wire.DNSTCP, Deny, evaluator.Denied, wire.Unanswered)); v.Cause != EnforcementMissing {
			t.Errorf("got %s", v.Cause)
		}
	})
	t.Run("a resolver that is too busy for some of the answers", func(t *testing.T) {
		// Seen on a busy node: two attempts resolved, one got no answer in time.
		busy := with(ask(wire.DNSTCP, Allow, evaluator.Allowed, wire.Connected), ended(wire.Connected, wire.Unanswered, wire.Connected))
		if v := verdictOf(t, busy); v.Observed != Inconclusive || v.Cause != Flapping || v.Violated() || v.Met() {
			t.Errorf("got %v, %s", v.Observed, v.Cause)
		}
		busy.Declared, busy.Prediction.Verdict = Deny, evaluator.Denied
		if v := verdictOf(t, busy); v.Observed != Open || v.Cause != EnforcementMissing {
			t.Errorf("of a closed path: got %v, %s, want that it is open", v.Observed, v.Cause)
		}
	})
	t.Run("an answer that was left out of the report", func(t *testing.T) {
		x := want(addresses, evaluator.Allowed, wire.AnswerDiffers)
		x.Result.Detail = ""
		if m := Message(verdictOf(t, x)); !strings.Contains(m, "got other records, want") {
			t.Errorf("got %q", m)
		}
	})
}

// Every node has a listener of its own at the address of NodeLocal DNSCache.
func TestTheCacheOfAnotherNodeIsNoEvidence(t *testing.T) {
	local := func(c *Check) {
		c.Addr, c.OnSourceNode, c.TargetNode = netip.MustParseAddr("169.254.20.10"), true, c.SourceNode
	}
	x := with(ask(wire.DNSUDP, Deny, evaluator.Denied, wire.TimedOut), local)
	near := with(otherPod(x), local)
	far := with(near, fromNode("node-c"), local, named("far"))
	if v := verdictOf(t, x, near); v.Observed != Blocked {
		t.Errorf("with an answer on the same node: %v: %s", v.Observed, v.Evidence)
	}
	if v := verdictOf(t, x, far); v.Inconclusive != NoPositiveControl {
		t.Errorf("with an answer on another node: %v %s: %s", v.Observed, v.Inconclusive, v.Evidence)
	}
}

func TestSilenceOfANameserverWithSeveralEndpoints(t *testing.T) {
	service := netip.MustParseAddr("10.96.0.10")
	first, second := netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("10.244.2.2")
	to := func(addr netip.Addr, endpoints int, o wire.Outcome) Check {
		return with(ask(wire.DNSUDP, Deny, evaluator.Denied, o), func(c *Check) {
			c.ID, c.Target, c.Addr, c.Via, c.Endpoints = addr.String(), "dns "+addr.String(), addr, service, endpoints
		})
	}
	x, one, two := to(service, 2, wire.TimedOut), to(first, 1, wire.TimedOut), to(second, 1, wire.TimedOut)
	proof := []Check{otherPod(x), otherPod(one), otherPod(two)}
	cases := map[string]struct {
		checks []Check
		want   Observed
	}{
		"each endpoint is blocked":               {append([]Check{x, one, two}, proof...), Blocked},
		"one endpoint was not asked":             {append([]Check{x, one}, proof...), Inconclusive},
		"one endpoint answers":                   {append([]Check{x, one, to(second, 1, wire.Connected)}, proof...), Inconclusive},
		"of one endpoint nothing is known":       {[]Check{x, one, two, otherPod(x), otherPod(one)}, Inconclusive},
		"the nameserver is not known to answer":  {[]Check{x, one, two, otherPod(one), otherPod(two)}, Inconclusive},
		"the endpoints are another nameserver's": {append([]Check{x, with(one, func(c *Check) { c.Via = neighbour }), two}, proof...), Inconclusive},
		"the endpoints are another pod's":        {append([]Check{x, with(one, func(c *Check) { c.Pod = "else" }), two}, proof...), Inconclusive},
		"the endpoints are asked over TCP":       {append([]Check{x, with(one, over(wire.DNSTCP)), two}, proof...), Inconclusive},
		"the nameserver answered once":           {append([]Check{with(x, ended(wire.TimedOut, wire.Connected)), one, two}, proof...), Inconclusive},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			v := verdictOf(t, tc.checks...)
			if v.Observed != tc.want || v.Met() != (tc.want == Blocked) {
				t.Errorf("got %v, met %t: %s", v.Observed, v.Met(), v.Evidence)
			}
		})
	}
}
