package plan

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/pathproof/pathproof/evaluator"
)

// The generators draw small clusters in which everything may touch everything: pods
// with and without the host network, Services, NetworkPolicies and cluster-wide ones.

var drawnNamespaces = []string{"ns", "other"}

func drawApp(t *rapid.T, name string) map[string]string {
	return map[string]string{"app": rapid.SampledFrom([]string{"web", "db", "x"}).Draw(t, name)}
}

func drawPod(t *rapid.T, i int) *corev1.Pod {
	p := pod(rapid.SampledFrom(drawnNamespaces).Draw(t, "ns"), fmt.Sprintf("p%d", i), rapid.SampledFrom([]string{"a", "b"}).Draw(t, "node"), fmt.Sprintf("10.0.0.%d", rapid.IntRange(1, 9).Draw(t, "ip")))
	p.Labels = drawApp(t, "app")
	p.Labels["pod-template-hash"] = fmt.Sprint(rapid.IntRange(1, 2).Draw(t, "hash"))
	p.Status.HostIP = map[string]string{"a": "192.168.0.1", "b": "192.168.0.2"}[p.Spec.NodeName]
	switch rapid.IntRange(0, 7).Draw(t, "kind") {
	case 0:
		p.Spec.HostNetwork, p.Status.PodIP, p.Status.PodIPs = true, p.Status.HostIP, []corev1.PodIP{{IP: p.Status.HostIP}}
	case 1:
		p.Status.Phase = corev1.PodFailed
	case 2:
		p.Spec.Containers[0].Ports[0].ContainerPort = 8081
	}
	return p
}

func drawPeer(t *rapid.T) networkingv1.NetworkPolicyPeer {
	switch rapid.IntRange(0, 3).Draw(t, "peer") {
	case 0:
		return networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: rapid.SampledFrom([]string{"10.0.0.0/30", "10.96.0.0/16", "203.0.113.0/25", "192.168.0.1/32", "0.0.0.0/0"}).Draw(t, "cidr")}}
	case 1:
		return networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "y"}}}
	case 2:
		return networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"pod-template-hash": "1"}}}
	}
	return networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: drawApp(t, "peerApp")}, NamespaceSelector: &metav1.LabelSelector{}}
}

func drawNetworkPolicy(t *rapid.T, i int) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: rapid.SampledFrom(drawnNamespaces).Draw(t, "ns"), Name: fmt.Sprintf("np%d", i)}}
	p.Spec.PodSelector.MatchLabels = drawApp(t, "selected")
	switch rapid.IntRange(0, 9).Draw(t, "selector") {
	case 0:
		p.Spec.PodSelector.MatchLabels = map[string]string{"pod-template-hash": "2"}
	case 1:
		p.Spec.PodSelector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Is"}}
	}
	port := []networkingv1.NetworkPolicyPort{{Port: ptr.To(intstr.FromString("main"))}}
	if rapid.Bool().Draw(t, "allPorts") {
		port = nil
	}
	if rapid.Bool().Draw(t, "egress") {
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
		p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{drawPeer(t)}, Ports: port}}
	} else {
		p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{drawPeer(t)}, Ports: port}}
	}
	return p
}

func drawClusterPolicy(t *rapid.T, i int) *policyv1alpha2.ClusterNetworkPolicy {
	p := &policyv1alpha2.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("cnp%d", i)}}
	p.Spec.Tier = rapid.SampledFrom([]policyv1alpha2.Tier{policyv1alpha2.AdminTier, policyv1alpha2.BaselineTier}).Draw(t, "tier")
	p.Spec.Priority = rapid.Int32Range(1, 2).Draw(t, "priority")
	p.Spec.Subject.Pods = &policyv1alpha2.NamespacedPod{PodSelector: metav1.LabelSelector{MatchLabels: drawApp(t, "subject")}}
	if rapid.Bool().Draw(t, "byTeam") {
		p.Spec.Subject.Pods.NamespaceSelector.MatchLabels = map[string]string{"team": "y"}
	}
	action := policyv1alpha2.ClusterNetworkPolicyRuleAction(rapid.SampledFrom([]string{"Accept", "Deny", "Pass"}).Draw(t, "action"))
	peer := policyv1alpha2.ClusterNetworkPolicyEgressPeer{Pods: &policyv1alpha2.NamespacedPod{PodSelector: metav1.LabelSelector{MatchLabels: drawApp(t, "peer")}}}
	if rapid.Bool().Draw(t, "networks") {
		peer = policyv1alpha2.ClusterNetworkPolicyEgressPeer{Networks: []policyv1alpha2.CIDR{"203.0.113.0/26", "10.0.0.0/29"}}
	}
	if rapid.Bool().Draw(t, "wideEgress") {
		p.Spec.Egress = []policyv1alpha2.ClusterNetworkPolicyEgressRule{{Action: action, To: []policyv1alpha2.ClusterNetworkPolicyEgressPeer{peer}}}
	} else {
		p.Spec.Ingress = []policyv1alpha2.ClusterNetworkPolicyIngressRule{{Action: action, From: []policyv1alpha2.ClusterNetworkPolicyIngressPeer{
			{Namespaces: &metav1.LabelSelector{}},
		}}}
	}
	return p
}

func drawSlice(t *rapid.T) *discoveryv1.EndpointSlice {
	s := slice("ns", "svc", "http", corev1.ProtocolTCP, rapid.Int32Range(8080, 8081).Draw(t, "targetPort"))
	for i := range rapid.IntRange(0, 2).Draw(t, "endpoints") {
		e := discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.0.0.%d", rapid.IntRange(1, 9).Draw(t, "endpoint"))}}
		if rapid.Bool().Draw(t, "named") {
			e.TargetRef = &corev1.ObjectReference{Kind: "Pod", Name: fmt.Sprintf("p%d", i)}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func drawNamespace(t *rapid.T, name string) *corev1.Namespace {
	n := namespace(name)
	if rapid.Bool().Draw(t, "team") {
		n.Labels["team"] = "y"
	}
	if rapid.IntRange(0, 9).Draw(t, "terminating") == 0 {
		n.DeletionTimestamp = &metav1.Time{}
	}
	return n
}

func drawService(t *rapid.T) *corev1.Service {
	ip := rapid.SampledFrom([]string{"10.96.0.1", "10.96.0.1", "10.96.0.2"}).Draw(t, "clusterIP")
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "svc"}, Spec: corev1.ServiceSpec{
		ClusterIP: ip, ClusterIPs: []string{ip}, Ports: []corev1.ServicePort{{Name: "http", Port: rapid.SampledFrom([]int32{80, 80, 81}).Draw(t, "servicePort")}},
	}}
	switch rapid.IntRange(0, 3).Draw(t, "exposed") {
	case 0:
		s.Spec.ExternalIPs = []string{rapid.SampledFrom([]string{"203.0.113.1", "203.0.113.7", "203.0.113.9"}).Draw(t, "externalIP")}
	case 1:
		s.Spec.Ports[0].NodePort = 80
	}
	return s
}

func drawSnapshot(t *rapid.T) Snapshot {
	s := Snapshot{Nodes: []*corev1.Node{node("a"), node("b")}, Services: []*corev1.Service{drawService(t)}, EndpointSlices: []*discoveryv1.EndpointSlice{drawSlice(t)}}
	for i, addr := range []string{"192.168.0.1", "192.168.0.2"} {
		s.Nodes[i].Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: addr}}
	}
	settings := []evaluator.Setting{evaluator.Unset, evaluator.False, evaluator.True}
	s.Profile.IPBlockMatchesPods = rapid.SampledFrom(settings).Draw(t, "ipBlockMatchesPods")
	for _, name := range drawnNamespaces {
		s.Namespaces = append(s.Namespaces, drawNamespace(t, name))
	}
	for i := range rapid.IntRange(2, 6).Draw(t, "pods") {
		s.Pods = append(s.Pods, drawPod(t, i))
	}
	for i := range rapid.IntRange(0, 4).Draw(t, "policies") {
		s.NetworkPolicies = append(s.NetworkPolicies, drawNetworkPolicy(t, i))
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "clusterPolicies") {
		s.ClusterNetworkPolicies = append(s.ClusterNetworkPolicies, drawClusterPolicy(t, i))
	}
	return s
}

// drawNext changes, adds or removes one object.
func drawNext(t *rapid.T, s Snapshot) Snapshot {
	put := func(n int) int { return rapid.IntRange(0, n).Draw(t, "at") }
	switch rapid.IntRange(0, 7).Draw(t, "change") {
	case 0:
		s.Pods = replaced(s.Pods, put(len(s.Pods)), func(i int) *corev1.Pod { return drawPod(t, i) })
	case 1:
		s.Pods = slices.Delete(slices.Clone(s.Pods), 0, 1)
	case 2:
		s.NetworkPolicies = replaced(s.NetworkPolicies, put(len(s.NetworkPolicies)), func(i int) *networkingv1.NetworkPolicy { return drawNetworkPolicy(t, i) })
	case 3:
		s.NetworkPolicies = slices.Clone(s.NetworkPolicies)[:max(0, len(s.NetworkPolicies)-1)]
	case 4:
		s.ClusterNetworkPolicies = replaced(s.ClusterNetworkPolicies, put(len(s.ClusterNetworkPolicies)), func(i int) *policyv1alpha2.ClusterNetworkPolicy { return drawClusterPolicy(t, i) })
	case 5:
		s.EndpointSlices = []*discoveryv1.EndpointSlice{drawSlice(t)}
	case 6:
		s.Services = []*corev1.Service{drawService(t)}
	case 7:
		s.Namespaces = replaced(s.Namespaces, put(1), func(i int) *corev1.Namespace { return drawNamespace(t, drawnNamespaces[i]) })
	}
	return s
}

// replaced puts a new object at a place of the list, or at its end.
func replaced[T any](list []T, at int, draw func(i int) T) []T {
	out := slices.Clone(list)
	if at == len(out) {
		return append(out, draw(at))
	}
	out[at] = draw(at)
	return out
}

// manyTargets has a path to each kind of target.
func manyTargets(more ...string) string {
	to := []string{
		"to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 8080}, {port: main}]",
		"to: {namespace: other, podSelector: {matchLabels: {app: web}}}, ports: [{port: 8080}]",
		"to: {identity: {labels: {app: db}}}, ports: [{port: 8080}]", "to: {service: {name: svc}}, ports: [{port: 80}]",
		"to: {address: {ips: [10.0.0.1, 10.0.0.2, 10.96.0.1, 192.168.0.1, 203.0.113.1]}}, ports: [{port: 80}]",
		"to: {address: {cidr: 203.0.113.0/24, ips: [203.0.113.9]}}, ports: [{port: 80}]", "to: {host: a.b}, ports: [{port: 80}]",
	}
	to = append(to, more...)
	from := []string{"podSelector: {matchLabels: {app: web}}", "identity: {labels: {app: x}}"}
	var b strings.Builder
	b.WriteString("coverage: {maxTargets: 10}\npaths:\n")
	for i := range to {
		fmt.Fprintf(&b, "- {name: p%d, expect: Allow, from: {%s}, %s}\n", i, from[i%2], to[i])
		fmt.Fprintf(&b, "- {name: q%d, expect: Allow, from: {%s}, %s}\n", i, from[(i+1)%2], to[i])
	}
	return b.String()
}

// answers writes down all decisions about the edges: those that Resolve made, and those
// of a probe with an address of its own that has resolved the hosts.
func answers(res *Resolution, learned map[string][]netip.Addr) map[string]string {
	out := map[string]string{}
	for _, e := range res.Edges {
		var b bytes.Buffer
		hashDecision(&b, &e.Prediction)
		hashDecision(&b, &e.Workload)
		for _, from := range []string{"10.0.0.2", "10.0.7.7"} {
			for _, tried := range append(slices.Clone(learned[e.Target.Host]), netip.Addr{}) {
				var list []netip.Addr
				if tried.IsValid() {
					list = []netip.Addr{tried}
				}
				d := res.Predictor.Decide(e, netip.MustParseAddr(from), list)
				hashDecision(&b, &d)
				d, _ = res.Predictor.Divergence(e, netip.MustParseAddr(from), list)
				hashDecision(&b, &d)
			}
		}
		out[e.ID()] = b.String()
	}
	return out
}

// TestProvenanceHoldsAllThatAnswersRestOn changes clusters at random: if an answer
// differs, the provenance does.
func TestProvenanceHoldsAllThatAnswersRestOn(t *testing.T) {
	// Whether there is one hangs on all policies.
	const standIn = "to: {podSelector: {matchLabels: {app: db}}, via: StandIn}, ports: [{port: 8080}]"
	moved, rested := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		learned := map[string][]netip.Addr{"a.b.": {netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("192.168.0.2"), netip.MustParseAddr("203.0.113.7")}}
		in := Input{Expectation: expectation(t, manyTargets(standIn)), Snapshot: drawSnapshot(rt), ClusterDNS: dns, Learned: learned}
		// One path at a time, or some other path would notice every change.
		i := rapid.IntRange(0, len(in.Expectation.Spec.Paths)-1).Draw(rt, "path")
		in.Expectation.Spec.Paths = in.Expectation.Spec.Paths[i : i+1]
		before := resolveInput(in)
		for range 4 {
			in.Snapshot = drawNext(rt, in.Snapshot)
			after := resolveInput(in)
			diff := cmp.Diff(answers(before, learned), answers(after, learned))
			switch same := before.Provenance == after.Provenance; {
			case diff != "" && same:
				rt.Fatalf("the provenance did not change, and answers did:\n%s", diff)
			case diff != "":
				moved++
			case same:
				rested++
			}
			if len(in.Snapshot.Pods) == 0 {
				break
			}
			before = after
		}
	})
	t.Logf("answers changed %d times; of the others, the provenance stayed %d times", moved, rested)
	if moved == 0 || rested == 0 {
		t.Error("the random changes never changed an answer, or always the provenance")
	}
}

// TestProvenanceLeavesOutUnrelatedPolicies adds policies that select neither end of any
// edge, or the right end for the wrong direction.
func TestProvenanceLeavesOutUnrelatedPolicies(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		in := Input{Expectation: expectation(t, manyTargets()), Snapshot: drawSnapshot(rt), ClusterDNS: dns}
		before := resolveInput(in).Provenance
		np := drawNetworkPolicy(rt, 9)
		np.Spec.PodSelector = metav1.LabelSelector{MatchLabels: map[string]string{"app": "unrelated"}}
		wide := drawClusterPolicy(rt, 9)
		wide.Spec.Subject.Pods.PodSelector = np.Spec.PodSelector
		in.Snapshot.NetworkPolicies = append(slices.Clone(in.Snapshot.NetworkPolicies), np)
		in.Snapshot.ClusterNetworkPolicies = append(slices.Clone(in.Snapshot.ClusterNetworkPolicies), wide)
		if resolveInput(in).Provenance != before {
			rt.Errorf("policies that select nothing change the provenance: %v and %v", np.Spec, wide.Spec)
		}
	})
	for name, spec := range map[string]networkingv1.NetworkPolicySpec{
		"ingress of the source": {PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
		"egress of the target": {
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
		},
	} {
		t.Run(name, func(t *testing.T) {
			add := func(s *Snapshot) {
				s.NetworkPolicies = append(s.NetworkPolicies, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "x"}, Spec: spec})
			}
			if resolve(t, path(toDB), nil).Provenance != resolve(t, path(toDB), add).Provenance {
				t.Error("the provenance changed")
			}
		})
	}
}

// An address may be that of a pod or a Service of any namespace, and a host may resolve
// to one: then what is there counts, and nothing else does.
func TestProvenanceHoldsWhatIsAtAnAddress(t *testing.T) {
	api, svc, outside := netip.MustParseAddr("10.0.1.3"), netip.MustParseAddr("10.96.0.20"), netip.MustParseAddr("203.0.113.1")
	isolate := func(app string) func(*Snapshot) {
		return func(s *Snapshot) {
			s.NetworkPolicies = append(s.NetworkPolicies, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "x"}, Spec: networkingv1.NetworkPolicySpec{
				PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": app}},
			}})
		}
	}
	cases := map[string]struct {
		addr        netip.Addr
		change      func(*Snapshot)
		wantChanged bool
	}{
		"a policy of the pod there":           {api, isolate("api"), true},
		"a policy of another pod there":       {api, isolate("x"), false},
		"the labels of the pod":               {api, func(s *Snapshot) { s.Pods[3].Labels["v"] = "2" }, true},
		"the pod is gone":                     {api, func(s *Snapshot) { s.Pods = slices.Delete(s.Pods, 3, 4) }, true},
		"another pod of its namespace":        {api, func(s *Snapshot) { s.Pods = append(s.Pods, pod("other", "new", "a", "10.0.1.9")) }, false},
		"the labels of its namespace":         {api, func(s *Snapshot) { s.Namespaces[1].Labels["team"] = "y" }, true},
		"an endpoint behind a Service":        {svc, func(s *Snapshot) { s.EndpointSlices[2].Endpoints = s.EndpointSlices[2].Endpoints[:1] }, true},
		"all endpoints behind a Service":      {svc, func(s *Snapshot) { s.EndpointSlices[2].Endpoints = nil }, true},
		"the port behind a Service":           {svc, func(s *Snapshot) { *s.EndpointSlices[2].Ports[0].Port = 9090 }, true},
		"the ports of a pod behind a Service": {svc, func(s *Snapshot) { s.Pods[1].Spec.Containers[0].Ports[0].ContainerPort = 8081 }, true},
		"the Service has another address":     {svc, func(s *Snapshot) { s.Services[1].Spec.ClusterIPs = []string{"10.96.0.21"} }, true},
		"an endpoint of another Service":      {svc, func(s *Snapshot) { s.EndpointSlices[3].Endpoints = nil }, false},
		"an address that becomes a pod's":     {outside, func(s *Snapshot) { s.Pods = append(s.Pods, pod("other", "new", "a", "203.0.113.1")) }, true},
		"an address that becomes a node's":    {outside, func(s *Snapshot) { s.Pods[0].Status.HostIP = "203.0.113.1" }, true},
		"an address that becomes a Service's": {outside, func(s *Snapshot) { s.Services[1].Spec.ClusterIPs = []string{"203.0.113.1"} }, true},
		"nothing that is there":               {outside, isolate("api"), false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			address := path("to: {address: {ips: [" + tc.addr.String() + "]}}, ports: [{port: 80}]")
			if got := resolve(t, address, nil).Provenance != resolve(t, address, tc.change).Provenance; got != tc.wantChanged {
				t.Errorf("provenance of the address changed: %t, want %t", got, tc.wantChanged)
			}
			host := func(learned []netip.Addr, change func(*Snapshot)) string {
				s := cluster()
				if change != nil {
					change(&s)
				}
				return resolveInput(Input{
					Expectation: expectation(t, path("to: {host: a.b}, ports: [{port: 80}]")), Snapshot: s, ClusterDNS: dns,
					Learned: map[string][]netip.Addr{"a.b.": learned},
				}).Provenance
			}
			at := []netip.Addr{tc.addr}
			if got := host(at, nil) != host(at, tc.change); got != tc.wantChanged {
				t.Errorf("provenance of a host at the address changed: %t, want %t", got, tc.wantChanged)
			}
			if host(nil, nil) != host(nil, tc.change) {
				t.Error("what is at an address that no probe has tried is in the provenance of a host")
			}
		})
	}
	t.Run("another address outside is no change", func(t *testing.T) {
		at := func(addr string) string {
			return resolveInput(Input{
				Expectation: expectation(t, path("to: {host: a.b}, ports: [{port: 80}]")), Snapshot: cluster(), ClusterDNS: dns,
				Learned: map[string][]netip.Addr{"a.b.": {netip.MustParseAddr(addr)}},
			}).Provenance
		}
		if at("203.0.113.1") != at("203.0.113.2") {
			t.Error("the provenance hangs on which address a resolver returns first")
		}
	})
}
