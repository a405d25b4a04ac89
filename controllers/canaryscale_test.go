package controllers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/probe/wire"
)

// fleet is a canary on many nodes. The client, the kubelets and the network are fakes.
type fleet struct {
	t      testing.TB
	clock  *clocktesting.FakeClock
	client client.Client
	r      *CanaryReconciler
	// restart begins with an operator that knows nothing.
	restart func()
	// writes counts the requests that change something, by what they do.
	writes map[string]int
	turn   int64
	// started counts the pods that were started.
	started int
	// fail is what listing nodes fails with.
	fail error
	// meanwhile happens once, while a reconcile is under way.
	meanwhile func()
	// wrong tells of checks from a node to an address that get through although they must
	// not.
	wrong func(node string, c wire.Check) bool
}

func newFleet(t testing.TB, nodes int) *fleet {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t, clock: clocktesting.NewFakeClock(time.Unix(1_700_000_000, 0)), writes: map[string]int{}}
	c := aCanary()
	c.CreationTimestamp = metav1.Time{Time: f.clock.Now()}
	objects := []client.Object{c}
	for i := range nodes {
		objects = append(objects, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node-%d", i)},
			Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
		})
	}
	f.client = fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithStatusSubresource(&v1alpha1.EnforcementCanary{}).
		WithIndex(&corev1.Pod{}, PodCNIIndex, func(client.Object) []string { return nil }).Build()
	counted := interceptor.NewClient(f.client.(client.WithWatch), interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if _, policies := list.(*networkingv1.NetworkPolicyList); policies && f.meanwhile != nil {
				f.meanwhile()
				f.meanwhile = nil
			}
			if _, nodes := list.(*corev1.NodeList); nodes && f.fail != nil {
				return f.fail
			}
			return c.List(ctx, list, opts...)
		},
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			f.writes["create"]++
			o.SetUID(types.UID(fmt.Sprintf("uid-%d", f.writes["create"])))
			o.SetCreationTimestamp(metav1.Time{Time: f.clock.Now()})
			return c.Create(ctx, o, opts...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			f.writes["delete"]++
			return c.Delete(ctx, o, opts...)
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			f.writes["patch"]++
			return c.Patch(ctx, o, p, opts...)
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			f.writes["status"]++
			return c.SubResource(sub).Patch(ctx, o, p, opts...)
		},
	})
	silent := func(ctx context.Context, _ types.NamespacedName, _ string, _ time.Time) (io.ReadCloser, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	f.restart = func() {
		f.r = NewCanaryReconciler(f.clock, counted, silent, events.NewFakeRecorder(1000), NewCanaryMetrics(f.clock), NewCanaryWays(), podOptions())
		f.r.logs.Lifetime = t.Context
		f.r.reports.changed = nil // nobody is woken: the test reconciles by itself
	}
	f.restart()
	return f
}

// try reconciles once, which may fail as fail says.
func (f *fleet) try() {
	f.t.Helper()
	if _, err := f.r.Reconcile(f.t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Name: v1alpha1.CanaryName}}); !errors.Is(err, f.fail) {
		f.t.Fatal(err)
	}
}

// reconcile reconciles once and lets the kubelets start what is new.
func (f *fleet) reconcile() {
	f.t.Helper()
	if _, err := f.r.Reconcile(f.t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Name: v1alpha1.CanaryName}}); err != nil {
		f.t.Fatal(err)
	}
	for _, pod := range f.pods() {
		if pod.Status.PodIP != "" {
			continue
		}
		f.started++
		pod.Spec.NodeName = pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
		status := runningPod(ended("sctp", 3)).Status
		status.PodIP = fmt.Sprintf("10.0.%d.%d", f.started/250, f.started%250)
		status.PodIPs = []corev1.PodIP{{IP: status.PodIP}}
		if err := f.client.Update(f.t.Context(), pod); err != nil {
			f.t.Fatal(err)
		}
		pod.Status = status
		if err := f.client.Status().Update(f.t.Context(), pod); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f *fleet) pods() []*corev1.Pod {
	f.t.Helper()
	var list corev1.PodList
	if err := f.client.List(f.t.Context(), &list); err != nil {
		f.t.Fatal(err)
	}
	return pointers(list.Items)
}

// report makes the next turn of all plans.
func (f *fleet) report() {
	f.t.Helper()
	f.turn++
	for _, pod := range f.pods() {
		f.reportOf(pod)
	}
}

// reportOf makes this turn of the plan of a pod.
func (f *fleet) reportOf(pod *corev1.Pod) {
	f.t.Helper()
	plan, err := wire.DecodePlan(pod.Annotations[wire.PlanKeyPrefix+"canary-1"])
	if err != nil {
		f.t.Fatalf("pod %s: %v", pod.Name, err)
	}
	report := &wire.Report{Version: wire.Version, ID: plan.ID, Turn: f.turn, KubeletProbes: 1}
	for _, c := range plan.Checks {
		outcome := wire.Replied
		if c.Goal == wire.GoalClosed && (f.wrong == nil || !f.wrong(pod.Spec.NodeName, c)) {
			outcome = wire.TimedOut
		}
		report.Results = append(report.Results, wire.Result{Outcomes: wire.Outcomes{outcome, outcome, outcome}})
	}
	f.r.reports.keep(pod.UID, report)
}

// settle reconciles until nothing is written any more, and returns what was.
func (f *fleet) settle() map[string]int {
	f.t.Helper()
	total := map[string]int{}
	for range 100 {
		clear(f.writes)
		f.reconcile()
		wrote := 0
		for what, n := range f.writes {
			total[what] += n
			wrote += n
		}
		if wrote == 0 {
			return total
		}
		f.clock.Step(time.Second)
	}
	f.t.Fatalf("there is no end of writes: %v", total)
	return nil
}

func (f *fleet) status() v1alpha1.EnforcementCanaryStatus {
	f.t.Helper()
	var c v1alpha1.EnforcementCanary
	if err := f.client.Get(f.t.Context(), client.ObjectKey{Name: v1alpha1.CanaryName}, &c); err != nil {
		f.t.Fatal(err)
	}
	return c.Status
}

// In steady state, the canary makes one write in an interval, however many nodes there
// are. A node that breaks shows alone, and one that goes concerns its neighbours alone.
func TestCanaryOnManyNodes(t *testing.T) {
	const nodes = 20
	f := newFleet(t, nodes)
	// Namespaces, the policies of all but ipBlock, and for each node four pods and that of
	// ipBlock.
	if got := f.settle()["create"]; got != 2+10+5*nodes {
		t.Errorf("created %d objects, want %d", got, 2+10+5*nodes)
	}
	f.report()
	f.settle()
	if st := f.status(); st.Nodes == nil || st.Nodes.Covered != nodes || len(st.Offenders) != 0 {
		t.Fatalf("got %+v, want all nodes covered", st)
	}
	const rounds = 5
	clear(f.writes)
	for range rounds {
		f.clock.Step(time.Minute)
		f.report()
		for range 3 { // reports come one after the other
			f.reconcile()
		}
	}
	if f.writes["status"] > rounds || f.writes["create"]+f.writes["patch"]+f.writes["delete"] != 0 {
		t.Errorf("wrote %v in %d rounds, want the status alone, once in each", f.writes, rounds)
	}

	f.wrong = func(node string, c wire.Check) bool {
		return node == "node-7" && c.Transport == wire.UDP && f.fromGuarded(c)
	}
	f.clock.Step(time.Minute)
	f.report()
	f.settle()
	if got := f.status().Offenders; len(got) != 1 || got[0].Node != "node-7" || got[0].Direction != v1alpha1.DirectionEgress || got[0].Feature != v1alpha1.FeatureUDP {
		t.Errorf("got the offenders %v, want UDP from node-7", got)
	}

	// An operator that begins anew, and has read no report, says what the last one did.
	f.restart()
	clear(f.writes)
	f.reconcile()
	if len(f.writes) != 0 || testutil.CollectAndCount(f.r.metrics, "pathproof_enforcement_violations") != 1 {
		t.Errorf("wrote %v and told of %d violations, want nothing and the one that is known", f.writes, testutil.CollectAndCount(f.r.metrics, "pathproof_enforcement_violations"))
	}

	if err := f.client.Delete(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-7"}}); err != nil {
		t.Fatal(err)
	}
	got := f.settle()
	// Four pods and a policy go. Two nodes probe another neighbour, and two are probed by
	// another one; what probes those whose policy has changed gets new plans, too.
	if got["delete"] != 5 || got["create"] != 0 || got["patch"] > 7*4+4 {
		t.Errorf("wrote %v for one node that is gone", got)
	}
	f.report()
	f.settle()
	if st := f.status(); st.Nodes.Covered != nodes-1 || st.Nodes.Selected != nodes-1 || len(st.Offenders) != 0 {
		t.Errorf("got %+v, want all nodes that are left", st)
	}
}

// A kubelet may lose a plan: a pod that has not reported in time is changed once, so that it
// is looked at again, by an operator that did not give it the plan, too.
func TestSilentPodsOfTheCanaryAreNudged(t *testing.T) {
	const silent = "node-1"
	f := newFleet(t, 3)
	f.settle()
	due := DefaultOptions().WarmUp + canary.Overdue
	of := func() (nudged map[string]string) {
		nudged = map[string]string{}
		for _, pod := range f.pods() {
			if at := pod.Annotations["pathproof.dev/nudged-at"]; at != "" {
				nudged[pod.Name] = pod.Spec.NodeName
			}
		}
		return nudged
	}
	for _, pod := range f.pods() {
		if pod.Spec.NodeName != silent {
			f.reportOf(pod)
		}
	}
	f.reconcile()
	if got := of(); len(got) != 0 {
		t.Errorf("nudged %v before a report was overdue", got)
	}
	f.clock.Step(due)
	f.reconcile()
	if got := of(); len(got) != len(canary.Roles()) || slices.ContainsFunc(slices.Collect(maps.Values(got)), func(node string) bool { return node != silent }) {
		t.Errorf("nudged %v, want the pods of %s", got, silent)
	}
	clear(f.writes)
	quiet := func(when string, step time.Duration) {
		t.Helper()
		f.clock.Step(step)
		f.reconcile()
		if f.writes["patch"] != 0 {
			t.Errorf("%s: wrote %v", when, f.writes)
		}
	}
	quiet("they were nudged", due)

	f.restart()
	quiet("a new operator could not have read reports yet", 0)
	f.report()
	quiet("all have reported", due)
	f.restart()
	quiet("a new operator", 0)
	quiet("plans of long ago, before an interval is over", due)
	f.clock.Step(canaryInterval(aCanary()))
	f.reconcile()
	if want := 3 * len(canary.Roles()); f.writes["patch"] != want {
		t.Errorf("an operator that has read no report wrote %v, want %d patches", f.writes, want)
	}
}

// fromGuarded tells whether a check is one of egress: those of ingress go to a guarded pod.
func (f *fleet) fromGuarded(c wire.Check) bool {
	for _, pod := range f.pods() {
		if pod.Status.PodIP == c.Addr.String() {
			return pod.Labels[canary.RoleLabel] != string(canary.Guarded)
		}
	}
	return false
}
