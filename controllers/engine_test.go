package controllers

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/plan"
)

// world is a cluster that changes at random.
type world struct {
	rand       *rand.Rand
	clock      int
	namespaces map[string]*corev1.Namespace
	pods       map[string]*corev1.Pod
	policies   map[string]*networkingv1.NetworkPolicy
	unmodelled map[evaluator.Unmodelled]bool
}

func newWorld(seed uint64) *world {
	return &world{
		rand: rand.New(rand.NewPCG(seed, 1)), namespaces: map[string]*corev1.Namespace{}, pods: map[string]*corev1.Pod{},
		policies: map[string]*networkingv1.NetworkPolicy{}, unmodelled: map[evaluator.Unmodelled]bool{},
	}
}

func (w *world) meta(namespace, name string) metav1.ObjectMeta {
	w.clock++
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name, UID: types.UID(strconv.Itoa(w.rand.IntN(3))), ResourceVersion: strconv.Itoa(w.clock), Labels: w.labels(),
	}
}

func (w *world) labels() map[string]string {
	return map[string]string{"app": string(rune('a' + w.rand.IntN(3)))}
}

// change makes, replaces or removes one object.
func (w *world) change() {
	ns, name := fmt.Sprintf("n%d", w.rand.IntN(3)), fmt.Sprintf("o%d", w.rand.IntN(4))
	key := ns + "/" + name
	switch w.rand.IntN(7) {
	case 0:
		w.namespaces[ns] = &corev1.Namespace{ObjectMeta: w.meta("", ns)}
	case 1:
		delete(w.namespaces, ns)
	case 2:
		p := &corev1.Pod{ObjectMeta: w.meta(ns, name)}
		p.Status.PodIP = fmt.Sprintf("10.0.0.%d", w.rand.IntN(20))
		w.pods[key] = p
	case 3:
		delete(w.pods, key)
	case 4:
		p := &networkingv1.NetworkPolicy{ObjectMeta: w.meta(ns, name)}
		p.Spec.PodSelector.MatchLabels = w.labels()
		p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{
			{PodSelector: &metav1.LabelSelector{MatchLabels: w.labels()}, NamespaceSelector: &metav1.LabelSelector{MatchLabels: w.labels()}},
		}}}
		w.policies[key] = p
	case 5:
		delete(w.policies, key)
	case 6:
		u := evaluator.Unmodelled{Kind: "Wall.example.org", Namespace: ns, Name: name}
		w.unmodelled[u] = !w.unmodelled[u] && w.rand.IntN(4) == 0
	}
}

// snapshot holds what a reconcile reads: all that has no namespace, and what is in the
// namespaces in reach.
func (w *world) snapshot(in reach) evaluator.Snapshot {
	var s evaluator.Snapshot
	for _, o := range w.namespaces {
		s.Namespaces = append(s.Namespaces, o)
	}
	for _, o := range w.pods {
		if in.includes(o.Namespace) {
			s.Pods = append(s.Pods, o)
		}
	}
	for _, o := range w.policies {
		if in.includes(o.Namespace) {
			s.NetworkPolicies = append(s.NetworkPolicies, o)
		}
	}
	for u, exists := range w.unmodelled {
		if exists {
			s.Unmodelled = append(s.Unmodelled, u)
		}
	}
	return s
}

// TestOneEngineAnswersAsOneOfItsOwn compares the engine that all expectations share
// with one that is compiled from the snapshot of the expectation.
func TestOneEngineAnswersAsOneOfItsOwn(t *testing.T) {
	verdicts := map[evaluator.Verdict]int{}
	for seed := range uint64(40) {
		w, k := newWorld(seed), &engineKeeper{}
		for step := range 60 {
			w.change()
			in := reach{namespaces: map[string]bool{fmt.Sprintf("n%d", w.rand.IntN(3)): true, fmt.Sprintf("n%d", w.rand.IntN(3)): true}}
			in.everywhere = w.rand.IntN(3) == 0
			s := w.snapshot(in)
			shared := k.engineFor(s, in)
			own, problems := evaluator.Compile(s)
			if diff := cmp.Diff(problems, shared.Problems(in.includes)); diff != "" {
				t.Fatalf("seed %d, step %d: problems (-own +shared):\n%s", seed, step, diff)
			}
			for _, from := range s.Pods {
				for _, to := range s.Pods {
					f := flow.Flow{
						From: flow.Endpoint{Namespace: from.Namespace, Labels: from.Labels, Addr: netip.MustParseAddr("10.0.1.1")},
						To:   flow.Endpoint{Namespace: to.Namespace, Pod: to.Name}, Protocol: flow.TCP, Port: 80,
					}
					want, got := own.Decide(f), shared.Decide(f)
					if diff := cmp.Diff(want, got); diff != "" {
						t.Fatalf("seed %d, step %d: %s (-own +shared):\n%s", seed, step, f, diff)
					}
					verdicts[got.Verdict]++
				}
			}
		}
	}
	for _, v := range []evaluator.Verdict{evaluator.Allowed, evaluator.Denied, evaluator.Undefined} {
		if verdicts[v] == 0 {
			t.Errorf("the random clusters never led to %s: %v", v, verdicts)
		}
	}
}

func TestPoliciesWakeTheExpectationsThatTheyMayChange(t *testing.T) {
	policy := func(app string) *networkingv1.NetworkPolicy {
		p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "p"}}
		p.Spec.PodSelector.MatchLabels = map[string]string{"app": app}
		return p
	}
	broken := policy("other")
	broken.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: make([]networkingv1.NetworkPolicyPeer, 1)}}
	engine, _ := evaluator.Compile(evaluator.Snapshot{
		Namespaces: []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}},
		Pods:       []*corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db", Labels: map[string]string{"app": "db"}}}},
	})
	o := &outlook{engine: engine, flows: []flow.Flow{{
		From: flow.Endpoint{Namespace: "shop", Labels: map[string]string{"app": "web"}}, To: flow.Endpoint{Namespace: "shop", Pod: "db"},
		Protocol: flow.TCP, Port: 80,
	}}}
	cases := map[string]struct {
		versions []client.Object
		want     bool
	}{
		"a policy for the target":                  {[]client.Object{policy("db")}, true},
		"a policy for other pods":                  {[]client.Object{policy("other")}, false},
		"ingress of the source":                    {[]client.Object{policy("web")}, false},
		"a policy that was for the target":         {[]client.Object{policy("db"), policy("other")}, true},
		"a policy that will be for the target":     {[]client.Object{policy("other"), policy("db")}, true},
		"an invalid policy for other pods":         {[]client.Object{broken}, true},
		"a policy for other pods that was invalid": {[]client.Object{broken, policy("other")}, true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := o.mayChange(newPolicyChange(engine, tc.versions)); got != tc.want {
				t.Errorf("got %t, want %t", got, tc.want)
			}
		})
	}
	t.Run("a target that only the probe knows", func(t *testing.T) {
		o := newOutlook(engine, &plan.Resolution{
			Predictor: plan.NewPredictor(engine, plan.Snapshot{}),
			Edges:     []*plan.Edge{{Source: &plan.Source{Namespace: "shop"}, Target: plan.Target{Kind: plan.TargetHost}}},
		})
		if !o.mayChange(newPolicyChange(engine, []client.Object{policy("other")})) {
			t.Error("the expectation would sleep")
		}
	})
}
