package manifests

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pathproof/pathproof/evaluator"
)

// readBytes reads a text as if it came through a pipe.
func readBytes(text []byte, o Options) *Result {
	o.Stdin = bytes.NewReader(text)
	return Read([]string{"-"}, o)
}

// pod is a manifest with something in its metadata and its spec.
func pod(name string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\nspec: {containers: []}\n"
}

const listOfTwo = `{"apiVersion":"v1","items":[
  {"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"x"}},
  {"apiVersion":"v1","kind":"Pod","metadata":{"name":"b","namespace":"x"}}
],"kind":"List","metadata":{"resourceVersion":""}}`

func TestStrictness(t *testing.T) {
	cases := map[string]struct {
		text string
		// want is part of each problem, in order, with the line.
		want []string
		// wantPods are the names of the pods that are read all the same.
		wantPods []string
	}{
		"a document":                            {pod("a"), nil, []string{"default/a"}},
		"several documents":                     {pod("a") + "---\n" + pod("b"), nil, []string{"default/a", "default/b"}},
		"comments and empty documents":          {"# nothing\n---\n---\n# nothing\n---\n" + pod("a") + "---\n\n", nil, []string{"default/a"}},
		"nothing at all":                        {"", []string{"in.yaml: is empty: write manifests, or look whether the command that makes them has failed"}, nil},
		"a comment and no more":                 {"# nothing", []string{"is empty"}, nil},
		"a null and no more":                    {"null\n", nil, nil},
		"a list whose items are a mapping":      {pod("a") + "---\napiVersion: v1\nkind: List\nitems:\n  apiVersion: v1\n  kind: Pod\n", []string{"in.yaml:8: List: items is of the wrong type: it is a mapping, and must be a list"}, []string{"default/a"}},
		"a list with a misspelt field":          {"apiVersion: v1\nkind: PodList\nmetadata: {}\nitmes: []\n", []string{"in.yaml:4: PodList has no field itmes: what it holds is below items"}, nil},
		"items twice in JSON":                   {`{"apiVersion":"v1","kind":"List","items":[],"items":[{"kind":"Pod"}]}`, []string{`key "items" already set in map`}, nil},
		"a merged key that is overridden":       {"apiVersion: v1\nkind: Pod\nmetadata:\n  annotations: &c {a: x, b: x}\n  labels: {<<: *c, b: z}\n  name: a\n", nil, []string{"default/a"}},
		"a key twice beside a merged one":       {"apiVersion: v1\nkind: Pod\nmetadata:\n  annotations: &c {a: x}\n  labels: {<<: *c}\n  name: a\n  name: b\n", []string{`in.yaml:7: cannot be parsed as YAML: key "name" already set in map`}, nil},
		"line ends of old Macs":                 {strings.ReplaceAll(pod("a")+"---\n"+pod("b"), "\n", "\r"), []string{"in.yaml:1: lines end with a carriage return alone"}, nil},
		"null and empty mappings":               {"null\n---\n{}\n---\n" + pod("a"), nil, []string{"default/a"}},
		"a document behind its end marker":      {pod("a") + "...\n" + pod("b"), nil, []string{"default/a", "default/b"}},
		"a directive":                           {"%YAML 1.1\n---\n" + pod("a"), nil, []string{"default/a"}},
		"content behind the marker":             {"--- {apiVersion: v1, kind: Pod, metadata: {name: a}}\n", nil, []string{"default/a"}},
		"Windows line ends":                     {strings.ReplaceAll(pod("a")+"---\n"+pod("b"), "\n", "\r\n"), nil, []string{"default/a", "default/b"}},
		"JSON documents in YAML":                {"---\n{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"a\"}}\n---\n" + pod("b"), nil, []string{"default/a", "default/b"}},
		"JSON objects one after the other":      {`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}` + "\n" + `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b"}}`, nil, []string{"default/a", "default/b"}},
		"a JSON list whose kind comes last":     {listOfTwo, nil, []string{"x/a", "x/b"}},
		"a YAML list":                           {"apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a}\n", nil, []string{"default/a"}},
		"a typed list":                          {"apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: a}\n", nil, []string{"default/a"}},
		"a typed JSON list":                     {`{"items":[{"metadata":{"name":"a"}}],"kind":"PodList","apiVersion":"v1"}`, nil, []string{"default/a"}},
		"an empty list":                         {"apiVersion: v1\nkind: List\nitems: []\n---\napiVersion: v1\nkind: PodList\nmetadata: {}\n", nil, nil},
		"an unknown field":                      {pod("a") + "---\n" + "apiVersion: v1\nkind: Pod\nmetadata:\n  name: b\n  lables: {}\n", []string{`in.yaml:10: Pod b: unknown field "metadata.lables"`}, []string{"default/a", "default/b"}},
		"an unknown field of a policy":          {"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec:\n  podSelector: {}\n  ingress:\n  - form: []\n", []string{`in.yaml:7: NetworkPolicy p: unknown field "spec.ingress[0].form"`}, nil},
		"an unknown field of a list's item":     {"apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata:\n    name: a\n    nmaespace: x\n", []string{`in.yaml:8 (items[0]): Pod a: unknown field "metadata.nmaespace"`}, []string{"default/a"}},
		"a field in other capitals":             {"apiVersion: v1\nkind: Pod\nmetadata:\n  Name: a\n", []string{`unknown field "metadata.Name"`, "has no name"}, nil},
		"a key twice":                           {"apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  name: b\n", []string{`in.yaml:5: cannot be parsed as YAML: key "name" already set in map`}, nil},
		"a key twice in JSON":                   {`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","name":"b"}}`, []string{`duplicate field "metadata.name"`}, []string{"default/b"}},
		"text that is not YAML":                 {pod("a") + "---\nkind: [\n", []string{"in.yaml:6: cannot be parsed as YAML"}, []string{"default/a"}},
		"a template":                            {"apiVersion: v1\nkind: Pod\nmetadata: {name: {{ .Values.name }}}\n", []string{"helm template DIR"}, nil},
		"a tab":                                 {"apiVersion: v1\nkind: Pod\nmetadata:\n\tname: a\n", []string{"indent with spaces"}, nil},
		"a boolean for a namespace":             {"apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  namespace: y\n", []string{`in.yaml:5: Pod: metadata.namespace must be text, and YAML reads y as a bool: quote it, as in "y"`}, nil},
		"a boolean for a label":                 {"apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n    app: on\n", []string{`in.yaml:6: Pod: metadata.labels.app must be text, and YAML reads on as a bool: quote it, as in "on"`}, nil},
		"a number for a label":                  {"apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels: {v: 1.20}\n", []string{`must be text, and YAML reads 1.20 as a number: quote it, as in "1.20"`}, nil},
		"a mapping for a list":                  {"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers: {}\n", []string{"in.yaml:5: Pod: spec.containers is of the wrong type: it is a mapping, and must be a list"}, nil},
		"no kind":                               {"a: b\n", []string{"in.yaml:1: has no kind"}, nil},
		"no apiVersion":                         {"kind: Pod\nmetadata: {name: a}\n", []string{"in.yaml:1: has no apiVersion"}, nil},
		"a scalar":                              {"hello\n", []string{"in.yaml:1: is not a Kubernetes object"}, nil},
		"a kind that is a number":               {"apiVersion: v1\nkind: 3\n", []string{"kind must be text"}, nil},
		"no name":                               {"apiVersion: v1\nkind: Pod\nmetadata: {}\n", []string{"has no name: write metadata.name"}, nil},
		"a generated name":                      {"apiVersion: v1\nkind: Pod\nmetadata: {generateName: a-}\n", []string{"has generateName only"}, nil},
		"an object twice":                       {pod("a") + "---\n" + pod("a"), []string{"in.yaml:6: Pod default/a: is defined twice, the first time in in.yaml:1"}, []string{"default/a"}},
		"an old version of a known kind":        {"apiVersion: extensions/v1beta1\nkind: Deployment\nmetadata: {name: a}\n", []string{"write apiVersion: apps/v1"}, nil},
		"a known kind in the wrong group":       {"apiVersion: v1\nkind: NetworkPolicy\nmetadata: {name: a}\n", []string{"write apiVersion: networking.k8s.io/v1"}, nil},
		"objects behind a flow mapping":         {"{apiVersion: v1, kind: Pod, metadata: {name: a}}\n{apiVersion: v1, kind: Pod, metadata: {name: b}}\n", []string{"something follows the end of the object"}, nil},
		"JSON that ends early in YAML":          {"{\"apiVersion\": \"v1\",\n", []string{"cannot be parsed as YAML"}, nil},
		"several mistakes in several documents": {pod("a") + "---\nx: [\n---\n" + pod("b") + "---\na: b\n", []string{"in.yaml:6", "in.yaml:13"}, []string{"default/a", "default/b"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "in.yaml")
			if err := os.WriteFile(file, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			r := Read([]string{file}, Options{})
			if len(r.Problems) != len(tc.want) {
				t.Fatalf("got the problems %v, want %q", r.Problems, tc.want)
			}
			for i, p := range r.Problems {
				got := strings.ReplaceAll(p.String(), file, "in.yaml")
				if !strings.Contains(got, tc.want[i]) {
					t.Errorf("got %q, want %q", got, tc.want[i])
				}
			}
			var pods []string
			for _, p := range r.Snapshot.Pods {
				pods = append(pods, p.Namespace+"/"+p.Name)
			}
			if !slices.Equal(pods, tc.wantPods) {
				t.Errorf("got the pods %q, want %q", pods, tc.wantPods)
			}
		})
	}
}

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFoldersAreReadRecursively(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"a.yaml": pod("a"), "below/b.yml": pod("b"), "below/deeper/c.JSON": `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"c"}}`,
		"README.md": "not YAML: [", ".git/d.yaml": "kind: [", ".hidden.yaml": "kind: [",
	})
	// Naming a file that lies in a folder that is named too is no duplicate.
	r := Read([]string{dir, filepath.Join(dir, "a.yaml")}, Options{Namespace: "n"})
	if len(r.Problems) > 0 || len(r.Snapshot.Pods) != 3 || r.Objects != 3 {
		t.Fatalf("got %v and %d pods", r.Problems, len(r.Snapshot.Pods))
	}
	for _, p := range r.Snapshot.Pods {
		if p.Namespace != "n" {
			t.Errorf("%s is in namespace %s, want n", p.Name, p.Namespace)
		}
	}
}

// Links lead to folders and files, which are read once, and to themselves.
func TestLinksAreFollowed(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"base/a.yaml": pod("a"), "prod/b.yaml": pod("b"), "prod/below/c.yaml": pod("c")})
	for name, to := range map[string]string{"prod/base": "../base", "prod/below/loop": "..", "prod/b2.yaml": "b.yaml", "named": "prod", "prod/below/gone": "nowhere"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]int{"prod": 3, "named": 3, "": 3, "prod/below/loop": 3, "base": 1} {
		r := Read([]string{filepath.Join(dir, path)}, Options{})
		if len(r.Problems) > 0 || len(r.Snapshot.Pods) != want {
			t.Errorf("%q: got %v and %d pods, want %d", path, r.Problems, len(r.Snapshot.Pods), want)
		}
	}
}

// What begins with a dot is left out, unless it is named, however that is written.
func TestHiddenFoldersCanBeNamed(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{".ci/a.yaml": pod("a"), "b.yaml": pod("b")})
	t.Chdir(dir)
	for path, want := range map[string]int{".": 1, "./": 1, ".ci": 1, "./.ci/": 1} {
		if r := Read([]string{path}, Options{}); len(r.Problems) > 0 || len(r.Snapshot.Pods) != want {
			t.Errorf("%q: got %v and %d pods, want %d", path, r.Problems, len(r.Snapshot.Pods), want)
		}
	}
}

func TestWhatCannotBeReadIsAProblem(t *testing.T) {
	empty := t.TempDir()
	broken := filepath.Join(t.TempDir(), "broken.json")
	write(t, filepath.Dir(broken), map[string]string{"broken.json": "{\"apiVersion\": \"v1\",\n \"kind\": \"List\", \"items\": [\n{\"kind\": }]}"})
	utf16 := filepath.Join(t.TempDir(), "x.yaml")
	write(t, filepath.Dir(utf16), map[string]string{"x.yaml": "\xff\xfek\x00"})
	cases := map[string]struct{ path, want string }{
		"a file that does not exist":      {"/nowhere/a.yaml", "there is no such file or folder"},
		"a folder without manifests":      {empty, "holds no .yaml, .yml or .json file"},
		"JSON that is broken":             {broken, "broken.json:3: is not JSON"},
		"a file in another character set": {utf16, "save it as UTF-8"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := Read([]string{tc.path}, Options{})
			if len(r.Problems) != 1 || !strings.Contains(r.Problems[0].String(), tc.want) {
				t.Errorf("got %v, want %q", r.Problems, tc.want)
			}
		})
	}
}

func TestUnknownKindsAreCounted(t *testing.T) {
	text := `apiVersion: v1
kind: ConfigMap
metadata: {name: a}
---
apiVersion: v1
kind: List
items: [{apiVersion: v1, kind: ConfigMap, metadata: {name: b}}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: c}
---
apiVersion: crd.projectcalico.org/v1
kind: NetworkPolicy
metadata: {name: c}
---
apiVersion: example.org/v1
kind: FancyNetworkPolicy
metadata: {name: c}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: c}
---
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [a.yaml]
---
resources: [b.yaml]
`
	r := readBytes([]byte(text), Options{})
	if len(r.Problems) > 0 {
		t.Fatal(r.Problems)
	}
	var got []string
	for _, s := range r.Skipped {
		got = append(got, fmt.Sprintf("%s %d policy=%v hint=%v", s.Kind, s.Count, s.Policy, s.Hint != ""))
	}
	want := []string{
		"AuthorizationPolicy 1 policy=true hint=false", "CiliumNetworkPolicy 1 policy=true hint=false", "ConfigMap 2 policy=false hint=false",
		"FancyNetworkPolicy 1 policy=true hint=false",
		"Kustomization 1 policy=false hint=true", "Kustomization 1 policy=false hint=true", "NetworkPolicy 1 policy=true hint=false",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	r = readBytes([]byte(text), Options{IgnoredKinds: []string{"ciliumnetworkpolicy", "NetworkPolicy.crd.projectcalico.org"}})
	if n := len(r.Unmodelled()); n != 2 {
		t.Errorf("%d kinds are left after two were ignored, want 2", n)
	}
	if n := len(r.Snapshot.Unmodelled); n != 2 {
		t.Errorf("the evaluator hears of %d objects, want 2", n)
	}
}

func TestPoliciesOfOtherKindsReachTheEvaluator(t *testing.T) {
	r := readBytes([]byte(`apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: a, namespace: shop}
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: b}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: c, namespace: istio-system}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: broken
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: d}
spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [203.0.113.0/24]}]}]}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: e}
spec: {priority: 1, subject: {namespaces: {}}}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {name: default}
spec: {subject: {namespaces: {}}}
`), Options{})
	if len(r.Problems) > 0 {
		t.Fatal(r.Problems)
	}
	const cilium = "CiliumNetworkPolicy.cilium.io"
	want := []evaluator.Unmodelled{
		{Kind: cilium, Namespace: "shop", Name: "a"}, {Kind: "CiliumClusterwideNetworkPolicy.cilium.io", Name: "b"},
		{Kind: "AuthorizationPolicy.security.istio.io", Name: "c"}, {Kind: cilium, Name: "without a name"},
	}
	if !slices.Equal(r.Snapshot.Unmodelled, want) {
		t.Errorf("got %v, want %v", r.Snapshot.Unmodelled, want)
	}
	if n := [3]int{len(r.Snapshot.ClusterNetworkPolicies), len(r.Snapshot.AdminNetworkPolicies), len(r.Snapshot.BaselineAdminNetworkPolicies)}; n != [3]int{1, 1, 1} {
		t.Errorf("read %v cluster-wide policies, want one of each kind", n)
	}
}

// A hundred bytes must not become a hundred gigabytes.
func TestAliasesAreBounded(t *testing.T) {
	bomb := "a: &a [" + strings.Repeat("x, ", 9) + "]\n"
	for c := 'b'; c <= 'k'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c, ", c-1), 9), ", "))
	}
	text := "a: &a " + strings.Repeat("x", 1<<20) + "\nb: [" + strings.TrimSuffix(strings.Repeat("*a, ", 500), ", ") + "]\n"
	cases := map[string]struct{ text, want string }{
		"a bomb of lists":       {bomb, "expand to more than"},
		"a bomb of texts":       {text, "expand to more than"},
		"a list in itself":      {"a: &a [*a]\n", "expand to more than"},
		"nesting without end":   {strings.Repeat("[", 20000), "cannot be parsed as YAML"},
		"an alias as it should": {"apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: &l {app: x}, annotations: *l}\n", ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := readBytes([]byte(tc.text), Options{})
			switch {
			case tc.want == "" && len(r.Problems) > 0:
				t.Error(r.Problems)
			case tc.want != "" && (len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Message, tc.want)):
				t.Errorf("got %.300v, want %q", r.Problems, tc.want)
			}
		})
	}
}

func TestDocumentsAreBounded(t *testing.T) {
	text := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  x: |\n" + strings.Repeat("    "+strings.Repeat("x", 1000)+"\n", MaxDocument/1000) + "---\n" + pod("a")
	r := readBytes([]byte(text), Options{})
	if len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Message, "larger than 32 MiB") || len(r.Snapshot.Pods) != 1 {
		t.Errorf("got %.300v and %d pods", r.Problems, len(r.Snapshot.Pods))
	}
}
