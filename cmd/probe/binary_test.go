//go:build linux

package main

import (
	"bytes"
	"debug/elf"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathproof/pathproof/probe/wire"
)

var update = flag.Bool("update", false, "rewrite deps.txt")

// maxBinaryBytes bounds the stripped binary: it is pulled to every node that a
// probed pod runs on.
const maxBinaryBytes = 8 << 20

// goTool runs the go command in this folder for the image's platform.
func goTool(t testing.TB, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("running go %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

// Every package that the probe binary links is listed in deps.txt, so that a new
// one shows up in review. Run with -update to rewrite the list.
func TestDependencies(t *testing.T) {
	out := goTool(t, "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".")
	deps := strings.Fields(out)
	slices.Sort(deps)
	for _, dep := range deps {
		if strings.HasPrefix(dep, "k8s.io/") || strings.HasPrefix(dep, "sigs.k8s.io/") {
			t.Errorf("the probe binary links %s: it must not depend on Kubernetes", dep)
		}
	}
	got := strings.Join(deps, "\n") + "\n"
	if *update {
		if err := os.WriteFile("deps.txt", []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("deps.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("dependencies differ from deps.txt, run the test with -update if that is meant (-want +got):\n%s", diff)
	}
}

func TestBinaryIsSmallStaticAndRuns(t *testing.T) {
	if testing.Short() {
		t.Skip("skipping: building the binary takes long, and -short was given")
	}
	path := filepath.Join(t.TempDir(), "probe")
	goTool(t, "build", "-trimpath", "-ldflags=-s -w -X main.version=v0.0.0-test", "-o", path, ".")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("stripped binary: %d bytes", info.Size())
	if info.Size() >= maxBinaryBytes {
		t.Errorf("binary has %d bytes, want less than %d", info.Size(), maxBinaryBytes)
	}
	file, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("binary asks for a dynamic linker: it would not start in an empty image")
		}
	}
	out, err := exec.Command(path, "version").Output()
	if err != nil || string(out) != "probe v0.0.0-test (wire version 1)\n" {
		t.Errorf("got version %q, %v", out, err)
	}
	t.Run("and reports what it did before SIGTERM", func(t *testing.T) { testTermination(t, path) })
}

// testTermination ends a run in its warm-up, which would take five minutes.
func testTermination(t *testing.T, path string) {
	plan := loopbackPlan(9)
	plan.WarmUpMilliseconds = 300_000
	cmd := exec.Command(path, "run", "--plan", "-", "--report", "-")
	cmd.Stdin = strings.NewReader(encodePlan(t, plan))
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	// The first line of the log says that the signal handler is in place.
	cmd.Stderr = writerFunc(func([]byte) { _ = cmd.Process.Signal(syscall.SIGTERM) })
	if err := cmd.Run(); err != nil {
		t.Errorf("ended with %v, want exit code 0", err)
	}
	report, err := wire.DecodeReport(stdout.String())
	if err != nil || len(report.Results) != 1 || !strings.HasPrefix(report.Results[0].Detail, "cancelled: ") {
		t.Errorf("got report %+v (%v), want a cancelled result", report, err)
	}
}
