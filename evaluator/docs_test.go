package evaluator

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const semantics = "../docs/semantics.md"

// read returns the text of the files that match the pattern.
func read(t *testing.T, pattern string) string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		t.Fatalf("no file matches %s: %v", pattern, err)
	}
	var text []byte
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, b...)
	}
	return string(text)
}

// find returns the first group of every match, sorted, each once.
func find(text, pattern string) []string {
	var found []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func TestDocumentedRulesAreTested(t *testing.T) {
	doc, tests := read(t, semantics), read(t, "*_test.go")
	declared := find(tests, `(?m)^func ((?:Test|Fuzz)\w+)\(`)
	named := find(doc, "`((?:Test|Fuzz)\\w+)`")
	if len(named) == 0 {
		t.Fatal("the document names no tests")
	}
	for _, name := range named {
		if !slices.Contains(declared, name) {
			t.Errorf("%s names %s, which does not exist", semantics, name)
		}
	}
	for _, name := range declared {
		if regexp.MustCompile(`^Test[SX]\d+`).MatchString(name) && !slices.Contains(named, name) {
			t.Errorf("%s does not name %s", semantics, name)
		}
	}
}

func TestRulesOfTheCodeAreDocumented(t *testing.T) {
	headings := find(read(t, semantics), `(?m)^### ([SX]\d+) `)
	for _, rule := range find(read(t, "*.go"), `\b([SX]\d+)\b`) {
		if !slices.Contains(headings, rule) {
			t.Errorf("the code names rule %s, which %s does not state", rule, semantics)
		}
	}
}

func TestS30EveryKindIsDocumented(t *testing.T) {
	doc := read(t, semantics)
	for _, k := range PolicyKinds() {
		if !k.Modelled && !strings.Contains(doc, "`"+k.String()+"`") {
			t.Errorf("%s does not name %s", semantics, k)
		}
	}
}
