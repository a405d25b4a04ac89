package assets

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// cache is the folder of built binaries.
type cache struct {
	root     string
	sources  string // the lab's folder in the checkout
	progress Progress
}

func newCache(ctx context.Context, progress Progress) (cache, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return cache{}, err
	}
	sources, err := sourceDir(ctx)
	if err != nil {
		return cache{}, err
	}
	root := filepath.Join(base, "pathproof", "lab")
	return cache{root: root, sources: sources, progress: progress}, os.MkdirAll(root, 0o755)
}

// lock keeps two builds from doing the same work twice.
func (c cache) lock() (unlock func(), _ error) {
	f, err := os.OpenFile(filepath.Join(c.root, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		c.progress("waiting for another build that uses %s", c.root)
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking the cache: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// kubernetes builds what is missing, and puts etcd beside it: envtest wants
// both in one folder.
func (c cache) kubernetes(ctx context.Context, names []string) (string, error) {
	source := filepath.Join(c.sources, "kubernetes")
	version, err := requiredVersion(filepath.Join(source, "go.mod"), "k8s.io/kubernetes")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(c.root, "kubernetes-"+version)
	// Without these, clients cannot parse the version that the server reports.
	major, minor, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ = strings.Cut(minor, ".")
	const prefix = "-X k8s.io/component-base/version.git"
	flags := fmt.Sprintf("-s -w %[1]sVersion=%[2]s %[1]sMajor=%[3]s %[1]sMinor=%[4]s", prefix, version, major, minor)
	start := time.Now()
	for i, name := range names {
		step := fmt.Sprintf("%s (%d of %d)", name, i+1, len(names))
		if err := c.build(ctx, source, dir, name, "k8s.io/kubernetes/cmd/"+name, flags, step, start); err != nil {
			return "", err
		}
	}
	return dir, linkEtcd(dir)
}

func linkEtcd(dir string) error {
	etcd, err := exec.LookPath("etcd")
	if err != nil {
		return err
	}
	link := filepath.Join(dir, "etcd")
	if current, err := os.Readlink(link); err == nil && current == etcd {
		return nil
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(etcd, link)
}

func (c cache) coreDNS(ctx context.Context) (string, error) {
	source := filepath.Join(c.sources, "coredns")
	version, err := requiredVersion(filepath.Join(source, "go.mod"), "github.com/coredns/coredns")
	if err != nil {
		return "", err
	}
	return c.hashed(ctx, "coredns", "coredns-"+version, ".", filepath.Join(source, "go.mod"), filepath.Join(source, "main.go"))
}

// hashed builds a program of the lab's own into a folder that changes with its
// sources.
func (c cache) hashed(ctx context.Context, name, prefix, target string, sources ...string) (string, error) {
	key, err := fingerprint(sources...)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(c.root, prefix+"-"+key)
	workdir := filepath.Dir(sources[0])
	if target != "." {
		workdir = c.sources
	}
	err = c.build(ctx, workdir, dir, name, target, "-s -w", name, time.Now())
	return filepath.Join(dir, name), err
}

// build compiles one program unless it is there. The result gets its name only
// when it is whole, so that an interrupted build leaves nothing that a later
// run would take for a binary.
func (c cache) build(ctx context.Context, workdir, dir, name, target, ldflags, step string, start time.Time) error {
	binary := filepath.Join(dir, name)
	if _, err := os.Stat(binary); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	temporary := binary + ".building"
	defer func() { _ = os.Remove(temporary) }()
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", ldflags, "-o", temporary, target)
	cmd.Dir = workdir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	// An interrupt lets the go command remove its temporary files.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	stop := c.tick(step, start)
	err := cmd.Run()
	stop()
	if err != nil {
		return fmt.Errorf("building %s in %s: %w\n%s", name, workdir, err, output.String())
	}
	return os.Rename(temporary, binary)
}

// tick reports that a build is still running, so that minutes of silence are
// not taken for a hang.
func (c cache) tick(step string, start time.Time) (stop func()) {
	const every = 20 * time.Second
	c.progress("building %s, %s so far", step, time.Since(start).Round(time.Second))
	ticker := time.NewTicker(every)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-ticker.C:
				c.progress("building %s, %s so far", step, time.Since(start).Round(time.Second))
			case <-done:
				return
			}
		}
	}()
	return func() { ticker.Stop(); close(done) }
}
