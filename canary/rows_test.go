package canary

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// The canary's policies mean what its rows say: the evaluator, which knows neither, agrees
// about every check from every pod, also when one feature alone is tested.
func TestRowsAreWhatThePoliciesSay(t *testing.T) {
	sets := [][]v1alpha1.CanaryFeature{everything()}
	for _, f := range everything() {
		sets = append(sets, []v1alpha1.CanaryFeature{f})
	}
	for _, features := range sets {
		t.Run(fmt.Sprint(features), func(t *testing.T) {
			rows := Rows(features)
			engine := clusterOf(features)
			n := 0
			for _, role := range Roles() {
				for _, p := range Probes(rows, role) {
					n++
					got := engine.Decide(flow.Flow{
						From: endpoint("a", p.From, p.IPv6), To: endpoint("b", p.To, p.IPv6), Protocol: p.Transport.Protocol(), Port: p.Port,
					})
					want := map[wire.Goal]evaluator.Verdict{wire.GoalOpen: evaluator.Allowed, wire.GoalClosed: evaluator.Denied}[Goal(rows, p)]
					if got.Verdict != want {
						t.Errorf("%+v: the evaluator says %s (%s), want %s", p, got.Verdict, got.Reason, want)
					}
				}
			}
			if n < 2*len(features) {
				t.Errorf("%d checks of %d features", n, len(features))
			}
		})
	}
}

// everything is all features.
func everything() []v1alpha1.CanaryFeature { return Tested(v1alpha1.EnforcementCanarySpec{}) }

func address(node string, r Role, v6 bool) netip.Addr {
	n := byte(slices.Index(Roles(), r) + 1)
	host := map[string]byte{"a": 1, "b": 2}[node]
	if v6 {
		return netip.AddrFrom16([16]byte{0xfd, 14: host, 15: n})
	}
	return netip.AddrFrom4([4]byte{10, 0, host, n})
}

func endpoint(node string, r Role, v6 bool) flow.Endpoint {
	return flow.Endpoint{Namespace: NamespaceOf("c", r), Pod: string(r) + "-" + node, Addr: address(node, r, v6)}
}

// clusterOf is two nodes with the canary's pods and policies.
func clusterOf(features []v1alpha1.CanaryFeature) *evaluator.Engine {
	s := evaluator.Snapshot{NetworkPolicies: Policies("c", features), Profile: evaluator.Profile{IPBlockMatchesPods: evaluator.True}}
	for _, ns := range []string{"c", "c" + AbroadSuffix} {
		s.Namespaces = append(s.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: map[string]string{corev1.LabelMetadataName: ns, Label: "default"}}})
	}
	if slices.Contains(features, v1alpha1.FeatureClusterNetworkPolicy) {
		s.ClusterNetworkPolicies = append(s.ClusterNetworkPolicies, ClusterPolicy("default", "c"))
	}
	_, _, named := Listeners()
	for _, node := range []string{"a", "b"} {
		for _, r := range Roles() {
			s.Pods = append(s.Pods, &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: NamespaceOf("c", r), Name: string(r) + "-" + node,
					Labels: map[string]string{Label: "default", RoleLabel: string(r), NodeLabel: NodeID(node)},
				},
				Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "x", Ports: []corev1.ContainerPort{{Name: NamedPort, ContainerPort: int32(named), Protocol: corev1.ProtocolTCP}}}}},
				Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: address(node, r, false).String(), PodIPs: []corev1.PodIP{
					{IP: address(node, r, false).String()}, {IP: address(node, r, true).String()},
				}},
			})
		}
		if slices.Contains(features, v1alpha1.FeatureIPBlock) {
			s.NetworkPolicies = append(s.NetworkPolicies, BlockPolicy("c", node,
				[]netip.Addr{address("a", Plain, false), address("b", Plain, false)}, []netip.Addr{address("a", Plain, false), address("b", Plain, false)}))
		}
	}
	engine, _ := evaluator.Compile(s)
	return engine
}

func TestBlockPolicyOfIPv6(t *testing.T) {
	p := BlockPolicy("c", "n", []netip.Addr{address("b", Plain, true), address("a", Plain, true), address("b", Plain, true)}, []netip.Addr{address("a", Plain, true)})
	want := networkingv1.IPBlock{CIDR: "::/0", Except: []string{"fd00::101/128", "fd00::201/128"}}
	if got := p.Spec.Ingress[1].From[0].IPBlock; got.CIDR != want.CIDR || !slices.Equal(got.Except, want.Except) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A control is never a pod that speaks to itself, and has no guarded end.
func TestControls(t *testing.T) {
	rows := Rows(everything())
	for _, r := range rows {
		for _, p := range slices.Concat(r.allowed(), r.Closed) {
			c := Control(p)
			if c.From == Guarded || c.To == Guarded || c.From == c.To {
				t.Errorf("the control of %+v is %+v", p, c)
			}
			if c.Transport != p.Transport || c.Port != p.Port || c.IPv6 != p.IPv6 || (c.From != p.From && c.To != p.To) {
				t.Errorf("the control of %+v takes another way: %+v", p, c)
			}
			if !slices.Contains(Probes(rows, c.From), c) || Goal(rows, c) != wire.GoalOpen {
				t.Errorf("the control of %+v is not made", p)
			}
		}
	}
}

func TestRing(t *testing.T) {
	names := func(n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprintf("node-%d", i))
		}
		return out
	}
	for n := range 20 {
		for k := 1; k <= 8; k++ {
			ring := Ring(names(n), k)
			if len(ring) != n {
				t.Fatalf("%d nodes: %d have targets", n, len(ring))
			}
			for node, targets := range ring {
				if targets[0] != node || len(targets) != min(n, k+1) || len(slices.Compact(slices.Sorted(slices.Values(targets)))) != len(targets) {
					t.Errorf("%d nodes, %d neighbours: %s probes %v", n, k, node, targets)
				}
			}
			for node, sources := range Sources(ring) {
				if len(sources) != min(n, k+1) {
					t.Errorf("%d nodes, %d neighbours: %s is probed by %v", n, k, node, sources)
				}
			}
		}
	}
	// Whatever their order, and with little change when one is gone.
	full, shuffled := Ring(names(50), 2), names(50)
	slices.Reverse(shuffled)
	if !maps.EqualFunc(full, Ring(shuffled, 2), slices.Equal) {
		t.Error("the order of the nodes matters")
	}
	changed := 0
	for node, targets := range Ring(names(49), 2) {
		if !slices.Equal(targets, full[node]) {
			changed++
		}
	}
	if changed != 2 {
		t.Errorf("one node less changes the targets of %d others, want 2", changed)
	}
}

func TestLeftOut(t *testing.T) {
	ready := []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	node := func(change func(*corev1.Node)) *corev1.Node {
		n := &corev1.Node{Status: corev1.NodeStatus{Conditions: ready}}
		change(n)
		return n
	}
	taint := func(key string, effect corev1.TaintEffect) func(*corev1.Node) {
		return func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: key, Effect: effect}} }
	}
	now := metav1.Time{Time: time.Unix(1, 0)}
	control := []corev1.Toleration{{Key: "node-role.kubernetes.io/control-plane", Operator: corev1.TolerationOpExists}}
	for name, tc := range map[string]struct {
		node        *corev1.Node
		tolerations []corev1.Toleration
		want        string
	}{
		"an ordinary one": {node(func(*corev1.Node) {}), nil, ""},
		"not ready":       {node(func(n *corev1.Node) { n.Status.Conditions = nil }), nil, LeftOutNotReady},
		"ready, and tainted": {node(func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute}}
		}), []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, LeftOutNotReady},
		"cordoned":            {node(func(n *corev1.Node) { n.Spec.Unschedulable = true }), nil, LeftOutCordoned},
		"going":               {node(func(n *corev1.Node) { n.DeletionTimestamp = &now }), nil, LeftOutLeaving},
		"of Virtual Kubelet":  {node(func(n *corev1.Node) { n.Labels = map[string]string{"type": "virtual-kubelet"} }), nil, LeftOutVirtual},
		"by its taint":        {node(taint("virtual-kubelet.io/provider", corev1.TaintEffectNoSchedule)), []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, LeftOutVirtual},
		"of Fargate":          {node(func(n *corev1.Node) { n.Labels = map[string]string{"eks.amazonaws.com/compute-type": "fargate"} }), nil, LeftOutVirtual},
		"of Windows":          {node(func(n *corev1.Node) { n.Labels = map[string]string{corev1.LabelOSStable: "windows"} }), nil, LeftOutWindows},
		"tainted":             {node(taint(control[0].Key, corev1.TaintEffectNoSchedule)), nil, LeftOutTainted},
		"tainted, tolerated":  {node(taint(control[0].Key, corev1.TaintEffectNoSchedule)), control, ""},
		"tainted with little": {node(taint("x", corev1.TaintEffectPreferNoSchedule)), nil, ""},
		"arm64":               {node(func(n *corev1.Node) { n.Labels = map[string]string{corev1.LabelArchStable: "arm64"} }), nil, ""},
	} {
		if got, message := LeftOut(tc.node, tc.tolerations); got != tc.want || (got == "") != (message == "") {
			t.Errorf("%s: got %q (%s), want %q", name, got, message, tc.want)
		}
	}
}

// A pod's checks fit into one plan, with as many neighbours as there can be.
func TestPlansFit(t *testing.T) {
	const targets = 1 + 8
	all := 0
	for _, role := range Roles() {
		n := len(Probes(Rows(everything()), role))
		all += n
		if n*targets > wire.MaxChecks {
			t.Errorf("%s makes %d checks, want at most %d", role, n*targets, wire.MaxChecks)
		}
	}
	if all != 80 {
		t.Errorf("%d checks for each pair of nodes, and docs/canary.md says 240 for three", all)
	}
}
