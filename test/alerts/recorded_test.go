package alerts

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

// recording is what test/record writes.
type recording struct {
	// Broken is the node on which enforcement was switched off, Other the one of which the
	// canary's pods were taken away.
	Broken, Other string
	Marks         []struct {
		At   time.Duration
		What string
	}
	Interval    time.Duration
	InputSeries []struct{ Series, Values string } `yaml:"input_series"`
}

// after is a range of times after a mark, or (with an alert's name) after that began to fire.
type after struct {
	what        string
	least, most time.Duration
}

// firing is when an alert has to begin, and to end.
type firing struct{ from, to after }

// Metrics of a real operator make each alert fire some time after something broke, and
// resolve after it was mended; and no other. The intervals there are 15 seconds (canary), 30
// (expectation mongodb) and 10 (expectation late). What comes by chance: at which moment of an
// interval something breaks, a round (up to 12 seconds), a run (up to 15) and a scrape (5).
func TestAlertsOnRecordings(t *testing.T) {
	const s = time.Second
	for name, want := range map[string]map[string]firing{
		"enforcement": {
			// A row was first seen not to be enforced up to an interval and a round after it broke;
			// 15 and 15 seconds later it fires.
			"PathproofNodeNotEnforcing node=BROKEN":                                 {after{"node broken", 30 * s, 75 * s}, after{"PathproofNotEnforcing", 115 * s, 125 * s}},
			"PathproofNotEnforcing":                                                 {after{"cluster broken", 0, 45 * s}, after{"mended", 120 * s, 165 * s}},
			"PathproofExpectationViolated expectation=mongodb namespace=production": {after{"node broken", 120 * s, 170 * s}, after{"mended", 120 * s, 175 * s}},
		},
		"silence": {
			// The last complete round was up to an interval and a round before.
			"PathproofCanaryIncomplete":  {after{"pods of a node refused", 135 * s, 190 * s}, after{"pods of a node admitted", 0, 75 * s}},
			"PathproofCanaryCoverageLow": {after{"pods of a node refused", 185 * s, 245 * s}, after{"pods of a node admitted", 0, 75 * s}},
			// The last run was up to an interval, a tenth of it and a run before.
			"PathproofExpectationStale expectation=mongodb namespace=production":     {after{"runs blocked", 100 * s, 170 * s}, after{"runs unblocked", 0, 60 * s}},
			"PathproofExpectationInconclusive expectation=late namespace=production": {after{"target declared", 160 * s, 180 * s}, after{"target there", 0, 60 * s}},
		},
		"operator": {
			"PathproofOperatorAbsent": {after{"operator stopped", 120 * s, 140 * s}, after{"operator started", 0, 45 * s}},
		},
	} {
		t.Run(name, func(t *testing.T) { replayRecording(t, name, want) })
	}
}

// recordings are the names of all.
var recordings = []string{"enforcement", "silence", "operator"}

func loadRecording(t *testing.T, name string) (rec recording) {
	t.Helper()
	if err := yaml.Unmarshal(read(t, "testdata/lab-"+name+".yaml"), &rec); err != nil {
		t.Fatal(err)
	}
	return rec
}

func replayRecording(t *testing.T, name string, want map[string]firing) {
	rec := loadRecording(t, name)
	var series [][2]string
	for _, in := range rec.InputSeries {
		series = append(series, [2]string{in.Series, in.Values})
	}
	if len(rec.Marks) == 0 || len(series) < 10 {
		t.Fatalf("there are %d marks and %d series", len(rec.Marks), len(series))
	}
	moments := map[string]time.Duration{}
	for _, m := range rec.Marks {
		moments[m.What] = m.At
	}
	end := time.Duration(scrapes(t, series)) * rec.Interval
	got := watch(t, loading(rec.Interval, series), rec.Interval, end)
	times := map[string][2]time.Duration{}
	for id, window := range got {
		from, to, _ := strings.Cut(window, "-")
		begin, err := time.ParseDuration(from)
		if err != nil {
			t.Fatal(err)
		}
		finish, err := time.ParseDuration(to)
		if err != nil {
			t.Errorf("%s fires at %s: want it to fire once, and to resolve", id, window)
		}
		id = strings.ReplaceAll(id, rec.Broken, "BROKEN")
		times[id] = [2]time.Duration{begin, finish}
		moments[id] = begin
		if _, ok := want[id]; !ok {
			t.Errorf("%s fires at %s", id, window)
		}
	}
	for id, w := range want {
		window, ok := times[id]
		if !ok {
			t.Errorf("%s does not fire", id)
			continue
		}
		t.Logf("%s fires from %s to %s", id, window[0], window[1])
		w.from.check(t, id+" fires", moments, window[0])
		w.to.check(t, id+" resolves", moments, window[1])
	}
}

func (a after) check(t *testing.T, what string, moments map[string]time.Duration, at time.Duration) {
	t.Helper()
	begin, ok := moments[a.what]
	if !ok {
		t.Fatalf("the recording has no %q", a.what)
	}
	if d := at - begin; d < a.least || d > a.most {
		t.Errorf("%s %s after %q, want %s to %s", what, d, a.what, a.least, a.most)
	}
}

// A value that a rule asks for is one that an operator has exposed: those of a misspelt state
// would never be there.
func TestRulesAskForValuesThatThereAre(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range recordings {
		for _, in := range loadRecording(t, name).InputSeries {
			parsed, err := parser.NewParser(parser.Options{}).ParseMetric(in.Series)
			if err != nil {
				t.Fatal(err)
			}
			parsed.Range(func(l labels.Label) { seen[parsed.Get(model.MetricNameLabel)+" "+l.Name+"="+l.Value] = true })
		}
	}
	parsed, _ := groups(t)
	n := 0
	for _, q := range ruleQueries(t, parsed) {
		for name, list := range matchers(parse(t, q)) {
			for _, m := range list {
				if m.Value == "x" { // of a template
					continue
				}
				n++
				if m.Type != labels.MatchEqual || !seen[name+" "+m.Name+"="+m.Value] {
					t.Errorf("%s: no recording has %s with %s", q.where, name, m)
				}
			}
		}
	}
	if n < 5 {
		t.Errorf("found %d matchers: the test looks in the wrong place", n)
	}
}

// scrapes is the number of scrapes that series are of: all are of the same.
func scrapes(t *testing.T, series [][2]string) int {
	t.Helper()
	longest := 0
	for _, s := range series {
		_, values, err := parser.NewParser(parser.Options{}).ParseSeriesDesc(s[0] + " " + s[1])
		if err != nil {
			t.Fatal(err)
		}
		longest = max(longest, len(values))
	}
	return longest
}
