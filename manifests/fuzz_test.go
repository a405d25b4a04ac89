package manifests

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// Whatever the input is, reading ends and does not panic. Nothing is said here
// about what is read.
func FuzzRead(f *testing.F) {
	files, err := filepath.Glob("../config/samples/production/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	for _, text := range []string{listOfTwo, services, expectationOfDNS, "a: &a [*a]\n", "--- {}\n...\n%YAML 1.1\n---\n", "{\"items\": [1, {}, null]}", "{\"kind\":\"List\",\"items\":{}}", "? [a]\n: b\n", "kind: List\nitems: [[]]"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(_ *testing.T, text []byte) {
		// As Read does, but on one goroutine: coverage that depends on the scheduler
		// leads the fuzzer astray.
		c := newCollection(Options{Namespace: "default"})
		take := func(list []parsed) {
			for _, p := range list {
				c.take(p)
			}
		}
		_ = splitYAML(bufio.NewReader(bytes.NewReader(text)), "in.yaml", func(d document) error {
			take(d.parse())
			return nil
		})
		_ = splitJSON(bytes.NewReader(text), "in.json", 1, func(o object) error {
			take(o.parse())
			return nil
		})
		c.finish()
		complete(c.result, Options{ClusterDNS: DefaultClusterDNS})
		c.result.Names()
	})
}
