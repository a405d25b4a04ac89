package verdict

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/probe/wire"
)

var everyOutcome = []wire.Outcome{
	wire.Replied, wire.Connected, wire.Refused, wire.Rejected, wire.TimedOut, wire.Delivered, wire.NoRoute, wire.AddressUnavailable,
	wire.NameNotFound, wire.ServerFailure, wire.DNSRefused, wire.DNSTimedOut, wire.Truncated, wire.AnswerDiffers, wire.Unanswered, wire.Unsupported,
	wire.ProbeError,
}

// aCheck draws from few values, so that checks often are each other's evidence.
func aCheck(t *rapid.T, id string) Check {
	draw := func(label string, values ...string) string { return rapid.SampledFrom(values).Draw(t, label) }
	c := Check{
		ID: id, Path: draw("path", "p", "q"), Source: "ns/{app=" + id + "}", Target: "ns/target-" + id,
		Declared:   rapid.SampledFrom([]Declared{Allow, Deny}).Draw(t, "declared"),
		Prediction: evaluator.Decision{Verdict: rapid.SampledFrom([]evaluator.Verdict{evaluator.Allowed, evaluator.Denied, evaluator.Undefined}).Draw(t, "predicted")},
		SourceNode: draw("from", "node-a", "node-c"), TargetNode: draw("to", "node-a", "node-b", ""), Pod: draw("pod", "pod-1", "pod-2"),
		Transport: rapid.SampledFrom([]wire.Transport{wire.TCP, wire.TCP, wire.UDP, wire.DNSUDP}).Draw(t, "transport"),
		Addr:      rapid.SampledFrom([]netip.Addr{mongo, mongo, mongo6, {}}).Draw(t, "addr"), Port: rapid.SampledFrom([]uint16{53, 80}).Draw(t, "port"),
		SourceProbed: rapid.Bool().Draw(t, "probed"), TargetReady: rapid.IntRange(0, 4).Draw(t, "ready") > 0,
		Responder: rapid.IntRange(0, 3).Draw(t, "ours") == 0, ListenerAlive: rapid.Bool().Draw(t, "alive"),
		OnSourceNode: rapid.IntRange(0, 5).Draw(t, "local") == 0, OffPodNetwork: rapid.IntRange(0, 3).Draw(t, "no pod") == 0,
		Endpoints: rapid.SampledFrom([]int{1, 1, 1, 2}).Draw(t, "endpoints"),
	}
	switch rapid.IntRange(0, 5).Draw(t, "recorded") {
	case 0: // it left none
	case 1:
		c.Recorded = &Recorded{Missing: "in words"}
	case 2:
		c.Recorded = &Recorded{Arrived: rapid.IntRange(1, 3).Draw(t, "arrived")}
	default:
		c.Recorded = &Recorded{}
	}
	if rapid.IntRange(0, 9).Draw(t, "troubled") == 0 {
		c.SourceTrouble = "eth0 is down"
	}
	if rapid.IntRange(0, 9).Draw(t, "obstructed") == 0 {
		c.Obstacle = rapid.SampledFrom([]Cause{ChangedDuringProbe, IdentityDivergence, ProbeRefused, NoTargetMatched}).Draw(t, "obstacle")
		c.ObstacleDetail = "in words"
	}
	// A path that could not be resolved has no prediction at all.
	if c.Prediction.Verdict == evaluator.Undefined && (c.Obstacle == "" || rapid.Bool().Draw(t, "reasoned")) {
		c.Prediction.Rule, c.Prediction.Reason = "S10", "because"
	}
	if rapid.IntRange(0, 9).Draw(t, "reported") > 0 {
		// Mostly rounds of one kind: others prove nothing.
		o := rapid.SampledFrom(append([]wire.Outcome{wire.Connected, wire.Connected, wire.Connected, wire.TimedOut, wire.TimedOut, wire.TimedOut}, everyOutcome...)).Draw(t, "outcome")
		os := wire.Outcomes{o, o}
		if rapid.IntRange(0, 9).Draw(t, "mixed") == 0 {
			os[1] = rapid.SampledFrom(everyOutcome).Draw(t, "second")
		}
		c.Result = &wire.Result{Outcomes: os}
	}
	return c
}

func someChecks(t *rapid.T) []Check {
	var out []Check
	for i := range rapid.IntRange(0, 7).Draw(t, "checks") {
		out = append(out, aCheck(t, fmt.Sprint(i)))
	}
	return out
}

// proved is what a check may be counted as when all that is known is what other
// checks of the run got for an answer. It is written without a look at Judge.
func proved(x Check, checks []Check) Observed {
	answered := func(c Check) bool {
		if c.Result == nil || c.Obstacle != "" || len(c.Result.Outcomes) == 0 {
			return false
		}
		for _, o := range c.Result.Outcomes {
			switch o {
			case wire.Replied:
			case wire.Connected:
				if c.Responder {
					return false
				}
			case wire.NameNotFound, wire.ServerFailure, wire.DNSRefused, wire.Truncated, wire.AnswerDiffers, wire.Unanswered:
				if !c.Transport.IsDNS() {
					return false
				}
			default:
				return false
			}
		}
		return true
	}
	// The verdict has the outcomes that the record tells better already.
	arrived := func(c Check) bool {
		return c.Result != nil && c.Obstacle == "" && len(c.Result.Outcomes) > 0 &&
			!slices.ContainsFunc(c.Result.Outcomes, func(o wire.Outcome) bool { return o != wire.Delivered })
	}
	switch {
	case answered(x):
		if x.Transport.IsDNS() && x.Declared == Allow {
			right := wire.Connected
			if x.Answer.NotFound {
				right = wire.NameNotFound
			}
			is := 0
			for _, o := range x.Result.Outcomes {
				if o == right {
					is++
				}
			}
			if is > 0 && is < len(x.Result.Outcomes) {
				return Inconclusive // it answers one thing, and another
			}
		}
		return Open
	case arrived(x) && x.SourceTrouble == "":
		return OneWay
	}
	if x.Result == nil || x.Obstacle != "" || len(x.Result.Outcomes) == 0 || !x.TargetReady || x.SourceTrouble != "" {
		return Inconclusive
	}
	for _, o := range x.Result.Outcomes {
		if o != wire.TimedOut && o != wire.Rejected && o != wire.Refused && (o != wire.DNSTimedOut || !x.Transport.IsDNS()) {
			return Inconclusive
		}
	}
	listener, source, path := x.Responder && x.ListenerAlive, x.SourceProbed, false
	for _, c := range checks {
		c = delivered(c)
		// What reaches a node, or a Service, says nothing about the way between pods of the nodes.
		samePair := x.TargetNode != "" && c.TargetNode == x.TargetNode && c.Addr.Is4() == x.Addr.Is4() && !c.OffPodNetwork && !x.OffPodNetwork
		if arrived(c) && c.Addr.IsValid() && x.Responder && x.Recorded != nil && c.SourceNode == x.SourceNode && c.Transport.Protocol() == x.Transport.Protocol() {
			path = path || c.Addr == x.Addr || samePair
		}
		if !answered(c) || !c.Addr.IsValid() {
			continue
		}
		sameAddr := c.Addr == x.Addr
		// An address that every node has is another listener on each.
		sameListener := sameAddr && c.OnSourceNode == x.OnSourceNode && (!x.OnSourceNode || c.SourceNode == x.SourceNode)
		listener = listener || (!x.Responder && sameListener && c.Port == x.Port && c.Transport.Protocol() == x.Transport.Protocol())
		source = source || c.Pod == x.Pod
		sameProtocol := c.Transport.Protocol() == x.Transport.Protocol()
		path = path || (c.SourceNode == x.SourceNode && sameProtocol && (sameAddr || samePair))
	}
	wrong := x.Declared == Allow && x.Prediction.Verdict == evaluator.Allowed
	recorded := !x.Responder || wrong || (x.Recorded != nil && x.Recorded.Missing == "")
	if listener && source && path && recorded && x.Endpoints <= 1 {
		return Blocked
	}
	return Inconclusive
}

func TestInvariantsOfVerdicts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		checks := someChecks(t)
		verdicts := Judge(checks)
		if len(verdicts) != len(checks) {
			t.Fatalf("got %d verdicts for %d checks", len(verdicts), len(checks))
		}
		for _, v := range verdicts {
			if want := proved(v.Check, checks); v.Observed != want {
				t.Errorf("check %s: got %v (%s %s), want %v", v.Check.ID, v.Observed, v.Inconclusive, v.Evidence, want)
			}
			sidesAgree(t, v)
			if !slices.Contains(Causes(), v.Cause) || v.Evidence == "" {
				t.Errorf("check %s: cause %q, evidence %q", v.Check.ID, v.Cause, v.Evidence)
			}
			if msg := Message(v); !strings.Contains(msg, v.Check.Source) || !strings.Contains(msg, v.Check.Target) || strings.HasSuffix(msg, ": ") {
				t.Errorf("check %s: message %q", v.Check.ID, msg)
			}
		}
		if !slices.IsSortedFunc(verdicts, func(a, b Verdict) int { return slices.Index(Causes(), a.Cause) - slices.Index(Causes(), b.Cause) }) {
			t.Error("the worst cause is not first")
		}
	})
}

// sidesAgree checks the three sides of a verdict against each other.
func sidesAgree(t *rapid.T, v Verdict) {
	c := v.Check
	if (v.Observed == Inconclusive) != (v.Inconclusive != "") {
		t.Errorf("check %s: observed %v with reason %q", c.ID, v.Observed, v.Inconclusive)
	}
	if v.Observed == Inconclusive && (v.Enforced != Unknown || v.Satisfied != Unknown || v.Met() || v.Cause == None) {
		t.Errorf("check %s: nothing was observed, and yet Enforced is %v, Satisfied %v, cause %s", c.ID, v.Enforced, v.Satisfied, v.Cause)
	}
	if c.Prediction.Verdict == evaluator.Undefined && (v.Aligned != Unknown || v.Enforced != Unknown || v.Met()) {
		t.Errorf("check %s: nothing was predicted, and yet Aligned is %v, Enforced %v", c.ID, v.Aligned, v.Enforced)
	}
	if c.Obstacle != "" && v.Observed != Inconclusive {
		t.Errorf("check %s: observed %v in spite of an obstacle", c.ID, v.Observed)
	}
	if v.Met() != (v.Cause == None) {
		t.Errorf("check %s: met %v with cause %s", c.ID, v.Met(), v.Cause)
	}
	if v.Met() && v.Violated() {
		t.Errorf("check %s is both met and violated", c.ID)
	}
	if v.Met() {
		open := v.Observed == Open
		if open != (c.Declared == Allow) || open != (c.Prediction.Verdict == evaluator.Allowed) {
			t.Errorf("check %s is met with %v, %v, %v", c.ID, c.Declared, c.Prediction.Verdict, v.Observed)
		}
	}
}

func TestOrderOfChecksIsIrrelevant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		checks := someChecks(t)
		want := Judge(checks)
		got := Judge(rapid.Permutation(checks).Draw(t, "permutation"))
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("verdicts (-one order +another):\n%s", diff)
		}
	})
}

// Evidence only ever adds up: what is concluded without a check is concluded with
// it, too. (An unanswered check must not take a conclusion away, either.)
func TestMoreChecksNeverTakeAConclusionAway(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		checks := someChecks(t)
		all := map[string]Observed{}
		for _, v := range Judge(checks) {
			all[v.Check.ID] = v.Observed
		}
		for i := range checks {
			for _, v := range Judge(slices.Delete(slices.Clone(checks), i, i+1)) {
				if v.Observed != Inconclusive && all[v.Check.ID] != v.Observed {
					t.Errorf("check %s is %v without check %d and %v with it", v.Check.ID, v.Observed, i, all[v.Check.ID])
				}
			}
		}
	})
}

// reasonFormat is what the API server accepts for the reason of a condition.
var reasonFormat = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$`)

func TestInvariantsOfSummaries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		verdicts := Judge(someChecks(t))
		s := Summarize(verdicts)
		var met, violated []Verdict
		for _, v := range verdicts {
			if v.Met() {
				met = append(met, v)
			}
			if v.Violated() {
				violated = append(violated, v)
			}
		}
		if s.Checks != len(verdicts) || s.Met != len(met) || s.Violated != len(violated) || s.Met+s.Violated+s.Unknown != s.Checks {
			t.Errorf("counts do not add up: %+v", s)
		}
		if (s.Ready.Status == True) != (len(verdicts) > 0 && len(met) == len(verdicts)) {
			t.Errorf("Ready is %v with %d of %d checks met", s.Ready.Status, len(met), len(verdicts))
		}
		if (s.Ready.Status == False) != (len(violated) > 0) {
			t.Errorf("Ready is %v with %d checks violated", s.Ready.Status, len(violated))
		}
		for name, side := range map[string]struct {
			got Side
			of  func(Verdict) Status
			// reasons are those for False that the API documents.
			reasons []Cause
		}{
			"Aligned":  {s.Aligned, func(v Verdict) Status { return v.Aligned }, []Cause{PolicyDrift}},
			"Enforced": {s.Enforced, func(v Verdict) Status { return v.Enforced }, []Cause{EnforcementMissing, Delivered, UnexpectedBlock}},
			"Satisfied": {s.Satisfied, func(v Verdict) Status { return v.Satisfied }, []Cause{EnforcementMissing, Delivered, PolicyDrift, UnexpectedBlock, NameNotResolved, UnexpectedAnswer,
				DNSOverUDPOnly, DNSOverTCPOnly, ImplementationDefined}},
		} {
			want := True
			for _, v := range verdicts {
				switch {
				case side.of(v) == False:
					want = False
				case side.of(v) == Unknown && want == True:
					want = Unknown
				}
			}
			if len(verdicts) == 0 {
				want = Unknown
			}
			if side.got.Status != want {
				t.Errorf("%s is %v, want %v", name, side.got.Status, want)
			}
			if side.got.Message == "" || !reasonFormat.MatchString(side.got.Reason) {
				t.Errorf("%s has the reason %q and the message %q", name, side.got.Reason, side.got.Message)
			}
			if want == False && !slices.Contains(side.reasons, Cause(side.got.Reason)) {
				t.Errorf("%s is False by %s, which is not documented", name, side.got.Reason)
			}
		}
	})
}

// A count says how many checks a message stands for.
func TestSummaryNamesTheFirstOffenderAndACount(t *testing.T) {
	leak := check("leak", Deny, evaluator.Denied, wire.Connected)
	s := Summarize(Judge([]Check{control(), leak, with(leak, named("other")), with(leak, named("third"))}))
	for _, want := range []string{"path leak: ", "ns/{app=leak} on node-a to ns/mongodb", "(3 checks in all)"} {
		if !strings.Contains(s.Ready.Message, want) {
			t.Errorf("got %q, want it to contain %q", s.Ready.Message, want)
		}
	}
}

// Every constant of type Cause has a place in the order, and there is no other.
func TestEveryCauseConstantIsRanked(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "verdict.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			if typ, ok := spec.Type.(*ast.Ident); ok && typ.Name == "Cause" {
				want = append(want, strings.Trim(spec.Values[0].(*ast.BasicLit).Value, `"`))
			}
		}
		return true
	})
	var got []string
	for _, c := range Causes() {
		got = append(got, string(c))
		if !reasonFormat.MatchString(string(c)) {
			t.Errorf("%q cannot be the reason of a condition", c)
		}
	}
	if got[len(got)-1] != string(None) {
		t.Errorf("the mildest cause is %s, want None", got[len(got)-1])
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("causes (-declared +ranked):\n%s", diff)
	}
	Causes()[0] = "changed"
	if Causes()[0] == "changed" {
		t.Error("a caller can change the order")
	}
}

func TestMessages(t *testing.T) {
	guard := evaluator.PolicyRef{Namespace: "ns", Name: "guard"}
	denied := evaluator.Decision{Verdict: evaluator.Denied,
		Ingress: evaluator.DirectionDecision{Verdict: evaluator.Denied, Isolating: []evaluator.PolicyRef{guard}},
		Egress:  evaluator.DirectionDecision{Verdict: evaluator.Allowed}}
	deniedOut := evaluator.Decision{Verdict: evaluator.Denied, Ingress: denied.Ingress,
		Egress: evaluator.DirectionDecision{Verdict: evaluator.Denied, Isolating: []evaluator.PolicyRef{
			{Namespace: "ns", Name: "a"}, {Namespace: "ns", Name: "b"}, {Namespace: "ns", Name: "c"}, {Namespace: "ns", Name: "d"}}}}
	allowed := evaluator.Decision{Verdict: evaluator.Allowed, Ingress: evaluator.DirectionDecision{Verdict: evaluator.Allowed,
		AllowedBy: &evaluator.RuleRef{PolicyRef: guard, Index: 1}}}
	lockdown := &evaluator.RuleRef{PolicyRef: evaluator.PolicyRef{Kind: "ClusterNetworkPolicy", Name: "lockdown"}}
	deniedByCluster := evaluator.Decision{Verdict: evaluator.Denied, Egress: evaluator.DirectionDecision{Verdict: evaluator.Denied, Tier: evaluator.TierAdmin,
		DeniedBy: lockdown, Isolating: []evaluator.PolicyRef{guard}}}
	allow := func(egress, ingress *evaluator.RuleRef) evaluator.Decision {
		return evaluator.Decision{Verdict: evaluator.Allowed,
			Egress:  evaluator.DirectionDecision{Verdict: evaluator.Allowed, AllowedBy: egress},
			Ingress: evaluator.DirectionDecision{Verdict: evaluator.Allowed, AllowedBy: ingress}}
	}
	byGuard := &evaluator.RuleRef{PolicyRef: guard}
	undefined := evaluator.Decision{Rule: "S10", Reason: "blocks may or may not match pods"}
	const ends = "ns/{app=x} on node-a to ns/mongodb TCP 27017 on node-b"
	cases := map[string]struct {
		declared Declared
		decision evaluator.Decision
		outcome  wire.Outcome
		want     string
	}{
		"as declared":               {Deny, denied, wire.TimedOut, " is as declared"},
		"enforcement missing":       {Deny, denied, wire.Connected, " is open although policy ns/guard denies it (ingress)"},
		"denied by many":            {Deny, deniedOut, wire.Connected, " is open although each of 4 policies (ns/a, ns/b, ns/c, ...) denies it (egress)"},
		"drift masked":              {Allow, denied, wire.Connected, " is open as declared, but only because the network does not enforce that policy ns/guard denies it (ingress)"},
		"drift, must be open":       {Allow, denied, wire.TimedOut, " must be open, but policy ns/guard denies it (ingress)"},
		"drift, must be closed":     {Deny, allowed, wire.Connected, " must be closed, but policy ns/guard allows it"},
		"drift without policies":    {Deny, evaluator.Decision{Verdict: evaluator.Allowed}, wire.Connected, " must be closed, but no policy denies it"},
		"unexpected block":          {Allow, allowed, wire.TimedOut, " is blocked although policy ns/guard allows it"},
		"closed by no policy":       {Deny, allowed, wire.TimedOut, " is closed, but by no policy: policy ns/guard allows it"},
		"denied cluster-wide":       {Allow, deniedByCluster, wire.TimedOut, " must be open, but ClusterNetworkPolicy lockdown denies it (egress, Admin tier)"},
		"allowed cluster-wide":      {Allow, allow(byGuard, lockdown), wire.TimedOut, " is blocked although policy ns/guard and ClusterNetworkPolicy lockdown allows it"},
		"cluster-wide, then not":    {Allow, allow(lockdown, byGuard), wire.TimedOut, " is blocked although ClusterNetworkPolicy lockdown and policy ns/guard allows it"},
		"allowed in two namespaces": {Allow, allow(byGuard, byGuard), wire.TimedOut, " is blocked although policy ns/guard and ns/guard allows it"},
		"left open by the API":      {Allow, undefined, wire.Connected, " is open, and policies leave it open: blocks may or may not match pods"},
		"the reason for no verdict": {Deny, denied, wire.Unsupported, ": the kernel of node node-a has no TCP sockets"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			x := with(check("x", tc.declared, 0, tc.outcome), func(c *Check) { c.Prediction = tc.decision })
			// The control is one whose own prediction plays no part.
			if diff := cmp.Diff(ends+tc.want, Message(verdictOf(t, x, control()))); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("a name that does not resolve is given with the answer", func(t *testing.T) {
		x := with(check("x", Allow, evaluator.Allowed, wire.NameNotFound), over(wire.DNSUDP))
		x.Result.Detail = "NXDOMAIN"
		if got := Message(verdictOf(t, x)); !strings.HasSuffix(got, "the name does not resolve: NXDOMAIN") {
			t.Errorf("got %q", got)
		}
	})
}

func TestNamesOfValues(t *testing.T) {
	for want, got := range map[string]fmt.Stringer{
		"Allow": Allow, "Deny": Deny, "Open": Open, "Blocked": Blocked, "OneWay": OneWay, "Inconclusive": Inconclusive, "True": True, "False": False,
		"Unknown": Unknown, "Observed(9)": Observed(9), "Status(9)": Status(9),
	} {
		if got.String() != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if (Verdict{}).Met() || (Verdict{}).Violated() {
		t.Error("the zero verdict is not unknown")
	}
}
