package controllers

import (
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/verdict"
)

// strings of a const block of a file, by the comment above it.
func constStrings(t *testing.T, path, comment string) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, d := range file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST || !strings.HasPrefix(g.Doc.Text(), comment) {
			continue
		}
		for _, s := range g.Specs {
			for _, v := range s.(*ast.ValueSpec).Values {
				lit := v.(*ast.BasicLit)
				out = append(out, constant.StringVal(constant.MakeFromLiteral(lit.Value, lit.Kind, 0)))
			}
		}
	}
	if len(out) == 0 {
		t.Fatalf("%s has no constants under a comment that begins with %q", path, comment)
	}
	return out
}

// judge converts the reason of an obstacle to a cause, which the compiler cannot
// check.
func TestObstacleReasonsAreCauses(t *testing.T) {
	reasons := constStrings(t, "../plan/plan.go", "Reasons of an Obstacle")
	if !slices.Contains(reasons, plan.TooManyChecks) {
		t.Errorf("%v lacks %s", reasons, plan.TooManyChecks)
	}
	for _, reason := range reasons {
		if !slices.Contains(verdict.Causes(), verdict.Cause(reason)) {
			t.Errorf("the obstacle reason %s is no cause", reason)
		}
	}
}

func TestCausesAreOrdered(t *testing.T) {
	declared := append(constStrings(t, "../verdict/verdict.go", "Causes of a disagreement"), constStrings(t, "../verdict/verdict.go", "Causes for which nothing")...)
	var ordered []string
	for _, c := range verdict.Causes() {
		ordered = append(ordered, string(c))
	}
	slices.Sort(declared)
	slices.Sort(ordered)
	if !slices.Equal(declared, ordered) {
		t.Errorf("declared causes\n%v\nand those with a severity\n%v", declared, ordered)
	}
}

func TestCausesAreDocumented(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../api/v1alpha1/conditions.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	ready := ""
	for _, d := range file.Decls {
		if g, ok := d.(*ast.GenDecl); ok && strings.HasPrefix(g.Doc.Text(), "ConditionReady ") {
			ready = g.Doc.Text()
		}
	}
	if ready == "" {
		t.Fatal("ConditionReady has no comment")
	}
	for _, c := range verdict.Causes() {
		if c == verdict.None {
			continue // AllPathsMet takes its place
		}
		if !regexp.MustCompile(`\b` + string(c) + `\b`).MatchString(ready) {
			t.Errorf("the comment of ConditionReady does not name the reason %s", c)
		}
	}
	if !strings.Contains(ready, verdict.ReasonReady) || !strings.Contains(ready, verdict.ReasonNoChecks) {
		t.Error("the comment of ConditionReady does not name the reasons that are no causes")
	}
}
