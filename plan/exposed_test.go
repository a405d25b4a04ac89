package plan

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/pathproof/pathproof/evaluator"
)

// Behind the addresses of a Service that are no cluster addresses are its pods, too.
func TestAddressesThatLeadToServices(t *testing.T) {
	const outside, other = "203.0.113.7", "203.0.113.8"
	expose := func(change func(*corev1.Service)) func(*Snapshot) {
		return func(s *Snapshot) {
			s.Services[1].Spec.Ports[0].NodePort = 30080
			s.Nodes[0].Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "a"}, {Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}
			change(s.Services[1])
		}
	}
	balanced := expose(func(s *corev1.Service) {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{Hostname: "lb.example.org"}, {IP: outside}}
	})
	proxied := expose(func(s *corev1.Service) {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: outside, IPMode: ptr.To(corev1.LoadBalancerIPModeProxy)}}
	})
	external := expose(func(s *corev1.Service) { s.Spec.ExternalIPs = []string{outside} })
	none := expose(func(*corev1.Service) {})
	onlyPods := &networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
		Egress: []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{}}}}},
	}
	to := func(addr string, port string) string {
		return "paths: [{name: p, expect: Deny, from: {podSelector: {matchLabels: {app: db}}}, to: {address: {ips: ['" + addr + "']}}, ports: [{port: " + port + "}]}]"
	}
	for name, tc := range map[string]struct {
		spec      string
		policy    *networkingv1.NetworkPolicySpec
		change    func(*Snapshot)
		tried     string
		endpoints int
		want      evaluator.Verdict
	}{
		"a load balancer":                         {spec: to(outside, "80"), change: balanced, endpoints: 2, want: evaluator.Allowed},
		"a load balancer, by name":                {spec: path("to: {host: lb.example.org}, ports: [{port: 80}]"), change: balanced, tried: outside, endpoints: 2, want: evaluator.Allowed},
		"a load balancer, and another port":       {spec: to(outside, "81"), change: balanced, endpoints: 1, want: evaluator.Allowed},
		"an external address":                     {spec: to(outside, "80"), change: external, endpoints: 2, want: evaluator.Allowed},
		"another address":                         {spec: to(other, "80"), change: external, endpoints: 1, want: evaluator.Allowed},
		"a node port":                             {spec: to("192.0.2.1", "30080"), change: none, endpoints: 2, want: evaluator.Allowed},
		"that port, at what is no node":           {spec: to(outside, "30080"), change: none, endpoints: 1, want: evaluator.Allowed},
		"policies admit the pods alone":           {spec: to(outside, "80"), policy: onlyPods, change: external, endpoints: 2, want: evaluator.Undefined},
		"policies admit the pods, and no Service": {spec: to(other, "80"), policy: onlyPods, change: external, endpoints: 1, want: evaluator.Denied},
		"so with a proxy in between":              {spec: to(outside, "80"), policy: onlyPods, change: proxied, endpoints: 2, want: evaluator.Undefined},
	} {
		t.Run(name, func(t *testing.T) {
			e, p := predictFirst(t, tc.spec, tc.policy, tc.change)
			var tried []netip.Addr
			if tc.tried != "" {
				tried = []netip.Addr{netip.MustParseAddr(tc.tried)}
			}
			if got := p.Endpoints(e, tried); got != tc.endpoints {
				t.Errorf("got %d endpoints, want %d", got, tc.endpoints)
			}
			d := p.Decide(e, netip.MustParseAddr("10.0.1.200"), tried)
			if d.Verdict != tc.want || (d.Verdict == evaluator.Undefined && !strings.Contains(d.Reason, "leads to a Service")) {
				t.Errorf("got %s (%s), want %s", d.Verdict, d.Reason, tc.want)
			}
		})
	}
	t.Run("the pods behind it are part of the provenance", func(t *testing.T) {
		before := resolve(t, to(outside, "80"), external).Provenance
		after := resolve(t, to(outside, "80"), func(s *Snapshot) {
			external(s)
			s.Pods[1].UID = "another"
		}).Provenance
		if before == after {
			t.Error("another pod leaves it as it was")
		}
	})
}

// The pods behind such an address are predicted for every pod of the source, and count for
// what stands of a host.
func TestPodsBehindAddressesCount(t *testing.T) {
	const outside = "203.0.113.7"
	behind := func(cidr string) func(*Snapshot) {
		return func(s *Snapshot) {
			s.Profile.IPBlockMatchesPods = evaluator.True
			s.Services[1].Spec.ExternalIPs = []string{outside}
			s.Pods = append(s.Pods, pod("ns", "batch-1", "a", "10.0.1.11", "app=batch"), pod("ns", "batch-2", "a", "10.0.1.12", "app=batch"))
			policy := ingressFrom("web", "web", "x")
			policy.Spec.Ingress[0].From = []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: cidr}}}
			s.NetworkPolicies = []*networkingv1.NetworkPolicy{policy}
		}
	}
	from := func(to string) string {
		return "paths: [{name: p, expect: Allow, from: {podSelector: {matchLabels: {app: batch}}}, to: {" + to + "}, ports: [{port: 80}]}]"
	}
	tried := []netip.Addr{netip.MustParseAddr(outside)}
	grounds := map[string]string{}
	for cidr, want := range map[string]evaluator.Verdict{"10.0.0.0/16": evaluator.Allowed, "10.0.1.12/31": evaluator.Undefined} {
		for _, to := range []string{"address: {ips: ['" + outside + "']}", "host: example.org"} {
			res := resolve(t, from(to), behind(cidr))
			e := res.Edges[0]
			at := tried
			if !e.Learns() {
				at = nil
			}
			if d := res.Predictor.Decide(e, netip.MustParseAddr("10.0.1.13"), at); d.Verdict != want {
				t.Errorf("%s, %s: got %s (%s), want %s", cidr, to, d.Verdict, d.Reason, want)
			}
			grounds[to+cidr] = res.Predictor.Grounds(e, at)
		}
	}
	if to := "host: example.org"; grounds[to+"10.0.0.0/16"] == grounds[to+"10.0.1.12/31"] {
		t.Error("another policy for the pods behind a host leaves what its predictions rest on as it was")
	}
}

// A node may send nothing to an endpoint of another one.
func TestServicesOfLocalTrafficHaveNoNode(t *testing.T) {
	for policy, want := range map[corev1.ServiceInternalTrafficPolicy]string{corev1.ServiceInternalTrafficPolicyCluster: "a", corev1.ServiceInternalTrafficPolicyLocal: ""} {
		res := resolve(t, path("to: {service: {name: web}}, ports: [{port: 80}]"), func(s *Snapshot) {
			s.Services[1].Spec.InternalTrafficPolicy = ptr.To(policy)
			s.EndpointSlices[2].Endpoints = s.EndpointSlices[2].Endpoints[:1]
		})
		if got := res.Edges[0].Target.Node; got != want {
			t.Errorf("%s: the node is %q, want %q", policy, got, want)
		}
	}
}
