package controllers

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/verdict"
)

// resolving is an expectation of one name over UDP, in a cluster whose DNS has an
// endpoint on each of two nodes.
func resolving() plan.Input {
	dns := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-dns"}, Spec: corev1.ServiceSpec{
		ClusterIP: "10.96.0.10", ClusterIPs: []string{"10.96.0.10"}, Ports: []corev1.ServicePort{{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}},
	}}
	endpoint := func(name, addr, node string) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{Addresses: []string{addr}, NodeName: ptr.To(node), TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: name}}
	}
	pod := func(name, addr, node string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{NodeName: node},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: addr, PodIPs: []corev1.PodIP{{IP: addr}}}}
	}
	s := plan.Snapshot{
		Snapshot: evaluator.Snapshot{
			Namespaces: []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, {ObjectMeta: metav1.ObjectMeta{Name: "kube-system"}}},
			Pods:       []*corev1.Pod{pod("dns-1", "10.0.1.4", "a"), pod("dns-2", "10.0.2.4", "b")},
		},
		Services: []*corev1.Service{dns},
		EndpointSlices: []*discoveryv1.EndpointSlice{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-dns-1", Labels: map[string]string{discoveryv1.LabelServiceName: "kube-dns"}},
			Ports:      []discoveryv1.EndpointPort{{Name: ptr.To("dns"), Port: ptr.To[int32](53), Protocol: ptr.To(corev1.ProtocolUDP)}},
			Endpoints:  []discoveryv1.Endpoint{endpoint("dns-1", "10.0.1.4", "a"), endpoint("dns-2", "10.0.2.4", "b")},
		}},
	}
	in := plan.Input{Snapshot: s, ClusterDNS: types.NamespacedName{Namespace: "kube-system", Name: "kube-dns"}, Probed: true,
		Expectation: &v1alpha1.ConnectivityExpectation{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "x", UID: "1"},
			Spec: v1alpha1.ConnectivityExpectationSpec{Paths: []v1alpha1.Path{{
				Name: "p", Expect: v1alpha1.ExpectAllow, From: v1alpha1.Source{Identity: &v1alpha1.Identity{Labels: map[string]v1alpha1.LabelValue{"app": "web"}}},
				DNS: &v1alpha1.DNS{Names: []v1alpha1.DNSName{"db"}, Transports: []v1alpha1.DNSTransport{"UDP"}},
			}}},
		},
	}
	in.Engine, _ = evaluator.Compile(s.Snapshot)
	return in
}

// Of all resolvers that a pod may have, those are judged that it has.
func TestResolversThatAreJudged(t *testing.T) {
	cases := map[string]struct {
		nameservers []string
		// broken are the addresses that answer SERVFAIL.
		broken []string
		// want lists target, node of the target, endpoints and cause.
		want []string
	}{
		"the cluster DNS": {[]string{"10.96.0.10"}, nil, []string{
			"cluster DNS endpoint kube-system/dns-1 for db. a 1 None", "cluster DNS endpoint kube-system/dns-2 for db. b 1 None", "cluster DNS for db.  2 None",
		}},
		"one endpoint of it fails": {[]string{"10.96.0.10"}, []string{"10.0.2.4"}, []string{
			"cluster DNS endpoint kube-system/dns-1 for db. a 1 None", "cluster DNS endpoint kube-system/dns-2 for db. b 1 NameNotResolved", "cluster DNS for db.  2 None",
		}},
		"NodeLocal DNSCache is on the node of the probe": {[]string{"169.254.20.10"}, nil, []string{"NodeLocal DNSCache 169.254.20.10 for db. a 1 None"}},
		"another one beside the cluster's": {[]string{"10.96.0.10", "192.0.2.53"}, []string{"192.0.2.53"}, []string{
			"cluster DNS endpoint kube-system/dns-1 for db. a 1 None", "cluster DNS endpoint kube-system/dns-2 for db. b 1 None", "cluster DNS for db.  2 None",
			"nameserver 192.0.2.53 for db.  1 NameNotResolved",
		}},
		"a family that the pod lacks": {[]string{"fd00::53", "192.0.2.53"}, nil, []string{"nameserver 192.0.2.53 for db.  1 None"}},
		"only that":                   {[]string{"fd00::53"}, nil, []string{"nameserver fd00::53 for db.  1 NoSharedFamily"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := newScope(resolving().Expectation.DeepCopy(), &tracked{}, epoch)
			s.input = resolving()
			s.resolution = plan.Resolve(s.input)
			current := newRun(s, triggerInterval, nil)
			p := &probeRun{
				Pod:    plan.Pod{Source: s.resolution.Edges[0].Source, Node: "a", Edges: s.resolution.Edges},
				podRun: podRun{name: "probe", node: "a", addrs: []netip.Addr{netip.MustParseAddr("10.0.9.9")}, done: true},
				report: &wire.Report{KubeletProbes: 1},
			}
			for _, text := range tc.nameservers {
				p.report.Nameservers = append(p.report.Nameservers, netip.MustParseAddr(text))
			}
			p.report.Results = answers(s.resolution.Edges, p.report.Nameservers, tc.broken)
			current.probes = []*probeRun{p}
			s.track.run = current
			if _, err := (&ExpectationReconciler{logs: newPodLogs(nil, nil), ways: NewCanaryWays()}).judge(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, v := range s.verdicts {
				got = append(got, fmt.Sprintf("%s %s %d %s", v.Check.Target, v.Check.TargetNode, v.Check.Endpoints, v.Cause))
				if v.Check.OnSourceNode != (v.Check.Addr == netip.MustParseAddr("169.254.20.10")) {
					t.Errorf("%s: on the node of its source: %t", v.Check.Target, v.Check.OnSourceNode)
				}
			}
			slices.Sort(got)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("verdicts (-want +got):\n%s", diff)
			}
			if matched := s.exp.Status.Coverage.PairsMatched; matched != 1 {
				t.Errorf("%d pairs match, want that of the source and the question", matched)
			}
			if covered, all := s.exp.Status.Coverage.PairsCovered == 1, name != "only that"; covered != all {
				t.Errorf("covered: %t, want %t", covered, all)
			}
			again := resolving()
			if name == "the cluster DNS" && plan.Resolve(again).Provenance != s.track.last.provenance {
				t.Error("a restart forgets nameservers that are checked anyway, and sees a change")
			}
			again.Learned = s.track.learned
			after := plan.Resolve(again)
			if after.Provenance != s.track.last.provenance {
				t.Error("the next reconcile sees a change")
			}
			for _, e := range after.Edges {
				if _, whole := after.Predictor.Flows(e); !whole {
					t.Errorf("every change of a policy wakes the expectation, for the sake of %s", e.Target.Name)
				}
			}
		})
	}
}

// answers is what a probe reports that gets an answer from everybody who is not broken.
func answers(edges []*plan.Edge, nameservers []netip.Addr, broken []string) []wire.Result {
	var out []wire.Result
	for _, e := range edges {
		addr, result := e.Target.Addr, wire.Result{}
		if e.Nameserver > len(nameservers) {
			out = append(out, wire.Result{Absent: true})
			continue
		}
		if e.Nameserver > 0 {
			addr = nameservers[e.Nameserver-1]
		}
		outcome := wire.Connected
		if slices.Contains(broken, addr.String()) {
			outcome = wire.ServerFailure
		}
		result.Outcomes = wire.Outcomes{outcome, outcome, outcome}
		out = append(out, result)
	}
	return out
}

// A probe that reported nothing leaves nothing out.
func TestResolversOfAProbeThatFailed(t *testing.T) {
	s := newScope(resolving().Expectation, &tracked{}, epoch)
	s.input = resolving()
	s.resolution = plan.Resolve(s.input)
	current := newRun(s, triggerInterval, nil)
	p := &probeRun{Pod: plan.Pod{Source: s.resolution.Edges[0].Source, Node: "a", Edges: s.resolution.Edges}, podRun: podRun{name: "probe", node: "a"}}
	p.fail(verdict.ProbeFailed, "gone")
	current.probes = []*probeRun{p}
	checks, _ := current.checks(s.resolution.Predictor)
	var got []string
	for _, c := range checks {
		got = append(got, c.Target+" "+string(c.Obstacle))
	}
	want := []string{
		"cluster DNS for db. ProbeFailed", "cluster DNS endpoint kube-system/dns-1 for db. ProbeFailed", "cluster DNS endpoint kube-system/dns-2 for db. ProbeFailed",
		"nameserver 1 of the pod for db. ProbeFailed",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("checks (-want +got):\n%s", diff)
	}
}

// A nameserver is asked again at its address: other pods may have others.
func TestANameserverIsAskedAgainAtItsAddress(t *testing.T) {
	res := plan.Resolve(resolving())
	p := &probeRun{Pod: plan.Pod{Node: "a", Edges: res.Edges}, podRun: podRun{node: "a"}, report: &wire.Report{Nameservers: []netip.Addr{netip.MustParseAddr("192.0.2.53")}}}
	p.report.Results = answers(res.Edges, p.report.Nameservers, nil)
	r := &run{probes: []*probeRun{p}, predictor: res.Predictor}
	found := 0
	placed := r.placedChecks()
	for i, e := range res.Edges {
		for _, c := range r.check(p, i, e) {
			if again := placed[c.ID]; c.Addr == p.report.Nameservers[0] {
				found++
				if again.Edge.Target.Addr != c.Addr || again.Edge.Target.Name != c.Target || again.Edge.Nameserver != 0 || !again.answered {
					t.Errorf("got %+v", again.Edge)
				}
			}
		}
	}
	if found != 1 {
		t.Errorf("%d checks are about the nameserver", found)
	}
}

// The probe resolves names as its workload does.
func TestProbesHaveTheResolversOfTheirWorkload(t *testing.T) {
	workload := &corev1.Pod{Spec: corev1.PodSpec{DNSPolicy: corev1.DNSNone, DNSConfig: &corev1.PodDNSConfig{
		Nameservers: []string{"10.9.9.9"}, Searches: []string{"a.b"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: ptr.To("2")}},
	}}}
	p := &probeRun{podRun: podRun{name: "x"}, Pod: plan.Pod{Source: &plan.Source{Workload: workload}}}
	pod := probePod(podExpectation(), &run{}, p, podOptions())
	if pod.Spec.DNSPolicy != corev1.DNSNone || !cmp.Equal(pod.Spec.DNSConfig, workload.Spec.DNSConfig) {
		t.Errorf("got %s %v", pod.Spec.DNSPolicy, pod.Spec.DNSConfig)
	}
	p.Source.Workload = nil
	if pod := probePod(podExpectation(), &run{}, p, podOptions()); pod.Spec.DNSPolicy != "" || pod.Spec.DNSConfig != nil {
		t.Errorf("an identity without pods has %s %v", pod.Spec.DNSPolicy, pod.Spec.DNSConfig)
	}
}

func TestStripPodKeepsTheArgumentsOfNodeLocalDNSCache(t *testing.T) {
	cache := func(label string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"k8s-app": label}}, Spec: corev1.PodSpec{
			HostNetwork: true, Containers: []corev1.Container{{Name: "node-cache", Args: []string{"-localip", "10.96.0.10"}}},
		}}
	}
	for label, want := range map[string]int{"node-local-dns": 2, "other": 0} {
		got, err := stripPod(cache(label))
		if err != nil {
			t.Fatal(err)
		}
		if args := got.(*corev1.Pod).Spec.Containers[0].Args; len(args) != want {
			t.Errorf("%s: got the arguments %v", label, args)
		}
	}
}
