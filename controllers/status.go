package controllers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/verdict"
)

// Bounds of the API.
const (
	maxFindings = 20
	maxPolicies = 5
	maxText     = 512
	maxRequest  = 256
	// maxConditionMessage is far below what a condition may hold (32768), for the
	// sake of the people who read it in a terminal.
	maxConditionMessage = 1024
)

// writeRetry is when a status is written again that met a conflict.
const writeRetry = 20 * time.Millisecond

// conditionTypes are all conditions, in the order of the status.
var conditionTypes = []string{
	v1alpha1.ConditionReady, v1alpha1.ConditionPolicyAligned, v1alpha1.ConditionEnforced,
	v1alpha1.ConditionSatisfied, v1alpha1.ConditionPoliciesValid,
}

// suspend ends the run under way of a suspended expectation and goes no further.
func (r *ExpectationReconciler) suspend(ctx context.Context, s *scope) (bool, error) {
	if !s.exp.Spec.Suspend {
		return false, nil
	}
	if err := r.endRun(ctx, s); err != nil {
		return false, err
	}
	// What was measured before says nothing about the time of the suspension.
	s.track.last = lastRun{}
	s.exp.Status.ObservedGeneration = s.exp.Generation
	s.exp.Status.NextRunAt = nil
	for _, t := range conditionTypes {
		setCondition(s, t, metav1.ConditionUnknown, v1alpha1.ReasonSuspended, "spec.suspend is true: no path is probed")
	}
	return true, nil
}

// publish writes the status if it differs from what was read, and then tells what
// has changed through events and metrics.
func (r *ExpectationReconciler) publish(ctx context.Context, s *scope) error {
	if s.summary != nil {
		r.metrics.Observe(client.ObjectKeyFromObject(s.exp), *s.summary, s.verdicts, s.trigger, s.duration)
	}
	r.metrics.Note(s.exp)
	r.metrics.ProbePods.Set(float64(r.tracker.allInFlight()))
	s.track.status, s.track.unwritten = s.exp.Status.DeepCopy(), false
	// What would be written is compared, and not the objects: the API keeps times in
	// whole seconds, so that the objects always differ.
	if data, err := client.MergeFrom(s.before).Data(s.exp); err == nil && string(data) == "{}" {
		r.emit(s) // what had to wait
		r.tell(s)
		return nil
	}
	// The optimistic lock keeps an operator that lost its lease from overwriting
	// what its successor wrote.
	patch := client.MergeFromWithOptions(s.before, client.MergeFromWithOptimisticLock{})
	if err := r.client.Status().Patch(ctx, s.exp, patch); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		s.track.unwritten = true
		if apierrors.IsConflict(err) {
			// The cache does not show our own last write yet.
			s.again(writeRetry)
			return nil
		}
		return fmt.Errorf("writing status: %w", err)
	}
	r.emit(s)
	r.tell(s)
	return nil
}

// setResult writes the result of a run into the status.
func setResult(s *scope, r *run) {
	st := &s.exp.Status
	st.ObservedGeneration = r.generation
	st.Summary = &v1alpha1.Summary{
		Checks: int32(s.summary.Checks), Met: int32(s.summary.Met), Violated: int32(s.summary.Violated), Unknown: int32(s.summary.Unknown),
	}
	probes, all := r.podCount()
	st.Coverage = &v1alpha1.CoverageStatus{
		SourcesMatched: int32(r.sourcesMatched), SourcesProbed: probes, TargetsMatched: int32(r.targetsMatched), TargetsProbed: int32(r.targetsProbed),
	}
	setCoverage(st.Coverage, s.track, s.resolution.Extent)
	now := metav1.Time{Time: s.now}
	st.LastRun = &v1alpha1.Run{
		StartedAt: metav1.Time{Time: r.startedAt}, FinishedAt: now, Trigger: r.trigger, Provenance: r.provenance,
		ProbePods: all, SettledMilliseconds: r.settled(), CanaryEvidence: byCanary(s.verdicts),
	}
	if conclusive(s.verdicts) {
		st.LastConclusiveAt = &now
	}
	st.LastHandledRequest = r.request
	st.NextRunAt = nextRunAt(s)
	st.Findings = findings(s)
	st.Problems = problems(s)
	for t, side := range conditionSides(*s.summary) {
		setCondition(s, t, metav1.ConditionStatus(side.Status.String()), side.Reason, side.Message)
	}
	setPoliciesValid(s)
}

// conditionSides returns what each condition condenses.
func conditionSides(s verdict.Summary) map[string]verdict.Side {
	return map[string]verdict.Side{
		v1alpha1.ConditionReady: s.Ready, v1alpha1.ConditionPolicyAligned: s.Aligned,
		v1alpha1.ConditionEnforced: s.Enforced, v1alpha1.ConditionSatisfied: s.Satisfied,
	}
}

func conclusive(verdicts []verdict.Verdict) bool {
	for _, v := range verdicts {
		if v.Observed == verdict.Inconclusive {
			return false
		}
	}
	return len(verdicts) > 0
}

func setPoliciesValid(s *scope) {
	switch {
	case len(s.problems) > 0:
		setCondition(s, v1alpha1.ConditionPoliciesValid, metav1.ConditionFalse, v1alpha1.ReasonInvalidPolicy,
			fmt.Sprintf("%d problems, the first: %s", len(s.problems), s.problems[0])+assumedMessage(s.snapshot.Profile))
	case len(s.snapshot.Unmodelled) > 0:
		setCondition(s, v1alpha1.ConditionPoliciesValid, metav1.ConditionFalse, v1alpha1.ReasonUnmodelledPolicies,
			unmodelledMessage(s.snapshot.Unmodelled)+assumedMessage(s.snapshot.Profile))
	default:
		setCondition(s, v1alpha1.ConditionPoliciesValid, metav1.ConditionTrue, v1alpha1.ReasonAllPoliciesParsed,
			"every policy at both ends could be evaluated"+assumedMessage(s.snapshot.Profile))
	}
}

// assumedMessage says what predictions assume of the implementation; empty if that
// is nothing.
func assumedMessage(p evaluator.Profile) string {
	if p == (evaluator.Profile{}) {
		return ""
	}
	return "; assumed of the network implementation: " + p.String()
}

// unmodelledMessage counts policies that are not evaluated, by their kind.
func unmodelledMessage(list []evaluator.Unmodelled) string {
	counts := map[string]int{}
	for _, u := range list {
		counts[u.Kind]++
	}
	var kinds []string
	for _, kind := range slices.Sorted(maps.Keys(counts)) {
		kinds = append(kinds, fmt.Sprintf("%d of %s", counts[kind], kind))
	}
	return fmt.Sprintf("paths that policies of other kinds could decide are not predicted (%s); the operator's flag --ignore-policy-kinds says which kinds decide nothing",
		strings.Join(kinds, ", "))
}

// setPending takes back what an earlier configuration was found to be. Findings and
// counts stay until the run has ended: they are dated.
func setPending(s *scope, message string) {
	s.exp.Status.ObservedGeneration = s.exp.Generation
	if s.prior.LastRun == nil || s.prior.ObservedGeneration != s.exp.Generation {
		for _, t := range conditionTypes {
			setCondition(s, t, metav1.ConditionUnknown, v1alpha1.ReasonPending, message)
		}
		return
	}
	setCondition(s, v1alpha1.ConditionReady, metav1.ConditionUnknown, v1alpha1.ReasonPending, message)
}

// setWaiting says what an expectation without a fresh result waits for. Others go on to
// show the one that they have.
func setWaiting(s *scope, message string) {
	ready := meta.FindStatusCondition(s.exp.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil {
		return
	}
	switch ready.Reason {
	case v1alpha1.ReasonPending:
		setPending(s, message)
	case v1alpha1.ReasonStale:
		s.setStale(message)
	}
}

func (s *scope) setStale(message string) {
	setCondition(s, v1alpha1.ConditionReady, metav1.ConditionUnknown, v1alpha1.ReasonStale, message)
}

func setCondition(s *scope, t string, status metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(&s.exp.Status.Conditions, metav1.Condition{
		Type: t, Status: status, Reason: reason, Message: truncate(message, maxConditionMessage),
		ObservedGeneration: s.exp.Generation, LastTransitionTime: metav1.Time{Time: s.now},
	})
}

// findings lists the foremost verdicts that are not met, worst first. A finding keeps the
// time at which it was first seen.
func findings(s *scope) []v1alpha1.Finding {
	since := map[findingKey]metav1.Time{}
	for _, f := range s.prior.Findings {
		since[keyOf(f)] = f.Since
	}
	var out []v1alpha1.Finding
	for _, i := range verdict.Foremost(s.verdicts, maxFindings) {
		f := finding(s.verdicts[i], s.now)
		if t, ok := since[keyOf(f)]; ok {
			f.Since = t
		}
		out = append(out, f)
	}
	return out
}

type findingKey struct {
	path, cause, source, sourceNode, target, transport, family string
	port                                                       int32
}

func keyOf(f v1alpha1.Finding) findingKey {
	return findingKey{f.Path, f.Cause, f.Source, f.SourceNode, f.Target, f.Transport, f.Family, f.Port}
}

func finding(v verdict.Verdict, now time.Time) v1alpha1.Finding {
	c := v.Check
	f := v1alpha1.Finding{
		Path: c.Path, Cause: string(v.Cause), Message: truncate(verdict.Message(v), maxText),
		Source: truncate(c.Source, maxText), SourceNode: c.SourceNode, Target: truncate(c.Target, maxText), TargetNode: c.TargetNode,
		Transport: string(c.Transport), Port: int32(c.Port), Family: family(c), Declared: v1alpha1.Expect(c.Declared.String()),
		Predicted: prediction(c.Prediction),
		Observed:  &v1alpha1.Observation{Result: v.Observed.String(), Evidence: truncate(v.Evidence, maxText), PathEvidence: string(v.PathEvidence)},
		Since:     metav1.Time{Time: now}, Attributions: attributions(v),
	}
	if c.Result != nil {
		f.Observed.Outcomes = outcomes(c.Result.Outcomes)
	}
	return f
}

func prediction(d evaluator.Decision) *v1alpha1.Prediction {
	p := &v1alpha1.Prediction{Verdict: d.Verdict.String(), Rule: d.Rule, Reason: truncate(d.Reason, maxText)}
	for _, dir := range []struct {
		name string
		d    evaluator.DirectionDecision
	}{{"Egress", d.Egress}, {"Ingress", d.Ingress}} {
		if d.Verdict == evaluator.Allowed || dir.d.Verdict != d.Verdict {
			continue
		}
		p.Direction = dir.name
		for _, ref := range deciding(dir.d) {
			if len(p.Policies) == maxPolicies {
				break
			}
			p.Policies = append(p.Policies, ref.String())
		}
		break
	}
	return p
}

// deciding lists the policies that deny in one direction, or that may.
func deciding(d evaluator.DirectionDecision) []evaluator.PolicyRef {
	switch {
	case d.DeniedBy != nil:
		return []evaluator.PolicyRef{d.DeniedBy.PolicyRef}
	case d.Verdict == evaluator.Denied:
		return d.Isolating
	default:
		return slices.Concat(d.Selecting, d.Isolating)
	}
}

func problems(s *scope) []v1alpha1.Problem {
	var out []v1alpha1.Problem
	for _, p := range s.problems {
		if len(out) == maxFindings {
			break
		}
		out = append(out, v1alpha1.Problem{
			Kind: p.Kind, Name: p.Namespace + "/" + p.Name, Field: truncate(p.Field, 253), Message: truncate(p.Message, maxText),
		})
	}
	return out
}

// truncated ends a text that was cut.
const truncated = "..."

// truncate cuts a text to at most n bytes, at the boundary of a character, and
// says so.
func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	cut := n - len(truncated)
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + truncated
}
