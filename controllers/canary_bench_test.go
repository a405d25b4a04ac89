package controllers

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/probe/wire"
)

// cached lists objects as the cache does, and leaves all else to a fake.
type cached struct {
	client.Client
	nodes    []corev1.Node
	pods     map[string][]corev1.Pod
	policies []networkingv1.NetworkPolicy
}

func (c *cached) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	o := (&client.ListOptions{}).ApplyOptions(opts)
	shared := ptr.Deref(o.UnsafeDisableDeepCopy, false)
	switch l := list.(type) {
	case *corev1.NodeList:
		l.Items = listed(c.nodes, (*corev1.Node).DeepCopyInto, shared)
	case *corev1.PodList:
		l.Items = listed(c.pods[o.Namespace], (*corev1.Pod).DeepCopyInto, shared)
	case *networkingv1.NetworkPolicyList:
		l.Items = listed(c.policies, (*networkingv1.NetworkPolicy).DeepCopyInto, shared)
	default:
		return c.Client.List(ctx, list, opts...)
	}
	return nil
}

func listed[T any](held []T, copyInto func(from, to *T), shared bool) []T {
	out := slices.Clone(held)
	for i := range out {
		if !shared {
			copyInto(&held[i], &out[i])
		}
	}
	return out
}

// settled is a canary on many nodes whose pods all run and have their plans.
func settled(b *testing.B, nodes int) (*CanaryReconciler, map[string]*canary.Round, func(time.Duration)) {
	b.Helper()
	f := newFleet(b, 0)
	f.settle() // namespaces
	c := &cached{Client: f.client, pods: map[string][]corev1.Pod{}}
	f.r.client = c
	var owner v1alpha1.EnforcementCanary
	if err := f.client.Get(b.Context(), client.ObjectKey{Name: v1alpha1.CanaryName}, &owner); err != nil {
		b.Fatal(err)
	}
	features := canary.Tested(owner.Spec)
	for i := range nodes {
		name := fmt.Sprintf("node-%d", i)
		c.nodes = append(c.nodes, corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
		})
		for r, role := range canary.Roles() {
			pod := canaryPod(&owner, features, role, name, f.r.options)
			pod.UID, pod.ResourceVersion, pod.CreationTimestamp, pod.Spec.NodeName = types.UID(pod.Name), strconv.Itoa(4*i+r), metav1.Time{Time: f.clock.Now()}, name
			pod.Status = runningPod(ended("sctp", 3)).Status
			pod.Status.PodIP = fmt.Sprintf("10.%d.%d.%d", r, i/250, 1+i%250)
			pod.Status.PodIPs = []corev1.PodIP{{IP: pod.Status.PodIP}}
			c.pods[pod.Namespace] = append(c.pods[pod.Namespace], *pod)
		}
	}
	s, err := f.r.newCanaryScope(b.Context(), &owner)
	if err != nil {
		b.Fatal(err)
	}
	run := func(phase func(context.Context, *canaryScope) (bool, error)) {
		b.Helper()
		if _, err := phase(b.Context(), s); err != nil {
			b.Fatal(err)
		}
	}
	run(f.r.survey)
	run(f.r.keepPods)
	want := canary.Policies(string(owner.Spec.Namespace), features)
	for node := range s.ring {
		want = append(want, canary.BlockPolicy(string(owner.Spec.Namespace), node, s.firstAddrs(s.sources[node]), s.firstAddrs(s.ring[node])))
	}
	for _, p := range want {
		p.UID, p.ResourceVersion, p.Generation, p.OwnerReferences = types.UID(p.Name), "1", 1, canaryOwner(&owner)
		c.policies = append(c.policies, *p)
	}
	run(f.r.keepPolicies)
	run(f.r.keepClusterPolicy)
	rounds, plans := map[string]*canary.Round{}, map[types.UID]string{}
	for node := range s.ring {
		rounds[node] = s.plan(node, time.Time{})
		for _, p := range rounds[node].Pods {
			plans[p.Pod.UID] = p.Plan.ID
		}
	}
	for _, pods := range c.pods {
		for i := range pods {
			pods[i].Annotations[canaryPlanAnnotation] = plans[pods[i].UID]
		}
	}
	return f.r, rounds, f.clock.Step
}

// BenchmarkCanaryReport is a reconcile after all pods of one node of 1,000 have reported, in
// steady state.
func BenchmarkCanaryReport(b *testing.B) {
	const nodes = 1000
	r, rounds, step := settled(b, nodes)
	turn := int64(0)
	report := func(node string) {
		turn++
		for _, p := range rounds[node].Pods {
			report := &wire.Report{Version: wire.Version, ID: p.Plan.ID, Turn: turn, KubeletProbes: 1}
			for _, c := range p.Plan.Checks {
				outcome := wire.Replied
				if c.Goal == wire.GoalClosed {
					outcome = wire.TimedOut
				}
				report.Results = append(report.Results, wire.Result{Outcomes: wire.Outcomes{outcome, outcome, outcome}})
			}
			r.reports.keep(p.Pod.UID, report)
		}
	}
	reconcile := func() {
		if _, err := r.Reconcile(b.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Name: v1alpha1.CanaryName}}); err != nil {
			b.Fatal(err)
		}
	}
	for node := range rounds {
		report(node)
	}
	reconcile()
	var c v1alpha1.EnforcementCanary
	if err := r.client.Get(b.Context(), client.ObjectKey{Name: v1alpha1.CanaryName}, &c); err != nil || c.Status.Nodes == nil || c.Status.Nodes.Covered != nodes {
		b.Fatalf("%+v is the status of %d nodes (%v)", c.Status, nodes, err)
	}
	i := 0
	for b.Loop() {
		report(fmt.Sprintf("node-%d", i%nodes))
		i++
		step(time.Millisecond)
		reconcile()
	}
}
