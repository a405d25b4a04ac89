package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/podlog"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/probepod"
	"github.com/pathproof/pathproof/verdict"
)

// terminationLog is the file that the kubelet takes the termination message from.
const terminationLog = "/dev/termination-log"

// recordWait bounds the wait for a record: the annotation that asks for it, the answer and
// the end of the pod take the kubelet a second or two.
const recordWait = 30 * time.Second

// record asks every responder of which a check got no answer what it has noted: a request
// may have arrived whose reply was lost. It ends the reconcile until all have answered, and
// is done with those that do not stay.
func (r *ExpectationReconciler) record(ctx context.Context, s *scope) (bool, error) {
	current := s.track.run
	pods := map[*responderRun]*corev1.Pod{}
	var unasked []*responderRun
	for _, x := range current.responders {
		if x.done {
			continue
		}
		pods[x] = r.observePod(s, &x.podRun)
		if !x.askedAt.IsZero() {
			r.readRecord(s, x, pods[x])
			continue
		}
		x.alive = x.ready && pods[x] != nil && containerReady(pods[x]) && probepod.Status(pods[x]).RestartCount == 0
		unasked = append(unasked, x)
	}
	err := r.ask(ctx, s, unasked, pods)
	var asked []string
	var silent []*corev1.Pod
	waiting := false
	for x, pod := range pods {
		if !x.done {
			waiting = true
			if !x.askedAt.IsZero() {
				asked = append(asked, x.request)
			}
			if r.overdue(s, &x.podRun, pod, x.askedAt, recordDue) {
				silent = append(silent, pod)
			}
			continue
		}
		if current.resident {
			continue
		}
		if !x.createdAt.IsZero() {
			s.track.inFlight.Add(-1)
		}
		if pod != nil {
			s.over = append(s.over, pod)
		}
	}
	r.awaitAnswers(s, asked)
	return waiting, errors.Join(err, r.nudge(ctx, s, silent))
}

// ask asks responders for their records, and is done with those that there is nothing to
// ask of.
func (r *ExpectationReconciler) ask(ctx context.Context, s *scope, responders []*responderRun, pods map[*responderRun]*corev1.Pod) error {
	if len(responders) == 0 {
		return nil
	}
	unanswered := s.track.run.unanswered()
	var asked []*responderRun
	for _, x := range responders {
		if !x.alive || len(unanswered[x]) == 0 {
			x.done = true
			continue
		}
		x.request = flow.ID("record", s.track.run.id, x.Key)
		r.logs.expectRecord(s.exp, x.request)
		r.logs.Follow(pods[x], podlog.Backlog)
		asked = append(asked, x)
	}
	var failed error
	for i, err := range sideBySide(asked, func(x *responderRun) error { return r.askFor(ctx, s, x.request, unanswered[x], pods[x]) }) {
		switch x := asked[i]; {
		case err == nil:
			x.askedAt = s.now
			s.again(recordWait)
		case podGone(err), apierrors.IsConflict(err):
			x.unrecorded, x.done = "the responder was deleted by somebody else", true
		default:
			failed = errors.Join(failed, fmt.Errorf("asking responder %s: %w", x.name, err))
		}
	}
	return failed
}

// askFor asks a responder about checks, by the ID of their plan.
func (r *ExpectationReconciler) askFor(ctx context.Context, s *scope, request string, checks map[string][]int, pod *corev1.Pod) error {
	text, err := wire.EncodeRecordRequest(wire.RecordRequest{Version: wire.Version, ID: request, Checks: checks})
	if err != nil {
		return err
	}
	return patchMetadata(ctx, r.client, pod.DeepCopy(), map[string]any{"annotations": map[string]string{wire.RecordKeyPrefix + string(s.exp.UID): text}})
}

// readRecord decides whether a responder that was asked is done, and what it has to say.
func (r *ExpectationReconciler) readRecord(s *scope, x *responderRun, pod *corev1.Pod) {
	record, err := r.recordOf(s, x, pod)
	deadline := x.askedAt.Add(recordWait)
	switch {
	case record != nil && record.ID != x.request:
		x.unrecorded, x.done = fmt.Sprintf("the record is an answer to %q, want %q", record.ID, x.request), true
	case record != nil:
		x.record, x.done = record, true
	case pod == nil:
		x.unrecorded, x.done = "the responder was deleted by somebody else", true
	case errors.Is(err, wire.ErrNotEncoded):
		x.unrecorded, x.done = "the responder left none: "+describeTermination(pod), true
	case err != nil && containerTerminated(pod) != nil:
		x.unrecorded, x.done = err.Error(), true
	case apierrors.IsForbidden(err):
		x.unrecorded, x.done = fmt.Sprintf("the operator may not read the responder's record, which takes the permission to get pods/log: %v", err), true
	case !s.now.Before(deadline) && err != nil:
		x.unrecorded, x.done = fmt.Sprintf("the responder's record could not be read within %s: %v", recordWait, err), true
	case !s.now.Before(deadline):
		x.unrecorded, x.done = fmt.Sprintf("the responder gave none within %s", recordWait), true
	default:
		s.again(r.until(s, deadline))
	}
}

// recordOf returns the record of a responder; nil if it has not come, with the reason if
// there is one.
func (r *ExpectationReconciler) recordOf(s *scope, x *responderRun, pod *corev1.Pod) (*wire.Record, error) {
	if pod != nil && containerRunning(pod) != nil {
		r.logs.Follow(pod, podlog.Backlog)
	}
	record, err := r.logs.record(s.exp.UID, x.uid, x.request)
	if s.track.run.resident || record != nil {
		return record, err
	}
	// That of a responder that ends is its termination message, too.
	if pod == nil || containerTerminated(pod) == nil {
		return nil, nil
	}
	left, err := wire.DecodeRecord(containerTerminated(pod).Message)
	if err != nil {
		return nil, err
	}
	return &left, nil
}

// unanswered lists the checks of each responder of which not every attempt was answered:
// their positions, by the ID of their plan.
func (r *run) unanswered() map[*responderRun]map[string][]int {
	out := map[*responderRun]map[string][]int{}
	for _, p := range r.probes {
		if p.report == nil {
			continue
		}
		for i, e := range p.Edges {
			replied := func(o wire.Outcome) bool { return o == wire.Replied }
			if e.Target.Kind != plan.TargetResponder || p.report.Results[i].Outcomes.All(replied) {
				continue
			}
			x := r.responderOf(e)
			if out[x] == nil {
				out[x] = map[string][]int{}
			}
			out[x][p.plan.ID] = append(out[x][p.plan.ID], i)
		}
	}
	return out
}

// recorded returns what the record of a responder says about a check from an address; nil if
// it was not asked.
func (r *run) recorded(x *responderRun, p *probeRun, i int, from netip.Addr) *verdict.Recorded {
	if x.record == nil {
		if x.unrecorded == "" {
			return nil
		}
		return &verdict.Recorded{Missing: x.unrecorded}
	}
	e, result := p.Edges[i], p.report.Results[i]
	out := &verdict.Recorded{Missing: x.record.Unseen[e.Transport.Protocol()]}
	if x.record.Trimmed {
		out.Missing = "the responder's record does not fit into a message"
	}
	for _, q := range x.record.Requests {
		if q.Plan == p.plan.ID && q.Check == i && q.Round == result.Rounds {
			out.Arrived += q.Count
		}
	}
	for _, o := range result.Outcomes {
		if o == wire.Replied {
			out.Arrived--
		}
	}
	out.Arrived = max(0, out.Arrived)
	for _, h := range x.record.Handshakes {
		switch {
		case h.Protocol != e.Transport.Protocol() || h.Port != e.Port || h.From.Is4() != e.Target.Addr.Is4():
		case h.From == from:
			out.Arrived += h.Count
		case !r.probesFrom(h.From):
			out.Missing = fmt.Sprintf("%s has begun connections with this port and is no probe of this run: an address may be translated on the way", h.From)
		}
	}
	return out
}

// probesFrom tells whether a probe of the run has an address.
func (r *run) probesFrom(addr netip.Addr) bool {
	return slices.ContainsFunc(r.probes, func(p *probeRun) bool { return slices.Contains(p.addrs, addr) })
}
