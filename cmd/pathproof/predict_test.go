package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/manifests"
)

// answered is an answer as another tool would read it: with nothing that the
// contract does not have.
type answered struct {
	ID              string
	Verdict, Reason string
	Egress, Ingress struct {
		Verdict   string
		Isolating []string
		AllowedBy *struct {
			Policy string
			Rule   *int
		}
		Rule, Reason string
	}
	Line  int
	Error string
}

func parse(t *testing.T, out string) []answered {
	t.Helper()
	var list []answered
	for line := range strings.Lines(out) {
		var a answered
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&a); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		list = append(list, a)
	}
	return list
}

func TestPredictAnswers(t *testing.T) {
	mixed := file(t, "mixed.yaml", `apiVersion: v1
kind: Service
metadata: {name: mixed, namespace: production}
spec: {selector: {tier: x}, ports: [{port: 80, targetPort: 27017}]}
---
apiVersion: v1
kind: Pod
metadata: {name: x1, namespace: production, labels: {app: mongodb, tier: x}}
status: {podIP: 10.0.0.1, phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: x2, namespace: production, labels: {tier: x}}
status: {podIP: 10.0.0.2, phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: ended, namespace: production}
status: {phase: Succeeded, podIP: 10.0.0.3}
---
apiVersion: v1
kind: Service
metadata: {name: alias, namespace: production}
spec: {type: ExternalName, externalName: db.example.org}
---
apiVersion: v1
kind: Service
metadata: {name: inner, namespace: production}
spec: {type: ExternalName, externalName: mongodb.production.svc.cluster.local}
`)
	cases := map[string]struct {
		flow string
		// want begins the answer: verdict, then part of the reason; or the error.
		verdict, reason string
		wantErr         string
	}{
		"allowed by a rule":                {`"from":"production/backend","to":"production/mongodb","protocol":"TCP","port":27017`, "Allowed", "allowed by rule 0 of production/allow-backend-to-mongodb", ""},
		"allowed because nothing isolates": {`"from":"production/frontend","to":"production/backend","protocol":"TCP","port":1`, "Allowed", "no policy isolates either end", ""},
		"denied":                           {`"from":"production/frontend","to":"production/mongodb","protocol":"TCP","port":27017`, "Denied", "no rule of production/allow-backend-to-mongodb", ""},
		"by the stand-in's name":           {`"from":"production/deployment-frontend","to":"production/deployment/mongodb","protocol":"TCP","port":27017`, "Denied", "", ""},
		"by a port name":                   {`"from":"production/backend","to":"production/mongodb","protocol":"TCP","port":"main"`, "Allowed", "", ""},
		"to a Service":                     {`"from":"production/backend","to":"svc:production/mongodb","protocol":"TCP","port":"main"`, "Allowed", "", ""},
		"to a pod's address":               {`"from":"production/frontend","to":"10.0.0.1","protocol":"TCP","port":27017`, "Denied", "", ""},
		"from an address":                  {`"from":"192.0.2.1","to":"production/mongodb","protocol":"TCP","port":27017`, "Denied", "", ""},
		"to an address":                    {`"from":"production/frontend","to":"192.0.2.1","protocol":"UDP","port":53`, "Allowed", "", ""},
		"endpoints that differ":            {`"from":"production/frontend","to":"svc:production/mixed","protocol":"TCP","port":80`, "Undefined", "S9: policies treat the endpoints of Service production/mixed differently", ""},
		"an alias of a host":               {`"from":"production/frontend","to":"svc:production/alias","port":27017`, "Undefined", "X2: Service production/alias is an alias of db.example.org.", ""},
		"an alias of a Service":            {`"from":"production/frontend","to":"svc:production/inner","port":27017`, "Denied", "no rule of production/allow-backend-to-mongodb", ""},
		"a port name of an alias":          {`"from":"production/frontend","to":"svc:production/alias","port":"main"`, "", "", "has no TCP port main: write the number"},
		"a pod that has ended":             {`"from":"production/frontend","to":"production/ended","protocol":"TCP","port":80`, "Undefined", "S19: ", ""},
		"no protocol means TCP":            {`"from":"production/backend","to":"production/mongodb","port":27017`, "Allowed", "", ""},
		"a protocol in lower case":         {`"from":"production/backend","to":"production/mongodb","protocol":"tcp","port":27017`, "Allowed", "", ""},
		"a protocol that nobody evaluates": {`"from":"production/backend","to":"production/mongodb","protocol":"ICMP","port":1`, "Undefined", "S28: ", ""},
		"an unknown source":                {`"from":"production/nope","to":"production/mongodb","protocol":"TCP","port":1`, "", "", "from: there is no pod or workload production/nope"},
		"an unknown target":                {`"from":"production/backend","to":"production/nope","protocol":"TCP","port":1`, "", "", "to: there is no pod or workload production/nope"},
		"an unknown Service":               {`"from":"production/backend","to":"svc:production/nope","protocol":"TCP","port":1`, "", "", "there is no Service production/nope"},
		"an unknown port of a Service":     {`"from":"production/backend","to":"svc:production/mongodb","protocol":"TCP","port":1`, "", "", "has no TCP port 1"},
		"an unknown port name":             {`"from":"production/backend","to":"production/mongodb","protocol":"TCP","port":"nope"`, "", "", `has no TCP port named "nope"`},
		"a port name at an address":        {`"from":"production/backend","to":"192.0.2.1","protocol":"TCP","port":"http"`, "", "", "write the number"},
		"a Service that is no Service":     {`"from":"production/backend","to":"svc:nope","protocol":"TCP","port":1`, "", "", "write svc:NAMESPACE/NAME"},
		"from a Service":                   {`"from":"svc:production/mongodb","to":"production/backend","protocol":"TCP","port":1`, "", "", "a connection does not begin at one"},
		"no port":                          {`"from":"production/backend","to":"production/mongodb","protocol":"TCP"`, "", "", "the flow has no port"},
		"a port that is none":              {`"from":"production/backend","to":"production/mongodb","protocol":"TCP","port":70000`, "", "", "write a number from 1 to 65535"},
		"no source":                        {`"to":"production/mongodb","protocol":"TCP","port":1`, "", "", "from: the end of the flow is empty"},
		"a misspelt field":                 {`"from":"production/backend","to":"production/mongodb","proto":"UDP","port":1`, "", "", `unknown field "proto"`},
		"a number for a source":            {`"from":1,"to":"production/mongodb","protocol":"TCP","port":1`, "", "", "from must be a string"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			code, out, errs := call(t, `{"id":"a \"b\" é","`+tc.flow[1:]+"}\n", "predict", "-f", production, "-f", mixed, "--flows", "-", "-o", "jsonl")
			list := parse(t, out)
			if len(list) != 1 || list[0].ID != `a "b" é` {
				t.Fatalf("got %s%s", out, errs)
			}
			a := list[0]
			if tc.wantErr != "" {
				if code != 2 || !strings.Contains(a.Error, tc.wantErr) || a.Verdict != "" {
					t.Errorf("exit code %d and %s, want 2 and an error with %q", code, out, tc.wantErr)
				}
				return
			}
			if code != 0 || a.Error != "" || a.Verdict != tc.verdict || !strings.Contains(a.Reason, tc.reason) || a.Egress.Verdict == "" || a.Ingress.Verdict == "" {
				t.Errorf("exit code %d and %s, want %s because of %q", code, out, tc.verdict, tc.reason)
			}
		})
	}
}

func TestPredictNamesRulesAndPolicies(t *testing.T) {
	_, out, _ := call(t, `{"id":"1","from":"production/backend","to":"production/mongodb","protocol":"TCP","port":27017}`, "predict", "-f", production, "--flows", "-")
	const want = `{"id":"1","verdict":"Allowed","reason":"egress: allowed by rule 0 of production/allow-backend-egress-to-mongodb; ingress: allowed by rule 0 of production/allow-backend-to-mongodb",` +
		`"egress":{"verdict":"Allowed","isolating":["production/allow-backend-dns","production/allow-backend-egress-to-mongodb"],"allowedBy":{"policy":"production/allow-backend-egress-to-mongodb","rule":0}},` +
		`"ingress":{"verdict":"Allowed","isolating":["production/allow-backend-to-mongodb"],"allowedBy":{"policy":"production/allow-backend-to-mongodb","rule":0}}}` + "\n"
	if out != want {
		t.Errorf("got  %swant %s", out, want)
	}
}

func TestLinesThatAreNoFlowsAreErrorsWithTheirNumber(t *testing.T) {
	good := `{"id":"good","from":"production/backend","to":"production/mongodb","protocol":"TCP","port":27017}` + "\n"
	long := `{"id":"` + strings.Repeat("x", maxLine) + `"}` + "\n"
	in := good + "nonsense\n\n" + `{"id":` + "\n" + `["a"]` + "\n" + good + `{"id":"a"}{"id":"b"}` + "\n" + `{"id":7}` + "\n" + long + strings.TrimSpace(good)
	code, out, _ := call(t, in, "predict", "-f", production, "--flows", "-")
	list := parse(t, out)
	wantLines := []int{0, 2, 4, 5, 0, 7, 8, 9, 0}
	if code != 2 || len(list) != len(wantLines) {
		t.Fatalf("exit code %d, %d answers: %s", code, len(list), out)
	}
	for i, a := range list {
		if a.Line != wantLines[i] || (a.Line > 0) != (a.Error != "") || (a.Line > 0 && a.ID != "") {
			t.Errorf("answer %d is %+v, want line %d", i, a, wantLines[i])
		}
	}
}

func TestPredictRefusesBadManifests(t *testing.T) {
	bad := file(t, "bad.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {nme: a}\n")
	code, out, errs := call(t, `{"id":"1"}`, "predict", "-f", bad, "--flows", "-")
	if code != 2 || out != "" || !strings.Contains(errs, "bad.yaml:3") {
		t.Errorf("exit code %d, %q, %q", code, out, errs)
	}
}

func TestUnmodelledPoliciesAreNamedLoudly(t *testing.T) {
	cilium := file(t, "cilium.yaml", "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a, namespace: production}\nspec: {}\n")
	for _, args := range [][]string{{"predict", "--flows", "-"}, {"check"}, {"explain", "frontend", "mongodb", "1", "-n", "production"}} {
		code, _, errs := call(t, "", append(args, "-f", production, "-f", cilium)...)
		if !strings.Contains(errs, "warning: 1 CiliumNetworkPolicy (cilium.io/v2") || !strings.Contains(errs, "not evaluated") {
			t.Errorf("%s: %q", args[0], errs)
		}
		if want := map[string]int{"predict": 0, "check": 3, "explain": 3}[args[0]]; code != want {
			t.Errorf("%s: exit code %d, want %d", args[0], code, want)
		}
		code, _, errs = call(t, "", append(args, "-f", production, "-f", cilium, "--ignore-policy-kinds", "CiliumNetworkPolicy")...)
		if code != 0 || strings.Contains(errs, "warning") {
			t.Errorf("%s: exit code %d and %q although the kind is ignored", args[0], code, errs)
		}
	}
}

// flows is an endless stream of them, which ends after a number.
type flows struct {
	left, i int
	rest    []byte
}

func (f *flows) Read(p []byte) (int, error) {
	for len(f.rest) < len(p) && f.left > 0 {
		f.left--
		f.i++
		f.rest = fmt.Appendf(f.rest, `{"id":"%d","from":"production/frontend","to":"production/mongodb","protocol":"TCP","port":%d}`+"\n", f.i, f.i%65535+1)
	}
	if len(f.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, f.rest)
	f.rest = f.rest[:copy(f.rest, f.rest[n:])]
	return n, nil
}

// inOrder checks the order of what is written to it, and keeps nothing.
type inOrder struct {
	t    testing.TB
	next int
	rest []byte
	// peak is the most memory that was in use at any thousandth answer, without what
	// is only waiting to be collected.
	peak    uint64
	sampled int
}

func (w *inOrder) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		line, rest, ok := strings.Cut(string(w.rest), "\n")
		if !ok {
			break
		}
		w.next++
		if !strings.HasPrefix(line, fmt.Sprintf(`{"id":"%d",`, w.next)) {
			w.t.Fatalf("answer %d is %s", w.next, line)
		}
		w.rest = append(w.rest[:0], rest...)
	}
	if w.next/1000 > w.sampled {
		w.sampled = w.next / 1000
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		w.peak = max(w.peak, m.HeapAlloc)
	}
	return len(p), nil
}

func newTestAnswerer(t testing.TB) *answerer {
	t.Helper()
	r := manifests.Read([]string{production}, manifests.Options{})
	engine, _ := evaluator.Compile(r.Snapshot.Snapshot)
	return &answerer{engine: engine, names: r.Names()}
}

// The order is kept however many workers there are, and so is the memory: a
// hundred times as many flows need no more.
func TestFlowsAreStreamed(t *testing.T) {
	a := newTestAnswerer(t)
	peak := func(n int) uint64 {
		out := &inOrder{t: t}
		failed, err := answerAll(t.Context(), a, &flows{left: n}, out)
		if failed || err != nil || out.next != n {
			t.Fatalf("%v, %v, %d answers of %d", failed, err, out.next, n)
		}
		return out.peak
	}
	few, many := peak(2_000), peak(60_000)
	if few == 0 || many > few+4<<20 {
		t.Errorf("the heap grew from %d to %d bytes", few, many)
	}
}

// Somebody who writes a flow and waits for its answer gets it.
func TestAnswersDoNotWaitForMoreFlows(t *testing.T) {
	in, flowsIn := io.Pipe()
	answersOut, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := answerAll(t.Context(), newTestAnswerer(t), in, out)
		done <- err
	}()
	buf := make([]byte, 4096)
	for i := range 3 {
		fmt.Fprintf(flowsIn, `{"id":"%d","from":"production/frontend","to":"production/mongodb","port":1}`+"\n", i)
		n, err := answersOut.Read(buf)
		if err != nil || !strings.HasPrefix(string(buf[:n]), fmt.Sprintf(`{"id":"%d"`, i)) {
			t.Fatalf("got %q, %v", buf[:n], err)
		}
	}
	if err := flowsIn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// broken is an output that nobody reads any more.
type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestAnswersThatCannotBeWrittenEndTheCommand(t *testing.T) {
	var errs strings.Builder
	code := run(t.Context(), []string{"predict", "-f", production, "--flows", "-"}, streams{in: &flows{left: 1 << 30}, out: broken{}, err: &errs})
	if code != 2 || !strings.Contains(errs.String(), "writing answers") {
		t.Errorf("exit code %d, %q", code, errs.String())
	}
}

// Few allocations a flow keep the collector out of the way.
func TestAnswersAllocateLittle(t *testing.T) {
	w := newWorker(newTestAnswerer(t))
	line := []byte(`{"id":"1","from":"production/frontend","to":"production/mongodb","protocol":"TCP","port":27017}`)
	var out []byte
	if n := testing.AllocsPerRun(1000, func() { out, _ = w.line(out[:0], line, 1) }); n > 16 {
		t.Errorf("%v allocations a flow", n)
	}
}

func BenchmarkPredict100000Flows(b *testing.B) {
	a := newTestAnswerer(b)
	var text strings.Builder
	if _, err := io.Copy(&text, &flows{left: 100_000}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if failed, err := answerAll(b.Context(), a, strings.NewReader(text.String()), io.Discard); failed || err != nil {
			b.Fatal(failed, err)
		}
	}
	b.ReportMetric(float64(b.N)*100_000/b.Elapsed().Seconds(), "flows/s")
}
