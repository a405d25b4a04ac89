package verdict

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/probe/wire"
)

func canarySays(s WayState) func(*Check) {
	return func(c *Check) { c.Way = Way{State: s} }
}

// closedToAll is a check of a responder that policies let nobody reach: its kubelet and its
// record vouch for it, and nothing but the path is unproven.
func closedToAll() Check { return with(silentDeny(), responder(true)) }

func TestTheCanaryStandsInForThePathAlone(t *testing.T) {
	if v := verdictOf(t, closedToAll()); v.Cause != NoPositiveControl || v.PathEvidence != "" {
		t.Fatalf("without a canary: got %s: %s", v.Cause, v.Evidence)
	}
	v := verdictOf(t, with(closedToAll(), canarySays(WayCarried)))
	if v.Observed != Blocked || !v.Met() || v.PathEvidence != ByCanary || !strings.Contains(v.Evidence, "pods of the canary, which no policy selects, reached each other from node node-a to node node-b") {
		t.Fatalf("with one: got %v by %q: %s", v.Observed, v.PathEvidence, v.Evidence)
	}
	if v := verdictOf(t, with(closedToAll(), canarySays(WayCarried)), control()); v.PathEvidence != ByControl {
		t.Errorf("a control of the run comes first: got %q", v.PathEvidence)
	}
	silentAllowed := with(check("allowed", Allow, evaluator.Allowed, wire.TimedOut), responder(true), func(c *Check) { c.Pod = "pod-of-allowed" })
	for name, tc := range map[string]struct {
		checks []Check
		want   Cause
		words  string
	}{
		"the listener is not known to be alive": {
			[]Check{with(closedToAll(), responder(false), canarySays(WayCarried))}, TargetNotListening, "",
		},
		"the target is no responder, and nobody heard it": {
			[]Check{with(silentDeny(), canarySays(WayCarried))}, NoPositiveControl, "the listener is not known to be alive",
		},
		"the source is not known to be alive": {
			[]Check{with(closedToAll(), canarySays(WayCarried), func(c *Check) { c.SourceProbed = false })}, SourceCutOff, "",
		},
		"the responder left no record": {
			[]Check{with(closedToAll(), canarySays(WayCarried), func(c *Check) { c.Recorded = nil })}, NotRecorded, "",
		},
		"the target is not ready": {
			[]Check{with(closedToAll(), canarySays(WayCarried), func(c *Check) { c.TargetReady = false })}, TargetNotReady, "",
		},
		"an attempt was answered": {
			[]Check{with(closedToAll(), canarySays(WayCarried), ended(wire.Replied, wire.TimedOut))}, Flapping, "",
		},
		"the run was overtaken": {
			[]Check{with(closedToAll(), canarySays(WayCarried), hindered(ChangedDuringProbe))}, ChangedDuringProbe, "",
		},
		"the node of the target is not known": {
			[]Check{with(closedToAll(), canarySays(WayCarried), func(c *Check) { c.TargetNode = "" })}, NoPositiveControl, "",
		},
		"the node of the source is not known": {
			[]Check{with(closedToAll(), canarySays(WayCarried), func(c *Check) { c.SourceNode = "" })}, NoPositiveControl, "",
		},
		"the target is at an address that every node has": {
			[]Check{with(closedToAll(), canarySays(WayCarried), func(c *Check) { c.OnSourceNode = true })}, NoPositiveControl, "",
		},
		"the target is not at a pod's own address": {
			[]Check{with(closedToAll(), canarySays(WayCarried), func(c *Check) { c.OffPodNetwork = true })}, NoPositiveControl, "",
		},
		"a path that policies allow is silent between the nodes": {
			[]Check{with(closedToAll(), canarySays(WayCarried)), silentAllowed}, PathBroken, "do reach each other between these nodes",
		},
		"and so are pods of the canary": {
			[]Check{with(closedToAll(), canarySays(WayBroken)), silentAllowed}, PathBroken, "nor do pods of the canary",
		},
		"pods of the canary are silent, and nothing else is known": {
			[]Check{with(closedToAll(), canarySays(WayBroken))}, PathBroken, "nor do pods of the canary, which no policy selects, reach each other between these nodes",
		},
		"the canary does not know": {
			[]Check{with(closedToAll(), func(c *Check) { c.Way.Why = "there is none" })}, NoPositiveControl, "the canary does not know the way either: there is none",
		},
		"policies allow the path": {
			[]Check{with(silentAllowed, canarySays(WayCarried))}, PathBroken, "do reach each other between these nodes",
		},
		"policies allow the path, and it was rejected": {
			[]Check{with(silentAllowed, canarySays(WayCarried), ended(wire.Rejected))}, NoPositiveControl, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := verdictOf(t, tc.checks...)
			if v.Observed != Inconclusive || v.Inconclusive != tc.want || v.Met() || v.PathEvidence != "" || !strings.Contains(v.Evidence, tc.words) {
				t.Errorf("got %v %s: %s, want Inconclusive %s: %s", v.Observed, v.Inconclusive, v.Evidence, tc.want, tc.words)
			}
		})
	}
}

// What the canary found of one check says nothing about another: a way has a direction, two
// nodes, a family and a protocol, which are those of the check that holds it.
func TestAWayIsThatOfItsOwnCheck(t *testing.T) {
	carried := with(closedToAll(), named("carried"), canarySays(WayCarried))
	for name, other := range map[string]func(*Check){
		"the same way":        func(*Check) {},
		"the other direction": func(c *Check) { c.SourceNode, c.TargetNode = c.TargetNode, c.SourceNode },
		"the other family":    func(c *Check) { c.Addr = mongo6 },
		"another protocol":    over(wire.UDP),
		"from another node":   fromNode("node-c"),
		"to another node":     func(c *Check) { c.TargetNode = "node-c" },
	} {
		if v := verdictOf(t, with(closedToAll(), other), carried); v.Observed != Inconclusive {
			t.Errorf("%s: got %v: %s", name, v.Observed, v.Evidence)
		}
	}
}

func TestUnproven(t *testing.T) {
	for name, tc := range map[string]struct {
		checks []Check
		want   []int
	}{
		"only the path is missing":         {[]Check{closedToAll()}, []int{0}},
		"a control was answered":           {[]Check{closedToAll(), control()}, nil},
		"the source is missing, too":       {[]Check{with(closedToAll(), func(c *Check) { c.SourceProbed = false })}, nil},
		"the listener is missing, too":     {[]Check{silentDeny()}, nil},
		"it was answered":                  {[]Check{control()}, nil},
		"a control is silent":              {[]Check{with(closedToAll(), func(c *Check) { c.Control = true })}, nil},
		"what allowed paths meet is asked": {[]Check{with(check("x", Allow, evaluator.Allowed, wire.TimedOut), responder(true)), closedToAll()}, []int{0, 1}},
		"no canary goes that way":          {[]Check{with(closedToAll(), func(c *Check) { c.OffPodNetwork = true })}, nil},
		"the record tells of the request":  {[]Check{with(closedToAll(), func(c *Check) { c.Recorded = &Recorded{Arrived: 3} })}, nil},
	} {
		if got := Unproven(tc.checks); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
	}
}

// withWays gives some of the checks a way.
func withWays(t *rapid.T, checks []Check) []Check {
	out := slices.Clone(checks)
	for i := range out {
		switch rapid.IntRange(0, 4).Draw(t, "way") {
		case 0:
			out[i].Way = Way{Why: "in words"}
		case 1:
			out[i].Way = Way{State: WayBroken}
		case 2, 3:
			out[i].Way = Way{State: WayCarried}
		}
		out[i].OffPodNetwork = rapid.IntRange(0, 5).Draw(t, "off") == 0
	}
	return out
}

// The canary concludes of nothing but silence that policies bring about and of which the
// path is all that is unproven, and takes back nothing.
func TestInvariantsOfWays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		checks := someChecks(t)
		before := map[string]Verdict{}
		for _, v := range Judge(checks) {
			before[v.Check.ID] = v
		}
		asked := withWays(t, checks)
		unproven := map[string]bool{}
		for _, i := range Unproven(asked) {
			unproven[asked[i].ID] = true
		}
		for _, v := range Judge(asked) {
			c, was := v.Check, before[v.Check.ID]
			was.Check = c
			switch {
			case v.Observed != was.Observed:
				broken := slices.ContainsFunc(withRecords(checks), func(o Check) bool {
					return o.Prediction.Verdict == evaluator.Allowed && o.Result != nil && o.Obstacle == "" && o.Result.Outcomes.All(silent) && o.TargetNode != "" && pairOf(o) == pairOf(c)
				})
				if was.Observed != Inconclusive || v.Observed != Blocked || v.PathEvidence != ByCanary || c.Way.State != WayCarried ||
					c.Prediction.Verdict == evaluator.Allowed || c.TargetNode == "" || c.OffPodNetwork || c.OnSourceNode || !c.TargetReady || broken ||
					!(c.Responder && c.ListenerAlive || !c.Responder) || !unproven[c.ID] {
					t.Errorf("check %s was %v (%s), and is %v (%s)", c.ID, was.Observed, was.Evidence, v.Observed, v.Evidence)
				}
			case !unproven[c.ID]:
				if diff := cmp.Diff(was, v, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
					t.Errorf("check %s, of which something else is missing (-without +with):\n%s", c.ID, diff)
				}
			case v.Met() != was.Met() || v.Violated() != was.Violated():
				t.Errorf("check %s: met %v, violated %v without a canary, %v, %v with one", c.ID, was.Met(), was.Violated(), v.Met(), v.Violated())
			}
			sidesAgree(t, v)
		}
	})
}

// Without a round of the canary that counts, verdicts are what they would be without it,
// but for the words.
func TestAWayThatIsNotKnownChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		checks := someChecks(t)
		asked := slices.Clone(checks)
		for i := range asked {
			asked[i].Way = Way{Why: "in words"}
		}
		plain := cmp.Transformer("plain", func(v Verdict) []any {
			return []any{v.Check.ID, v.Observed, v.Cause, v.Inconclusive, v.Aligned, v.Enforced, v.Satisfied, v.PathEvidence}
		})
		if diff := cmp.Diff(Judge(checks), Judge(asked), plain); diff != "" {
			t.Errorf("verdicts (-without +with):\n%s", diff)
		}
	})
}
