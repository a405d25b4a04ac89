package main

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/manifests"
)

// FuzzFlowLine asserts that any line has one answer, which is a line of JSON, and that
// the line after it is answered as if nothing had come before.
func FuzzFlowLine(f *testing.F) {
	r := manifests.Read([]string{"testdata/more.yaml"}, manifests.Options{})
	engine, _ := evaluator.Compile(r.Snapshot.Snapshot)
	a := &answerer{engine: engine, names: r.Names()}
	const next = `{"id":"next","from":"10.1.2.3","to":"10.1.2.4","protocol":"TCP","port":80}`
	want, _ := newWorker(a).line(nil, []byte(next), 1)
	for _, seed := range []string{next, `{"id":"1","from":"a/b","to":"svc:a/b","port":"http"}`, `{"port":-1}`, `{"id":1}`, `{} {}`, `[`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		if line = bytes.TrimSpace(line); len(line) == 0 || bytes.ContainsRune(line, '\n') {
			t.Skip("it is no line")
		}
		w := newWorker(a)
		out, _ := w.line(nil, line, 1)
		if bytes.Count(out, []byte("\n")) != 1 || !json.Valid(out) {
			t.Errorf("%q: the answer is not one line of JSON: %q", line, out)
		}
		if got, ok := w.line(nil, []byte(next), 2); !ok || !bytes.Equal(got, want) {
			t.Errorf("after %q: got %q, want %q", line, got, want)
		}
	})
}

func FuzzPortArgument(f *testing.F) {
	for _, seed := range []string{"80", "UDP/53", "sctp/http", "TCP/", "/", "99999", "-1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		protocol, port, err := portArgument(text)
		if err != nil {
			return
		}
		if protocol == "" || (port.StrVal == "" && (port.IntVal < 1 || port.IntVal > 65535)) {
			t.Errorf("%q was read as port %s of protocol %q", text, port.String(), protocol)
		}
	})
}
