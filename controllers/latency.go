package controllers

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/plan"
)

const (
	// early is how long before a change of policy was seen here a path may have flipped
	// because of it: the network may hear of it first, and clocks differ. Such a flip took
	// no time.
	early = 2 * time.Second
	// patience is how long a flip is waited for.
	patience = 5 * time.Minute
)

// latency measures the time from a change of policy that flips a prediction to the flip of
// the path. It is kept for an expectation whose pods watch their checks.
type latency struct {
	// predicted is what was last predicted, by subject.
	predicted map[string]evaluator.Verdict
	// expected are the flips to come, by subject.
	expected map[string]*expectedFlip
	// watched are the subjects of watched checks.
	watched map[watchedCheck]string
	// seen are flips that no expected one has explained, of the last moments: the change
	// of policy may come later.
	seen []seenFlip
}

// subject identifies what a prediction is about, over runs. Of a target with two addresses,
// each is predicted for itself; those of a responder are not known when it is predicted.
func subject(e *plan.Edge) string {
	family := ""
	if e.Target.Kind != plan.TargetResponder && e.Target.Addr.IsValid() {
		family = plan.FamilyOf(e.Target.Addr)
	}
	return flow.ID(e.Path, e.Source.Key, e.Target.Name, family, string(e.Transport), flow.PortRange{First: e.Port, Last: e.Port}.String(), e.QueryName)
}

// watchedCheck is a check of one pod.
type watchedCheck struct {
	pod types.UID
	key string
}

// expectedFlip is a flip that a change of policy has to bring.
type expectedFlip struct {
	path string
	open bool
	at   time.Time
	// met are the checks that have flipped.
	met map[watchedCheck]bool
}

// measuredFlip is a flip that came.
type measuredFlip struct {
	path            string
	open            bool
	changedAt       time.Time
	flippedAt       time.Time
	took, precision time.Duration
}

// predict notes what is predicted now. What differs from the last prediction is expected to
// flip, since a change of policy at that time.
func (l *latency) predict(edges []*plan.Edge, at time.Time) {
	now := map[string]evaluator.Verdict{}
	for _, e := range edges {
		if e.Control {
			continue
		}
		id, v := subject(e), e.Prediction.Verdict
		now[id] = v
		before, known := l.predicted[id]
		if !known || before == v {
			continue
		}
		delete(l.expected, id)
		if before != evaluator.Undefined && v != evaluator.Undefined {
			l.expected[id] = &expectedFlip{path: e.Path, open: v == evaluator.Allowed, at: at, met: map[watchedCheck]bool{}}
		}
	}
	l.predicted = now
}

// watch notes whose checks a pod watches from now on.
func (l *latency) watch(p *probeRun) {
	for i, e := range p.Edges {
		if !e.Control {
			l.watched[watchedCheck{p.uid, p.plan.Checks[i].Key()}] = subject(e)
		}
	}
}

// measure explains flips by what was expected.
func (l *latency) measure(flips []seenFlip, now time.Time) []measuredFlip {
	var out []measuredFlip
	var left []seenFlip
	for _, f := range append(l.seen, flips...) {
		at := time.UnixMicro(f.AtMicroseconds)
		check := watchedCheck{f.pod, f.Check}
		want := l.expected[l.watched[check]]
		switch {
		case want != nil && want.open == f.Open && !at.Before(want.at.Add(-early)):
			if !want.met[check] {
				want.met[check] = true
				out = append(out, measuredFlip{
					path: want.path, open: f.Open, changedAt: want.at, flippedAt: at,
					took: max(0, at.Sub(want.at)), precision: time.Duration(f.GapMicroseconds) * time.Microsecond,
				})
			}
		case now.Sub(at) < early:
			left = append(left, f)
		}
	}
	l.seen = left
	for id, want := range l.expected {
		if now.Sub(want.at) > patience {
			delete(l.expected, id)
		}
	}
	return out
}

// measure measures how long changes of policy have taken to be enforced.
func (r *ExpectationReconciler) measure(_ context.Context, s *scope) (bool, error) {
	if !resident(s.exp) || s.exp.Spec.Probe.WatchMilliseconds == 0 {
		s.track.latency = nil
		return false, nil
	}
	if s.track.latency == nil {
		s.track.latency = &latency{expected: map[string]*expectedFlip{}, watched: map[watchedCheck]string{}}
	}
	at := s.now
	if !s.track.changedPolicyAt.IsZero() {
		at, s.track.changedPolicyAt = s.track.changedPolicyAt, time.Time{}
	}
	s.track.latency.predict(s.resolution.Edges, at)
	for _, m := range s.track.latency.measure(r.logs.takeFlips(s.exp.UID), s.now) {
		r.metrics.Latency(m.open, m.took)
		s.setLatency(m)
	}
	return false, nil
}

// setLatency writes the last measurement into the status: of those of one change, the
// longest.
func (s *scope) setLatency(m measuredFlip) {
	took, precision := int32(m.took.Milliseconds()), int32((m.precision + time.Millisecond - 1).Milliseconds())
	changed := metav1.MicroTime{Time: m.changedAt.Truncate(time.Microsecond)}
	if last := s.exp.Status.EnforcementLatency; last != nil && last.ChangedAt.Time.Equal(changed.Time) && last.Milliseconds >= took {
		return
	}
	s.exp.Status.EnforcementLatency = &v1alpha1.EnforcementLatency{
		Milliseconds: took, Direction: direction(m.open), Path: m.path, ChangedAt: changed,
		FlippedAt: metav1.MicroTime{Time: m.flippedAt}, PrecisionMilliseconds: precision,
	}
}

func direction(open bool) v1alpha1.FlipDirection {
	if open {
		return v1alpha1.FlipOpened
	}
	return v1alpha1.FlipClosed
}

// rewatch rebuilds what is watched from the run that has ended.
func (l *latency) rewatch(probes []*probeRun) {
	l.watched = map[watchedCheck]string{}
	for _, p := range probes {
		if p.uid != "" && len(p.plan.Checks) == len(p.Edges) {
			l.watch(p)
		}
	}
}
