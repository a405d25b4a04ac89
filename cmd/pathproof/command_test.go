package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const production = "../../config/samples/production"

// call runs a command line as main does.
func call(t testing.TB, stdin string, args ...string) (code int, out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), args, streams{in: strings.NewReader(stdin), out: &stdout, err: &stderr})
	return code, stdout.String(), stderr.String()
}

func file(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestUsageErrorsSayWhatToWrite(t *testing.T) {
	// There is no cluster, whoever runs the test.
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	broken := file(t, "kubeconfig", "contexts: 7")
	flows := file(t, "flows", "")
	cases := map[string]struct {
		args []string
		want string
	}{
		"an unknown command":               {[]string{"chek"}, "did you mean check?"},
		"an unknown flag":                  {[]string{"check", "--file", "x"}, "see pathproof check --help"},
		"no manifests":                     {[]string{"check"}, "write -f FILE"},
		"a file without -f":                {[]string{"check", "x.yaml"}, "write -f before each file"},
		"an unknown output":                {[]string{"check", "-f", production, "-o", "yaml"}, "write table, json, junit, sarif"},
		"a selector that is none":          {[]string{"check", "-f", production, "-l", "a in"}, "write one such as app=web"},
		"a DNS Service without namespace":  {[]string{"check", "-f", production, "--cluster-dns", "kube-dns"}, "write NAMESPACE/NAME"},
		"no flows":                         {[]string{"predict", "-f", production}, "write --flows FILE"},
		"flows that do not exist":          {[]string{"predict", "-f", production, "--flows", "/nowhere"}, "no such file"},
		"two streams on one input":         {[]string{"predict", "-f", "-", "--flows", "-"}, "cannot both come from the standard input"},
		"an unknown output of predict":     {[]string{"predict", "-f", production, "--flows", flows, "-o", "json"}, "write jsonl"},
		"explain without a port":           {[]string{"explain", "a", "b"}, "write pathproof explain FROM TO PORT"},
		"explain with a port that is none": {[]string{"explain", "a", "b", "70000", "-f", production}, "write a number from 1 to 65535"},
		"explain with a strange protocol":  {[]string{"explain", "a", "b", "ICMP/1", "-f", production}, "write TCP, UDP or SCTP"},
		"explain of nobody":                {[]string{"explain", "a", "b", "1", "-f", production}, "there is no pod or workload default/a"},
		"explain of neither":               {[]string{"explain", "a", "b", "1"}, "write -f FILE or -f FOLDER for manifests, or --kubeconfig FILE for a cluster"},
		"a kubeconfig that does not exist": {[]string{"explain", "a", "b", "1", "--kubeconfig", "/nowhere"}, "no such file"},
		"a kubeconfig that is none":        {[]string{"explain", "a", "b", "1", "--kubeconfig", broken}, "reading the kubeconfig"},
		"check of a cluster by half":       {[]string{"check", "-f", production, "--context", "x"}, "write --with-cluster, too"},
		"check with no cluster":            {[]string{"check", "-f", production, "--with-cluster"}, "--kubeconfig FILE for a cluster"},
		"diff of nothing":                  {[]string{"diff"}, "write -f FILE"},
		"diff with nothing before":         {[]string{"diff", "-f", production}, "--kubeconfig FILE for a cluster"},
		"diff of one stream":               {[]string{"diff", "-f", "-", "--from", "-"}, "both sides cannot come from the standard input"},
		"an unknown output of diff":        {[]string{"diff", "-f", production, "-o", "csv"}, "write table, json"},
		"an unknown output of matrix":      {[]string{"matrix", "-f", production, "-o", "png"}, "write table, json, csv, html, svg"},
		"matrix with a port that is none":  {[]string{"matrix", "-f", production, "--port", "0"}, "write a number from 1 to 65535"},
		"matrix with a strange protocol":   {[]string{"matrix", "-f", production, "--port", "ICMP/1"}, "write TCP, UDP or SCTP"},
		"matrix with a port of nobody":     {[]string{"matrix", "-f", production, "--port", "nope"}, `none of the pods declares a TCP port named "nope"`},
		"matrix with a strange selector":   {[]string{"matrix", "-f", production, "-l", "a in"}, "write one such as app=web"},
		"matrix of another namespace":      {[]string{"matrix", "-f", production, "-n", "other"}, "none of the 3 pods in the input is chosen"},
		"matrix of labels of nobody":       {[]string{"matrix", "-f", production, "-l", "app=other"}, "write another -n or -l, or -A"},
		"matrix without pods":              {[]string{"matrix", "-f", production + "/policies.yaml"}, "there are no pods"},
		"matrix without manifests":         {[]string{"matrix"}, "write -f FILE"},
		"manifests that do not exist":      {[]string{"check", "-f", "/nowhere"}, "there is no such file"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			code, _, errs := call(t, "", tc.args...)
			if code != 2 || !strings.Contains(errs, tc.want) {
				t.Errorf("exit code %d and %q, want 2 and %q", code, errs, tc.want)
			}
		})
	}
}

func TestHelpVersionAndCompletionSucceed(t *testing.T) {
	for _, args := range [][]string{{}, {"--help"}, {"help", "check"}, {"version"}, {"completion", "bash"}, {"__complete", "check", "--out"}} {
		if code, out, errs := call(t, "", args...); code != 0 || out == "" {
			t.Errorf("%q: exit code %d, %q", args, code, errs)
		}
	}
}

func TestColoursAreForTerminals(t *testing.T) {
	for _, color := range []bool{false, true} {
		var out, errs bytes.Buffer
		run(t.Context(), []string{"check", "-f", production}, streams{out: &out, err: &errs, color: color})
		if got := strings.Contains(out.String(), "\x1b["); got != color {
			t.Errorf("with color %v the output has colours: %v", color, got)
		}
	}
	t.Setenv("NO_COLOR", "1")
	if isTerminal(os.Stdout) {
		t.Error("NO_COLOR is not honoured")
	}
}
