package controllers

import (
	"math"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/pathproof/pathproof/verdict"
)

// Metrics are the metrics of expectations. All series of an expectation vanish
// with it.
type Metrics struct {
	clock clock.PassiveClock
	// ProbePods is the number of probe pods that exist.
	ProbePods prometheus.Gauge

	checks   *prometheus.GaugeVec
	duration *prometheus.HistogramVec
	latency  *prometheus.HistogramVec
	age      *prometheus.Desc

	mu         sync.Mutex
	conclusive map[types.NamespacedName]time.Time
}

var _ prometheus.Collector = (*Metrics)(nil)

// NewMetrics returns the metrics, which the caller registers.
func NewMetrics(c clock.PassiveClock) *Metrics {
	return &Metrics{
		clock: c,
		ProbePods: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pathproof_probe_pods", Help: "Probe pods and responders that exist now.",
		}),
		checks: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "pathproof_checks", Help: "Checks of the last run of an expectation, by result (met, violated, unknown) and cause.",
		}, []string{"namespace", "expectation", "result", "cause"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pathproof_run_duration_seconds", Help: "Time from the start of a run to its verdicts, by what started it.",
			Buckets: []float64{1, 2, 4, 6, 8, 10, 15, 20, 30, 60, 120, 300},
		}, []string{"trigger"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "pathproof_enforcement_latency_seconds",
			Help:    "Time from a change of a NetworkPolicy that flips a prediction until the watched path was seen to flip, by what it did (opened, closed).",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}, []string{"direction"}),
		age: prometheus.NewDesc("pathproof_conclusive_run_age_seconds",
			"Time since the last run in which every check was observed as open or blocked; infinite if that is dated in the future.", []string{"namespace", "expectation"}, nil),
		conclusive: map[types.NamespacedName]time.Time{},
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	m.ProbePods.Describe(ch)
	m.checks.Describe(ch)
	m.duration.Describe(ch)
	m.latency.Describe(ch)
	ch <- m.age
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.ProbePods.Collect(ch)
	m.checks.Collect(ch)
	m.duration.Collect(ch)
	m.latency.Collect(ch)
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.clock.Now()
	for key, at := range m.conclusive {
		age, known := ageAt(now, at)
		seconds := age.Seconds()
		if !known {
			seconds = math.Inf(1) // what alerts on old results has to fire
		}
		ch <- prometheus.MustNewConstMetric(m.age, prometheus.GaugeValue, seconds, key.Namespace, key.Name)
	}
}

// Observe records the result of a run.
func (m *Metrics) Observe(key types.NamespacedName, s verdict.Summary, verdicts []verdict.Verdict, trigger string, d time.Duration) {
	m.Ran(trigger, d)
	m.checks.DeletePartialMatch(labelsOf(key))
	counts := map[[2]string]int{}
	for _, v := range verdicts {
		result := "unknown"
		switch {
		case v.Violated():
			result = "violated"
		case v.Met():
			result = "met"
		}
		counts[[2]string{result, string(v.Cause)}]++
	}
	for k, n := range counts {
		m.checks.WithLabelValues(key.Namespace, key.Name, k[0], k[1]).Set(float64(n))
	}
}

// Ran records how long a run took.
func (m *Metrics) Ran(trigger string, d time.Duration) {
	m.duration.WithLabelValues(trigger).Observe(d.Seconds())
}

// Latency records how long a change of policy took to open or to close a watched path.
func (m *Metrics) Latency(open bool, took time.Duration) {
	m.latency.WithLabelValues(strings.ToLower(string(direction(open)))).Observe(took.Seconds())
}

// Conclusive records when the last conclusive run of an expectation ended. The age
// of one that never had any is not reported: there is no such time.
func (m *Metrics) Conclusive(key types.NamespacedName, at *metav1.Time) {
	if at == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conclusive[key] = at.Time
}

// Forget drops the series of an expectation.
func (m *Metrics) Forget(key types.NamespacedName) {
	m.checks.DeletePartialMatch(labelsOf(key))
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.conclusive, key)
}

func labelsOf(key types.NamespacedName) prometheus.Labels {
	return prometheus.Labels{"namespace": key.Namespace, "expectation": key.Name}
}
