package controllers

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/verdict"
)

// judge ends the run: it turns reports into verdicts and remembers the run as the
// last one. It ends the reconcile while the canary is asked.
func (r *ExpectationReconciler) judge(ctx context.Context, s *scope) (bool, error) {
	current := s.track.run
	if current.followUp != nil {
		return r.attribute(ctx, s)
	}
	checks, moved := current.checks(s.resolution.Predictor)
	overtaken := current.overtakenBy(s.resolution.Provenance)
	if overtaken {
		// schedule has repeated the run as often as it may.
		for i := range checks {
			checks[i].Obstacle = verdict.ChangedDuringProbe
			checks[i].ObstacleDetail = fmt.Sprintf("policies, labels or endpoints changed during each of %d runs in a row", maxRepeats+1)
		}
	}
	if waits, err := r.askCanary(ctx, s, checks); waits || err != nil {
		return waits, err
	}
	s.track.learned = current.learned()
	s.track.refusing = current.refusing(s.track)
	same := maps.EqualFunc(s.track.learned, s.input.Learned, slices.Equal[[]netip.Addr]) && maps.Equal(s.track.refusing, s.input.Refusing)
	switch {
	case overtaken && current.provenance == s.resolution.Provenance:
		// What changed is as it was. What was measured in between is no result of that.
		current.provenance = flow.ID("overtaken", current.id)
	case !overtaken && !moved && !same:
		// From here on, the results rest on what is at the addresses that hosts had, too. And
		// that the next run will take stand-ins where nothing listens is no change.
		s.input.Learned, s.input.Refusing = s.track.learned, s.track.refusing
		current.provenance = plan.Resolve(s.input).Provenance
	}
	s.verdicts = verdict.Judge(checks)
	s.recallAttributions(current.trigger)
	summary := verdict.Summarize(s.verdicts)
	s.summary = &summary
	s.duration, s.trigger = s.now.Sub(current.startedAt), current.trigger
	s.track.last = lastRun{
		startedAt: current.startedAt, finishedAt: s.now, generation: current.generation,
		provenance: current.provenance, request: current.request,
	}
	s.track.repeats = 0
	ctrl.LoggerFrom(ctx).V(1).Info("Judging run", "run", current.id, "checks", summary.Checks, "met", summary.Met,
		"violated", summary.Violated, "unknown", summary.Unknown)
	s.track.recordCoverage(current.generation, s.verdicts)
	setResult(s, current)
	s.keepPods(current)
	if s.track.latency != nil {
		s.track.latency.rewatch(current.probes)
	}
	s.track.begin(nil)
	s.track.attribution = current.attribution(s.verdicts)
	s.track.inFlight.Store(int32(len(s.residents)))
	r.logs.forgetReports(s.exp.UID)
	s.again(nextRunAt(s).Sub(s.now))
	if trigger, _ := due(s); trigger != "" || overtaken || s.track.attribution != nil {
		// What was asked for or changed in the meantime has woken the operator already,
		// and pods that stay will not do so by their end.
		s.again(0)
	}
	return false, nil
}

// checks joins the plan, the reports and the obstacles of a run. It tells whether a
// host turned out to be something of the cluster that has changed since the run was
// planned, by what is predicted now.
func (r *run) checks(now *plan.Predictor) (out []verdict.Check, moved bool) {
	for _, p := range r.probes {
		for i, e := range p.Edges {
			if !p.Asks(e, p.nameservers(), p.addrs) {
				continue
			}
			judged := r.check(p, i, e)
			if tried := p.tried(i, e); e.Learns() && r.predictor.Grounds(e, tried) != now.Grounds(e, tried) {
				moved = true
				for j := range judged {
					judged[j].Obstacle = verdict.ChangedDuringProbe
					judged[j].ObstacleDetail = fmt.Sprintf("what is at the addresses of %s changed while it was probed", e.TargetName(tried))
				}
			}
			out = append(out, judged...)
		}
	}
	for _, e := range r.edges {
		if e.Target.Kind != plan.TargetResponder {
			continue
		}
		if x := r.responder(e.Target.Key); !x.ready {
			c := edgeCheck(e)
			c.Obstacle, c.ObstacleDetail = x.obstacle, x.detail
			out = append(out, c)
		}
	}
	for i, o := range r.obstacles {
		out = append(out, verdict.Check{
			ID: flow.ID("obstacle", o.Path, fmt.Sprint(i)), Path: o.Path, Declared: declared(o.Declared),
			Source: o.Source, Target: o.Target, Transport: o.Transport, Port: o.Port,
			Obstacle: verdict.Cause(o.Reason), ObstacleDetail: o.Message,
		})
	}
	return out, moved
}

// nameservers returns those of the pod, in the order of its resolver configuration.
func (p *probeRun) nameservers() []netip.Addr {
	if p.report == nil {
		return nil
	}
	return p.report.Nameservers
}

// tried returns the addresses that the pod tried of the host of a check, or the one that
// it has for the nameserver.
func (p *probeRun) tried(i int, e *plan.Edge) (out []netip.Addr) {
	if e.Target.Kind == plan.TargetNameserver {
		if list := p.nameservers(); e.Nameserver <= len(list) {
			out = append(out, list[e.Nameserver-1])
		}
		return out
	}
	if p.report == nil {
		return nil
	}
	for _, at := range p.report.Results[i].Addresses {
		out = append(out, at.Addr)
	}
	return out
}

// learned collects the addresses that probes tried of each host, and the nameservers of
// the pods of each source that no other check is about.
func (r *run) learned() map[string][]netip.Addr {
	out := map[string][]netip.Addr{}
	for _, p := range r.probes {
		for i, e := range p.Edges {
			if !e.Learns() {
				continue
			}
			key := e.LearnedAs()
			if e.Target.Kind == plan.TargetNameserver && p.report != nil {
				if _, known := out[key]; !known {
					out[key] = nil // known, even if there are none
				}
				if !p.Asks(e, p.nameservers(), p.addrs) {
					continue
				}
			}
			for _, addr := range p.tried(i, e) {
				if !slices.Contains(out[key], addr) {
					out[key] = append(out[key], addr)
				}
			}
		}
	}
	return out
}

// refusing returns the listeners of pods that refused connections in the run and answered
// nobody, and those that did so before and were not tried again. A changed spec tries them
// again.
func (r *run) refusing(t *tracked) map[string]bool {
	out := map[string]bool{}
	if r.generation == t.last.generation {
		maps.Copy(out, t.refusing)
	}
	answered := map[string]bool{}
	for _, p := range r.probes {
		for i, e := range p.Edges {
			if e.Target.Kind != plan.TargetPod || p.report == nil {
				continue
			}
			outcomes := p.report.Results[i].Outcomes
			answered[e.Listener()] = answered[e.Listener()] || outcomes.Any(wire.Outcome.Answered)
			if outcomes.All(func(o wire.Outcome) bool { return o == wire.Refused }) {
				out[e.Listener()] = true
			}
		}
	}
	maps.DeleteFunc(out, func(l string, _ bool) bool { return answered[l] })
	return out
}

// check returns what is to be judged of one check of a pod: of a host, each address that
// was tried is judged by itself, and so is that none was, or not all.
func (r *run) check(p *probeRun, i int, e *plan.Edge) []verdict.Check {
	switch {
	case e.Target.Kind == plan.TargetNameserver:
		tried := p.tried(i, e)
		c := r.checkAt(p, i, e, tried)
		c.Target = e.TargetName(tried)
		if len(tried) > 0 {
			c.Addr = tried[0]
		}
		return []verdict.Check{c}
	case e.Target.Kind != plan.TargetHost || p.report == nil || p.obstacle != "":
		return []verdict.Check{r.checkAt(p, i, e, nil)}
	}
	var out []verdict.Check
	result := p.report.Results[i]
	unresolved := len(result.Outcomes)
	for _, at := range result.Addresses {
		unresolved -= len(at.Outcomes)
		c := r.checkAt(p, i, e, []netip.Addr{at.Addr})
		c.ID, c.Addr = hostCheckID(c.ID, at.Addr), at.Addr
		c.Result.Outcomes = at.Outcomes
		if len(result.Addresses) > 1 {
			c.Target = fmt.Sprintf("%s at %s", c.Target, at.Addr)
		}
		c.Elsewhere = p.plan.Attempts - len(at.Outcomes)
		out = append(out, c)
	}
	if unresolved > 0 {
		out = append(out, r.checkAt(p, i, e, nil))
	}
	if result.Untried > 0 {
		c := r.checkAt(p, i, e, nil)
		c.ID = flow.ID(c.ID, "untried")
		c.Obstacle = verdict.TooManyChecks
		c.ObstacleDetail = fmt.Sprintf("%s has %d addresses more than the %d that are tried of a host: declare them by to.address", e.Target.Host, result.Untried, wire.MaxHostAddresses)
		out = append(out, c)
	}
	return out
}

// hostCheckID returns the ID of the check of a host that is about one of its addresses.
func hostCheckID(id string, addr netip.Addr) string { return flow.ID(id, addr.String()) }

// checkAt joins an edge with what a pod reported of it. tried holds the address of a host
// or a nameserver that it is about.
func (r *run) checkAt(p *probeRun, i int, e *plan.Edge, tried []netip.Addr) verdict.Check {
	c := edgeCheck(e)
	c.ID = flow.ID(c.ID, p.Node)
	c.SourceNode, c.Pod, c.OffPodNetwork = p.node, p.name, !e.OnPodNetwork()
	switch {
	case p.obstacle != "":
		c.Obstacle, c.ObstacleDetail = p.obstacle, p.detail
	case p.report != nil:
		result := p.report.Results[i]
		c.Result, c.SourceProbed, c.SourceTrouble = &result, p.report.KubeletProbes > 0, p.report.Trouble
	}
	target := e.Target.Addr
	if len(tried) > 0 {
		target = tried[0]
	}
	if r.predictor.OnOwnNode(e, tried) {
		c.OnSourceNode, c.TargetNode = true, c.SourceNode
	}
	c.Endpoints = r.predictor.Endpoints(e, tried)
	from := sameFamily(p.addrs, target)
	if e.Target.Kind == plan.TargetResponder {
		x := r.responderOf(e)
		c.Responder, c.ListenerAlive = true, x.alive
		if p.report != nil {
			c.Recorded = r.recorded(x, p, i, from)
		}
	}
	c.Prediction = r.predictor.Decide(e, from, tried)
	if c.Obstacle == "" && len(p.addrs) > 0 && target.IsValid() && !from.IsValid() {
		c.Obstacle = verdict.NoSharedFamily
		c.ObstacleDetail = fmt.Sprintf("the probe pod has no %s address", plan.FamilyOf(target))
	}
	if made := r.predictor.Unlike(e, p.labels, r.responderOf(e).labels, from, tried); made != "" && c.Obstacle == "" {
		c.Obstacle, c.ObstacleDetail = verdict.IdentityDivergence, made
	}
	if standIn, differs := r.predictor.StandInDiffers(e, from); differs && c.Obstacle == "" {
		c.Obstacle = verdict.StandInRefused
		c.ObstacleDetail = fmt.Sprintf("policies tell the stand-in at %s from the pod by its address, so that it would be %s and the pod %s: write to.via: Endpoint to probe the pod itself",
			e.Target.Addr, plan.Describe(standIn, c.Prediction), plan.Describe(c.Prediction, standIn))
	}
	if workload, diverges := r.predictor.Divergence(e, from, tried); diverges {
		c.Obstacle = verdict.IdentityDivergence
		c.ObstacleDetail = fmt.Sprintf("policies select by a label that only the workload's own controller may set, so that the probe would be %s and the workload %s",
			plan.Describe(c.Prediction, workload), plan.Describe(workload, c.Prediction))
	}
	return c
}

// responderOf finds the responder of a placed edge, whose key names the address, too.
func (r *run) responderOf(e *plan.Edge) *responderRun {
	for _, x := range r.responders {
		for _, addr := range x.addrs {
			if e.Target.Key == flow.ID(x.Key, addr.String()) {
				return x
			}
		}
	}
	return &responderRun{}
}

func edgeCheck(e *plan.Edge) verdict.Check {
	return verdict.Check{
		ID: e.ID(), Path: e.Path, Control: e.Control, Declared: declared(e.Declared), Prediction: e.Prediction,
		Source: e.Source.Name, Target: e.Target.Name, TargetNode: e.Target.Node, Transport: e.Transport,
		Addr: e.Target.Addr, Port: e.Port, TargetReady: e.Target.Ready, Endpoints: len(e.Backends),
		Question: e.Question(), Answer: e.Answer, Via: e.Via,
		Twins: e.Target.TwinNames(),
	}
}

func declared(e v1alpha1.Expect) verdict.Declared {
	if e == v1alpha1.ExpectAllow {
		return verdict.Allow
	}
	return verdict.Deny
}

// sameFamily returns the address of the probe pod that a connection to target
// comes from.
func sameFamily(addrs []netip.Addr, target netip.Addr) netip.Addr {
	for _, a := range addrs {
		if a.Is4() == target.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

// family names the address family of a check.
func family(c verdict.Check) string {
	if !c.Addr.IsValid() {
		return ""
	}
	return plan.FamilyOf(c.Addr)
}

// settled returns the longest time that a check of the run needed to agree with
// its prediction.
func (r *run) settled() int32 {
	longest := 0
	for _, p := range r.probes {
		if p.report == nil {
			continue
		}
		for _, res := range p.report.Results {
			longest = max(longest, res.SettledMilliseconds)
		}
	}
	return int32(longest)
}

// podCount is the number of pods that the run created, and that of those that
// probed something.
func (r *run) podCount() (probes, all int32) {
	for _, p := range r.probes {
		if p.createdAt.IsZero() {
			continue
		}
		all++
		if !p.spare() {
			probes++
		}
	}
	for _, x := range r.responders {
		if !x.createdAt.IsZero() {
			all++
		}
	}
	return probes, all
}

// outcomes renders the outcomes of a round, each with its count when they differ.
func outcomes(os wire.Outcomes) string {
	counts := map[wire.Outcome]int{}
	var order []wire.Outcome
	for _, o := range os {
		if counts[o] == 0 {
			order = append(order, o)
		}
		counts[o]++
	}
	s := ""
	for i, o := range order {
		if i > 0 {
			s += ", "
		}
		s += o.String()
		if len(order) > 1 {
			s += fmt.Sprintf(" x%d", counts[o])
		}
	}
	return s
}
