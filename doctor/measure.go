package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/diagnosis"
	"github.com/pathproof/pathproof/podlog"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/probepod"
)

// delivery is how long a plan, and the report on it, may be under way in a round.
const delivery = 30 * time.Second

// mailbox holds the reports that have come, by the ID of their plan.
type mailbox struct {
	mu      sync.Mutex
	reports map[string]*canary.Report
	// arrived tells that there is one more.
	arrived chan struct{}
}

func newMailbox() *mailbox {
	return &mailbox{reports: map[string]*canary.Report{}, arrived: make(chan struct{}, 1)}
}

func (m *mailbox) take(_ context.Context, _ types.UID, message wire.Message) {
	if message.Report == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reports[message.Report.ID] = canary.NewReport(message.Report)
	select {
	case m.arrived <- struct{}{}:
	default: // somebody is about to look anyway
	}
}

// of returns the reports of a node's pods on a round that have come.
func (m *mailbox) of(r *canary.Round) map[canary.Role]*canary.Report {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[canary.Role]*canary.Report{}
	for role, p := range r.Pods {
		if report := m.reports[p.Plan.ID]; report != nil {
			out[role] = report
		}
	}
	return out
}

// measure makes rounds until they settle what there is to be found out.
func (d *Doctor) measure(ctx context.Context, s *state, f *diagnosis.Findings) error {
	d.mailbox = newMailbox()
	following, stop := context.WithCancel(ctx)
	follower := podlog.New(d.Clock, d.Logs, d.mailbox.take)
	follower.Lifetime = func() context.Context { return following }
	defer stop()
	defer follower.UnfollowAll()
	var rounds []diagnosis.Results
	for again := true; again; {
		d.Progress(fmt.Sprintf("measuring: round %d", len(rounds)+1))
		results, err := d.round(ctx, s, follower, len(rounds)+1)
		var o *obstacleError
		if errors.As(err, &o) {
			// What has come up may have been there before.
			f.Results, f.Rounds = nil, 0
			return err
		}
		if err != nil && len(rounds) == 0 {
			return err
		}
		if err != nil {
			// Of what takes two rounds to say, only one was made.
			f.Notes = append(f.Notes, fmt.Sprintf("Round %d was not completed (%v): the results are those of the rounds before.", len(rounds)+1, err))
			var notes []string
			f.Results, notes, _ = diagnosis.Weigh(rounds, true)
			f.Notes = append(f.Notes, notes...)
			return nil
		}
		rounds = append(rounds, results)
		var notes []string
		f.Results, notes, again = diagnosis.Weigh(rounds, false)
		f.Rounds = len(rounds)
		if !again {
			f.Notes = append(f.Notes, notes...)
		}
	}
	return nil
}

// round makes one round on all nodes that take part.
func (d *Doctor) round(ctx context.Context, s *state, follower *podlog.Follower, number int) (diagnosis.Results, error) {
	before, err := d.listPods(ctx, s)
	if err != nil {
		return nil, err
	}
	if err := d.checkPolicies(ctx, s); err != nil {
		return nil, err
	}
	rounds := map[string]*canary.Round{}
	for _, node := range slices.Sorted(maps.Keys(s.ring)) {
		if s.waiting[node] != "" {
			continue
		}
		targets := slices.DeleteFunc(slices.Clone(s.ring[node]), func(to string) bool { return s.waiting[to] != "" })
		rounds[node] = canary.NewRound(s.rows, s.pods, node, targets, frame(s.warmUp), d.Run, strconv.Itoa(number))
	}
	for _, r := range rounds {
		for _, p := range r.Pods {
			follower.Follow(p.Pod, time.Minute)
		}
	}
	if err := d.handOut(ctx, rounds); err != nil {
		return nil, err
	}
	if err := d.awaitReports(ctx, rounds, s.warmUp); err != nil {
		return nil, err
	}
	after, err := d.listPods(ctx, s)
	if err != nil {
		return nil, err
	}
	if err := d.checkPolicies(ctx, s); err != nil {
		return nil, err
	}
	return d.judge(s, follower, rounds, before, after), nil
}

func frame(warmUp time.Duration) wire.Plan {
	return wire.Plan{
		Version: wire.Version, Attempts: canary.Attempts, WarmUpMilliseconds: int(warmUp.Milliseconds()),
		SettleMilliseconds: int(canary.Settle.Milliseconds()), TimeoutMilliseconds: int(canary.Timeout.Milliseconds()),
	}
}

// handOut writes the plans into the annotations of their pods.
func (d *Doctor) handOut(ctx context.Context, rounds map[string]*canary.Round) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4 * atOnce) // the pods of a node are to begin together
	for _, r := range rounds {
		for _, p := range r.Pods {
			group.Go(func() error {
				if err := d.annotate(ctx, p.Pod, map[string]string{wire.PlanKeyPrefix + d.Run: probepod.EncodedPlan(p.Plan)}); err != nil {
					return fmt.Errorf("giving pod %s its plan: %w", p.Pod.Name, err)
				}
				return nil
			})
		}
	}
	return group.Wait()
}

// awaitReports waits until all pods have reported, or have had the time to. Kubelets of those
// that are late are made to look at them again: they may have lost the plan.
func (d *Doctor) awaitReports(ctx context.Context, rounds map[string]*canary.Round, warmUp time.Duration) error {
	limit, overdue := d.Clock.After(canary.Bound+delivery), d.Clock.After(warmUp+canary.Overdue)
	for {
		var missing []*corev1.Pod
		for _, r := range rounds {
			reports := d.mailbox.of(r)
			for role, p := range r.Pods {
				if reports[role] == nil {
					missing = append(missing, p.Pod)
				}
			}
		}
		if len(missing) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %d reports: %w", len(missing), ctx.Err())
		case <-limit:
			return nil
		case <-overdue:
			d.nudge(ctx, missing)
		case <-d.mailbox.arrived:
		}
	}
}

// nudge makes kubelets look at pods again. Where that fails, the pod has gone, or its report
// stays away, and the round says so.
func (d *Doctor) nudge(ctx context.Context, pods []*corev1.Pod) {
	var group errgroup.Group
	group.SetLimit(4 * atOnce)
	for _, pod := range pods {
		group.Go(func() error { return d.annotate(ctx, pod, probepod.Nudge(d.Clock.Now())) })
	}
	_ = group.Wait()
}

// annotate changes annotations of a pod.
func (d *Doctor) annotate(ctx context.Context, pod *corev1.Pod, annotations map[string]string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID, "annotations": annotations}})
	if err != nil {
		return fmt.Errorf("building patch of pod %s: %w", pod.Name, err)
	}
	_, err = d.Clients.Core.Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return err
}

// judge makes the results of a round. A guarded pod counts as listening if the kubelet saw
// that before the round and after it.
func (d *Doctor) judge(s *state, follower *podlog.Follower, rounds map[string]*canary.Round, before, after canary.Pods) diagnosis.Results {
	listening := func(node string) bool {
		a, b := before[node][canary.Guarded], after[node][canary.Guarded]
		return a != nil && b != nil && a.UID == b.UID && canary.Listening(a) && canary.Listening(b)
	}
	type pair struct{ from, to string }
	pairs := map[pair]map[canary.Name]canary.Result{}
	why := maps.Clone(s.waiting)
	for node, r := range rounds {
		reports := d.mailbox.of(r)
		if text := unfinished(follower, r, reports, after[node]); text != "" {
			why[node] = text
			continue
		}
		for to, rows := range r.Judge(s.rows, reports, listening) {
			pairs[pair{node, to}] = rows
		}
	}
	out := diagnosis.Results{}
	for node := range s.ring {
		out[node] = map[canary.Name]canary.Result{}
		for _, row := range s.rows {
			out[node][row.Name()] = canary.NodeResult(node, row.Name(), s.ring, s.sources, func(from, to string) canary.Result {
				if rows, ok := pairs[pair{from, to}]; ok {
					return rows[row.Name()]
				}
				for _, n := range []string{from, to} {
					if why[n] != "" {
						return canary.Result{Verdict: canary.Unknown, Message: fmt.Sprintf("node %s does not take part: %s", n, why[n])}
					}
				}
				return canary.Result{Verdict: canary.Unknown, Message: "it was not measured"}
			})
		}
	}
	return out
}

// unfinished says why what the pods of a node found is not known; empty if it is. A pod that
// is another one after the round, or has ended, was no witness of all of it.
func unfinished(follower *podlog.Follower, r *canary.Round, reports map[canary.Role]*canary.Report, after map[canary.Role]*corev1.Pod) string {
	for _, role := range canary.Roles() {
		p := r.Pods[role]
		if p == nil {
			continue
		}
		switch now := after[role]; {
		case now == nil || now.UID != p.Pod.UID || now.DeletionTimestamp != nil || canary.Ended(now):
			return "its pod " + p.Pod.Name + " was deleted or has ended during the round"
		case reports[role] != nil:
		case follower.Failure(p.Pod.UID) != nil:
			return fmt.Sprintf("the report of its pod %s could not be read: %v", p.Pod.Name, follower.Failure(p.Pod.UID))
		default:
			return "its pod " + p.Pod.Name + " has not reported (its image has to be of the same release)"
		}
	}
	return ""
}
