package diff

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/explain"
	"github.com/pathproof/pathproof/flow"
)

var update = flag.Bool("update", false, "write the golden files")

// state is what a test compares: a snapshot of one namespace ns.
type state struct {
	pods     []*corev1.Pod
	policies []*networkingv1.NetworkPolicy
	clouded  []evaluator.Unmodelled
}

// failer is a test, be it one of package testing or one of rapid.
type failer interface {
	Helper()
	Fatal(args ...any)
}

func (s state) side(t failer) Side {
	t.Helper()
	snapshot := evaluator.Snapshot{
		Namespaces: []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}},
		Pods:       s.pods, NetworkPolicies: s.policies, Unmodelled: s.clouded,
	}
	engine, problems := evaluator.Compile(snapshot)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return Side{Snapshot: snapshot, Engine: engine}
}

// pod is one of a workload: NAME of a Deployment, or a pod of its own with the name
// after an exclamation mark.
func pod(workload, name string, labels map[string]string, ports ...corev1.ContainerPort) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Ports: ports}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	if workload != "" {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "Deployment", Name: workload, Controller: &yes}}
	}
	return p
}

func app(name string) map[string]string { return map[string]string{"app": name} }

func workload(p *corev1.Pod) Workload {
	if ref := metav1.GetControllerOf(p); ref != nil {
		return Workload{p.Namespace, ref.Kind, ref.Name}
	}
	return Workload{p.Namespace, "Pod", p.Name}
}

func policy(t failer, text string) *networkingv1.NetworkPolicy {
	t.Helper()
	p := &networkingv1.NetworkPolicy{}
	if err := yaml.UnmarshalStrict([]byte("metadata: {name: p, namespace: ns}\nspec: "+text), p); err != nil {
		t.Fatal(err)
	}
	return p
}

const toDB = `{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [%s]}]}`

func allow(t failer, ports string) []*networkingv1.NetworkPolicy {
	return []*networkingv1.NetworkPolicy{policy(t, fmt.Sprintf(toDB, ports))}
}

const everyPort = "TCP/1-65535,UDP/1-65535,SCTP/1-65535"

// web and db are what most tests are about; db declares a port, and web none.
func webAndDB() []*corev1.Pod {
	return []*corev1.Pod{
		pod("web", "web-1", app("web")), pod("web", "web-2", app("web")), pod("web", "web-3", app("web")),
		pod("", "db", app("db"), corev1.ContainerPort{Name: "sql", ContainerPort: 5432}),
	}
}

func TestDiff(t *testing.T) {
	other := []*corev1.Pod{
		pod("web", "web-4", app("web")),
		pod("", "db", app("db"), corev1.ContainerPort{Name: "sql", ContainerPort: 5433}),
		pod("", "new", app("new")),
	}
	ended := webAndDB()
	ended[0].Status.Phase = corev1.PodFailed
	cases := map[string]struct {
		before, after state
		// want are the rows: change, from, to, ports, pairs of pods.
		want         []string
		added, gone  []string
		undefined    int
		wantExitCode int
	}{
		"nothing changes": {state{webAndDB(), allow(t, "{port: 80}"), nil}, state{webAndDB(), allow(t, "{port: 80}"), nil}, nil, nil, nil, 0, 0},
		"a port more, which no container declares": {
			state{webAndDB(), allow(t, "{port: 80}"), nil}, state{webAndDB(), allow(t, "{port: 80}, {port: 81}"), nil},
			[]string{"Opened ns/web to ns/db TCP/81 3/3"}, nil, nil, 0, 1,
		},
		"a range around a port that was open": {
			state{webAndDB(), allow(t, "{port: 8080}"), nil}, state{webAndDB(), allow(t, "{port: 8000, endPort: 8099}"), nil},
			[]string{"Opened ns/web to ns/db TCP/8000-8079,TCP/8081-8099 3/3"}, nil, nil, 0, 1,
		},
		"a rule without ports": {
			state{webAndDB(), allow(t, "{port: 80}"), nil},
			state{webAndDB(), []*networkingv1.NetworkPolicy{policy(t, `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}`)}, nil},
			[]string{"Opened ns/web to ns/db TCP/1-79,TCP/81-65535,UDP/1-65535,SCTP/1-65535 3/3"}, nil, nil, 0, 1,
		},
		"a first policy closes all but what it allows": {
			state{webAndDB(), nil, nil}, state{webAndDB(), allow(t, "{port: 80, protocol: UDP}"), nil},
			[]string{"Closed ns/web to ns/db TCP/1-65535,UDP/1-79,UDP/81-65535,SCTP/1-65535 3/3", "Closed 0.0.0.0/0 to ns/db " + everyPort + " 1/1"}, nil, nil, 0, 1,
		},
		"a named port whose number changes with the pod": {
			state{webAndDB(), allow(t, "{port: sql}"), nil}, state{[]*corev1.Pod{other[0], other[1]}, allow(t, "{port: sql}"), nil},
			[]string{"Opened ns/web to ns/db TCP/5433 3/3", "Closed ns/web to ns/db TCP/5432 3/3"}, nil, nil, 0, 1,
		},
		"workloads that come and go are no paths": {
			state{webAndDB(), allow(t, "{port: 80}"), nil}, state{[]*corev1.Pod{other[0], other[2]}, allow(t, "{port: 80}"), nil},
			nil, []string{"ns/new"}, []string{"ns/db"}, 0, 0,
		},
		"one pod of a workload has another label": {
			state{webAndDB(), allow(t, "{port: 80}"), nil},
			state{append([]*corev1.Pod{pod("web", "web-1", app("odd"))}, webAndDB()[1:]...), allow(t, "{port: 80}"), nil},
			[]string{"Closed ns/web to ns/db TCP/80 1/3"}, nil, nil, 0, 1,
		},
		"pods that have ended are nobody": {
			state{webAndDB(), allow(t, "{port: 80}"), nil}, state{ended, allow(t, "{port: 81}"), nil},
			[]string{"Opened ns/web to ns/db TCP/81 3/3", "Closed ns/web to ns/db TCP/80 3/3"}, nil, nil, 0, 1,
		},
		"the replicas of one workload, of which the input holds one": {
			state{[]*corev1.Pod{pod("web", "deployment-web", app("web"))}, nil, nil},
			state{[]*corev1.Pod{pod("web", "deployment-web", app("web"))}, []*networkingv1.NetworkPolicy{policy(t, `{podSelector: {}}`)}, nil},
			[]string{"Closed ns/web to ns/web " + everyPort + " 1/1", "Closed 0.0.0.0/0 to ns/web " + everyPort + " 1/1"}, nil, nil, 0, 1,
		},
		"the internet is opened but for private ranges": {
			state{webAndDB()[:2], []*networkingv1.NetworkPolicy{policy(t, `{podSelector: {}, policyTypes: [Egress]}`)}, nil},
			state{webAndDB()[:2], []*networkingv1.NetworkPolicy{policy(t, `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}], ports: [{port: 443}]}]}`)}, nil},
			[]string{
				"Opened ns/web to 0.0.0.0/0 but 10.0.0.0/8 TCP/443 2/2",
				// The pods have no address yet.
				"BecameUndefined ns/web to ns/web TCP/443 2/2",
			}, nil, nil, 0, 1,
		},
		"a range inside of an open one is shut": {
			state{webAndDB()[3:], []*networkingv1.NetworkPolicy{policy(t, `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}`)}, nil},
			state{webAndDB()[3:], []*networkingv1.NetworkPolicy{policy(t, `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]}`)}, nil},
			[]string{"Closed 10.1.0.0/16 to ns/db " + everyPort + " 1/1"}, nil, nil, 0, 1,
		},
		"a policy that is not evaluated comes": {
			state{webAndDB()[2:], allow(t, "{port: 80}"), nil}, state{webAndDB()[2:], allow(t, "{port: 80}"), []evaluator.Unmodelled{{Kind: "X.y", Namespace: "ns", Name: "x"}}},
			[]string{
				"BecameUndefined ns/db to ns/web " + everyPort + " 1/1", "BecameUndefined ns/web to ns/db TCP/1-79,TCP/81-65535,UDP/1-65535,SCTP/1-65535 1/1",
				"BecameUndefined ns/web to ns/db TCP/80 1/1", "BecameUndefined ns/web to ns/web " + everyPort + " 1/1",
				"BecameUndefined ns/web to 0.0.0.0/0 " + everyPort + " 1/1", "BecameUndefined ns/db to 0.0.0.0/0 " + everyPort + " 1/1",
				"BecameUndefined 0.0.0.0/0 to ns/web " + everyPort + " 1/1", "BecameUndefined 0.0.0.0/0 to ns/db " + everyPort + " 1/1",
			}, nil, nil, 0, 3,
		},
		"a policy that is not evaluated stays": {
			state{webAndDB()[2:], allow(t, "{port: 80}"), []evaluator.Unmodelled{{Kind: "X.y", Namespace: "ns", Name: "x"}}},
			state{webAndDB()[2:], allow(t, "{port: 81}"), []evaluator.Unmodelled{{Kind: "X.y", Namespace: "ns", Name: "x"}}},
			nil, nil, nil, 3, 0,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := Compare(tc.before.side(t), tc.after.side(t), workload)
			var got []string
			for _, row := range r.Rows {
				got = append(got, fmt.Sprintf("%s %s to %s %s %d/%d", row.Change, row.From, row.To, strings.Join(row.Ports, ","), row.Pairs, row.Of))
			}
			slices.Sort(got)
			slices.Sort(tc.want)
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("rows (-want +got):\n%s", d)
			}
			if !slices.Equal(r.New, tc.added) || !slices.Equal(r.Removed, tc.gone) || r.Undefined != tc.undefined || r.ExitCode() != tc.wantExitCode {
				t.Errorf("new %v, removed %v, %d undefined, exit code %d; want %v, %v, %d, %d", r.New, r.Removed, r.Undefined, r.ExitCode(), tc.added, tc.gone, tc.undefined, tc.wantExitCode)
			}
		})
	}
}

func TestReport(t *testing.T) {
	after := state{append(webAndDB(), pod("", "new", nil)), allow(t, "{port: 5432}, {protocol: UDP}"), nil}
	closed := policy(t, `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]}`)
	closed.Name = "only-db"
	after.policies = append(after.policies, closed)
	r := Compare(state{webAndDB(), allow(t, "{port: 80}"), nil}.side(t), after.side(t), workload)
	text, err := r.JSON()
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]string{"report.txt": r.Table(explain.Style{}), "report.json": string(text)} {
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), got); d != "" {
			t.Errorf("%s (-want +got; -update writes it):\n%s", name, d)
		}
	}
}

func TestWorkloadsOfOneNameAreToldApart(t *testing.T) {
	set := pod("db", "db-0", app("web"))
	set.OwnerReferences[0].Kind = "StatefulSet"
	pods := []*corev1.Pod{set, pod("db", "db-x", app("db")), pod("", "other", nil)}
	r := Compare(state{pods: pods}.side(t), state{pods: pods, policies: allow(t, "{port: 80}")}.side(t), workload)
	if len(r.Rows) != 4 {
		t.Fatalf("got %+v", r.Rows)
	}
	for _, row := range r.Rows {
		if row.To != "ns/deployment/db" {
			t.Errorf("got %s to %s", row.From, row.To)
		}
	}
}

// All ports of a protocol are in exactly one class, and those of one class are in
// the same ranges.
func TestPortClassesCoverEverything(t *testing.T) {
	ports := []string{"{port: 80}", "{port: 1}", "{port: 65535}", "{port: 70, endPort: 90}", "{port: 85, endPort: 65535}", "{protocol: UDP}", "{port: sql}"}
	classes := portClasses(&evaluator.Snapshot{Pods: webAndDB(), NetworkPolicies: allow(t, strings.Join(ports, ", "))})
	for _, protocol := range protocols {
		owner := map[uint16]int{}
		for i, c := range classes {
			for _, r := range c.ranges {
				if r.Protocol != protocol {
					continue
				}
				for n := uint32(r.First); n <= uint32(r.Last); n++ {
					if _, twice := owner[uint16(n)]; twice {
						t.Fatalf("%s/%d is in two classes", protocol, n)
					}
					owner[uint16(n)] = i
				}
			}
		}
		if len(owner) != maxPort {
			t.Errorf("%d ports of %s are in a class, want all", len(owner), protocol)
		}
		if protocol != flow.TCP {
			continue
		}
		for _, n := range []uint16{1, 70, 79, 80, 81, 84, 85, 90, 91, 5432, 65534, 65535} {
			for _, o := range []uint16{2, 71, 5431, 5433} {
				same := true
				for _, r := range []flow.PortRange{{First: 80, Last: 80}, {First: 1, Last: 1}, {First: 65535, Last: 65535}, {First: 70, Last: 90}, {First: 85, Last: 65535}, {First: 5432, Last: 5432}} {
					same = same && r.Contains("", n) == r.Contains("", o)
				}
				if got := owner[n] == owner[o]; got != same {
					t.Errorf("ports %d and %d are in one class: %v, want %v", n, o, got, same)
				}
			}
		}
	}
}

func TestClusterWidePortsAreMentioned(t *testing.T) {
	m := mentions{ranges: map[flow.PortRange]bool{}, names: map[string]bool{}}
	var s evaluator.Snapshot
	err := yaml.UnmarshalStrict([]byte(`
clusterNetworkPolicies:
- spec:
    ingress: [{protocols: [{tcp: {destinationPort: {number: 1}}}, {udp: {destinationPort: {range: {start: 2, end: 3}}}}, {sctp: {}}, {destinationNamedPort: a}]}]
    egress: [{protocols: [{tcp: {destinationPort: {number: 4}}}]}]
adminNetworkPolicies:
- spec:
    ingress: [{ports: [{portNumber: {protocol: TCP, port: 5}}, {namedPort: b}]}]
    egress: [{ports: [{portRange: {protocol: UDP, start: 6, end: 7}}]}]
baselineAdminNetworkPolicies:
- spec:
    ingress: [{ports: [{portNumber: {protocol: SCTP, port: 8}}]}]
    egress: [{ports: [{portNumber: {protocol: TCP, port: 9}}]}, {}]
`), &s)
	if err != nil {
		t.Fatal(err)
	}
	m.collect(&s)
	want := map[flow.PortRange]bool{
		{Protocol: flow.TCP, First: 1, Last: 1}: true, {Protocol: flow.UDP, First: 2, Last: 3}: true, {Protocol: flow.SCTP, First: 1, Last: maxPort}: true,
		{Protocol: flow.TCP, First: 4, Last: 4}: true, {Protocol: flow.TCP, First: 5, Last: 5}: true, {Protocol: flow.UDP, First: 6, Last: 7}: true,
		{Protocol: flow.SCTP, First: 8, Last: 8}: true, {Protocol: flow.TCP, First: 9, Last: 9}: true,
	}
	if d := cmp.Diff(want, m.ranges); d != "" {
		t.Errorf("ranges (-want +got):\n%s", d)
	}
	if d := cmp.Diff(map[string]bool{"a": true, "b": true}, m.names); d != "" {
		t.Errorf("names (-want +got):\n%s", d)
	}
}

func TestRegionsDivideAddresses(t *testing.T) {
	pods := webAndDB()
	pods[0].Status.PodIP, pods[0].Status.HostIP = "10.0.0.0", "2001:db8::"
	block := `{podSelector: {}, egress: [{to: [{ipBlock: {cidr: %s, except: [%s]}}]}]}`
	policies := []*networkingv1.NetworkPolicy{
		policy(t, fmt.Sprintf(block, "10.0.0.0/8", "10.1.0.0/16, 10.0.0.0/30")), policy(t, fmt.Sprintf(block, "127.0.0.0/8", "127.1.0.0/16")),
		policy(t, fmt.Sprintf(block, "2001:db8::/32", "2001:db8::/127")), policy(t, fmt.Sprintf(block, "224.0.0.0/4", "")),
		policy(t, fmt.Sprintf(block, "10.0.0.0/32", "")), policy(t, fmt.Sprintf(block, "192.0.2.1/24", "")),
	}
	got := map[string]string{}
	for _, r := range regions(&evaluator.Snapshot{Pods: pods, NetworkPolicies: policies}) {
		got[r.String()] = r.sample.String()
	}
	want := map[string]string{
		"0.0.0.0/0 but 224.0.0.0/4, 10.0.0.0/8, 127.0.0.0/8, 1 more": "0.0.0.1",
		"10.0.0.0/8 but 10.1.0.0/16, 10.0.0.0/30":                    "10.0.0.4",
		"10.1.0.0/16": "10.1.0.0", "10.0.0.0/30 but 10.0.0.0/32": "10.0.0.1", "192.0.2.0/24": "192.0.2.0",
		"::/0 but 2001:db8::/32": "::2", "2001:db8::/32 but 2001:db8::/127": "2001:db8::2", "2001:db8::/127": "2001:db8::1",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("regions (-want +got):\n%s", d)
	}
}

// A policy of one workload changes the paths of all others.
func TestTablesGatherManyWorkloads(t *testing.T) {
	pods := []*corev1.Pod{pod("", "db", app("db"))}
	for i := range 9 {
		pods = append(pods, pod("", fmt.Sprintf("web-%d", i), app("web")))
	}
	r := Compare(state{pods: pods, policies: allow(t, "{port: 80}")}.side(t), state{pods: pods, policies: allow(t, "{port: 81}")}.side(t), workload)
	if len(r.Rows) != 18 {
		t.Fatalf("got %d rows", len(r.Rows))
	}
	table := r.Table(explain.Style{})
	for _, change := range []string{"opened", "closed"} {
		if !strings.Contains(table, change+"   ns/web-0, ns/web-1, ns/web-2 and 6 more   ns/db   TCP/8") {
			t.Errorf("the table is\n%s", table)
		}
	}
	if n := strings.Count(table, "before:"); n != 2 || !strings.Contains(table, "9 opened, 9 closed") {
		t.Errorf("%d lines:\n%s", n, table)
	}
	egress := []*networkingv1.NetworkPolicy{policy(t, "{podSelector: {matchLabels: {app: db}}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]}")}
	table = Compare(state{pods: pods}.side(t), state{pods: pods, policies: egress}.side(t), workload).Table(explain.Style{})
	if strings.Count(table, "before:") != 1 {
		t.Errorf("the table is\n%s", table)
	}
	closed := []*networkingv1.NetworkPolicy{policy(t, "{podSelector: {matchLabels: {app: db}}, policyTypes: [Egress]}")}
	table = Compare(state{pods: pods}.side(t), state{pods: pods, policies: closed}.side(t), workload).Table(explain.Style{})
	if !strings.Contains(table, "closed   ns/db   0.0.0.0/0, ns/web-0, ns/web-1 and 7 more   all") {
		t.Errorf("the table is\n%s", table)
	}
}
