package controllers

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/verdict"
)

// run is one run of one expectation, from its plan to its reports.
type run struct {
	id, trigger, request string
	generation           int64
	provenance           string
	startedAt            time.Time
	// overtaken is set once the configuration was seen to be another one.
	overtaken bool
	// reportedAt is when all reports were in; zero until then, and unless the canary is
	// asked.
	reportedAt time.Time
	// resident is set if the pods stay for the runs to come.
	resident bool
	// followUp is set if the run is about what the last one found.
	followUp *plan.FollowUp

	// foreseen is what the expectation was last resolved to, and is kept for as long as the
	// run is under way. While nothing changes, that is what the run was planned on.
	foreseen *foreseen
	// predictor answers over the snapshot that the run was planned on.
	predictor *plan.Predictor
	nodes     []*corev1.Node
	edges     []*plan.Edge
	obstacles []plan.Obstacle
	// coverage counts what the paths match.
	sourcesMatched, targetsMatched, targetsProbed int

	responders []*responderRun
	// probes are set once every responder was created. They have no plans until
	// placed is set: then every responder has an address or has failed.
	probes []*probeRun
	placed bool
}

// podRun is what probe pods and responders have in common.
type podRun struct {
	name string
	// createdAt is zero until the pod was created.
	createdAt time.Time
	// uid is empty if the pod was made in a reconcile that failed, and is not resident.
	uid types.UID
	// seen is set once the pod was in the cache.
	seen bool
	// again is set if the pod takes the place of one that was deleted during the run.
	again bool
	// done is set when the pod is needed no more.
	done bool
	// obstacle and detail say why the pod did not do its work.
	obstacle verdict.Cause
	detail   string
	node     string
	addrs    []netip.Addr
	// disruption is why the pod was asked to go, if it was.
	disruption string
	// nudgedAt is when the kubelet was last made to look at the pod again.
	nudgedAt time.Time
	// labels are those that the pod turned out to have; nil until it was seen.
	labels map[string]string
	// counted is set if the pod is among those in flight: made by the run, or there before it.
	counted bool
	// young is set if the pod was made for this run, or just before it.
	young bool
}

type responderRun struct {
	podRun
	plan.Responder
	// ready is set once the kubelet saw all ports listen; alive says that it still
	// did when the last report had come in.
	ready, alive bool
	// readyAt is when it was first seen so.
	readyAt time.Time
	// request is the ID of the request for its record, and askedAt when it was made.
	request string
	askedAt time.Time
	// record is its answer; unrecorded says why there is none.
	record     *wire.Record
	unrecorded string
}

type probeRun struct {
	podRun
	plan.Pod
	// plan has no checks until the run is placed, and for a spare pod.
	plan   wire.Plan
	report *wire.Report
	// armedAt is when the pod was given its plan, and runningAt when it was first seen to
	// run: by the operator's clock, since that of a node may be another.
	armedAt, runningAt time.Time
}

// spare tells whether the pod has nothing to check: it was started before the
// addresses of the responders were known, and turned out not to be needed.
func (p *probeRun) spare() bool { return len(p.Edges) == 0 }

// newRun returns a run of all that the expectation resolves to. The witnesses of a node are
// the nodes from which the canary probes it.
func newRun(s *scope, trigger string, witnesses map[string][]string) *run {
	r := startRun(s, trigger)
	r.edges, r.obstacles = s.resolution.Edges, s.resolution.Obstacles
	r.sourcesMatched, r.targetsMatched, r.targetsProbed = s.resolution.SourcesMatched, s.resolution.TargetsMatched, s.resolution.TargetsProbed
	r.resident = resident(s.exp)
	r.listenOn(s, plan.Responders(r.edges, r.nodes))
	for _, e := range r.edges {
		e.Witnessed = witnesses[e.Target.Node]
	}
	return r
}

// startRun returns a run without edges.
func startRun(s *scope, trigger string) *run {
	started := s.now
	id := flow.ID(string(s.exp.UID), strconv.FormatInt(s.exp.Generation, 10), strconv.FormatInt(started.UnixNano(), 10))
	return &run{
		id: id, trigger: trigger, generation: s.exp.Generation, startedAt: started,
		request:    truncate(s.exp.Annotations[v1alpha1.RequestedAtAnnotation], maxRequest),
		provenance: s.resolution.Provenance, predictor: s.resolution.Predictor, nodes: s.snapshot.Nodes,
		foreseen: s.foreseen,
	}
}

// overtakenBy tells whether the configuration has been another one than the run measures, at
// any time since it began.
func (r *run) overtakenBy(provenance string) bool {
	r.overtaken = r.overtaken || r.provenance != provenance
	return r.overtaken
}

// listenOn sets the responders.
func (r *run) listenOn(s *scope, responders []plan.Responder) {
	for _, resp := range responders {
		x := &responderRun{Responder: resp}
		x.name = "pathproof-responder-" + flow.ID(r.id, resp.Key)
		if r.resident {
			x.name = residentName("responder", responderPod(s.exp, r, x, s.options))
		}
		r.responders = append(r.responders, x)
	}
}

// draft assigns edges to probe pods before the addresses of the responders are
// known, so that the pods start while the responders do. They get no plan yet.
func (r *run) draft(exp *v1alpha1.ConnectivityExpectation, o Options) {
	if r.probes == nil {
		r.assign(exp, o, r.edges)
	}
}

// place assigns edges to probe pods, now that the addresses of the responders are
// known, and makes their plans. Edges to a responder that failed are left to judge
// as obstacles.
func (r *run) place(exp *v1alpha1.ConnectivityExpectation, o Options) {
	if r.placed {
		return
	}
	var reachable []*plan.Edge
	for _, e := range r.edges {
		if e.Target.Kind != plan.TargetResponder {
			reachable = append(reachable, e)
			continue
		}
		reachable = append(reachable, r.responder(e.Target.Key).edgesTo(e)...)
	}
	r.predictor.Predict(reachable)
	r.assign(exp, o, reachable)
	settings := exp.Spec.Probe
	if !r.resident {
		settings.WatchMilliseconds = 0 // a pod that ends has nothing to watch
	}
	for _, p := range r.probes {
		if !p.spare() {
			p.plan = wirePlan(p.id(r.id), settings, o, p.Edges)
		}
	}
	r.placed = true
}

// assign sets the probes. Pods of an earlier assignment keep their place; those
// that the edges no longer need become spare.
func (r *run) assign(exp *v1alpha1.ConnectivityExpectation, o Options, edges []*plan.Edge) {
	earlier := map[string]*probeRun{}
	for _, p := range r.probes {
		earlier[p.name] = p
		p.Edges = nil
	}
	for _, pod := range r.pods(exp, edges) {
		p := &probeRun{Pod: pod}
		p.name, p.node = "pathproof-probe-"+p.id(r.id), pod.Node
		if r.resident {
			p.name = residentName("probe-"+strconv.Itoa(p.Part), probePod(exp, r, p, o))
		}
		if e := earlier[p.name]; e != nil {
			e.Pod = pod
			continue
		}
		r.probes = append(r.probes, p)
	}
}

// pods returns which pods probe which edges.
func (r *run) pods(exp *v1alpha1.ConnectivityExpectation, edges []*plan.Edge) []plan.Pod {
	if r.followUp != nil {
		return r.followUp.Place(edges)
	}
	return plan.Place(edges, r.nodes, cmp.Or(int(exp.Spec.Coverage.MaxSources), 2))
}

// id names the pod within all runs. It is the name of its plan.
func (p *probeRun) id(run string) string {
	return flow.ID(run, p.Source.Key, p.Node, strconv.Itoa(p.Part))
}

func (r *run) responder(key string) *responderRun {
	return r.responders[slices.IndexFunc(r.responders, func(x *responderRun) bool { return x.Key == key })]
}

// probesSCTP tells whether a source has SCTP checks. It is asked about all of the run:
// which of a source's pods makes which of its checks is not known before the responders
// have started.
func (r *run) probesSCTP(source string) bool {
	return slices.ContainsFunc(r.edges, func(e *plan.Edge) bool { return e.Source.Key == source && e.Transport == wire.SCTP })
}

// onlyResponders tells whether responders are all that the run has in flight.
func (r *run) onlyResponders() bool {
	listening := slices.ContainsFunc(r.responders, func(x *responderRun) bool { return !x.createdAt.IsZero() })
	probing := slices.ContainsFunc(r.probes, func(p *probeRun) bool { return !p.createdAt.IsZero() && !p.done })
	return listening && !probing
}

// edgesTo returns one edge for each address of the responder.
func (x *responderRun) edgesTo(e *plan.Edge) []*plan.Edge {
	if !x.ready {
		return nil
	}
	var out []*plan.Edge
	for _, addr := range x.addrs {
		c := *e
		c.Target.Addr, c.Target.Node = addr, x.node
		c.Target.Key = flow.ID(e.Target.Key, addr.String())
		if e.Target.StandsFor == nil { // otherwise, what policies say of the pod is what is to be proved
			c.Backends = slices.Clone(e.Backends)
			c.Backends[0].Endpoint.Addr = addr
		}
		out = append(out, &c)
	}
	return out
}

// wirePlan is what one probe pod is told to do.
func wirePlan(id string, probe v1alpha1.ProbeSettings, o Options, edges []*plan.Edge) wire.Plan {
	p := wire.Plan{
		Version: wire.Version, ID: id,
		WarmUpMilliseconds:  int(o.WarmUp.Milliseconds()),
		SettleMilliseconds:  int(settle(probe).Milliseconds()),
		TimeoutMilliseconds: int(timeout(probe).Milliseconds()),
		Attempts:            attempts(probe),
	}
	for i, e := range edges {
		if !e.Control { // whose flips nobody asks for
			p.WatchMilliseconds = int(probe.WatchMilliseconds)
		}
		c := wire.Check{
			Transport: e.Transport, Addr: e.Target.Addr, Host: e.Target.Host, Nameserver: e.Nameserver, Port: e.Port,
			QueryName: e.QueryName, QueryType: e.QueryType, Search: e.Search, Answer: e.Answer, Goal: e.Goal(),
		}
		if e.Target.Kind == plan.TargetResponder {
			c.Nonce = wire.Nonce(id, i)
		}
		p.Checks = append(p.Checks, c)
	}
	return p
}

// The settings with the defaults of the API for those unset.

func settle(p v1alpha1.ProbeSettings) time.Duration {
	if p.SettleSeconds == 0 {
		return 10 * time.Second
	}
	return time.Duration(p.SettleSeconds) * time.Second
}

func timeout(p v1alpha1.ProbeSettings) time.Duration {
	if p.TimeoutMilliseconds == 0 {
		return time.Second
	}
	return time.Duration(p.TimeoutMilliseconds) * time.Millisecond
}

func attempts(p v1alpha1.ProbeSettings) int {
	if p.Attempts == 0 {
		return 3
	}
	return int(p.Attempts)
}

// bound is the longest time that a probe can take once it runs: the warm-up, the
// settle window, and a last round that begins just before the window ends.
func (r *Options) bound(p v1alpha1.ProbeSettings) time.Duration {
	return r.WarmUp + settle(p) + 2*timeout(p) + 15*time.Second
}

// endRun deletes the pods of the run under way, unless they stay, and forgets it.
func (r *ExpectationReconciler) endRun(ctx context.Context, s *scope) error {
	for _, pod := range s.pods {
		if err := r.deletePod(ctx, pod); err != nil {
			return err
		}
	}
	s.track.begin(nil)
	s.track.attribution = nil
	s.track.inFlight.Store(int32(len(s.residents)))
	r.logs.forgetReports(s.exp.UID)
	return nil
}
