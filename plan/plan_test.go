package plan

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/probe/wire"
)

var dns = types.NamespacedName{Namespace: "kube-system", Name: "kube-dns"}

func expectation(t *testing.T, spec string) *v1alpha1.ConnectivityExpectation {
	t.Helper()
	exp := &v1alpha1.ConnectivityExpectation{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "x", UID: "1"}}
	if err := yaml.UnmarshalStrict([]byte(spec), &exp.Spec); err != nil {
		t.Fatalf("test input: %v", err)
	}
	return exp
}

func pod(ns, name, node, ip string, labels ...string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID(ns + name), Labels: map[string]string{}},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{Name: "main", ContainerPort: 8080}}}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		p.Labels[k] = v
	}
	return p
}

func node(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}}
}

func namespace(name string, labels ...string) *corev1.Namespace {
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/metadata.name": name}}}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		n.Labels[k] = v
	}
	return n
}

func ingressFrom(name, target, source string) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": target}},
		Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{
			{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": source}}},
		}}},
	}}
}

// cluster is a namespace with a web in front of a database, and a cluster DNS.
func cluster() Snapshot {
	return Snapshot{
		Snapshot: evaluator.Snapshot{
			Namespaces: []*corev1.Namespace{namespace("ns"), namespace("other", "team=x"), namespace("kube-system")},
			Pods: []*corev1.Pod{
				pod("ns", "web-1", "a", "10.0.1.1", "app=web", "pod-template-hash=1"), pod("ns", "web-2", "b", "10.0.2.1", "app=web", "pod-template-hash=2"),
				pod("ns", "db-1", "b", "10.0.2.2", "app=db"), pod("other", "api-1", "a", "10.0.1.3", "app=api"),
				pod("kube-system", "dns-1", "a", "10.0.1.4", "k8s-app=kube-dns"),
			},
			NetworkPolicies: []*networkingv1.NetworkPolicy{ingressFrom("db", "db", "web")},
		},
		Services: []*corev1.Service{
			{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-dns"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.10", ClusterIPs: []string{"10.96.0.10"}, Ports: []corev1.ServicePort{
				{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53}, {Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: 53},
			}}},
			{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.20", ClusterIPs: []string{"10.96.0.20"}, Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}},
			{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "headless"}, Spec: corev1.ServiceSpec{ClusterIP: "None", ClusterIPs: []string{"None"}, Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}},
			{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "alias"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.org"}},
			{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "empty"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.30", ClusterIPs: []string{"10.96.0.30"}, Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}},
		},
		EndpointSlices: []*discoveryv1.EndpointSlice{
			slice("kube-system", "kube-dns", "dns", corev1.ProtocolUDP, 53, "dns-1/a/10.0.1.4"), slice("kube-system", "kube-dns", "dns-tcp", corev1.ProtocolTCP, 53, "dns-1/a/10.0.1.4"),
			slice("ns", "web", "http", corev1.ProtocolTCP, 8080, "web-1/a/10.0.1.1", "web-2/b/10.0.2.1"),
			slice("ns", "headless", "http", corev1.ProtocolTCP, 8080, "web-1/a/10.0.1.1", "web-2/b/10.0.2.1"),
		},
		Nodes: []*corev1.Node{node("a"), node("b")},
	}
}

// dualStack gives the pods of ns a second address. Their node can be told from it: web-1
// has fd00::1:1, and db-1 fd00::2:2.
func dualStack(s *Snapshot) {
	for _, p := range s.Pods[:3] {
		n := strings.Split(p.Status.PodIP, ".")
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: "fd00::" + n[2] + ":" + n[3]})
	}
}

func slice(ns, svc, port string, protocol corev1.Protocol, number int32, endpoints ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: svc + "-" + port, Labels: map[string]string{discoveryv1.LabelServiceName: svc}},
		Ports:      []discoveryv1.EndpointPort{{Name: ptr.To(port), Protocol: ptr.To(protocol), Port: ptr.To(number)}},
	}
	for _, e := range endpoints {
		f := strings.Split(e, "/")
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{f[2]}, NodeName: ptr.To(f[1]), TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: f[0]}})
	}
	return s
}

func resolve(t *testing.T, spec string, change func(*Snapshot)) *Resolution {
	t.Helper()
	s := cluster()
	if change != nil {
		change(&s)
	}
	return resolveInput(Input{Expectation: expectation(t, spec), Snapshot: s, ClusterDNS: dns})
}

func path(to string) string {
	return "paths: [{name: p, expect: Deny, from: {podSelector: {matchLabels: {app: web}}}, " + to + "}]"
}

func TestResolveTargets(t *testing.T) {
	cases := map[string]struct {
		spec   string
		change func(*Snapshot)
		// want lists "target name address port backends", want an obstacle's reason.
		want          []string
		wantObstacles []string
	}{
		"pods of the namespace":             {spec: path("to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 27017}]"), want: []string{"ns/db-1 10.0.2.2 TCP 27017 1"}},
		"a named port":                      {spec: path("to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: main}]"), want: []string{"ns/db-1 10.0.2.2 TCP 8080 1"}},
		"a port that the pod does not name": {spec: path("to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: admin}]"), wantObstacles: []string{"PortNotFound"}},
		"a range: its ends":                 {spec: path("to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 1000, endPort: 2000}]"), want: []string{"ns/db-1 10.0.2.2 TCP 1000 1", "ns/db-1 10.0.2.2 TCP 2000 1"}},
		"another namespace":                 {spec: path("to: {namespace: other, podSelector: {matchLabels: {app: api}}}, ports: [{port: 1}]"), want: []string{"other/api-1 10.0.1.3 TCP 1 1"}},
		"namespaces by label":               {spec: path("to: {namespaceSelector: {matchLabels: {team: x}}, podSelector: {matchLabels: {app: api}}}, ports: [{port: 1}]"), want: []string{"other/api-1 10.0.1.3 TCP 1 1"}},
		"no pod":                            {spec: path("to: {podSelector: {matchLabels: {app: none}}}, ports: [{port: 1}]"), wantObstacles: []string{"NoTargetMatched"}},
		"a pod that ended": {spec: path("to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 1}]"), wantObstacles: []string{"NoTargetMatched"},
			change: func(s *Snapshot) { s.Pods[2].Status.Phase = corev1.PodSucceeded }},
		"a pod without an address": {spec: path("to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 1}]"), wantObstacles: []string{"TargetNotReady"},
			change: func(s *Snapshot) { s.Pods[2].Status = corev1.PodStatus{Phase: corev1.PodPending} }},
		"a dual-stack pod: each family": {spec: path("to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 1}]"), want: []string{"ns/db-1 10.0.2.2 TCP 1 1", "ns/db-1 fd00::2:2 TCP 1 1"},
			change: dualStack},
		"a Service: its endpoints behind its address": {spec: path("to: {service: {name: web}}, ports: [{port: 80}]"), want: []string{"Service ns/web 10.96.0.20 TCP 80 2"}},
		"a Service port by name":                      {spec: path("to: {service: {name: web}}, ports: [{port: http}]"), want: []string{"Service ns/web 10.96.0.20 TCP 80 2"}},
		"a Service without that port":                 {spec: path("to: {service: {name: web}}, ports: [{port: 81}]"), wantObstacles: []string{"PortNotFound"}},
		"a headless Service: its pods":                {spec: path("to: {service: {name: headless}}, ports: [{port: 80}]"), want: []string{"Service ns/headless endpoint ns/web-1 10.0.1.1 TCP 8080 1", "Service ns/headless endpoint ns/web-2 10.0.2.1 TCP 8080 1"}},
		"an alias: the host behind it":                {spec: path("to: {service: {name: alias}}, ports: [{port: 80}]"), want: []string{"Service ns/alias (example.org.) invalid IP TCP 80 0"}},
		"a Service without endpoints":                 {spec: path("to: {service: {name: empty}}, ports: [{port: 80}]"), wantObstacles: []string{"NoTargetMatched"}},
		"no Service":                                  {spec: path("to: {service: {name: none}}, ports: [{port: 80}]"), wantObstacles: []string{"NoTargetMatched"}},
		"an address":                                  {spec: path("to: {address: {ips: [203.0.113.1]}}, ports: [{port: 443}]"), want: []string{"203.0.113.1 203.0.113.1 TCP 443 1"}},
		"a host":                                      {spec: path("to: {host: example.org}, ports: [{port: 443}]"), want: []string{"example.org. invalid IP TCP 443 0"}},
		"an identity":                                 {spec: path("to: {identity: {labels: {app: new}}}, ports: [{protocol: UDP, port: 9}]"), want: []string{"ns/{app=new} invalid IP UDP 9 1"}},
		"names":                                       {spec: path("dns: {names: [a.b]}"), want: []string{"cluster DNS for a.b. 10.96.0.10 DNS/UDP 53 1", "cluster DNS for a.b. 10.96.0.10 DNS/TCP 53 1"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			res := resolve(t, tc.spec, tc.change)
			var got, obstacles []string
			for _, e := range res.Edges {
				got = append(got, fmt.Sprintf("%s %s %s %d %d", e.Target.Name, e.Target.Addr, e.Transport, e.Port, len(e.Backends)))
			}
			for _, o := range res.Obstacles {
				obstacles = append(obstacles, o.Reason)
				if o.Message == "" || o.Path != "p" {
					t.Errorf("the obstacle does not say what is wrong: %+v", o)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("edges (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.wantObstacles, obstacles); diff != "" {
				t.Errorf("obstacles (-want +got):\n%s", diff)
			}
		})
	}
}

func TestResolveSources(t *testing.T) {
	const toDB = "to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 1}]"
	t.Run("two ReplicaSets of one workload are one source on two nodes, without controller labels", func(t *testing.T) {
		e := resolve(t, path(toDB), nil).Edges
		if len(e) != 1 || e[0].Source.Labels["pod-template-hash"] != "" || e[0].Source.Labels["app"] != "web" {
			t.Fatalf("got %d edges, the first from %+v", len(e), e[0].Source)
		}
		nodes := slices.Sorted(slices.Values(e[0].Source.Nodes))
		if diff := cmp.Diff([]string{"a", "b"}, nodes); diff != "" {
			t.Error(diff)
		}
	})
	cases := map[string]struct {
		spec, want string
		change     func(*Snapshot)
	}{
		"nobody": {spec: strings.Replace(path(toDB), "app: web", "app: none", 1), want: "NoSourceMatched"},
		"only host-network pods": {spec: path(toDB), want: "NoSourceMatched", change: func(s *Snapshot) {
			s.Pods[0].Spec.HostNetwork, s.Pods[1].Spec.HostNetwork = true, true
		}},
		"another namespace": {spec: strings.Replace(path(toDB), "from: {", "from: {namespace: other, ", 1), want: "SourceNamespaceRefused"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			res := resolve(t, tc.spec, tc.change)
			if len(res.Edges) != 0 || len(res.Obstacles) != 1 || res.Obstacles[0].Reason != tc.want {
				t.Errorf("got %d edges and %+v, want the obstacle %s", len(res.Edges), res.Obstacles, tc.want)
			}
		})
	}
}

// A snapshot comes from a cache, which lists objects in any order.
func TestOrderOfTheSnapshotIsIrrelevant(t *testing.T) {
	spec := "paths:\n- {name: a, expect: Allow, from: {podSelector: {matchLabels: {app: web}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 1}]}\n" +
		"- {name: b, expect: Deny, from: {identity: {labels: {app: x}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 1}]}\n" +
		"- {name: c, expect: Allow, from: {podSelector: {matchLabels: {app: web}}}, dns: {names: [x.]}}\n"
	rng := rand.New(rand.NewPCG(1, 2))
	var want string
	for range 30 {
		s := cluster()
		shuffle(rng, s.Pods)
		shuffle(rng, s.Namespaces)
		shuffle(rng, s.Services)
		shuffle(rng, s.EndpointSlices)
		shuffle(rng, s.Nodes)
		s.NetworkPolicies = append(s.NetworkPolicies, ingressFrom("more", "db", "web"))
		shuffle(rng, s.NetworkPolicies)
		got := render(t, spec, s)
		if want == "" {
			want = got
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("plans differ:\n%s", diff)
		}
	}
}

func shuffle[T any](rng *rand.Rand, s []T) {
	rng.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
}

// resolveInput resolves with an engine of the input's own snapshot.
func resolveInput(in Input) *Resolution {
	in.Engine, _ = evaluator.Compile(in.Snapshot.Snapshot)
	return Resolve(in)
}

// render writes out a plan with its provenance and its placement.
func render(t *testing.T, spec string, s Snapshot) string {
	t.Helper()
	res := resolveInput(Input{Expectation: expectation(t, spec), Snapshot: s, ClusterDNS: dns})
	predict(s, res.Edges)
	out := res.Provenance + "\n"
	for _, p := range Place(res.Edges, s.Nodes, 2) {
		out += p.Source.Name + " on " + p.Node + ":"
		for _, e := range p.Edges {
			out += " " + e.ID()
		}
		out += "\n"
	}
	return out
}

func predict(s Snapshot, edges []*Edge) *Predictor {
	engine, _ := evaluator.Compile(s.Snapshot)
	p := NewPredictor(engine, s)
	p.Predict(edges)
	return p
}

func TestProvenance(t *testing.T) {
	spec := path("to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 1}]")
	before := resolve(t, spec, nil).Provenance
	cases := map[string]struct {
		change      func(*Snapshot)
		wantChanged bool
	}{
		"a policy's spec":                  {func(s *Snapshot) { s.NetworkPolicies[0].Spec.Ingress = nil }, true},
		"a policy is gone":                 {func(s *Snapshot) { s.NetworkPolicies = nil }, true},
		"a label of the target":            {func(s *Snapshot) { s.Pods[2].Labels["v"] = "2" }, true},
		"a label of the source":            {func(s *Snapshot) { s.Pods[0].Labels["v"] = "2" }, true},
		"the target's address":             {func(s *Snapshot) { s.Pods[2].Status.PodIPs[0].IP = "10.0.2.7" }, true},
		"the target's readiness":           {func(s *Snapshot) { s.Pods[2].Status.Conditions[0].Status = corev1.ConditionFalse }, true},
		"the target was replaced":          {func(s *Snapshot) { s.Pods[2].UID = "new" }, true},
		"a label of the namespace":         {func(s *Snapshot) { s.Namespaces[0].Labels["team"] = "y" }, true},
		"the source moved to another node": {func(s *Snapshot) { s.Pods[0].Spec.NodeName = "c" }, true},
		"an annotation of the target":      {func(s *Snapshot) { s.Pods[2].Annotations = map[string]string{"x": "y"} }, false},
		"a source pod was replaced":        {func(s *Snapshot) { s.Pods[0].UID, s.Pods[0].Status.PodIPs[0].IP = "new", "10.0.1.9" }, false},
		"a policy of another namespace": {func(s *Snapshot) {
			s.NetworkPolicies = append(s.NetworkPolicies, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "x"}})
		}, false},
		"a pod of another namespace":          {func(s *Snapshot) { s.Pods[3].Labels["v"] = "2" }, false},
		"a label of another namespace itself": {func(s *Snapshot) { s.Namespaces[1].Labels["v"] = "2" }, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := resolve(t, spec, tc.change).Provenance != before; got != tc.wantChanged {
				t.Errorf("provenance changed: %v, want %v", got, tc.wantChanged)
			}
		})
	}
}

func TestDeniedEdgesGetControls(t *testing.T) {
	s := cluster()
	// The only pod that may reach the database runs on node a.
	s.Pods = slices.Delete(s.Pods, 1, 2)
	res := resolveInput(Input{ClusterDNS: dns, Snapshot: s, Expectation: expectation(t, "paths:\n"+
		"- {name: allowed, expect: Allow, from: {podSelector: {matchLabels: {app: web}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 1}]}\n"+
		"- {name: denied, expect: Deny, from: {identity: {labels: {app: x}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 1}]}\n")})
	predict(s, res.Edges)
	from := map[string][]string{}
	for _, p := range Place(res.Edges, s.Nodes, 2) {
		for _, e := range p.Edges {
			from[e.Path] = append(from[e.Path], p.Node)
		}
	}
	for _, nodes := range from {
		slices.Sort(nodes)
	}
	// The stranger is probed from both nodes, so the control is, too.
	if diff := cmp.Diff(map[string][]string{"allowed": {"a", "b"}, "denied": {"a", "b"}}, from); diff != "" {
		t.Errorf("placement (-want +got):\n%s", diff)
	}
}

func TestUnusableNodesAreAvoided(t *testing.T) {
	for name, change := range map[string]func(*corev1.Node){
		"cordoned":  func(n *corev1.Node) { n.Spec.Unschedulable = true },
		"not ready": func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionFalse },
		"tainted":   func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Effect: corev1.TaintEffectNoSchedule}} },
	} {
		t.Run(name, func(t *testing.T) {
			s := cluster()
			change(s.Nodes[0])
			res := resolveInput(Input{ClusterDNS: dns, Snapshot: s, Expectation: expectation(t,
				"paths: [{name: p, expect: Deny, from: {identity: {labels: {app: x}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 1}]}]")})
			predict(s, res.Edges)
			for _, p := range Place(res.Edges, s.Nodes, 2) {
				if p.Node != "b" {
					t.Errorf("placed on node %q", p.Node)
				}
			}
		})
	}
}

func TestPlansAreBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString("paths:\n")
	for i := range 60 {
		fmt.Fprintf(&b, "- {name: p%d, expect: Allow, from: {identity: {labels: {app: x}}}, to: {address: {ips: [", i)
		for j := range 8 {
			fmt.Fprintf(&b, "203.0.%d.%d, ", i, j)
		}
		b.WriteString("]}}, ports: [")
		for port := range 16 {
			fmt.Fprintf(&b, "{port: %d, endPort: %d}, ", 2*port+1, 2*port+2)
		}
		b.WriteString("]}\n")
	}
	s := cluster()
	res := resolveInput(Input{Expectation: expectation(t, b.String()), Snapshot: s, ClusterDNS: dns})
	if len(res.Edges) != MaxEdges || len(res.Obstacles) != 1 || res.Obstacles[0].Reason != TooManyChecks {
		t.Fatalf("got %d edges and obstacles %+v", len(res.Edges), res.Obstacles)
	}
	predict(s, res.Edges)
	pods := Place(res.Edges, s.Nodes, 1)
	total := 0
	for _, p := range pods {
		if len(p.Edges) > wire.MaxChecks {
			t.Errorf("a plan has %d checks", len(p.Edges))
		}
		total += len(p.Edges)
	}
	if total != MaxEdges || len(pods) != MaxEdges/wire.MaxChecks {
		t.Errorf("got %d checks in %d pods", total, len(pods))
	}
}

func TestPredict(t *testing.T) {
	one := func(t *testing.T, spec string, change func(*Snapshot)) (*Edge, *Predictor) {
		t.Helper()
		s := cluster()
		if change != nil {
			change(&s)
		}
		res := resolveInput(Input{Expectation: expectation(t, spec), Snapshot: s, ClusterDNS: dns})
		return res.Edges[0], predict(s, res.Edges)
	}
	egress := func(cidr string, except ...string) func(*Snapshot) {
		return func(s *Snapshot) {
			s.NetworkPolicies = []*networkingv1.NetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "out"}, Spec: networkingv1.NetworkPolicySpec{
				PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
				Egress:      []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: cidr, Except: except}}}}},
			}}}
		}
	}
	toRange := path("to: {address: {cidr: 203.0.113.0/24, ips: [203.0.113.10]}}, ports: [{port: 443}]")
	t.Run("a Service whose endpoints differ is undefined by S9", func(t *testing.T) {
		e, _ := one(t, strings.Replace(path("to: {service: {name: web}}, ports: [{port: 80}]"), "app: web", "app: db", 1), func(s *Snapshot) {
			s.Pods[0].Labels["guarded"] = "yes"
			s.NetworkPolicies = []*networkingv1.NetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "deny"}, Spec: networkingv1.NetworkPolicySpec{
				PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"guarded": "yes"}},
			}}}
		})
		if e.Prediction.Verdict != evaluator.Undefined || e.Prediction.Rule != "S9" {
			t.Errorf("got %+v", e.Prediction)
		}
	})
	t.Run("a range that is allowed as a whole", func(t *testing.T) {
		if e, _ := one(t, toRange, egress("203.0.112.0/23")); e.Prediction.Verdict != evaluator.Allowed {
			t.Errorf("got %+v", e.Prediction)
		}
	})
	t.Run("a range with a hole is undefined", func(t *testing.T) {
		if e, _ := one(t, toRange, egress("203.0.113.0/24", "203.0.113.128/26")); e.Prediction.Verdict != evaluator.Undefined || !strings.Contains(e.Prediction.Reason, "203.0.113.128") {
			t.Errorf("got %+v", e.Prediction)
		}
	})
	t.Run("a host is predicted once its address is known", func(t *testing.T) {
		e, p := one(t, path("to: {host: example.org}, ports: [{port: 443}]"), egress("203.0.113.0/24"))
		if e.Prediction.Verdict != evaluator.Undefined {
			t.Errorf("before: got %v", e.Prediction.Verdict)
		}
		for addr, want := range map[string]evaluator.Verdict{"203.0.113.9": evaluator.Allowed, "198.51.100.1": evaluator.Denied} {
			if got := p.Decide(e, netip.Addr{}, []netip.Addr{netip.MustParseAddr(addr)}); got.Verdict != want {
				t.Errorf("%s: got %v, want %v", addr, got.Verdict, want)
			}
		}
	})
	t.Run("a policy that selects by the hash of a ReplicaSet makes the probe diverge", func(t *testing.T) {
		e, _ := one(t, path("to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 1}]"), func(s *Snapshot) {
			s.Pods = slices.Delete(s.Pods, 1, 2)
			s.NetworkPolicies[0].Spec.Ingress[0].From[0].PodSelector.MatchLabels = map[string]string{"pod-template-hash": "1"}
		})
		if !e.Diverges() {
			t.Errorf("probe %v and workload %v do not diverge", e.Prediction.Verdict, e.Workload.Verdict)
		}
	})
	t.Run("the goal is the prediction, or what was declared", func(t *testing.T) {
		for _, tc := range []struct {
			v    evaluator.Verdict
			d    v1alpha1.Expect
			want wire.Goal
		}{
			{evaluator.Allowed, v1alpha1.ExpectDeny, wire.GoalOpen}, {evaluator.Denied, v1alpha1.ExpectAllow, wire.GoalClosed},
			{evaluator.Undefined, v1alpha1.ExpectAllow, wire.GoalOpen}, {evaluator.Undefined, v1alpha1.ExpectDeny, wire.GoalClosed},
		} {
			e := Edge{Declared: tc.d, Prediction: evaluator.Decision{Verdict: tc.v}}
			if got := e.Goal(); got != tc.want {
				t.Errorf("%v %v: got %s, want %s", tc.v, tc.d, got, tc.want)
			}
		}
	})
}
