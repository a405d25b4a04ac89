package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/pathproof/pathproof/check"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/manifests"
)

// An invalid policy that a cluster holds already is no mistake of the files that are
// checked against it. What it could decide is undefined all the same.
func TestProblemsThatAClusterHoldsAreNoBadInput(t *testing.T) {
	broken := file(t, "broken.yaml", `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: octal, namespace: production}
spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 010.0.0.0/8}}]}]}
`)
	in := manifests.Read([]string{production, broken}, manifests.Options{})
	_, problems := evaluator.Compile(in.Snapshot.Snapshot)
	if len(problems) != 1 {
		t.Fatalf("test input: got problems %v, want one", problems)
	}
	for name, tc := range map[string]struct {
		held []evaluator.Problem
		want int
	}{
		"the files bring it":   {nil, exitInvalid},
		"the cluster holds it": {problems, exitUndetermined},
	} {
		t.Run(name, func(t *testing.T) {
			o := check.Options{Held: tc.held}
			o.ClusterDNS.Namespace, o.ClusterDNS.Name, _ = strings.Cut(manifests.DefaultClusterDNS, "/")
			r, err := check.Run(t.Context(), in, compileSchema(), o)
			if err != nil {
				t.Fatal(err)
			}
			if r.ExitCode() != tc.want {
				t.Errorf("got exit code %d, want %d: %v", r.ExitCode(), tc.want, r.Problems)
			}
			isNote := func(n string) bool { return strings.Contains(n, "production/octal") }
			if slices.ContainsFunc(r.Notes, isNote) == slices.ContainsFunc(r.Problems, isNote) {
				t.Errorf("want it said once: notes %q, problems %q", r.Notes, r.Problems)
			}
		})
	}
}
