// Package alerts tests what config/prometheus and config/grafana ask Prometheus: that each
// alert fires and resolves, by made-up series and by recordings of an operator in the lab,
// and that nothing asks for a metric that there is not.
package alerts

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"go.yaml.in/yaml/v3"
)

const (
	root      = "../.."
	rulesFile = root + "/config/prometheus/rules.yaml"
)

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// groups writes the groups of the PrometheusRule as Prometheus itself reads them, and returns
// them with the file.
func groups(t *testing.T) (*rulefmt.RuleGroups, string) {
	t.Helper()
	var object struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Spec       yaml.Node
	}
	if err := yaml.Unmarshal(read(t, rulesFile), &object); err != nil {
		t.Fatal(err)
	}
	if object.Kind != "PrometheusRule" || object.APIVersion != "monitoring.coreos.com/v1" {
		t.Fatalf("%s holds a %s of %s", rulesFile, object.Kind, object.APIVersion)
	}
	text, err := yaml.Marshal(&object.Spec)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	parsed, errs := rulefmt.ParseFile(file, false, model.LegacyValidation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	if t.Failed() {
		t.FailNow()
	}
	return parsed, file
}

// alert is one that fires.
type alert struct {
	name        string
	labels      map[string]string
	annotations map[string]string
}

// id names an alert with its labels apart from its severity.
func (a alert) id() string {
	var pairs []string
	for k, v := range a.labels {
		if k != "severity" {
			pairs = append(pairs, k+"="+v)
		}
	}
	slices.Sort(pairs)
	return strings.TrimSpace(a.name + " " + strings.Join(pairs, " "))
}

// replay evaluates the rules over series, as Prometheus does while they come in, every step
// from 0 to end. It hands what fires at each time to see.
func replay(t *testing.T, load string, step, end time.Duration, see func(at time.Duration, firing []alert)) {
	t.Helper()
	storage := promqltest.LoadedStorage(t, load)
	engine := promqltest.NewTestEngine(t, false, 0, 1_000_000)
	manager := rules.NewManager(&rules.ManagerOptions{
		QueryFunc: rules.EngineQueryFunc(engine, storage), AppendableV2: storage, Queryable: storage, Context: t.Context(),
		NotifyFunc: func(context.Context, string, ...*rules.Alert) {}, Logger: slog.New(slog.DiscardHandler), Parser: parser.NewParser(parser.Options{}),
	})
	_, file := groups(t)
	loaded, errs := manager.LoadGroups(step, labels.EmptyLabels(), "", nil, false, file)
	for _, err := range errs {
		t.Fatal(err)
	}
	for at := time.Duration(0); at <= end; at += step {
		var firing []alert
		for _, g := range loaded {
			g.Eval(t.Context(), time.Unix(0, 0).UTC().Add(at))
			for _, r := range g.Rules() {
				if err := r.LastError(); err != nil {
					t.Fatalf("at %s: %s: %v", at, r.Name(), err)
				}
			}
			for _, r := range g.AlertingRules() {
				for _, a := range r.ActiveAlerts() {
					if a.State != rules.StateFiring {
						continue
					}
					f := alert{name: r.Name(), labels: a.Labels.Map(), annotations: a.Annotations.Map()}
					delete(f.labels, "alertname")
					firing = append(firing, f)
				}
			}
		}
		slices.SortFunc(firing, func(a, b alert) int { return strings.Compare(a.id(), b.id()) })
		see(at, firing)
	}
}

// loading is the notation of Prometheus' tests for series that come in at an interval.
func loading(interval time.Duration, series [][2]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "load %s\n", interval)
	for _, s := range series {
		fmt.Fprintf(&b, "  %s %s\n", s[0], s[1])
	}
	return b.String()
}
