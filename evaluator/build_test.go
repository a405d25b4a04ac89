package evaluator

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha1 "sigs.k8s.io/network-policy-api/apis/v1alpha1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/yaml"

	"github.com/pathproof/pathproof/flow"
)

// labelsOf parses a=b,c=d.
func labelsOf(text string) map[string]string {
	set := map[string]string{}
	for pair := range strings.SplitSeq(text, ",") {
		if k, v, ok := strings.Cut(pair, "="); ok {
			set[k] = v
		}
	}
	return set
}

// newNamespace builds a Namespace without the label that the API server sets.
func newNamespace(name, labels string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labelsOf(labels)}}
}

// newPod builds a running pod on the node 192.168.0.1, from namespace/name.
func newPod(name, labels string, ips ...string) *corev1.Pod {
	ns, name, _ := strings.Cut(name, "/")
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: labelsOf(labels)}}
	p.Status.Phase = corev1.PodRunning
	for _, ip := range ips {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	if len(ips) > 0 {
		p.Status.PodIP = ips[0]
	}
	onNode(p, "node-1", "192.168.0.1")
	return p
}

// onNode places the pod on a node.
func onNode(p *corev1.Pod, name string, ips ...string) *corev1.Pod {
	p.Spec.NodeName = name
	p.Status.HostIP, p.Status.HostIPs = "", nil
	for _, ip := range ips {
		p.Status.HostIPs = append(p.Status.HostIPs, corev1.HostIP{IP: ip})
	}
	if len(ips) > 0 {
		p.Status.HostIP = ips[0]
	}
	return p
}

// onHostNetwork gives the pod the addresses of its node.
func onHostNetwork(p *corev1.Pod) *corev1.Pod {
	p.Spec.HostNetwork = true
	p.Status.PodIP, p.Status.PodIPs = p.Status.HostIP, nil
	for _, ip := range p.Status.HostIPs {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP(ip))
	}
	return p
}

// withPorts declares ports such as http=80/TCP in a container of its own.
func withPorts(p *corev1.Pod, ports ...string) *corev1.Pod {
	p.Spec.Containers = append(p.Spec.Containers, container(ports...))
	return p
}

// container builds a container that declares ports such as http=80/TCP.
func container(ports ...string) corev1.Container {
	c := corev1.Container{Name: "c"}
	for _, text := range ports {
		name, rest, _ := strings.Cut(text, "=")
		number, protocol, _ := strings.Cut(rest, "/")
		n, err := strconv.ParseInt(number, 10, 32)
		if err != nil {
			panic(err)
		}
		c.Ports = append(c.Ports, corev1.ContainerPort{Name: name, ContainerPort: int32(n), Protocol: corev1.Protocol(protocol)})
	}
	return c
}

// newPolicy builds a NetworkPolicy from namespace/name and the YAML of its spec.
func newPolicy(t testing.TB, name, spec string) *networkingv1.NetworkPolicy {
	t.Helper()
	ns, name, _ := strings.Cut(name, "/")
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
		t.Fatalf("spec of %s: %v\n%s", name, err, spec)
	}
	return p
}

// withPolicies returns the snapshot with policies added to it: NetworkPolicies by
// namespace/name, and those of other kinds by cnp:name, anp:name and banp:name.
func withPolicies(t testing.TB, s Snapshot, specs map[string]string) Snapshot {
	t.Helper()
	read := func(name, spec string, into any) {
		t.Helper()
		if err := yaml.UnmarshalStrict([]byte(spec), into); err != nil {
			t.Fatalf("spec of %s: %v\n%s", name, err, spec)
		}
	}
	s.NetworkPolicies = slices.Clone(s.NetworkPolicies)
	s.ClusterNetworkPolicies = slices.Clone(s.ClusterNetworkPolicies)
	s.AdminNetworkPolicies = slices.Clone(s.AdminNetworkPolicies)
	s.BaselineAdminNetworkPolicies = slices.Clone(s.BaselineAdminNetworkPolicies)
	for key, spec := range specs {
		kind, name, _ := strings.Cut(key, ":")
		meta := metav1.ObjectMeta{Name: name}
		switch kind {
		case "cnp":
			p := &policyv1alpha2.ClusterNetworkPolicy{ObjectMeta: meta}
			read(key, spec, &p.Spec)
			s.ClusterNetworkPolicies = append(s.ClusterNetworkPolicies, p)
		case "anp":
			p := &policyv1alpha1.AdminNetworkPolicy{ObjectMeta: meta}
			read(key, spec, &p.Spec)
			s.AdminNetworkPolicies = append(s.AdminNetworkPolicies, p)
		case "banp":
			p := &policyv1alpha1.BaselineAdminNetworkPolicy{ObjectMeta: meta}
			read(key, spec, &p.Spec)
			s.BaselineAdminNetworkPolicies = append(s.BaselineAdminNetworkPolicies, p)
		default:
			s.NetworkPolicies = append(s.NetworkPolicies, newPolicy(t, key, spec))
		}
	}
	return s
}

// endpoint parses ns/pod, ns/{a=b}, an address, or any of the former at an address:
// ns/pod@10.0.0.1.
func endpoint(t testing.TB, text string) flow.Endpoint {
	t.Helper()
	var e flow.Endpoint
	name, at, found := strings.Cut(text, "@")
	if !strings.Contains(name, "/") {
		at, found = name, true
	}
	if found {
		a, err := netip.ParseAddr(at)
		if err != nil {
			t.Fatalf("endpoint %q: %v", text, err)
		}
		e.Addr = a
	}
	if ns, rest, ok := strings.Cut(name, "/"); ok {
		e.Namespace = ns
		if strings.HasPrefix(rest, "{") {
			e.Labels = labelsOf(strings.Trim(rest, "{}"))
		} else {
			e.Pod = rest
		}
	}
	return e
}

// newFlow parses "from -> to TCP/80".
func newFlow(t testing.TB, text string) flow.Flow {
	t.Helper()
	words := strings.Fields(text)
	if len(words) != 4 || words[1] != "->" {
		t.Fatalf("flow %q is not of the form from -> to TCP/80", text)
	}
	protocol, number, _ := strings.Cut(words[3], "/")
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		t.Fatalf("flow %q: %v", text, err)
	}
	return flow.Flow{
		From: endpoint(t, words[0]), To: endpoint(t, words[2]),
		Protocol: flow.Protocol(protocol), Port: uint16(n),
	}
}

// compile compiles a snapshot that must have no problems.
func compile(t testing.TB, s Snapshot) *Engine {
	t.Helper()
	e, problems := Compile(s)
	for _, p := range problems {
		t.Errorf("unexpected problem: %s", p)
	}
	return e
}

// decideCase is a row of the tables: policies as in withPolicies, and the verdict of
// each flow. A wanted "Undefined S10" names the rule too.
type decideCase struct {
	policies map[string]string
	want     map[string]string
	invalid  bool
}

// runDecide runs the table over the namespaces and pods of the snapshot.
func runDecide(t *testing.T, s Snapshot, cases map[string]decideCase) {
	t.Helper()
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			e, problems := Compile(withPolicies(t, s, tc.policies))
			if (len(problems) > 0) != tc.invalid {
				t.Errorf("problems: %v", problems)
			}
			for text, want := range tc.want {
				d := e.Decide(newFlow(t, text))
				if got := strings.TrimSpace(d.Verdict.String() + " " + d.Rule); got != want {
					t.Errorf("%s: got %s, want %s (%s)\negress %+v\ningress %+v", text, got, want, d.Reason, d.Egress, d.Ingress)
				}
				checkConsistent(t, d)
			}
		})
	}
}

// checkConsistent checks what holds for every Decision.
func checkConsistent(t interface {
	Helper()
	Errorf(format string, args ...any)
}, d Decision) {
	t.Helper()
	if (d.Verdict == Undefined) != (d.Reason != "") || (d.Verdict == Undefined) != (d.Rule != "") {
		t.Errorf("an Undefined decision, and only that, has a rule and a reason: %+v", d)
	}
	for _, dir := range []DirectionDecision{d.Egress, d.Ingress} {
		if dir.Verdict == Undefined && (dir.Rule == "" || dir.Reason == "") {
			t.Errorf("an Undefined direction has a rule and a reason: %+v", dir)
		}
		if dir.AllowedBy != nil && dir.Verdict != Allowed {
			t.Errorf("only an Allowed direction is allowed by a rule: %+v", dir)
		}
		if dir.Verdict == Denied && len(dir.Isolating) == 0 && dir.DeniedBy == nil {
			t.Errorf("a direction that nothing isolates is not denied, unless by a rule: %+v", dir)
		}
		if dir.DeniedBy != nil && (dir.Verdict != Denied || !dir.DeniedBy.IsClusterWide()) {
			t.Errorf("only a Denied direction is denied by a rule, of a cluster-wide policy: %+v", dir)
		}
		if dir.Verdict == Denied && dir.Tier == TierNone {
			t.Errorf("a direction is not denied by nothing: %+v", dir)
		}
	}
	if d.Verdict == Allowed && (d.Egress.Verdict == Denied || d.Ingress.Verdict == Denied) {
		t.Errorf("an Allowed flow has no denied direction: %+v", d)
	}
}
