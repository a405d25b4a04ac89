package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/controllers"
	"github.com/pathproof/pathproof/test/scale/kubelets"
)

// operator is the user of the operator's requests, by which the API server's audit log
// tells them from all others.
const operator = "pathproof-operator"

// auditPolicy logs each request of the operator once, when it comes.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [ResponseStarted, ResponseComplete, Panic]
rules:
- level: Metadata
  users: [` + operator + `]
- level: None
`

// simulation is a cluster with many nodes that are fakes.
type simulation struct {
	nodes, rounds, interval int

	dir     string
	env     *envtest.Environment
	client  client.Client
	fleet   *kubelets.Fleet
	cancel  context.CancelFunc
	manager *exec.Cmd
	metrics string
}

func nodeName(i int) string { return fmt.Sprintf("node-%04d", i) }

func (s *simulation) every() time.Duration { return time.Duration(s.interval) * time.Second }

// start starts API server, kubelets and operator.
func (s *simulation) start(ctx context.Context) (err error) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		return errors.New("KUBEBUILDER_ASSETS is not set: `make scale` sets it to a folder with kube-apiserver and etcd")
	}
	ctrllog.SetLogger(klog.Background())
	if s.dir, err = os.MkdirTemp("", "pathproof-scale-"); err != nil {
		return err
	}
	config, err := s.startAPI()
	if err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	if err := controllers.AddToScheme(scheme); err != nil {
		return err
	}
	if s.client, err = client.New(config, client.Options{Scheme: scheme}); err != nil {
		return fmt.Errorf("building client: %w", err)
	}
	ctx, s.cancel = context.WithCancel(ctx)
	if s.fleet, err = kubelets.Start(ctx, config, func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }); err != nil {
		return err
	}
	fmt.Printf("Creating %d nodes\n", s.nodes)
	var names []string
	for i := range s.nodes {
		names = append(names, nodeName(i))
	}
	if err := s.fleet.AddNodes(ctx, names...); err != nil {
		return err
	}
	return s.startOperator(ctx)
}

func (s *simulation) startAPI() (*rest.Config, error) {
	policy := filepath.Join(s.dir, "audit.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o644); err != nil {
		return nil, err
	}
	s.env = &envtest.Environment{CRDDirectoryPaths: []string{filepath.Join("config", "crd", "bases")}, ErrorIfCRDPathMissing: true, ControlPlaneStartTimeout: 2 * time.Minute}
	s.env.ControlPlane.GetAPIServer().Configure().
		Append("audit-policy-file", policy).Append("audit-log-path", s.auditLog()).Append("audit-log-maxsize", "1000")
	config, err := s.env.Start()
	if err != nil {
		return nil, fmt.Errorf("starting API server (run it from the root of the repository): %w", err)
	}
	config.QPS = -1
	return config, nil
}

func (s *simulation) auditLog() string { return filepath.Join(s.dir, "audit.log") }

// startOperator builds the manager and runs it with the flags and the memory limit of its
// deployment, and metrics without a login.
func (s *simulation) startOperator(ctx context.Context) error {
	user, err := s.env.AddUser(envtest.User{Name: operator, Groups: []string{"system:masters"}}, nil)
	if err != nil {
		return fmt.Errorf("adding the operator's user: %w", err)
	}
	kubeconfig, err := user.KubeConfig()
	if err != nil {
		return err
	}
	path, binary := filepath.Join(s.dir, "kubeconfig"), filepath.Join(s.dir, "manager")
	if err := os.WriteFile(path, kubeconfig, 0o600); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/manager")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the manager: %w: %s", err, out)
	}
	if err := s.client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "pathproof-system"}}); err != nil {
		return err
	}
	if s.metrics, err = freeAddress(ctx); err != nil {
		return err
	}
	logs, err := os.Create(filepath.Join(s.dir, "manager.log"))
	if err != nil {
		return err
	}
	defer func() { _ = logs.Close() }() // the process has its own
	s.manager = exec.CommandContext(ctx, binary, "--leader-elect", "--leader-election-namespace=pathproof-system", "--probe-image=probe:scale",
		"--metrics-secure=false", "--metrics-bind-address="+s.metrics, "--health-probe-bind-address=0")
	s.manager.Env = append(os.Environ(), "KUBECONFIG="+path, "GOMEMLIMIT=900MiB")
	s.manager.Stdout, s.manager.Stderr = logs, logs
	if err := s.manager.Start(); err != nil {
		return fmt.Errorf("starting the manager: %w", err)
	}
	_, err = s.poll(ctx, time.Minute, func() (bool, error) { _, err := s.sample(ctx); return err == nil, nil })
	return err
}

// freeAddress is one of the loopback interface that nobody listens on.
func freeAddress(ctx context.Context) (string, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// stop ends everything that start has started. What was logged may be kept.
func (s *simulation) stop(keep bool) error {
	var errs []error
	if s.manager != nil && s.manager.Process != nil {
		_ = s.manager.Process.Kill()
		_ = s.manager.Wait()
	}
	if s.cancel != nil {
		s.cancel()
	}
	if s.env != nil {
		errs = append(errs, s.env.Stop())
	}
	if keep {
		fmt.Fprintf(os.Stderr, "The operator's log and its requests are in %s: delete it when they have told you why.\n", s.dir)
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

func (s *simulation) createCanary(ctx context.Context) error {
	return s.client.Create(ctx, &v1alpha1.EnforcementCanary{
		ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.CanaryName}, Spec: v1alpha1.EnforcementCanarySpec{IntervalSeconds: int32(s.interval)},
	})
}

func (s *simulation) cordon(ctx context.Context, name string) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	return s.client.Patch(ctx, node, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"unschedulable":true}}`)))
}

// seen is what the canary says.
type seen struct {
	ready      bool
	covered    int
	leftOut    map[string]int
	offenders  []string
	violations int
	message    string
}

func (st seen) String() string {
	return fmt.Sprintf("ready %t, %d covered, left out %v, %d rows not enforced, of nodes %s; %s", st.ready, st.covered, st.leftOut, st.violations, strings.Join(st.offenders, ", "), st.message)
}

// look reads the canary's status, and its metric of violations, which the status lists the
// first of.
func (s *simulation) look(ctx context.Context) (seen, error) {
	st := seen{leftOut: map[string]int{}}
	c := &v1alpha1.EnforcementCanary{}
	if err := s.client.Get(ctx, client.ObjectKey{Name: v1alpha1.CanaryName}, c); err != nil {
		return st, err
	}
	if cond := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionReady); cond != nil {
		st.ready, st.message = cond.Status == metav1.ConditionTrue, cond.Reason+": "+cond.Message
	}
	if n := c.Status.Nodes; n != nil {
		st.covered = int(n.Covered)
		for _, l := range n.LeftOut {
			st.leftOut[l.Reason] = int(l.Count)
		}
	}
	for _, o := range c.Status.Offenders {
		if !slices.Contains(st.offenders, o.Node) {
			st.offenders = append(st.offenders, o.Node)
		}
	}
	metrics, err := s.scrape(ctx)
	if err != nil {
		return st, err
	}
	st.violations = int(metrics.sum("pathproof_enforcement_violations"))
	return st, nil
}

// await waits until the canary says something, and returns how long that took. It ends
// when it says what it must never say.
func (s *simulation) await(ctx context.Context, atMost time.Duration, until func(seen) bool, never func(seen) error) (time.Duration, error) {
	var last seen
	took, err := s.poll(ctx, atMost, func() (bool, error) {
		var err error
		if last, err = s.look(ctx); err != nil {
			return false, err
		}
		if err := never(last); err != nil {
			return false, err
		}
		return until(last), nil
	})
	if errors.Is(err, errTooLong) {
		err = fmt.Errorf("%w; the canary says: %s", err, last)
	}
	return took, err
}

// watch looks at the canary for a time.
func (s *simulation) watch(ctx context.Context, d time.Duration, check func(seen) error) error {
	_, err := s.poll(ctx, d, func() (bool, error) {
		if check == nil {
			return false, nil
		}
		st, err := s.look(ctx)
		if err != nil {
			return false, err
		}
		return false, check(st)
	})
	if errors.Is(err, errTooLong) {
		return nil
	}
	return err
}

var errTooLong = errors.New("it took too long")

func (s *simulation) poll(ctx context.Context, atMost time.Duration, check func() (bool, error)) (time.Duration, error) {
	start := time.Now()
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for {
		if done, err := check(); done || err != nil {
			return time.Since(start), err
		}
		if time.Since(start) > atMost {
			return 0, fmt.Errorf("%w: more than %s", errTooLong, atMost)
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-ticker.C:
		}
	}
}
