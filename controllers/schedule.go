package controllers

import (
	"context"
	"fmt"
	"hash/fnv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/pathproof/pathproof/api/v1alpha1"
)

const (
	// debounce is how long a configuration has to stay as it is before a change
	// starts a run. Short enough that a run starts within a second of a change,
	// long enough that the parts of one rollout step make one run.
	debounce = 300 * time.Millisecond
	// debounceLimit bounds the wait while changes keep coming.
	debounceLimit = 2 * time.Second
	// maxRepeats bounds the runs in a row that are given up because the
	// configuration changed. The run after them is judged, with the reason
	// ChangedDuringProbe if it was overtaken, too.
	maxRepeats = 3
	// staleIntervals is the age, in intervals, at which results stop to count.
	staleIntervals = 2.5
)

// The triggers of a run, in the spelling of the API.
const (
	triggerCreated     = "Created"
	triggerSpecChanged = "SpecChanged"
	triggerInterval    = "Interval"
	triggerChange      = "Change"
	triggerRequested   = "Requested"
	triggerRepeated    = "Repeated"
	// triggerAttribution is that of follow-ups, which are no results: status.lastRun never
	// is one.
	triggerAttribution = "Attribution"
)

// schedule gives up a run that was overtaken, and starts one that is due.
func (r *ExpectationReconciler) schedule(ctx context.Context, s *scope) (bool, error) {
	if err := r.dropFollowUp(ctx, s); err != nil {
		return false, err
	}
	r.noteChange(s)
	s.markStale()
	if s.track.run != nil {
		changed := s.track.run.overtakenBy(s.resolution.Provenance)
		if s.track.run.generation == s.exp.Generation && (!changed || s.track.repeats >= maxRepeats) {
			return false, nil
		}
		if s.track.run.generation == s.exp.Generation {
			s.track.repeats++
			s.track.changedAt, s.track.changedTo = s.now, ""
		}
		ctrl.LoggerFrom(ctx).V(1).Info("Giving up run that was overtaken by a change", "run", s.track.run.id)
		if err := r.endRun(ctx, s); err != nil {
			return false, err
		}
	}
	trigger, wait := due(s)
	if trigger == "" {
		s.again(wait)
		if !s.track.last.startedAt.IsZero() {
			s.exp.Status.NextRunAt = nextRunAt(s)
		}
		return !r.followUp(ctx, s), nil
	}
	r.resample(s, trigger)
	s.track.attribution = nil
	s.track.begin(newRun(s, trigger, r.ways.witnesses()))
	s.track.changedAt, s.track.changedTo = time.Time{}, ""
	if trigger != triggerInterval && trigger != triggerRequested {
		setPending(s, "a run is under way: "+trigger)
	}
	ctrl.LoggerFrom(ctx).V(1).Info("Starting run", "run", s.track.run.id, "trigger", trigger)
	return false, nil
}

// noteChange remembers since when the configuration differs from the one that the
// last run measured.
func (r *ExpectationReconciler) noteChange(s *scope) {
	current := s.resolution.Provenance
	switch {
	case s.track.run != nil:
		// A run is compared with its own configuration. It may have chosen other pods than
		// the last one.
	case s.track.repeats > 0:
		// The wait after a run that was overtaken is under way.
	case s.track.last.provenance == "" || s.track.last.provenance == current:
		s.track.changedAt, s.track.changedTo = time.Time{}, ""
	case s.track.changedAt.IsZero():
		s.track.changedAt, s.track.changedTo = s.now, current
	}
}

// due returns the trigger of a run that is due now, or the time until one is.
func due(s *scope) (trigger string, wait time.Duration) {
	last := s.track.last
	switch {
	case s.track.repeats > 0:
		// Whatever made the last run useless may still be going on: the wait grows.
		if left := s.debounceLeft(debounce << s.track.repeats); left > 0 {
			return "", left
		}
		return triggerRepeated, 0
	case last.startedAt.IsZero():
		return triggerCreated, 0
	case last.generation != s.exp.Generation:
		return triggerSpecChanged, 0
	case s.exp.Annotations[v1alpha1.RequestedAtAnnotation] != "" && truncate(s.exp.Annotations[v1alpha1.RequestedAtAnnotation], maxRequest) != last.request:
		return triggerRequested, 0
	}
	age, known := ageAt(s.now, last.startedAt)
	_, dated := ageAt(s.now, last.finishedAt)
	wait = nextRunAt(s).Sub(last.startedAt) - age
	if wait <= 0 || !known || !dated {
		return triggerInterval, 0
	}
	if onChange(s.exp) && !s.track.changedAt.IsZero() {
		left := s.debounceLeft(debounce)
		if left <= 0 {
			return triggerChange, 0
		}
		wait = min(wait, left)
	}
	return "", wait
}

// debounceLeft returns the time until a change may start a run: when the
// configuration has been quiet for that long. A further change starts the wait
// anew, up to debounceLimit.
func (s *scope) debounceLeft(quiet time.Duration) time.Duration {
	if s.track.changedTo != s.resolution.Provenance {
		s.track.changedTo = s.resolution.Provenance
		s.track.settledAt = s.now
	}
	from := s.track.changedAt
	if s.track.settledAt.After(from) {
		from = s.track.settledAt
	}
	return min(from.Add(quiet).Sub(s.now), s.track.changedAt.Add(max(quiet, debounceLimit)).Sub(s.now))
}

func onChange(exp *v1alpha1.ConnectivityExpectation) bool {
	return exp.Spec.Probe.OnChange == nil || *exp.Spec.Probe.OnChange
}

func interval(exp *v1alpha1.ConnectivityExpectation) time.Duration {
	if exp.Spec.Probe.IntervalSeconds == 0 {
		return 300 * time.Second
	}
	return time.Duration(exp.Spec.Probe.IntervalSeconds) * time.Second
}

// nextRunAt returns when the interval ends. Up to a tenth of it is added, by a
// hash of the UID, so that expectations that were created together do not run
// together for ever.
func nextRunAt(s *scope) *metav1.Time {
	d := interval(s.exp)
	return &metav1.Time{Time: s.track.last.startedAt.Add(d + jitter(s.exp.UID, d/10))}
}

// jitter spreads UIDs over the times below limit. The hash has 64 bits: one of 32 counts
// no more than 4.3 seconds of nanoseconds.
func jitter(uid types.UID, limit time.Duration) time.Duration {
	h := fnv.New64a()
	// Writes to a hash do not fail.
	_, _ = h.Write([]byte(uid))
	return time.Duration(h.Sum64() % uint64(max(1, limit)))
}

// markStale takes back Ready when results are too old, or of unknown age, and looks
// again when they will be.
func (s *scope) markStale() {
	if s.track.last.finishedAt.IsZero() {
		return
	}
	limit := time.Duration(float64(interval(s.exp)) * staleIntervals)
	age, known := ageAt(s.now, s.track.last.finishedAt)
	switch {
	case !known:
		s.setStale(fmt.Sprintf("the last result is dated %s, which is still to come: the clock was put back",
			s.track.last.finishedAt.UTC().Format(time.RFC3339)))
	case age >= limit:
		s.setStale(fmt.Sprintf("the last result is %s old, and the interval is %s", age.Round(time.Second), interval(s.exp)))
	default:
		s.again(limit - age)
	}
}

// ageAt returns how old something is that happened at a moment, and whether that is
// known: it is not if the wall clock says that the moment is still to come, as it does
// when it has been put back. Of two clocks, the one counts that says more: the
// monotonic one stands still while the machine is suspended, and is not kept over
// restarts.
func ageAt(now, moment time.Time) (age time.Duration, known bool) {
	// Round strips the reading of the monotonic clock.
	wall := now.Round(0).Sub(moment.Round(0))
	return max(wall, now.Sub(moment)), wall >= 0
}
