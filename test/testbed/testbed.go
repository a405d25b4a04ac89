// Package testbed prepares a cluster for the demo and the end-to-end tests: the
// lab on this machine, or the cluster of KUBECONFIG.
package testbed

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/pathproof/pathproof/api/v1alpha1"
)

// The images that config/default and config/samples name.
const (
	operatorImage = "ghcr.io/pathproof/operator"
	probeImage    = "ghcr.io/pathproof/probe"
	imageTag      = "latest"
)

// Bed is a prepared cluster.
type Bed struct {
	// Client reads, writes and watches the cluster.
	Client client.WithWatch
	// Lab tells whether the cluster is the lab, whose enforcement can be broken.
	Lab bool

	root, bin  string
	kubeconfig string
	kubectl    string
	started    bool
	logf       func(format string, args ...any)
}

// Up prepares the cluster of KUBECONFIG, or the lab when the variable is empty. A
// lab that was up before stays up after Close.
func Up(ctx context.Context, logf func(string, ...any)) (*Bed, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return nil, err
	}
	bin, err := os.MkdirTemp("", "pathproof-testbed-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for binaries: %w", err)
	}
	b := &Bed{root: root, bin: bin, logf: logf, kubeconfig: os.Getenv("KUBECONFIG")}
	if b.kubeconfig == "" {
		if err := b.lab(ctx); err != nil {
			return nil, errors.Join(err, b.Close(context.WithoutCancel(ctx)))
		}
	}
	if b.kubectl == "" {
		if b.kubectl, err = exec.LookPath("kubectl"); err != nil {
			return nil, fmt.Errorf("kubectl is needed with KUBECONFIG: %w", err)
		}
	}
	if b.Client, err = newClient(b.kubeconfig); err != nil {
		return nil, errors.Join(err, b.Close(context.WithoutCancel(ctx)))
	}
	return b, nil
}

// lab builds the lab command and starts the lab.
func (b *Bed) lab(ctx context.Context) error {
	b.Lab = true
	if err := b.build(ctx, "lab", "./test/lab"); err != nil {
		return err
	}
	if _, err := b.output(ctx, b.path("lab"), "status"); err != nil {
		b.started = true
	}
	b.logf("Starting the lab (a first start builds Kubernetes, which takes a quarter of an hour)")
	if err := b.run(ctx, b.path("lab"), "up"); err != nil {
		return fmt.Errorf("starting the lab: %w", err)
	}
	kubeconfig, err := b.output(ctx, b.path("lab"), "kubeconfig")
	if err != nil {
		return err
	}
	assets, err := b.output(ctx, b.path("lab"), "assets")
	if err != nil {
		return err
	}
	b.kubeconfig = strings.TrimSpace(kubeconfig)
	b.kubectl = filepath.Join(strings.TrimSpace(assets), "kubectl")
	return nil
}

// Close removes what Up made. The lab is taken down only if Up started it.
func (b *Bed) Close(ctx context.Context) error {
	var err error
	if b.started {
		b.logf("Taking the lab down")
		err = b.run(ctx, b.path("lab"), "down")
	}
	return errors.Join(err, os.RemoveAll(b.bin))
}

// Keep leaves the lab up after Close.
func (b *Bed) Keep() { b.started = false }

// Install builds the images, puts them on the nodes and installs the operator. In
// a cluster other than the lab, the images have to be there: their names are
// taken from PATHPROOF_OPERATOR_IMAGE and PATHPROOF_PROBE_IMAGE.
func (b *Bed) Install(ctx context.Context) error {
	if b.Lab {
		for name, pkg := range map[string]string{"manager": "./cmd/manager", "probe": "./cmd/probe"} {
			if err := b.build(ctx, name, pkg); err != nil {
				return err
			}
		}
		// As in the Dockerfile.
		if err := b.run(ctx, "go", "run", "./hack/filecap", b.path("probe")); err != nil {
			return err
		}
		for name, binary := range map[string]string{operatorImage: "manager", probeImage: "probe"} {
			tar := b.path(binary + ".tar")
			if err := b.run(ctx, b.path("lab"), "image", "--name", name, "--tag", imageTag, "--binary", b.path(binary), "-o", tar); err != nil {
				return err
			}
			if err := b.run(ctx, b.path("lab"), "load", tar); err != nil {
				return err
			}
		}
	}
	for _, config := range []string{"config/default", "config/clusternetworkpolicy"} {
		if err := b.Kubectl(ctx, "apply", "--server-side", "--force-conflicts", "-k", b.Path(config)); err != nil {
			return err
		}
	}
	if err := b.setImages(ctx); err != nil {
		return err
	}
	// The images keep their tag, so an operator that runs from an earlier install
	// has to be told.
	return b.RestartOperator(ctx)
}

// RestartOperator gives the operator a new pod, and waits until that is ready. Its kubelet
// restarts a new pod at once when it ends; one that has ended before has to wait, for up to
// five minutes.
func (b *Bed) RestartOperator(ctx context.Context) error {
	if err := b.Kubectl(ctx, "-n", "pathproof-system", "rollout", "restart", "deployment/pathproof-manager"); err != nil {
		return err
	}
	return b.Kubectl(ctx, "-n", "pathproof-system", "rollout", "status", "deployment/pathproof-manager", "--timeout=120s")
}

func (b *Bed) setImages(ctx context.Context) error {
	if image := os.Getenv("PATHPROOF_OPERATOR_IMAGE"); image != "" && !b.Lab {
		if err := b.Kubectl(ctx, "-n", "pathproof-system", "set", "image", "deployment/pathproof-manager", "manager="+image); err != nil {
			return err
		}
	}
	if image := os.Getenv("PATHPROOF_PROBE_IMAGE"); image != "" && !b.Lab {
		return b.Kubectl(ctx, "-n", "pathproof-system", "set", "env", "deployment/pathproof-manager", "PATHPROOF_PROBE_IMAGE="+image)
	}
	return nil
}

// ProbeImage is the probe image that the cluster has.
func (b *Bed) ProbeImage() string {
	if image := os.Getenv("PATHPROOF_PROBE_IMAGE"); image != "" && !b.Lab {
		return image
	}
	return probeImage + ":" + imageTag
}

// Break makes the lab's enforcement misbehave, on one node or (empty) on all.
func (b *Bed) Break(ctx context.Context, mode, node string) error {
	args := []string{"break", mode}
	if node != "" {
		args = append(args, "--node", node)
	}
	return b.run(ctx, b.path("lab"), args...)
}

// Heal makes the lab's enforcement correct again.
func (b *Bed) Heal(ctx context.Context) error { return b.run(ctx, b.path("lab"), "heal") }

// Stop ends a process of the lab, as kube-apiserver or kubelet-node-a. Repair starts it again,
// and waits until the lab is whole.
func (b *Bed) Stop(ctx context.Context, process string) error {
	return b.run(ctx, b.path("lab"), "stop", process)
}

// Repair starts what has ended of the lab.
func (b *Bed) Repair(ctx context.Context) error { return b.run(ctx, b.path("lab"), "up") }

// RemoveProbeImage removes the probe image from the nodes of the lab, and RestoreProbeImage
// puts it back.
func (b *Bed) RemoveProbeImage(ctx context.Context) error {
	return b.run(ctx, b.path("lab"), "unload", b.ProbeImage())
}

// RestoreProbeImage puts the image back that Install has built.
func (b *Bed) RestoreProbeImage(ctx context.Context) error {
	return b.run(ctx, b.path("lab"), "load", b.path("probe.tar"))
}

// Path returns a path inside the module.
func (b *Bed) Path(rel string) string { return filepath.Join(b.root, rel) }

// Kubectl runs kubectl and shows its output only when it fails.
func (b *Bed) Kubectl(ctx context.Context, args ...string) error {
	_, err := b.KubectlOutput(ctx, args...)
	return err
}

// KubectlOutput runs kubectl and returns its standard output.
func (b *Bed) KubectlOutput(ctx context.Context, args ...string) (string, error) {
	return b.output(ctx, b.kubectl, args...)
}

// Pathproof returns the command line with arguments, for the cluster. It is built when it is
// asked for first.
func (b *Bed) Pathproof(ctx context.Context, args ...string) (*exec.Cmd, error) {
	if _, err := os.Stat(b.path("pathproof")); err != nil {
		if err := b.build(ctx, "pathproof", "./cmd/pathproof"); err != nil {
			return nil, err
		}
	}
	return b.command(ctx, b.path("pathproof"), args...), nil
}

// Forward forwards a port of this machine to one of a pod, or of the pod of a deployment. It
// returns the address, and what ends it; it ends by itself with the pod.
func (b *Bed) Forward(ctx context.Context, namespace, target string, port int) (addr string, stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd := b.command(ctx, b.kubectl, "-n", namespace, "port-forward", "--address=127.0.0.1", "--pod-running-timeout=2s", target, fmt.Sprintf(":%d", port))
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		return "", nil, fmt.Errorf("starting kubectl port-forward: %w", err)
	}
	stop = func() {
		cancel()
		// It was killed, and says so.
		_ = cmd.Wait()
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	fields := strings.Fields(line) // Forwarding from 127.0.0.1:34567 -> 8443
	if err != nil || len(fields) < 3 {
		stop()
		return "", nil, fmt.Errorf("forwarding a port to %s: got %q: %w", target, line, cmp.Or(err, errors.New("want Forwarding from ADDRESS")))
	}
	return fields[2], stop, nil
}

func (b *Bed) path(name string) string { return filepath.Join(b.bin, name) }

func (b *Bed) build(ctx context.Context, name, pkg string) error {
	b.logf("Building %s", pkg)
	return b.run(ctx, "go", "build", "-ldflags=-s -w", "-o", b.path(name), pkg)
}

// run runs a command with its output shown as it comes.
func (b *Bed) run(ctx context.Context, name string, args ...string) error {
	cmd := b.command(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running %s %s: %w", filepath.Base(name), strings.Join(args, " "), err)
	}
	return nil
}

func (b *Bed) output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := b.command(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("running %s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

func (b *Bed) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = b.root
	// Static binaries: they run in images that hold nothing else. And what kubectl knows of an
	// earlier lab, which had the same address, is not true of this one.
	cmd.Env = append(os.Environ(), "KUBECONFIG="+b.kubeconfig, "KUBECACHEDIR="+b.path("kubectl-cache"), "CGO_ENABLED=0")
	return cmd
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("looking for go.mod: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if mod == "" || mod == os.DevNull {
		return "", errors.New("not inside the module: run it from a checkout of pathproof")
	}
	return filepath.Dir(mod), nil
}

func newClient(kubeconfig string) (client.WithWatch, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading kubeconfig: %w", err)
	}
	// Without one, the library prints a stack of its own after half a minute.
	log.SetLogger(klog.Background())
	// The default of 5 requests a second would be felt in what is measured.
	config.QPS, config.Burst = 50, 100
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	c, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("building client: %w", err)
	}
	return c, nil
}
