package main

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathproof/pathproof/explain"
)

var update = flag.Bool("update", false, "Write the golden files.")

const more = "testdata/more.yaml"

func TestExplainGolden(t *testing.T) {
	cases := map[string]struct {
		from, to, port string
		want           int
		files          []string
		assume         string
	}{
		"admin-denies":         {"frontend", "backend", "8080", 0, []string{"testdata/clusterwide.yaml"}, ""},
		"admin-accepts":        {"backend", "mongodb", "27017", 0, []string{"testdata/clusterwide.yaml"}, ""},
		"admin-passes":         {"backend", "frontend", "8080", 0, []string{"testdata/clusterwide.yaml"}, ""},
		"baseline-denies":      {"mongodb", "frontend", "8080", 0, []string{"testdata/clusterwide.yaml"}, ""},
		"tiers-disputed":       {"tiers/client", "tiers/disputed", "80", 3, []string{"testdata/tiers.yaml"}, ""},
		"tiers-no-match":       {"tiers/client", "tiers/untouched", "80", 0, []string{"testdata/tiers.yaml"}, ""},
		"tiers-named-port":     {"tiers/client", "tiers/untouched", "web", 0, []string{"testdata/tiers.yaml"}, ""},
		"tiers-order":          {"tiers/client", "tiers/ordered", "80", 0, []string{"testdata/tiers.yaml"}, ""},
		"tiers-versions":       {"tiers/client", "tiers/versions", "80", 3, []string{"testdata/tiers.yaml"}, ""},
		"tiers-isolated":       {"tiers/client", "tiers/closed", "80", 0, []string{"testdata/tiers.yaml"}, ""},
		"tiers-unknown-peer":   {"tiers/client", "tiers/unknown", "80", 0, []string{"testdata/tiers.yaml"}, ""},
		"tiers-invalid":        {"tiers/client", "tiers/untouched", "80", 3, []string{"testdata/tiers.yaml", "testdata/tiers-invalid.yaml"}, ""},
		"tiers-egress":         {"tiers/out", "203.0.113.9", "443", 3, []string{"testdata/tiers.yaml"}, ""},
		"denied":               {"frontend", "mongodb", "27017", 0, nil, ""},
		"allowed":              {"backend", "mongodb", "TCP/27017", 0, nil, ""},
		"not-isolated":         {"frontend", "backend", "main", 0, nil, ""},
		"wrong-port":           {"backend", "mongodb", "27018", 0, nil, ""},
		"both-directions":      {"backend", "other/guarded", "8080", 0, nil, ""},
		"deny-all":             {"frontend", "other/closed", "8080", 0, nil, ""},
		"from-an-address":      {"192.0.2.9", "mongodb", "27017", 0, nil, ""},
		"named-port":           {"frontend", "other/guarded", "9999", 0, nil, ""},
		"a-block":              {"frontend", "other/ranged", "80", 3, nil, ""},
		"a-block-assumed":      {"frontend", "other/ranged", "80", 0, nil, "ipBlockMatchesPods=false,ipBlockMatchesNodes=true"},
		"alias":                {"frontend", "svc:other/alias", "5432", 3, nil, ""},
		"service-that-differs": {"frontend", "svc:other/mixed", "80", 3, nil, ""},
		"itself":               {"mongodb", "mongodb", "1", 0, nil, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			args := []string{"explain", tc.from, tc.to, tc.port, "-n", "production", "-f", production, "-f", more}
			if tc.assume != "" {
				args = append(args, "--assume", tc.assume)
			}
			for _, file := range tc.files {
				args = append(args, "-f", file)
			}
			code, out, errs := call(t, "", args...)
			if code != tc.want {
				t.Fatalf("exit code %d, want %d: %s", code, tc.want, errs)
			}
			golden := filepath.Join("testdata", "explain", name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(out), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatalf("%v: run the test with -update", err)
			}
			if diff := cmp.Diff(string(want), out); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// An explanation is of the evaluator's answer, and its rules are those of the
// policies that it names.
func TestExplainAgreesWithPredict(t *testing.T) {
	for _, from := range []string{"production/frontend", "production/backend", "other/guarded"} {
		for _, to := range []string{"production/mongodb", "production/backend", "other/guarded", "other/closed", "other/ranged"} {
			for _, port := range []string{"27017", "8080"} {
				_, text, errs := call(t, "", "explain", from, to, port, "-f", production, "-f", more, "-o", "json")
				var explained []explain.Answer
				if err := json.Unmarshal([]byte(text), &explained); err != nil {
					t.Fatal(err, errs)
				}
				_, out, _ := call(t, `{"id":"1","from":"`+from+`","to":"`+to+`","protocol":"TCP","port":`+port+`}`, "predict", "--flows", "-", "-f", production, "-f", more)
				a, p := explained[0], parse(t, out)[0]
				if a.Verdict != p.Verdict || a.Egress.Verdict != p.Egress.Verdict || a.Ingress.Verdict != p.Ingress.Verdict {
					t.Errorf("%s to %s: explained %s, predicted %s", from, to, a.Verdict, p.Verdict)
				}
				for _, d := range []explain.Direction{a.Egress, a.Ingress} {
					allows := strings.Contains(mustJSON(t, d.Policies), `"answer":"`+explain.Allows+`"`)
					if len(d.Policies) > 0 && d.Rule == "" && allows != (d.Verdict == "Allowed") {
						t.Errorf("%s to %s is %s, and its rules say %+v", from, to, d.Verdict, d.Policies)
					}
				}
			}
		}
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Where every rule is settled, going through the tiers leads to the verdict.
func TestExplainedTiersLeadToTheVerdict(t *testing.T) {
	decided, names := 0, []string{"client", "disputed", "untouched", "ordered", "versions", "closed", "unknown", "out"}
	for _, from := range names {
		for _, to := range names {
			for _, port := range []string{"80", "8080", "UDP/8080", "SCTP/1"} {
				_, text, errs := call(t, "", "explain", "tiers/"+from, "tiers/"+to, port, "-f", "testdata/tiers.yaml", "-o", "json")
				var explained []explain.Answer
				if err := json.Unmarshal([]byte(text), &explained); err != nil {
					t.Fatal(err, errs)
				}
				for _, d := range []explain.Direction{explained[0].Egress, explained[0].Ingress} {
					if want := walked(&d); want != "" && from != to {
						decided++
						if d.Verdict != want {
							t.Errorf("%s to %s %s is %s, and its tiers lead to %s: %s", from, to, port, d.Verdict, want, mustJSON(t, d))
						}
					}
				}
			}
		}
	}
	if decided < 200 {
		t.Errorf("only %d directions were compared", decided)
	}
}

// walked returns the verdict that a reader of an explanation comes to; empty where a
// rule may match, or policies disagree.
func walked(d *explain.Direction) string {
	admin, ok := tierSays(d.Admin)
	switch {
	case !ok:
		return ""
	case admin != "" && admin != "Pass":
		return admin
	case len(d.Policies) > 0:
		for _, p := range d.Policies {
			for _, r := range p.Rules {
				if r.Answer == explain.Allows {
					return "Allowed"
				}
			}
		}
		return "Denied"
	}
	baseline, ok := tierSays(d.Baseline)
	switch {
	case !ok:
		return ""
	case baseline == "Denied":
		return baseline
	}
	return "Allowed"
}

// tierSays returns what a tier decides, or Pass.
func tierSays(policies []*explain.ClusterPolicy) (action string, ok bool) {
	for _, p := range policies {
		if p.Note != "" {
			return "", false
		}
		for _, r := range p.Rules {
			if r.Answer == explain.MayMatch {
				return "", false
			}
			if r.Answer == explain.Matches && action == "" {
				action = map[string]string{"Accept": "Allowed", "Allow": "Allowed", "Deny": "Denied", "Pass": "Pass"}[strings.Fields(r.Text)[0]]
				if strings.Contains(r.Why[0], "denies everything") {
					action = "Denied"
				}
			}
		}
	}
	return action, true
}
