package cluster

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/pathproof/pathproof/test/lab/assets"
	"github.com/pathproof/pathproof/test/lab/process"
)

//go:embed manifests
var manifests embed.FS

// Up brings the lab up, or back to health. An interrupted `up` takes down what
// it had built; one that failed leaves it, for its logs, and the next `up`
// clears it away, as it does with a lab of another layout.
func (l *Lab) Up(ctx context.Context, count int) error {
	unlock, err := lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if l.load(); l.Complete() && l.networkExists() {
		if l.state.Nodes != count {
			return fmt.Errorf("the lab is up with %d nodes, not %d: run `down` first", l.state.Nodes, count)
		}
		return l.repair(ctx)
	}
	if remains := l.remains(); len(remains) > 0 {
		l.progress("clearing away what an earlier run left")
		if err := l.takeDown(ctx); err != nil {
			return err
		}
	}
	err = l.build(ctx, count)
	if err != nil && ctx.Err() != nil {
		l.progress("interrupted: taking down what was built")
		// The interrupted context would stop the cleaning as well.
		return errors.Join(err, l.takeDown(context.WithoutCancel(ctx)))
	}
	return err
}

func (l *Lab) build(ctx context.Context, count int) error {
	binaries, err := assets.All(ctx, l.progress)
	if err != nil {
		return err
	}
	l.binaries = binaries
	l.nodes = nodes(count)
	l.state = state{
		Boot: l.processes.Boot(), Nodes: count, Binaries: binaries,
		Sysctls: readSysctls(), NetnsMount: isMounted("/run/netns"), OwnsKubeletDir: !hasKubelet(),
	}
	start := time.Now()
	for _, phase := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"network and configuration", l.prepare},
		{"control plane and container engines", l.startCore},
		{"nodes", l.startNodes},
		{"cluster DNS", l.awaitDNS},
	} {
		l.progress("%s", phase.name)
		if err := phase.run(ctx); err != nil {
			return err
		}
	}
	l.state.Layout = layout
	if err := l.save(); err != nil {
		return err
	}
	l.progress("up after %s", time.Since(start).Round(100*time.Millisecond))
	return nil
}

// prepare makes everything that needs no process.
func (l *Lab) prepare(ctx context.Context) error {
	for _, dir := range []string{State, filepath.Dir(selfPath)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := l.save(); err != nil {
		return err
	}
	if _, err := installSelf(); err != nil {
		return err
	}
	if err := l.linkPlugins(); err != nil {
		return err
	}
	if err := l.makeCgroups(); err != nil {
		return err
	}
	if err := l.certificates(); err != nil {
		return err
	}
	for _, n := range l.nodes {
		if err := l.configure(n); err != nil {
			return fmt.Errorf("configuring %s: %w", n.Name, err)
		}
	}
	return l.network(ctx)
}

// startCore starts the control plane, and beside it the container engines with
// their images: neither needs the other.
func (l *Lab) startCore(ctx context.Context) error {
	for _, n := range l.nodes {
		if err := l.start(l.containerdSpec(n)); err != nil {
			return err
		}
	}
	for _, s := range append(l.apiServer(), externalSpec()) {
		if err := l.start(s); err != nil {
			return err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.loadOwnImages(gctx) })
	g.Go(func() error {
		client, err := l.Client()
		if err != nil {
			return err
		}
		if err := l.awaitAPI(gctx, client); err != nil {
			return err
		}
		for _, s := range l.controllers() {
			if err := l.start(s); err != nil {
				return err
			}
		}
		if err := l.createNodes(gctx, client); err != nil {
			return err
		}
		return l.applyManifests(gctx)
	})
	return g.Wait()
}

func (l *Lab) startNodes(ctx context.Context) error {
	for _, n := range l.nodes {
		for _, s := range l.nodeProcesses(n) {
			if err := l.start(s); err != nil {
				return err
			}
		}
	}
	return l.awaitNodes(ctx)
}

func (l *Lab) start(s process.Spec) error {
	_, err := l.processes.Start(s)
	return err
}

// createNodes registers the nodes before their kubelets do, because only a new
// node can be given its range of pod addresses.
func (l *Lab) createNodes(ctx context.Context, client kubernetes.Interface) error {
	for _, n := range l.nodes {
		_, err := client.CoreV1().Nodes().Create(ctx, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: n.Name},
			Spec:       corev1.NodeSpec{PodCIDR: n.PodCIDR.String(), PodCIDRs: []string{n.PodCIDR.String(), n.PodCIDR6.String()}},
		}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("registering %s: %w", n.Name, err)
		}
	}
	return nil
}

func (l *Lab) applyManifests(ctx context.Context) error {
	var all bytes.Buffer
	for _, file := range []string{"agent.yaml", "coredns.yaml"} {
		data, err := manifests.ReadFile("manifests/" + file)
		if err != nil {
			return err
		}
		all.WriteString("---\n")
		all.Write(data)
	}
	crd, err := assets.ClusterPolicyCRD(ctx)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(crd)
	if err != nil {
		return err
	}
	all.WriteString("---\n")
	all.Write(data)
	cmd := marked(ctx, assets.Kubectl(l.binaries.Kubernetes),
		"--kubeconfig", Kubeconfig, "--cache-dir", filepath.Join(State, "kubectl-cache"),
		"apply", "--server-side", "--field-manager", apiName, "-f", "-")
	cmd.Stdin = &all
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("applying the manifests: %w: %s", err, out)
	}
	return nil
}

// Client returns an administrator's client of the lab's API server.
func (l *Lab) Client() (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", Kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 100, 200
	config.Timeout = 10 * time.Second
	return kubernetes.NewForConfig(config)
}

// installSelf copies this very program into the state folder: `go run` deletes
// the file that it runs, but the agents and the CNI plugin live on. It reports
// whether the program has changed since the last time.
func installSelf() (changed bool, _ error) {
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return false, err
	}
	if old, err := os.ReadFile(selfPath); err == nil && bytes.Equal(old, data) {
		return false, nil
	}
	// A running program cannot be overwritten, only replaced.
	if err := os.WriteFile(selfPath+".new", data, 0o755); err != nil {
		return false, err
	}
	return true, os.Rename(selfPath+".new", selfPath)
}
