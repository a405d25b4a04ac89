// Package arch tests the shape of the tree: who may import whom, and how long a
// file and a function may get. docs/architecture.md says why.
package arch

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const (
	module = "github.com/pathproof/pathproof"
	// root is the module's directory, seen from this one.
	root = "../.."

	maxFileLines     = 500
	maxFunctionLines = 80
)

// goPackage is what go list knows of a package. Tests are not part of it.
type goPackage struct {
	ImportPath, Name string
	Standard         bool
	Imports, Deps    []string
}

// packages lists the packages of the module and everything that they link.
var packages = sync.OnceValues(func() (map[string]goPackage, error) {
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Name,Standard,Imports,Deps", "./...")
	cmd.Dir, cmd.Stderr = root, os.Stderr
	// The probe is for Linux; elsewhere, its files would be left out.
	cmd.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	all := map[string]goPackage{}
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var p goPackage
		if err := d.Decode(&p); err != nil {
			return nil, err
		}
		all[p.ImportPath] = p
	}
	return all, nil
})

func list(t *testing.T) map[string]goPackage {
	t.Helper()
	all, err := packages()
	if err != nil {
		t.Fatalf("listing packages: %v", err)
	}
	return all
}

// within tells whether a package is one of the roots or below one. A root that
// ends in "!" stands for itself alone.
func within(path string, roots []string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		if exact, ok := strings.CutSuffix(root, "!"); ok {
			return path == exact
		}
		return path == root || strings.HasPrefix(path, root+"/")
	})
}

func ours(paths ...string) []string {
	out := make([]string, 0, len(paths))
	for _, p := range paths {
		out = append(out, module+"/"+p)
	}
	return out
}

// What a package may import or link. The standard library is always allowed.
func TestImports(t *testing.T) {
	dnsAndSystem := []string{"github.com/miekg/dns", "golang.org/x"}
	cases := map[string]struct {
		pkg string
		// below includes the packages below pkg.
		below bool
		// linked asks for all that is linked, and not only for what is imported.
		linked bool
		// only lists all that is allowed; never lists what is not, of all else.
		only, never []string
	}{
		"flow imports the standard library only": {pkg: "flow", linked: true, only: []string{}},
		"the wire contract knows flow only":      {pkg: "probe/wire", linked: true, only: ours("flow")},
		"the probe is small": {
			pkg: "probe", linked: true, only: append(ours("flow", "probe/sctp", "probe/wire"), dnsAndSystem...),
		},
		"the machines of SCTP import the standard library only": {pkg: "probe/sctp", linked: true, only: []string{}},
		"the probe binary links nothing of Kubernetes": {
			pkg: "cmd/probe", linked: true, only: append(ours("flow", "probe"), dnsAndSystem...), never: []string{"k8s.io", "sigs.k8s.io"},
		},
		"the evaluator knows flow and the API types": {
			pkg: "evaluator", linked: true, never: append(ours("api", "controllers", "plan", "probe", "verdict", "test", "cmd"), "k8s.io/client-go", "sigs.k8s.io/controller-runtime"),
		},
		"the evaluator imports nothing of ours but flow": {
			pkg: "evaluator", only: append(ours("flow"), "k8s.io/api", "k8s.io/apimachinery", "sigs.k8s.io/network-policy-api/apis", "github.com/gaissmai/bart"),
		},
		"verdict compares, and asks nobody": {pkg: "verdict", only: ours("flow", "evaluator", "probe/wire")},
		"plan plans, and asks nobody": {
			pkg: "plan", only: append(ours("flow", "api", "evaluator", "probe/wire"), "k8s.io/api", "k8s.io/apimachinery", "sigs.k8s.io/network-policy-api/apis"),
		},
		"canary plans and judges, and asks nobody": {
			pkg: "canary", only: append(ours("flow", "api", "probe/wire", "probepod"), "k8s.io/api", "k8s.io/apimachinery", "k8s.io/klog/v2", "k8s.io/utils/ptr", "sigs.k8s.io/network-policy-api/apis"),
		},
		"pods of the probe are built and read without a client": {
			pkg: "probepod", only: append(ours("probe/wire"), "k8s.io/api", "k8s.io/apimachinery", "k8s.io/utils/ptr"),
		},
		"logs are read for the operator and for the command line": {
			pkg: "podlog", only: append(ours("probe/wire", "probepod"), "k8s.io/api", "k8s.io/apimachinery", "k8s.io/client-go", "k8s.io/klog/v2", "k8s.io/utils/clock"),
		},
		"canary links no client":  {pkg: "canary", linked: true, never: append(ours("controllers", "probe!"), "k8s.io/client-go", "sigs.k8s.io/controller-runtime")},
		"check links no client":   {pkg: "check", linked: true, never: append(ours("cluster", "controllers"), "k8s.io/client-go", "sigs.k8s.io/controller-runtime")},
		"plan links no client":    {pkg: "plan", linked: true, never: []string{"k8s.io/client-go", "sigs.k8s.io/controller-runtime"}},
		"verdict links no client": {pkg: "verdict", linked: true, never: []string{"k8s.io/client-go", "sigs.k8s.io/controller-runtime"}},
		"manifests are read without a client": {
			pkg: "manifests", linked: true, never: append(ours("controllers", "cluster", "probe!", "verdict", "check", "diff", "explain", "schema", "test", "cmd"), "k8s.io/client-go", "sigs.k8s.io/controller-runtime"),
		},
		"manifests know the types and the libraries that decode them": {
			pkg: "manifests", only: append(ours("api", "flow", "evaluator", "plan"), "k8s.io/api", "k8s.io/apimachinery", "sigs.k8s.io/network-policy-api/apis", "sigs.k8s.io/yaml", "sigs.k8s.io/json", "go.yaml.in/yaml"),
		},
		"explain asks the evaluator": {
			pkg: "explain", only: append(ours("flow", "evaluator"), "k8s.io/api", "k8s.io/apimachinery", "sigs.k8s.io/network-policy-api/apis"),
		},
		"check compares what others read and predict": {
			pkg: "check", only: append(ours("api", "evaluator", "explain", "manifests", "plan"), "k8s.io/apimachinery"),
		},
		"a cluster is read for manifests to be laid over": {
			pkg: "cluster", only: append(ours("api", "evaluator", "manifests"), "k8s.io/api", "k8s.io/apimachinery", "k8s.io/client-go", "golang.org/x/sync", "sigs.k8s.io/network-policy-api/apis"),
		},
		"a diagnosis is words for what was measured": {
			pkg: "diagnosis", linked: true, never: append(ours("cluster", "controllers", "doctor", "podlog", "probe!"), "k8s.io/client-go", "sigs.k8s.io/controller-runtime"),
		},
		"a diagnosis knows rows and results": {pkg: "diagnosis", only: ours("api", "canary")},
		"doctor measures as the canary does, without an operator": {
			pkg: "doctor", only: append(ours("api", "canary", "cluster", "diagnosis", "evaluator", "flow", "podlog", "probe/wire", "probepod"),
				"k8s.io/api", "k8s.io/apimachinery", "k8s.io/client-go", "k8s.io/utils", "golang.org/x/sync"),
		},
		"diff links no client": {
			pkg: "diff", linked: true, never: append(ours("cluster", "controllers", "probe!", "cmd", "test"), "k8s.io/client-go", "sigs.k8s.io/controller-runtime"),
		},
		"diff asks the evaluator": {
			pkg: "diff", only: append(ours("flow", "evaluator", "explain"), "k8s.io/api", "k8s.io/apimachinery", "sigs.k8s.io/network-policy-api/apis"),
		},
		"matrix asks the evaluator": {
			pkg: "matrix", only: append(ours("flow", "evaluator", "explain"), "k8s.io/api", "k8s.io/apimachinery"),
		},
		"matrix links no client":            {pkg: "matrix", linked: true, never: []string{"k8s.io/client-go", "sigs.k8s.io/controller-runtime"}},
		"the CRD's rules know none of ours": {pkg: "schema", linked: true, never: []string{module + "/api", module + "/controllers", module + "/plan", module + "/test"}},
		"the command line is no operator and sends no probe": {
			pkg: "cmd/pathproof", linked: true, never: append(ours("controllers", "probe!", "test"), "sigs.k8s.io/controller-runtime"),
		},
		"the API types are for others to import": {
			pkg: "api", below: true, linked: true, never: []string{"k8s.io/client-go", "sigs.k8s.io/controller-runtime", module + "/controllers", module + "/plan", module + "/flow", module + "/evaluator", module + "/verdict", module + "/probe"},
		},
		"the operator knows the wire contract, not the probe": {pkg: "controllers", linked: true, never: []string{module + "/probe!"}},
		"the manager does not link the probe":                 {pkg: "cmd/manager", linked: true, never: []string{module + "/probe!", module + "/test"}},
	}
	all := list(t)
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			found := false
			for path, p := range all {
				pkg := module + "/" + tc.pkg
				if path != pkg && (!tc.below || !within(path, []string{pkg})) {
					continue
				}
				found = true
				imports := p.Imports
				if tc.linked {
					imports = p.Deps
				}
				for _, i := range imports {
					switch {
					case all[i].Standard:
					case within(i, tc.never):
						t.Errorf("%s depends on %s", path, i)
					case tc.only != nil && !within(i, tc.only):
						t.Errorf("%s depends on %s, which is not among %v", path, i, tc.only)
					}
				}
			}
			if !found {
				t.Errorf("there is no package %s", tc.pkg)
			}
		})
	}
}

// The lab runs any operator: it knows nothing of this one.
func TestLabKnowsNothingOfUs(t *testing.T) {
	lab := ours("test/lab")
	n := 0
	for path, p := range list(t) {
		if !within(path, lab) {
			continue
		}
		n++
		for _, i := range p.Imports {
			if within(i, []string{module}) && !within(i, lab) {
				t.Errorf("%s imports %s", path, i)
			}
		}
	}
	if n == 0 {
		t.Error("there is no lab")
	}
}

// A name says what a package is about.
func TestPackageNamesSayWhatTheyHold(t *testing.T) {
	for path, p := range list(t) {
		if !within(path, []string{module}) {
			continue
		}
		for _, name := range []string{p.Name, filepath.Base(path)} {
			if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "types", "misc", "shared"}, name) {
				t.Errorf("package %s is named %s: name it after what it holds", path, name)
			}
		}
	}
}

// A file is read from its beginning to its end, a function on one screen or two.
func TestFilesAndFunctionsAreShort(t *testing.T) {
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "bin" || d.Name() == "testdata"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		files++
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		if ast.IsGenerated(file) {
			return nil
		}
		if n := set.Position(file.FileEnd).Line; n > maxFileLines {
			t.Errorf("%s has %d lines, at most %d are allowed: split it by what it is about", path, n, maxFileLines)
		}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := set.Position(f.End()).Line - set.Position(f.Pos()).Line + 1; n > maxFunctionLines {
				t.Errorf("%s: %s has %d lines, at most %d are allowed", set.Position(f.Pos()), f.Name.Name, n, maxFunctionLines)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 50 {
		t.Errorf("looked at %d files: the tree is not where it is looked for", files)
	}
}
