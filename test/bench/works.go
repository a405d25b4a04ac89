package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
)

var key = types.NamespacedName{Namespace: namespace, Name: "bench"}

// work is what one benchmark does.
type work struct {
	name, title string
	// pods are of two teams in turn, and a policy lets only the own team in.
	pods int
	// tcp and udp are the numbers of ports that each path is about.
	tcp, udp int
	// identities is the number of sources that need not exist, of both teams in turn. The
	// pods are of one team then; otherwise they are the sources, too.
	identities int
	resident   bool
	// large asks for the memory of the probes, and for no more runs than needed.
	large bool
	// checks is how many there have to be.
	checks int
}

// works lists the benchmarks for a cluster of one or two address families. A check is
// about one address, so that two families take half of the ports, or of the pods.
func works(families int) []work {
	const pairs = "324 checks among 9 pods, half of them closed by dropped packets, "
	ports := 2 / families
	return []work{
		{name: "pairs-oneshot", title: pairs + "from pods of their own", pods: 9, tcp: ports, udp: ports, checks: 324},
		{name: "pairs-resident", title: pairs + "from pods that stay", pods: 9, tcp: ports, udp: ports, checks: 324, resident: true},
		{
			name: "many-oneshot", title: "10,000 checks from 40 sources to 250 targets each, half of them closed by dropped packets, from pods of their own",
			pods: 10 / families, tcp: 13, udp: 12, identities: 40, checks: 10_000, large: true,
		},
		{
			name: "many-resident", title: "10,000 checks from 40 sources to 250 targets each, half of them closed by dropped packets, from pods that stay",
			pods: 10 / families, tcp: 13, udp: 12, identities: 40, checks: 10_000, large: true, resident: true,
		},
	}
}

// firstPort is the first that the pods listen at.
const firstPort = 9000

// prepare makes the namespace, the pods and the policies.
func (b *bench) prepare(ctx context.Context, w work) error {
	if err := b.bed.Kubectl(ctx, "delete", "namespace", namespace, "--ignore-not-found", "--timeout=180s"); err != nil {
		return err
	}
	objects := []client.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, ownTeam("a"), ownTeam("b")}
	for i := range w.pods {
		objects = append(objects, w.pod(i, b.bed.ProbeImage()))
	}
	for _, o := range objects {
		if err := b.bed.Client.Create(ctx, o); err != nil {
			return fmt.Errorf("creating %s: %w", o.GetName(), err)
		}
	}
	return b.ready(ctx, w.pods)
}

// team alternates, so that half of all pairs are of one team.
func team(i int) string { return []string{"a", "b"}[i%2] }

// ownTeam lets pods of a team in from the same team only.
func ownTeam(name string) *networkingv1.NetworkPolicy {
	of := metav1.LabelSelector{MatchLabels: map[string]string{"team": name}}
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "team-" + name},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: of, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &of}}}},
		},
	}
}

// teamOf is the team of a pod.
func (w work) teamOf(i int) string {
	if w.identities > 0 {
		return team(0)
	}
	return team(i)
}

func appOf(i int) string { return "pod-" + strconv.Itoa(i) }

// pod listens at all ports of the work.
func (w work) pod(i int, image string) *corev1.Pod {
	last := firstPort + max(w.tcp, w.udp) - 1
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: appOf(i), Labels: map[string]string{"app": appOf(i), "team": w.teamOf(i)}},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken: ptr.To(false), TerminationGracePeriodSeconds: ptr.To[int64](1),
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: ptr.To(true), RunAsUser: ptr.To[int64](65532), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{{
				Name: "serve", Image: image, ImagePullPolicy: corev1.PullIfNotPresent,
				Args: []string{"serve", fmt.Sprintf("--listen=TCP/%d-%d,UDP/%d-%d", firstPort, last, firstPort, last), "--health-port=8099"},
				// A kubelet that asks seldom adds little to what is measured.
				ReadinessProbe: &corev1.Probe{
					ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromInt32(8099)}}, PeriodSeconds: 60,
				},
				SecurityContext: &corev1.SecurityContext{
					AllowPrivilegeEscalation: ptr.To(false), ReadOnlyRootFilesystem: ptr.To(true),
					Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
			}},
			// Both teams on every node: then there is an open path beside every closed one.
			TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{
				MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule,
				LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": w.teamOf(i)}},
			}},
		},
	}
}

// ready waits for the pods.
func (b *bench) ready(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	err := wait.PollUntilContextCancel(ctx, time.Second, true, func(ctx context.Context) (bool, error) {
		var pods corev1.PodList
		if err := b.bed.Client.List(ctx, &pods, client.InNamespace(namespace)); err != nil {
			return false, err
		}
		ready := 0
		for _, p := range pods.Items {
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
					ready++
				}
			}
		}
		return ready == n, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for %d pods to be ready: %w", n, err)
	}
	return nil
}

// families returns the number of address families of the cluster's pods.
func (b *bench) families(ctx context.Context) (int, error) {
	var nodes corev1.NodeList
	if err := b.bed.Client.List(ctx, &nodes); err != nil {
		return 0, fmt.Errorf("listing nodes: %w", err)
	}
	for _, n := range nodes.Items {
		if len(n.Spec.PodCIDRs) > 1 {
			return 2, nil
		}
	}
	return 1, nil
}

func labelled(key, value string) *v1alpha1.LabelSelector {
	return &v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{key: v1alpha1.LabelValue(value)}}
}

// ranges writes ports in as few entries as possible: of a range, both ends are probed.
func ranges(p v1alpha1.Protocol, n int) []v1alpha1.Port {
	var out []v1alpha1.Port
	for i := 0; i < n; i += 2 {
		port := v1alpha1.Port{Protocol: p, Port: intstr.FromInt(firstPort + i)}
		if i+1 < n {
			port.EndPort = int32(firstPort + i + 1)
		}
		out = append(out, port)
	}
	return out
}

// expectation declares what the policies say. Whatever is not named is as the API
// defaults it: three attempts, each of which waits for one second.
func (w work) expectation() *v1alpha1.ConnectivityExpectation {
	exp := &v1alpha1.ConnectivityExpectation{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	exp.Spec.Coverage = v1alpha1.Coverage{MaxSources: 1, MaxTargets: 10}
	// Only what is asked for is run.
	exp.Spec.Probe = v1alpha1.ProbeSettings{IntervalSeconds: 86400, OnChange: ptr.To(false), Mode: v1alpha1.ProbeModeOneShot}
	if w.resident {
		exp.Spec.Probe.Mode = v1alpha1.ProbeModeResident
	}
	add := func(name string, from v1alpha1.Source, fromTeam, toTeam string) {
		expect := v1alpha1.ExpectDeny
		if fromTeam == toTeam {
			expect = v1alpha1.ExpectAllow
		}
		exp.Spec.Paths = append(exp.Spec.Paths, v1alpha1.Path{
			Name: name, Expect: expect, From: from, To: &v1alpha1.Target{PodSelector: labelled("team", toTeam)},
			Ports: append(ranges("TCP", w.tcp), ranges("UDP", w.udp)...),
		})
	}
	for i := range w.identities {
		labels := map[string]v1alpha1.LabelValue{"source": v1alpha1.LabelValue("s" + strconv.Itoa(i)), "team": v1alpha1.LabelValue(team(i))}
		add("source-"+strconv.Itoa(i), v1alpha1.Source{Identity: &v1alpha1.Identity{Labels: labels}}, team(i), team(0))
	}
	if w.identities > 0 {
		return exp
	}
	for i := range w.pods {
		for _, to := range []int{0, 1} {
			add(appOf(i)+"-to-"+team(to), v1alpha1.Source{PodSelector: labelled("app", appOf(i))}, team(i), team(to))
		}
	}
	return exp
}
