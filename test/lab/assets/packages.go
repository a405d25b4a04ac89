package assets

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// packages maps what the lab runs to the Debian package that has it.
var packages = []struct{ program, pkg string }{
	{"etcd", "etcd-server"},
	{"containerd", "containerd"},
	{"ctr", "containerd"},
	{"runc", "runc"},
	{"nft", "nftables"},
	{"ip", "iproute2"},
	{"nsenter", "util-linux"},
	{"mount", "mount"},
}

const pluginPackage = "containernetworking-plugins"

// UnsuitableError says what the machine lacks for a lab of its own.
type UnsuitableError struct{ Missing string }

func (e *UnsuitableError) Error() string {
	return e.Missing + "; use another cluster instead: set KUBECONFIG to its file, or create one with kind"
}

// Precondition tells whether this user on this machine can have a lab at all.
func Precondition() error {
	if runtime.GOOS != "linux" {
		return &UnsuitableError{"the lab needs Linux, this is " + runtime.GOOS}
	}
	if os.Geteuid() != 0 {
		return &UnsuitableError{"the lab needs root, for network namespaces and containers"}
	}
	return nil
}

// InstallPackages installs what is missing of the Debian packages.
func InstallPackages(ctx context.Context, progress Progress) error {
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	names := strings.Join(missing, " ")
	if err := Precondition(); err != nil {
		return fmt.Errorf("missing Debian packages %s: %w", names, err)
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return &UnsuitableError{"the lab needs the Debian packages " + names + ", and here is no apt-get"}
	}
	progress("installing Debian packages: %s", names)
	restore, err := holdServices()
	if err != nil {
		return err
	}
	defer restore()
	install := func() error {
		return aptGet(ctx, append([]string{"install", "-y", "--no-install-recommends"}, missing...)...)
	}
	if err := install(); err == nil {
		return nil
	}
	// Often the package lists are merely absent or too old.
	if err := aptGet(ctx, "update"); err != nil {
		return err
	}
	return install()
}

func missingPackages() []string {
	var missing []string
	for _, p := range packages {
		if _, err := exec.LookPath(p.program); err != nil && !slices.Contains(missing, p.pkg) {
			missing = append(missing, p.pkg)
		}
	}
	if _, err := pluginDir(); err != nil {
		missing = append(missing, pluginPackage)
	}
	return missing
}

// pluginDir finds the CNI plugins: where Debian has them, or where they are on
// most other systems.
func pluginDir() (string, error) {
	for _, dir := range []string{"/usr/lib/cni", "/opt/cni/bin"} {
		if _, err := os.Stat(filepath.Join(dir, "ptp")); err == nil {
			return dir, nil
		}
	}
	return "", &UnsuitableError{"the lab needs the CNI plugins ptp and host-local"}
}

func aptGet(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running apt-get %s: %w\n%s", args[0], err, out)
	}
	return nil
}

// holdServices keeps the packages from starting the machine's own containerd
// and etcd: Debian asks this script before it starts a service, and 101 means
// no. After a reboot systemd does start them; the lab uses other sockets, ports
// and folders, so they are not in its way.
func holdServices() (restore func(), _ error) {
	const path = "/usr/sbin/policy-rc.d"
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return func() {}, err // the machine has a policy of its own
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
		return nil, err
	}
	return func() { _ = os.Remove(path) }, nil
}
