package controllers

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
)

// An operator that begins anew goes on with what its predecessor has written, as long as
// that would still count. Nothing green outlives the time in which nobody looked.
func TestWhatAPredecessorKnewGrowsOld(t *testing.T) {
	f := newFleet(t, 3)
	f.settle()
	f.report()
	f.settle()
	expect := func(when string, enforced, complete metav1.ConditionStatus) {
		t.Helper()
		st := f.status()
		for name, want := range map[string]metav1.ConditionStatus{v1alpha1.ConditionEnforced: enforced, v1alpha1.ConditionComplete: complete} {
			if c := meta.FindStatusCondition(st.Conditions, name); c == nil || c.Status != want {
				t.Errorf("%s: %s is %+v, want %s", when, name, c, want)
			}
		}
	}
	expect("measured", metav1.ConditionTrue, metav1.ConditionTrue)
	f.clock.Step(2 * time.Minute)
	f.restart()
	f.reconcile()
	expect("an operator that begins anew", metav1.ConditionTrue, metav1.ConditionTrue)
	f.clock.Step(30 * time.Second) // 2.5 intervals in all
	f.restart()
	f.reconcile()
	expect("one that begins anew too late", metav1.ConditionUnknown, metav1.ConditionFalse)
	f.report()
	f.settle()
	expect("its first round", metav1.ConditionTrue, metav1.ConditionTrue)
}

// Reports that come while a reconcile is under way are as good as those before: a canary of
// many nodes gets some in each.
func TestReportsThatComeMeanwhile(t *testing.T) {
	f := newFleet(t, 3)
	f.settle()
	for round := range 4 {
		f.meanwhile = func() {
			f.clock.Step(100 * time.Millisecond)
			f.report()
		}
		f.reconcile()
		st := f.status()
		if c := meta.FindStatusCondition(st.Conditions, v1alpha1.ConditionReady); c == nil || c.Status != metav1.ConditionTrue {
			t.Fatalf("round %d: Ready is %+v", round, c)
		}
		f.clock.Step(time.Minute)
	}
}

// A node that does not take part just then is judged by what has come meanwhile as soon as
// it does.
func TestReportsOfANodeThatWaits(t *testing.T) {
	f := newFleet(t, 3)
	f.settle()
	f.report()
	f.settle()
	first := f.status().LastRound.FinishedAt
	f.clock.Step(time.Minute)
	var policies networkingv1.NetworkPolicyList
	if err := f.client.List(t.Context(), &policies); err != nil {
		t.Fatal(err)
	}
	for i := range policies.Items {
		// Somebody changes what belongs to a node.
		if p := &policies.Items[i]; strings.HasPrefix(p.Name, "ipblock-") {
			p.Spec.PolicyTypes = nil
			if err := f.client.Update(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.report()
	f.settle()
	if st := f.status(); !st.LastRound.FinishedAt.After(first.Time) {
		t.Errorf("the last round is of %s, as it was before: %+v", st.LastRound.FinishedAt, st.Conditions)
	}
}

// Looking is no more than a tenth of the work, and no report waits long because the look
// before was slow.
func TestGathering(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{
		0:                      300 * time.Millisecond,
		30 * time.Millisecond:  300 * time.Millisecond,
		200 * time.Millisecond: 2 * time.Second,
		30 * time.Second:       5 * time.Second,
	} {
		if got := gatherFor(took); got != want {
			t.Errorf("after a look of %s, events are gathered for %s, want %s", took, got, want)
		}
	}
}

// A node that is not Ready for a moment keeps its pods, and one that is cordoned does not.
func TestPodsOfNodesThatAreLeftOut(t *testing.T) {
	f := newFleet(t, 3)
	f.settle()
	f.report()
	f.settle()
	change := func(change func(*corev1.Node)) {
		t.Helper()
		var node corev1.Node
		if err := f.client.Get(t.Context(), client.ObjectKey{Name: "node-1"}, &node); err != nil {
			t.Fatal(err)
		}
		change(&node)
		status := node.Status
		if err := f.client.Update(t.Context(), &node); err != nil {
			t.Fatal(err)
		}
		node.Status = status
		if err := f.client.Status().Update(t.Context(), &node); err != nil {
			t.Fatal(err)
		}
	}
	uids := func() (out []string) {
		for _, pod := range f.pods() {
			out = append(out, string(pod.UID))
		}
		slices.Sort(out)
		return out
	}
	expect := func(when, reason string) {
		t.Helper()
		f.settle()
		f.report()
		f.settle()
		st := f.status()
		got := ""
		for _, l := range st.Nodes.LeftOut {
			got += fmt.Sprint(l.Count, l.Reason)
		}
		if got != reason {
			t.Errorf("%s: left out are %q, want %q", when, got, reason)
		}
		if c := meta.FindStatusCondition(st.Conditions, v1alpha1.ConditionReady); c.Status != metav1.ConditionTrue {
			t.Errorf("%s: Ready is %+v", when, c)
		}
	}
	before := uids()
	change(func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown })
	expect("not Ready", "1NotReady")
	change(func(n *corev1.Node) {
		n.Status.Conditions[0].Status = corev1.ConditionTrue
		n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoSchedule}}
	})
	expect("Ready, by its condition", "1NotReady")
	change(func(n *corev1.Node) { n.Spec.Taints = nil })
	expect("Ready", "")
	if after := uids(); !slices.Equal(after, before) {
		t.Errorf("there are pods %v, want %v as before", after, before)
	}
	change(func(n *corev1.Node) { n.Spec.Unschedulable = true })
	expect("cordoned", "1Cordoned")
	if after := uids(); len(after) != len(before)-len(canary.Roles()) {
		t.Errorf("%d pods are left of %d", len(after), len(before))
	}
}

// What is known grows old while nothing can be measured, whether a step has to wait or fails.
func TestResultsGrowOldWhileNothingIsMeasured(t *testing.T) {
	condition := func(f *fleet, name string) metav1.ConditionStatus {
		return meta.FindStatusCondition(f.status().Conditions, name).Status
	}
	for name, hold := range map[string]func(*fleet){
		"a namespace that does not go": func(f *fleet) {
			ns := &corev1.Namespace{}
			if err := f.client.Get(t.Context(), client.ObjectKey{Name: "c-abroad"}, ns); err != nil {
				t.Fatal(err)
			}
			ns.Finalizers = []string{"example.com/held"}
			if err := errors.Join(f.client.Update(t.Context(), ns), f.client.Delete(t.Context(), ns)); err != nil {
				t.Fatal(err)
			}
		},
		"a step that fails": func(f *fleet) { f.fail = errors.New("no nodes today") },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, 2)
			f.settle()
			f.report()
			f.settle()
			if got := condition(f, v1alpha1.ConditionReady); got != metav1.ConditionTrue {
				t.Fatalf("Ready is %s", got)
			}
			hold(f)
			f.try()
			if got := condition(f, v1alpha1.ConditionReady); got != metav1.ConditionTrue {
				t.Errorf("Ready is %s before anything is old", got)
			}
			f.clock.Step(3 * time.Minute)
			f.try()
			if e, c, r := condition(f, v1alpha1.ConditionEnforced), condition(f, v1alpha1.ConditionComplete), condition(f, v1alpha1.ConditionReady); e != metav1.ConditionUnknown || c != metav1.ConditionFalse || r != metav1.ConditionUnknown {
				t.Errorf("Enforced is %s, Complete %s and Ready %s, want Unknown, False and Unknown", e, c, r)
			}
		})
	}
}

// Where nothing can be tested, nothing is enforced as far as anybody knows.
func TestNothingToTestIsNoProof(t *testing.T) {
	f := newFleet(t, 2)
	c := aCanary()
	if err := f.client.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
		t.Fatal(err)
	}
	c.Spec.Features = []v1alpha1.CanaryFeature{v1alpha1.FeatureClusterNetworkPolicy}
	if err := f.client.Update(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	f.settle()
	for _, c := range f.status().Conditions {
		if c.Status == metav1.ConditionTrue || !strings.Contains(c.Message, "nothing was shown") {
			t.Errorf("%s is %s: %s", c.Type, c.Status, c.Message)
		}
	}
}

// A request is handled when all results are newer, those of nodes that wait just now among
// them.
func TestRequestIsHandledByAllNodes(t *testing.T) {
	f := newFleet(t, 3)
	f.settle()
	f.report()
	f.settle()
	c := aCanary()
	if err := f.client.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
		t.Fatal(err)
	}
	c.Annotations = map[string]string{v1alpha1.RequestedAtAnnotation: "now"}
	if err := f.client.Update(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	ready := func(node string, ready bool) {
		for _, pod := range f.pods() {
			if pod.Spec.NodeName != node {
				continue
			}
			for i := range pod.Status.ContainerStatuses {
				pod.Status.ContainerStatuses[i].Ready = ready
			}
			if err := f.client.Status().Update(t.Context(), pod); err != nil {
				t.Fatal(err)
			}
		}
	}
	ready("node-2", false)
	f.settle()
	f.report()
	f.settle()
	if got := f.status().LastHandledRequest; got != "" {
		t.Errorf("the request %q was handled while a node had results from before only", got)
	}
	ready("node-2", true)
	f.settle()
	f.report()
	f.settle()
	if got := f.status().LastHandledRequest; got != "now" {
		t.Errorf("the last request that was handled is %q, want now", got)
	}
}
