package main

import (
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pathproof/pathproof/check"
)

// scenario copies the production scenario, without or with other text in a file.
func scenario(t *testing.T, change map[string]func(string) string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"namespace.yaml", "workloads.yaml", "policies.yaml", "expectation.yaml"} {
		text, err := os.ReadFile(filepath.Join(production, name))
		if err != nil {
			t.Fatal(err)
		}
		if edit := change[name]; edit != nil {
			text = []byte(edit(string(text)))
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func replace(old, with string) func(string) string {
	return func(s string) string {
		if !strings.Contains(s, old) {
			panic("the scenario does not hold " + old)
		}
		return strings.Replace(s, old, with, 1)
	}
}

func TestCheckExitCodes(t *testing.T) {
	cases := map[string]struct {
		change map[string]func(string) string
		args   []string
		want   int
		// wantOut is part of the table, wantErr part of what is said beside it.
		wantOut, wantErr string
	}{
		"the scenario holds": {nil, nil, 0, "10 hold, 0 drift, 0 undetermined", "assumed Service kube-system/kube-dns"},
		"a policy is missing": {
			map[string]func(string) string{"policies.yaml": func(string) string { return "# all gone\n" }}, nil,
			1, "7 hold, 3 drift, 0 undetermined", "",
		},
		"a policy allows too little": {
			map[string]func(string) string{"policies.yaml": replace("port: 27017", "port: 27018")}, nil,
			1, "backend-to-mongodb     production/{app=backend}    production/deployment-mongodb                           TCP/27017   Allow      Denied      Drift", "",
		},
		"a selector matches nobody": {
			map[string]func(string) string{"expectation.yaml": replace("app: frontend", "app: fronted")}, nil,
			3, "NoSourceMatched: no running pod matches production/{app=fronted}", "",
		},
		"a target matches nobody": {
			map[string]func(string) string{"workloads.yaml": replace("app: mongodb\n    spec", "app: mongo\n    spec")}, nil,
			3, "NoTargetMatched", "",
		},
		"the answer depends on a namespace that is not there": {
			map[string]func(string) string{"policies.yaml": replace("kubernetes.io/metadata.name: kube-system", "team: dns")}, nil,
			3, "X2: rule 0 of NetworkPolicy production/allow-backend-dns asks for labels of namespace kube-system", "",
		},
		"a policy that an API server refuses": {
			map[string]func(string) string{"policies.yaml": replace("policyTypes: [Ingress]", "policyTypes: [Inbound]")}, nil,
			2, "", `"Inbound" is unknown: write Ingress or Egress`,
		},
		"a misspelt field of a policy": {
			map[string]func(string) string{"policies.yaml": replace("podSelector:", "podSelectr:")}, nil,
			2, "", `policies.yaml:8: NetworkPolicy production/allow-backend-to-mongodb: unknown field "spec.podSelectr"`,
		},
		"an expectation that the CRD refuses": {
			map[string]func(string) string{"expectation.yaml": replace("port: 27017", "port: 0")}, nil,
			2, "", "expectation.yaml:16: ConnectivityExpectation production/mongodb: spec.paths[1].ports[0]: Invalid value",
		},
		"no expectation":        {map[string]func(string) string{"expectation.yaml": func(string) string { return "" }}, nil, 2, "", "nothing was checked"},
		"none of this name":     {nil, []string{"-l", "app=x"}, 2, "", "none of the 1 ConnectivityExpectations"},
		"none in the namespace": {nil, []string{"-n", "staging"}, 2, "", "none of the 1 ConnectivityExpectations"},
		"all namespaces":        {nil, []string{"-n", "staging", "-A"}, 0, "10 hold", ""},
		"another cluster DNS":   {nil, []string{"--cluster-dns", "dns/main"}, 3, "there is no Service dns/main", ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			code, out, errs := call(t, "", append([]string{"check", "-f", scenario(t, tc.change)}, tc.args...)...)
			if code != tc.want || !strings.Contains(out, tc.wantOut) || !strings.Contains(errs, tc.wantErr) {
				t.Errorf("exit code %d, want %d and %q%q:\n%s%s", code, tc.want, tc.wantOut, tc.wantErr, out, errs)
			}
			if strings.Contains(errs, "unknown field") && out != "" {
				t.Errorf("there are answers about manifests that were not understood:\n%s", out)
			}
		})
	}
}

// Coverage bounds probes. A pod that is not probed must be predicted all the same.
func TestCheckPredictsAllPods(t *testing.T) {
	var pods strings.Builder
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		pods.WriteString("---\napiVersion: v1\nkind: Pod\nmetadata: {name: " + name + ", namespace: x, labels: {app: t, name: " + name + "}}\n")
	}
	path := file(t, "in.yaml", `apiVersion: pathproof.dev/v1alpha1
kind: ConnectivityExpectation
metadata: {name: e, namespace: x}
spec:
  paths:
  - name: p
    expect: Allow
    from: {identity: {labels: {app: s}}}
    to: {podSelector: {matchLabels: {app: t}}}
    ports: [{port: 80}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: close-f, namespace: x}
spec: {podSelector: {matchLabels: {name: f}}}
---
apiVersion: v1
kind: Namespace
metadata: {name: x}
`+pods.String())
	code, out, errs := call(t, "", "check", "-f", path)
	if code != 1 || !strings.Contains(out, "6 checks: 5 hold, 1 drift") {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
}

func TestFormatsOfCheck(t *testing.T) {
	dir := scenario(t, map[string]func(string) string{
		"policies.yaml":    replace("port: 27017", "port: 27018"),
		"expectation.yaml": replace("app: frontend", "app: fronted"),
	})
	output := func(format string) []byte {
		code, out, errs := call(t, "", "check", "-f", dir, "-o", format)
		if code != 1 {
			t.Fatalf("%s: exit code %d, %s", format, code, errs)
		}
		return []byte(out)
	}

	var report struct {
		check.Report
		Summary map[check.Outcome]int
	}
	if err := json.Unmarshal(output("json"), &report); err != nil {
		t.Fatal(err)
	}
	if report.Summary[check.Drift] != 1 || report.Summary[check.Undetermined] != 1 || len(report.Rows) != 10 || report.Rows[1].Line != 16 {
		t.Errorf("got %+v", report)
	}

	var suites struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Errors   int `xml:"errors,attr"`
		Cases    []struct {
			Failure *struct{} `xml:"failure"`
		} `xml:"testsuite>testcase"`
	}
	if err := xml.Unmarshal(output("junit"), &suites); err != nil {
		t.Fatal(err)
	}
	if suites.Tests != 10 || suites.Failures != 1 || suites.Errors != 1 || len(suites.Cases) != 10 || suites.Cases[1].Failure == nil {
		t.Errorf("got %+v", suites)
	}

	var log struct {
		Version string
		Runs    []struct {
			Results []struct {
				RuleID, Level string
				Message       struct{ Text string }
				Locations     []struct {
					PhysicalLocation struct {
						ArtifactLocation struct{ URI string }
						Region           struct{ StartLine int }
					}
				}
			}
		}
	}
	if err := json.Unmarshal(output("sarif"), &log); err != nil {
		t.Fatal(err)
	}
	results := log.Runs[0].Results
	if log.Version != "2.1.0" || len(results) != 2 || results[0].RuleID != "Undetermined" || results[1].Level != "error" ||
		results[1].Locations[0].PhysicalLocation.Region.StartLine != 16 || !strings.HasSuffix(results[1].Locations[0].PhysicalLocation.ArtifactLocation.URI, "expectation.yaml") {
		t.Errorf("got %+v", log)
	}
}

// The samples of this repository are what it says they are, through a pipe, too.
func TestCheckReadsTheStandardInput(t *testing.T) {
	var all strings.Builder
	for _, name := range []string{"namespace.yaml", "workloads.yaml", "policies.yaml", "expectation.yaml"} {
		text, err := os.ReadFile(filepath.Join(production, name))
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString(string(text) + "---\n")
	}
	code, out, errs := call(t, all.String(), "check", "-f", "-")
	if code != 0 || !strings.Contains(out, "10 hold") || strings.Contains(errs, "Kustomization") {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
}

func BenchmarkCheckProduction(b *testing.B) {
	for b.Loop() {
		if code, _, errs := call(b, "", "check", "-f", production); code != 0 {
			b.Fatal(errs)
		}
	}
}
