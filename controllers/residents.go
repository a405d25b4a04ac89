package controllers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/probe/wire"
)

const (
	// logBacklog is how far back a log is read that is opened again: what is read twice
	// does no harm.
	logBacklog = 30 * time.Second
	// maxFlips bounds the flips that are kept until an expectation has looked at them.
	maxFlips = 1000
)

// logRetry is when a log that ended, or that cannot be read, is opened again.
var logRetry = wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Steps: 100, Cap: 10 * time.Second}

// LogReader opens the log of a pod's container and follows it until the pod ends, the
// context does, or the connection breaks. It begins with what was logged since a time.
type LogReader func(ctx context.Context, pod types.NamespacedName, container string, since time.Time) (io.ReadCloser, error)

// +kubebuilder:rbac:groups="",resources=pods/log,verbs=get

// PodLogs reads logs through the API server.
func PodLogs(config *rest.Config) (LogReader, error) {
	c, err := corev1client.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("building client for logs: %w", err)
	}
	return func(ctx context.Context, pod types.NamespacedName, container string, since time.Time) (io.ReadCloser, error) {
		return c.Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{
			Container: container, Follow: true, SinceTime: &metav1.Time{Time: since},
		}).Stream(ctx)
	}, nil
}

// residents reads what resident pods report. Each pod's log is followed by one goroutine.
type residents struct {
	clock clock.WithTicker
	logs  LogReader
	// lifetime returns the context of the operator.
	lifetime func() context.Context
	// changed wakes the expectation that a message is for.
	changed chan event.GenericEvent

	mu sync.Mutex
	// pods are those whose logs are followed.
	pods map[types.UID]*followed
	// owners are the expectations with plans in these pods, by their UID.
	owners map[types.UID]*residentOwner
}

// followed is a pod whose log is followed.
type followed struct {
	stop context.CancelFunc
	uid  types.UID
	// failed is why the log cannot be read; nil while it can.
	failed error
}

// residentOwner is what is kept for an expectation.
type residentOwner struct {
	key types.NamespacedName
	// reports are those that came, by the ID of their plan; nil for a plan whose report
	// has not come.
	reports map[string]*wire.Report
	// records are those of responders, by the ID of the request, in the same way.
	records map[string]*wire.Record
	flips   []seenFlip
}

// seenFlip is a flip and the pod that saw it.
type seenFlip struct {
	wire.Flip
	pod types.UID
}

func newResidents(c clock.WithTicker, logs LogReader) *residents {
	return &residents{
		clock: c, logs: logs, changed: make(chan event.GenericEvent, 64),
		pods: map[types.UID]*followed{}, owners: map[types.UID]*residentOwner{},
	}
}

// expect says that a pod is about to be given a plan, whose report is to wake the
// expectation.
func (r *residents) expect(exp *v1alpha1.ConnectivityExpectation, plan string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.owner(exp).reports[plan] = nil
}

// expectRecord says that a responder is about to be asked for its record, which is to wake
// the expectation.
func (r *residents) expectRecord(exp *v1alpha1.ConnectivityExpectation, request string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.owner(exp).records[request] = nil
}

// owner returns what is kept for an expectation, with the lock held.
func (r *residents) owner(exp *v1alpha1.ConnectivityExpectation) *residentOwner {
	o := r.owners[exp.UID]
	if o == nil {
		o = &residentOwner{key: client.ObjectKeyFromObject(exp), reports: map[string]*wire.Report{}, records: map[string]*wire.Record{}}
		r.owners[exp.UID] = o
	}
	return o
}

// follow reads the log of a pod that runs, if that is not done yet.
func (r *residents) follow(pod *corev1.Pod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pods[pod.UID] != nil {
		return
	}
	key, uid, since := client.ObjectKeyFromObject(pod), pod.UID, r.clock.Now().Add(-logBacklog)
	ctx, cancel := context.WithCancel(r.lifetime())
	f := &followed{stop: cancel, uid: uid}
	r.pods[uid] = f
	go func() {
		defer cancel()
		r.readOn(ctx, key, f, since)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.pods[uid] == f {
			delete(r.pods, uid)
		}
	}()
}

// report returns the report of a plan; nil if it has not come, with the reason for which
// it cannot come, if there is one.
func (r *residents) report(exp types.UID, pod types.UID, plan string) (*wire.Report, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o := r.owners[exp]; o != nil && o.reports[plan] != nil {
		return o.reports[plan], nil
	}
	if f := r.pods[pod]; f != nil {
		return nil, f.failed
	}
	return nil, nil
}

// record returns the answer to a request for a record, as report does.
func (r *residents) record(exp types.UID, pod types.UID, request string) (*wire.Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o := r.owners[exp]; o != nil && o.records[request] != nil {
		return o.records[request], nil
	}
	if f := r.pods[pod]; f != nil {
		return nil, f.failed
	}
	return nil, nil
}

// takeFlips returns the flips of an expectation's paths since it was last asked.
func (r *residents) takeFlips(exp types.UID) []seenFlip {
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
func (r *residents) forgetReports(exp types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o := r.owners[exp]; o != nil {
		clear(o.reports)
		clear(o.records)
	}
}

// forget drops everything of an expectation.
func (r *residents) forget(exp types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.owners, exp)
}

// unfollow ends with the log of a pod.
func (r *residents) unfollow(pod types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.pods[pod]; f != nil {
		f.stop()
		delete(r.pods, pod)
	}
}

// readOn reads the log of a pod, again and again, until the pod is gone.
func (r *residents) readOn(ctx context.Context, pod types.NamespacedName, f *followed, since time.Time) {
	retry := logRetry
	for {
		opened, err := r.readLog(ctx, pod, f, since)
		if ctx.Err() != nil || apierrors.IsNotFound(err) {
			return
		}
		if opened {
			retry, since = logRetry, r.clock.Now().Add(-logBacklog)
		}
		r.noteFailure(f, err)
		select {
		case <-r.clock.After(retry.Step()):
		case <-ctx.Done():
			return
		}
	}
}

// readLog reads the log of a pod to its end. It tells whether there was one.
func (r *residents) readLog(ctx context.Context, pod types.NamespacedName, f *followed, since time.Time) (opened bool, err error) {
	log, err := r.logs(ctx, pod, containerName, since)
	if err != nil {
		return false, err
	}
	defer func() { _ = log.Close() }()
	r.noteFailure(f, nil)
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		m, err := wire.DecodeMessage(lines.Text())
		if errors.Is(err, wire.ErrNotEncoded) {
			continue // words for people
		}
		if err != nil {
			ctrl.LoggerFrom(ctx).Info("Leaving out a line of a probe pod's log", "pod", pod, "reason", err.Error())
			continue
		}
		r.take(ctx, f.uid, m)
	}
	return true, lines.Err()
}

func (r *residents) noteFailure(f *followed, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f.failed = err
}

// take keeps a message for the expectation that it is for, and wakes that.
func (r *residents) take(ctx context.Context, pod types.UID, m wire.Message) {
	key, ok := r.keep(pod, m)
	if !ok {
		return
	}
	woken := &v1alpha1.ConnectivityExpectation{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	select {
	case r.changed <- event.GenericEvent{Object: woken}:
	case <-ctx.Done():
	}
}

// keep tells for whom a message is kept; ok is false if nobody waits for it.
func (r *residents) keep(pod types.UID, m wire.Message) (key types.NamespacedName, ok bool) {
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
	case m.Record != nil:
		return keepFor(r.owners, func(o *residentOwner) bool { return fill(o.records, m.Record.ID, m.Record) })
	default:
		return keepFor(r.owners, func(o *residentOwner) bool { return fill(o.reports, m.Report.ID, m.Report) })
	}
}

// keepFor returns the key of the owner that takes a message.
func keepFor(owners map[types.UID]*residentOwner, take func(*residentOwner) bool) (key types.NamespacedName, ok bool) {
	for _, o := range owners {
		if take(o) {
			return o.key, true
		}
	}
	return key, false
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
