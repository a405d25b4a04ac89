// Package podlog reads what probe pods report: messages in their logs, which the
// kubelet hands out through the API server, so that no policy is in the way.
package podlog

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/probepod"
)

// Backlog is how far back a log is read that is opened again: what is read twice does no
// harm.
const Backlog = 30 * time.Second

// reopen is when a log that ended, or that cannot be read, is opened again.
var reopen = wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Steps: 100, Cap: 10 * time.Second}

// Reader opens the log of a pod's container and follows it until the pod ends, the
// context does, or the connection breaks. It begins with what was logged since a time.
type Reader func(ctx context.Context, pod types.NamespacedName, container string, since time.Time) (io.ReadCloser, error)

// NewReader reads logs through the API server.
func NewReader(config *rest.Config) (Reader, error) {
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

// Follower reads the messages in the logs of probe pods. Each log is followed by one
// goroutine.
type Follower struct {
	clock clock.WithTicker
	logs  Reader
	// Lifetime returns the context in which logs are read. It is set before the first.
	Lifetime func() context.Context
	// take is called for every message, several times at once for different pods.
	take func(ctx context.Context, pod types.UID, m wire.Message)

	podsMu sync.Mutex
	// pods are those whose logs are followed.
	pods map[types.UID]*followed
}

// followed is a pod whose log is followed.
type followed struct {
	stop context.CancelFunc
	uid  types.UID
	// failed is why the log cannot be read; nil while it can.
	failed error
}

// New returns a follower that hands every message to take. Its Lifetime is still to be set.
func New(c clock.WithTicker, logs Reader, take func(context.Context, types.UID, wire.Message)) *Follower {
	return &Follower{clock: c, logs: logs, take: take, pods: map[types.UID]*followed{}}
}

// Follow reads the log of a pod that runs, if that is not done yet, from a time before now.
func (r *Follower) Follow(pod *corev1.Pod, backlog time.Duration) {
	r.podsMu.Lock()
	defer r.podsMu.Unlock()
	if r.pods[pod.UID] != nil {
		return
	}
	key, uid, since := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}, pod.UID, r.clock.Now().Add(-backlog)
	ctx, cancel := context.WithCancel(r.Lifetime())
	f := &followed{stop: cancel, uid: uid}
	r.pods[uid] = f
	go func() {
		defer cancel()
		r.readOn(ctx, key, f, since)
		r.podsMu.Lock()
		defer r.podsMu.Unlock()
		if r.pods[uid] == f {
			delete(r.pods, uid)
		}
	}()
}

// Failure returns why the log of a pod cannot be read; nil if it can.
func (r *Follower) Failure(pod types.UID) error {
	r.podsMu.Lock()
	defer r.podsMu.Unlock()
	if f := r.pods[pod]; f != nil {
		return f.failed
	}
	return nil
}

// Unfollow ends with the log of a pod.
func (r *Follower) Unfollow(pod types.UID) {
	r.podsMu.Lock()
	defer r.podsMu.Unlock()
	if f := r.pods[pod]; f != nil {
		f.stop()
		delete(r.pods, pod)
	}
}

// UnfollowAll ends with all logs.
func (r *Follower) UnfollowAll() {
	r.podsMu.Lock()
	defer r.podsMu.Unlock()
	for uid, f := range r.pods {
		f.stop()
		delete(r.pods, uid)
	}
}

// readOn reads the log of a pod, again and again, until the pod is gone.
func (r *Follower) readOn(ctx context.Context, pod types.NamespacedName, f *followed, since time.Time) {
	retry := reopen
	for {
		opened, err := r.readLog(ctx, pod, f, since)
		if ctx.Err() != nil || apierrors.IsNotFound(err) {
			return
		}
		if opened {
			retry, since = reopen, r.clock.Now().Add(-Backlog)
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
func (r *Follower) readLog(ctx context.Context, pod types.NamespacedName, f *followed, since time.Time) (opened bool, err error) {
	log, err := r.logs(ctx, pod, probepod.ContainerName, since)
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
			klog.FromContext(ctx).Info("Leaving out a line of a probe pod's log", "pod", pod, "reason", err.Error())
			continue
		}
		r.take(ctx, f.uid, m)
	}
	return true, lines.Err()
}

func (r *Follower) noteFailure(f *followed, err error) {
	r.podsMu.Lock()
	defer r.podsMu.Unlock()
	f.failed = err
}
