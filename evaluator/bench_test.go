package evaluator

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/pathproof/pathproof/flow"
)

// benchCluster spreads pods and policies evenly over namespaces. Every namespace
// denies by default and opens paths between its applications; half of the policies
// open to other namespaces, by label or by address.
func benchCluster(tb testing.TB, namespaces, pods, policies int) (Snapshot, []flow.Flow) {
	const apps = 10
	specs := []string{
		`{podSelector: {matchLabels: {app: app-%[1]d}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: app-%[2]d}}}], ports: [{port: 8080}]}]}`,
		`{podSelector: {matchLabels: {app: app-%[2]d}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: app-%[1]d}}}], ports: [{port: http}]}]}`,
		`{podSelector: {matchLabels: {app: app-%[1]d}}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {team: team-%[2]d}}, podSelector: {matchExpressions: [{key: app, operator: In, values: [app-1, app-2]}]}}], ports: [{port: 8000, endPort: 8100}]}]}`,
		`{podSelector: {matchLabels: {app: app-%[1]d}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.128/25]}}], ports: [{port: 443}, {port: 53, protocol: UDP}]}]}`,
	}
	var s Snapshot
	for i := range namespaces {
		s.Namespaces = append(s.Namespaces, newNamespace(fmt.Sprintf("ns-%d", i), fmt.Sprintf("team=team-%d", i%apps)))
	}
	for i := range pods {
		p := newPod(fmt.Sprintf("ns-%d/pod-%d", i%namespaces, i), fmt.Sprintf("app=app-%d,tier=backend", i/namespaces%apps),
			fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))
		s.Pods = append(s.Pods, withPorts(onNode(p, fmt.Sprintf("node-%d", i%50), fmt.Sprintf("192.168.0.%d", i%50+1)), "http=8080/TCP"))
	}
	for i := range policies {
		round := i / namespaces
		spec := `{podSelector: {}, policyTypes: [Ingress, Egress]}`
		if round > 0 {
			spec = fmt.Sprintf(specs[round%len(specs)], round%apps, (round+1)%apps)
		}
		s.NetworkPolicies = append(s.NetworkPolicies, newPolicy(tb, fmt.Sprintf("ns-%d/np-%d", i%namespaces, i), spec))
	}
	var flows []flow.Flow
	for i := range 1024 {
		source := i * 7919 % pods
		target := i * 104729 % pods
		if i%2 == 0 { // Half of the flows stay in their namespace.
			target = (source + i%apps*namespaces) % pods
		}
		from, to := s.Pods[source], s.Pods[target]
		flows = append(flows, flow.Flow{
			From: flow.Endpoint{Namespace: from.Namespace, Pod: from.Name}, To: flow.Endpoint{Namespace: to.Namespace, Pod: to.Name},
			Protocol: flow.TCP, Port: []uint16{8080, 8081, 443}[i%3],
		})
	}
	return s, flows
}

func benchDecide(b *testing.B, namespaces, pods, policies int) {
	s, flows := benchCluster(b, namespaces, pods, policies)
	e := compile(b, s)
	verdicts := map[Verdict]int{}
	for _, f := range flows {
		verdicts[e.Decide(f).Verdict]++
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		e.Decide(flows[i%len(flows)])
		i++
	}
	b.ReportMetric(float64(verdicts[Allowed]*100)/float64(len(flows)), "%allowed")
}

// benchClusterWide adds cluster-wide policies of both tiers: each is about one team
// and leaves most flows to what follows.
func benchClusterWide(tb testing.TB, s Snapshot, policies int) Snapshot {
	specs := map[string]string{}
	for i := range policies {
		tier, priority := "Admin", i
		if i%2 == 1 {
			tier = "Baseline"
		}
		team := `{namespaces: {matchLabels: {team: team-` + strconv.Itoa(i%10) + `}}}`
		specs[fmt.Sprintf("cnp:c-%d", i)] = fmt.Sprintf(`{tier: %s, priority: %d, subject: %s,
			ingress: [{action: Pass, from: [%s]}, {action: Deny, from: [{namespaces: {matchLabels: {team: team-%d}}}]}],
			egress: [{action: Accept, to: [{networks: [203.0.113.0/24]}]}, {action: Deny, to: [{networks: [198.51.100.0/24]}], protocols: [{tcp: {destinationPort: {number: 25}}}]}]}`,
			tier, priority, team, team, (i+3)%10)
	}
	return withPolicies(tb, s, specs)
}

func BenchmarkDecide1000Pods500Policies50ClusterWide(b *testing.B) {
	s, flows := benchCluster(b, 20, 1000, 500)
	e := compile(b, benchClusterWide(b, s, 50))
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		e.Decide(flows[i%len(flows)])
		i++
	}
}

func BenchmarkCompile1000Pods500Policies50ClusterWide(b *testing.B) {
	s, _ := benchCluster(b, 20, 1000, 500)
	s = benchClusterWide(b, s, 50)
	b.ReportAllocs()
	for b.Loop() {
		Compile(s)
	}
}

func benchCompile(b *testing.B, namespaces, pods, policies int) {
	s, _ := benchCluster(b, namespaces, pods, policies)
	b.ReportAllocs()
	for b.Loop() {
		Compile(s)
	}
}

func BenchmarkDecide100Pods50Policies(b *testing.B)      { benchDecide(b, 5, 100, 50) }
func BenchmarkDecide1000Pods500Policies(b *testing.B)    { benchDecide(b, 20, 1000, 500) }
func BenchmarkDecide10000Pods2000Policies(b *testing.B)  { benchDecide(b, 50, 10000, 2000) }
func BenchmarkCompile100Pods50Policies(b *testing.B)     { benchCompile(b, 5, 100, 50) }
func BenchmarkCompile1000Pods500Policies(b *testing.B)   { benchCompile(b, 20, 1000, 500) }
func BenchmarkCompile10000Pods2000Policies(b *testing.B) { benchCompile(b, 50, 10000, 2000) }

// TestDecideDoesNotAllocate asserts what the matrix of all pods relies on: a definite
// answer between pods costs no memory.
func TestDecideDoesNotAllocate(t *testing.T) {
	s, flows := benchCluster(t, 5, 100, 50)
	for name, s := range map[string]Snapshot{"NetworkPolicies": s, "and cluster-wide policies": benchClusterWide(t, s, 20)} {
		t.Run(name, func(t *testing.T) {
			e := compile(t, s)
			for _, f := range flows[:64] {
				if d := e.Decide(f); d.Verdict == Undefined {
					continue
				}
				if n := testing.AllocsPerRun(10, func() { e.Decide(f) }); n > 0 {
					t.Fatalf("%s: %.0f allocations", f, n)
				}
			}
			if got := e.Decide(flows[0]); got.Verdict == Undefined {
				t.Errorf("%s: %s", flows[0], got.Reason)
			}
		})
	}
}
