// Package integration tests the reconciler against a real API server with the
// generated CRDs. There are no nodes in it, so the kubelet is a fake: it is the
// one part of these tests that is not real, and the end-to-end tests have it.
package integration

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/pathproof/pathproof/controllers"
	"github.com/pathproof/pathproof/doctor"
	"github.com/pathproof/pathproof/podlog"
	"github.com/pathproof/pathproof/probe/wire"
)

func TestIntegration(t *testing.T) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Skip("KUBEBUILDER_ASSETS is not set: `make integration` sets it to a folder with kube-apiserver and etcd")
	}
	RegisterFailHandler(Fail)
	RunSpecs(t, "integration")
}

var (
	restConfig *rest.Config
	scheme     = runtime.NewScheme()
	// k8s reads from the API server, without a cache.
	k8s client.Client
	// canaryMetrics are those of the operator that was started last.
	canaryMetrics *controllers.CanaryMetrics
)

var _ = BeforeSuite(func(ctx SpecContext) {
	ctrl.SetLogger(zap.New(zap.WriteTo(GinkgoWriter)))
	Expect(controllers.AddToScheme(scheme)).To(Succeed())
	env := &envtest.Environment{CRDDirectoryPaths: []string{filepath.Join("..", "..", "config", "crd", "bases")}, ErrorIfCRDPathMissing: true}
	// Policies that an older release has stored need not pass today's validation.
	env.ControlPlane.GetAPIServer().Configure().Append("feature-gates", "StrictIPCIDRValidation=false")
	var err error
	restConfig, err = env.Start()
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(env.Stop)
	k8s, err = client.New(restConfig, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	for _, name := range []string{"node-a", "node-b"} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		Expect(k8s.Create(ctx, node)).To(Succeed())
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}}
		Expect(k8s.Status().Update(ctx, node)).To(Succeed())
		// The API server taints nodes that registered without being ready.
		node.Spec.Taints = nil
		Expect(k8s.Update(ctx, node)).To(Succeed())
	}
}, NodeTimeout(2*time.Minute))

// startOperator runs the operator as the manager does, until stop is called.
func startOperator(change func(*controllers.Options)) (stop func(), metrics *controllers.Metrics) {
	GinkgoHelper()
	return startOperatorWith(clock.RealClock{}, change, nil)
}

// startOperatorWith runs the operator by a clock, and with something in front of its
// client.
func startOperatorWith(by clock.WithTicker, change func(*controllers.Options), front func(client.Client) client.Client) (stop func(), metrics *controllers.Metrics) {
	GinkgoHelper()
	return startManager(restConfig, readLog, by, change, front)
}

// startManager runs the operator with a configuration, and a reader of logs, of its own.
func startManager(config *rest.Config, logs podlog.Reader, by clock.WithTicker, change func(*controllers.Options), front func(client.Client) client.Client) (stop func(), metrics *controllers.Metrics) {
	GinkgoHelper()
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"},
		Controller: ctrlconfig.Controller{SkipNameValidation: ptr.To(true)},
		Cache:      controllers.CacheOptions(),
	})
	Expect(err).NotTo(HaveOccurred())
	o := controllers.DefaultOptions()
	o.ProbeImage, o.WarmUp, o.StartTimeout = "probe:test", 0, 4*time.Second
	if change != nil {
		change(&o)
	}
	metrics = controllers.NewMetrics(by)
	ctx, cancel := context.WithCancel(context.Background())
	cl := mgr.GetClient()
	if front != nil {
		cl = front(cl)
	}
	ways := controllers.NewCanaryWays()
	r := controllers.NewExpectationReconciler(by, cl, logs, mgr.GetEventRecorder("pathproof"), metrics, ways, o)
	Expect(r.SetupWithManager(ctx, mgr)).To(Succeed())
	canaryMetrics = controllers.NewCanaryMetrics(by)
	c := controllers.NewCanaryReconciler(by, cl, logs, mgr.GetEventRecorder("pathproof"), canaryMetrics, ways, o)
	Expect(c.SetupWithManager(ctx, mgr, r)).To(Succeed())
	done := make(chan struct{})
	go func() {
		defer GinkgoRecover()
		defer close(done)
		Expect(mgr.Start(ctx)).To(Succeed())
	}()
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); <-done }) }
	DeferCleanup(stop)
	return stop, metrics
}

// kubelet is a fake: it schedules pods, gives them addresses, makes responders
// ready, and ends probes with a report of the outcomes that the test wants.
type kubelet struct {
	namespace string

	mu sync.Mutex
	// outcome answers for a check from a pod; nil means connected.
	outcome func(*corev1.Pod, wire.Check) wire.Outcome
	// end replaces the report of a probe by a status of the test's own.
	end func(*corev1.Pod) *corev1.PodStatus
	// hold keeps the pods from running for which it is true.
	hold func(*corev1.Pod) bool
	// record changes what responders answer when they are asked for their record; nil means
	// that nothing had arrived.
	record func(wire.RecordRequest, *wire.Record)
	// mute keeps responders from answering; recorded are the requests that were answered.
	mute     bool
	recorded []string
	// ran are the values of the label app of the responders that were run and of the
	// probes that reported.
	ran  []string
	next int
	// logs are the lines that resident pods have printed.
	logs map[types.UID][]string
	// network is what the addresses of the pods begin with.
	network string
	// turn is the turn of the reports of plans that are run again and again.
	turn int64
}

// kubelets are those that run, by namespace.
var kubelets sync.Map

// readLog follows the log of a pod of a fake kubelet.
func readLog(ctx context.Context, pod types.NamespacedName, container string, _ time.Time) (io.ReadCloser, error) {
	k, ok := kubelets.Load(pod.Namespace)
	if !ok || container != "probe" {
		return nil, fmt.Errorf("pod %s has no container %s", pod, container)
	}
	var o corev1.Pod
	if err := k8s.Get(ctx, pod, &o); err != nil {
		return nil, err
	}
	out, in := io.Pipe()
	go func() {
		defer func() { _ = in.Close() }()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for printed := 0; ctx.Err() == nil; {
			for _, line := range k.(*kubelet).log(o.UID, &printed) {
				if _, err := fmt.Fprintln(in, line); err != nil {
					return
				}
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	}()
	return out, nil
}

// log returns the lines after those that were printed.
func (k *kubelet) log(pod types.UID, printed *int) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	lines := k.logs[pod][*printed:]
	*printed += len(lines)
	return slices.Clone(lines)
}

// isResident tells whether a pod stays between runs.
func isResident(pod *corev1.Pod) bool {
	return pod.Annotations["pathproof.dev/resident"] != "" || strings.HasPrefix(pod.Namespace, doctor.NamePrefix)
}

// answer reports on the plans that a resident pod has and has not reported on.
func (k *kubelet) answer(pod *corev1.Pod) {
	for key, encoded := range pod.Annotations {
		if !strings.HasPrefix(key, wire.PlanKeyPrefix) {
			continue
		}
		line := "report " + k.report(pod, encoded)
		if !slices.Contains(k.logs[pod.UID], line) {
			k.logs[pod.UID] = append(k.logs[pod.UID], line)
			k.ran = append(k.ran, pod.Labels["app"])
		}
	}
	for id, text := range k.records(pod) {
		if !slices.Contains(k.recorded, id) {
			k.logs[pod.UID] = append(k.logs[pod.UID], "record "+text)
			k.recorded = append(k.recorded, id)
		}
	}
}

// records returns the records that a responder is asked for, by the ID of the request.
func (k *kubelet) records(pod *corev1.Pod) map[string]string {
	if k.mute {
		return nil
	}
	var lines strings.Builder
	for key, value := range pod.Annotations {
		fmt.Fprintf(&lines, "%s=%q\n", key, value)
	}
	requests, err := wire.DecodeRecordRequests(lines.String())
	Expect(err).NotTo(HaveOccurred())
	out := map[string]string{}
	for _, request := range requests {
		record := wire.Record{Version: wire.Version, ID: request.ID}
		if k.record != nil {
			k.record(request, &record)
		}
		text, err := wire.EncodeRecord(record)
		Expect(err).NotTo(HaveOccurred())
		out[request.ID] = text
	}
	return out
}

// everyPod, probes and probesOf are what hold can be.
func everyPod(*corev1.Pod) bool { return true }

func probes(pod *corev1.Pod) bool { return pod.Spec.Containers[0].Args[0] != "serve" }

func probesOf(app string) func(*corev1.Pod) bool {
	return func(pod *corev1.Pod) bool { return probes(pod) && pod.Labels["app"] == app }
}

// apps returns the identities of all pods that were run so far.
func (k *kubelet) apps() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.ran)
}

func startKubelet(namespace string) *kubelet {
	return startKubeletIn(namespace, "10.9.0.")
}

// startKubeletIn gives the pods addresses of a network of their own.
func startKubeletIn(namespace, network string) *kubelet {
	k := &kubelet{namespace: namespace, network: network, logs: map[types.UID][]string{}}
	kubelets.Store(namespace, k)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer GinkgoRecover()
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-tick.C:
				k.sync(ctx)
			}
		}
	}()
	DeferCleanup(func() { cancel(); <-done })
	return k
}

func (k *kubelet) set(change func(*kubelet)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change(k)
}

func (k *kubelet) sync(ctx context.Context) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var pods corev1.PodList
	if err := k8s.List(ctx, &pods, client.InNamespace(k.namespace)); err != nil {
		return
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.DeletionTimestamp != nil {
			// The kubelet confirms that the containers are gone.
			_ = k8s.Delete(ctx, pod, client.GracePeriodSeconds(0))
			continue
		}
		if (pod.Annotations["pathproof.dev/run"] == "" && !isResident(pod)) || (k.hold != nil && k.hold(pod)) {
			continue
		}
		// A probe that was started without a plan is looked at again until it has one.
		if pod.Status.Phase == corev1.PodPending || (pod.Status.Phase == corev1.PodRunning && probes(pod) && pod.Annotations[wire.PlanAnnotation] != "") {
			k.run(ctx, pod)
		}
		switch records := k.records(pod); {
		case pod.Status.Phase != corev1.PodRunning:
		case isResident(pod):
			k.answer(pod)
		default:
			for id, record := range records { // one
				k.finish(ctx, pod, id, record)
			}
		}
	}
}

// finish ends a responder with its record.
func (k *kubelet) finish(ctx context.Context, pod *corev1.Pod, id, record string) {
	pod.Status.Phase = corev1.PodSucceeded
	pod.Status.ContainerStatuses[0].Ready = false
	pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed", Message: record}}
	if k8s.Status().Update(ctx, pod) == nil {
		k.recorded = append(k.recorded, id)
	}
}

func (k *kubelet) run(ctx context.Context, pod *corev1.Pod) {
	if pod.Spec.NodeName == "" {
		terms := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
		binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: terms[0].MatchFields[0].Values[0]}}
		if k8s.SubResource("binding").Create(ctx, pod, binding) != nil {
			return
		}
	}
	pod.Status.Phase = corev1.PodRunning
	if pod.Status.PodIP == "" {
		k.next++
		pod.Status.PodIP = fmt.Sprintf("%s%d", k.network, 1+k.next%250)
		pod.Status.PodIPs = []corev1.PodIP{{IP: pod.Status.PodIP}}
	}
	container := corev1.ContainerStatus{Name: "probe", Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}}
	if encoded := pod.Annotations[wire.PlanAnnotation]; encoded != "" {
		pod.Status.Phase, container.Ready = corev1.PodSucceeded, false
		container.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed", Message: k.report(pod, encoded)}}
	}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{container}
	for _, c := range pod.Spec.Containers[1:] {
		also := *container.DeepCopy()
		if also.Name = c.Name; c.Name == "sctp" {
			// The kernel has none.
			also.Ready, also.State = false, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3}}
		}
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, also)
	}
	if k.end != nil {
		if status := k.end(pod); status != nil {
			pod.Status = *status
		}
	}
	// The write after the binding conflicts with it; the next sync makes it.
	if k8s.Status().Update(ctx, pod) == nil && (!probes(pod) || pod.Annotations[wire.PlanAnnotation] != "") {
		k.ran = append(k.ran, pod.Labels["app"])
	}
}

func (k *kubelet) report(pod *corev1.Pod, encoded string) string {
	plan, err := wire.DecodePlan(encoded)
	Expect(err).NotTo(HaveOccurred())
	report := wire.Report{Version: wire.Version, ID: plan.ID, KubeletProbes: 1}
	if plan.EverySeconds > 0 {
		report.Turn = k.turn
	}
	for _, c := range plan.Checks {
		outcome := wire.Connected
		if k.outcome != nil {
			outcome = k.outcome(pod, c)
		}
		if outcome == wire.Connected && c.Nonce != "" {
			outcome = wire.Replied // by a responder
		}
		report.Results = append(report.Results, wire.Result{Outcomes: wire.Outcomes{outcome, outcome, outcome}, Rounds: 1})
	}
	text, err := wire.EncodeReport(report)
	Expect(err).NotTo(HaveOccurred())
	return text
}
