package controllers

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/verdict"
)

// attribution is what a follow-up run is to find out: which direction fails of checks of
// the last run. A follow-up is no result: it adds to the findings of that run, and
// changes nothing else. Its pods never stay, whatever the mode.
type attribution struct {
	// verdicts are those of the run, and of are the indices of the suspects among them.
	verdicts []verdict.Verdict
	of       []int
	suspects []plan.Suspect
	// tries counts the follow-ups that were started.
	tries int
}

// attribution returns what is to be found out about a run; nil if that is nothing. Only
// what the findings list is asked about, so that a follow-up is bounded as they are.
func (r *run) attribution(verdicts []verdict.Verdict) *attribution {
	a := &attribution{verdicts: verdicts}
	checks := r.placedChecks()
	for _, i := range verdict.Foremost(verdicts, maxFindings) {
		v := verdicts[i]
		found, ok := checks[v.Check.ID]
		if !ok || !v.Attributable() || len(v.Attributions) > 0 || v.Silent() && !standsInFor(found.Edge) {
			continue
		}
		a.of = append(a.of, i)
		a.suspects = append(a.suspects, plan.Suspect{
			Placed: found.Placed, Addr: v.Check.Addr, Decision: v.Check.Prediction, Answered: answeredBeside(checks, found), Silent: v.Silent(),
		})
	}
	if len(a.suspects) == 0 {
		return nil
	}
	return a
}

// standsInFor tells whether there may be a stand-in for the target of an edge: it is a pod
// of the namespace of the expectation, which need not know how to answer a question.
func standsInFor(e *plan.Edge) bool {
	return e.Target.Kind == plan.TargetPod && !e.Transport.IsDNS() && e.Backends[0].Endpoint.Namespace == e.Source.Namespace
}

// placedCheck is a check of a run as it can be made again.
type placedCheck struct {
	plan.Placed
	// listener is what it ends at, and answered tells whether that answered.
	listener string
	answered bool
}

// placedChecks returns the checks of a run that reported, by their ID.
func (r *run) placedChecks() map[string]placedCheck {
	out := map[string]placedCheck{}
	for _, p := range r.probes {
		if p.report == nil {
			continue
		}
		for i, e := range p.Edges {
			id, result := flow.ID(e.ID(), p.Node), p.report.Results[i]
			for _, at := range result.Addresses {
				out[hostCheckID(id, at.Addr)] = newPlacedCheck(plan.Placed{Edge: e.AtAddress(at.Addr), Node: p.node}, at.Outcomes)
			}
			c := newPlacedCheck(plan.Placed{Edge: e, Node: p.node}, result.Outcomes)
			switch tried := p.tried(i, e); {
			case e.Target.Kind == plan.TargetResponder:
				c.Placed = r.responderOf(e).again(e, p.node)
			case e.Target.Kind == plan.TargetNameserver && len(tried) > 0:
				c = newPlacedCheck(plan.Placed{Edge: e.AtAddress(tried[0]), Node: p.node}, result.Outcomes)
			}
			out[id] = c
		}
	}
	return out
}

func newPlacedCheck(p plan.Placed, outcomes wire.Outcomes) placedCheck {
	e := p.Edge
	return placedCheck{
		Placed: p, answered: outcomes.All(wire.Outcome.Answered),
		listener: e.Listener(),
	}
}

// again returns an edge to the responder as it is before the responder has an address:
// the next one has another.
func (x *responderRun) again(e *plan.Edge, from string) plan.Placed {
	c := *e
	c.Target.Key, c.Target.Addr = x.Key, netip.Addr{}
	if e.Backends[0].Endpoint.IsIdentity() { // a pod has its own
		c.Backends = slices.Clone(e.Backends)
		c.Backends[0].Endpoint.Addr = netip.Addr{}
	}
	r := x.Responder
	r.Node = x.node
	return plan.Placed{Edge: &c, Node: from, Responder: &r}
}

// answeredBeside returns a check of the same listener that was answered, from the same
// node if there is one. Nothing is known of the silence of a pod without it; a responder
// is known to listen.
func answeredBeside(checks map[string]placedCheck, c placedCheck) []plan.Placed {
	var best []plan.Placed
	for _, id := range slices.Sorted(maps.Keys(checks)) {
		other := checks[id]
		if c.Responder != nil || !other.answered || other.listener != c.listener {
			continue
		}
		if other.Node == c.Node {
			return []plan.Placed{other.Placed}
		}
		if best == nil {
			best = []plan.Placed{other.Placed}
		}
	}
	return best
}

// followUp starts the run that attributes what the last one found. While what that
// measured is not as it was, there is none: a change that lasts starts another run, which
// has its own, and one that is soon undone, as a pod that was not ready for a moment, only
// delays it. It tells whether one was started.
func (r *ExpectationReconciler) followUp(ctx context.Context, s *scope) bool {
	a := s.track.attribution
	if a == nil || s.track.last.provenance != s.resolution.Provenance {
		return false
	}
	if a.tries++; a.tries > 1+maxRepeats {
		s.track.attribution = nil
		return false
	}
	s.track.begin(newFollowUp(s, s.resolution.Predictor.HalfPaths(s.exp.Namespace, a.suspects, s.snapshot.Nodes)))
	ctrl.LoggerFrom(ctx).V(1).Info("Starting run", "run", s.track.run.id, "trigger", triggerAttribution, "violations", len(a.suspects))
	return true
}

// newFollowUp returns a run of half-paths.
func newFollowUp(s *scope, f *plan.FollowUp) *run {
	r := startRun(s, triggerAttribution)
	r.followUp, r.edges = f, f.Edges
	r.listenOn(s, f.Responders)
	return r
}

// dropFollowUp ends a follow-up that is in the way: of a run that is due, or since what it
// is about has changed. The end of an interval waits for it, unless it takes too long.
func (r *ExpectationReconciler) dropFollowUp(ctx context.Context, s *scope) error {
	current := s.track.run
	if current == nil || current.followUp == nil {
		return nil
	}
	patience := current.startedAt.Add(r.options.StartTimeout + s.options.bound(s.exp.Spec.Probe))
	trigger, _ := due(s)
	waits := trigger == "" || (trigger == triggerInterval && s.now.Before(patience))
	if waits && current.provenance == s.resolution.Provenance {
		s.again(r.until(s, patience))
		return nil
	}
	ctrl.LoggerFrom(ctx).V(1).Info("Giving up run that was overtaken", "run", current.id, "trigger", triggerAttribution)
	pending := s.track.attribution
	err := r.endRun(ctx, s)
	s.track.attribution = pending
	return err
}

// attribute ends a follow-up: the findings say which direction fails.
func (r *ExpectationReconciler) attribute(ctx context.Context, s *scope) (bool, error) {
	current, a := s.track.run, s.track.attribution
	checks, _ := current.checks(s.resolution.Predictor)
	judged := verdict.Judge(checks)
	s.verdicts = a.verdicts
	for i, h := range current.followUp.Halves {
		v := &s.verdicts[a.of[i]]
		again, egress, ingress := half(judged, h.Again, v.Check), half(judged, h.Egress, v.Check), half(judged, h.Ingress, v.Check)
		if v.Silent() {
			v.Attributions = verdict.AttributeSilence(again, half(judged, h.StandIn, v.Check), egress, ingress)
		} else {
			v.Attributions = verdict.Attribute(*v, again, egress, ingress)
		}
		for j := range v.Attributions {
			v.Attributions[j].At = s.now
		}
	}
	ctrl.LoggerFrom(ctx).V(1).Info("Attributing violations", "run", current.id, "violations", len(a.of))
	s.setNews(s.verdicts[a.of[0]])
	s.exp.Status.Findings = findings(s)
	for t, side := range conditionSides(verdict.Summarize(s.verdicts)) {
		// What was taken back since stays so.
		c := meta.FindStatusCondition(s.exp.Status.Conditions, t)
		if c != nil && c.Reason == side.Reason && c.Status == metav1.ConditionStatus(side.Status.String()) {
			setCondition(s, t, c.Status, side.Reason, side.Message)
		}
	}
	r.metrics.Ran(triggerAttribution, s.now.Sub(current.startedAt))
	s.track.begin(nil)
	s.track.attribution = nil
	s.track.inFlight.Store(int32(len(s.residents)))
	s.again(nextRunAt(s).Sub(s.now))
	if trigger, _ := due(s); trigger != "" {
		s.again(0)
	}
	return false, nil
}

// half finds the verdict on a half-path about a check, of the same address family.
func half(judged []verdict.Verdict, h plan.HalfPath, about verdict.Check) verdict.Half {
	if h.Key == "" {
		return verdict.Half{Missing: h.Missing}
	}
	for i := range judged {
		c := judged[i].Check
		// What never came to have an address or a node has the reason for that.
		if c.Path == h.Key && (c.SourceNode == h.Node || c.SourceNode == "") && (family(c) == family(about) || family(c) == "") {
			return verdict.Half{Verdict: &judged[i]}
		}
	}
	return verdict.Half{Missing: fmt.Sprintf("the control was not made over %s from node %s", family(about), h.Node)}
}

// recallAttributions takes over what is known of findings that are as they were. A run
// that was requested is to look anew.
func (s *scope) recallAttributions(trigger string) {
	known := map[findingKey]v1alpha1.Finding{}
	for _, f := range s.prior.Findings {
		if len(f.Attributions) > 0 && trigger != triggerRequested {
			known[keyOf(f)] = f
		}
	}
	for i := range s.verdicts {
		v := &s.verdicts[i]
		if len(known) == 0 || !v.Attributable() {
			continue
		}
		now := finding(*v, s.now)
		before, ok := known[keyOf(now)]
		if !ok || before.TargetNode != now.TargetNode || !equality.Semantic.DeepEqual(before.Predicted, now.Predicted) {
			continue
		}
		for _, a := range before.Attributions {
			v.Attributions = append(v.Attributions, verdict.Attribution{
				Direction: verdict.Direction(a.Direction), Node: a.Node, Controlled: a.Controlled, Evidence: a.Evidence, At: a.At.Time,
			})
		}
	}
}

// attributions writes down which directions fail.
func attributions(v verdict.Verdict) []v1alpha1.Attribution {
	var out []v1alpha1.Attribution
	for _, a := range v.Attributions {
		out = append(out, v1alpha1.Attribution{
			Direction: v1alpha1.AttributedDirection(a.Direction), Node: a.Node, Controlled: a.Controlled,
			Evidence: truncate(a.Evidence, maxText), At: metav1.Time{Time: a.At},
		})
	}
	return out
}

// news is what a follow-up found out, as an event.
type news struct{ reason, note string }

// setNews notes what is to be told about the worst violation, unless that was told
// already: of one state of Ready, there is one event for each thing that is found out.
func (s *scope) setNews(v verdict.Verdict) {
	directions := ""
	for _, a := range v.Attributions {
		directions += string(a.Direction) + " " + a.Node + ","
	}
	if s.track.teller.directions == directions {
		return
	}
	s.track.teller.directions = directions
	s.track.news = &news{reason: string(v.Cause), note: verdict.Message(v)}
}

// tell tells what a follow-up found out.
func (r *ExpectationReconciler) tell(s *scope) {
	if n := s.track.news; n != nil {
		if wait := s.track.teller.wait(s.now); wait > 0 {
			s.again(wait)
			return
		}
		s.track.teller.spoke(s.now)
		r.recorder.Eventf(s.exp, nil, corev1.EventTypeWarning, n.reason, "Attribute", "%s", truncate(n.note, maxNote))
		s.track.news = nil
	}
}
