// Package assets gets the programs that the lab runs: Debian packages from the
// machine's package manager, Kubernetes and CoreDNS from the Go module proxy.
//
// What is built from source is kept in the user's cache folder, keyed by
// version, outside the checkout and outside the lab's state: `down` keeps it,
// so that only the first `up` on a machine has to build (about 14 minutes on
// two cores).
package assets

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Binaries are the paths of what the lab runs.
type Binaries struct {
	Kubernetes string // folder of kube-apiserver, kubelet, kubectl, …, and etcd
	CoreDNS    string
	Pause      string
	CNI        string // folder of Debian's CNI plugins
}

// Progress receives one line at a time.
type Progress func(format string, args ...any)

// kubernetesNames is in the order of building: the first two take most of it,
// because they compile what the others share.
var kubernetesNames = []string{
	"kube-apiserver", "kube-controller-manager", "kubelet", "kube-scheduler", "kube-proxy", "kubectl",
}

// envtestNames are what controller-runtime's envtest looks for, besides etcd.
var envtestNames = []string{"kube-apiserver", "kubectl"}

// All makes sure that everything is there.
func All(ctx context.Context, progress Progress) (Binaries, error) {
	if err := InstallPackages(ctx, progress); err != nil {
		return Binaries{}, err
	}
	c, err := newCache(ctx, progress)
	if err != nil {
		return Binaries{}, err
	}
	unlock, err := c.lock()
	if err != nil {
		return Binaries{}, err
	}
	defer unlock()
	var b Binaries
	if b.Kubernetes, err = c.kubernetes(ctx, kubernetesNames); err != nil {
		return Binaries{}, err
	}
	if b.CoreDNS, err = c.coreDNS(ctx); err != nil {
		return Binaries{}, err
	}
	if b.Pause, err = c.hashed(ctx, "pause", "pause", "./pause", filepath.Join(c.sources, "pause", "main.go")); err != nil {
		return Binaries{}, err
	}
	b.CNI, err = pluginDir()
	return b, err
}

// Envtest makes sure of what envtest needs and returns the folder that holds
// it, for KUBEBUILDER_ASSETS. It needs no privileges if etcd is installed.
func Envtest(ctx context.Context, progress Progress) (string, error) {
	if _, err := exec.LookPath("etcd"); err != nil {
		if err := InstallPackages(ctx, progress); err != nil {
			return "", err
		}
	}
	c, err := newCache(ctx, progress)
	if err != nil {
		return "", err
	}
	unlock, err := c.lock()
	if err != nil {
		return "", err
	}
	defer unlock()
	return c.kubernetes(ctx, envtestNames)
}

// Kubectl returns the path of the cached kubectl without building anything.
func Kubectl(kubernetes string) string { return filepath.Join(kubernetes, "kubectl") }

// sourceDir finds the lab's sources, wherever in the project it was started.
func sourceDir(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", modulePath).Output()
	if err != nil {
		return "", fmt.Errorf("finding the project's sources (run the lab inside its checkout, with Go installed): %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "test", "lab"), nil
}

// ClusterPolicyCRD returns the path of the CRD of ClusterNetworkPolicy, of the standard
// channel, which the module of its API brings.
func ClusterPolicyCRD(ctx context.Context) (string, error) {
	const module = "sigs.k8s.io/network-policy-api"
	sources, err := sourceDir(ctx)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module)
	cmd.Dir = sources
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("finding module %s: %w", module, err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "config", "crd", "standard", "policy.networking.k8s.io_clusternetworkpolicies.yaml"), nil
}

const modulePath = "github.com/pathproof/pathproof"

// requiredVersion reads which version of a module a go.mod file requires.
func requiredVersion(gomod, module string) (string, error) {
	data, err := os.ReadFile(gomod)
	if err != nil {
		return "", err
	}
	match := regexp.MustCompile(`(?m)^\s*(?:require )?` + regexp.QuoteMeta(module) + ` (v\S+)`).FindSubmatch(data)
	if match == nil {
		return "", fmt.Errorf("%s requires no %s", gomod, module)
	}
	return string(match[1]), nil
}

// fingerprint tells builds of different sources apart.
func fingerprint(files ...string) (string, error) {
	h := sha256.New()
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%d:", len(data))
		h.Write(data)
	}
	return hex.EncodeToString(h.Sum(nil))[:8], nil
}
