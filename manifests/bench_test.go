package manifests

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// documents writes n policies, each as a person would write it.
func documents(w io.Writer, n int) {
	for i := range n {
		_, _ = fmt.Fprintf(w, `# Policy %d
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: policy-%d
  namespace: team-%d
spec:
  podSelector:
    matchLabels:
      app: app-%d
  policyTypes: [Ingress]
  ingress:
  - from:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: team-%d
      podSelector:
        matchLabels:
          app: client
    ports:
    - protocol: TCP
      port: 8080
---
`, i, i, i%100, i, i%50)
	}
}

func BenchmarkRead10000Documents(b *testing.B) {
	var text strings.Builder
	documents(&text, 10_000)
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		r := readBytes([]byte(text.String()), Options{})
		if len(r.Problems) > 0 || len(r.Snapshot.NetworkPolicies) != 10_000 {
			b.Fatal(r.Problems)
		}
	}
}

func BenchmarkReadJSONList10000(b *testing.B) {
	var text strings.Builder
	text.WriteString(`{"apiVersion":"v1","kind":"List","items":[`)
	for i := range 10_000 {
		if i > 0 {
			text.WriteByte(',')
		}
		fmt.Fprintf(&text, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p%d","namespace":"n%d","labels":{"app":"a"}},"spec":{"containers":[]},"status":{"phase":"Running","podIP":"10.%d.%d.1"}}`+"\n", i, i%100, i/250, i%250)
	}
	text.WriteString("]}")
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if r := readBytes([]byte(text.String()), Options{}); len(r.Problems) > 0 || len(r.Snapshot.Pods) != 10_000 {
			b.Fatal(r.Problems)
		}
	}
}

func BenchmarkReadProduction(b *testing.B) {
	for b.Loop() {
		if r := Read([]string{"../config/samples/production"}, Options{}); len(r.Problems) > 0 {
			b.Fatal(r.Problems)
		}
	}
}

// What is skipped must leave nothing behind: a hundred megabytes of it are read in
// the memory of a few documents. Counted are the bytes that stay in use while the
// stream is read, not the time.
func TestTextIsNotKept(t *testing.T) {
	if testing.Short() {
		t.Skip("reads 20 MB")
	}
	const size = 20 << 20
	file := filepath.Join(t.TempDir(), "big.yaml")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	blob := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata:\n  x: " + strings.Repeat("x", 200<<10) + "\n---\n"
	for n := 0; n < size; n += len(blob) {
		if _, err := f.WriteString(blob); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	r := Read([]string{file}, Options{})
	runtime.GC()
	runtime.ReadMemStats(&after)
	if len(r.Skipped) != 1 || r.Skipped[0].Count < 100 {
		t.Fatalf("got %v", r.Skipped)
	}
	if kept := int64(after.HeapAlloc) - int64(before.HeapAlloc); kept > 1<<20 {
		t.Errorf("%d bytes are kept of what was skipped", kept)
	}
	runtime.KeepAlive(r)
}
