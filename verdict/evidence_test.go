package verdict

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/probe/wire"
)

var (
	neighbour = netip.MustParseAddr("10.244.2.77")
	mongo6    = netip.MustParseAddr("fd00:2::5")
)

// with returns the check after some changes.
func with(c Check, changes ...func(*Check)) Check {
	for _, change := range changes {
		change(&c)
	}
	return c
}

func silentDeny() Check { return check("x", Deny, evaluator.Denied, wire.TimedOut) }

func fromNode(node string) func(*Check)  { return func(c *Check) { c.SourceNode = node } }
func toPort(port uint16) func(*Check)    { return func(c *Check) { c.Port = port } }
func toAddr(a netip.Addr) func(*Check)   { return func(c *Check) { c.Addr = a } }
func over(t wire.Transport) func(*Check) { return func(c *Check) { c.Transport = t } }
func named(id string) func(*Check)       { return func(c *Check) { c.ID, c.Pod = id, "pod-"+id } }
func ended(os ...wire.Outcome) func(*Check) {
	return func(c *Check) { c.Result = &wire.Result{Outcomes: os} }
}
func responder(alive bool) func(*Check) {
	return func(c *Check) { c.Responder, c.ListenerAlive, c.Recorded = true, alive, &Recorded{} }
}
func offPods(c *Check) { c.OffPodNetwork = true }
func hindered(why Cause) func(*Check) {
	return func(c *Check) { c.Obstacle, c.ObstacleDetail = why, "in words" }
}

// Each reason is shown with the least input that yields it, beside the input that
// differs in nothing but the evidence, from which a conclusion is drawn.
func TestInconclusiveReasons(t *testing.T) {
	notReady := func(c *Check) { c.TargetReady = false }
	unproved := func(c *Check) { c.SourceProbed = false }
	noReport := func(c *Check) { c.Result = nil }
	unresolved := func(c *Check) { c.Addr, c.TargetNode = netip.Addr{}, "" }
	cases := map[string]struct {
		checks []Check
		want   Cause
		// sibling has the evidence that checks lack.
		sibling     []Check
		wantSibling Observed
	}{
		"nothing else reached the listener": {
			[]Check{silentDeny()}, NoPositiveControl,
			[]Check{silentDeny(), control()}, Blocked,
		},
		"the listener is alive, but nothing crossed from this node": {
			[]Check{silentDeny(), with(control(), fromNode("node-c"))}, NoPositiveControl,
			[]Check{silentDeny(), with(control(), fromNode("node-c")), with(control(), named("pair"), toAddr(neighbour))}, Blocked,
		},
		"the way back was used, not the way there": {
			[]Check{silentDeny(), with(control(), fromNode("node-c")), with(control(), named("back"), toAddr(neighbour), func(c *Check) { c.SourceNode, c.TargetNode = "node-b", "node-a" })}, NoPositiveControl,
			[]Check{silentDeny(), with(control(), fromNode("node-c")), with(control(), named("there"), toAddr(neighbour))}, Blocked,
		},
		"the node of the target was reached, and no pod on it": {
			[]Check{silentDeny(), with(control(), fromNode("node-c")), with(control(), named("node"), toAddr(neighbour), offPods)}, NoPositiveControl,
			[]Check{silentDeny(), with(control(), fromNode("node-c")), with(control(), named("pod"), toAddr(neighbour))}, Blocked,
		},
		"pods were reached, and the target is behind a Service": {
			[]Check{with(silentDeny(), offPods), with(control(), offPods, fromNode("node-c")), with(control(), named("pod"), toAddr(neighbour))}, NoPositiveControl,
			[]Check{with(silentDeny(), offPods), with(control(), offPods, fromNode("node-c")), with(control(), named("beside"), offPods)}, Blocked,
		},
		"the pair carried the other address family": {
			[]Check{with(silentDeny(), toAddr(mongo6)), with(control(), toAddr(mongo6), fromNode("node-c")), with(control(), named("v4"))}, NoPositiveControl,
			[]Check{with(silentDeny(), toAddr(mongo6)), with(control(), toAddr(mongo6), fromNode("node-c")), with(control(), named("v6"), toAddr(netip.MustParseAddr("fd00:2::6")))}, Blocked,
		},
		"the kubelet vouches for a responder over one family only": {
			[]Check{with(silentDeny(), responder(true), toAddr(mongo6)), control()}, NoPositiveControl,
			[]Check{with(silentDeny(), responder(true)), with(control(), toAddr(neighbour))}, Blocked,
		},
		"an allowed path is silent between the same nodes": {
			[]Check{silentDeny(), with(control(), fromNode("node-c")), with(check("dead", Allow, evaluator.Allowed, wire.TimedOut), toPort(80))}, PathBroken,
			[]Check{silentDeny(), with(control(), fromNode("node-c")), with(check("dead", Allow, evaluator.Allowed, wire.Connected), toPort(80))}, Blocked,
		},
		"a silent path between other nodes is no excuse": {
			[]Check{silentDeny(), with(control(), fromNode("node-c")), with(check("dead", Allow, evaluator.Allowed, wire.TimedOut), toPort(80), fromNode("node-d"))}, NoPositiveControl,
			[]Check{silentDeny(), control(), with(check("dead", Allow, evaluator.Allowed, wire.TimedOut), toPort(80))}, Blocked,
		},
		"reset, and the port answered nobody": {
			[]Check{with(silentDeny(), ended(wire.Refused, wire.Refused))}, TargetNotListening,
			[]Check{with(silentDeny(), ended(wire.Refused, wire.Refused)), control()}, Blocked,
		},
		"reset once among silence, and the port answered nobody": {
			[]Check{with(silentDeny(), ended(wire.TimedOut, wire.Refused))}, TargetNotListening,
			[]Check{with(silentDeny(), ended(wire.TimedOut, wire.Refused)), control()}, Blocked,
		},
		"a rejected datagram, and the port answered nobody": {
			[]Check{with(silentDeny(), over(wire.UDP), ended(wire.Rejected, wire.Rejected))}, TargetNotListening,
			[]Check{with(silentDeny(), over(wire.UDP), ended(wire.Rejected, wire.Rejected)), with(control(), over(wire.UDP))}, Blocked,
		},
		"a silent datagram, while the port answers over TCP": {
			[]Check{with(silentDeny(), over(wire.UDP)), control()}, NoPositiveControl,
			[]Check{with(silentDeny(), over(wire.UDP)), with(control(), over(wire.UDP))}, Blocked,
		},
		"the control itself was obstructed": {
			[]Check{silentDeny(), with(control(), hindered(ChangedDuringProbe))}, NoPositiveControl,
			[]Check{silentDeny(), control()}, Blocked,
		},
		"the control got through only sometimes": {
			[]Check{silentDeny(), with(control(), ended(wire.Connected, wire.TimedOut))}, NoPositiveControl,
			[]Check{silentDeny(), with(control(), ended(wire.Connected, wire.Replied))}, Blocked,
		},
		"the control was reset": {
			[]Check{silentDeny(), with(control(), ended(wire.Refused))}, TargetNotListening,
			[]Check{silentDeny(), with(control(), ended(wire.Connected))}, Blocked,
		},
		"a responder that died": {
			[]Check{with(silentDeny(), responder(false)), control()}, TargetNotListening,
			[]Check{with(silentDeny(), responder(true)), control()}, Blocked,
		},
		"a responder without traffic between the nodes": {
			[]Check{with(silentDeny(), responder(true))}, NoPositiveControl,
			[]Check{with(silentDeny(), responder(true)), with(control(), toAddr(neighbour))}, Blocked,
		},
		"a target that is not ready": {
			[]Check{with(silentDeny(), notReady), control()}, TargetNotReady,
			[]Check{silentDeny(), control()}, Blocked,
		},
		"a target that is not ready, and answers nevertheless": {
			[]Check{with(silentDeny(), notReady)}, TargetNotReady,
			[]Check{with(silentDeny(), notReady, ended(wire.Connected))}, Open,
		},
		"a probe pod that nothing proves alive": {
			[]Check{with(silentDeny(), unproved), control()}, SourceCutOff,
			[]Check{with(silentDeny(), unproved), with(control(), func(c *Check) { c.Pod = "pod-x" })}, Blocked,
		},
		"silence at an address that the name had in some attempts only": {
			[]Check{with(silentDeny(), func(c *Check) { c.Elsewhere = 1 }), control()}, NoPositiveControl,
			[]Check{silentDeny(), control()}, Blocked,
		},
		"an answer at an address that the name had in some attempts only": {
			[]Check{with(silentDeny(), func(c *Check) { c.Elsewhere = 1 }), control()}, NoPositiveControl,
			[]Check{with(silentDeny(), ended(wire.Connected), func(c *Check) { c.Elsewhere = 1 })}, Open,
		},
		"a check without a report": {
			[]Check{with(silentDeny(), noReport), control()}, ProbeFailed,
			[]Check{silentDeny(), control()}, Blocked,
		},
		"an attempt that failed on its own": {
			[]Check{with(silentDeny(), ended(wire.TimedOut, wire.ProbeError)), control()}, ProbeFailed,
			[]Check{with(silentDeny(), ended(wire.TimedOut, wire.TimedOut)), control()}, Blocked,
		},
		"an attempt without a source port among answers": {
			[]Check{with(silentDeny(), ended(wire.Connected, wire.AddressUnavailable))}, ProbeFailed,
			[]Check{with(silentDeny(), ended(wire.Connected, wire.Connected))}, Open,
		},
		"a kernel without the protocol": {
			[]Check{with(silentDeny(), over(wire.SCTP), ended(wire.Unsupported)), with(control(), over(wire.SCTP))}, Unsupported,
			[]Check{with(silentDeny(), over(wire.SCTP)), with(control(), over(wire.SCTP))}, Blocked,
		},
		"attempts that disagree": {
			[]Check{with(silentDeny(), ended(wire.TimedOut, wire.Connected)), control()}, Flapping,
			[]Check{with(silentDeny(), ended(wire.Connected, wire.Connected)), control()}, Open,
		},
		"a host that did not resolve": {
			[]Check{with(silentDeny(), unresolved, ended(wire.NameNotFound))}, NameNotResolved,
			[]Check{with(silentDeny(), func(c *Check) { c.TargetNode = "" }, ended(wire.Connected))}, Open,
		},
		"a host whose resolver is silent": {
			[]Check{with(silentDeny(), unresolved, ended(wire.DNSTimedOut))}, ResolverSilent,
			[]Check{with(silentDeny(), func(c *Check) { c.TargetNode = "" }), control()}, Blocked,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			v := verdictOf(t, tc.checks...)
			if v.Observed != Inconclusive || v.Inconclusive != tc.want || v.Cause != tc.want {
				t.Errorf("got %v, reason %q, cause %s (%s), want Inconclusive by %s", v.Observed, v.Inconclusive, v.Cause, v.Evidence, tc.want)
			}
			if v.Enforced != Unknown || v.Satisfied != Unknown || v.Evidence == "" {
				t.Errorf("got Enforced %v, Satisfied %v, evidence %q", v.Enforced, v.Satisfied, v.Evidence)
			}
			if s := verdictOf(t, tc.sibling...); s.Observed != tc.wantSibling || s.Inconclusive != "" {
				t.Errorf("with evidence: got %v by %q (%s), want %v", s.Observed, s.Inconclusive, s.Evidence, tc.wantSibling)
			}
		})
	}
}

// Obstacles pass through as they are, whatever a result says.
func TestObstaclesDecide(t *testing.T) {
	for _, why := range []Cause{
		ChangedDuringProbe, NoSourceMatched, NoTargetMatched, PortNotFound, ProbeRefused, SourceNamespaceRefused, SourceNotReady,
		TargetNotReady, TargetNotListening, TooManyChecks, Unsupported, IdentityDivergence, ProbeFailed,
	} {
		for _, o := range []wire.Outcome{wire.Connected, wire.TimedOut} {
			t.Run(fmt.Sprintf("%s with %s", why, o), func(t *testing.T) {
				v := verdictOf(t, with(silentDeny(), hindered(why), ended(o)), control())
				if v.Observed != Inconclusive || v.Cause != why || v.Evidence != "in words" {
					t.Errorf("got %v %s %q", v.Observed, v.Cause, v.Evidence)
				}
			})
		}
	}
}

// A probe that policies treat differently from its workload says nothing about
// it: not even that the policies say what was declared.
func TestDivergenceLeavesAlignmentOpen(t *testing.T) {
	for _, d := range []Declared{Allow, Deny} {
		for _, p := range []evaluator.Verdict{evaluator.Allowed, evaluator.Denied, evaluator.Undefined} {
			t.Run(fmt.Sprintf("%s %s", d, p), func(t *testing.T) {
				v := verdictOf(t, with(check("x", d, p, wire.TimedOut), hindered(IdentityDivergence)), control())
				if v.Aligned != Unknown || v.Violated() || v.Cause != IdentityDivergence {
					t.Errorf("got Aligned %v, violated %v, cause %s", v.Aligned, v.Violated(), v.Cause)
				}
				if s := Summarize([]Verdict{v}); s.Ready.Status != Unknown || s.Aligned.Status != Unknown {
					t.Errorf("got Ready %v, Aligned %v", s.Ready.Status, s.Aligned.Status)
				}
			})
		}
	}
}

// Every combination of listener, source and path is tried: Blocked takes them all.
func TestBlockedTakesEveryPartOfTheEvidence(t *testing.T) {
	const elsewhere = "node-z"
	sources := map[string]func(x *Check) []Check{
		"": func(x *Check) []Check { x.SourceProbed = false; return nil },
		"kubelet": func(x *Check) []Check {
			x.SourceProbed = true
			return nil
		},
		"own answer": func(x *Check) []Check {
			x.SourceProbed = false
			return []Check{with(control(), named("own"), toAddr(neighbour), func(c *Check) { c.Pod, c.TargetNode = x.Pod, elsewhere })}
		},
	}
	// The checks of a path are made over the transport of the denied one.
	paths := map[string]struct {
		checks []Check
		proves bool
	}{
		"none":                  {},
		"same address":          {[]Check{with(control(), named("path"), toPort(1), func(c *Check) { c.TargetNode = "" })}, true},
		"same nodes":            {[]Check{with(control(), named("path"), toAddr(neighbour))}, true},
		"same nodes, IPv6":      {[]Check{with(control(), named("path"), toAddr(mongo6))}, false},
		"from another node":     {[]Check{with(control(), named("path"), toAddr(neighbour), fromNode("node-c"))}, false},
		"to another node":       {[]Check{with(control(), named("path"), toAddr(neighbour), func(c *Check) { c.TargetNode = elsewhere })}, false},
		"to an unknown node":    {[]Check{with(control(), named("path"), toAddr(neighbour), func(c *Check) { c.TargetNode = "" })}, false},
		"same nodes, but reset": {[]Check{with(control(), named("path"), toAddr(neighbour), ended(wire.Refused))}, false},
	}
	n := 0
	for _, transport := range []wire.Transport{wire.TCP, wire.UDP, wire.SCTP, wire.DNSUDP, wire.DNSTCP} {
		for _, outcome := range []wire.Outcome{wire.TimedOut, wire.Rejected, wire.Refused} {
			for bits := range 8 {
				ready, listening, ours := bits&1 != 0, bits&2 != 0, bits&4 != 0
				for source, prove := range sources {
					for path, p := range paths {
						x := with(silentDeny(), over(transport), ended(outcome, outcome), func(c *Check) { c.TargetReady = ready })
						checks := prove(&x)
						for _, c := range p.checks {
							checks = append(checks, with(c, over(transport)))
						}
						switch {
						case ours:
							x = with(x, responder(listening))
						case listening:
							checks = append(checks, with(control(), named("listener"), over(transport), fromNode("node-l")))
						}
						want := ready && listening && source != "" && p.proves
						v := verdictOf(t, append([]Check{x}, checks...)...)
						if (v.Observed == Blocked) != want || v.Observed == Open || v.Met() != want {
							t.Errorf("%s %s, ready %v, listening %v, responder %v, source %q, path %q: got %v by %s (%s)",
								transport, outcome, ready, listening, ours, source, path, v.Observed, v.Inconclusive, v.Evidence)
						}
						n++
					}
				}
			}
		}
	}
	if n != 5*3*8*3*8 {
		t.Errorf("tried %d combinations", n)
	}
}

// A DNS path has two halves: transport and answer.
func TestDNSAnswers(t *testing.T) {
	dns := func(d Declared, p evaluator.Verdict, transport wire.Transport, os ...wire.Outcome) Check {
		return with(check("dns", d, p, 0), over(transport), toPort(53), ended(os...))
	}
	host := func(d Declared, o wire.Outcome) Check {
		return with(check("host", d, evaluator.Undefined, o), func(c *Check) { c.Addr = netip.Addr{} })
	}
	cases := map[string]struct {
		check                       Check
		wantObserved                Observed
		wantEnforced, wantSatisfied Status
		wantCause                   Cause
	}{
		"a name that does not exist, allowed":                     {dns(Allow, evaluator.Allowed, wire.DNSUDP, wire.NameNotFound), Open, True, False, NameNotResolved},
		"a name that does not exist, denied and yet answered":     {dns(Deny, evaluator.Denied, wire.DNSUDP, wire.NameNotFound), Open, False, False, EnforcementMissing},
		"a name that does not exist, denied by nobody":            {dns(Deny, evaluator.Allowed, wire.DNSTCP, wire.NameNotFound), Open, True, False, PolicyDrift},
		"a refusing resolver, allowed":                            {dns(Allow, evaluator.Allowed, wire.DNSTCP, wire.DNSRefused), Open, True, False, NameNotResolved},
		"an answer that is too large for UDP, and no TCP":         {dns(Allow, evaluator.Allowed, wire.DNSUDP, wire.Truncated), Open, True, False, DNSOverUDPOnly},
		"one answer of three without a record":                    {dns(Allow, evaluator.Allowed, wire.DNSUDP, wire.Connected, wire.ServerFailure, wire.Connected), Inconclusive, Unknown, Unknown, Flapping},
		"no such name, and the policies leave the path open":      {dns(Allow, evaluator.Undefined, wire.DNSUDP, wire.NameNotFound), Open, Unknown, False, ImplementationDefined},
		"no such name, and the path is open for want of policing": {dns(Allow, evaluator.Denied, wire.DNSUDP, wire.NameNotFound), Open, False, False, DriftMasked},
		"a name that resolves for want of policing":               {dns(Allow, evaluator.Denied, wire.DNSUDP, wire.Connected), Open, False, True, DriftMasked},
		"a host that does not exist, allowed":                     {host(Allow, wire.NameNotFound), Inconclusive, Unknown, Unknown, NameNotResolved},
		"a host that does not exist, denied":                      {host(Deny, wire.NameNotFound), Inconclusive, Unknown, Unknown, NameNotResolved},
		"a host whose resolver fails":                             {host(Deny, wire.ServerFailure), Inconclusive, Unknown, Unknown, NameNotResolved},
		"a host of changing addresses, all silent":                {host(Deny, wire.TimedOut), Inconclusive, Unknown, Unknown, NoPositiveControl},
		"a host whose resolver is out of reach":                   {host(Deny, wire.DNSTimedOut), Inconclusive, Unknown, Unknown, ResolverSilent},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			v := verdictOf(t, tc.check)
			if v.Observed != tc.wantObserved || v.Enforced != tc.wantEnforced || v.Satisfied != tc.wantSatisfied || v.Cause != tc.wantCause {
				t.Errorf("got %v, Enforced %v, Satisfied %v, %s; want %v, %v, %v, %s",
					v.Observed, v.Enforced, v.Satisfied, v.Cause, tc.wantObserved, tc.wantEnforced, tc.wantSatisfied, tc.wantCause)
			}
			if v.Met() {
				t.Error("it counts as met")
			}
			s := Summarize([]Verdict{v})
			wantReason := NameNotResolved
			if tc.wantCause == DNSOverUDPOnly {
				wantReason = DNSOverUDPOnly
			}
			if s.Satisfied.Status == False && tc.check.Declared == Allow && s.Satisfied.Reason != string(wantReason) {
				t.Errorf("Satisfied is False by %s", s.Satisfied.Reason)
			}
		})
	}
	t.Run("UDP that works does not speak for TCP", func(t *testing.T) {
		udp := dns(Allow, evaluator.Allowed, wire.DNSUDP, wire.Connected)
		tcp := with(dns(Allow, evaluator.Allowed, wire.DNSTCP, wire.TimedOut), named("tcp"))
		if v := verdictOf(t, tcp, udp); v.Cause != NoPositiveControl {
			t.Errorf("without another answer over TCP: got %s", v.Cause)
		}
		other := with(tcp, named("other"), fromNode("node-c"), ended(wire.Connected))
		if v := verdictOf(t, tcp, udp, other); v.Observed == Blocked {
			t.Errorf("UDP between the nodes stood for TCP: got %s: %s", v.Cause, v.Evidence)
		}
		near := with(tcp, named("near"), toAddr(neighbour), ended(wire.Connected))
		if v := verdictOf(t, tcp, udp, other, near); v.Cause != UnexpectedBlock {
			t.Errorf("with TCP between the nodes: got %s: %s", v.Cause, v.Evidence)
		}
	})
	t.Run("two hosts whose addresses are not known are not each other's evidence", func(t *testing.T) {
		unknown := func(c *Check) { c.Addr, c.TargetNode = netip.Addr{}, "" }
		if v := verdictOf(t, with(silentDeny(), unknown), with(control(), unknown)); v.Cause != NoPositiveControl {
			t.Errorf("got %s: %s", v.Cause, v.Evidence)
		}
	})
	t.Run("an error of name resolution is no sign of life of a host", func(t *testing.T) {
		lookup := with(control(), ended(wire.NameNotFound))
		if v := verdictOf(t, silentDeny(), lookup); v.Observed != Inconclusive {
			t.Errorf("got %v: %s", v.Observed, v.Evidence)
		}
	})
}

// What looks like evidence and is none. Each of these was once green.
func TestEvidenceThatIsNone(t *testing.T) {
	if v := verdictOf(t, silentDeny(), control()); v.Observed != Blocked {
		t.Fatalf("the case that the others change: got %v", v.Observed)
	}
	unprobed := func(c *Check) { c.SourceNode = "" }
	cases := map[string]struct {
		x      Check
		others []Check
		want   Cause
	}{
		"another protocol between the same nodes": {
			with(silentDeny(), over(wire.SCTP), responder(true)), []Check{with(control(), named("tcp"), toAddr(neighbour))}, NoPositiveControl,
		},
		"another connection to a Service with several endpoints": {
			with(silentDeny(), func(c *Check) { c.Endpoints = 2 }), []Check{with(control(), func(c *Check) { c.Endpoints = 2 })}, NoPositiveControl,
		},
		"two probes whose nodes are not known": {
			with(silentDeny(), unprobed), []Check{with(control(), unprobed)}, NoPositiveControl,
		},
		"an answer that is not the responder's echo": {
			with(check("x", Allow, evaluator.Allowed, wire.Connected), responder(true)), nil, TargetNotListening,
		},
		"the same for a path that must be closed": {
			with(check("x", Deny, evaluator.Denied, wire.Connected), responder(true)), nil, TargetNotListening,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			v := verdictOf(t, append([]Check{tc.x}, tc.others...)...)
			if v.Observed != Inconclusive || v.Inconclusive != tc.want || v.Met() {
				t.Errorf("got %v %s (%s), want Inconclusive %s", v.Observed, v.Inconclusive, v.Evidence, tc.want)
			}
		})
	}
}

// A control that nobody declared is evidence like any other check, and no more.
func TestControlsHaveNoVerdictOfTheirOwn(t *testing.T) {
	undeclared := func(c *Check) { c.Path, c.Control = "", true }
	for name, tc := range map[string]struct {
		control Check
		want    Observed
	}{
		"one that was answered": {with(control(), undeclared), Blocked},
		"one that was silent":   {with(control(), undeclared, ended(wire.TimedOut)), Inconclusive},
		"one without a report":  {with(control(), undeclared, hindered(ProbeFailed)), Inconclusive},
	} {
		t.Run(name, func(t *testing.T) {
			got := Judge([]Check{silentDeny(), tc.control})
			if len(got) != 1 || got[0].Check.ID != silentDeny().ID || got[0].Observed != tc.want {
				t.Errorf("got %+v, want one verdict, %s", got, tc.want)
			}
		})
	}
}
