// The manager is the operator: it reconciles ConnectivityExpectations and the
// EnforcementCanary.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/pathproof/pathproof/controllers"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/podlog"
)

// flags are the settings of the command line.
type flags struct {
	metricsAddr, healthAddr string
	secureMetrics, elect    bool
	leaderNamespace         string
	clusterDNS              string
	pullPolicy, pullSecrets string
	ignoredKinds, assume    string
	options                 controllers.Options
	zap                     zap.Options
}

func main() {
	f, err := parse(flag.CommandLine, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "manager:", err)
		os.Exit(2)
	}
	if err := run(ctrl.SetupSignalHandler(), f); err != nil {
		ctrl.Log.Error(err, "Manager ended")
		os.Exit(1)
	}
}

func parse(fs *flag.FlagSet, args []string) (*flags, error) {
	f := &flags{options: controllers.DefaultOptions()}
	o := &f.options
	fs.StringVar(&f.metricsAddr, "metrics-bind-address", ":8443", "Address of the metrics endpoint; 0 turns it off.")
	fs.BoolVar(&f.secureMetrics, "metrics-secure", true, "Serve metrics over HTTPS, to those whom the API server authorizes.")
	fs.StringVar(&f.healthAddr, "health-probe-bind-address", ":8081", "Address of the health endpoints; 0 turns them off.")
	fs.BoolVar(&f.elect, "leader-elect", false, "Run only while holding the lease, so that several replicas can stand by.")
	fs.StringVar(&f.leaderNamespace, "leader-election-namespace", "", "Namespace of the lease; empty means the namespace that the manager runs in.")
	fs.StringVar(&o.ProbeImage, "probe-image", os.Getenv("PATHPROOF_PROBE_IMAGE"), "Image of the probe pods. Required; the environment variable PATHPROOF_PROBE_IMAGE sets the default.")
	fs.StringVar(&f.pullPolicy, "probe-image-pull-policy", string(o.ProbeImagePullPolicy), "Pull policy of the probe image: Always, IfNotPresent or Never.")
	fs.StringVar(&f.pullSecrets, "probe-image-pull-secrets", "", "Names of pull secrets in the namespaces of the expectations, separated by commas.")
	fs.StringVar(&f.clusterDNS, "cluster-dns", o.ClusterDNS.String(), "Service that pods resolve names with, as namespace/name.")
	fs.StringVar(&f.ignoredKinds, "ignore-policy-kinds", "", "Kinds of policy that are taken to decide nothing, separated by commas, for example CiliumNetworkPolicy.cilium.io. Paths that an object of any other known kind could decide are predicted as undefined.")
	fs.StringVar(&f.assume, "assume", "", "What the network implementation does where the API leaves it open, as KEY=true|false, separated by commas, or cni=NAME, or cni=none to assume nothing of the implementation that is recognised by its pods: "+
		strings.Join(evaluator.AssumptionKeys(), ", ")+".")
	fs.DurationVar(&o.WarmUp, "warm-up", o.WarmUp, "Time between the moment in which a probe pod has its first plan, for which its address has to be known, and its first attempt. Raise it where the network plugin needs longer to program a new pod.")
	fs.DurationVar(&o.StartTimeout, "start-timeout", o.StartTimeout, "Longest time between the creation of a probe pod and its start.")
	fs.IntVar(&o.MaxProbePods, "max-probe-pods", o.MaxProbePods, "Probe pods that may exist at a time.")
	fs.IntVar(&o.MaxProbePodsPerNamespace, "max-probe-pods-per-namespace", o.MaxProbePodsPerNamespace, "Probe pods that may exist at a time in one namespace.")
	f.zap.BindFlags(fs)
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	return f, f.complete()
}

// complete checks what the flag types cannot, and says what to write instead.
func (f *flags) complete() error {
	o := &f.options
	ns, name, ok := strings.Cut(f.clusterDNS, "/")
	switch {
	case o.ProbeImage == "":
		return errors.New("-probe-image is required, for example -probe-image=ghcr.io/pathproof/probe:v0.1.0")
	case !ok || ns == "" || name == "":
		return fmt.Errorf("-cluster-dns is %q, want namespace/name, for example kube-system/kube-dns", f.clusterDNS)
	case o.WarmUp < 0 || o.WarmUp.Minutes() > 5:
		return fmt.Errorf("-warm-up is %s, want 0 to 5m", o.WarmUp)
	case o.StartTimeout <= 0:
		return fmt.Errorf("-start-timeout is %s, want more than 0", o.StartTimeout)
	case o.MaxProbePods < 1 || o.MaxProbePodsPerNamespace < 1:
		return errors.New("-max-probe-pods and -max-probe-pods-per-namespace want at least 1")
	}
	o.ClusterDNS = types.NamespacedName{Namespace: ns, Name: name}
	switch p := corev1.PullPolicy(f.pullPolicy); p {
	case corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever:
		o.ProbeImagePullPolicy = p
	default:
		return fmt.Errorf("-probe-image-pull-policy is %q, want Always, IfNotPresent or Never", f.pullPolicy)
	}
	if f.pullSecrets != "" {
		o.ImagePullSecrets = strings.Split(f.pullSecrets, ",")
	}
	if f.ignoredKinds != "" {
		o.IgnoredPolicyKinds = strings.Split(f.ignoredKinds, ",")
	}
	if f.assume != "" {
		var err error
		if o.Implementation, err = evaluator.ParseImplementation(strings.Split(f.assume, ",")); err != nil {
			return fmt.Errorf("-assume: %w", err)
		}
	}
	if err := controllers.CheckPolicyKinds(o.IgnoredPolicyKinds); err != nil {
		return fmt.Errorf("-ignore-policy-kinds: %w", err)
	}
	return nil
}

func run(ctx context.Context, f *flags) error {
	ctrl.SetLogger(zap.New(zap.UseFlagOptions(&f.zap)))
	klog.SetLogger(ctrl.Log)
	scheme := runtime.NewScheme()
	if err := controllers.AddToScheme(scheme); err != nil {
		return fmt.Errorf("building scheme: %w", err)
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("reading kubeconfig: %w", err)
	}
	mgr, err := ctrl.NewManager(config, managerOptions(f, scheme))
	if err != nil {
		return fmt.Errorf("building manager: %w", err)
	}
	m, cm := controllers.NewMetrics(clock.RealClock{}), controllers.NewCanaryMetrics(clock.RealClock{})
	if err := errors.Join(metrics.Registry.Register(m), metrics.Registry.Register(cm)); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	logs, err := podlog.NewReader(config)
	if err != nil {
		return err
	}
	ways := controllers.NewCanaryWays()
	r := controllers.NewExpectationReconciler(clock.RealClock{}, mgr.GetClient(), logs, mgr.GetEventRecorder("pathproof"), m, ways, f.options)
	if err := r.SetupWithManager(ctx, mgr); err != nil {
		return fmt.Errorf("setting up controller: %w", err)
	}
	c := controllers.NewCanaryReconciler(clock.RealClock{}, mgr.GetClient(), logs, mgr.GetEventRecorder("pathproof"), cm, ways, f.options)
	if err := c.SetupWithManager(ctx, mgr, r); err != nil {
		return fmt.Errorf("setting up controller of the canary: %w", err)
	}
	if err := errors.Join(mgr.AddHealthzCheck("ping", healthz.Ping), mgr.AddReadyzCheck("ping", healthz.Ping)); err != nil {
		return fmt.Errorf("adding health checks: %w", err)
	}
	return mgr.Start(ctx)
}

func managerOptions(f *flags, scheme *runtime.Scheme) ctrl.Options {
	serving := metricsserver.Options{
		BindAddress: f.metricsAddr, SecureServing: f.secureMetrics,
		// HTTP/2 is off: its stream resets have been a way to exhaust servers, and
		// metrics need none of it.
		TLSOpts: []func(*tls.Config){func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }},
	}
	if f.secureMetrics {
		serving.FilterProvider = filters.WithAuthenticationAndAuthorization
	}
	return ctrl.Options{
		Scheme: scheme, Metrics: serving, HealthProbeBindAddress: f.healthAddr,
		LeaderElection: f.elect, LeaderElectionID: "pathproof.dev", LeaderElectionNamespace: f.leaderNamespace,
		// The process ends with the manager, so that the lease can go at once.
		LeaderElectionReleaseOnCancel: true,
		Cache:                         controllers.CacheOptions(),
	}
}
