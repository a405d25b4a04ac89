package controllers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/probepod"
)

// keptReports is the number of reports that are kept of a pod: the four pods of a node do
// not report in the same moment.
const keptReports = 3

// canaryReports keeps what the pods of the canary have reported.
type canaryReports struct {
	clock   clock.PassiveClock
	changed chan event.GenericEvent

	mu sync.Mutex
	// pods holds the last reports of each pod, the oldest first.
	pods map[types.UID][]canaryReport
	// fresh are the pods of which there is a report that was not looked at yet.
	fresh map[types.UID]bool
}

type canaryReport struct {
	*canary.Report
	plan string
	turn int64
	// at is when it was received.
	at time.Time
}

func newCanaryReports(c clock.PassiveClock) *canaryReports {
	return &canaryReports{clock: c, changed: make(chan event.GenericEvent, 64), pods: map[types.UID][]canaryReport{}, fresh: map[types.UID]bool{}}
}

// take keeps a report and wakes the canary.
func (r *canaryReports) take(ctx context.Context, pod types.UID, m wire.Message) {
	if m.Report == nil || !r.keep(pod, m.Report) {
		return
	}
	select {
	case r.changed <- event.GenericEvent{Object: &v1alpha1.EnforcementCanary{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.CanaryName}}}:
	case <-ctx.Done():
	}
}

// keep tells whether a report is new: a log may be read twice.
func (r *canaryReports) keep(pod types.UID, report *wire.Report) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := r.pods[pod]
	if slices.ContainsFunc(kept, func(k canaryReport) bool { return k.plan == report.ID && k.turn == report.Turn }) {
		return false
	}
	kept = append(kept, canaryReport{canary.NewReport(report), report.ID, report.Turn, r.clock.Now()})
	r.pods[pod] = kept[max(0, len(kept)-keptReports):]
	r.fresh[pod] = true
	return true
}

// of returns the reports of a pod on a plan, by their turn.
func (r *canaryReports) of(pod types.UID, plan string) map[int64]canaryReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[int64]canaryReport{}
	for _, k := range r.pods[pod] {
		if k.plan == plan {
			out[k.turn] = k
		}
	}
	return out
}

// takeFresh tells whether there are new reports of a pod since it was last called for it.
func (r *canaryReports) takeFresh(pod types.UID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	fresh := r.fresh[pod]
	delete(r.fresh, pod)
	return fresh
}

func (r *canaryReports) drop(pod types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pods, pod)
	delete(r.fresh, pod)
}

func (r *canaryReports) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.pods)
	clear(r.fresh)
}

// nodePair is a node that probes and one that is probed.
type nodePair struct{ from, to string }

// pairResult is what the last round between two nodes has shown.
type pairResult struct {
	// serial tells it from all others.
	serial  uint64
	at      time.Time
	request string
	rows    map[canary.Name]canary.Result
}

// arm gives the pods of the nodes that take part their plans, and follows their logs. A plan
// is named by all that its result depends on: other pods, addresses or policies make another
// one, and what was reported on the one before is not looked at any more.
func (r *CanaryReconciler) arm(ctx context.Context, s *canaryScope) (bool, error) {
	s.rounds = map[string]*canary.Round{}
	r.ways.cover(s.ring, s.waiting)
	if r.ways.begin(s.now) {
		s.again(canaryRetry)
	}
	writes, common := 0, s.common()
	for _, node := range sortedKeys(s.ring) {
		if s.waiting[node] != "" {
			continue
		}
		asked := r.ways.round(node)
		round := recall(s.state.memo.rounds, node, s.planRestsOn(common, node, asked), func() *canary.Round { return s.plan(node, asked) })
		s.rounds[node] = round
		for _, role := range canary.Roles() {
			p := round.Pods[role]
			if p == nil {
				continue
			}
			r.logs.Follow(p.Pod, canaryInterval(s.canary)+canary.Bound)
			give := r.handOut
			if p.Pod.Annotations[canaryPlanAnnotation] == p.Plan.ID || s.state.armed[p.Pod.UID] == p.Plan.ID {
				if !r.overdue(s, p) {
					continue
				}
				give = r.nudge
			}
			if writes++; writes > canaryBurst {
				s.again(canaryRetry)
				continue
			}
			if err := give(ctx, s, p); err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

// plan makes the plans of a node's pods, to those of its targets that take part. A round
// that was asked for is on a plan of its own.
func (s *canaryScope) plan(node string, asked time.Time) *canary.Round {
	var targets []string
	depends := []string{string(s.canary.UID), s.request, s.policies[""], s.policies[node]}
	if !asked.IsZero() {
		depends = append(depends, fmt.Sprint("asked", asked.UnixNano()))
	}
	for _, to := range s.ring[node] {
		if s.waiting[to] == "" {
			targets = append(targets, to)
			depends = append(depends, s.policies[to])
		}
	}
	return canary.NewRound(s.rows, s.pods, node, targets, s.frame(node), depends...)
}

// awaitedPlan is a plan on which a pod is to report.
type awaitedPlan struct {
	id string
	// due is when the report is overdue.
	due time.Time
	// settled tells that the pod has reported, or was nudged. That once is enough: what
	// nobody can hear would be nudged for ever, and a kubelet looks by itself at last.
	settled bool
}

// overdue tells whether to nudge a pod: it has a plan, and should have reported on it by now.
// If that is still to come, it asks for a reconcile then.
func (r *CanaryReconciler) overdue(s *canaryScope, p *canary.ArmedPod) bool {
	awaited := s.state.awaited[p.Pod.UID]
	if awaited == nil || awaited.id != p.Plan.ID {
		awaited = &awaitedPlan{id: p.Plan.ID, due: s.now.Add(s.options.WarmUp + canary.Overdue)}
		if s.state.armed[p.Pod.UID] != p.Plan.ID {
			// It got the plan from an operator before this one, most likely long ago. To read
			// the logs of many pods takes a while.
			awaited.due = awaited.due.Add(canaryInterval(s.canary))
		}
		s.state.awaited[p.Pod.UID] = awaited
	}
	if awaited.settled {
		return false
	}
	if awaited.settled = len(r.reports.of(p.Pod.UID, p.Plan.ID)) > 0; awaited.settled {
		return false
	}
	if s.now.Before(awaited.due) {
		s.again(awaited.due.Sub(s.now))
		return false
	}
	return true
}

// nudge makes the kubelet look at a pod again, which may have lost its plan.
func (r *CanaryReconciler) nudge(ctx context.Context, s *canaryScope, p *canary.ArmedPod) error {
	if err := r.annotate(ctx, s, p, probepod.Nudge(s.now)); err != nil {
		return err
	}
	s.state.awaited[p.Pod.UID].settled = true
	return nil
}

// handOut writes a plan into the annotations of its pod.
func (r *CanaryReconciler) handOut(ctx context.Context, s *canaryScope, p *canary.ArmedPod) error {
	return r.annotate(ctx, s, p, map[string]string{
		wire.PlanKeyPrefix + string(s.canary.UID): probepod.EncodedPlan(p.Plan), canaryPlanAnnotation: p.Plan.ID,
	})
}

// annotate changes annotations of a pod, which has its plan then.
func (r *CanaryReconciler) annotate(ctx context.Context, s *canaryScope, p *canary.ArmedPod, annotations map[string]string) error {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Pod.Namespace, Name: p.Pod.Name, UID: p.Pod.UID}}
	err := patchMetadata(ctx, r.client, pod, map[string]any{"annotations": annotations})
	switch {
	case podGone(err), apierrors.IsConflict(err):
		// The pod has gone, or another one has its name: the cache will say so.
		s.again(canaryRetry)
	case err != nil:
		return fmt.Errorf("giving pod %s of the canary its plan: %w", client.ObjectKeyFromObject(p.Pod), err)
	default:
		s.state.armed[p.Pod.UID] = p.Plan.ID
	}
	return nil
}

// judge judges the rounds on which all pods of a node have reported.
func (r *CanaryReconciler) judge(_ context.Context, s *canaryScope) (bool, error) {
	live := map[types.UID]bool{}
	for node, round := range s.rounds {
		news := s.state.memo.judged[node] != round
		for _, p := range round.Pods {
			live[p.Pod.UID] = true
			news = r.reports.takeFresh(p.Pod.UID) || news
		}
		s.state.memo.judged[node] = round
		if !news {
			continue
		}
		reports, name := r.reported(round)
		if reports == nil || s.state.judged[node] == name {
			continue
		}
		s.state.judged[node] = name
		r.judgeRound(s, node, round, reports)
	}
	maps.DeleteFunc(s.state.armed, func(uid types.UID, _ string) bool { return !live[uid] })
	maps.DeleteFunc(s.state.awaited, func(uid types.UID, _ *awaitedPlan) bool { return !live[uid] })
	for pair := range s.state.results {
		if !slices.Contains(s.ring[pair.from], pair.to) {
			delete(s.state.results, pair)
		}
	}
	return false, nil
}

// reported returns the reports of the newest turn on which all pods of a node have
// reported, and what identifies it; nil if there is none.
func (r *CanaryReconciler) reported(round *canary.Round) (reports map[canary.Role]canaryReport, name string) {
	turns := map[int64]map[canary.Role]canaryReport{}
	var ids []string
	for _, role := range canary.Roles() {
		p := round.Pods[role]
		if p == nil {
			continue
		}
		ids = append(ids, p.Plan.ID)
		for turn, report := range r.reports.of(p.Pod.UID, p.Plan.ID) {
			if turns[turn] == nil {
				turns[turn] = map[canary.Role]canaryReport{}
			}
			turns[turn][role] = report
		}
	}
	newest := int64(-1)
	for turn, reports := range turns {
		if len(reports) == len(round.Pods) && turn > newest {
			newest = turn
		}
	}
	if newest < 0 {
		return nil, ""
	}
	return turns[newest], fmt.Sprintf("%s/%d", strings.Join(ids, ","), newest)
}

// judgeRound judges what the pods of a node have reported, target by target.
func (r *CanaryReconciler) judgeRound(s *canaryScope, node string, round *canary.Round, received map[canary.Role]canaryReport) {
	at, reports := time.Time{}, map[canary.Role]*canary.Report{}
	for role, report := range received {
		reports[role] = report.Report
		if report.at.After(at) {
			at = report.at
		}
	}
	if at.After(s.now) {
		// It came while this reconcile was under way. What is still to come would not count.
		at = s.now
	}
	listening := func(to string) bool { return canary.Listening(s.pods[to][canary.Guarded]) }
	pairs := round.Pairs(reports, listening)
	for to, pair := range pairs {
		s.state.serial++
		s.state.results[nodePair{node, to}] = pairResult{serial: s.state.serial, at: at, request: s.request, rows: canary.JudgeAll(s.rows, *pair)}
	}
	r.ways.note(node, r.ways.round(node), pairs)
}
