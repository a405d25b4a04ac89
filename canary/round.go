package canary

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/probepod"
)

// What a round is made with. It takes Bound at most.
const (
	Timeout  = time.Second
	Attempts = 3
	Settle   = 5 * time.Second
	Bound    = Settle + 2*Timeout + 5*time.Second
	// Overdue is when the report of a pod is overdue whose attempts had no reason to be
	// repeated, after its warm-up. To nudge one that repeats them does no harm.
	Overdue = 2*Timeout + 2*time.Second
)

// Pods are the pods of each node, by role.
type Pods map[string]map[Role]*corev1.Pod

// Round is what the pods of a node are to check.
type Round struct {
	// From is the node, and Targets those that it probes.
	From    string
	Targets []string
	// Pods have something to check.
	Pods map[Role]*ArmedPod
	// unable says why some of it cannot be checked, by target.
	unable map[string]map[Probe]string
}

// ArmedPod is a pod with its plan.
type ArmedPod struct {
	Pod  *corev1.Pod
	Plan wire.Plan
	// checks are what the checks of the plan are for.
	checks []aim
}

type aim struct {
	to string
	Probe
}

// NewRound makes the plans of a node's pods, to the targets. The frame is the plan without
// its checks and its ID, which is a hash of all that the results depend on: the pod, the
// plan, and what depends tells.
func NewRound(rows []Row, pods Pods, from string, targets []string, frame wire.Plan, depends ...string) *Round {
	r := &Round{From: from, Targets: targets, Pods: map[Role]*ArmedPod{}, unable: map[string]map[Probe]string{}}
	for _, to := range targets {
		r.unable[to] = map[Probe]string{}
	}
	for _, role := range Roles() {
		// Rounds are kept, of thousands of pods. The pod is copied, since what points into a
		// list keeps all of it.
		pod := *pods[from][role]
		p, probes := &ArmedPod{Pod: &pod, Plan: frame}, Probes(rows, role)
		p.checks = make([]aim, 0, len(targets)*len(probes))
		p.Plan.Checks = make([]wire.Check, 0, len(targets)*len(probes))
		for _, to := range targets {
			for _, probe := range probes {
				target := pods[to][probe.To]
				addr, unable := addressFor(p.Pod, target, probe)
				if unable != "" {
					r.unable[to][probe] = unable
					continue
				}
				p.checks = append(p.checks, aim{to, probe})
				p.Plan.Checks = append(p.Plan.Checks, wire.Check{
					Transport: probe.Transport, Addr: addr, Port: probe.Port, Goal: Goal(rows, probe),
					Nonce: flow.ID(string(p.Pod.UID), string(target.UID), string(probe.Transport), addr.String(), fmt.Sprint(probe.Port)),
				})
			}
		}
		if len(p.checks) == 0 {
			continue
		}
		// What is marshalled are plain structs.
		text, _ := json.Marshal(p.Plan)
		p.Plan.ID = flow.ID(append(slices.Clone(depends), string(p.Pod.UID), string(text))...)
		r.Pods[role] = p
	}
	return r
}

// addressFor returns the address at which a probe finds its target, or why there is none.
func addressFor(from, to *corev1.Pod, p Probe) (addr netip.Addr, unable string) {
	if p.Transport == wire.SCTP && LacksSCTP(to) {
		return addr, fmt.Sprintf("node %s does not support SCTP", to.Spec.NodeName)
	}
	if !p.IPv6 {
		return probepod.Addrs(to)[0], ""
	}
	for _, pod := range []*corev1.Pod{from, to} {
		i := slices.IndexFunc(probepod.Addrs(pod), netip.Addr.Is6)
		if i < 0 {
			return netip.Addr{}, fmt.Sprintf("pods on node %s have no IPv6 address", pod.Spec.NodeName)
		}
		addr = probepod.Addrs(pod)[i]
	}
	return addr, ""
}

// Report is what counts of a pod's report on its plan. Reports are kept, of thousands of
// pods; the times and words in them are many times as much.
type Report struct {
	// Outcomes are those of each check; nil if the plan could not be run.
	Outcomes []wire.Outcomes
	// KubeletProbes is the number of readiness probes that reached the pod meanwhile.
	KubeletProbes int
}

// NewReport takes what counts out of a report.
func NewReport(r *wire.Report) *Report {
	out := &Report{KubeletProbes: r.KubeletProbes}
	if r.Error != "" {
		return out
	}
	size := 0
	for _, result := range r.Results {
		size += len(result.Outcomes)
	}
	all := make(wire.Outcomes, 0, size)
	out.Outcomes = make([]wire.Outcomes, len(r.Results))
	for i, result := range r.Results {
		from := len(all)
		all = append(all, result.Outcomes...)
		out.Outcomes[i] = all[from:len(all):len(all)]
	}
	return out
}

// Pairs returns what is known of the way to each target by what the pods have reported, each
// on its plan. Listening tells of each target whether the kubelet saw all listeners of its
// guarded pod echo.
func (r *Round) Pairs(reports map[Role]*Report, listening func(node string) bool) map[string]*Pair {
	pairs := map[string]*Pair{}
	for _, to := range r.Targets {
		pairs[to] = &Pair{From: r.From, To: to, Outcomes: map[Probe]wire.Outcomes{}, Unable: r.unable[to], Listening: listening(to)}
	}
	for role, report := range reports {
		p := r.Pods[role]
		if len(report.Outcomes) != len(p.checks) {
			continue // what was not measured is unknown
		}
		answered := false
		for i, c := range p.checks {
			pairs[c.to].Outcomes[c.Probe] = report.Outcomes[i]
			pairs[c.to].FirstIPv6 = pairs[c.to].FirstIPv6 || !c.IPv6 && p.Plan.Checks[i].Addr.Is6()
			answered = answered || report.Outcomes[i].Any(wire.Outcome.Answered)
		}
		if role == Guarded {
			for _, pair := range pairs {
				pair.Awake = answered || report.KubeletProbes > 0
			}
		}
	}
	return pairs
}

// Judge judges the rows on each target by what the pods have reported, as Pairs takes it.
func (r *Round) Judge(rows []Row, reports map[Role]*Report, listening func(node string) bool) map[string]map[Name]Result {
	out := map[string]map[Name]Result{}
	for to, pair := range r.Pairs(reports, listening) {
		out[to] = JudgeAll(rows, *pair)
	}
	return out
}

// NodeResult makes the results of a row on pairs of nodes that of a node. An ingress row is
// about the node that is probed, by those that the ring gives it as sources; an egress row
// about the one that probes.
func NodeResult(node string, row Name, ring, sources map[string][]string, of func(from, to string) Result) Result {
	var within, across []Result
	add := func(from, to string) {
		if from == to {
			within = append(within, of(from, to))
		} else {
			across = append(across, of(from, to))
		}
	}
	if row.Direction == v1alpha1.DirectionIngress {
		for _, from := range sources[node] {
			add(from, node)
		}
	} else {
		for _, to := range ring[node] {
			add(node, to)
		}
	}
	return Combine(within, across)
}
