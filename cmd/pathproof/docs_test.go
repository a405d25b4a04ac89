package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

var shown = regexp.MustCompile("(?s)<!-- output:\\w+ -->\n```\n\\$ pathproof ([^\n]+)\n(.*?)```\n<!-- /output -->")

// What docs/cli.md shows is what the commands print.
func TestDocumentedOutputIsReal(t *testing.T) {
	// The change that the document speaks of.
	proposed := scenario(t, map[string]func(string) string{
		"policies.yaml": replace("    - podSelector:\n        matchLabels:\n          app: backend\n", "    - podSelector: {}\n"),
	})
	t.Chdir("../..")
	text, err := os.ReadFile("docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := shown.FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 6 {
		t.Fatalf("found %d examples with output, want 6", len(blocks))
	}
	asked := regexp.MustCompile("(?s)```\n(\\{\"id\".*?)```").FindStringSubmatch(string(text))
	if asked == nil {
		t.Fatal("the document shows no flows")
	}
	flows := file(t, "flows.jsonl", asked[1])
	for _, b := range blocks {
		args := strings.Fields(strings.NewReplacer("flows.jsonl", flows, "proposed/", proposed).Replace(b[1]))
		_, out, errs := call(t, "", args...)
		if want := b[2]; !strings.HasSuffix(errs+out, want) {
			t.Errorf("pathproof %s prints\n%s%s\nand the document shows\n%s", b[1], errs, out, want)
		}
	}
}
