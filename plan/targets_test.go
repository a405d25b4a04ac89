package plan

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pathproof/pathproof/evaluator"
)

// "The same endpoint could appear in more than one EndpointSlice" for a while
// (Kubernetes docs, "Duplicate endpoints"), and is one endpoint all the same.
func TestEndpointInTwoSlicesCountsOnce(t *testing.T) {
	again := func(s *Snapshot) {
		s.EndpointSlices = append(s.EndpointSlices, slice("ns", "web", "http", corev1.ProtocolTCP, 8080, "web-1/a/10.0.1.1"),
			slice("ns", "headless", "http", corev1.ProtocolTCP, 8080, "web-1/a/10.0.1.1"))
	}
	if e := resolve(t, path("to: {service: {name: web}}, ports: [{port: 80}]"), again).Edges; len(e) != 1 || len(e[0].Backends) != 2 {
		t.Errorf("ClusterIP: got %d edges, the first with %d backends, want 1 with 2", len(e), len(e[0].Backends))
	}
	if e := resolve(t, path("to: {service: {name: headless}}, ports: [{port: 80}]"), again).Edges; len(e) != 2 {
		t.Errorf("headless: got %d edges, want 2", len(e))
	}
}

// A policy applies to the pods behind a Service, whichever way its address was
// written down.
func TestAddressOfAServiceIsPredictedAsItsPods(t *testing.T) {
	s := cluster()
	s.NetworkPolicies = []*networkingv1.NetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "out"}, Spec: networkingv1.NetworkPolicySpec{
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
		Egress: []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{
			{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
		}}},
	}}}
	for addr, want := range map[string]evaluator.Verdict{"10.96.0.20": evaluator.Allowed, "203.0.113.1": evaluator.Denied, "10.96.0.30": evaluator.Undefined} {
		res := resolveInput(Input{ClusterDNS: dns, Snapshot: s, Expectation: expectation(t,
			"paths: [{name: p, expect: Allow, from: {identity: {labels: {app: x}}}, to: {address: {ips: ["+addr+"]}}, ports: [{port: 80}]}]")})
		predict(s, res.Edges)
		if got := res.Edges[0].Prediction.Verdict; got != want {
			t.Errorf("%s: got %v, want %v", addr, got, want)
		}
	}
}

func TestHostDivergesOnceItIsResolved(t *testing.T) {
	s := cluster()
	s.NetworkPolicies = []*networkingv1.NetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "out"}, Spec: networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"pod-template-hash": "2"}},
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
	}}}
	res := resolveInput(Input{ClusterDNS: dns, Snapshot: s, Expectation: expectation(t, path("to: {host: example.org}, ports: [{port: 443}]"))})
	p := predict(s, res.Edges)
	if _, diverges := p.Divergence(res.Edges[0], netip.Addr{}, nil); diverges {
		t.Error("diverges before anything is known")
	}
	d, diverges := p.Divergence(res.Edges[0], netip.Addr{}, []netip.Addr{netip.MustParseAddr("203.0.113.1")})
	if !diverges || d.Verdict != evaluator.Denied {
		t.Errorf("got %v, diverges %v; want Denied, true", d.Verdict, diverges)
	}
}
