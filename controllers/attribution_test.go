package controllers

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/verdict"
)

func TestWhatEndsAFollowUp(t *testing.T) {
	started := 20 * time.Second // after the beginning of the last run, whose interval is 100 s
	patience := 20*time.Second + (&Options{}).bound(v1alpha1.ProbeSettings{})
	over := 100*time.Second + jitter("u", 10*time.Second)
	for name, tc := range map[string]struct {
		after  time.Duration
		change func(*scope)
		ends   bool
	}{
		"nothing":                            {30 * time.Second, nil, false},
		"a request":                          {30 * time.Second, func(s *scope) { s.exp.Annotations = map[string]string{v1alpha1.RequestedAtAnnotation: "now"} }, true},
		"another spec":                       {30 * time.Second, func(s *scope) { s.exp.Generation++ }, true},
		"another configuration":              {30 * time.Second, func(s *scope) { s.resolution.Provenance = "q" }, true},
		"another one that must start no run": {30 * time.Second, func(s *scope) { s.resolution.Provenance = "q"; s.exp.Spec.Probe.OnChange = new(bool) }, true},
		"the end of the interval":            {over, func(s *scope) { s.track.run.startedAt = s.now.Add(-time.Second) }, false},
		"the end of the interval, at last":   {over, func(s *scope) { s.track.run.startedAt = s.now.Add(-patience) }, true},
		"time, as long as nobody waits":      {90 * time.Second, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := scheduled(tc.after, func(s *scope) {
				s.track.run = &run{followUp: &plan.FollowUp{}, startedAt: epoch.Add(started), provenance: "p", generation: 2}
				s.track.attribution = &attribution{}
			})
			if tc.change != nil {
				tc.change(s)
			}
			r := &ExpectationReconciler{logs: newPodLogs(nil, nil), ways: NewCanaryWays(), options: Options{StartTimeout: 20 * time.Second}}
			if err := r.dropFollowUp(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if got := s.track.run == nil; got != tc.ends {
				t.Errorf("the follow-up ended: %t, want %t", got, tc.ends)
			}
			if s.track.attribution == nil {
				t.Error("what is to be found out is forgotten before another run begins")
			}
		})
	}
}

// A run that is no follow-up is none of its business.
func TestOtherRunsAreNotDropped(t *testing.T) {
	s := scheduled(30*time.Second, func(s *scope) {
		s.track.run = &run{provenance: "p", generation: 2}
		s.exp.Annotations = map[string]string{v1alpha1.RequestedAtAnnotation: "now"}
	})
	if err := new(ExpectationReconciler).dropFollowUp(t.Context(), s); err != nil || s.track.run == nil {
		t.Errorf("the run was dropped: %v", err)
	}
}

// A change that is undone before it starts a run, as a pod that is not ready for a moment,
// delays a follow-up, and not for ever.
func TestFollowUpWaitsForTheSameConfiguration(t *testing.T) {
	r := &ExpectationReconciler{logs: newPodLogs(nil, nil), ways: NewCanaryWays()}
	engine, _ := evaluator.Compile(evaluator.Snapshot{})
	s := scheduled(30*time.Second, func(s *scope) {
		s.resolution.Predictor = plan.NewPredictor(engine, plan.Snapshot{})
		s.track.attribution = &attribution{}
	})
	change := func(provenance string) {
		s.resolution.Provenance = provenance
		if err := r.dropFollowUp(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 1 + maxRepeats {
		change("q")
		if r.followUp(t.Context(), s) || s.track.run != nil {
			t.Fatalf("try %d: there is a follow-up about what has changed", i)
		}
		change("p")
		if !r.followUp(t.Context(), s) || s.track.run == nil || s.track.run.trigger != triggerAttribution {
			t.Fatalf("try %d: there is no follow-up, although the change was undone", i)
		}
	}
	change("q")
	change("p")
	if r.followUp(t.Context(), s) || s.track.attribution != nil {
		t.Error("it is tried for ever")
	}
}

// open is a verdict on a path that is open although ingress denies it.
func openVerdict(id, path, node string) verdict.Verdict {
	return verdict.Verdict{
		Check: verdict.Check{
			ID: id, Path: path, Source: "a", Target: "b", SourceNode: node, TargetNode: "t", Addr: netip.MustParseAddr("10.0.0.1"), Port: 80,
			Prediction: evaluator.Decision{Verdict: evaluator.Denied, Ingress: evaluator.DirectionDecision{
				Verdict: evaluator.Denied, Isolating: []evaluator.PolicyRef{{Namespace: "ns", Name: "p"}},
			}},
		},
		Observed: verdict.Open, Cause: verdict.EnforcementMissing, Enforced: verdict.False,
	}
}

func TestAttributionsAreKeptUntilTheFindingChanges(t *testing.T) {
	known := []verdict.Attribution{{Direction: verdict.Ingress, Node: "t", Controlled: true, Evidence: "seen", At: epoch}}
	for name, tc := range map[string]struct {
		trigger string
		change  func(*verdict.Verdict)
		want    []verdict.Attribution
	}{
		"the same":                    {triggerInterval, nil, known},
		"after a change of something": {triggerChange, nil, known},
		"on request":                  {triggerRequested, nil, nil},
		"of another cause":            {triggerInterval, func(v *verdict.Verdict) { v.Cause = verdict.DriftMasked }, nil},
		"from another node":           {triggerInterval, func(v *verdict.Verdict) { v.Check.SourceNode = "z" }, nil},
		"whose target has moved":      {triggerInterval, func(v *verdict.Verdict) { v.Check.TargetNode = "z" }, nil},
		"of the other family":         {triggerInterval, func(v *verdict.Verdict) { v.Check.Addr = netip.MustParseAddr("fd00::1") }, nil},
		"that another policy denies": {triggerInterval, func(v *verdict.Verdict) {
			v.Check.Prediction.Ingress.Isolating = []evaluator.PolicyRef{{Namespace: "ns", Name: "q"}}
		}, nil},
		"that is not the network's fault": {triggerInterval, func(v *verdict.Verdict) { v.Enforced = verdict.Unknown }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScope(&v1alpha1.ConnectivityExpectation{}, &tracked{}, epoch)
			before := openVerdict("1", "p", "n")
			before.Attributions = known
			s.verdicts = []verdict.Verdict{before}
			s.prior.Findings = findings(s)
			now := openVerdict("1", "p", "n")
			now.Check.Prediction.Ingress.Isolating = append([]evaluator.PolicyRef(nil), now.Check.Prediction.Ingress.Isolating...)
			if tc.change != nil {
				tc.change(&now)
			}
			s.verdicts = []verdict.Verdict{now}
			s.recallAttributions(tc.trigger)
			if diff := cmp.Diff(tc.want, s.verdicts[0].Attributions); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// placedRun is a run with one check of each edge from a node.
func placedRun(node string, outcomes map[*plan.Edge]wire.Outcome, edges ...*plan.Edge) *run {
	r := &run{}
	for _, e := range edges {
		p := &probeRun{Pod: plan.Pod{Source: e.Source, Node: node, Edges: []*plan.Edge{e}}, podRun: podRun{node: node}}
		p.report = &wire.Report{Results: []wire.Result{{Outcomes: wire.Outcomes{outcomes[e]}}}}
		r.probes = append(r.probes, p)
	}
	return r
}

func TestOnlyListedContradictionsAreAttributed(t *testing.T) {
	r := &run{}
	var verdicts []verdict.Verdict
	for i := range maxFindings + 2 {
		e := &plan.Edge{Path: "p", Source: &plan.Source{Key: "s"}, Target: plan.Target{Kind: plan.TargetPod, Key: string(rune('a' + i))}, Transport: wire.TCP, Port: 80}
		r.probes = append(r.probes, placedRun("n", map[*plan.Edge]wire.Outcome{e: wire.Connected}, e).probes...)
		v := openVerdict(flow.ID(e.ID(), "n"), "p", "n")
		switch i {
		case 0:
			v.Enforced = verdict.Unknown
		case 1:
			v.Attributions = []verdict.Attribution{{Direction: verdict.Ingress}}
		}
		verdicts = append(verdicts, v)
	}
	a := r.attribution(verdicts)
	if len(a.suspects) != maxFindings-2 || a.of[0] != 2 || a.of[len(a.of)-1] != maxFindings-1 {
		t.Errorf("got %d suspects, of %v", len(a.suspects), a.of)
	}
	if a := r.attribution(verdicts[:2]); a != nil {
		t.Errorf("got %+v about what is known, or not the network's fault", a)
	}
	if a := new(run).attribution(verdicts); a != nil {
		t.Errorf("got %+v about checks that were not made", a)
	}
}

// What shows that the target of a silent path listens is asked again, best from the same
// node.
func TestSuspectsBringTheirEvidence(t *testing.T) {
	edge := func(source, target string, port uint16) *plan.Edge {
		return &plan.Edge{Source: &plan.Source{Key: source}, Target: plan.Target{Kind: plan.TargetPod, Key: target}, Transport: wire.TCP, Port: port}
	}
	closed, friend, other, silent, elsewhere := edge("s", "db", 1), edge("f", "db", 1), edge("o", "db", 1), edge("q", "db", 1), edge("f", "db", 2)
	outcomes := map[*plan.Edge]wire.Outcome{closed: wire.TimedOut, friend: wire.Connected, other: wire.Connected, silent: wire.TimedOut, elsewhere: wire.Connected}
	v := openVerdict(flow.ID(closed.ID(), "a"), "p", "a")
	v.Observed = verdict.Blocked
	for name, tc := range map[string]struct {
		near, far []*plan.Edge
		want      *plan.Edge
		wantNode  string
	}{
		"from the same node":           {[]*plan.Edge{friend}, []*plan.Edge{other}, friend, "a"},
		"from another node":            {nil, []*plan.Edge{other}, other, "b"},
		"what is silent is none":       {[]*plan.Edge{silent}, nil, nil, ""},
		"what reaches another port is": {[]*plan.Edge{elsewhere}, nil, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := placedRun("a", outcomes, append([]*plan.Edge{closed}, tc.near...)...)
			r.probes = append(r.probes, placedRun("b", outcomes, tc.far...).probes...)
			got := r.attribution([]verdict.Verdict{v}).suspects[0].Answered
			if tc.want == nil {
				if got != nil {
					t.Errorf("got %+v", got)
				}
				return
			}
			if len(got) != 1 || got[0].Edge != tc.want || got[0].Node != tc.wantNode {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// The next responder has another address: what is probed again knows none.
func TestSuspectsOfRespondersHaveNoAddress(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.9")
	x := &responderRun{Responder: plan.Responder{Key: "r", Node: "asked-for"}, podRun: podRun{node: "b", addrs: []netip.Addr{addr}}, ready: true}
	base := &plan.Edge{
		Path: "p", Source: &plan.Source{Key: "s"}, Target: plan.Target{Kind: plan.TargetResponder, Key: "r"}, Transport: wire.TCP, Port: 80,
		Backends: []plan.Backend{{Endpoint: flow.Endpoint{Namespace: "ns"}, Port: 80}},
	}
	e := x.edgesTo(base)[0]
	r := placedRun("a", map[*plan.Edge]wire.Outcome{e: wire.Replied}, e)
	r.responders = []*responderRun{x}
	s := r.attribution([]verdict.Verdict{openVerdict(flow.ID(e.ID(), "a"), "p", "a")}).suspects[0]
	if s.Edge.Target.Key != "r" || s.Edge.Target.Addr.IsValid() || s.Edge.Backends[0].Endpoint.Addr.IsValid() || s.Responder.Node != "b" || s.Node != "a" {
		t.Errorf("got %+v, %+v", s.Edge, s.Responder)
	}
	if e.Target.Addr != addr || e.Backends[0].Endpoint.Addr != addr || x.Node != "asked-for" {
		t.Error("the run itself was changed")
	}
}

func TestHalvesAreFoundByNameNodeAndFamily(t *testing.T) {
	judged := func(path, node, addr string) verdict.Verdict {
		c := verdict.Check{Path: path, SourceNode: node}
		if addr != "" {
			c.Addr = netip.MustParseAddr(addr)
		}
		return verdict.Verdict{Check: c, Evidence: path + node + addr}
	}
	list := []verdict.Verdict{judged("k", "a", "10.0.0.1"), judged("k", "a", "fd00::1"), judged("k", "b", "10.0.0.1"), judged("lost", "", "")}
	for _, tc := range []struct {
		half           plan.HalfPath
		about, wantHas string
	}{
		{plan.HalfPath{Key: "k", Node: "a"}, "10.0.0.9", "ka10.0.0.1"},
		{plan.HalfPath{Key: "k", Node: "a"}, "fd00::9", "kafd00::1"},
		{plan.HalfPath{Key: "k", Node: "b"}, "10.0.0.9", "kb10.0.0.1"},
		{plan.HalfPath{Key: "k", Node: "b"}, "fd00::9", ""},
		{plan.HalfPath{Key: "lost", Node: "b"}, "fd00::9", "lost"},
		{plan.HalfPath{Missing: "nobody"}, "fd00::9", ""},
	} {
		got := half(list, tc.half, verdict.Check{Addr: netip.MustParseAddr(tc.about)})
		switch {
		case tc.wantHas == "" && (got.Verdict != nil || got.Missing == ""):
			t.Errorf("%+v: got %+v", tc.half, got)
		case tc.wantHas != "" && (got.Verdict == nil || got.Verdict.Evidence != tc.wantHas):
			t.Errorf("%+v about %s: got %+v", tc.half, tc.about, got)
		}
	}
}

// A follow-up adds to what is said of its run, and takes nothing back that has become
// known since.
func TestAttributeAddsToTheFindings(t *testing.T) {
	const stale = "the last result is old"
	s := scheduled(30*time.Second, func(s *scope) {
		s.exp.Status.Conditions = []metav1.Condition{
			{Type: v1alpha1.ConditionReady, Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonStale, Message: stale},
			{Type: v1alpha1.ConditionEnforced, Status: metav1.ConditionFalse, Reason: "EnforcementMissing", Message: "as it was"},
		}
		s.track.attribution = &attribution{verdicts: []verdict.Verdict{openVerdict("1", "p", "n")}, of: []int{0}}
		s.track.run = &run{startedAt: s.now, followUp: &plan.FollowUp{Halves: []plan.Halves{{Ingress: plan.HalfPath{Missing: "nobody is free"}}}}}
	})
	recorder := events.NewFakeRecorder(2)
	r := &ExpectationReconciler{logs: newPodLogs(nil, nil), ways: NewCanaryWays(), metrics: NewMetrics(nil), recorder: recorder}
	if _, err := r.attribute(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if s.track.run != nil || s.track.attribution != nil || s.summary != nil {
		t.Error("the follow-up is not over, or counts as a result")
	}
	f := s.exp.Status.Findings
	if len(f) != 1 || len(f[0].Attributions) != 1 || f[0].Attributions[0].Node != "t" || !f[0].Attributions[0].At.Time.Equal(s.now) {
		t.Errorf("got %+v", f)
	}
	const words = "ingress of the target would have to close it, and node t does not"
	messages := map[string]bool{}
	for _, c := range s.exp.Status.Conditions {
		messages[c.Type+" "+c.Message] = true
	}
	if !messages["Ready "+stale] || !messages["Enforced path p: a on n to b  80 on t is open although policy ns/p denies it (ingress); "+words] {
		t.Errorf("got %v", messages)
	}
	r.tell(s)
	r.tell(s) // once
	s.setNews(s.verdicts[0])
	r.tell(s) // nor when it is found out again
	if len(recorder.Events) != 1 {
		t.Errorf("%d events", len(recorder.Events))
	}
	s.verdicts[0].Attributions[0].Node = "elsewhere"
	s.setNews(s.verdicts[0])
	if r.tell(s); len(recorder.Events) != 2 {
		t.Errorf("%d events, although another node fails", len(recorder.Events))
	}
}

// Each address of a host is a check of its own, and is probed again as that address.
func TestSuspectsOfHostsAreAddresses(t *testing.T) {
	one, two := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")
	e := &plan.Edge{Path: "p", Source: &plan.Source{Key: "s"}, Target: plan.Target{Kind: plan.TargetHost, Key: "h", Host: "x.example.org."}, Transport: wire.TCP, Port: 443}
	r := placedRun("a", nil, e)
	r.probes[0].report.Results[0] = wire.Result{
		Outcomes:  wire.Outcomes{wire.Connected, wire.TimedOut},
		Addresses: []wire.AddressResult{{Addr: one, Outcomes: wire.Outcomes{wire.Connected}}, {Addr: two, Outcomes: wire.Outcomes{wire.TimedOut}}},
	}
	v := openVerdict(hostCheckID(flow.ID(e.ID(), "a"), two), "p", "a")
	v.Check.Addr = two
	a := r.attribution([]verdict.Verdict{v})
	if a == nil || a.suspects[0].Edge.Target.Kind != plan.TargetAddress || a.suspects[0].Edge.Target.Addr != two || a.suspects[0].Answered != nil {
		t.Errorf("got %+v", a)
	}
}
