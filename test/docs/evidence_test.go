package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/verdict"
)

// evidenceTests are the files that bring about what docs/evidence.md lists, by the words
// in its last column.
var evidenceTests = map[string]string{"lab": "test/e2e/evidence_test.go", "integration": "test/integration/evidence_test.go"}

// specs returns what the specs of a file have for source text, by their names: It, and
// Entry of a table.
func specs(t *testing.T, file string) map[string]string {
	t.Helper()
	text := read(t, file)
	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, file, text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) < 2 {
			return true
		}
		// A container is named by a text, too; a spec that is pending, by another function.
		if f, ok := call.Fun.(*ast.Ident); !ok || f.Name != "It" && f.Name != "Entry" {
			return true
		}
		lit, ok := call.Args[0].(*ast.BasicLit)
		if !ok {
			t.Fatalf("%s: a spec whose name is no text", fset.Position(call.Pos()))
		}
		name, err := strconv.Unquote(lit.Value)
		if err != nil || out[name] != "" {
			t.Fatalf("%s: spec %s is there twice, or is no text: %v", fset.Position(call.Pos()), lit.Value, err)
		}
		out[name] = text[fset.Position(call.Pos()).Offset:fset.Position(call.End()).Offset]
		return true
	})
	return out
}

var evidenceRow = regexp.MustCompile("(?m)^\\| ([^|]+) \\| [^|]+ \\| [^|]+ \\| `(\\w+)` \\| ([^|]+) \\| (\\w+): ([^|]+) \\|$")

// Every way in which a path can look closed is brought about by a test, which asks for
// the reason and the words of the table, and every such test is in the table.
func TestEvidenceIsInjected(t *testing.T) {
	page := read(t, filepath.Join(root, "docs/evidence.md"))
	rows := evidenceRow.FindAllStringSubmatch(page, -1)
	if lines := strings.Count(page, "\n| "); len(rows) < 20 || len(rows) != lines-1 { // less the head
		t.Fatalf("read %d of the %d rows of the table", len(rows), lines-1)
	}
	tests := map[string]map[string]string{}
	for kind, file := range evidenceTests {
		tests[kind] = specs(t, filepath.Join(root, file))
	}
	injected, told := map[string]bool{}, map[string]string{}
	for _, row := range rows {
		what, reason, words, kind, name := row[1], row[2], row[3], row[4], row[5]
		body, ok := tests[kind][name]
		if !ok {
			t.Errorf("%q: there is no test %q of kind %q", what, name, kind)
			continue
		}
		injected[kind+": "+name] = true
		if !slices.Contains(verdict.Causes(), verdict.Cause(reason)) && reason != v1alpha1.ReasonStale {
			t.Errorf("%q: %s is no reason", what, reason)
		}
		if reason != v1alpha1.ReasonStale && !strings.Contains(body, strconv.Quote(reason)) {
			t.Errorf("%q: test %q does not ask for %s", what, name, reason)
		}
		if !strings.Contains(body, words) {
			t.Errorf("%q: test %q does not ask for the words %q", what, name, words)
		}
		// A reason alone need not tell two of them apart; the words do.
		if other := told[words]; other != "" {
			t.Errorf("%q and %q end in the same words: %q", other, what, words)
		}
		told[words] = what
	}
	for kind, all := range tests {
		if len(all) < 5 {
			t.Errorf("found %d tests of kind %s: the test looks in the wrong place", len(all), kind)
		}
		for name := range all {
			if !injected[kind+": "+name] {
				t.Errorf("docs/evidence.md has no row for the test %q of kind %s", name, kind)
			}
		}
	}
}
