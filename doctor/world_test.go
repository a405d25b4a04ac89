package doctor

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/clock"

	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/probepod"
)

// world is a cluster of fakes: the API server, the kubelets and the network, which does what
// policies say but where a test says otherwise.
type world struct {
	t      *testing.T
	client *fake.Clientset
	// denied are the permissions that the user lacks.
	denied []string
	// status changes what becomes of a pod when it is created; nil is a pod that runs.
	status func(*corev1.Pod)
	// wrong replaces the outcome of a probe in a round, from 1; 0 leaves it.
	wrong func(round int, from, to string, p canary.Probe) wire.Outcome
	// mute keeps the pods of a node from reporting.
	mute func(node string) bool
	// loses makes the kubelet of a node lose plans, until it looks at the pod again.
	loses func(node string) bool
	// reported is called before a pod reports.
	reported func(*corev1.Pod)

	// running are the pods that are about to report.
	running sync.WaitGroup

	mu sync.Mutex
	// pods are those that were created, by address and by name.
	pods map[string]*corev1.Pod
	logs map[string]chan string
	// lost are the patches with plans that kubelets lost, by the name of the pod.
	lost map[string]string
	said []string
}

func newWorld(t *testing.T, nodes ...string) *world {
	t.Helper()
	w := &world{t: t, client: fake.NewClientset(), pods: map[string]*corev1.Pod{}, logs: map[string]chan string{}, lost: map[string]string{}}
	t.Cleanup(w.running.Wait)
	for _, name := range nodes {
		w.add(aNode(name))
	}
	w.react("create", "selfsubjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		review := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SelfSubjectAccessReview).DeepCopy()
		review.Status.Allowed = !slices.Contains(w.denied, permission(*review.Spec.ResourceAttributes))
		return true, review, nil
	})
	w.react("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		w.start(a.(clienttesting.CreateAction).GetObject().(*corev1.Pod))
		return false, nil, nil
	})
	w.react("patch", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		p := a.(clienttesting.PatchAction)
		key := p.GetNamespace() + "/" + p.GetName()
		if patch := w.read(key, string(p.GetPatch())); patch != "" {
			w.running.Go(func() { w.report(key, patch) })
		}
		return false, nil, nil
	})
	return w
}

func aNode(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"name": name}},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}
}

func (w *world) add(o runtime.Object) {
	w.t.Helper()
	if err := w.client.Tracker().Add(o); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) react(verb, resource string, f clienttesting.ReactionFunc) {
	w.client.PrependReactor(verb, resource, f)
}

// start makes a pod run, on the node that it asks for.
func (w *world) start(pod *corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.logs) + 1
	pod.UID = types.UID(fmt.Sprintf("uid-%d", n))
	pod.Spec.NodeName = pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("10.0.%d.%d", n/250, n%250)}, {IP: fmt.Sprintf("fd00::%x", n)}}}
	for _, c := range pod.Spec.Containers {
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{Name: c.Name, Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
	}
	if w.status != nil {
		w.status(pod)
	}
	for _, ip := range pod.Status.PodIPs {
		w.pods[ip.IP] = pod.DeepCopy()
	}
	w.pods[pod.Namespace+"/"+pod.Name] = pod.DeepCopy()
	w.logs[pod.Namespace+"/"+pod.Name] = make(chan string, 10)
}

// read returns the patch whose plan a pod finds in its file after a patch; empty if it finds
// none that is new.
func (w *world) read(key, patch string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !strings.Contains(patch, wire.PlanKeyPrefix) {
		patch = w.lost[key]
		delete(w.lost, key)
		return patch
	}
	if w.loses != nil && w.loses(w.pods[key].Spec.NodeName) {
		w.lost[key] = patch
		return ""
	}
	return patch
}

// report makes a pod run the plan in a patch, for three seconds.
func (w *world) report(key, patch string) {
	_, text, _ := strings.Cut(patch, wire.PlanKeyPrefix)
	_, text, _ = strings.Cut(text, `":"`)
	text, _, _ = strings.Cut(text, `"`)
	plan, err := wire.DecodePlan(text)
	if err != nil {
		w.t.Errorf("plan of %s: %v", key, err)
		return
	}
	if err := plan.Validate(); err != nil {
		w.t.Errorf("plan of %s: %v", key, err)
	}
	w.mu.Lock()
	pod, log := w.pods[key], w.logs[key]
	round := 1 + len(pod.Annotations["rounds"])
	pod.Annotations["rounds"] += "x"
	w.mu.Unlock()
	time.Sleep(3 * time.Second)
	if w.mute != nil && w.mute(pod.Spec.NodeName) {
		return
	}
	if w.reported != nil {
		w.reported(pod)
	}
	report := wire.Report{Version: wire.Version, ID: plan.ID, KubeletProbes: 1}
	for _, c := range plan.Checks {
		o := w.outcome(round, pod, c)
		report.Results = append(report.Results, wire.Result{Outcomes: wire.Outcomes{o, o, o}, Rounds: 1})
	}
	line, err := wire.EncodeMessage(wire.Message{Report: &report})
	if err != nil {
		w.t.Errorf("report of %s: %v", key, err)
	}
	log <- line
}

func (w *world) outcome(round int, from *corev1.Pod, c wire.Check) wire.Outcome {
	w.mu.Lock()
	to := w.pods[c.Addr.String()]
	w.mu.Unlock()
	p := canary.Probe{From: canary.Role(from.Labels[canary.RoleLabel]), To: canary.Role(to.Labels[canary.RoleLabel]), Transport: c.Transport, Port: c.Port, IPv6: c.Addr.Is6()}
	if w.wrong != nil {
		if o := w.wrong(round, from.Spec.NodeName, to.Spec.NodeName, p); o != 0 {
			return o
		}
	}
	if canary.Goal(canary.Rows(canary.Features()), p) == wire.GoalClosed {
		return wire.TimedOut
	}
	return wire.Replied
}

// follow is a podlog.Reader.
func (w *world) follow(ctx context.Context, pod types.NamespacedName, container string, _ time.Time) (io.ReadCloser, error) {
	w.mu.Lock()
	log := w.logs[pod.String()]
	w.mu.Unlock()
	if log == nil || container != probepod.ContainerName {
		return nil, fmt.Errorf("there is no container %s of pod %s", container, pod)
	}
	out, in := io.Pipe()
	go func() {
		defer func() { _ = in.Close() }()
		for {
			select {
			case <-ctx.Done():
				return
			case line := <-log:
				_, _ = fmt.Fprintln(in, line)
			}
		}
	}()
	return out, nil
}

// doctor is one for this world.
func (w *world) doctor(change func(*Config)) *Doctor {
	c := Config{
		Clients: Clients{Core: w.client.CoreV1(), Networking: w.client.NetworkingV1(), Authorization: w.client.AuthorizationV1()},
		Logs:    w.follow, Clock: clock.RealClock{}, Server: "https://192.0.2.1", Run: "r1", Image: probepod.Image{Name: "registry.example/probe:v1"},
		Features: canary.Features(), MaxNodes: 20, Timeout: 2 * time.Minute,
		Say: func(text string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.said = append(w.said, text)
		},
		Progress: func(string) {},
	}
	if change != nil {
		change(&c)
	}
	return New(c)
}

// namespaces are those that there are.
func (w *world) namespaces() []string {
	w.t.Helper()
	list, err := w.client.CoreV1().Namespaces().List(context.WithoutCancel(w.t.Context()), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	var out []string
	for _, ns := range list.Items {
		out = append(out, ns.Name)
	}
	slices.Sort(out)
	return out
}

// wrote counts the requests that changed something.
func (w *world) wrote() (out []string) {
	for _, a := range w.client.Actions() {
		if !slices.Contains([]string{"list", "get", "watch"}, a.GetVerb()) && a.GetResource().Resource != "selfsubjectaccessreviews" {
			out = append(out, a.GetVerb()+" "+a.GetResource().Resource)
		}
	}
	return out
}
