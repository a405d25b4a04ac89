package controllers

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
)

// maxOffenders is the bound of the API.
const maxOffenders = 20

// leftOutUnknown is the reason of nodes of which something could not be found out.
const leftOutUnknown = "Unknown"

func sortedKeys[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

// canaryFindings are what is known of all nodes.
type canaryFindings struct {
	// nodes has the result of each row of each node that takes part.
	nodes map[string]map[canary.Name]canary.Result
	// oldest and newest are the times of the results; zero without any.
	oldest, newest time.Time
	// handled is set if every pair that is measured has a result for the request.
	handled bool
}

// find makes the results of pairs those of nodes. An ingress row is about the node that is
// probed, an egress row about the one that probes.
func (s *canaryScope) find(r *CanaryReconciler) canaryFindings {
	f := canaryFindings{nodes: map[string]map[canary.Name]canary.Result{}}
	limit := s.stale()
	fresh := map[nodePair]pairResult{}
	for pair, res := range s.state.results {
		age, known := ageAt(s.now, res.at)
		if !known || age >= limit {
			continue
		}
		fresh[pair] = res
		s.again(limit - age)
		if f.oldest.IsZero() || res.at.Before(f.oldest) {
			f.oldest = res.at
		}
		if res.at.After(f.newest) {
			f.newest = res.at
		}
	}
	f.handled = len(fresh) > 0 && len(s.rounds) > 0
	for _, res := range fresh {
		// One of a node that waits just now counts, and is older.
		f.handled = f.handled && res.request == s.request
	}
	for from, round := range s.rounds {
		for _, to := range round.Targets {
			_, ok := fresh[nodePair{from, to}]
			f.handled = f.handled && ok
		}
	}
	of := func(pair nodePair, row canary.Name) canary.Result {
		if res, ok := fresh[pair]; ok {
			if result, ok := res.rows[row]; ok {
				return result
			}
		}
		return canary.Result{Verdict: canary.Unknown, Message: s.missing(r, pair)}
	}
	common := s.common()
	for node := range s.ring {
		f.nodes[node] = recall(s.state.memo.found, node, s.foundRestsOn(common, node, fresh), func() map[canary.Name]canary.Result {
			return s.findNode(node, of)
		})
	}
	return f
}

// findNode makes the results of pairs those of a node.
func (s *canaryScope) findNode(node string, of func(nodePair, canary.Name) canary.Result) map[canary.Name]canary.Result {
	out := map[canary.Name]canary.Result{}
	for _, row := range s.rows {
		if row.Untestable != "" {
			out[row.Name()] = canary.Result{Verdict: canary.Unsupported, Message: row.Untestable}
			continue
		}
		out[row.Name()] = canary.NodeResult(node, row.Name(), s.ring, s.sources, func(from, to string) canary.Result {
			return of(nodePair{from, to}, row.Name())
		})
	}
	return out
}

// missing says why there is no result of a pair.
func (s *canaryScope) missing(r *CanaryReconciler, pair nodePair) string {
	for _, node := range []string{pair.from, pair.to} {
		if why := s.waiting[node]; why != "" {
			return fmt.Sprintf("node %s does not take part: %s", node, why)
		}
	}
	if round := s.rounds[pair.from]; round != nil {
		for _, p := range round.Pods {
			if err := r.logs.Failure(p.Pod.UID); apierrors.IsForbidden(err) {
				return fmt.Sprintf("the operator may not read the reports, which takes the permission to get pods/log: %v", err)
			} else if err != nil {
				return fmt.Sprintf("the report of pod %s cannot be read: %v", p.Pod.Name, err)
			}
		}
	}
	return fmt.Sprintf("there is no new report of the pods on node %s to those on node %s", pair.from, pair.to)
}

// set writes the conditions Enforced and Complete, and Ready, which is the worse of them.
func (s *canaryScope) set(enforced, complete metav1.Condition) {
	ready := enforced
	if ready.Status == metav1.ConditionTrue {
		ready = complete
	}
	enforced.Type, complete.Type, ready.Type = v1alpha1.ConditionEnforced, v1alpha1.ConditionComplete, v1alpha1.ConditionReady
	for _, c := range []metav1.Condition{enforced, complete, ready} {
		c.Message = truncate(c.Message, maxConditionMessage)
		c.ObservedGeneration, c.LastTransitionTime = s.canary.Generation, metav1.Time{Time: s.now}
		meta.SetStatusCondition(&s.canary.Status.Conditions, c)
	}
	s.canary.Status.ObservedGeneration = s.canary.Generation
}

func unknown(reason, message string) metav1.Condition {
	return metav1.Condition{Status: metav1.ConditionUnknown, Reason: reason, Message: message}
}

// starting says what the canary waits for, unless it has a result to show that still counts.
func (s *canaryScope) starting(message string) {
	last := s.canary.Status.LastRound
	if last == nil {
		c := unknown(v1alpha1.ReasonCanaryStarting, message)
		s.set(c, c)
		return
	}
	newest := last.FinishedAt.Time
	for _, res := range s.state.results {
		if res.at.After(newest) {
			newest = res.at
		}
	}
	if age, known := ageAt(s.now, newest); known && age < s.stale() {
		s.again(s.stale() - age)
		return
	}
	c := unknown(v1alpha1.ReasonCanaryIncomplete, "nothing is measured: "+message)
	complete := c
	complete.Status = metav1.ConditionFalse
	s.set(c, complete)
}

// refuse says that the canary cannot have its namespaces.
func (s *canaryScope) refuse(message string) {
	s.canary.Status = v1alpha1.EnforcementCanaryStatus{Conditions: s.canary.Status.Conditions}
	c := unknown(v1alpha1.ReasonCanaryNamespaceRefused, message)
	complete := c
	complete.Status = metav1.ConditionFalse
	s.set(c, complete)
}

// summarize writes what is known of the nodes into the status.
func (s *canaryScope) summarize(f canaryFindings) {
	st := &s.canary.Status
	st.Nodes = &v1alpha1.CanaryNodes{Selected: int32(len(s.selected)), LeftOut: s.countLeftOut(f)}
	left := 0
	var unfound *v1alpha1.NodesLeftOut
	for i, l := range st.Nodes.LeftOut {
		left += int(l.Count)
		if l.Reason == leftOutUnknown {
			unfound = &st.Nodes.LeftOut[i]
		}
	}
	st.Nodes.Covered = int32(len(s.selected) - left)
	st.Features = s.countFeatures(f)
	offenders, total := s.offenders(f)
	st.Offenders = offenders
	if !f.newest.IsZero() {
		st.LastRound = &v1alpha1.CanaryRound{StartedAt: metav1.Time{Time: f.oldest}, FinishedAt: metav1.Time{Time: f.newest}}
	}
	if f.handled {
		st.LastHandledRequest = s.request
	}
	enforced := metav1.Condition{Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonCanaryEnforced, Message: "every covered node does what the policies say"}
	complete := metav1.Condition{Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonCanaryComplete, Message: fmt.Sprintf("%d of %d nodes are covered%s", st.Nodes.Covered, st.Nodes.Selected, s.untested())}
	switch {
	case len(s.ring) == 0:
		enforced = unknown(v1alpha1.ReasonNoNodes, "there is no node to cover: see status.nodes")
		complete = enforced
		complete.Status = metav1.ConditionFalse
	case st.LastRound == nil && unfound != nil:
		enforced = unknown(v1alpha1.ReasonCanaryStarting, "no node has reported: "+unfound.Message)
		complete = enforced
	case !f.testable():
		// That nothing can be tested is no proof, and more than nothing to say.
		enforced = unknown(v1alpha1.ReasonCanaryIncomplete, "nothing was shown to be enforced: no node supports what is tested, see status.features")
		complete = enforced
		complete.Status = metav1.ConditionFalse
	case unfound != nil:
		complete.Status, complete.Reason = metav1.ConditionFalse, v1alpha1.ReasonCanaryIncomplete
		complete.Message = fmt.Sprintf("%d of %d nodes are covered; of %d more, not all could be found out, as of %s: %s",
			st.Nodes.Covered, st.Nodes.Selected, unfound.Count, unfound.First, unfound.Message)
		enforced = unknown(v1alpha1.ReasonCanaryIncomplete, complete.Message)
	}
	if total > 0 {
		o := offenders[0]
		enforced = metav1.Condition{Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonCanaryNotEnforced, Message: fmt.Sprintf(
			"%d rows are not enforced, the first: %s %s on node %s: %s", total, o.Feature, o.Direction, o.Node, o.Message)}
	}
	s.set(enforced, complete)
	if complete.Status == metav1.ConditionTrue {
		st.LastCompleteAt = &st.LastRound.FinishedAt
	}
}

// testable tells whether any node supports any row.
func (f *canaryFindings) testable() bool {
	for _, rows := range f.nodes {
		for _, res := range rows {
			if res.Verdict != canary.Unsupported {
				return true
			}
		}
	}
	return false
}

// countLeftOut counts the nodes that are not covered, by reason.
func (s *canaryScope) countLeftOut(f canaryFindings) []v1alpha1.NodesLeftOut {
	by := map[string]*v1alpha1.NodesLeftOut{}
	note := func(node, reason, message string) {
		if by[reason] == nil {
			by[reason] = &v1alpha1.NodesLeftOut{Reason: reason, First: node, Message: truncate(message, maxText)}
		}
		by[reason].Count++
	}
	for _, node := range s.selected {
		if left, ok := s.leftOut[node]; ok {
			note(node, left.reason, left.message)
			continue
		}
		for _, row := range s.rows {
			if res := f.nodes[node][row.Name()]; res.Verdict == canary.Unknown {
				note(node, leftOutUnknown, fmt.Sprintf("%s %s: %s", row.Feature, row.Direction, res.Message))
				break
			}
		}
	}
	var out []v1alpha1.NodesLeftOut
	for _, reason := range sortedKeys(by) {
		out = append(out, *by[reason])
	}
	return out
}

func (s *canaryScope) countFeatures(f canaryFindings) []v1alpha1.FeatureStatus {
	var out []v1alpha1.FeatureStatus
	for _, feature := range s.features {
		st := v1alpha1.FeatureStatus{Feature: feature}
		for _, rows := range f.nodes {
			in, eg := rows[canary.Name{Feature: feature, Direction: v1alpha1.DirectionIngress}], rows[canary.Name{Feature: feature, Direction: v1alpha1.DirectionEgress}]
			switch canary.Worse(in.Verdict, eg.Verdict) {
			case canary.Enforced:
				st.Enforced++
			case canary.NotEnforced:
				st.NotEnforced++
			case canary.Unsupported:
				st.Unsupported++
			case canary.Unknown:
				st.Unknown++
			}
		}
		out = append(out, st)
	}
	return out
}

// offenders lists the rows that are not enforced, the first maxOffenders of them, and
// counts all. Each has the time at which it was first seen.
func (s *canaryScope) offenders(f canaryFindings) (listed []v1alpha1.Offender, total int) {
	for _, node := range sortedKeys(f.nodes) {
		for _, row := range s.rows {
			res := f.nodes[node][row.Name()]
			if res.Verdict != canary.NotEnforced {
				continue
			}
			if total++; total > maxOffenders {
				continue
			}
			listed = append(listed, v1alpha1.Offender{
				Node: node, Direction: row.Direction, Feature: row.Feature, Message: truncate(res.Message, maxText),
				Since: metav1.Time{Time: s.state.violated[rowOf{node, row.Name()}].since},
			})
		}
	}
	slices.SortStableFunc(listed, func(a, b v1alpha1.Offender) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Direction, b.Direction))
	})
	return listed, total
}

// publish writes the status if it differs from what was read, and tells what has changed.
func (r *CanaryReconciler) publish(ctx context.Context, s *canaryScope) error {
	switch {
	case s.rounds == nil:
	case s.catchingUp():
		// An alert must not end because the operator began anew.
		r.metrics.Observe(s)
	default:
		f := s.find(r)
		s.follow(f)
		s.summarize(f)
		r.metrics.Observe(s)
	}
	st := &s.canary.Status
	if old := s.before.Status; !s.worthWriting(old) {
		s.state.status = &old
		r.emit(s) // what had to wait
		return nil
	}
	written := st.DeepCopy()
	patch := client.MergeFromWithOptions(s.before, client.MergeFromWithOptimisticLock{})
	if err := r.client.Status().Patch(ctx, s.canary, patch); err != nil {
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			// The cache does not show our own last write yet, or the canary is gone.
			s.again(canaryRetry)
			return nil
		}
		return fmt.Errorf("writing status of the canary: %w", err)
	}
	s.state.status = written
	r.emit(s)
	return nil
}

// stale is the age at which results stop to count.
func (s *canaryScope) stale() time.Duration {
	return time.Duration(float64(canaryInterval(s.canary)) * staleIntervals)
}

// catchingUp tells whether an operator that has just started still reads what its
// predecessor knew: until then, the status stays as that has left it.
func (s *canaryScope) catchingUp() bool {
	last := s.before.Status.LastRound
	if last == nil || s.before.Status.Nodes == nil || s.before.Status.ObservedGeneration != s.canary.Generation || s.now.Sub(s.state.since) > canaryInterval(s.canary)+2*canary.Bound {
		return false
	}
	if age, known := ageAt(s.now, last.FinishedAt.Time); !known || age >= s.stale() {
		// What the predecessor knew would not count any more for itself.
		return false
	}
	for node := range s.ring {
		if s.state.judged[node] == "" {
			s.again(canaryRetry)
			return true
		}
	}
	return false
}

// worthWriting tells whether the status says something new. The times of the last round
// are new all the time: they are written once in an interval.
func (s *canaryScope) worthWriting(old v1alpha1.EnforcementCanaryStatus) bool {
	without := func(st v1alpha1.EnforcementCanaryStatus) v1alpha1.EnforcementCanaryStatus {
		c := st.DeepCopy()
		c.LastRound, c.LastCompleteAt = nil, nil
		// Messages tell of attempts, which differ from round to round.
		for i := range c.Conditions {
			c.Conditions[i].Message = ""
		}
		for i := range c.Offenders {
			c.Offenders[i].Message, c.Offenders[i].Since = "", metav1.Time{}
		}
		if c.Nodes != nil {
			for i := range c.Nodes.LeftOut {
				c.Nodes.LeftOut[i].Message = ""
			}
		}
		for i := range c.Conditions {
			c.Conditions[i].LastTransitionTime = metav1.Time{}
		}
		return *c
	}
	st := s.canary.Status
	if !equality.Semantic.DeepEqual(without(st), without(old)) || (st.LastRound == nil) != (old.LastRound == nil) {
		return true
	}
	return st.LastRound != nil && st.LastRound.FinishedAt.Sub(old.LastRound.FinishedAt.Time) >= canaryInterval(s.canary)
}

// emit tells of a transition of Ready.
func (r *CanaryReconciler) emit(s *canaryScope) {
	after := meta.FindStatusCondition(s.canary.Status.Conditions, v1alpha1.ConditionReady)
	if after == nil || after.Reason == v1alpha1.ReasonCanaryStarting {
		return
	}
	ready, t := readyState{status: after.Status, reason: after.Reason}, &s.state.teller
	if t.told == (readyState{}) {
		if b := meta.FindStatusCondition(s.before.Status.Conditions, v1alpha1.ConditionReady); b != nil {
			t.told = readyState{status: b.Status, reason: b.Reason}
			t.seen = t.told
		}
	}
	tell, again := t.next(s.now, ready)
	if again > 0 {
		s.again(again)
	}
	if !tell {
		return
	}
	kind := corev1.EventTypeWarning
	if after.Status == metav1.ConditionTrue {
		kind = corev1.EventTypeNormal
	}
	r.recorder.Eventf(s.canary, nil, kind, after.Reason, "Probe", "%s", t.note(s.now, ready, after.Message))
}
