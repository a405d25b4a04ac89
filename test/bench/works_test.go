package main

import (
	"encoding/json"
	"testing"

	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/pathproof/pathproof/config/crd"
	"github.com/pathproof/pathproof/schema"
)

// What is measured has the size that its title says, with one address family and two.
func TestWorksAreWhatTheySay(t *testing.T) {
	v, err := schema.Parse(crd.ConnectivityExpectations)
	if err != nil {
		t.Fatal(err)
	}
	for families := 1; families <= 2; families++ {
		for _, w := range works(families) {
			sources, open := w.pods, 0
			if w.identities > 0 {
				sources = w.identities
			}
			if got := sources * w.pods * families * (w.tcp + w.udp); got != w.checks {
				t.Errorf("%s with %d families makes %d checks, want %d", w.name, families, got, w.checks)
			}
			exp := w.expectation()
			ports, paths := 0, len(exp.Spec.Paths)
			for _, p := range exp.Spec.Paths {
				for _, port := range p.Ports {
					ports++
					if port.EndPort != 0 {
						ports++
					}
				}
				if p.Expect == "Allow" {
					open++
				}
			}
			if ports != paths*(w.tcp+w.udp) || open*2 != paths {
				t.Errorf("%s: %d paths, of which %d open, with %d ports", w.name, paths, open, ports)
			}
			text, err := json.Marshal(exp)
			if err != nil {
				t.Fatal(err)
			}
			object := map[string]any{}
			if err := utiljson.Unmarshal(text, &object); err != nil {
				t.Fatal(err)
			}
			if errs := v.Validate(t.Context(), object); len(errs) > 0 {
				t.Errorf("%s: %v", w.name, errs)
			}
		}
	}
}
