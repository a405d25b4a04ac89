package alerts

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

// query is an expression with where it stands.
type query struct{ where, text string }

// inTemplate are the queries of a template, as in query "up" and query (printf "up{job=%q}" .job).
var inTemplate = regexp.MustCompile(`(?:query|printf) "((?:[^"\\]|\\.)*)"`)

// ruleQueries are those of rules, and of their annotations.
func ruleQueries(t *testing.T, parsed *rulefmt.RuleGroups) (out []query) {
	t.Helper()
	for _, g := range parsed.Groups {
		for _, r := range g.Rules {
			where := "rule " + r.Alert + r.Record
			out = append(out, query{where, r.Expr})
			for _, text := range r.Annotations {
				for _, m := range inTemplate.FindAllStringSubmatch(text, -1) {
					q, err := strconv.Unquote(`"` + m[1] + `"`)
					if err != nil {
						t.Fatalf("%s: %v", where, err)
					}
					out = append(out, query{where, strings.ReplaceAll(q, "%q", `"x"`)})
				}
			}
		}
	}
	return out
}

// dashboard is what matters here of a dashboard of Grafana.
type dashboard struct {
	ID         any `json:"id"`
	Inputs     any `json:"__inputs"`
	UID, Title string
	Panels     []struct {
		ID          int
		Type, Title string
		Datasource  *datasource
		GridPos     struct{ X, Y, W, H int }
		Targets     []struct {
			Datasource  datasource
			Expr, RefID string
		}
	}
	Templating struct {
		List []struct {
			Name, Type, Definition string
			// Query is a string, or an object.
			Query any
		}
	}
}

type datasource struct{ Type, UID string }

func loadDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	if err := json.Unmarshal(read(t, root+"/config/grafana/pathproof.json"), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

var labelValues = regexp.MustCompile(`^label_values\((.+), (\w+)\)$`)

// dashboardQueries are those of panels and variables.
func dashboardQueries(t *testing.T, d dashboard) (out []query) {
	t.Helper()
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			text := regexp.MustCompile(`\$__(rate_interval|range)`).ReplaceAllString(target.Expr, "5m")
			out = append(out, query{"panel " + p.Title, text})
		}
	}
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		m := labelValues.FindStringSubmatch(v.Definition)
		if m == nil {
			t.Fatalf("variable %s asks for %q", v.Name, v.Definition)
		}
		out = append(out, query{"variable " + v.Name, fmt.Sprintf("sum by (%s) (%s)", m[2], m[1])})
	}
	return out
}

// histograms are the metrics of which there are buckets, sums and counts.
var histograms = []string{"pathproof_run_duration_seconds", "pathproof_enforcement_latency_seconds"}

// exposed are all series that a rule or a panel can ask for, with their labels: what the
// operator registers, and what rules record.
func exposed(t *testing.T, parsed *rulefmt.RuleGroups) map[string][]string {
	t.Helper()
	registered := map[string][]string{}
	if err := yaml.Unmarshal(read(t, root+"/controllers/testdata/metrics.yaml"), &registered); err != nil {
		t.Fatal(err)
	}
	for _, name := range histograms {
		names, ok := registered[name]
		if !ok {
			t.Fatalf("there is no %s", name)
		}
		delete(registered, name)
		registered[name+"_bucket"] = append(slices.Clone(names), "le")
		registered[name+"_sum"], registered[name+"_count"] = names, names
	}
	// What Prometheus adds.
	for name, names := range registered {
		registered[name] = append(slices.Clone(names), "job", "instance", "pod")
	}
	for _, g := range parsed.Groups {
		for _, r := range g.Rules {
			if r.Record == "" {
				continue
			}
			expr := parse(t, query{r.Record, r.Expr})
			registered[r.Record] = nil
			parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
				if a, ok := n.(*parser.AggregateExpr); ok {
					registered[r.Record] = append(registered[r.Record], a.Grouping...)
				}
				return nil
			})
		}
	}
	return registered
}

func parse(t *testing.T, q query) parser.Expr {
	t.Helper()
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(q.text)
	if err != nil {
		t.Fatalf("%s: %v: %s", q.where, err, q.text)
	}
	return expr
}

// matchers returns the metrics that an expression asks for, each with the matchers of its labels.
func matchers(expr parser.Node) map[string][]*labels.Matcher {
	out := map[string][]*labels.Matcher{}
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		if v, ok := n.(*parser.VectorSelector); ok {
			name := v.Name
			if _, seen := out[name]; !seen {
				out[name] = nil
			}
			for _, m := range v.LabelMatchers {
				if m.Name != labels.MetricName {
					out[name] = append(out[name], m)
				}
			}
		}
		return nil
	})
	return out
}

// check finds what an expression asks for that there is not.
func check(q query, expr parser.Expr, exposed map[string][]string) (problems []string) {
	missing := func(format string, args ...any) {
		problems = append(problems, fmt.Sprintf("%s: ", q.where)+fmt.Sprintf(format, args...))
	}
	for name, list := range matchers(expr) {
		known, ok := exposed[name]
		if !ok {
			missing("there is no metric %q", name)
		}
		for _, m := range list {
			if !slices.Contains(known, m.Name) {
				missing("%s has no label %q", name, m.Name)
			}
		}
	}
	// Labels that are grouped or matched by have to be those of some metric below.
	grouped := func(n parser.Node, names []string) {
		for _, l := range names {
			found := false
			for name := range matchers(n) {
				found = found || slices.Contains(exposed[name], l)
			}
			if !found {
				missing("no metric of %s has the label %q", n, l)
			}
		}
	}
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.AggregateExpr:
			grouped(n.Expr, n.Grouping)
		case *parser.BinaryExpr:
			if n.VectorMatching != nil {
				grouped(n.LHS, n.VectorMatching.MatchingLabels)
				grouped(n.RHS, n.VectorMatching.MatchingLabels)
			}
		}
		return nil
	})
	return problems
}

// Nothing asks for a metric or a label that there is not, and every metric of ours is asked
// for by something.
func TestQueriesAskForWhatThereIs(t *testing.T) {
	parsed, _ := groups(t)
	known := exposed(t, parsed)
	queries := slices.Concat(ruleQueries(t, parsed), dashboardQueries(t, loadDashboard(t)))
	if len(queries) < 30 {
		t.Fatalf("found %d queries: the test looks in the wrong place", len(queries))
	}
	asked := map[string]bool{}
	for _, q := range queries {
		expr := parse(t, q)
		for _, p := range check(q, expr, known) {
			t.Error(p)
		}
		for name := range matchers(expr) {
			asked[strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_count")] = true
		}
	}
	for name := range known {
		base := name
		for _, suffix := range []string{"_bucket", "_count", "_sum"} {
			base = strings.TrimSuffix(base, suffix)
		}
		if !asked[base] {
			t.Errorf("nothing shows %s", name)
		}
	}
}

// The check above can fail.
func TestCheckFindsWhatThereIsNot(t *testing.T) {
	known := map[string][]string{"a": {"x"}, "b": {"y"}}
	for text, want := range map[string]int{
		`a{x="1"}`: 0, `sum by (x) (a)`: 0, `a * on (x) group_left () sum by (x) (a)`: 0,
		`c`: 1, `a{y="1"}`: 1, `sum by (y) (a)`: 1, `a and on (x) b`: 1, `rate(c[5m])`: 1, `max(a) > on (x) group_left (y) b`: 1,
	} {
		q := query{"test", text}
		if got := check(q, parse(t, q), known); len(got) != want {
			t.Errorf("%s: got %q, want %d problems", text, got, want)
		}
	}
}

// The dashboard opens wherever there is a Prometheus: it names no data source, and nothing of
// the Grafana that it was made with.
func TestDashboardOpensWithoutEdits(t *testing.T) {
	d := loadDashboard(t)
	if d.ID != nil || d.Inputs != nil || d.UID == "" || d.Title == "" {
		t.Errorf("id %v, inputs %v, uid %q, title %q: want neither of the first, and both of the others", d.ID, d.Inputs, d.UID, d.Title)
	}
	variables := map[string]bool{}
	for _, v := range d.Templating.List {
		variables[v.Name] = true
		if v.Name == "datasource" && (v.Type != "datasource" || v.Query != "prometheus") {
			t.Errorf("the variable datasource is a %s of %v", v.Type, v.Query)
		}
	}
	used := regexp.MustCompile(`\$\{?(\w+)`)
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have the id %d", p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x > 23 {
					t.Fatalf("panel %q overlaps with %q at %d, %d", p.Title, other, x, y)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		want := datasource{"prometheus", "${datasource}"}
		if p.Datasource == nil || *p.Datasource != want || len(p.Targets) == 0 {
			t.Errorf("panel %q has %d queries, and the data source %v", p.Title, len(p.Targets), p.Datasource)
		}
		refs := map[string]bool{}
		for _, target := range p.Targets {
			if target.Datasource != want || refs[target.RefID] {
				t.Errorf("panel %q has a query %s of %v", p.Title, target.RefID, target.Datasource)
			}
			refs[target.RefID] = true
			for _, m := range used.FindAllStringSubmatch(target.Expr, -1) {
				if !strings.HasPrefix(m[1], "__") && !variables[m[1]] {
					t.Errorf("panel %q uses the variable %s, which there is not", p.Title, m[1])
				}
			}
		}
	}
	if !variables["datasource"] || len(ids) < 15 {
		t.Errorf("got the variables %v and %d panels", slices.Sorted(maps.Keys(variables)), len(ids))
	}
}
