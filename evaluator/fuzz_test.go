package evaluator

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	policyv1alpha1 "sigs.k8s.io/network-policy-api/apis/v1alpha1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/randfill"

	"github.com/pathproof/pathproof/flow"
)

// garbage draws a snapshot and a flow from bytes. Strings are mostly words that mean
// something to the evaluator somewhere, so that garbage is often nearly valid.
func garbage(data []byte) (Snapshot, flow.Flow) {
	words := []string{
		"", "a", "n0", "Ingress", "Egress", "TCP", "UDP", "In", "NotIn", "Exists", "http", "80", "-", "kubernetes.io/metadata.name",
		"10.0.0.1", "10.0.0.0/8", "10.0.0.1/33", "fd00::1", "fd00::/64", "::ffff:10.0.0.1", "fe80::1%eth0", "0.0.0.0/0", "Succeeded", "Always",
		"Admin", "Baseline", "Accept", "Allow", "Deny", "Pass", "default", "example.org", "*.example.org",
	}
	filler := randfill.NewFromGoFuzz(data).NilChance(0.3).NumElements(0, 3).MaxDepth(16).Funcs(
		func(s *string, c randfill.Continue) {
			if c.Intn(16) == 0 {
				*s = c.String(0)
				return
			}
			*s = words[c.Intn(len(words))]
		},
		func(i *intstr.IntOrString, c randfill.Continue) {
			i.Type = intstr.Type(c.Intn(3))
			i.IntVal = c.Int31() >> uint(c.Intn(32))
			c.Fill(&i.StrVal)
		},
		func(m *metav1.ObjectMeta, c randfill.Continue) {
			c.Fill(&m.Namespace)
			c.Fill(&m.Name)
			c.Fill(&m.Labels)
		},
		func(p *corev1.PodSpec, c randfill.Continue) {
			c.Fill(&p.HostNetwork)
			c.Fill(&p.NodeName)
			p.Containers = make([]corev1.Container, c.Intn(2))
			p.InitContainers = make([]corev1.Container, c.Intn(2))
			for _, list := range [][]corev1.Container{p.Containers, p.InitContainers} {
				for i := range list {
					c.Fill(&list[i].Ports)
					c.Fill(&list[i].RestartPolicy)
				}
			}
		},
		func(p *corev1.PodStatus, c randfill.Continue) {
			c.Fill(&p.Phase)
			c.Fill(&p.PodIP)
			c.Fill(&p.PodIPs)
			c.Fill(&p.HostIP)
			c.Fill(&p.HostIPs)
		},
		func(*policyv1alpha2.ClusterNetworkPolicyStatus, randfill.Continue) {},
		func(*policyv1alpha1.AdminNetworkPolicyStatus, randfill.Continue) {},
		func(*policyv1alpha1.BaselineAdminNetworkPolicyStatus, randfill.Continue) {},
		func(priority *int32, c randfill.Continue) { *priority = int32(c.Intn(3)) + c.Int31()>>uint(c.Intn(32)) },
		func(n *corev1.Namespace, c randfill.Continue) {
			c.Fill(&n.ObjectMeta)
			c.Fill(&n.Status.Phase)
		},
		func(a *netip.Addr, c randfill.Continue) {
			var s string
			c.Fill(&s)
			*a, _ = netip.ParseAddr(s)
		},
	)
	var s Snapshot
	var f flow.Flow
	filler.Fill(&s)
	filler.Fill(&f)
	return s, f
}

// FuzzDecide checks that no input makes Compile or Decide panic, that every decision
// is consistent, and that a policy is either evaluated or reported.
func FuzzDecide(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("a policy of random bytes, long enough to fill a few objects with words and numbers"))
	seed := make([]byte, 4096)
	for i := range seed {
		seed[i] = byte(i * i >> 3)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		s, garbled := garbage(data)
		checkGarbage(t, s, garbled)
	})
}

// checkGarbage decides the given flow and one between all that the snapshot names.
func checkGarbage(t *testing.T, s Snapshot, f flow.Flow) {
	t.Helper()
	e, _ := Compile(s)
	checkConsistent(t, e.Decide(f))
	ends := []flow.Endpoint{f.From, f.To, {Addr: netip.MustParseAddr("203.0.113.1")}}
	for _, p := range s.Pods {
		if p != nil {
			ends = append(ends, flow.Endpoint{Namespace: p.Namespace, Pod: p.Name}, flow.Endpoint{Namespace: p.Namespace, Labels: p.Labels})
		}
	}
	for _, from := range ends {
		for _, to := range ends {
			checkConsistent(t, e.Decide(flow.Flow{From: from, To: to, Protocol: flow.TCP, Port: max(f.Port, 1)}))
		}
	}
}

func TestGarbageNeverPanics(t *testing.T) {
	for seed := range byte(200) {
		source := rand.NewChaCha8([32]byte{seed})
		data := make([]byte, 8192)
		_, _ = source.Read(data) // It cannot fail.
		s, f := garbage(data)
		checkGarbage(t, s, f)
	}
	e, problems := Compile(Snapshot{NetworkPolicies: []*networkingv1.NetworkPolicy{nil, {}}})
	if len(problems) != 2 {
		t.Errorf("an empty policy lacks its name and its namespace: got %v", problems)
	}
	checkConsistent(t, e.Decide(flow.Flow{}))
	_, problems = Compile(Snapshot{
		ClusterNetworkPolicies:       []*policyv1alpha2.ClusterNetworkPolicy{nil, {}},
		AdminNetworkPolicies:         []*policyv1alpha1.AdminNetworkPolicy{nil, {}},
		BaselineAdminNetworkPolicies: []*policyv1alpha1.BaselineAdminNetworkPolicy{nil, {}},
	})
	if len(problems) != 7 {
		t.Errorf("empty cluster-wide policies lack their names, their subjects, and one its tier: got %v", problems)
	}
}

func FuzzParseAssumptions(f *testing.F) {
	f.Add("ipBlockMatchesPods=true", "podReachesOwnNode=false")
	f.Add("=", "ipBlockMatchesPods")
	f.Fuzz(func(t *testing.T, a, b string) {
		p, err := ParseAssumptions([]string{a, b})
		if err != nil {
			return
		}
		again, err := ParseAssumptions(p.Assumptions())
		if err != nil || again != p {
			t.Errorf("%q and %q were read as %q, which is read as %q (%v)", a, b, p, again, err)
		}
	})
}
