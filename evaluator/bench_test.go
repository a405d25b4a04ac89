package evaluator

import (
	"fmt"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"

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

// benchTable decides about all pairs of pods at three ports, and reads each verdict.
func benchTable(b *testing.B, namespaces, pods, policies int) {
	s, _ := benchCluster(b, namespaces, pods, policies)
	e := compile(b, s)
	var ends []flow.Endpoint
	for _, p := range s.Pods {
		ends = append(ends, flow.Endpoint{Namespace: p.Namespace, Pod: p.Name})
	}
	ports := []flow.Port{{Protocol: flow.TCP, Number: 8080}, {Protocol: flow.TCP, Number: 8081}, {Protocol: flow.TCP, Number: 443}}
	b.ReportAllocs()
	groups, allowed := 0, 0
	for b.Loop() {
		table := e.Table(ends, ports)
		allowed = 0
		for from := range ends {
			for to := range ends {
				for port := range ports {
					if table.Verdict(from, to, port) == Allowed {
						allowed++
					}
				}
			}
		}
		groups = table.Groups()
	}
	decisions := len(ends) * len(ends) * len(ports)
	b.ReportMetric(float64(decisions), "decisions")
	b.ReportMetric(float64(groups), "groups")
	b.ReportMetric(float64(allowed)*100/float64(decisions), "%allowed")
}

func BenchmarkTable1000Pods500Policies3Ports(b *testing.B) { benchTable(b, 20, 1000, 500) }
func BenchmarkTable5000Pods2000Policies200Namespaces3Ports(b *testing.B) {
	benchTable(b, 200, 5000, 2000)
}
func BenchmarkCompile5000Pods2000Policies200Namespaces(b *testing.B) {
	benchCompile(b, 200, 5000, 2000)
}
func BenchmarkCompile100000Pods10000Policies1000Namespaces(b *testing.B) {
	benchCompile(b, 1000, 100000, 10000)
}

// BenchmarkPodLabelChange100000Pods10000Policies1000Namespaces gives one pod other
// labels again and again.
func BenchmarkPodLabelChange100000Pods10000Policies1000Namespaces(b *testing.B) {
	s, _ := benchCluster(b, 1000, 100000, 10000)
	e := compile(b, s)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		p := s.Pods[i*7919%len(s.Pods)].DeepCopy()
		p.Labels["app"] = fmt.Sprintf("app-%d", i%10)
		e, _ = e.With(Snapshot{Pods: []*corev1.Pod{p}}, nil)
		i++
	}
}

// BenchmarkPolicyChange100000Pods10000Policies1000Namespaces replaces one policy
// again and again.
func BenchmarkPolicyChange100000Pods10000Policies1000Namespaces(b *testing.B) {
	s, _ := benchCluster(b, 1000, 100000, 10000)
	e := compile(b, s)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		e, _ = e.With(Snapshot{NetworkPolicies: s.NetworkPolicies[i%len(s.NetworkPolicies):][:1]}, nil)
		i++
	}
}

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
