package matrix

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
)

// pod makes a running pod of a workload, as namespace/name.
func pod(name, kind, workload, labels, addr string, ports ...corev1.ContainerPort) Pod {
	p := &corev1.Pod{}
	p.Namespace, p.Name, _ = strings.Cut(name, "/")
	p.Labels = map[string]string{}
	for pair := range strings.SplitSeq(labels, ",") {
		key, value, _ := strings.Cut(pair, "=")
		p.Labels[key] = value
	}
	p.Spec.Containers = []corev1.Container{{Name: "c", Ports: ports}}
	p.Status.Phase = corev1.PodRunning
	if addr != "" {
		p.Status.PodIP, p.Status.PodIPs = addr, []corev1.PodIP{{IP: addr}}
	}
	return Pod{Pod: p, Kind: kind, Workload: workload}
}

func tcp(name string, number int32) corev1.ContainerPort {
	return corev1.ContainerPort{Name: name, ContainerPort: number, Protocol: corev1.ProtocolTCP}
}

// policy makes one that lets pods with a label into pods with another, at a port.
func policy(namespace, name, subject, peer string, ports ...intstr.IntOrString) *networkingv1.NetworkPolicy {
	selector := func(pair string) metav1.LabelSelector {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return metav1.LabelSelector{}
		}
		return metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
	}
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	p.Spec.PodSelector = selector(subject)
	p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	if peer == "" {
		return p
	}
	rule := networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{{PodSelector: ptr.To(selector(peer)), NamespaceSelector: &metav1.LabelSelector{}}}}
	if strings.Contains(peer, "/") {
		rule.From = []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: peer}}}
	}
	for _, port := range ports {
		rule.Ports = append(rule.Ports, networkingv1.NetworkPolicyPort{Port: ptr.To(port)})
	}
	p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{rule}
	return p
}

// build makes the table of all pods.
func build(t testing.TB, pods []Pod, policies []*networkingv1.NetworkPolicy, wanted ...Wanted) *Matrix {
	t.Helper()
	m, err := New(compile(pods, policies), pods, wanted)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func compile(pods []Pod, policies []*networkingv1.NetworkPolicy) *evaluator.Engine {
	s := evaluator.Snapshot{NetworkPolicies: policies}
	seen := map[string]bool{}
	for _, p := range pods {
		s.Pods = append(s.Pods, p.Pod)
		if !seen[p.Namespace] {
			seen[p.Namespace] = true
			s.Namespaces = append(s.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: p.Namespace}})
		}
	}
	engine, _ := evaluator.Compile(s)
	return engine
}

// every is a table that has all states.
func every(t testing.TB) *Matrix {
	t.Helper()
	return build(t, []Pod{
		pod("a/web-1", "Deployment", "web", "app=web", "10.0.0.1", tcp("http", 80), tcp("metrics", 9090)),
		pod("a/web-2", "Deployment", "web", "app=web", "10.0.0.2", tcp("http", 80), tcp("metrics", 9090)),
		pod("a/db", "StatefulSet", "db", "app=db", "10.0.0.3", tcp("http", 5432)),
		pod("b/client", KindPod, "client", "app=client", "10.0.0.4"),
	}, []*networkingv1.NetworkPolicy{
		policy("a", "web", "app=web", "app=client", intstr.FromInt32(80)),
		policy("a", "db", "app=db", "10.0.0.0/29"),
	}, Wanted{flow.TCP, intstr.FromString("http")}, Wanted{flow.TCP, intstr.FromString("metrics")})
}

func row(t testing.TB, m *Matrix, name string) int {
	t.Helper()
	i := slices.IndexFunc(m.Rows, func(r Row) bool { return r.String() == name })
	if i < 0 {
		t.Fatalf("there is no row %s among %+v", name, m.Rows)
	}
	return i
}

func TestCellsHaveEveryState(t *testing.T) {
	m := every(t)
	cases := map[string]struct {
		from, to string
		want     State
	}{
		"no rule":                      {"a/db", "a/web", Denied},
		"one port of two":              {"b/client", "a/web", Mixed},
		"a block that may hold pods":   {"a/web", "a/db", Undefined},
		"a target without the port":    {"a/web", "b/client", NotAsked},
		"two pods of one row":          {"a/web", "a/web", Denied},
		"a second pod of the workload": {"a/db", "a/db", Undefined},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := m.State(row(t, m, tc.from), row(t, m, tc.to)); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
	if got, want := m.Count(), (Counts{NotAsked: 3, Denied: 2, Undefined: 3, Mixed: 1}); got != want {
		t.Errorf("counts are %v, want %v", got, want)
	}
}

// What is undefined at any port must not look like an answer.
func TestUndefinedOutranksMixed(t *testing.T) {
	m := build(t, []Pod{
		pod("a/db", KindPod, "db", "app=db", "10.0.0.3", tcp("", 1), tcp("", 2)),
		pod("b/client", KindPod, "client", "app=client", "10.0.0.4"),
	}, []*networkingv1.NetworkPolicy{policy("a", "db", "app=db", "10.0.0.0/29", intstr.FromInt32(1))})
	db, client := row(t, m, "a/db"), row(t, m, "b/client")
	if m.Verdict(client, db, 0) != evaluator.Undefined || m.Verdict(client, db, 1) != evaluator.Denied {
		t.Fatal("the scenario is not what it should be")
	}
	if got := m.State(client, db); got != Undefined {
		t.Errorf("got %s", got)
	}
	// A pod that nothing made reaches itself.
	if got := m.State(db, db); got != Allowed {
		t.Errorf("to itself: %s", got)
	}
}

// randomScene makes pods of few labels, so that some are alike, and policies about
// these labels.
func randomScene(r *rand.Rand) ([]Pod, []*networkingv1.NetworkPolicy) {
	label := func() string { return fmt.Sprintf("app=%d", r.IntN(3)) }
	var pods []Pod
	for i := range 3 + r.IntN(9) {
		var ports []corev1.ContainerPort
		for n := range r.IntN(3) {
			ports = append(ports, tcp([]string{"http", "metrics"}[n], int32(80+r.IntN(2))))
		}
		addr := fmt.Sprintf("10.0.0.%d", i+1)
		if r.IntN(5) == 0 {
			addr = ""
		}
		kind := []string{KindPod, "Deployment", "StatefulSet"}[r.IntN(3)]
		p := pod(fmt.Sprintf("ns-%d/p-%d", r.IntN(2), i), kind, fmt.Sprintf("w-%d", r.IntN(2)), label(), addr, ports...)
		if kind == KindPod {
			p.Workload = p.Name
		}
		if r.IntN(8) == 0 {
			p.Spec.HostNetwork = true
		}
		pods = append(pods, p)
	}
	var policies []*networkingv1.NetworkPolicy
	for i := range r.IntN(6) {
		peer := []string{"", label(), "10.0.0.0/30", "any"}[r.IntN(4)]
		port := []intstr.IntOrString{intstr.FromInt32(80), intstr.FromInt32(81), intstr.FromString("http")}[r.IntN(3)]
		policies = append(policies, policy(fmt.Sprintf("ns-%d", r.IntN(2)), fmt.Sprintf("np-%d", i), label(), peer, port))
	}
	return pods, policies
}

// Every pod of a row has the verdicts that the row shows, and every pod is in one
// row; whatever the evaluator's table says of groups.
func TestCellsAreDecisionsOfAllTheirPods(t *testing.T) {
	grouped := 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		pods, policies := randomScene(r)
		engine := compile(pods, policies)
		m, err := New(engine, pods, nil)
		if err != nil {
			t.Fatal(err)
		}
		count := 0
		for from := range m.Rows {
			count += len(m.Rows[from].Pods)
			grouped = max(grouped, len(m.Rows[from].Pods))
			for to := range m.Rows {
				checkCell(t, seed, engine, m, from, to)
			}
		}
		if count != len(pods) {
			t.Fatalf("seed %d: %d pods in rows, want %d", seed, count, len(pods))
		}
	}
	if grouped < 3 {
		t.Errorf("no row has more than %d pods: the scenes are too varied", grouped)
	}
}

func checkCell(t *testing.T, seed uint64, engine *evaluator.Engine, m *Matrix, from, to int) {
	t.Helper()
	source, target := &m.Rows[from], &m.Rows[to]
	for _, a := range source.Pods {
		for _, b := range target.Pods {
			if source.Namespace == target.Namespace && a == b {
				continue
			}
			for i, p := range target.Ports {
				f := flow.Flow{
					From: flow.Endpoint{Namespace: source.Namespace, Pod: a}, To: flow.Endpoint{Namespace: target.Namespace, Pod: b},
					Protocol: p.Protocol, Port: p.Number,
				}
				if got, want := m.Verdict(from, to, i), engine.Decide(f).Verdict; got != want {
					t.Fatalf("seed %d: %s is %s, and the row says %s", seed, f, want, got)
				}
			}
		}
	}
	// The diagonal of a single pod is about a second one like it, if it has a workload.
	for i := range target.Ports {
		if from == to && len(source.Pods) == 1 {
			if got, want := m.Verdict(from, to, i), engine.Decide(m.flow(from, to, i)).Verdict; got != want {
				t.Fatalf("seed %d: the diagonal of %s is %s, want %s", seed, source, got, want)
			}
		}
	}
}

func TestReasonsAreThoseOfTheCell(t *testing.T) {
	m := every(t)
	web, client := row(t, m, "a/web"), row(t, m, "b/client")
	for range 2 { // The second time, the sentence is known.
		if got, want := m.Why(client, web, 0), "egress: not isolated; ingress: allowed by rule 0 of a/web"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got, want := m.Why(client, web, 1), "ingress: no rule of a/web allows it"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	want := "b/client -> a/web\nTCP/80: allowed (egress: not isolated; ingress: allowed by rule 0 of a/web)\nTCP/9090: denied (ingress: no rule of a/web allows it)"
	if got := m.tooltip(client, web); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// Rows that share a name get more of one, and no two rows have the same.
func TestRowsAreNamedApart(t *testing.T) {
	cases := map[string]struct {
		pods []Pod
		want []string
	}{
		"one workload": {[]Pod{pod("a/x-1", "Deployment", "x", "l=1", ""), pod("a/x-2", "Deployment", "x", "l=1", "")}, []string{"x"}},
		"two kinds":    {[]Pod{pod("a/x-1", "Deployment", "x", "l=1", ""), pod("a/x-2", "StatefulSet", "x", "l=1", "")}, []string{"deployment/x", "statefulset/x"}},
		"told apart by a policy": {
			[]Pod{pod("a/x-1", "Job", "x", "app=1", ""), pod("a/x-2", "Job", "x", "l=1", ""), pod("a/x-3", "Job", "x", "l=1", "")},
			[]string{"x: x-1", "x: x-2 and 1 more"},
		},
		"asked about other ports": {
			[]Pod{pod("a/x-1", "Job", "x", "l=1", "", tcp("", 1)), pod("a/x-2", "Job", "x", "l=1", "", tcp("", 2))},
			[]string{"x: x-1", "x: x-2"},
		},
		"other namespaces": {[]Pod{pod("a/x", KindPod, "x", "l=1", ""), pod("b/x", KindPod, "x", "l=1", "")}, []string{"x", "x"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			m := build(t, tc.pods, []*networkingv1.NetworkPolicy{policy("a", "np", "app=1", "")})
			var got []string
			for _, r := range m.Rows {
				got = append(got, r.Name)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// The second pod of a StatefulSet has the next number, which policies can see.
func TestTheSecondPodOfAStatefulSetHasTheNextNumber(t *testing.T) {
	got := nextLabels(map[string]string{"app": "db", appsv1.StatefulSetPodNameLabel: "db-9", appsv1.PodIndexLabel: "9"})
	if flow.FormatLabels(got) != "app=db,apps.kubernetes.io/pod-index=10,statefulset.kubernetes.io/pod-name=db-10" {
		t.Errorf("got %v", got)
	}
	if got := nextLabels(map[string]string{"app": "web"}); flow.FormatLabels(got) != "app=web" {
		t.Errorf("got %v", got)
	}
}

func TestPodsThatHaveEndedAreLeftOut(t *testing.T) {
	ended := pod("a/ended", KindPod, "ended", "app=1", "")
	ended.Status.Phase = corev1.PodFailed
	m := build(t, []Pod{ended, pod("a/x", KindPod, "x", "app=1", "")}, nil)
	if len(m.Rows) != 1 || m.Ended != 1 {
		t.Errorf("%d rows, %d ended", len(m.Rows), m.Ended)
	}
	if _, err := New(compile(nil, nil), []Pod{ended}, nil); !errors.Is(err, ErrNoPods) {
		t.Errorf("got %v", err)
	}
}
