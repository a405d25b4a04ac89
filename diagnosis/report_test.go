package diagnosis

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); if that is meant, run the test with -update:\n%s", path, diff)
	}
}

const gotThrough = "plain on %s to guarded on %[1]s, TCP 9001, gets through, although no rule allows it"

// findings are those of nodes whose rows are Enforced, but for SCTP, which is Unsupported,
// and for what of says, unless it says nothing.
func findings(nodes []string, of func(node string, row canary.Name) canary.Result) Findings {
	f := Findings{
		Server: "https://192.0.2.1:6443", Image: "ghcr.io/pathproof/probe:v0.1.0", StartedAt: time.Unix(1_700_000_000, 0), Elapsed: 23_400 * time.Millisecond,
		Rounds: 1, Chosen: len(nodes), Rows: canary.Rows(canary.Features()), Results: Results{},
	}
	for _, node := range nodes {
		f.Results[node] = map[canary.Name]canary.Result{}
		for _, row := range f.Rows {
			res := canary.Result{Verdict: canary.Enforced}
			if row.Feature == v1alpha1.FeatureSCTP {
				res = canary.Result{Verdict: canary.Unsupported, Message: "node " + node + " does not support SCTP"}
			}
			if of != nil {
				if other := of(node, row.Name()); other.Verdict != "" {
					res = other
				}
			}
			f.Results[node][row.Name()] = res
		}
	}
	return f
}

func off(node string, row canary.Name) canary.Result {
	if row.Feature == v1alpha1.FeatureSCTP {
		return canary.Result{}
	}
	return canary.Result{Verdict: canary.NotEnforced, Message: fmt.Sprintf(gotThrough, node)}
}

func only(nodes string, of func(string, canary.Name) canary.Result) func(string, canary.Name) canary.Result {
	return func(node string, row canary.Name) canary.Result {
		if !strings.Contains(nodes, node) {
			return canary.Result{}
		}
		return of(node, row)
	}
}

var calico = []Implementation{{Name: "calico", RecognisedBy: "k8s-app=calico-node", Namespace: "kube-system", Pods: 3}}

// scenarios are what the golden files show.
func scenarios() map[string]Findings {
	two := []string{"node-a", "node-b"}
	enforced := findings([]string{"node-a", "node-b", "node-c"}, nil)
	enforced.Implementations = calico

	none := findings(two, off)
	none.Rounds, none.Implementations = 2, []Implementation{{Name: "flannel", RecognisedBy: "app=flannel", Namespace: "kube-flannel", Pods: 2, EnforcesNothing: true}}

	dead := findings(two, only("node-b", off))
	dead.Rounds, dead.Implementations = 2, calico

	ingress := findings(two, func(node string, row canary.Name) canary.Result {
		if row.Direction == v1alpha1.DirectionEgress && row.Feature == v1alpha1.FeatureUDP {
			return canary.Result{Verdict: canary.NotEnforced, Message: "guarded on " + node + " to plain on " + node + ", UDP 9002, gets through, although no rule allows it"}
		}
		return canary.Result{}
	})
	ingress.Rounds = 2

	one := findings([]string{"node-a"}, nil)

	nodes := make([]string, 0, 20)
	for i := range 20 {
		nodes = append(nodes, fmt.Sprintf("worker-%02d", i))
	}
	many := findings(nodes, only("worker-03", func(string, canary.Name) canary.Result {
		return canary.Result{Verdict: canary.Unknown, Message: "node worker-03 does not take part: its pod plain-x does not run: Unschedulable 0/23 nodes are available"}
	}))
	many.Chosen, many.Rounds, many.Implementations = 23, 3, calico
	many.LeftOut = []LeftOut{
		{"worker-22", LeftOutSampled, "it is not in the sample of 20 nodes (--max-nodes)"},
		{"worker-20", canary.LeftOutCordoned, "the node is cordoned"},
		{"worker-21", LeftOutSampled, "it is not in the sample of 20 nodes (--max-nodes)"},
	}
	many.Notes = []string{"Policies take effect late: <something>."}

	image := Findings{
		Server: "https://192.0.2.1:6443", Image: "registry.example/probe:v1", StartedAt: time.Unix(1_700_000_000, 0), Elapsed: 9 * time.Second, Chosen: 2,
		Rows: canary.Rows(canary.Features()), Obstacle: "no node can pull the image registry.example/probe:v1: ImagePullBackOff", Advice: []string{"Name an image that the nodes can pull with --image."},
	}
	return map[string]Findings{"enforced": enforced, "none": none, "dead-node": dead, "feature": ingress, "one-node": one, "many": many, "image": image}
}

func TestOutputs(t *testing.T) {
	for name, f := range scenarios() {
		t.Run(name, func(t *testing.T) {
			r := New(f)
			for ext, write := range map[string]func(*bytes.Buffer) error{
				"txt": func(b *bytes.Buffer) error { return r.Table(b, false) }, "html": func(b *bytes.Buffer) error { return r.HTML(b) },
				"json": func(b *bytes.Buffer) error { return r.JSON(b) },
			} {
				var b bytes.Buffer
				if err := write(&b); err != nil {
					t.Fatal(err)
				}
				golden(t, name+"."+ext, b.String())
			}
		})
	}
}

// What the README shows is how a report of the lab begins, of which enforcement was off on a
// node: testdata has what `pathproof doctor -o json` said of it.
func TestReadmeShowsAReport(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(readme), "<!-- output:doctor -->\n```\n$ pathproof doctor\n")
	shown, _, ended := strings.Cut(rest, "```\n<!-- /output -->")
	if !found || !ended {
		t.Fatal("the README shows no report")
	}
	var b strings.Builder
	text, err := os.ReadFile("testdata/lab-one-node.json")
	if err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if err := r.Table(&b, false); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(b.String(), shown) || !strings.Contains(shown, "FEATURE") {
		t.Errorf("the report is\n%s\nand the README shows\n%s", b.String(), shown)
	}
}

// A page needs no other file, and what comes from a cluster is text in it.
func TestPageStandsAlone(t *testing.T) {
	f := scenarios()["none"]
	f.Notes = []string{`<script src="x">`}
	var b bytes.Buffer
	if err := New(f).HTML(&b); err != nil {
		t.Fatal(err)
	}
	for _, never := range []string{"<script", "<link", "<img", "url(", "@import", "src="} {
		if text := strings.ReplaceAll(b.String(), "&lt;script src=", ""); strings.Contains(text, never) {
			t.Errorf("the page has %q", never)
		}
	}
}

// Colours are for terminals, and change no character.
func TestColoursOnlyPaint(t *testing.T) {
	r := New(scenarios()["dead-node"])
	var plain, painted bytes.Buffer
	if err := r.Table(&plain, false); err != nil {
		t.Fatal(err)
	}
	if err := r.Table(&painted, true); err != nil {
		t.Fatal(err)
	}
	text := painted.String()
	for _, color := range cellColors {
		text = strings.ReplaceAll(text, color, "")
	}
	if text = strings.ReplaceAll(text, "\x1b[0m", ""); text != plain.String() || painted.Len() == plain.Len() {
		t.Errorf("painted:\n%s\nplain:\n%s", text, plain.String())
	}
}

func TestVerdict(t *testing.T) {
	unknown := func(string, canary.Name) canary.Result { return canary.Result{Verdict: canary.Unknown, Message: "why"} }
	unsupported := func(string, canary.Name) canary.Result { return canary.Result{Verdict: canary.Unsupported} }
	in := func(name canary.Name, of func(string, canary.Name) canary.Result) func(string, canary.Name) canary.Result {
		return func(node string, row canary.Name) canary.Result {
			if row != name {
				return canary.Result{}
			}
			return of(node, row)
		}
	}
	udp := canary.Name{Feature: v1alpha1.FeatureUDP, Direction: v1alpha1.DirectionEgress}
	two := []string{"a", "b"}
	left := func(reason string) func(*Findings) {
		return func(f *Findings) { f.LeftOut, f.Chosen = []LeftOut{{"c", reason, "why"}}, 3 }
	}
	for name, tc := range map[string]struct {
		of     func(string, canary.Name) canary.Result
		change func(*Findings)
		want   canary.Verdict
	}{
		"everything is enforced": {want: canary.Enforced},
		"one row is not":         {of: only("b", in(udp, off)), want: canary.NotEnforced},
		"one row is unknown":     {of: only("b", in(udp, unknown)), want: canary.Unknown},
		"what is not outranks what is unknown": {of: func(n string, r canary.Name) canary.Result {
			if n == "a" {
				return unknown(n, r)
			}
			return in(udp, off)(n, r)
		}, want: canary.NotEnforced},
		"a feature is unsupported":            {of: in(udp, unsupported), want: canary.Enforced},
		"nothing could have failed on a node": {of: only("b", unsupported), want: canary.Unknown},
		"a row is missing":                    {change: func(f *Findings) { delete(f.Results["a"], udp) }, want: canary.Unknown},
		"no node was tested":                  {change: func(f *Findings) { f.Results = nil }, want: canary.Unknown},
		"nothing could be measured":           {change: func(f *Findings) { f.Obstacle = "why" }, want: canary.Unknown},
		"a node is cordoned":                  {change: left(canary.LeftOutCordoned), want: canary.Unknown},
		"a node is not ready":                 {change: left(canary.LeftOutNotReady), want: canary.Unknown},
		"a node is not in the sample":         {change: left(LeftOutSampled), want: canary.Enforced},
		"a node runs Windows":                 {change: left(canary.LeftOutWindows), want: canary.Enforced},
	} {
		t.Run(name, func(t *testing.T) {
			f := findings(two, tc.of)
			if tc.change != nil {
				tc.change(&f)
			}
			r := New(f)
			if r.Verdict != tc.want {
				t.Errorf("got %s (%s), want %s", r.Verdict, r.Summary, tc.want)
			}
			if strings.Contains(r.Summary, "NOT") != (tc.want == canary.NotEnforced) || (tc.want == canary.Unknown && !strings.Contains(r.Summary, "be found out")) {
				t.Errorf("%s is said as: %s", tc.want, r.Summary)
			}
			if r.Verdict == canary.Enforced && !strings.HasPrefix(r.Summary, "NetworkPolicies are enforced") {
				t.Errorf("%s is said as: %s", tc.want, r.Summary)
			}
		})
	}
}

// Whatever the results are, a report is Enforced only if nothing in it speaks against it,
// and what JSON readers see is the same.
func TestUnknownIsNeverEnforced(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	verdicts := []canary.Verdict{canary.Enforced, canary.Enforced, canary.Enforced, canary.Unsupported, canary.Unknown, canary.NotEnforced}
	seen := map[canary.Verdict]int{}
	for range 3000 {
		kinds := verdicts[:1+random.IntN(len(verdicts))]
		spoiled := random.IntN(4) // most reports with any doubt would be spoiled otherwise
		f := findings([]string{"a", "b"}[:1+random.IntN(2)], func(string, canary.Name) canary.Result {
			v := canary.Enforced
			if random.IntN(20) < spoiled {
				v = kinds[random.IntN(len(kinds))]
			}
			return canary.Result{Verdict: v, Message: "m"}
		})
		r := New(f)
		seen[r.Verdict]++
		if r.Verdict == canary.Enforced && r.count(canary.Unknown)+r.count(canary.NotEnforced) > 0 || (r.Verdict == canary.NotEnforced) != (r.count(canary.NotEnforced) > 0) {
			t.Fatalf("%s with %d unknown and %d not enforced", r.Verdict, r.count(canary.Unknown), r.count(canary.NotEnforced))
		}
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var back Report
		if err := json.Unmarshal(text, &back); err != nil || back.Verdict != r.Verdict || back.count(canary.Unknown) != r.count(canary.Unknown) {
			t.Fatalf("%v: %s", err, text)
		}
	}
	for _, v := range []canary.Verdict{canary.Enforced, canary.Unknown, canary.NotEnforced} {
		if seen[v] < 50 {
			t.Errorf("%s came %d times: the test tests little", v, seen[v])
		}
	}
}

func TestWeigh(t *testing.T) {
	e, n, u, s := canary.Enforced, canary.NotEnforced, canary.Unknown, canary.Unsupported
	name := canary.Name{Feature: v1alpha1.FeaturePort, Direction: v1alpha1.DirectionIngress}
	for _, tc := range []struct {
		rounds []canary.Verdict
		want   canary.Verdict
		again  bool
		late   bool
		// final is what it is if no other round can be made.
		final canary.Verdict
	}{
		{[]canary.Verdict{e}, e, false, false, e},
		{[]canary.Verdict{s}, s, false, false, s},
		{[]canary.Verdict{n}, n, true, false, u},
		{[]canary.Verdict{u}, u, true, false, u},
		{[]canary.Verdict{n, n}, n, false, false, n},
		{[]canary.Verdict{n, e}, e, true, true, u},
		{[]canary.Verdict{e, n}, n, true, false, u},
		{[]canary.Verdict{u, n}, n, true, false, u},
		{[]canary.Verdict{e, u}, e, false, false, e},
		{[]canary.Verdict{u, e}, e, false, false, e},
		{[]canary.Verdict{u, u}, u, true, false, u},
		{[]canary.Verdict{n, e, e}, e, false, true, e},
		{[]canary.Verdict{e, n, n}, n, false, false, n},
		{[]canary.Verdict{n, e, n}, u, false, false, u},
		{[]canary.Verdict{e, n, e}, u, false, false, u},
		{[]canary.Verdict{n, n, e}, u, false, false, u},
		{[]canary.Verdict{u, u, n}, u, false, false, u},
		{[]canary.Verdict{n, u, u}, u, false, false, u},
		{[]canary.Verdict{n, u, n}, n, false, false, n},
		{[]canary.Verdict{u, u, u}, u, false, false, u},
		{[]canary.Verdict{n, u, e}, u, false, false, u},
	} {
		var rounds []Results
		for _, v := range tc.rounds {
			rounds = append(rounds, Results{"a": {name: {Verdict: v, Message: "m"}}})
		}
		got, notes, again := Weigh(rounds, false)
		if got["a"][name].Verdict != tc.want || again != tc.again || (len(notes) > 0) != tc.late {
			t.Errorf("%v: got %v, again %v, notes %v, want %v, again %v, late %v", tc.rounds, got["a"][name], again, notes, tc.want, tc.again, tc.late)
		}
		if got, _, again := Weigh(rounds, true); got["a"][name].Verdict != tc.final || again {
			t.Errorf("%v, and no other: got %v, again %v, want %v", tc.rounds, got["a"][name], again, tc.final)
		}
	}
}
