package main

import (
	"testing"

	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/diagnosis"
)

func TestDoctorExitCodes(t *testing.T) {
	for verdict, want := range map[canary.Verdict]int{canary.Enforced: 0, canary.NotEnforced: 1, canary.Unknown: 3, canary.Unsupported: 3, "": 3} {
		if got := doctorCode(&diagnosis.Report{Verdict: verdict}); got != want {
			t.Errorf("%q: exit code %d, want %d", verdict, got, want)
		}
	}
}

func TestReleasedImage(t *testing.T) {
	for version, want := range map[string]string{
		"v0.1.0 go1.26.0": "v0.1.0", "v0.1.0+dirty go1.26.0": "latest", "v0.0.0-20261128143630-dd660f0a1b2c go1.26.0": "latest", "(devel) go1.26.0": "latest", "unknown": "latest",
	} {
		if got := releasedImage(version); got != "ghcr.io/pathproof/probe:"+want {
			t.Errorf("%s: %s, want the tag %s", version, got, want)
		}
	}
}

func TestChosenFeatures(t *testing.T) {
	all, err := (&doctorFlags{}).chosenFeatures()
	if err != nil || len(all) != len(canary.Features()) {
		t.Errorf("got %v, %v, want all", all, err)
	}
	some, err := (&doctorFlags{features: []string{"udp", "DefaultDeny"}}).chosenFeatures()
	if err != nil || len(some) != 2 || some[0] != "DefaultDeny" || some[1] != "UDP" {
		t.Errorf("got %v, %v, want those that are named, in order", some, err)
	}
	if _, err := (&doctorFlags{features: []string{"Ports"}}).chosenFeatures(); err == nil {
		t.Error("a feature that does not exist is taken")
	}
}
