package controllers

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"github.com/pathproof/pathproof/canary"
)

// maxViolationSeries bounds the series of violations: where nothing is enforced on
// thousands of nodes, some of them say all.
const maxViolationSeries = 500

// CanaryMetrics are the metrics of the enforcement canary. They are gone with it.
type CanaryMetrics struct {
	clock clock.PassiveClock

	violations, nodes, features, age, interval *prometheus.Desc

	mu sync.Mutex
	// seen is nil while there is no canary.
	seen *canarySeen
}

// canarySeen is what the metrics tell of.
type canarySeen struct {
	violations [][3]string
	nodes      map[string]int
	features   map[[2]string]int
	// completeAt is when the last complete round ended, or when the canary was created if
	// there was none.
	completeAt time.Time
	interval   time.Duration
}

var _ prometheus.Collector = (*CanaryMetrics)(nil)

// NewCanaryMetrics returns the metrics, which the caller registers.
func NewCanaryMetrics(c clock.PassiveClock) *CanaryMetrics {
	return &CanaryMetrics{
		clock: c,
		violations: prometheus.NewDesc("pathproof_enforcement_violations",
			"1 for each node, feature and direction that the canary found not to be enforced; at most 500 of them.", []string{"node", "feature", "direction"}, nil),
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
	for _, d := range []*prometheus.Desc{m.violations, m.nodes, m.features, m.age, m.interval} {
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
	for _, v := range m.seen.violations {
		gauge(m.violations, 1, v[:]...)
	}
	for state, n := range m.seen.nodes {
		gauge(m.nodes, float64(n), state)
	}
	for labels, n := range m.seen.features {
		gauge(m.features, float64(n), labels[:]...)
	}
	// A time that is still to come, since the clock was put back, is no age.
	age, _ := ageAt(m.clock.Now(), m.seen.completeAt)
	gauge(m.age, max(0, age.Seconds()))
	gauge(m.interval, m.seen.interval.Seconds())
}

// violationsOf lists the rows that are not enforced, as far as there are series for them.
func (s *canaryScope) violationsOf(f canaryFindings) (out [][3]string) {
	for _, node := range sortedKeys(f.nodes) {
		for _, row := range s.rows {
			if f.nodes[node][row.Name()].Verdict == canary.NotEnforced && len(out) < maxViolationSeries {
				out = append(out, [3]string{node, string(row.Feature), string(row.Direction)})
			}
		}
	}
	return out
}

// Observe records what the status says, and the rows that are not enforced.
func (m *CanaryMetrics) Observe(s *canaryScope, violations [][3]string) {
	seen := &canarySeen{
		violations: violations,
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
