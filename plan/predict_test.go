package plan

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/pathproof/pathproof/evaluator"
)

// predictFirst resolves and predicts in the cluster, with one policy in place of
// its own, and returns the first edge.
func predictFirst(t *testing.T, spec string, policy *networkingv1.NetworkPolicySpec, changes ...func(*Snapshot)) (*Edge, *Predictor) {
	t.Helper()
	s := cluster()
	s.NetworkPolicies = nil
	if policy != nil {
		s.NetworkPolicies = []*networkingv1.NetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "n"}, Spec: *policy}}
	}
	for _, change := range changes {
		change(&s)
	}
	res := resolveInput(Input{Expectation: expectation(t, spec), Snapshot: s, ClusterDNS: dns})
	if len(res.Edges) == 0 {
		t.Fatalf("no edges: %+v", res.Obstacles)
	}
	return res.Edges[0], predict(s, res.Edges)
}

func egressTo(cidr string, except ...string) *networkingv1.NetworkPolicySpec {
	return &networkingv1.NetworkPolicySpec{
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
		Egress:      []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: cidr, Except: except}}}}},
	}
}

func admit(key, value string) *networkingv1.NetworkPolicySpec {
	p := ingressFrom("n", "db", "").Spec
	p.Ingress[0].From[0].PodSelector.MatchLabels = map[string]string{key: value}
	return &p
}

func TestPredictRanges(t *testing.T) {
	to := func(cidr, ip string) string {
		return path("to: {address: {cidr: '" + cidr + "', ips: ['" + ip + "']}}, ports: [{port: 443}]")
	}
	cases := map[string]struct {
		spec   string
		policy *networkingv1.NetworkPolicySpec
		want   evaluator.Verdict
	}{
		"no policy at all":                        {to("203.0.113.0/24", "203.0.113.10"), nil, evaluator.Allowed},
		"exactly the block":                       {to("203.0.113.0/24", "203.0.113.10"), egressTo("203.0.113.0/24"), evaluator.Allowed},
		"a part of the block":                     {to("203.0.113.0/25", "203.0.113.10"), egressTo("203.0.113.0/24"), evaluator.Allowed},
		"everything":                              {to("203.0.113.0/24", "203.0.113.10"), egressTo("0.0.0.0/0"), evaluator.Allowed},
		"the block is next to the range":          {to("203.0.113.0/24", "203.0.113.10"), egressTo("203.0.114.0/24"), evaluator.Denied},
		"the block is the lower half":             {to("203.0.113.0/24", "203.0.113.10"), egressTo("203.0.113.0/25"), evaluator.Undefined},
		"the block is the upper half, not probed": {to("203.0.113.0/24", "203.0.113.10"), egressTo("203.0.113.128/25"), evaluator.Undefined},
		"the block is the upper half, probed":     {to("203.0.113.0/24", "203.0.113.200"), egressTo("203.0.113.128/25"), evaluator.Undefined},
		"two blocks with a gap between them": {to("203.0.113.0/24", "203.0.113.10"), func() *networkingv1.NetworkPolicySpec {
			p := egressTo("203.0.113.0/26")
			p.Egress = append(p.Egress, egressTo("203.0.113.128/25").Egress...)
			return p
		}(), evaluator.Undefined},
		"the block is one address in the middle":      {to("203.0.113.0/24", "203.0.113.10"), egressTo("203.0.113.77/32"), evaluator.Undefined},
		"a hole of one address":                       {to("203.0.113.0/24", "203.0.113.10"), egressTo("0.0.0.0/0", "203.0.113.255/32"), evaluator.Undefined},
		"a hole that swallows the range":              {to("203.0.113.0/24", "203.0.113.10"), egressTo("0.0.0.0/0", "203.0.112.0/23"), evaluator.Denied},
		"a hole beside the range":                     {to("203.0.113.0/24", "203.0.113.10"), egressTo("0.0.0.0/0", "203.0.112.0/24"), evaluator.Allowed},
		"a block written with bits behind the prefix": {to("203.0.113.0/24", "203.0.113.10"), egressTo("203.0.113.200/25"), evaluator.Undefined},
		"the last addresses there are":                {to("255.255.255.0/24", "255.255.255.1"), egressTo("255.255.255.128/25"), evaluator.Undefined},
		"IPv6, with a hole":                           {to("2001:db8::/32", "2001:db8::1"), egressTo("2001:db8::/32", "2001:db8:ff::/48"), evaluator.Undefined},
		"IPv6, as a whole":                            {to("2001:db8::/32", "2001:db8::1"), egressTo("2001:db8::/31"), evaluator.Allowed},
		"a block of the other family":                 {to("2001:db8::/32", "2001:db8::1"), egressTo("0.0.0.0/0"), evaluator.Denied},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			e, _ := predictFirst(t, tc.spec, tc.policy, dualStack)
			if e.Prediction.Verdict != tc.want {
				t.Errorf("got %v (%s), want %v", e.Prediction.Verdict, e.Prediction.Reason, tc.want)
			}
			if tc.want == evaluator.Undefined && !strings.Contains(e.Prediction.Reason, "differently") {
				t.Errorf("got the reason %q", e.Prediction.Reason)
			}
			// The pods of the workload have a template hash. No policy asks for it.
			if e.Diverges() {
				t.Errorf("the probe diverges from its workload: %v and %v", e.Prediction.Verdict, e.Workload.Verdict)
			}
		})
	}
}

// What a probe cannot carry must not decide. It is enough that one of the pods
// that it stands for is treated differently.
func TestDivergence(t *testing.T) {
	cases := map[string]struct {
		policy *networkingv1.NetworkPolicySpec
		want   bool
	}{
		"no policy":                           {nil, false},
		"a policy by the application's label": {admit("app", "web"), false},
		"the hash of the first ReplicaSet":    {admit("pod-template-hash", "1"), true},
		"the hash of the second ReplicaSet":   {admit("pod-template-hash", "2"), true},
		"the hash of another ReplicaSet":      {admit("pod-template-hash", "3"), false},
		"an expression over the hash":         {exceptHash(), true},
	}
	for name, tc := range cases {
		for _, order := range []string{"as listed", "reversed"} {
			t.Run(name+", "+order, func(t *testing.T) {
				e, _ := predictFirst(t, path(toDB), tc.policy, func(s *Snapshot) {
					if order == "reversed" {
						s.Pods[0], s.Pods[1] = s.Pods[1], s.Pods[0]
					}
				})
				if e.Diverges() != tc.want {
					t.Errorf("diverges: %v (probe %v, workload %v), want %v", e.Diverges(), e.Prediction.Verdict, e.Workload.Verdict, tc.want)
				}
			})
		}
	}
	t.Run("a policy for one pod of a StatefulSet, at the source", func(t *testing.T) {
		only := &networkingv1.NetworkPolicySpec{
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"statefulset.kubernetes.io/pod-name": "web-2"}},
		}
		e, _ := predictFirst(t, path(toDB), only, func(s *Snapshot) {
			for _, p := range s.Pods[:2] {
				p.Labels["statefulset.kubernetes.io/pod-name"] = p.Name
			}
		})
		if !e.Diverges() {
			t.Errorf("the probe is %v and web-2 cannot get out", e.Prediction.Verdict)
		}
	})
	t.Run("an identity stands for nobody", func(t *testing.T) {
		e, _ := predictFirst(t, "paths: [{name: p, expect: Deny, from: {identity: {labels: {app: x}}}, "+toDB+"}]", admit("pod-template-hash", "1"))
		if e.Diverges() {
			t.Error("it diverges")
		}
	})
}

func TestPredictServices(t *testing.T) {
	toWeb := strings.Replace(path("to: {service: {name: web}}, ports: [{port: 80}]"), "app: web", "app: db", 1)
	onPort := func(port int32) *networkingv1.NetworkPolicySpec {
		p := ingressFrom("n", "web", "db").Spec
		p.Ingress[0].Ports = []networkingv1.NetworkPolicyPort{{Port: portOf(port)}}
		return &p
	}
	one := &networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"pod-template-hash": "1"}}}
	cases := map[string]struct {
		policy   *networkingv1.NetworkPolicySpec
		want     evaluator.Verdict
		wantRule string
	}{
		"all endpoints are open":                           {nil, evaluator.Allowed, ""},
		"the port of the pods is the one that counts":      {onPort(8080), evaluator.Allowed, ""},
		"the port of the Service does not count":           {onPort(80), evaluator.Denied, ""},
		"one endpoint is closed: it depends on the draw":   {one, evaluator.Undefined, "S9"},
		"an identity that the policies know nothing about": {admit("app", "nobody"), evaluator.Allowed, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			e, _ := predictFirst(t, toWeb, tc.policy)
			if e.Prediction.Verdict != tc.want || e.Prediction.Rule != tc.wantRule {
				t.Errorf("got %v by %q (%s), want %v by %q", e.Prediction.Verdict, e.Prediction.Rule, e.Prediction.Reason, tc.want, tc.wantRule)
			}
			if tc.want == evaluator.Undefined && (!strings.Contains(e.Prediction.Reason, "ns/web-1") || !strings.Contains(e.Prediction.Reason, "ns/web-2")) {
				t.Errorf("the reason names not both endpoints: %s", e.Prediction.Reason)
			}
		})
	}
}

func TestPredictHosts(t *testing.T) {
	host := path("to: {host: example.org}, ports: [{port: 80}]")
	hostDNS := path("to: {host: example.org}, ports: [{port: 53}]")
	closed := &networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}}
	dual := func(s *Snapshot) {
		s.Services = append(s.Services, service("ns", "two", []string{"10.96.0.50", "fd00:96::50"}, corev1.ServicePort{Name: "http", Port: 80}))
		s.EndpointSlices = append(s.EndpointSlices, slice("ns", "two", "http", corev1.ProtocolTCP, 8080, "web-1/a/10.0.1.1"), slice("ns", "two", "http", corev1.ProtocolTCP, 8080, "web-1/a/fd00::1"))
	}
	cases := map[string]struct {
		spec       string
		policy     *networkingv1.NetworkPolicySpec
		tried      string // addresses
		want       evaluator.Verdict
		wantReason string
	}{
		"not resolved":                           {host, nil, "", evaluator.Undefined, "resolved by the probe only"},
		"an address outside":                     {host, egressTo("203.0.113.0/24"), "203.0.113.1", evaluator.Allowed, ""},
		"an address outside that no rule allows": {host, egressTo("203.0.113.0/24"), "203.0.114.1", evaluator.Denied, ""},
		"the address of a pod is that pod":       {host, closed, "10.0.2.2", evaluator.Denied, ""},
		"the address of a Service is its pods":   {host, nil, "10.96.0.20", evaluator.Allowed, ""},
		"a Service without endpoints":            {host, nil, "10.96.0.30", evaluator.Undefined, "without a ready endpoint"},
		"a port that UDP and TCP share":          {hostDNS, nil, "10.96.0.10", evaluator.Allowed, ""},
		"a dual-stack Service, over IPv4":        {host, nil, "10.96.0.50", evaluator.Allowed, ""},
		"two addresses, both allowed":            {host, egressTo("203.0.113.0/24"), "203.0.113.1 203.0.113.2", evaluator.Allowed, ""},
		"two addresses, one allowed":             {host, egressTo("203.0.113.0/24"), "203.0.113.1 203.0.114.1", evaluator.Undefined, "treat the endpoints of example.org. differently"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			e, p := predictFirst(t, tc.spec, tc.policy, dual)
			if e.Prediction.Verdict != evaluator.Undefined || e.Prediction.Reason == "" || e.Diverges() {
				t.Errorf("before the probe: got %v (%q), diverges %v", e.Prediction.Verdict, e.Prediction.Reason, e.Diverges())
			}
			var tried []netip.Addr
			for _, addr := range strings.Fields(tc.tried) {
				tried = append(tried, netip.MustParseAddr(addr))
			}
			d := p.Decide(e, netip.MustParseAddr("10.0.1.200"), tried)
			if d.Verdict != tc.want || !strings.Contains(d.Reason, tc.wantReason) || (d.Verdict == evaluator.Undefined && d.Reason == "") {
				t.Errorf("got %v (%q), want %v (%q)", d.Verdict, d.Reason, tc.want, tc.wantReason)
			}
		})
	}
}

// The address that a prediction is made for before there is a probe.
func TestLikelyAddress(t *testing.T) {
	e, p := predictFirst(t, path(toDB), nil)
	if got := p.likelyAddr(e).String(); got != "10.0.1.1" {
		t.Errorf("a workload: got %s, want the address of web-1", got)
	}
	stranger := "paths: [{name: p, expect: Deny, from: {identity: {labels: {app: x}}}, "
	e, p = predictFirst(t, stranger+toDB+"}]", nil, func(s *Snapshot) { s.Pods = s.Pods[2:3] })
	if got := p.likelyAddr(e); got.IsValid() {
		t.Errorf("the target's own address was taken: %s", got)
	}
	e, p = predictFirst(t, stranger+"to: {address: {ips: ['2001:db8::1']}}, ports: [{port: 1}]}]", nil)
	if got := p.likelyAddr(e); got.IsValid() {
		t.Errorf("an address of another family was taken: %s", got)
	}
}

// What is denied at both ends for the probe, and at one of them for a workload, would show
// less of the enforcement than there is to see.
func TestDivergenceAtOneEnd(t *testing.T) {
	byLabel := func(name, label string, egress ...networkingv1.NetworkPolicyEgressRule) *networkingv1.NetworkPolicy {
		key, value, _ := strings.Cut(label, "=")
		return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{key: value}}, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}, Egress: egress,
		}}
	}
	for name, tc := range map[string]struct {
		policies []*networkingv1.NetworkPolicy
		want     bool
	}{
		"the same at both ends": {[]*networkingv1.NetworkPolicy{byLabel("none", "app=web"), ingressFrom("db", "db", "nobody")}, false},
		"one pod may send, and is denied at the target": {
			[]*networkingv1.NetworkPolicy{byLabel("none", "app=web"), byLabel("one", "pod-template-hash=1", networkingv1.NetworkPolicyEgressRule{}), ingressFrom("db", "db", "nobody")}, true,
		},
	} {
		res := resolve(t, path(toDB), func(s *Snapshot) {
			s.NetworkPolicies = tc.policies
			s.Pods[0].Labels["pod-template-hash"] = "1"
		})
		e := res.Edges[0]
		d, diverges := res.Predictor.Divergence(e, netip.MustParseAddr("10.0.1.200"), nil)
		if e.Prediction.Verdict != evaluator.Denied || e.Workload.Verdict != evaluator.Denied {
			t.Errorf("%s: got %s and %s, want both denied", name, e.Prediction.Verdict, e.Workload.Verdict)
		}
		if diverges != tc.want || e.Diverges() != tc.want {
			t.Errorf("%s: diverges: %t and %t, want %t", name, diverges, e.Diverges(), tc.want)
		}
		if words := Describe(d, e.Prediction); tc.want && words != "Denied (egress Allowed, ingress Denied)" {
			t.Errorf("%s: described as %q", name, words)
		}
	}
}

func portOf(n int32) *intstr.IntOrString { return ptr.To(intstr.FromInt32(n)) }

func exceptHash() *networkingv1.NetworkPolicySpec {
	p := admit("app", "web")
	p.Ingress[0].From[0].PodSelector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "pod-template-hash", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"2"}}}
	return p
}

// An ipBlock that matches pods admits one by its address: what the probe may do says
// nothing of a workload with another one.
func TestBlocksThatMatchPodsAreAskedForEveryAddressOfTheSource(t *testing.T) {
	admit := func(cidr string) *networkingv1.NetworkPolicy {
		return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "db"}, Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}},
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: cidr}}}}},
		}}
	}
	const workload, identity = "podSelector: {matchLabels: {app: web}}", "identity: {labels: {app: new}}"
	for name, tc := range map[string]struct {
		from, cidr string
		matches    evaluator.Setting
		probe      string
		want       evaluator.Verdict
	}{
		"a block that holds one pod of the workload":            {workload, "10.0.1.1/32", evaluator.True, "10.0.9.9", evaluator.Undefined},
		"the probe in its place":                                {workload, "10.0.9.9/32", evaluator.True, "10.0.9.9", evaluator.Undefined},
		"a block that holds all of them":                        {workload, "10.0.0.0/16", evaluator.True, "10.0.9.9", evaluator.Allowed},
		"a block that holds none":                               {workload, "172.16.0.0/12", evaluator.True, "10.0.9.9", evaluator.Denied},
		"blocks that match no pods":                             {workload, "10.0.1.1/32", evaluator.False, "10.0.9.9", evaluator.Denied},
		"a block that holds one pod, if it matches pods at all": {workload, "10.0.1.1/32", evaluator.Unset, "10.0.9.9", evaluator.Undefined},
		"a block that holds none, if it matches pods at all":    {workload, "172.16.0.0/12", evaluator.Unset, "10.0.9.9", evaluator.Denied},
		"an identity that is not in it, whatever it matches":    {identity, "10.0.0.0/24", evaluator.Unset, "10.0.9.9", evaluator.Denied},
		"an identity could be in it or not":                     {identity, "10.0.0.0/16", evaluator.True, "10.0.9.9", evaluator.Undefined},
		"an identity, and blocks that match no pods":            {identity, "10.0.0.0/16", evaluator.False, "10.0.9.9", evaluator.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			s := cluster()
			s.NetworkPolicies = []*networkingv1.NetworkPolicy{admit(tc.cidr)}
			s.Profile.IPBlockMatchesPods = tc.matches
			res := resolveInput(Input{ClusterDNS: dns, Snapshot: s, Expectation: expectation(t,
				"paths: [{name: p, expect: Deny, from: {"+tc.from+"}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 1}]}]")})
			p := predict(s, res.Edges)
			if d := p.Decide(res.Edges[0], netip.MustParseAddr(tc.probe), nil); d.Verdict != tc.want {
				t.Errorf("got %s, want %s: %s", d.Verdict, tc.want, d.Reason)
			}
		})
	}
}

func TestProvenanceHoldsTheAddressesThatBlocksTellApart(t *testing.T) {
	blocked := func(set evaluator.Setting, addr string) func(*Snapshot) {
		return func(s *Snapshot) {
			s.Profile.IPBlockMatchesPods = set
			s.NetworkPolicies[0].Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "10.0.1.0/24"}}}}}
			s.Pods[0].Status.PodIP, s.Pods[0].Status.PodIPs = addr, []corev1.PodIP{{IP: addr}}
		}
	}
	for set, want := range map[evaluator.Setting]map[string]bool{
		evaluator.False: {"10.0.1.9": false, "10.0.3.1": false},
		// What counts, or may count, is whether the block holds it.
		evaluator.Unset: {"10.0.1.9": false, "10.0.3.1": true},
		evaluator.True:  {"10.0.1.9": false, "10.0.3.1": true},
	} {
		before := resolve(t, path(toDB), blocked(set, "10.0.1.1")).Provenance
		for addr, want := range want {
			if changed := resolve(t, path(toDB), blocked(set, addr)).Provenance != before; changed != want {
				t.Errorf("%q: %s in place of 10.0.1.1 changes the provenance: %t, want %t", set, addr, changed, want)
			}
		}
	}
}
