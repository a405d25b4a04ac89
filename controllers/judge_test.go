package controllers

import (
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/probe/wire"
)

// A name or an address may turn out to be a Service: then the silence of one
// connection says nothing about another endpoint.
func TestCheckKnowsHowManyEndpointsThereAre(t *testing.T) {
	const serviceIP, outside, elsewhere = "10.96.0.20", "203.0.113.1", "203.0.113.2"
	s := plan.Snapshot{
		Services: []*corev1.Service{{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"}, Spec: corev1.ServiceSpec{
			ClusterIP: serviceIP, ClusterIPs: []string{serviceIP}, Ports: []corev1.ServicePort{{Name: "sql", Port: 5432, Protocol: corev1.ProtocolTCP}},
		}}},
		EndpointSlices: []*discoveryv1.EndpointSlice{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db-1", Labels: map[string]string{discoveryv1.LabelServiceName: "db"}},
			Ports:      []discoveryv1.EndpointPort{{Name: ptr.To("sql"), Port: ptr.To[int32](5432), Protocol: ptr.To(corev1.ProtocolTCP)}},
			Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}, {Addresses: []string{"10.0.0.2"}}},
		}},
	}
	engine, _ := evaluator.Compile(s.Snapshot)
	host := plan.Target{Kind: plan.TargetHost, Host: "db.example.org."}
	address := func(a string) plan.Target {
		return plan.Target{Kind: plan.TargetAddress, Addr: netip.MustParseAddr(a)}
	}
	cases := map[string]struct {
		target        plan.Target
		tried         []string
		wantAddr      string
		wantEndpoints int
	}{
		"a host outside":                 {host, []string{outside}, outside, 1},
		"a host that is a Service":       {host, []string{serviceIP}, serviceIP, 2},
		"a host of changing addresses":   {host, []string{outside, elsewhere}, "", 2},
		"a host that was not resolved":   {host, nil, "", 0},
		"an address outside":             {address(outside), nil, outside, 1},
		"an address that is a Service's": {address(serviceIP), nil, serviceIP, 2},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			e := &plan.Edge{Source: &plan.Source{Namespace: "shop"}, Target: tc.target, Transport: wire.TCP, Port: 5432}
			result := wire.Result{Outcomes: wire.Outcomes{wire.TimedOut}}
			for _, a := range tc.tried {
				result.Tried = append(result.Tried, netip.MustParseAddr(a))
			}
			r := &run{predictor: plan.NewPredictor(engine, s)}
			p := &probeRun{report: &wire.Report{Results: []wire.Result{result}}}
			c := r.check(p, 0, e)
			var want netip.Addr
			if tc.wantAddr != "" {
				want = netip.MustParseAddr(tc.wantAddr)
			}
			if got := fmt.Sprint(c.Addr, c.Endpoints); got != fmt.Sprint(want, tc.wantEndpoints) {
				t.Errorf("got address and endpoints %s, want %v %d", got, want, tc.wantEndpoints)
			}
		})
	}
}
