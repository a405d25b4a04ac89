package controllers

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
)

// maxViolationSeries bounds the series of violations: where nothing is enforced on
// thousands of nodes, some of them say all.
const maxViolationSeries = 500

// CanaryMetrics are the metrics of the enforcement canary. They are gone with it.
type CanaryMetrics struct {
	clock clock.PassiveClock

	violations, violated, nodes, features, age, interval *prometheus.Desc

	mu sync.Mutex
	// seen is nil while there is no canary.
	seen *canarySeen
}

// canarySeen is what the metrics tell of.
type canarySeen struct {
	violations []violation
	nodes      map[string]int
	features   map[[2]string]int
	// completeAt is when the last complete round ended, or when the canary was created if
	// there was none.
	completeAt time.Time
	interval   time.Duration
}

// rowOf identifies a row of a node.
type rowOf struct {
	node string
	name canary.Name
}

// lull is the number of intervals for which a row has to be enforced, so that what comes
// after is a violation of its own. What is not enforced in every other round would never
// last for two rounds otherwise, and nobody would be told.
const lull = 3

// spell is a time in which a row was not enforced.
type spell struct {
	since time.Time
	// over is when the row was first found to be enforced again; zero while it is not.
	over time.Time
}

// violation is a row that is not enforced, since it was first seen not to be.
type violation struct {
	rowOf
	since time.Time
}

var _ prometheus.Collector = (*CanaryMetrics)(nil)

// NewCanaryMetrics returns the metrics, which the caller registers.
func NewCanaryMetrics(c clock.PassiveClock) *CanaryMetrics {
	return &CanaryMetrics{
		clock: c,
		violations: prometheus.NewDesc("pathproof_enforcement_violations",
			"1 for each node, feature and direction that the canary found not to be enforced, until it is known to be or the node is gone; at most 500 of them.", []string{"node", "feature", "direction"}, nil),
		violated: prometheus.NewDesc("pathproof_enforcement_violation_seconds",
			"Time since each of the violations was first seen; one that comes and goes within 3 intervals is one.", []string{"node", "feature", "direction"}, nil),
		nodes: prometheus.NewDesc("pathproof_canary_nodes",
			"Nodes that the canary selects, by state: Covered, Unknown, or the reason for which they are left out.", []string{"state"}, nil),
		features: prometheus.NewDesc("pathproof_canary_feature_nodes",
			"Nodes by what the canary found for a feature: Enforced, NotEnforced, Unsupported or Unknown.", []string{"feature", "verdict"}, nil),
		age: prometheus.NewDesc("pathproof_canary_complete_round_age_seconds",
			"Time since everything was last known about every node that can be covered; since the canary was created, if that has not been yet.", nil, nil),
		interval: prometheus.NewDesc("pathproof_canary_interval_seconds", "The interval of the canary's rounds.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (m *CanaryMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.violations, m.violated, m.nodes, m.features, m.age, m.interval} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *CanaryMetrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seen == nil {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	now := m.clock.Now()
	for _, v := range m.seen.violations {
		age, _ := ageAt(now, v.since)
		labels := []string{v.node, string(v.name.Feature), string(v.name.Direction)}
		gauge(m.violations, 1, labels...)
		gauge(m.violated, max(0, age.Seconds()), labels...)
	}
	for state, n := range m.seen.nodes {
		gauge(m.nodes, float64(n), state)
	}
	for labels, n := range m.seen.features {
		gauge(m.features, float64(n), labels[:]...)
	}
	// A time that is still to come, since the clock was put back, is no age.
	age, _ := ageAt(now, m.seen.completeAt)
	gauge(m.age, max(0, age.Seconds()))
	gauge(m.interval, m.seen.interval.Seconds())
}

// knownViolations are those that the status tells of: what an operator that begins anew
// knows.
func knownViolations(st v1alpha1.EnforcementCanaryStatus) map[rowOf]spell {
	out := map[rowOf]spell{}
	for _, o := range st.Offenders {
		out[rowOf{o.Node, canary.Name{Feature: o.Feature, Direction: o.Direction}}] = spell{since: o.Since.Time}
	}
	return out
}

// follow notes since when rows are not enforced. What nothing is known of any more stays as
// it was: an alert ends when a node is known to enforce, or is none of those that have to.
func (s *canaryScope) follow(f canaryFindings) {
	for row := range s.state.violated {
		if _, ok := f.nodes[row.node][row.name]; !ok {
			delete(s.state.violated, row)
		}
	}
	for node, rows := range f.nodes {
		for name, res := range rows {
			row := rowOf{node, name}
			was, known := s.state.violated[row]
			isOver := known && !was.over.IsZero()
			switch res.Verdict {
			case canary.NotEnforced:
				if !known || isOver && s.now.Sub(was.over) > lull*canaryInterval(s.canary) {
					was.since = s.now
				}
				s.state.violated[row] = spell{since: was.since}
			case canary.Enforced, canary.Unsupported:
				if known && !isOver {
					s.state.violated[row] = spell{since: was.since, over: s.now}
				}
			case canary.Unknown:
			}
		}
	}
}

// violations lists the rows that are not enforced, as far as there are series for them.
func (s *canaryScope) violations() (out []violation) {
	for row, was := range s.state.violated {
		if was.over.IsZero() {
			out = append(out, violation{row, was.since})
		}
	}
	slices.SortFunc(out, func(a, b violation) int {
		return cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(a.name.Feature, b.name.Feature), cmp.Compare(a.name.Direction, b.name.Direction))
	})
	return out[:min(len(out), maxViolationSeries)]
}

// Observe records what the status says, and the rows that are not enforced.
func (m *CanaryMetrics) Observe(s *canaryScope) {
	seen := &canarySeen{
		violations: s.violations(),
		nodes:      map[string]int{"Covered": int(s.canary.Status.Nodes.Covered), leftOutUnknown: 0}, features: map[[2]string]int{},
		completeAt: s.canary.CreationTimestamp.Time, interval: canaryInterval(s.canary),
	}
	if at := s.canary.Status.LastCompleteAt; at != nil {
		seen.completeAt = at.Time
	}
	for _, l := range s.canary.Status.Nodes.LeftOut {
		seen.nodes[l.Reason] = int(l.Count)
	}
	for _, st := range s.canary.Status.Features {
		for verdict, n := range map[canary.Verdict]int32{
			canary.Enforced: st.Enforced, canary.NotEnforced: st.NotEnforced, canary.Unsupported: st.Unsupported, canary.Unknown: st.Unknown,
		} {
			seen.features[[2]string{string(st.Feature), string(verdict)}] = int(n)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen = seen
}

// Forget drops all series.
func (m *CanaryMetrics) Forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen = nil
}
