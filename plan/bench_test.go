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
// policies let half in, and 5 pods with two addresses and 25 ports.
func full(b *testing.B) Input {
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
		fmt.Fprintf(&spec, "- {name: p%d, expect: %s, from: {identity: {labels: {source: s%d, app: %s}}}, to: {podSelector: {matchLabels: {app: target}}}, ports: [%s]}\n", i, expect, i, team, ports)
	}
	s := cluster()
	for i := range 5 {
		p := pod("ns", fmt.Sprintf("target-%d", i), fmt.Sprintf("node-%d", i%2), fmt.Sprintf("10.9.0.%d", i), "app=target")
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
	return Input{Expectation: exp, Snapshot: s, Engine: engine, ClusterDNS: dns}
}

func BenchmarkResolve10000Checks(b *testing.B) {
	in := full(b)
	for b.Loop() {
		if r := Resolve(in); len(r.Edges) != 10_000 {
			b.Fatalf("got %d edges and %v", len(r.Edges), r.Obstacles)
		}
	}
}

func BenchmarkPlace10000Checks(b *testing.B) {
	in := full(b)
	r := Resolve(in)
	for b.Loop() {
		checks := 0
		for _, pod := range Place(r.Edges, in.Snapshot.Nodes, 1) {
			checks += len(pod.Edges)
		}
		if checks < 10_000 {
			b.Fatalf("placed %d checks", checks)
		}
	}
}
