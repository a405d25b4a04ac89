package manifests

import (
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
		r := readBytes(text, Options{ClusterDNS: DefaultClusterDNS})
		r.Names()
	})
}
