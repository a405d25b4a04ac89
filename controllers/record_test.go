package controllers

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/probepod"
	"github.com/pathproof/pathproof/verdict"
)

func TestWhatARecordSaysOfACheck(t *testing.T) {
	probe, other, six := netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("10.0.0.8"), netip.MustParseAddr("fd00::9")
	p := &probeRun{podRun: podRun{addrs: []netip.Addr{probe}}, plan: wire.Plan{ID: "plan"}}
	p.Edges = []*plan.Edge{{Transport: wire.TCP, Port: 80, Target: plan.Target{Kind: plan.TargetResponder, Addr: netip.MustParseAddr("10.0.0.1")}}}
	p.report = &wire.Report{Results: []wire.Result{{Outcomes: wire.Outcomes{wire.Replied, wire.TimedOut, wire.TimedOut}, Rounds: 2}}}
	r := &run{probes: []*probeRun{p, {podRun: podRun{addrs: []netip.Addr{other}}}}}
	requests := func(plan string, check, round, count int) []wire.Requests {
		return []wire.Requests{{Plan: plan, Check: check, Round: round, Count: count}}
	}
	handshakes := func(p flow.Protocol, port uint16, from netip.Addr) []wire.Handshakes {
		return []wire.Handshakes{{Protocol: p, Port: port, From: from, Count: 2}}
	}
	const stranger = "203.0.113.9 has begun connections with this port and is no probe of this run: an address may be translated on the way"
	for name, tc := range map[string]struct {
		record *wire.Record
		want   verdict.Recorded
	}{
		"nothing":                              {&wire.Record{}, verdict.Recorded{}},
		"only what was replied to":             {&wire.Record{Requests: requests("plan", 0, 2, 1)}, verdict.Recorded{}},
		"more than was replied to":             {&wire.Record{Requests: requests("plan", 0, 2, 3)}, verdict.Recorded{Arrived: 2}},
		"an earlier round":                     {&wire.Record{Requests: requests("plan", 0, 1, 3)}, verdict.Recorded{}},
		"another check":                        {&wire.Record{Requests: requests("plan", 1, 2, 3)}, verdict.Recorded{}},
		"another plan":                         {&wire.Record{Requests: requests("other", 0, 2, 3)}, verdict.Recorded{}},
		"its handshakes":                       {&wire.Record{Handshakes: handshakes(flow.TCP, 80, probe)}, verdict.Recorded{Arrived: 2}},
		"those with another port":              {&wire.Record{Handshakes: handshakes(flow.TCP, 81, probe)}, verdict.Recorded{}},
		"those over another protocol":          {&wire.Record{Handshakes: handshakes(flow.SCTP, 80, probe)}, verdict.Recorded{}},
		"those of another probe":               {&wire.Record{Handshakes: handshakes(flow.TCP, 80, other)}, verdict.Recorded{}},
		"those of a stranger":                  {&wire.Record{Handshakes: handshakes(flow.TCP, 80, netip.MustParseAddr("203.0.113.9"))}, verdict.Recorded{Missing: stranger}},
		"those of a stranger over the other":   {&wire.Record{Handshakes: handshakes(flow.TCP, 80, six)}, verdict.Recorded{}},
		"a hole":                               {&wire.Record{Unseen: map[flow.Protocol]string{flow.TCP: "hole"}}, verdict.Recorded{Missing: "hole"}},
		"a hole elsewhere":                     {&wire.Record{Unseen: map[flow.Protocol]string{flow.UDP: "hole"}}, verdict.Recorded{}},
		"not all":                              {&wire.Record{Trimmed: true}, verdict.Recorded{Missing: "the responder's record does not fit into a message"}},
		"nothing, since the responder is gone": {nil, verdict.Recorded{Missing: "gone"}},
	} {
		x := &responderRun{record: tc.record, unrecorded: "gone"}
		if diff := cmp.Diff(&tc.want, r.recorded(x, p, 0, probe)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if got := r.recorded(&responderRun{}, p, 0, probe); got != nil {
		t.Errorf("got %+v of a responder that was not asked", got)
	}
}

// Whatever keeps a record from coming is said, and not waited for longer than needed.
func TestReadingRecords(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "pods/log"}, "p", errors.New("no"))
	ended := func(message string) *corev1.Pod {
		pod := &corev1.Pod{}
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: probepod.ContainerName, State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{Reason: "Completed", Message: message},
		}}}
		return pod
	}
	encoded := func(id string) string {
		text, err := wire.EncodeRecord(wire.Record{Version: wire.Version, ID: id})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for name, tc := range map[string]struct {
		pod      *corev1.Pod
		resident bool
		// unreadable is why the log cannot be read.
		unreadable error
		after      time.Duration
		done       bool
		want       string
	}{
		"it came":                     {pod: ended(encoded("r")), done: true},
		"it is of another request":    {pod: ended(encoded("q")), done: true, want: `an answer to "q", want "r"`},
		"it did not come yet":         {pod: &corev1.Pod{}},
		"it did not come in time":     {pod: &corev1.Pod{}, after: recordWait, done: true, want: "gave none within 30s"},
		"the responder died":          {pod: ended("panic"), done: true, want: "the responder left none: Completed, exit code 0: panic"},
		"the pod is gone":             {done: true, want: "deleted by somebody else"},
		"logs must not be read":       {pod: &corev1.Pod{}, resident: true, unreadable: forbidden, done: true, want: "permission to get pods/log"},
		"logs cannot be read yet":     {pod: &corev1.Pod{}, resident: true, unreadable: errors.New("refused")},
		"logs cannot be read in time": {pod: &corev1.Pod{}, resident: true, unreadable: errors.New("refused"), after: recordWait, done: true, want: "could not be read within 30s: refused"},
		"it will come by the end":     {pod: &corev1.Pod{}, unreadable: forbidden},
		"it came by the end":          {pod: ended(encoded("r")), unreadable: forbidden, done: true},
		"it is of another release":    {pod: ended(strings.Replace(encoded("r"), "pp1:", "pp9:", 1)), done: true, want: "left none"},
		"it cannot be decoded":        {pod: ended("pp1:?"), done: true, want: "decoding record"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &ExpectationReconciler{logs: newPodLogs(nil, nil), ways: NewCanaryWays(), options: DefaultOptions()}
			x := &responderRun{podRun: podRun{uid: "pod-1"}, request: "r", askedAt: now}
			s := &scope{now: now.Add(tc.after), exp: podExpectation(), track: &tracked{run: &run{resident: tc.resident}}}
			if tc.unreadable != nil {
				r.logs = unreadable(t, tc.unreadable)
			}
			r.readRecord(s, x, tc.pod)
			if x.done != tc.done || !strings.Contains(x.unrecorded, tc.want) || (tc.want == "") != (x.unrecorded == "") {
				t.Errorf("got done=%v %q, want %v %q", x.done, x.unrecorded, tc.done, tc.want)
			}
			if !x.done && s.requeue != recordWait {
				t.Errorf("looks again in %s", s.requeue)
			}
		})
	}
}

func TestPortsThatRefuse(t *testing.T) {
	edge := func(kind plan.TargetKind, port uint16) *plan.Edge {
		return &plan.Edge{Transport: wire.TCP, Port: port, Target: plan.Target{Kind: kind, Key: "pod"}}
	}
	dead, alive, silent, service := edge(plan.TargetPod, 1), edge(plan.TargetPod, 2), edge(plan.TargetPod, 3), edge(plan.TargetService, 4)
	result := func(os ...wire.Outcome) wire.Result { return wire.Result{Outcomes: os} }
	probe := func(edges []*plan.Edge, results ...wire.Result) *probeRun {
		return &probeRun{Pod: plan.Pod{Edges: edges}, report: &wire.Report{Results: results}}
	}
	refused := result(wire.Refused, wire.Refused)
	r := &run{generation: 1, probes: []*probeRun{
		probe([]*plan.Edge{dead, alive, silent, service}, refused, refused, result(wire.TimedOut, wire.TimedOut), refused),
		// A filter may refuse, or drop, what comes from others.
		probe([]*plan.Edge{dead, alive, silent}, result(wire.TimedOut, wire.TimedOut), result(wire.Connected, wire.Refused), result(wire.Refused, wire.TimedOut)),
		{Pod: plan.Pod{Edges: []*plan.Edge{alive}}},
	}}
	track := &tracked{last: lastRun{generation: 1}, refusing: map[string]bool{"before": true, alive.Listener(): true}}
	if diff := cmp.Diff(map[string]bool{"before": true, dead.Listener(): true}, r.refusing(track)); diff != "" {
		t.Errorf("refusing (-want +got):\n%s", diff)
	}
	track.last.generation = 0
	if diff := cmp.Diff(map[string]bool{dead.Listener(): true}, r.refusing(track)); diff != "" {
		t.Errorf("refusing under a new spec (-want +got):\n%s", diff)
	}
}
