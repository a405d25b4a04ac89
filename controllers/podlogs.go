package controllers

import (
	"context"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/podlog"
	"github.com/pathproof/pathproof/probe/wire"
)

// maxFlips bounds the flips that are kept until an expectation has looked at them.
const maxFlips = 1000

// podLogs reads what probe pods report in their logs.
type podLogs struct {
	*podlog.Follower
	// changed wakes the expectation that a message is for.
	changed chan event.GenericEvent

	mu sync.Mutex
	// owners are the expectations with plans in these pods, by their UID.
	owners map[types.UID]*logOwner
}

// logOwner is what is kept for an expectation.
type logOwner struct {
	key types.NamespacedName
	// reports are those that came, by the ID of their plan; nil for a plan whose report
	// has not come.
	reports map[string]*wire.Report
	// records are those of responders, by the ID of the request, in the same way.
	records map[string]*wire.Record
	// taken are the plans that resident probes have read.
	taken map[string]bool
	// awaited are the plans and requests of which only the last answer is to wake it.
	awaited map[string]bool
	flips   []seenFlip
}

// seenFlip is a flip and the pod that saw it.
type seenFlip struct {
	wire.Flip
	pod types.UID
}

func newPodLogs(c clock.WithTicker, logs podlog.Reader) *podLogs {
	r := &podLogs{changed: make(chan event.GenericEvent, 64), owners: map[types.UID]*logOwner{}}
	r.Follower = podlog.New(c, logs, r.take)
	return r
}

// expect says that a pod is about to be given a plan, whose report is to wake the
// expectation.
func (r *podLogs) expect(exp *v1alpha1.ConnectivityExpectation, plan string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	expected(r.owner(exp).reports, plan)
}

// expectRecord says that a responder is about to be asked for its record, which is to wake
// the expectation.
func (r *podLogs) expectRecord(exp *v1alpha1.ConnectivityExpectation, request string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	expected(r.owner(exp).records, request)
}

// await says that an expectation can do nothing before the answers to all of these plans or
// requests are there: only the last one wakes it, because looking at each alone would cost
// as much as looking at all. It returns true if they have all come by now, so that nothing
// will wake it.
func (r *podLogs) await(exp types.UID, ids []string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.owners[exp]
	if o == nil {
		return false
	}
	o.awaited = map[string]bool{}
	for _, id := range ids {
		if o.reports[id] == nil && o.records[id] == nil {
			o.awaited[id] = true
		}
	}
	return len(ids) > 0 && len(o.awaited) == 0
}

// owner returns what is kept for an expectation, with the lock held.
func (r *podLogs) owner(exp *v1alpha1.ConnectivityExpectation) *logOwner {
	o := r.owners[exp.UID]
	if o == nil {
		o = &logOwner{key: client.ObjectKeyFromObject(exp), reports: map[string]*wire.Report{}, records: map[string]*wire.Record{}, taken: map[string]bool{}}
		r.owners[exp.UID] = o
	}
	return o
}

// report returns the report of a plan; nil if it has not come, with the reason for which
// it cannot come, if there is one.
func (r *podLogs) report(exp types.UID, pod types.UID, plan string) (*wire.Report, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o := r.owners[exp]; o != nil && o.reports[plan] != nil {
		return o.reports[plan], nil
	}
	return nil, r.Failure(pod)
}

// record returns the answer to a request for a record, as report does.
func (r *podLogs) record(exp types.UID, pod types.UID, request string) (*wire.Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o := r.owners[exp]; o != nil && o.records[request] != nil {
		return o.records[request], nil
	}
	return nil, r.Failure(pod)
}

// taken tells whether a resident probe has said that it has a plan.
func (r *podLogs) taken(exp types.UID, plan string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.owners[exp]
	return o != nil && o.taken[plan]
}

// takeFlips returns the flips of an expectation's paths since it was last asked.
func (r *podLogs) takeFlips(exp types.UID) []seenFlip {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.owners[exp]
	if o == nil {
		return nil
	}
	flips := o.flips
	o.flips = nil
	return flips
}

// forgetReports drops the reports and records of an expectation: its run has been judged, or given up.
func (r *podLogs) forgetReports(exp types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o := r.owners[exp]; o != nil {
		clear(o.reports)
		clear(o.records)
		clear(o.taken)
		clear(o.awaited)
	}
}

// forget drops everything of an expectation.
func (r *podLogs) forget(exp types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.owners, exp)
}

// take keeps a message for the expectation that it is for, and wakes that unless it awaits
// more.
func (r *podLogs) take(ctx context.Context, pod types.UID, m wire.Message) {
	key, wake := r.keep(pod, m)
	if !wake {
		return
	}
	woken := &v1alpha1.ConnectivityExpectation{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	select {
	case r.changed <- event.GenericEvent{Object: woken}:
	case <-ctx.Done():
	}
}

// keep keeps a message and tells whom to wake; wake is false if nobody waits for it, or for
// more than it.
func (r *podLogs) keep(pod types.UID, m wire.Message) (key types.NamespacedName, wake bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case m.Flip != nil:
		o := r.owners[types.UID(m.Flip.Owner)]
		flip := seenFlip{Flip: *m.Flip, pod: pod}
		if o == nil || slices.Contains(o.flips, flip) {
			return key, false
		}
		o.flips = append(o.flips, flip)
		o.flips = o.flips[max(0, len(o.flips)-maxFlips):]
		return o.key, true
	case m.Taken != "":
		for _, o := range r.owners {
			if _, waited := o.reports[m.Taken]; waited {
				o.taken[m.Taken] = true
			}
		}
		return key, false // who gave the plan looks at this when it is time
	case m.Record != nil:
		return keepFor(r.owners, m.Record.ID, func(o *logOwner) bool { return fill(o.records, m.Record.ID, m.Record) })
	default:
		return keepFor(r.owners, m.Report.ID, func(o *logOwner) bool { return fill(o.reports, m.Report.ID, m.Report) })
	}
}

// keepFor returns the key of the owner that takes an answer, and whether to wake it.
func keepFor(owners map[types.UID]*logOwner, id string, take func(*logOwner) bool) (key types.NamespacedName, wake bool) {
	for _, o := range owners {
		if take(o) {
			awaited := o.awaited[id]
			delete(o.awaited, id)
			return o.key, !awaited || len(o.awaited) == 0
		}
	}
	return key, false
}

// expected says that a message is to come. A write that is tried again may have reached the pod
// before, and the answer be there.
func expected[T any](waiting map[string]*T, id string) {
	if _, known := waiting[id]; !known {
		waiting[id] = nil
	}
}

// fill keeps a message if it is waited for and has not come yet.
func fill[T any](waiting map[string]*T, id string, message *T) bool {
	known, waited := waiting[id]
	if !waited || known != nil {
		return false
	}
	waiting[id] = message
	return true
}
