package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// scene has a cell of every kind.
const scene = "testdata/matrix.yaml"

func TestMatrixGolden(t *testing.T) {
	cases := map[string]struct {
		args []string
		want int
	}{
		"production": {[]string{"-f", production}, 0},
		"scene":      {[]string{"-f", scene}, 3},
		"scene-http": {[]string{"-f", scene, "--port", "http"}, 3},
	}
	for name, tc := range cases {
		for _, output := range matrixOutputs {
			t.Run(name+"/"+output, func(t *testing.T) {
				code, out, errs := call(t, "", append([]string{"matrix", "-o", output}, tc.args...)...)
				if code != tc.want {
					t.Fatalf("exit code %d, want %d: %s", code, tc.want, errs)
				}
				golden := filepath.Join("testdata", "matrix", name+"."+strings.Replace(output, "table", "txt", 1))
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
}

// The rows of the CSV are the answers of predict.
func TestMatrixAgreesWithPredict(t *testing.T) {
	_, table, _ := call(t, "", "matrix", "-f", production, "-o", "csv")
	var flows strings.Builder
	var want []string
	for line := range strings.Lines(table) {
		fields := strings.SplitN(line, ",", 6)
		if fields[0] == "from" || fields[0] == fields[1] {
			continue // predict knows one pod of each workload: it would be about that pod itself
		}
		fmt.Fprintf(&flows, `{"id":"%d","from":"%s","to":"%s","protocol":"%s","port":%s}`+"\n", len(want), fields[0], fields[1], fields[2], fields[3])
		want = append(want, fields[4])
	}
	_, out, errs := call(t, flows.String(), "predict", "-f", production, "--flows", "-")
	answers := parse(t, out)
	if len(answers) != len(want) || len(want) != 6 {
		t.Fatalf("%d answers to %d flows: %s", len(answers), len(want), errs)
	}
	for i, a := range answers {
		if a.Verdict != want[i] {
			t.Errorf("%s: predict says %s and matrix %s", a.ID, a.Verdict, want[i])
		}
	}
}

func TestMatrixShowsThePodsThatAreChosen(t *testing.T) {
	cases := map[string]struct {
		args []string
		want string
	}{
		"all":                          {nil, "monitoring/prometheus monitoring/shell shop/db: db-0 shop/db: db-1 shop/web"},
		"a namespace":                  {[]string{"-n", "monitoring"}, "monitoring/prometheus monitoring/shell"},
		"all although of a namespace":  {[]string{"-n", "monitoring", "-A"}, "monitoring/prometheus monitoring/shell shop/db: db-0 shop/db: db-1 shop/web"},
		"labels":                       {[]string{"-l", "app in (web,shell)"}, "monitoring/shell shop/web"},
		"pods that are not told apart": {[]string{"-l", "app=db"}, "shop/db: db-0 shop/db: db-1"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, out, errs := call(t, "", append([]string{"matrix", "-f", scene, "-o", "csv", "--port", "5432"}, tc.args...)...)
			var names []string
			for line := range strings.Lines(out) {
				if from, _, _ := strings.Cut(line, ","); from != "from" && (len(names) == 0 || names[len(names)-1] != from) {
					names = append(names, from)
				}
			}
			if got := strings.Join(names, " "); got != tc.want {
				t.Errorf("got %s, want %s: %s", got, tc.want, errs)
			}
		})
	}
}

func TestMatrixSaysWhatItAssumes(t *testing.T) {
	_, _, errs := call(t, "", "matrix", "-f", scene)
	for _, want := range []string{
		"note: pods that have ended are left out: 1\n",
		"note: no port is declared by monitoring/shell: asked about TCP/80 (--port asks about others)\n",
	} {
		if !strings.Contains(errs, want) {
			t.Errorf("%q lacks %q", errs, want)
		}
	}
	_, _, errs = call(t, "", "matrix", "-f", scene, "--port", "80")
	if strings.Contains(errs, "no port is declared") {
		t.Errorf("nothing is assumed of ports that are given: %q", errs)
	}
	var many strings.Builder
	for i := range 8 {
		fmt.Fprintf(&many, "apiVersion: v1\nkind: Pod\nmetadata: {name: p%d, namespace: a}\n---\n", i)
	}
	_, _, errs = call(t, many.String(), "matrix", "-f", "-")
	if !strings.Contains(errs, "a/p0, a/p1, a/p2, a/p3, a/p4, and 3 more: asked about TCP/80") {
		t.Errorf("got %q", errs)
	}
}

func TestMatrixRefusesWhatItCannotDraw(t *testing.T) {
	var many strings.Builder
	for i := range 201 {
		fmt.Fprintf(&many, "apiVersion: v1\nkind: Pod\nmetadata: {name: p%d, namespace: a}\n---\n", i)
	}
	for _, output := range matrixOutputs {
		code, out, errs := call(t, many.String(), "matrix", "-f", "-", "-o", output)
		picture := output == "svg" || output == "html"
		if refused := code == 2 && out == "" && strings.Contains(errs, "at most 200 rows, and this one would have 201: choose with -n or -l, or write -o csv or -o json"); refused != picture {
			t.Errorf("-o %s: exit code %d, %d bytes, %q", output, code, len(out), errs)
		}
	}
}

func TestMatrixCompletesItsOutputs(t *testing.T) {
	_, out, _ := call(t, "", "__complete", "matrix", "-o", "")
	if !strings.HasPrefix(out, strings.Join(matrixOutputs, "\n")+"\n") {
		t.Errorf("got %q", out)
	}
}

func TestMatrixWithOtherPoliciesIsUndetermined(t *testing.T) {
	cilium := file(t, "cilium.yaml", "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a, namespace: production}\nspec: {}\n")
	code, out, _ := call(t, "", "matrix", "-f", production, "-f", cilium)
	if code != 3 || !strings.Contains(out, "undefined") {
		t.Errorf("exit code %d: %s", code, out)
	}
	if code, _, errs := call(t, "", "matrix", "-f", production, "-f", cilium, "--ignore-policy-kinds", "CiliumNetworkPolicy"); code != 0 {
		t.Errorf("exit code %d although the kind is ignored: %s", code, errs)
	}
}

func TestMatrixHeedsAssumptions(t *testing.T) {
	code, out, errs := call(t, "", "matrix", "-f", scene, "--assume", "ipBlockMatchesPods=false")
	if code != 0 || strings.Contains(out, "undefined") {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
}

func TestMatrixWarnsOfPoliciesThatAreNotValid(t *testing.T) {
	bad := file(t, "bad.yaml", "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a, namespace: production}\nspec: {podSelector: {}, ingress: [{ports: [{port: 70000}]}]}\n")
	code, _, errs := call(t, "", "matrix", "-f", production, "-f", bad)
	if code != 3 || !strings.Contains(errs, "warning: NetworkPolicy production/a") {
		t.Errorf("exit code %d: %s", code, errs)
	}
}

func TestATableThatCannotBeWrittenEndsTheCommand(t *testing.T) {
	for _, output := range matrixOutputs {
		var errs strings.Builder
		code := run(t.Context(), []string{"matrix", "-f", production, "-o", output}, streams{out: broken{}, err: &errs})
		if code != 2 || !strings.Contains(errs.String(), "writing the table") {
			t.Errorf("-o %s: exit code %d, %q", output, code, errs.String())
		}
	}
}
