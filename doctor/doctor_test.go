package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/diagnosis"
	"github.com/pathproof/pathproof/probe/wire"
)

// rows lists the rows with a verdict.
func rows(r *diagnosis.Report, v canary.Verdict) (out []string) {
	for _, n := range r.Nodes {
		for _, row := range n.Rows {
			if row.Verdict == v {
				out = append(out, fmt.Sprintf("%s %s %s", n.Name, row.Direction, row.Feature))
			}
		}
	}
	return out
}

// udpOpen lets UDP through to the guarded pod of node b, as long as a round says.
func udpOpen(until int) func(int, string, string, canary.Probe) wire.Outcome {
	return func(round int, _, to string, p canary.Probe) wire.Outcome {
		if round <= until && to == "b" && p.To == canary.Guarded && p.Transport == wire.UDP {
			return wire.Replied
		}
		return 0
	}
}

// waiting makes the containers of pods wait for a reason, if the node is one of them.
func waiting(reason string, nodes ...string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		if len(nodes) > 0 && !slices.Contains(nodes, pod.Spec.NodeName) {
			return
		}
		pod.Status.Phase, pod.Status.PodIPs = corev1.PodPending, nil
		for i := range pod.Status.ContainerStatuses {
			pod.Status.ContainerStatuses[i].Ready = false
			pod.Status.ContainerStatuses[i].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "because"}}
		}
	}
}

func forbid(w *world, verb, resource string) {
	w.react(verb, resource, func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "x", errors.New("exceeded quota"))
	})
}

func cordoned(name string) *corev1.Node {
	n := aNode(name)
	n.Spec.Unschedulable = true
	return n
}

func TestExamine(t *testing.T) {
	one := func(w *world) {
		_ = w.client.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("nodes"), "", "b")
	}
	none := func(w *world) {
		one(w)
		_ = w.client.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("nodes"), "", "a")
	}
	for name, tc := range map[string]struct {
		world  func(*world)
		config func(*Config)
		want   canary.Verdict
		// summary has to be in the summary, and reason in the rest of the report.
		summary, reason string
		notEnforced     []string
		rounds          int
		// within bounds the time that it takes.
		within time.Duration
	}{
		"a network that enforces": {want: canary.Enforced, summary: "enforced on 2 of 2 nodes", rounds: 1, within: 5 * time.Second},
		"one row of one node": {
			world: func(w *world) { w.wrong = udpOpen(3) }, want: canary.NotEnforced, summary: "UDP on b (ingress)",
			notEnforced: []string{"b Ingress UDP"}, rounds: 2, within: 10 * time.Second,
		},
		"no enforcement at all": {
			world: func(w *world) { w.wrong = func(int, string, string, canary.Probe) wire.Outcome { return wire.Replied } },
			want:  canary.NotEnforced, summary: "NOT enforced on this cluster", rounds: 2,
		},
		"enforcement that is late": {world: func(w *world) { w.wrong = udpOpen(1) }, want: canary.Enforced, reason: "take effect late", rounds: 3},
		"a network that carries nothing": {
			world: func(w *world) {
				w.wrong = func(int, string, string, canary.Probe) wire.Outcome { return wire.TimedOut }
			},
			want: canary.Unknown, summary: "positive control", rounds: 3,
		},
		"one node": {world: one, want: canary.Enforced, reason: "traffic between nodes: one node was tested", rounds: 1},
		"no nodes": {world: none, want: canary.Unknown, summary: "no nodes"},
		"all nodes cordoned": {
			world: func(w *world) { none(w); w.add(cordoned("c")) }, want: canary.Unknown, summary: "all nodes are cordoned", reason: "kubectl uncordon c",
		},
		"one node cordoned":     {world: func(w *world) { w.add(cordoned("c")) }, want: canary.Unknown, summary: "node c was not tested: the node is cordoned", rounds: 1},
		"a node that is named":  {config: func(c *Config) { c.Nodes = []string{"a"} }, world: func(w *world) { w.wrong = udpOpen(3) }, want: canary.Enforced, rounds: 1},
		"nodes that are chosen": {config: func(c *Config) { c.Selector = "name=b" }, world: func(w *world) { w.wrong = udpOpen(3) }, want: canary.NotEnforced, notEnforced: []string{"b Ingress UDP"}, rounds: 2},
		"a node that is not there": {
			config: func(c *Config) { c.Nodes = []string{"a", "z"} }, want: canary.Unknown, summary: "there is no node z",
		},
		"no node is chosen": {config: func(c *Config) { c.Selector = "name=z" }, want: canary.Unknown, summary: "none of the 2 nodes is chosen"},
		"a sample":          {config: func(c *Config) { c.MaxNodes = 1 }, want: canary.Enforced, summary: "all 1 nodes that were tested, of 2", reason: "it is not in the sample of 1 nodes", rounds: 1},
		"one feature":       {config: func(c *Config) { c.Features = []v1alpha1.CanaryFeature{v1alpha1.FeaturePort} }, world: func(w *world) { w.wrong = udpOpen(3) }, want: canary.Enforced, rounds: 1},
		"a user who may not create": {
			world: func(w *world) { w.denied = []string{"create namespaces", "get pods/log"} }, want: canary.Unknown,
			summary: "the user of the kubeconfig may not create namespaces, get pods/log",
		},
		"a user who may not look at the network's pods": {
			world: func(w *world) {
				w.react("list", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
					return a.GetNamespace() == "", nil, apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("no"))
				})
			}, want: canary.Enforced, reason: "could not be recognised", rounds: 1,
		},
		"an image that cannot be pulled": {
			world: func(w *world) { w.status = waiting("ImagePullBackOff") }, want: canary.Unknown,
			summary: "no node can pull the image registry.example/probe:v1: ImagePullBackOff because", within: 2 * time.Second,
		},
		"an image that one node cannot pull": {
			world: func(w *world) { w.status = waiting("ImagePullBackOff", "b") }, want: canary.Unknown, summary: "node b does not take part", rounds: 3,
		},
		"pods that never start": {
			world: func(w *world) {
				w.status = waiting("ContainerCreating")
				w.add(&corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "pathproof-doctor-r1", Name: "e"}, Reason: "FailedCreatePodSandBox", Message: "no network"})
			}, want: canary.Unknown, summary: "on none of 2 nodes the pods started within 1m20s", reason: "FailedCreatePodSandBox: no network", within: 81 * time.Second,
		},
		"pods that are refused":       {world: func(w *world) { forbid(w, "create", "pods") }, want: canary.Unknown, summary: "exceeded quota", within: 15 * time.Second},
		"policies that are refused":   {world: func(w *world) { forbid(w, "create", "networkpolicies") }, want: canary.Unknown, summary: "the cluster refuses the NetworkPolicy"},
		"namespaces that are refused": {world: func(w *world) { forbid(w, "create", "namespaces") }, want: canary.Unknown, summary: "the cluster refuses the namespace"},
		"a policy of somebody else": {
			world: func(w *world) {
				w.add(&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "pathproof-doctor-r1-abroad", Name: "generated"}})
			}, want: canary.Unknown, summary: "has put a NetworkPolicy of its own, generated,",
		},
		"pods that do not report": {
			world: func(w *world) { w.mute = func(node string) bool { return node == "b" } }, want: canary.Unknown, summary: "has not reported", rounds: 2,
		},
		"plans that a kubelet loses": {
			world: func(w *world) { w.loses = func(node string) bool { return node == "b" } }, want: canary.Enforced,
			summary: "enforced on 2 of 2 nodes", rounds: 1, within: 10 * time.Second,
		},
		"a pod that goes in the middle": {
			world: func(w *world) {
				w.reported = func(pod *corev1.Pod) {
					_ = w.client.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("pods"), pod.Namespace, podName(canary.Friend, "b"))
				}
			}, want: canary.Unknown, summary: "was deleted or has ended during the round",
		},
		"an API server that fails": {
			world: func(w *world) {
				w.react("list", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("etcd is away") })
			}, want: canary.Unknown, summary: "etcd is away",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "a", "b")
				if tc.world != nil {
					tc.world(w)
				}
				d := w.doctor(tc.config)
				start := time.Now()
				r, err := d.Examine(t.Context())
				took := time.Since(start)
				if err != nil {
					t.Fatal(err)
				}
				if r.Verdict != tc.want || !strings.Contains(r.Summary, tc.summary) {
					t.Errorf("got %s: %s, want %s: %s", r.Verdict, r.Summary, tc.want, tc.summary)
				}
				var text strings.Builder
				_ = r.Table(&text, false)
				if !strings.Contains(text.String(), tc.reason) {
					t.Errorf("the report lacks %q:\n%s", tc.reason, text.String())
				}
				if got := rows(r, canary.NotEnforced); tc.notEnforced != nil && !slices.Equal(got, tc.notEnforced) {
					t.Errorf("not enforced are %v, want %v", got, tc.notEnforced)
				}
				if tc.rounds != 0 && r.Rounds != tc.rounds {
					t.Errorf("made %d rounds, want %d", r.Rounds, tc.rounds)
				}
				if tc.within != 0 && took > tc.within {
					t.Errorf("took %s, want at most %s", took, tc.within)
				}
				if err := errors.Join(d.Delete(t.Context()), d.AwaitGone(t.Context())); err != nil {
					t.Error(err)
				}
				if left := w.namespaces(); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		})
	}
}

// A user who lacks a permission has nothing to clean up.
func TestNothingIsCreatedWithoutPermission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newWorld(t).doctor(nil)
		needed := map[string]bool{}
		for _, n := range d.needed() {
			needed[permission(n)] = true
		}
		for p := range needed {
			w := newWorld(t, "a")
			w.denied = []string{p}
			d := w.doctor(nil)
			r, err := d.Examine(t.Context())
			if err != nil || r.Verdict != canary.Unknown || !strings.Contains(r.Summary, "may not "+p) {
				t.Errorf("without %s: %v, %s", p, err, r.Summary)
			}
			if err := errors.Join(d.Delete(t.Context()), d.AwaitGone(t.Context())); err != nil || len(w.wrote()) > 0 {
				t.Errorf("without %s: wrote %v, %v", p, w.wrote(), err)
			}
		}
		if len(needed) < 10 {
			t.Errorf("%d permissions are asked for", len(needed))
		}
	})
}

// What is written is within what is asked for, and within the two namespaces.
func TestWritesStayInItsNamespaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		d := w.doctor(nil)
		if _, err := d.Examine(t.Context()); err != nil {
			t.Fatal(err)
		}
		actions := w.client.Actions()
		for _, name := range d.namespaces() {
			ns, err := w.client.CoreV1().Namespaces().Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			expires, err := time.Parse(time.RFC3339, ns.Annotations[ExpiryAnnotation])
			if err != nil || !expires.After(time.Now().Add(d.podLifetime())) || ns.Labels[Label] != "r1" || ns.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
				t.Errorf("%s: labels %v, annotations %v, %v", name, ns.Labels, ns.Annotations, err)
			}
		}
		w.client.ClearActions()
		if err := d.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
		actions = append(actions, w.client.Actions()...)
		allowed := map[string]bool{}
		for _, n := range d.needed() {
			allowed[permission(n)] = true
		}
		for _, a := range actions {
			what := a.GetVerb() + " " + a.GetResource().Resource
			if a.GetResource().Resource == "selfsubjectaccessreviews" {
				continue
			}
			if !allowed[what] {
				t.Errorf("%s was not asked for", what)
			}
			name := a.GetNamespace()
			if c, ok := a.(clienttesting.CreateAction); ok && name == "" {
				name = c.GetObject().(metav1.Object).GetName()
			}
			if c, ok := a.(clienttesting.DeleteAction); ok && name == "" {
				name = c.GetName()
			}
			if a.GetVerb() != "list" && !slices.Contains(d.namespaces(), name) {
				t.Errorf("%s in %q", what, name)
			}
		}
	})
}

// Pods meet the restricted Pod Security Standard, and end by themselves.
func TestPodsAreConfined(t *testing.T) {
	d := (&world{t: t, client: newWorld(t).client}).doctor(nil)
	pod := canary.NewPod(d.settings(), canary.Guarded, "a")
	if s := pod.Spec.ActiveDeadlineSeconds; s == nil || *s != int64((d.Timeout+afterwards).Seconds()) {
		t.Errorf("the pods end after %v", s)
	}
	for _, c := range pod.Spec.Containers {
		if len(c.SecurityContext.Capabilities.Add) > 0 || *c.SecurityContext.AllowPrivilegeEscalation {
			t.Errorf("container %s has %+v", c.Name, c.SecurityContext)
		}
	}
}

// Whenever it is interrupted, Delete leaves nothing behind.
func TestInterrupted(t *testing.T) {
	for name, when := range map[string]func(w *world, cancel func()){
		"at once":                 func(_ *world, cancel func()) { cancel() },
		"at the first namespace":  onRequest("create", "namespaces", 1),
		"at the second namespace": onRequest("create", "namespaces", 2),
		"at a policy":             onRequest("create", "networkpolicies", 3),
		"at a pod":                onRequest("create", "pods", 3),
		"when a plan is given":    onRequest("patch", "pods", 2),
		"while pods start": func(w *world, cancel func()) {
			w.status = waiting("ContainerCreating")
			time.AfterFunc(10*time.Second, cancel)
		},
		"while pods measure":       func(_ *world, cancel func()) { time.AfterFunc(2*time.Second, cancel) },
		"while they measure again": func(_ *world, cancel func()) { time.AfterFunc(4*time.Second, cancel) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "a", "b")
				w.wrong = udpOpen(3)
				ctx, cancel := context.WithCancel(t.Context())
				when(w, cancel)
				d := w.doctor(nil)
				r, err := d.Examine(ctx)
				if !errors.Is(err, context.Canceled) || r != nil {
					t.Errorf("got %v, %v", r, err)
				}
				if err := errors.Join(d.Delete(t.Context()), d.AwaitGone(t.Context())); err != nil {
					t.Error(err)
				}
				if left := w.namespaces(); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		})
	}
}

// onRequest cancels at the nth request of a kind, which succeeds.
func onRequest(verb, resource string, n int) func(*world, func()) {
	return func(w *world, cancel func()) {
		seen := 0
		w.react(verb, resource, func(clienttesting.Action) (bool, runtime.Object, error) {
			if seen++; seen == n {
				cancel()
			}
			return false, nil, nil
		})
	}
}

// An API server that is away for a moment does not keep what was created.
func TestDeleteTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		d := w.doctor(nil)
		if _, err := d.Examine(t.Context()); err != nil {
			t.Fatal(err)
		}
		away := 3
		w.react("delete", "namespaces", func(clienttesting.Action) (bool, runtime.Object, error) {
			away--
			return away >= 0, nil, errors.New("connection refused")
		})
		if err := errors.Join(d.Delete(t.Context()), d.AwaitGone(t.Context())); err != nil || len(w.namespaces()) > 0 {
			t.Errorf("%v, left behind: %v", err, w.namespaces())
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		d := w.doctor(nil)
		if _, err := d.Examine(t.Context()); err != nil {
			t.Fatal(err)
		}
		forbid(w, "delete", "namespaces")
		if err := d.Delete(t.Context()); err == nil {
			t.Error("what could not be deleted was not told of")
		}
		if got := d.CleanUpCommand(); got != "kubectl delete namespace pathproof-doctor-r1 pathproof-doctor-r1-abroad" {
			t.Errorf("the command is %q", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := d.AwaitGone(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting for what stays ended with %v", err)
		}
	})
}

// What a run that was killed has left is removed when it has expired, and nothing else is.
func TestLeftovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		at := func(d time.Duration) string { return time.Now().Add(d).Format(time.RFC3339) }
		for name, expires := range map[string]string{
			"pathproof-doctor-old": at(-time.Minute), "pathproof-doctor-old-abroad": at(-time.Hour), "pathproof-doctor-new": at(time.Minute),
			"pathproof-doctor-odd": "soon", "production": at(-time.Hour),
		} {
			w.add(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{Label: "x"}, Annotations: map[string]string{ExpiryAnnotation: expires}}})
		}
		w.add(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "pathproof-doctor-unlabelled", Annotations: map[string]string{ExpiryAnnotation: at(-time.Hour)}}})
		d := w.doctor(nil)
		if _, err := d.Examine(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := d.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := []string{"pathproof-doctor-new", "pathproof-doctor-odd", "pathproof-doctor-unlabelled", "production"}
		if got := w.namespaces(); !slices.Equal(got, want) {
			t.Errorf("there are %v, want %v", got, want)
		}
		if said := strings.Join(w.said, "\n"); !strings.Contains(said, "removed what a run that was killed had left behind: namespaces pathproof-doctor-old, pathproof-doctor-old-abroad") ||
			!strings.Contains(said, "namespaces of another run") || !strings.Contains(said, "pathproof-doctor-new") {
			t.Errorf("said: %s", said)
		}
	})
}

// Of too many nodes, the same are chosen every time, whatever order they come in.
func TestSampleIsTheSameEveryTime(t *testing.T) {
	d := New(Config{MaxNodes: 5})
	var nodes []corev1.Node
	for i := range 50 {
		nodes = append(nodes, *aNode(fmt.Sprintf("pool-%d-node-%d", i%2, i)))
	}
	chosen, leftOut, err := d.choose(nodes)
	if err != nil || len(chosen) != 5 || len(leftOut) != 45 {
		t.Fatalf("%v, %v, %v", chosen, leftOut, err)
	}
	slices.Reverse(nodes)
	again, _, err := d.choose(nodes)
	if err != nil || !slices.Equal(chosen, again) {
		t.Errorf("first %v, then %v, %v", chosen, again, err)
	}
	pools := map[string]bool{}
	for _, name := range chosen {
		pools[name[:6]] = true
	}
	if len(pools) != 2 {
		t.Errorf("all nodes of the sample are of %v", slices.Collect(maps.Keys(pools)))
	}
}

// The network is named with how it was recognised.
func TestImplementation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		for _, name := range []string{"x", "y"} {
			w.add(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: name, Labels: map[string]string{"k8s-app": "calico-node"}}, Spec: corev1.PodSpec{HostNetwork: true}})
		}
		w.add(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cilium", Labels: map[string]string{"k8s-app": "cilium"}}, Spec: corev1.PodSpec{HostNetwork: true}})
		r, err := w.doctor(nil).Examine(t.Context())
		want := []diagnosis.Implementation{{Name: "calico", RecognisedBy: "k8s-app=calico-node", Namespace: "kube-system", Pods: 2}}
		if err != nil || !slices.Equal(r.Implementations, want) {
			t.Errorf("got %v, %v, want %v", r.Implementations, err, want)
		}
	})
}
