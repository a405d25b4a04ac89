// Package docs tests that what the documentation says is accepted, complete and
// linked.
package docs

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/yaml"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/schema"
	"github.com/pathproof/pathproof/verdict"
)

const root = "../.."

// pages are all documents for people.
func pages(t *testing.T) []string {
	t.Helper()
	docs, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	top, err := filepath.Glob(filepath.Join(root, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	if len(docs) < 6 || len(top) < 4 {
		t.Fatalf("found %d and %d pages: the test looks in the wrong place", len(docs), len(top))
	}
	return append(top, docs...)
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var fence = regexp.MustCompile("(?ms)^```ya?ml\n(.*?)^```")

// Every YAML that a user may copy is accepted by the API server.
func TestExamplesAreValid(t *testing.T) {
	texts := map[string]string{}
	for _, page := range pages(t) {
		for i, m := range fence.FindAllStringSubmatch(read(t, page), -1) {
			texts[fmt.Sprintf("%s#%d", filepath.Base(page), i)] = m[1]
		}
	}
	for _, dir := range []string{"config/samples", "config/canary", "test/e2e/testdata"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d os.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".yaml") && d.Name() != "kustomization.yaml" {
				texts[path] = read(t, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	validators := map[string]*schema.Validator{}
	for kind, plural := range map[string]string{"ConnectivityExpectation": "connectivityexpectations", "EnforcementCanary": "enforcementcanaries"} {
		v, err := schema.New(filepath.Join(root, "config/crd/bases/pathproof.dev_"+plural+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		validators[kind] = v
	}
	found := map[string]int{}
	for name, text := range texts {
		docs, err := schema.Documents([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, doc := range docs {
			kind, _ := doc["kind"].(string)
			if v := validators[kind]; v != nil {
				found[kind]++
				for _, err := range v.Validate(t.Context(), doc) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if err := strict(doc); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if found["ConnectivityExpectation"] < 3 || found["EnforcementCanary"] < 2 {
		t.Errorf("found %v, want at least the expectations of README, samples and tests, and the canary of config and docs", found)
	}
}

// strict decodes an object into its type; a field that the type lacks is an error.
func strict(doc map[string]any) error {
	kinds := map[string]any{
		"ConnectivityExpectation": &v1alpha1.ConnectivityExpectation{}, "EnforcementCanary": &v1alpha1.EnforcementCanary{}, "NetworkPolicy": &networkingv1.NetworkPolicy{},
		"ClusterNetworkPolicy": &policyv1alpha2.ClusterNetworkPolicy{},
		"Namespace":            &corev1.Namespace{}, "Service": &corev1.Service{}, "Deployment": &appsv1.Deployment{}, "DaemonSet": &appsv1.DaemonSet{}, "Pod": &corev1.Pod{},
	}
	kind, _ := doc["kind"].(string)
	into, ok := kinds[kind]
	if !ok {
		return fmt.Errorf("kind %q is not known to this test", kind)
	}
	text, err := yaml.Marshal(doc)
	if err != nil {
		return err
	}
	return yaml.UnmarshalStrict(text, into)
}

// constants returns the values of the string constants of a file whose names have
// a prefix, so that a new one cannot be forgotten here.
func constants(t *testing.T, file, prefix string) []string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for i, name := range spec.Names {
			if !strings.HasPrefix(name.Name, prefix) || i >= len(spec.Values) {
				continue
			}
			if lit, ok := spec.Values[i].(*ast.BasicLit); ok && lit.Kind == token.STRING {
				value, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Fatalf("%s: %s: %v", file, name.Name, err)
				}
				out = append(out, value)
			}
		}
		return true
	})
	return out
}

var heading = regexp.MustCompile(`(?m)^### (\w+)$`)

// Whoever sees a reason in a condition finds it in the troubleshooting guide.
func TestEveryReasonIsExplained(t *testing.T) {
	want := slices.Concat(
		constants(t, filepath.Join(root, "verdict/summary.go"), "Reason"),
		constants(t, filepath.Join(root, "api/v1alpha1/conditions.go"), "Reason"),
		constants(t, filepath.Join(root, "api/v1alpha1/canary_conditions.go"), "Reason"),
	)
	if len(want) < 10 {
		t.Fatalf("found the reasons %q only: the test looks in the wrong place", want)
	}
	for _, c := range verdict.Causes() {
		if c != verdict.None {
			want = append(want, string(c))
		}
	}
	var got []string
	for _, m := range heading.FindAllStringSubmatch(read(t, filepath.Join(root, "docs/troubleshooting.md")), -1) {
		got = append(got, m[1])
	}
	if sorted := slices.Sorted(slices.Values(got)); len(slices.Compact(sorted)) != len(got) {
		t.Errorf("docs/troubleshooting.md explains a reason twice: %q", got)
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("docs/troubleshooting.md has no heading %q", "### "+w)
		}
	}
	for _, g := range got {
		if !slices.Contains(want, g) {
			t.Errorf("docs/troubleshooting.md explains %s, which is no reason", g)
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)

func TestLinksResolve(t *testing.T) {
	for _, page := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", page, m[1], err)
			}
		}
	}
}

func TestReadmeIsShort(t *testing.T) {
	if n := strings.Count(read(t, filepath.Join(root, "README.md")), "\n"); n > 200 {
		t.Errorf("README.md has %d lines, want at most 200", n)
	}
}
