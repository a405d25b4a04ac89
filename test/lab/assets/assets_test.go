package assets

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestRequiredVersion(t *testing.T) {
	gomod := filepath.Join(t.TempDir(), "go.mod")
	text := "module m\n\nrequire example.com/alone v1.2.3\n\nrequire (\n\texample.com/a/b v0.1.0 // indirect\n\texample.com/a v0.2.0\n)\n"
	if err := os.WriteFile(gomod, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for module, want := range map[string]string{
		"example.com/alone": "v1.2.3", "example.com/a": "v0.2.0", "example.com/a/b": "v0.1.0",
	} {
		if got, err := requiredVersion(gomod, module); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", module, got, err, want)
		}
	}
	if _, err := requiredVersion(gomod, "example.com/none"); err == nil {
		t.Error("a module that is not required has a version")
	}
}

// TestToolsModules checks that the versions can be read from the real files.
func TestToolsModules(t *testing.T) {
	for dir, module := range map[string]string{"kubernetes": "k8s.io/kubernetes", "coredns": "github.com/coredns/coredns"} {
		if _, err := requiredVersion(filepath.Join("..", dir, "go.mod"), module); err != nil {
			t.Error(err)
		}
	}
}

func TestAFailedOrInterruptedBuildLeavesNothing(t *testing.T) {
	root := t.TempDir()
	source := filepath.Join(root, "source")
	if err := os.MkdirAll(source, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{"go.mod": "module broken\n", "main.go": "package main\n\nfunc main() { undefined() }\n"} {
		if err := os.WriteFile(filepath.Join(source, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := cache{root: root, sources: source, progress: func(string, ...any) {}}
	build := func(ctx context.Context) error {
		_, err := c.hashed(ctx, "app", "app", ".", filepath.Join(source, "main.go"))
		return err
	}
	if err := build(t.Context()); err == nil {
		t.Fatal("broken sources were built")
	}
	interrupted, cancel := context.WithCancel(t.Context())
	cancel()
	if err := build(interrupted); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(root, "app-*", "*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := os.WriteFile(filepath.Join(source, "main.go"), []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := build(t.Context()); err != nil {
		t.Fatal(err)
	}
	if built, _ := filepath.Glob(filepath.Join(root, "app-*", "*")); len(built) != 1 {
		t.Errorf("built: %v, want one binary", built)
	}
}
