package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/probe/wire"
)

var (
	clusterDNSAddr = netip.MustParseAddr("10.96.0.10")
	nodeLocalAddr  = netip.MustParseAddr("169.254.20.10")
)

// bringing gives the pods of the web a DNS policy and nameservers of their own.
func bringing(policy corev1.DNSPolicy, nameservers ...string) func(*Snapshot) {
	return func(s *Snapshot) {
		for _, p := range s.Pods[:2] {
			p.Spec.DNSPolicy = policy
			if len(nameservers) > 0 {
				p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: nameservers}
			}
		}
	}
}

// nodeCache is NodeLocal DNSCache with the given arguments.
func nodeCache(args ...string) func(*Snapshot) {
	return func(s *Snapshot) {
		p := pod("kube-system", "node-local-dns-1", "a", "192.168.0.1", "k8s-app=node-local-dns")
		p.Spec.HostNetwork, p.Spec.Containers[0].Args = true, args
		s.Pods = append(s.Pods, p)
	}
}

// egress lets the web reach peers at port 53 over the protocols only.
func egress(to []networkingv1.NetworkPolicyPeer, protocols ...corev1.Protocol) *networkingv1.NetworkPolicy {
	rule := networkingv1.NetworkPolicyEgressRule{To: to}
	for _, p := range protocols {
		rule.Ports = append(rule.Ports, networkingv1.NetworkPolicyPort{Protocol: ptr.To(p), Port: ptr.To(intstr.FromInt32(53))})
	}
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "egress"}, Spec: networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
		Egress: []networkingv1.NetworkPolicyEgressRule{rule},
	}}
}

func toDNSPods() []networkingv1.NetworkPolicyPeer {
	return []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{}, PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"k8s-app": "kube-dns"}}}}
}

func probed(t *testing.T, spec string, changes ...func(*Snapshot)) *Resolution {
	t.Helper()
	s := cluster()
	for _, change := range changes {
		if change != nil {
			change(&s)
		}
	}
	return resolveInput(Input{Expectation: expectation(t, spec), Snapshot: s, ClusterDNS: dns, Probed: true})
}

func TestEveryResolverIsACheckOfItsOwn(t *testing.T) {
	second := func(s *Snapshot) {
		s.Pods = append(s.Pods, pod("kube-system", "dns-2", "b", "10.0.2.4", "k8s-app=kube-dns"))
		for i := range 2 {
			port := *s.EndpointSlices[i].Ports[0].Name
			s.EndpointSlices[i] = slice("kube-system", "kube-dns", port, *s.EndpointSlices[i].Ports[0].Protocol, 1053, "dns-1/a/10.0.1.4", "dns-2/b/10.0.2.4")
		}
	}
	twoFamilies := func(s *Snapshot) {
		dualStack(s)
		s.Services[0].Spec.ClusterIPs = append(s.Services[0].Spec.ClusterIPs, "fd00:96::a")
		s.EndpointSlices = append(s.EndpointSlices, slice("kube-system", "kube-dns", "dns", corev1.ProtocolUDP, 53, "dns-1/a/fd00::1:4"))
	}
	const (
		service, endpoint = "cluster DNS 10.96.0.10:53 ×1", "cluster DNS endpoint kube-system/dns-1 10.0.1.4:53 ×1"
		own1, own2, own3  = "nameserver 1 of the pod #1:53 ×0", "nameserver 2 of the pod #2:53 ×0", "nameserver 3 of the pod #3:53 ×0"
	)
	cases := map[string]struct {
		change        func(*Snapshot)
		check         bool // nothing is probed
		want          []string
		wantObstacles []string
	}{
		"the cluster DNS, its endpoint, and what the pod has besides": {want: []string{service, endpoint, own1, own2, own3}},
		"without probes only what is known":                           {check: true, want: []string{service}},
		"each endpoint, at its own port": {change: second, want: []string{
			"cluster DNS 10.96.0.10:53 ×2", "cluster DNS endpoint kube-system/dns-1 10.0.1.4:1053 ×1", "cluster DNS endpoint kube-system/dns-2 10.0.2.4:1053 ×1", own1, own2, own3,
		}},
		"each family": {change: twoFamilies, want: []string{
			service, endpoint, "cluster DNS [fd00:96::a]:53 ×1", "cluster DNS endpoint kube-system/dns-1 [fd00::1:4]:53 ×1", own1, own2, own3,
		}},
		"nameservers in place of the cluster's": {change: bringing(corev1.DNSNone, "10.9.9.9", "fd00::9", "10.9.9.9"), want: []string{"nameserver 10.9.9.9 10.9.9.9:53 ×1"}},
		"nameservers beside the cluster's": {change: bringing(corev1.DNSClusterFirst, "10.9.9.9"), check: true,
			want: []string{service, "nameserver 10.9.9.9 10.9.9.9:53 ×1"}},
		"the cluster DNS, written as a pod's own":     {change: bringing(corev1.DNSNone, "10.96.0.10"), want: []string{service, endpoint}},
		"the nameservers of the node":                 {change: bringing(corev1.DNSDefault), want: []string{own1, own2, own3}},
		"the nameservers of the node, without probes": {change: bringing(corev1.DNSDefault), check: true, want: []string{own1}},
		"no cluster DNS, and none needed": {change: func(s *Snapshot) { bringing(corev1.DNSNone, "10.9.9.9")(s); s.Services = nil },
			want: []string{"nameserver 10.9.9.9 10.9.9.9:53 ×1"}},
		"no cluster DNS": {change: func(s *Snapshot) { s.Services = nil }, want: []string{own1, own2, own3}, wantObstacles: []string{"NoTargetMatched"}},
		"NodeLocal DNSCache at an address of its own":          {change: nodeCache("-localip", "169.254.20.10", "-conf", "x"), want: []string{service, endpoint, own1, own2, own3}},
		"NodeLocal DNSCache at the address of the cluster DNS": {change: nodeCache("-localip", "169.254.20.10,10.96.0.10"), want: []string{service, own1, own2, own3}},
		"the same, in one argument":                            {change: nodeCache("--localip=10.96.0.10"), want: []string{service, own1, own2, own3}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := cluster()
			if tc.change != nil {
				tc.change(&s)
			}
			res := resolveInput(Input{
				Expectation: expectation(t, path("dns: {names: [a], transports: [UDP]}")), Snapshot: s, ClusterDNS: dns, Probed: !tc.check,
			})
			var got, obstacles []string
			for _, e := range res.Edges {
				addr := netip.AddrPortFrom(e.Target.Addr, e.Port).String()
				if e.Nameserver > 0 {
					addr = fmt.Sprintf("#%d:%d", e.Nameserver, e.Port)
				}
				name, _ := cutSuffix(e.Target.Name, " for a.")
				got = append(got, fmt.Sprintf("%s %s ×%d", name, addr, len(e.Backends)))
			}
			for _, o := range res.Obstacles {
				obstacles = append(obstacles, o.Reason)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("checks (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.wantObstacles, obstacles); diff != "" {
				t.Errorf("obstacles (-want +got):\n%s", diff)
			}
			if pairs, _ := res.Extent.Counts(); pairs != 2 {
				t.Errorf("got %d pairs of a node and a question, want 2", pairs)
			}
		})
	}
}

func cutSuffix(s, suffix string) (string, bool) {
	if len(s) >= len(suffix) && s[len(s)-len(suffix):] == suffix {
		return s[:len(s)-len(suffix)], true
	}
	return s, false
}

func TestQuestions(t *testing.T) {
	question := func(fields string) string {
		e := resolve(t, path("dns: {names: [db, db.x.], transports: [UDP], "+fields+"}"), nil).Edges
		var out []string
		for _, e := range e {
			if e.Target.Kind == TargetService {
				out = append(out, fmt.Sprintf("%s search=%t want=%v", e.Question(), e.Search, e.Answer))
			}
		}
		return fmt.Sprint(out)
	}
	cases := map[string]struct{ fields, want string }{
		"names are fully qualified": {"type: AAAA", "[AAAA db. search=false want={[]  false} AAAA db.x. search=false want={[]  false}]"},
		"but for the search list":   {"search: true", "[A db search=true want={[]  false} A db.x. search=true want={[]  false}]"},
		"addresses":                 {"answer: {addresses: [10.0.0.1, '::ffff:10.0.0.2']}", "[A db. search=false want={[10.0.0.1 10.0.0.2]  false} A db.x. search=false want={[10.0.0.1 10.0.0.2]  false}]"},
		"an alias":                  {"answer: {cname: c.d}", "[A db. search=false want={[] c.d. false} A db.x. search=false want={[] c.d. false}]"},
		"nothing":                   {"answer: {notFound: true}", "[A db. search=false want={[]  true} A db.x. search=false want={[]  true}]"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, question(tc.fields)); diff != "" {
				t.Errorf("questions (-want +got):\n%s", diff)
			}
		})
	}
}

// What is found out about a resolver is asked of whoever asks, at its address.
func TestFollowUpsAboutResolvers(t *testing.T) {
	res := probed(t, path("dns: {names: [a], transports: [UDP]}"), nil)
	service, own := res.Edges[0], res.Edges[2]
	if !service.Via.IsValid() || own.Nameserver != 1 {
		t.Fatalf("got %v and %v", service, own)
	}
	at := own.AtAddress(nodeLocalAddr)
	if at.Nameserver != 0 || at.Target.Addr != nodeLocalAddr || at.Target.Name != "NodeLocal DNSCache 169.254.20.10 for a." || at.Question() != "A a." {
		t.Errorf("got the edge %+v", at)
	}
	if !res.Predictor.OnOwnNode(at, nil) {
		t.Error("the nameserver is on the pod's node, as it was")
	}
	up := res.Predictor.HalfPaths("ns", []Suspect{
		{Placed: Placed{Edge: service, Node: "a"}, Addr: clusterDNSAddr, Decision: service.Prediction},
		{Placed: Placed{Edge: at, Node: "a"}, Addr: nodeLocalAddr, Decision: res.Predictor.Decide(at, netip.MustParseAddr("10.0.1.9"), nil)},
	}, cluster().Nodes)
	asked := 0
	for _, e := range up.Edges {
		if e.Transport.IsDNS() {
			asked++
			if pod := (&Pod{Edges: up.Edges}); !pod.Asks(e, []netip.Addr{netip.MustParseAddr("10.9.9.9")}, nil) {
				t.Errorf("a pod with another nameserver does not ask %s", e.Target.Name)
			}
		}
	}
	if asked < 4 {
		t.Errorf("%d checks ask a resolver, want both again, and from another source", asked)
	}
}

// Which resolvers a pod has, its resolver configuration tells.
func TestChecksOfResolversThatAPodDoesNotHave(t *testing.T) {
	second, other, six := netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("10.8.8.8"), netip.MustParseAddr("fd00::9")
	cases := map[string]struct {
		change      func(*Snapshot)
		nameservers []netip.Addr
		want        []string
		addrs       []netip.Addr
	}{
		"the cluster DNS":                  {nil, []netip.Addr{clusterDNSAddr}, []string{"cluster DNS", "cluster DNS endpoint kube-system/dns-1"}, nil},
		"NodeLocal DNSCache":               {nil, []netip.Addr{nodeLocalAddr}, []string{"NodeLocal DNSCache 169.254.20.10"}, nil},
		"both":                             {nil, []netip.Addr{nodeLocalAddr, clusterDNSAddr}, []string{"cluster DNS", "cluster DNS endpoint kube-system/dns-1", "NodeLocal DNSCache 169.254.20.10"}, nil},
		"one of the pod's own":             {bringing(corev1.DNSClusterFirst, "10.9.9.9"), []netip.Addr{clusterDNSAddr, second}, []string{"cluster DNS", "cluster DNS endpoint kube-system/dns-1", "nameserver 10.9.9.9"}, nil},
		"one of its own was cut off":       {bringing(corev1.DNSNone, "10.8.8.8", "10.9.9.9"), []netip.Addr{other}, []string{"nameserver 10.8.8.8"}, nil},
		"the node's":                       {bringing(corev1.DNSDefault), []netip.Addr{other, second}, []string{"nameserver 10.8.8.8", "nameserver 10.9.9.9"}, nil},
		"the cluster DNS as the pod's own": {bringing(corev1.DNSNone, "10.96.0.10", "10.9.9.9"), []netip.Addr{clusterDNSAddr, second}, []string{"cluster DNS", "cluster DNS endpoint kube-system/dns-1", "nameserver 10.9.9.9"}, nil},
		"the same twice":                   {bringing(corev1.DNSDefault), []netip.Addr{other, other}, []string{"nameserver 10.8.8.8"}, nil},
		"an endpoint of the cluster's":     {bringing(corev1.DNSDefault), []netip.Addr{netip.MustParseAddr("10.0.1.4")}, []string{"nameserver 10.0.1.4"}, nil},
		"they are not known":               {nil, nil, []string{"cluster DNS", "cluster DNS endpoint kube-system/dns-1", "nameserver 1 of the pod"}, nil},
		"the node's are not known":         {bringing(corev1.DNSDefault), nil, []string{"nameserver 1 of the pod"}, nil},
		"a family that the pod has not":    {bringing(corev1.DNSDefault), []netip.Addr{six, other}, []string{"nameserver 10.8.8.8"}, []netip.Addr{second}},
		"no family that the pod has":       {bringing(corev1.DNSDefault), []netip.Addr{six}, []string{"nameserver fd00::9"}, []netip.Addr{second}},
		"both families":                    {bringing(corev1.DNSDefault), []netip.Addr{six, other}, []string{"nameserver fd00::9", "nameserver 10.8.8.8"}, []netip.Addr{second, six}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			res := probed(t, path("dns: {names: [a], transports: [TCP]}"), tc.change)
			pod := &Pod{Edges: res.Edges}
			var got []string
			for _, e := range res.Edges {
				if !pod.Asks(e, tc.nameservers, tc.addrs) {
					continue
				}
				var tried []netip.Addr
				if e.Nameserver > 0 && len(tc.nameservers) > 0 {
					tried = tc.nameservers[e.Nameserver-1 : e.Nameserver]
				}
				name, ok := cutSuffix(e.TargetName(tried), " for a.")
				if !ok {
					t.Errorf("%q does not name the question", name)
				}
				got = append(got, name)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("checks that count (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("controls and other checks count always", func(t *testing.T) {
		res := probed(t, path("dns: {names: [a]}"), nil)
		control := *res.Edges[0]
		control.Control = true
		tcp := resolve(t, path("to: {service: {name: web}}, ports: [{port: 80}]"), nil).Edges[0]
		if p := (&Pod{Edges: []*Edge{&control, tcp}}); !p.Asks(&control, []netip.Addr{second}, nil) || !p.Asks(tcp, []netip.Addr{second}, nil) {
			t.Error("a check was left out that is about no resolver of the pod")
		}
	})
}

// A policy sees the pods of the cluster DNS, over each protocol on its own.
func TestPredictionOfTransports(t *testing.T) {
	res := probed(t, path("dns: {names: [a]}"), func(s *Snapshot) {
		s.NetworkPolicies = append(s.NetworkPolicies, egress(toDNSPods(), corev1.ProtocolUDP))
	})
	got := map[string]evaluator.Verdict{}
	for _, e := range res.Edges {
		got[fmt.Sprintf("%d %s", e.Target.Kind, e.Transport)] = e.Prediction.Verdict
	}
	want := map[string]evaluator.Verdict{
		fmt.Sprintf("%d DNS/UDP", TargetService): evaluator.Allowed, fmt.Sprintf("%d DNS/TCP", TargetService): evaluator.Denied,
		fmt.Sprintf("%d DNS/UDP", TargetPod): evaluator.Allowed, fmt.Sprintf("%d DNS/TCP", TargetPod): evaluator.Denied,
		// Which these are is not known yet.
		fmt.Sprintf("%d DNS/UDP", TargetNameserver): evaluator.Undefined, fmt.Sprintf("%d DNS/TCP", TargetNameserver): evaluator.Undefined,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("predictions (-want +got):\n%s", diff)
	}
}

// A closed path to a resolver needs a control at each endpoint, and at the Service before
// them.
func TestControlsOfResolvers(t *testing.T) {
	res := probed(t, path("dns: {names: [a], transports: [UDP]}"), func(s *Snapshot) {
		s.NetworkPolicies = append(s.NetworkPolicies, egress(nil))
		s.NetworkPolicies[len(s.NetworkPolicies)-1].Spec.Egress = nil
		s.EndpointSlices[0] = slice("kube-system", "kube-dns", "dns", corev1.ProtocolUDP, 53, "dns-1/a/10.0.1.4", "dns-2/b/10.0.2.4")
		s.Pods = append(s.Pods, pod("kube-system", "dns-2", "b", "10.0.2.4", "k8s-app=kube-dns"))
	})
	var got []string
	for _, e := range res.Predictor.Controls("ns", res.Edges) {
		got = append(got, e.Target.Addr.String()+" "+e.Question())
	}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"10.0.1.4 A a.", "10.0.2.4 A a.", "10.96.0.10 A a."}, got); diff != "" {
		t.Errorf("controls (-want +got):\n%s", diff)
	}
}

// What is on the pod's own node is left open by the API where policies isolate the pod.
func TestPredictionOfNodeLocalDNSCache(t *testing.T) {
	block := func(cidr string) []networkingv1.NetworkPolicyPeer {
		return []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: cidr}}}
	}
	with := func(p *networkingv1.NetworkPolicy, profile evaluator.Profile) func(*Snapshot) {
		return func(s *Snapshot) {
			s.Profile = profile
			if p != nil {
				s.NetworkPolicies = append(s.NetworkPolicies, p)
			}
		}
	}
	reaches, doesNot := evaluator.Profile{PodReachesOwnNode: evaluator.True}, evaluator.Profile{PodReachesOwnNode: evaluator.False}
	matches := evaluator.Profile{IPBlockMatchesNodes: evaluator.True}
	cases := map[string]struct {
		change   func(*Snapshot)
		want     evaluator.Verdict
		wantRule string
	}{
		"no policy":                        {nil, evaluator.Allowed, ""},
		"the pods of the cluster DNS only": {with(egress(toDNSPods(), corev1.ProtocolUDP), evaluator.Profile{}), evaluator.Undefined, "S14"},
		"a pod reaches its own node":       {with(egress(toDNSPods(), corev1.ProtocolUDP), reaches), evaluator.Allowed, ""},
		"a pod does not":                   {with(egress(toDNSPods(), corev1.ProtocolUDP), doesNot), evaluator.Denied, ""},
		"a block":                          {with(egress(block("169.254.20.10/32"), corev1.ProtocolUDP), evaluator.Profile{}), evaluator.Undefined, "S10"},
		"a block that matches nodes":       {with(egress(block("169.254.20.10/32"), corev1.ProtocolUDP), matches), evaluator.Allowed, ""},
		"a block of others":                {with(egress(block("10.0.0.0/8"), corev1.ProtocolUDP), matches), evaluator.Undefined, "S14"},
		"anything at port 53":              {with(egress(nil, corev1.ProtocolUDP), evaluator.Profile{}), evaluator.Allowed, ""},
		"anything over TCP":                {with(egress(nil, corev1.ProtocolTCP), doesNot), evaluator.Denied, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			res := probed(t, path("dns: {names: [a], transports: [UDP]}"), tc.change)
			i := slices.IndexFunc(res.Edges, func(e *Edge) bool { return e.Nameserver == 1 })
			d := res.Predictor.Decide(res.Edges[i], netip.MustParseAddr("10.0.1.9"), []netip.Addr{nodeLocalAddr})
			if d.Verdict != tc.want || d.Rule != tc.wantRule {
				t.Errorf("got %s %s %s, want %s %s", d.Verdict, d.Rule, d.Reason, tc.want, tc.wantRule)
			}
			if (d.Verdict == evaluator.Undefined) != (d.Reason != "") {
				t.Errorf("got the reason %q", d.Reason)
			}
			if !res.Predictor.OnOwnNode(res.Edges[i], []netip.Addr{nodeLocalAddr}) || res.Predictor.OnOwnNode(res.Edges[0], nil) {
				t.Error("the cache is on the pod's node, and the cluster DNS is not")
			}
			// Where the cache listens at the address of the cluster DNS, it is the same.
			res = probed(t, path("dns: {names: [a], transports: [UDP]}"), tc.change, nodeCache("-localip", "10.96.0.10"))
			if d := res.Edges[0].Prediction; name != "a block" && name != "a block that matches nodes" && name != "a block of others" && d.Verdict != tc.want {
				t.Errorf("at the address of the cluster DNS: got %s %s, want %s", d.Verdict, d.Reason, tc.want)
			}
			if !res.Predictor.OnOwnNode(res.Edges[0], nil) {
				t.Error("the cache at the address of the cluster DNS is on the pod's node")
			}
		})
	}
}

// A nameserver that turns out to be something of the cluster is predicted as such, and
// what changes there is a change.
func TestNameserversThatAreOfTheCluster(t *testing.T) {
	spec := path("dns: {names: [a], transports: [UDP]}")
	res := probed(t, spec, bringing(corev1.DNSDefault), func(s *Snapshot) {
		s.NetworkPolicies = append(s.NetworkPolicies, egress(toDNSPods(), corev1.ProtocolUDP))
	})
	e := res.Edges[0]
	for addr, want := range map[string]evaluator.Verdict{"10.96.0.10": evaluator.Allowed, "10.0.1.4": evaluator.Allowed, "10.0.2.2": evaluator.Denied, "8.8.8.8": evaluator.Denied} {
		if d := res.Predictor.Decide(e, netip.MustParseAddr("10.0.1.9"), []netip.Addr{netip.MustParseAddr(addr)}); d.Verdict != want {
			t.Errorf("%s: got %s, want %s", addr, d.Verdict, want)
		}
	}
	if _, whole := res.Predictor.Flows(e); whole {
		t.Error("before the first run nobody knows where the pod sends its queries")
	}
	learned := map[string][]netip.Addr{e.LearnedAs(): {netip.MustParseAddr("10.0.1.4")}}
	provenance := func(change func(*Snapshot)) string {
		s := cluster()
		bringing(corev1.DNSDefault)(&s)
		if change != nil {
			change(&s)
		}
		r := resolveInput(Input{Expectation: expectation(t, spec), Snapshot: s, ClusterDNS: dns, Probed: true, Learned: learned})
		if flows, whole := r.Predictor.Flows(r.Edges[0]); !whole || len(flows) == 0 || flows[0].To.Addr != netip.MustParseAddr("10.0.1.4") {
			t.Errorf("got the flows %v, whole %t", flows, whole)
		}
		return r.Provenance
	}
	same := provenance(nil)
	if provenance(func(s *Snapshot) { s.Pods[4].Annotations = map[string]string{"x": "y"} }) != same {
		t.Error("what does not count is a change")
	}
	if provenance(func(s *Snapshot) { s.Pods[4].UID = "another" }) == same {
		t.Error("another pod at the address of the nameserver is no change")
	}
}

func TestResolversOfTheWorkloadArePartOfTheProvenance(t *testing.T) {
	provenance := func(spec string, change func(*Snapshot)) string { return resolve(t, path(spec), change).Provenance }
	const names, tcp = "dns: {names: [a]}", "to: {service: {name: web}}, ports: [{port: 80}]"
	if provenance(names, nil) == provenance(names, bringing(corev1.DNSClusterFirst, "10.9.9.9")) {
		t.Error("another nameserver is no change")
	}
	if provenance(tcp, nil) != provenance(tcp, bringing(corev1.DNSClusterFirst, "10.9.9.9")) {
		t.Error("nameservers are a change to paths that do not ask them")
	}
}

func TestLaterNameserversAreNoMoreThanResolversLookAt(t *testing.T) {
	n := 0
	for _, e := range probed(t, path("dns: {names: [a], transports: [UDP]}"), nil).Edges {
		n = max(n, e.Nameserver)
	}
	if n != wire.MaxNameservers {
		t.Errorf("the last nameserver is number %d", n)
	}
}
