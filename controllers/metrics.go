package controllers

import (
	"math"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/verdict"
)

// Metrics are the metrics of expectations. All series of an expectation vanish
// with it.
type Metrics struct {
	clock clock.PassiveClock
	// ProbePods is the number of probe pods that exist.
	ProbePods prometheus.Gauge
	// Active is 1 while this operator acts, and 0 while it stands by.
	Active prometheus.Gauge

	checks   *prometheus.GaugeVec
	duration *prometheus.HistogramVec
	latency  *prometheus.HistogramVec

	ready, interval, runAge, age *prometheus.Desc

	mu    sync.Mutex
	noted map[types.NamespacedName]noted
}

// noted is what the metrics tell of the status of an expectation.
type noted struct {
	status   metav1.ConditionStatus
	reason   string
	interval time.Duration
	// ranAt and conclusiveAt are when the last run, and the last conclusive one, ended; when
	// the expectation was created, if there was none.
	ranAt, conclusiveAt time.Time
}

var _ prometheus.Collector = (*Metrics)(nil)

// NewMetrics returns the metrics, which the caller registers.
func NewMetrics(c clock.PassiveClock) *Metrics {
	return &Metrics{
		clock: c,
		ProbePods: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pathproof_probe_pods", Help: "Probe pods and responders that exist now.",
		}),
		Active: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pathproof_operator_active", Help: "1 while this operator acts, 0 while it stands by for another one.",
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
		ready: prometheus.NewDesc("pathproof_expectation_ready",
			"1 for the status (True, False, Unknown) and the reason of the condition Ready of an expectation.", []string{"namespace", "expectation", "status", "reason"}, nil),
		interval: prometheus.NewDesc("pathproof_expectation_interval_seconds", "The interval of the runs of an expectation.", []string{"namespace", "expectation"}, nil),
		runAge: prometheus.NewDesc("pathproof_run_age_seconds",
			"Time since the last run ended, or since the expectation was created, if there was none; infinite if that is dated in the future. Not of suspended ones.", []string{"namespace", "expectation"}, nil),
		age: prometheus.NewDesc("pathproof_conclusive_run_age_seconds",
			"Time since the last run in which every check was observed as open or blocked, or since the expectation was created, if there was none; infinite if that is dated in the future. Not of suspended ones.",
			[]string{"namespace", "expectation"}, nil),
		noted: map[types.NamespacedName]noted{},
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.collectors() {
		c.Describe(ch)
	}
	for _, d := range []*prometheus.Desc{m.ready, m.interval, m.runAge, m.age} {
		ch <- d
	}
}

func (m *Metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.ProbePods, m.Active, m.checks, m.duration, m.latency}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.collectors() {
		c.Collect(ch)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.clock.Now()
	for key, n := range m.noted {
		gauge := func(d *prometheus.Desc, v float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{key.Namespace, key.Name}, labels...)...)
		}
		gauge(m.ready, 1, string(n.status), n.reason)
		gauge(m.interval, n.interval.Seconds())
		if n.reason == v1alpha1.ReasonSuspended {
			continue // nothing is due, however old it is
		}
		gauge(m.runAge, secondsSince(now, n.ranAt))
		gauge(m.age, secondsSince(now, n.conclusiveAt))
	}
}

// secondsSince is infinite for a moment that is still to come: what alerts on old results
// has to fire.
func secondsSince(now, at time.Time) float64 {
	age, known := ageAt(now, at)
	if !known {
		return math.Inf(1)
	}
	return age.Seconds()
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

// Note records what the status of an expectation says.
func (m *Metrics) Note(exp *v1alpha1.ConnectivityExpectation) {
	n := noted{
		status: metav1.ConditionUnknown, reason: v1alpha1.ReasonPending, interval: interval(exp),
		ranAt: exp.CreationTimestamp.Time, conclusiveAt: exp.CreationTimestamp.Time,
	}
	if c := meta.FindStatusCondition(exp.Status.Conditions, v1alpha1.ConditionReady); c != nil {
		n.status, n.reason = c.Status, c.Reason
	}
	if run := exp.Status.LastRun; run != nil {
		n.ranAt = run.FinishedAt.Time
	}
	if at := exp.Status.LastConclusiveAt; at != nil {
		n.conclusiveAt = at.Time
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noted[client.ObjectKeyFromObject(exp)] = n
}

// Forget drops the series of an expectation.
func (m *Metrics) Forget(key types.NamespacedName) {
	m.checks.DeletePartialMatch(labelsOf(key))
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.noted, key)
}

func labelsOf(key types.NamespacedName) prometheus.Labels {
	return prometheus.Labels{"namespace": key.Namespace, "expectation": key.Name}
}
