package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/test/testbed"
)

// runTimeout bounds the wait for one run.
const runTimeout = 5 * time.Minute

// rewatch is the time after which a watch that failed is begun again.
const rewatch = 200 * time.Millisecond

// watch follows the probe pods and the expectation. Asking for them again and again
// would be part of what is measured.
type watch struct {
	stop func()

	mu sync.Mutex
	// changed is closed when something has changed, and replaced.
	changed chan struct{}
	// pods tells, for each probe pod that exists, whether its container has started.
	pods map[string]bool
	// startedAt is when the last one was first seen to have started.
	startedAt time.Time
	exp       *v1alpha1.ConnectivityExpectation
	// expAt is when exp was seen.
	expAt time.Time
}

func newWatch(ctx context.Context, c client.WithWatch) *watch {
	ctx, cancel := context.WithCancel(ctx)
	w := &watch{stop: cancel, changed: make(chan struct{}), pods: map[string]bool{}}
	go w.follow(ctx, c, &corev1.PodList{})
	go w.follow(ctx, c, &v1alpha1.ConnectivityExpectationList{})
	return w
}

// follow watches until the context ends. An API server may end a watch at any time, and
// ends those of a kind whose CRD was changed.
func (w *watch) follow(ctx context.Context, c client.WithWatch, list client.ObjectList) {
	// Version 0 is whatever the API server has in its cache. Without one, it would wait for
	// its cache to catch up, and give up where the etcd is too old to tell.
	fromCache := &client.ListOptions{Namespace: namespace, Raw: &metav1.ListOptions{ResourceVersion: "0"}}
	for ctx.Err() == nil {
		from, err := c.Watch(ctx, list, fromCache)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			fmt.Fprintf(os.Stderr, "watching %T again: %v\n", list, err)
			time.Sleep(rewatch)
			continue
		}
		if _, ok := list.(*corev1.PodList); ok {
			// Those that are there come again as added; those that are gone do not.
			w.note(func() { clear(w.pods) })
		}
		for e := range from.ResultChan() {
			w.note(func() {
				switch o := e.Object.(type) {
				case *v1alpha1.ConnectivityExpectation:
					w.exp, w.expAt = o, time.Now()
				case *corev1.Pod:
					w.notePod(o, e.Type)
				}
			})
			if e.Type == apiwatch.Error && ctx.Err() == nil {
				fmt.Fprintf(os.Stderr, "watching %T again: %v\n", list, apierrors.FromObject(e.Object))
			}
		}
		from.Stop()
	}
}

// note changes what is known and wakes who waits.
func (w *watch) note(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *watch) notePod(pod *corev1.Pod, what apiwatch.EventType) {
	if pod.Annotations[v1alpha1.ExpectationAnnotation] == "" {
		return
	}
	if what == apiwatch.Deleted {
		delete(w.pods, pod.Name)
		return
	}
	started := w.pods[pod.Name]
	for _, c := range pod.Status.ContainerStatuses {
		if !started && c.State.Waiting == nil {
			started, w.startedAt = true, time.Now()
		}
	}
	w.pods[pod.Name] = started
}

// until waits for a state, with the lock held while it is looked at.
func (w *watch) until(ctx context.Context, what string, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	for {
		w.mu.Lock()
		ok, changed := done(), w.changed
		w.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
		}
	}
}

// quiet waits until the pods of the last run are gone, unless they stay.
func (w *watch) quiet(ctx context.Context, of work) error {
	return w.until(ctx, "the probe pods to be gone", func() bool { return of.resident || len(w.pods) == 0 })
}

// request asks for a run and waits for its result, which has to be what was declared.
func (b *bench) request(ctx context.Context, w *watch, of work) (*result, error) {
	start := time.Now()
	request := strconv.FormatInt(start.UnixNano(), 10)
	if err := b.ask(ctx, of, request); err != nil {
		return nil, err
	}
	err := w.until(ctx, "the result", func() bool {
		return w.exp != nil && w.exp.Status.LastHandledRequest == request && testbed.Ready(w.exp).Reason != v1alpha1.ReasonPending
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		return nil, errors.Join(err, describe(w.exp))
	}
	r := &result{checks: of.checks, complete: w.expAt.Sub(start)}
	if w.startedAt.After(start) {
		r.started, r.complete = w.startedAt.Sub(start), w.expAt.Sub(w.startedAt)
	}
	if last := w.exp.Status.LastRun; last != nil {
		r.settled = time.Duration(last.SettledMilliseconds) * time.Millisecond
	}
	// The figures of a wrong result are no figures.
	if s := w.exp.Status.Summary; s == nil || int(s.Checks) != of.checks || s.Met != s.Checks {
		return nil, fmt.Errorf("the run did not find what was declared: want %d checks that are met: %w", of.checks, describe(w.exp))
	}
	return r, nil
}

// ask asks for a run of the expectation, which is created if there is none.
func (b *bench) ask(ctx context.Context, of work, request string) error {
	exp := &v1alpha1.ConnectivityExpectation{}
	err := b.bed.Client.Get(ctx, key, exp)
	switch {
	case apierrors.IsNotFound(err):
		exp = of.expectation()
		exp.Annotations = map[string]string{v1alpha1.RequestedAtAnnotation: request}
		err = b.bed.Client.Create(ctx, exp)
	case err == nil:
		base := exp.DeepCopy()
		metav1.SetMetaDataAnnotation(&exp.ObjectMeta, v1alpha1.RequestedAtAnnotation, request)
		err = b.bed.Client.Patch(ctx, exp, client.MergeFrom(base))
	}
	if err != nil {
		return fmt.Errorf("asking for a run: %w", err)
	}
	return nil
}

// describe says what an expectation is like.
func describe(exp *v1alpha1.ConnectivityExpectation) error {
	if exp == nil {
		return errors.New("the expectation was never seen")
	}
	text := fmt.Sprintf("Ready is %s %s: %s", testbed.Ready(exp).Status, testbed.Ready(exp).Reason, testbed.Ready(exp).Message)
	if s := exp.Status.Summary; s != nil {
		text += fmt.Sprintf("; %+v", *s)
	}
	for _, f := range slices.Clip(exp.Status.Findings)[:min(3, len(exp.Status.Findings))] {
		text += fmt.Sprintf("; %s: %s", f.Cause, f.Message)
	}
	return errors.New(text)
}
