package main

import (
	"flag"
	"strings"
	"testing"

	"github.com/pathproof/pathproof/evaluator"
)

func TestAssumptionsAreChecked(t *testing.T) {
	for text, tc := range map[string]struct {
		want evaluator.Implementation
		err  string
	}{
		"":                                {},
		"cni=none,podReachesOwnNode=true": {want: evaluator.Implementation{CNI: "none", Told: evaluator.Profile{PodReachesOwnNode: evaluator.True}}},
		"podReachesOwnNode":               {err: "-assume: "},
	} {
		f, err := parse(flag.NewFlagSet("manager", flag.ContinueOnError), []string{"-probe-image=probe:test", "-assume=" + text})
		switch {
		case tc.err != "":
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: got %v, want %s", text, err, tc.err)
			}
		case err != nil:
			t.Errorf("%s: %v", text, err)
		case f.options.Implementation != tc.want:
			t.Errorf("%s: got %+v, want %+v", text, f.options.Implementation, tc.want)
		}
	}
}
