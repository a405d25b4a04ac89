package controllers

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/verdict"
)

// scope is what the phases of one reconcile share.
type scope struct {
	now time.Time
	exp *v1alpha1.ConnectivityExpectation
	// before is the object as it was read; publish writes the difference.
	before *v1alpha1.ConnectivityExpectation
	// prior is the status that the last reconcile wanted, which the cache may not
	// show yet. exp.Status starts as a copy of it.
	prior v1alpha1.ConnectivityExpectationStatus
	track *tracked

	// pods are the probe pods of the current run, by name. Set by sweep.
	pods map[string]*corev1.Pod
	// residents are the pods of the expectation that stay, by name. Set by sweep.
	residents map[string]*corev1.Pod
	// over are pods of the run that have done their work. They are deleted when the status
	// is written: nobody waits for that.
	over []*corev1.Pod
	// options are those of the reconciler, with the warm-up that the network
	// implementation needs. Set by gather, as are the next five.
	options    Options
	snapshot   plan.Snapshot
	input      plan.Input
	foreseen   *foreseen
	resolution *plan.Resolution
	problems   []evaluator.Problem
	// verdicts and summary are set by judge when a run has ended.
	verdicts []verdict.Verdict
	summary  *verdict.Summary
	// duration and trigger are those of the run that has ended.
	duration time.Duration
	trigger  string

	requeue time.Duration
}

func newScope(exp *v1alpha1.ConnectivityExpectation, t *tracked, now time.Time) *scope {
	s := &scope{now: now, exp: exp, before: exp.DeepCopy(), track: t}
	if t.status != nil {
		exp.Status = *t.status.DeepCopy()
	}
	s.prior = *exp.Status.DeepCopy()
	return s
}

// again asks for the next reconcile after d at the latest. The earliest wish wins.
func (s *scope) again(d time.Duration) {
	d = max(d, 10*time.Millisecond)
	if s.requeue == 0 || d < s.requeue {
		s.requeue = d
	}
}

func (s *scope) requeueAfter() time.Duration { return s.requeue }

// tracked is what the operator remembers of an expectation between reconciles.
// The reconciler's queue never hands one expectation to two workers at a time.
type tracked struct {
	uid types.UID
	// run is the one under way; nil between runs.
	run *run
	// last describes the last run that ended. It is seeded from the status and
	// kept here because the cache may still hold the status before the last write.
	last lastRun
	// changedAt is when the provenance was first seen to differ from the last
	// run's, and changedTo what it was then. Zero when it does not differ.
	changedAt time.Time
	changedTo string
	// settledAt is when changedTo was first seen.
	settledAt time.Time
	// repeats counts runs in a row that raced a change.
	repeats int
	// status is what the last reconcile wanted to be written. The operator is its
	// only writer, so this is the truth while the cache lags or a write failed.
	status *v1alpha1.ConnectivityExpectationStatus
	// unwritten is set while a write of status has failed. It is written before
	// anything else is done: the next phase could take back a result that nobody
	// has seen.
	unwritten bool
	// teller knows what was told by events.
	teller teller
	// attribution is what the follow-up of the last run is to find out, or finds out; nil
	// if there is none. news is what it has found out and nobody was told.
	attribution *attribution
	news        *news
	// latency is nil while nothing is watched.
	latency *latency
	// policyAt is when a policy changed that may concern the expectation, in nanoseconds
	// since 1970: the first one since predictions were last made; 0 for none. Watches set
	// it.
	policyAt atomic.Int64
	// changedPolicyAt is the same, as of the objects that predictions are made from: what comes
	// while they are made counts for the next ones.
	changedPolicyAt time.Time
	// running tells other workers that a run is under way.
	running atomic.Bool
	// kept are the resident pods that the last run needed; nil while that is not known.
	kept map[string]bool
	// inFlight is the number of pods of the run that exist, and of those that stay. Other
	// workers read it.
	inFlight atomic.Int32
	// learned are the addresses that the probes of the last run tried of each host.
	// They live no longer than the operator: results that rest on something of the
	// cluster at such an address are measured again after a restart.
	learned map[string][]netip.Addr
	// refusing are the listeners of pods at which nothing listened when they were last
	// probed. They live no longer than the operator, or the generation.
	refusing map[string]bool
	// sampling chooses the pods of the run under way, or of the last one. Its round is
	// in the status, and what it keeps is in the findings, for the next operator.
	sampling plan.Sampling
	// covered are the pairs that each of the last runs came to a conclusion about, all
	// of them for one generation.
	covered           [][]plan.Pair
	coveredGeneration int64
	// foreseen is what the last reconcile resolved. Runs keep it; without one, it is there
	// until the memory is needed: the pods of a run that has ended wake the operator more
	// often than anything else, and most expectations rest for minutes.
	foreseen weak.Pointer[foreseen]
	// outlook is what the last reconcile predicted; nil while that is not certain.
	// Watches read it.
	outlook atomic.Pointer[outlook]
}

// begin makes a run the one that is under way; nil ends it.
func (t *tracked) begin(r *run) {
	t.run = r
	t.running.Store(r != nil)
}

type lastRun struct {
	startedAt, finishedAt time.Time
	generation            int64
	provenance            string
	request               string
}

// tracker holds the tracked expectations.
type tracker struct {
	mu sync.Mutex
	m  map[types.NamespacedName]*tracked
}

func newTracker() *tracker { return &tracker{m: map[types.NamespacedName]*tracked{}} }

// get returns what is remembered of an expectation. One that was deleted and
// created again under its name starts anew.
func (t *tracker) get(exp *v1alpha1.ConnectivityExpectation) *tracked {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := client.ObjectKeyFromObject(exp)
	if e, ok := t.m[key]; ok && e.uid == exp.UID {
		return e
	}
	e := &tracked{uid: exp.UID}
	if lr := exp.Status.LastRun; lr != nil {
		e.last = lastRun{
			startedAt: lr.StartedAt.Time, finishedAt: lr.FinishedAt.Time, generation: exp.Status.ObservedGeneration,
			provenance: lr.Provenance, request: exp.Status.LastHandledRequest,
		}
		if ready := meta.FindStatusCondition(exp.Status.Conditions, v1alpha1.ConditionReady); ready != nil && ready.Reason == v1alpha1.ReasonPending {
			// A run was under way when the operator ended: its generation is observed,
			// but was not measured.
			e.last.generation = 0
		}
	}
	e.sampling.Keep = pairsOf(exp.Status.Findings)
	if c := exp.Status.Coverage; c != nil {
		e.sampling.Round = int(c.Round)
	}
	t.m[key] = e
	return e
}

// outlook returns what was last predicted for an expectation; nil if that is not
// certain.
func (t *tracker) outlook(exp *v1alpha1.ConnectivityExpectation) *outlook {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e, ok := t.m[client.ObjectKeyFromObject(exp)]; ok && e.uid == exp.UID {
		return e.outlook.Load()
	}
	return nil
}

// policyChanged notes that a policy has changed, unless one had before that predictions
// have not yet taken into account.
func (t *tracker) policyChanged(exp *v1alpha1.ConnectivityExpectation, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e, ok := t.m[client.ObjectKeyFromObject(exp)]; ok && e.uid == exp.UID {
		e.policyAt.CompareAndSwap(0, at.UnixNano())
	}
}

// needs tells whether another expectation than the given one has a run under way that may use
// a pod.
func (t *tracker) needs(pod *corev1.Pod, exp *v1alpha1.ConnectivityExpectation) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, o := range pod.OwnerReferences {
		if e := t.m[types.NamespacedName{Namespace: pod.Namespace, Name: o.Name}]; plan.IsExpectationRef(o) && o.UID != exp.UID && e != nil && e.running.Load() {
			return true
		}
	}
	return false
}

// takePolicyChange notes when the first policy changed that the predictions to be made now
// have and the last ones had not.
func (t *tracked) takePolicyChange() {
	if ns := t.policyAt.Swap(0); ns != 0 && t.changedPolicyAt.IsZero() {
		t.changedPolicyAt = time.Unix(0, ns)
	}
}

// drop forgets an expectation and returns its UID; empty if nothing was remembered.
func (t *tracker) drop(key types.NamespacedName) types.UID {
	t.mu.Lock()
	defer t.mu.Unlock()
	var uid types.UID
	if e := t.m[key]; e != nil {
		uid = e.uid
	}
	delete(t.m, key)
	return uid
}

func (t *tracker) allInFlight() int {
	all, _ := t.podsInFlight("")
	return all
}

// podsInFlight counts the probe pods of all runs, and of those in one namespace.
func (t *tracker) podsInFlight(namespace string) (all, here int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, e := range t.m {
		n := e.inFlight.Load()
		all += int(n)
		if key.Namespace == namespace {
			here += int(n)
		}
	}
	return all, here
}
