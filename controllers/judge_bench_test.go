package controllers

import (
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/probe/wire"
)

// large is a run of 10,000 checks that has ended: 40 sources, half of which policies let
// in, and 5 pods with two addresses and 25 ports.
func large(b *testing.B) *scope {
	b.Helper()
	exp := &v1alpha1.ConnectivityExpectation{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "x", UID: "1", Generation: 1}}
	exp.Spec.Coverage = v1alpha1.Coverage{MaxSources: 1, MaxTargets: 10}
	var ports []v1alpha1.Port
	for p := 9000; p < 9012; p += 2 {
		ports = append(ports, v1alpha1.Port{Port: intstr.FromInt(p), EndPort: int32(p + 1)}, v1alpha1.Port{Protocol: "UDP", Port: intstr.FromInt(p), EndPort: int32(p + 1)})
	}
	for i := range 40 {
		team, expect := "a", v1alpha1.ExpectAllow
		if i%2 == 1 {
			team, expect = "b", v1alpha1.ExpectDeny
		}
		exp.Spec.Paths = append(exp.Spec.Paths, v1alpha1.Path{
			Name: fmt.Sprintf("p%d", i), Expect: expect, Ports: append(ports, v1alpha1.Port{Port: intstr.FromInt(9012)}),
			From: v1alpha1.Source{Identity: &v1alpha1.Identity{Labels: map[string]v1alpha1.LabelValue{"source": v1alpha1.LabelValue(fmt.Sprint("s", i)), "team": v1alpha1.LabelValue(team)}}},
			To:   &v1alpha1.Target{Via: v1alpha1.ViaEndpoint, PodSelector: &v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"app": "target"}}},
		})
	}
	s := newScope(exp, &tracked{}, epoch)
	snap := plan.Snapshot{Snapshot: evaluator.Snapshot{Namespaces: []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}}}}
	for i := range 5 {
		snap.Pods = append(snap.Pods, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprint("target-", i), Labels: map[string]string{"app": "target"}},
			Spec:       corev1.PodSpec{NodeName: fmt.Sprint("node-", i%2)},
			Status: corev1.PodStatus{
				Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: fmt.Sprint("10.0.0.", i+1)}, {IP: fmt.Sprint("fd00::", i+1)}},
				Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			},
		})
	}
	for i := range 2 {
		snap.Nodes = append(snap.Nodes, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("node-", i)},
			Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
		})
	}
	snap.NetworkPolicies = []*networkingv1.NetworkPolicy{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "p"},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "target"}},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{
				{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}}},
			}}},
		},
	}}
	s.snapshot, s.input = snap, plan.Input{Expectation: s.exp, Snapshot: snap}
	s.input.Engine, _ = evaluator.Compile(snap.Snapshot)
	s.resolve()
	return s
}

func BenchmarkJudge10000Checks(b *testing.B) {
	s := large(b)
	current := newRun(s, triggerInterval, nil)
	current.place(s.exp, DefaultOptions())
	for i, p := range current.probes {
		p.addrs = []netip.Addr{netip.MustParseAddr(fmt.Sprint("10.0.1.", i+1)), netip.MustParseAddr(fmt.Sprint("fd00::1:", i+1))}
		p.done, p.node, p.report = true, p.Node, &wire.Report{KubeletProbes: 1}
		for _, e := range p.Edges {
			outcome := wire.Connected
			if e.Prediction.Verdict == evaluator.Denied {
				outcome = wire.TimedOut
			}
			p.report.Results = append(p.report.Results, wire.Result{Outcomes: wire.Outcomes{outcome, outcome, outcome}})
		}
	}
	r := &ExpectationReconciler{logs: newPodLogs(nil, nil), ways: NewCanaryWays()}
	for b.Loop() {
		s.track.run = current
		if _, err := r.judge(b.Context(), s); err != nil {
			b.Fatal(err)
		}
		if s.summary.Checks < 10_000 || s.summary.Met != s.summary.Checks {
			b.Fatalf("got %+v of %d probes", *s.summary, len(current.probes))
		}
	}
}
