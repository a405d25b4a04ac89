package plan

import (
	"fmt"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
)

// full is an expectation of 10,000 checks: 40 sources that need not exist, of which
// policies let half in, and 5 pods with two addresses and 25 ports. With Auto, stand-ins
// take the place of the pods over UDP, and the two addresses of each are one edge until
// they are known.
func full(b *testing.B, via v1alpha1.Via) (in Input, edges int) {
	b.Helper()
	var spec strings.Builder
	spec.WriteString("coverage: {maxSources: 1, maxTargets: 10}\npaths:\n")
	ports := "{port: 9012}"
	for p := 9000; p < 9012; p += 2 {
		ports += fmt.Sprintf(", {port: %d, endPort: %d}, {protocol: UDP, port: %d, endPort: %d}", p, p+1, p, p+1)
	}
	for i := range 40 {
		team, expect := "a", "Allow"
		if i%2 == 1 {
			team, expect = "b", "Deny"
		}
		fmt.Fprintf(&spec, "- {name: p%d, expect: %s, from: {identity: {labels: {source: s%d, app: %s}}}, to: {via: %s, podSelector: {matchLabels: {app: target}}}, ports: [%s]}\n", i, expect, i, team, via, ports)
	}
	s := cluster()
	for i := range 5 {
		p := pod("ns", fmt.Sprintf("target-%d", i), fmt.Sprintf("node-%d", i%2), fmt.Sprintf("10.9.0.%d", i), "app=target", fmt.Sprintf("pod=%d", i))
		p.Status.PodIPs = append(p.Status.PodIPs, p.Status.PodIPs[0])
		p.Status.PodIPs[1].IP = fmt.Sprintf("fd00::%d", i+1)
		s.Pods = append(s.Pods, p)
	}
	s.NetworkPolicies = []*networkingv1.NetworkPolicy{ingressFrom("a", "target", "a")}
	engine, _ := evaluator.Compile(s.Snapshot)
	exp := &v1alpha1.ConnectivityExpectation{}
	exp.Namespace, exp.Name, exp.UID = "ns", "full", "1"
	if err := yaml.UnmarshalStrict([]byte(spec.String()), &exp.Spec); err != nil {
		b.Fatal(err)
	}
	in = Input{Expectation: exp, Snapshot: s, Engine: engine, ClusterDNS: dns}
	if via == v1alpha1.ViaAuto {
		return in, 40 * 5 * (13*2 + 12)
	}
	return in, 10_000
}

func BenchmarkResolve10000Checks(b *testing.B) {
	for _, via := range []v1alpha1.Via{v1alpha1.ViaEndpoint, v1alpha1.ViaAuto} {
		b.Run(string(via), func(b *testing.B) {
			in, edges := full(b, via)
			for b.Loop() {
				if r := Resolve(in); len(r.Edges) != edges {
					b.Fatalf("got %d edges and %v", len(r.Edges), r.Obstacles)
				}
			}
		})
	}
}

func BenchmarkPlace10000Checks(b *testing.B) {
	in, edges := full(b, v1alpha1.ViaEndpoint)
	r := Resolve(in)
	for b.Loop() {
		checks := 0
		for _, pod := range Place(r.Edges, in.Snapshot.Nodes, 1) {
			checks += len(pod.Edges)
		}
		if checks < edges {
			b.Fatalf("placed %d checks", checks)
		}
	}
}
