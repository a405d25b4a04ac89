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
