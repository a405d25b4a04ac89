package verdict

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/probe/wire"
)

var mongo = netip.MustParseAddr("10.244.2.5")

func outcomes(o wire.Outcome) wire.Outcomes { return wire.Outcomes{o, o, o} }

// check is a check of MongoDB from node-a with the given result.
func check(id string, d Declared, p evaluator.Verdict, o wire.Outcome) Check {
	return Check{
		ID: id, Path: id, Declared: d, Prediction: evaluator.Decision{Verdict: p}, Source: "ns/{app=" + id + "}", Target: "ns/mongodb",
		SourceNode: "node-a", TargetNode: "node-b", Transport: wire.TCP, Addr: mongo, Port: 27017, Pod: "pod-" + id,
		SourceProbed: true, TargetReady: true, Result: &wire.Result{Outcomes: outcomes(o)},
	}
}

// control is the check that shows that listener and node pair are alive.
func control() Check { return check("control", Allow, evaluator.Allowed, wire.Connected) }

// verdictOf judges checks together and returns the verdict of the first.
func verdictOf(t *testing.T, checks ...Check) Verdict {
	t.Helper()
	for _, v := range Judge(checks) {
		if v.Check.ID == checks[0].ID {
			return v
		}
	}
	t.Fatal("no verdict for the check")
	return Verdict{}
}

func TestCauseTable(t *testing.T) {
	const (
		open    = wire.Connected
		blocked = wire.TimedOut
	)
	cases := []struct {
		declared  Declared
		predicted evaluator.Verdict
		outcome   wire.Outcome
		alone     bool // without a control: inconclusive

		wantCause                                Cause
		wantAligned, wantEnforced, wantSatisfied Status
	}{
		{Allow, evaluator.Allowed, open, false, None, True, True, True},
		{Allow, evaluator.Allowed, blocked, false, UnexpectedBlock, True, False, False},
		{Allow, evaluator.Denied, blocked, false, PolicyDrift, False, True, False},
		{Allow, evaluator.Denied, open, false, DriftMasked, False, False, True},
		{Deny, evaluator.Denied, blocked, false, None, True, True, True},
		{Deny, evaluator.Denied, open, false, EnforcementMissing, True, False, False},
		{Deny, evaluator.Allowed, open, false, PolicyDrift, False, True, False},
		{Deny, evaluator.Allowed, blocked, false, BlockedOutsidePolicy, False, False, True},
		{Allow, evaluator.Undefined, open, false, ImplementationDefined, Unknown, Unknown, True},
		{Allow, evaluator.Undefined, blocked, false, ImplementationDefined, Unknown, Unknown, False},
		{Deny, evaluator.Undefined, open, false, ImplementationDefined, Unknown, Unknown, False},
		{Deny, evaluator.Undefined, blocked, false, ImplementationDefined, Unknown, Unknown, True},
		{Allow, evaluator.Allowed, blocked, true, NoPositiveControl, True, Unknown, Unknown},
		{Deny, evaluator.Denied, blocked, true, NoPositiveControl, True, Unknown, Unknown},
		{Allow, evaluator.Denied, blocked, true, PolicyDrift, False, Unknown, Unknown},
		{Deny, evaluator.Allowed, blocked, true, PolicyDrift, False, Unknown, Unknown},
		{Allow, evaluator.Undefined, blocked, true, NoPositiveControl, Unknown, Unknown, Unknown},
	}
	for _, tc := range cases {
		t.Run(fmt.Sprintf("%s %s %s alone=%v", tc.declared, tc.predicted, tc.outcome, tc.alone), func(t *testing.T) {
			checks := []Check{check("x", tc.declared, tc.predicted, tc.outcome)}
			if !tc.alone {
				checks = append(checks, control())
			}
			v := verdictOf(t, checks...)
			got := []any{v.Cause, v.Aligned, v.Enforced, v.Satisfied}
			if want := []any{tc.wantCause, tc.wantAligned, tc.wantEnforced, tc.wantSatisfied}; !cmp.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
			if v.Met() && v.Observed == Inconclusive {
				t.Error("a check without an observation counts as met")
			}
		})
	}
}

// Each case takes one piece of evidence from a denied path that would be proved
// with it: none may be left Blocked.
func TestBlockedNeedsAllEvidence(t *testing.T) {
	denied := func() Check { return check("x", Deny, evaluator.Denied, wire.TimedOut) }
	if v := verdictOf(t, denied(), control()); v.Observed != Blocked || !v.Met() {
		t.Fatalf("with all evidence: got %v (%s), want Blocked", v.Observed, v.Evidence)
	}
	elsewhere := netip.MustParseAddr("10.244.2.6")
	cases := map[string]struct {
		change func(x, c *Check)
		want   Cause
	}{
		"the control was not answered either":       {func(_, c *Check) { c.Result.Outcomes = outcomes(wire.TimedOut) }, NoPositiveControl},
		"the control reached another port":          {func(_, c *Check) { c.Port = 80 }, NoPositiveControl},
		"the control reached another address":       {func(_, c *Check) { c.Addr = elsewhere }, NoPositiveControl},
		"the control used another protocol":         {func(_, c *Check) { c.Transport = wire.UDP }, NoPositiveControl},
		"the control has no result":                 {func(_, c *Check) { c.Result = nil }, NoPositiveControl},
		"the control must not be used":              {func(_, c *Check) { c.Obstacle = IdentityDivergence }, NoPositiveControl},
		"the control was answered only once":        {func(_, c *Check) { c.Result.Outcomes[0] = wire.TimedOut }, NoPositiveControl},
		"the control came from another node":        {func(_, c *Check) { c.SourceNode = "node-c" }, NoPositiveControl},
		"the target is not ready":                   {func(x, _ *Check) { x.TargetReady = false }, TargetNotReady},
		"nothing shows that the source is alive":    {func(x, _ *Check) { x.SourceProbed = false }, SourceCutOff},
		"the attempts disagree":                     {func(x, _ *Check) { x.Result.Outcomes[1] = wire.Connected }, Flapping},
		"an attempt never left the pod":             {func(x, _ *Check) { x.Result.Outcomes[1] = wire.NoRoute }, ProbeFailed},
		"the probe failed":                          {func(x, _ *Check) { x.Result.Outcomes = outcomes(wire.ProbeError) }, ProbeFailed},
		"there is no report":                        {func(x, _ *Check) { x.Result = nil }, ProbeFailed},
		"the kernel lacks the protocol":             {func(x, _ *Check) { x.Result.Outcomes = outcomes(wire.Unsupported) }, Unsupported},
		"the run was overtaken by a change":         {func(x, _ *Check) { x.Obstacle = ChangedDuringProbe }, ChangedDuringProbe},
		"reset, and nobody else reached the port":   {func(x, c *Check) { x.Result.Outcomes = outcomes(wire.Refused); c.Port = 80 }, TargetNotListening},
		"no attempt was made":                       {func(x, _ *Check) { x.Result.Outcomes = nil }, ProbeFailed},
		"the name of the target could not be found": {func(x, _ *Check) { x.Result.Outcomes = outcomes(wire.NameNotFound) }, NameNotResolved},
		"the resolver was silent":                   {func(x, _ *Check) { x.Result.Outcomes = outcomes(wire.DNSTimedOut) }, ResolverSilent},
		"the probe's interface is down":             {func(x, _ *Check) { x.SourceTrouble = "eth0 is down" }, SourceNetworkDown},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			x, c := denied(), control()
			tc.change(&x, &c)
			v := verdictOf(t, x, c)
			if v.Observed == Blocked || v.Met() {
				t.Fatalf("got %v, met %v: a deny was concluded without evidence", v.Observed, v.Met())
			}
			if v.Inconclusive != tc.want {
				t.Errorf("got reason %s (%s), want %s", v.Inconclusive, v.Evidence, tc.want)
			}
			if v.Evidence == "" && v.Check.Obstacle == "" {
				t.Error("it is not said what is missing")
			}
		})
	}
}

func TestEvidenceFromElsewhere(t *testing.T) {
	t.Run("a control from another node proves the listener, another check the node pair", func(t *testing.T) {
		c := control()
		c.SourceNode = "node-c"
		pair := control()
		pair.ID, pair.Addr, pair.Port = "pair", netip.MustParseAddr("10.244.2.9"), 8080
		if v := verdictOf(t, check("x", Deny, evaluator.Denied, wire.TimedOut), c, pair); v.Observed != Blocked {
			t.Errorf("got %v: %s", v.Observed, v.Evidence)
		}
	})
	t.Run("an allowed path that is silent between the same nodes makes the path broken", func(t *testing.T) {
		c := control()
		c.SourceNode = "node-c"
		dead := check("dead", Allow, evaluator.Allowed, wire.TimedOut)
		dead.Port = 8080
		if v := verdictOf(t, check("x", Deny, evaluator.Denied, wire.TimedOut), c, dead); v.Inconclusive != PathBroken {
			t.Errorf("got %s: %s", v.Inconclusive, v.Evidence)
		}
	})
	t.Run("an answer to another check of the pod shows that it is alive", func(t *testing.T) {
		x, own := check("x", Deny, evaluator.Denied, wire.TimedOut), control()
		x.SourceProbed, own.SourceProbed = false, false
		own.Pod = x.Pod
		if v := verdictOf(t, x, own); v.Observed != Blocked {
			t.Errorf("got %v: %s", v.Observed, v.Evidence)
		}
	})
	t.Run("a reset of a port that answers others comes from a filter", func(t *testing.T) {
		v := verdictOf(t, check("x", Deny, evaluator.Denied, wire.Refused), control())
		if v.Observed != Blocked || v.Cause != None {
			t.Errorf("got %v %s: %s", v.Observed, v.Cause, v.Evidence)
		}
	})
	t.Run("a rejected datagram without a control says nothing about the path", func(t *testing.T) {
		x := check("x", Deny, evaluator.Denied, wire.Rejected)
		x.Transport = wire.UDP
		if v := verdictOf(t, x); v.Inconclusive != TargetNotListening {
			t.Errorf("got %s", v.Inconclusive)
		}
	})
	t.Run("the kubelet vouches for a responder, as long as it lives", func(t *testing.T) {
		x, pair := check("x", Deny, evaluator.Denied, wire.TimedOut), control()
		x.Responder, x.ListenerAlive, x.Recorded, pair.Port = true, true, &Recorded{}, 80
		if v := verdictOf(t, x, pair); v.Observed != Blocked {
			t.Errorf("got %v: %s", v.Observed, v.Evidence)
		}
		x.ListenerAlive = false
		if v := verdictOf(t, x, pair); v.Inconclusive != TargetNotListening {
			t.Errorf("dead responder: got %s", v.Inconclusive)
		}
	})
}

func TestDNS(t *testing.T) {
	dns := func(d Declared, p evaluator.Verdict, o wire.Outcome) Check {
		c := check("dns", d, p, o)
		c.Transport, c.Port = wire.DNSUDP, 53
		return c
	}
	cases := map[string]struct {
		check        Check
		wantObserved Observed
		wantCause    Cause
	}{
		"a name that resolves":                          {dns(Allow, evaluator.Allowed, wire.Connected), Open, None},
		"NXDOMAIN is an answer, but not what was asked": {dns(Allow, evaluator.Allowed, wire.NameNotFound), Open, NameNotResolved},
		"SERVFAIL likewise":                             {dns(Allow, evaluator.Allowed, wire.ServerFailure), Open, NameNotResolved},
		"NXDOMAIN shows that a denied path is open":     {dns(Deny, evaluator.Denied, wire.NameNotFound), Open, EnforcementMissing},
		"silence without a control":                     {dns(Deny, evaluator.Denied, wire.TimedOut), Inconclusive, NoPositiveControl},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			v := verdictOf(t, tc.check)
			if v.Observed != tc.wantObserved || v.Cause != tc.wantCause {
				t.Errorf("got %v %s, want %v %s", v.Observed, v.Cause, tc.wantObserved, tc.wantCause)
			}
			if tc.wantCause == NameNotResolved && (v.Satisfied != False || v.Enforced != True) {
				t.Errorf("got Satisfied %v and Enforced %v, want False and True", v.Satisfied, v.Enforced)
			}
		})
	}
}

func TestOrderIsIrrelevant(t *testing.T) {
	checks := []Check{
		check("a", Deny, evaluator.Denied, wire.TimedOut), control(), check("b", Deny, evaluator.Denied, wire.Connected),
		check("c", Allow, evaluator.Denied, wire.TimedOut), check("d", Allow, evaluator.Undefined, wire.Connected),
	}
	want := Judge(checks)
	for range checks {
		checks = append(checks[1:], checks[0])
		if diff := cmp.Diff(causes(want), causes(Judge(checks))); diff != "" {
			t.Fatalf("verdicts depend on the order of the checks:\n%s", diff)
		}
	}
	if want[0].Cause != EnforcementMissing {
		t.Errorf("the worst verdict is not first: %v", causes(want))
	}
}

func causes(vs []Verdict) []string {
	var out []string
	for _, v := range vs {
		out = append(out, v.Check.ID+" "+string(v.Cause))
	}
	return out
}

func TestSummarize(t *testing.T) {
	t.Run("nothing to check is not green", func(t *testing.T) {
		if s := Summarize(nil); s.Ready.Status != Unknown || s.Ready.Reason != ReasonNoChecks {
			t.Errorf("got %+v", s.Ready)
		}
	})
	t.Run("all met", func(t *testing.T) {
		s := Summarize(Judge([]Check{control(), check("x", Deny, evaluator.Denied, wire.TimedOut)}))
		if s.Ready.Status != True || s.Met != 2 || s.Violated+s.Unknown != 0 {
			t.Errorf("got %+v", s)
		}
	})
	t.Run("only open paths: enforcement holds, but it is said that denial was not tested", func(t *testing.T) {
		s := Summarize(Judge([]Check{control()}))
		if s.Enforced.Status != True || !strings.Contains(s.Enforced.Message, "denial was not tested") {
			t.Errorf("got %+v", s.Enforced)
		}
	})
	t.Run("an unknown check keeps Ready from True, a violated one makes it False", func(t *testing.T) {
		unknown := check("u", Deny, evaluator.Denied, wire.TimedOut)
		unknown.Port = 1
		s := Summarize(Judge([]Check{control(), unknown}))
		if s.Ready.Status != Unknown || s.Ready.Reason != string(NoPositiveControl) || s.Unknown != 1 {
			t.Errorf("got %+v", s)
		}
		s = Summarize(Judge([]Check{control(), unknown, check("v", Deny, evaluator.Denied, wire.Connected)}))
		if s.Ready.Status != False || s.Ready.Reason != string(EnforcementMissing) || s.Violated != 1 || s.Unknown != 1 || s.Met != 1 {
			t.Errorf("got %+v", s)
		}
		if s.Enforced.Status != False || s.Satisfied.Status != False || s.Aligned.Status != True {
			t.Errorf("got sides %v %v %v", s.Aligned.Status, s.Enforced.Status, s.Satisfied.Status)
		}
	})
}

// Every cause can be rendered, and every one has its place in the order.
func TestEveryCauseHasMessageAndRank(t *testing.T) {
	seen := map[Cause]bool{}
	for _, c := range Causes() {
		if seen[c] {
			t.Errorf("%s is ranked twice", c)
		}
		seen[c] = true
		v := Verdict{Check: check("x", Deny, evaluator.Denied, wire.TimedOut), Cause: c, Evidence: "evidence"}
		if msg := Message(v); !strings.Contains(msg, "ns/{app=x}") || !strings.Contains(msg, "ns/mongodb") {
			t.Errorf("the message of %s names not both ends: %q", c, msg)
		}
	}
	if !slices.Contains(Causes(), None) {
		t.Error("None has no rank")
	}
}

func TestMessageNamesPolicies(t *testing.T) {
	c := check("x", Deny, evaluator.Denied, wire.Connected)
	c.Prediction.Ingress = evaluator.DirectionDecision{Verdict: evaluator.Denied, Isolating: []evaluator.PolicyRef{{Namespace: "ns", Name: "guard"}}}
	got := Message(verdictOf(t, c))
	want := "ns/{app=x} on node-a to ns/mongodb TCP 27017 on node-b is open although policy ns/guard denies it (ingress)"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// What has two addresses has one name for both; an address that is a target is its own
// name.
func TestMessageSaysWhichFamily(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Check)
		want   bool
	}{
		"IPv4":                   {func(*Check) {}, false},
		"IPv6":                   {func(c *Check) { c.Addr = mongo6 }, true},
		"IPv6, named itself":     {func(c *Check) { c.Addr, c.Target = mongo6, mongo6.String() }, false},
		"a host without address": {func(c *Check) { c.Addr = netip.Addr{} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := check("x", Deny, evaluator.Denied, wire.Connected)
			tc.change(&c)
			if got := Message(verdictOf(t, c)); strings.Contains(got, "over IPv6") != tc.want {
				t.Errorf("got %s, want the family in it: %t", got, tc.want)
			}
		})
	}
}
