package testbed

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pathproof/pathproof/schema"
	"github.com/pathproof/pathproof/test/lab/agent"
)

const root = "../.."

// What the end-to-end tests expect is in the manifests, and every expectation there is a
// scenario: the soak forgets none.
func TestEveryExpectationIsAScenario(t *testing.T) {
	known := map[string]string{}
	for _, s := range Scenarios {
		known[s.Key.String()] = s.Manifests
	}
	if len(known) != len(Scenarios) {
		t.Errorf("two scenarios have the same expectation")
	}
	found := map[string]bool{}
	for _, dir := range []string{"config/samples", "test/e2e/testdata"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".yaml" {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			docs, err := schema.Documents(text)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			for _, doc := range docs {
				if doc["kind"] != "ConnectivityExpectation" {
					continue
				}
				meta, _ := doc["metadata"].(map[string]any)
				namespace, _ := meta["namespace"].(string)
				name, _ := meta["name"].(string)
				key := namespace + "/" + name
				found[key] = true
				if m := known[key]; m == "" || (rel != m && filepath.Dir(rel) != m) {
					t.Errorf("%s holds the expectation %s, which is no scenario: add it to Scenarios, with what is right to find of it", rel, key)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for key := range known {
		if !found[key] {
			t.Errorf("no manifest holds the expectation %s of a scenario", key)
		}
	}
}

// An expectation within the code of the end-to-end tests would be forgotten by the soak. One
// may be there: it declares what Evidence does, with other times, for one fault each.
func TestNoExpectationHidesInATest(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "test/e2e/*.go"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 5 {
		t.Fatalf("found %q: the test looks in the wrong place", files)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, sign := range []string{"kind: ConnectivityExpectation", "ConnectivityExpectationSpec{"} {
			allowed := 0
			if filepath.Base(file) == "evidence_test.go" && sign == "kind: ConnectivityExpectation" {
				allowed = 1
			}
			if strings.Count(string(text), sign) > allowed {
				t.Errorf("%s holds an expectation (%s): put it into test/e2e/testdata and add it to testbed.Scenarios", file, sign)
			}
		}
	}
}

// What is right to find has a cause and a number.
func TestScenariosSayWhatIsFound(t *testing.T) {
	for _, s := range Scenarios {
		for path, f := range s.NotMet {
			if f.Checks < 1 || f.Cause == "" {
				t.Errorf("%s: %s: got %+v, want a cause and a number of checks", s.Key, path, f)
			}
		}
	}
}

// For every way in which the lab's agent misbehaves there is an entry that says what is
// found, which direction is named for it, and which node.
func TestEveryMisbehaviourIsAttributed(t *testing.T) {
	const file = "test/e2e/attribution_test.go"
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range agent.Modes {
		entry := regexp.MustCompile(`(?m)^\s*Entry\(.*"` + mode.Name + `[="]`)
		if mode.Name != agent.ModeCorrect && !entry.Match(text) {
			t.Errorf("%s has no entry of the mode %s", file, mode.Name)
		}
	}
}
