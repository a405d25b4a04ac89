package controllers

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/pathproof/pathproof/api/v1alpha1"
)

// gathered are the gauges of a collector, as a scraper names them.
func gathered(t testing.TB, c prometheus.Collector) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(c); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			out[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = m.GetGauge().GetValue()
		}
	}
	return out
}

// What alerts on old results fires, too, when nobody can tell how old one is; an expectation
// that never had a result is as old as it is itself; and a suspended one has no age.
func TestMetricsOfAStatus(t *testing.T) {
	names := map[string]string{
		"ready": "pathproof_expectation_ready", "interval": "pathproof_expectation_interval_seconds",
		"run": "pathproof_run_age_seconds", "conclusive": "pathproof_conclusive_run_age_seconds",
	}
	at := func(d time.Duration) *metav1.Time { return &metav1.Time{Time: epoch.Add(d)} }
	ready := func(status metav1.ConditionStatus, reason string) *metav1.Condition {
		return &metav1.Condition{Type: v1alpha1.ConditionReady, Status: status, Reason: reason}
	}
	for name, tc := range map[string]struct {
		ready           *metav1.Condition
		ran, conclusive *metav1.Time
		want            map[string]float64
	}{
		"new":                 {want: map[string]float64{"ready Unknown Pending": 1, "interval": 30, "run": 600, "conclusive": 600}},
		"met":                 {ready: ready(metav1.ConditionTrue, "AllPathsMet"), ran: at(540 * time.Second), conclusive: at(510 * time.Second), want: map[string]float64{"ready True AllPathsMet": 1, "interval": 30, "run": 60, "conclusive": 90}},
		"now":                 {ready: ready(metav1.ConditionTrue, "AllPathsMet"), ran: at(600 * time.Second), conclusive: at(600 * time.Second), want: map[string]float64{"ready True AllPathsMet": 1, "interval": 30, "run": 0, "conclusive": 0}},
		"dated in the future": {ready: ready(metav1.ConditionUnknown, v1alpha1.ReasonStale), ran: at(601 * time.Second), conclusive: at(601 * time.Second), want: map[string]float64{"ready Unknown Stale": 1, "interval": 30, "run": math.Inf(1), "conclusive": math.Inf(1)}},
		"suspended":           {ready: ready(metav1.ConditionUnknown, v1alpha1.ReasonSuspended), ran: at(0), conclusive: at(0), want: map[string]float64{"ready Unknown Suspended": 1, "interval": 30}},
	} {
		t.Run(name, func(t *testing.T) {
			m := NewMetrics(testclock.NewFakePassiveClock(epoch.Add(10 * time.Minute)))
			exp := &v1alpha1.ConnectivityExpectation{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "x", CreationTimestamp: *at(0)}}
			exp.Spec.Probe.IntervalSeconds = 30
			exp.Status.LastConclusiveAt = tc.conclusive
			if tc.ready != nil {
				meta.SetStatusCondition(&exp.Status.Conditions, *tc.ready)
			}
			if tc.ran != nil {
				exp.Status.LastRun = &v1alpha1.Run{FinishedAt: *tc.ran}
			}
			m.Note(exp)
			want := map[string]float64{"pathproof_operator_active{}": 0, "pathproof_probe_pods{}": 0}
			for what, value := range tc.want {
				words, labels := strings.Fields(what), `{expectation="x",namespace="ns"`
				if len(words) == 3 {
					labels += fmt.Sprintf(",reason=%q,status=%q", words[2], words[1])
				}
				want[names[words[0]]+labels+"}"] = value
			}
			if diff := cmp.Diff(want, gathered(t, m)); diff != "" {
				t.Errorf("series (-want +got):\n%s", diff)
			}
			m.Forget(client.ObjectKeyFromObject(exp))
			if left := gathered(t, m); len(left) != 2 {
				t.Errorf("%v are left of an expectation that is gone", left)
			}
		})
	}
}

var desc = regexp.MustCompile(`^Desc{fqName: "([^"]+)", help: "(?:[^"\\]|\\.)*", .*variableLabels: {([^}]*)}}$`)

// What the operator exposes is written down, for those who write alerts and dashboards, and
// for the tests of these.
func TestRegisteredMetrics(t *testing.T) {
	ch := make(chan *prometheus.Desc, 1000)
	registry, ok := metrics.Registry.(prometheus.Collector)
	if !ok {
		t.Fatal("the registry of the library does not describe what it holds")
	}
	for _, c := range []prometheus.Collector{registry, NewMetrics(testclock.NewFakePassiveClock(epoch)), NewCanaryMetrics(testclock.NewFakePassiveClock(epoch))} {
		c.Describe(ch)
	}
	close(ch)
	got := map[string][]string{}
	for d := range ch {
		m := desc.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("cannot read %s", d)
		}
		labels := []string{}
		for _, l := range strings.Split(m[2], ",") {
			if l != "" {
				labels = append(labels, l)
			}
		}
		slices.Sort(labels)
		// The runtime's and the work queues' are not for others to rely on.
		if name := m[1]; strings.HasPrefix(name, "pathproof_") || slices.Contains(foreign, name) {
			got[name] = labels
		}
	}
	golden(t, "metrics.yaml", got)
}

// foreign are metrics of libraries that the dashboard shows.
var foreign = []string{"controller_runtime_reconcile_errors_total", "rest_client_requests_total", "process_cpu_seconds_total", "process_resident_memory_bytes"}
