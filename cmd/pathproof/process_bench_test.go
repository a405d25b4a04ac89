package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// build builds a program as it is released.
func build(b *testing.B, source string) string {
	b.Helper()
	binary := filepath.Join(b.TempDir(), "program")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("building %s: %v\n%s", source, err, out)
	}
	return binary
}

// BenchmarkCheckProductionProcess measures what a pipeline waits for. Beside it runs a
// program that does nothing, which tells what of it is the machine's: the shortest and
// the median of both are reported.
func BenchmarkCheckProductionProcess(b *testing.B) {
	empty := filepath.Join(b.TempDir(), "empty.go")
	if err := os.WriteFile(empty, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	command, nothing := build(b, "."), build(b, empty)
	var took, idle []time.Duration
	run := func(times []time.Duration, args ...string) []time.Duration {
		start := time.Now()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			b.Fatalf("%v: %v\n%s", args, err, out)
		}
		return append(times, time.Since(start))
	}
	for b.Loop() {
		idle = run(idle, nothing)
		took = run(took, command, "check", "-f", production)
	}
	report := func(times []time.Duration, name string) {
		slices.Sort(times)
		b.ReportMetric(float64(times[0].Microseconds())/1000, "ms-min-"+name)
		b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "ms-median-"+name)
	}
	report(took, "check")
	report(idle, "empty")
}
