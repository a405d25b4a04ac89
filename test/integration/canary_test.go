package integration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/probe/wire"
)

// coalMine is the canary with a network of its own, which enforces policies but where a
// test says otherwise.
type coalMine struct {
	ns       string
	kubelets []*kubelet

	mu    sync.Mutex
	known canaryPods
	// wrong replaces the outcome of a probe to a node; 0 leaves it.
	wrong func(from, to string, p canary.Probe) wire.Outcome
}

// canaryPods are pods of a canary, by address. They keep their addresses.
type canaryPods map[string]corev1.Pod

// at returns the pod at an address. None of another canary may have it.
func (known canaryPods) at(addr string) (corev1.Pod, bool) {
	if _, ok := known[addr]; !ok {
		var pods corev1.PodList
		if err := k8s.List(context.Background(), &pods, client.HasLabels{canary.RoleLabel}); err != nil {
			return corev1.Pod{}, false
		}
		for _, p := range pods.Items {
			known[p.Status.PodIP] = p
		}
	}
	p, ok := known[addr]
	return p, ok
}

var coalMines int

// newCoalMine starts the network of a canary.
func newCoalMine() *coalMine {
	coalMines++
	m := &coalMine{ns: fmt.Sprintf("mine-%d", coalMines), known: canaryPods{}}
	for i, ns := range []string{m.ns, m.ns + canary.AbroadSuffix} {
		k := startKubeletIn(ns, fmt.Sprintf("10.%d.%d.", 20+coalMines, i))
		k.outcome = m.outcome
		m.kubelets = append(m.kubelets, k)
	}
	return m
}

func (m *coalMine) create(ctx context.Context, change func(*v1alpha1.EnforcementCanarySpec)) {
	GinkgoHelper()
	c := &v1alpha1.EnforcementCanary{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v1alpha1.EnforcementCanarySpec{Namespace: v1alpha1.NamespaceName(m.ns)}}
	if change != nil {
		change(&c.Spec)
	}
	Expect(k8s.Create(ctx, c)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) { Expect(client.IgnoreNotFound(k8s.Delete(ctx, c))).To(Succeed()) })
}

func (m *coalMine) get(ctx context.Context) *v1alpha1.EnforcementCanary {
	c := &v1alpha1.EnforcementCanary{}
	if err := k8s.Get(ctx, client.ObjectKey{Name: "default"}, c); err != nil {
		return &v1alpha1.EnforcementCanary{}
	}
	return c
}

func (m *coalMine) breaks(wrong func(from, to string, p canary.Probe) wire.Outcome) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wrong = wrong
}

// outcome is what becomes of a check: what the rows of the canary say, unless the network
// is wrong.
func (m *coalMine) outcome(from *corev1.Pod, c wire.Check) wire.Outcome {
	m.mu.Lock()
	defer m.mu.Unlock()
	to, ok := m.known.at(c.Addr.String())
	if !ok {
		return wire.ProbeError
	}
	p := canary.Probe{From: canary.Role(from.Labels[canary.RoleLabel]), To: canary.Role(to.Labels[canary.RoleLabel]), Transport: c.Transport, Port: c.Port}
	if m.wrong != nil {
		if o := m.wrong(from.Spec.NodeName, to.Spec.NodeName, p); o != 0 {
			return o
		}
	}
	if canary.Goal(canary.Rows(canary.Tested(v1alpha1.EnforcementCanarySpec{})), p) == wire.GoalClosed {
		return wire.TimedOut
	}
	return wire.Connected // a responder's answer is made of it
}

// round asks for a round and waits for its result.
func (m *coalMine) round(ctx context.Context) *v1alpha1.EnforcementCanary {
	GinkgoHelper()
	c := m.get(ctx)
	request := fmt.Sprint(time.Now().UnixNano())
	base := c.DeepCopy()
	metav1.SetMetaDataAnnotation(&c.ObjectMeta, v1alpha1.RequestedAtAnnotation, request)
	Expect(k8s.Patch(ctx, c, client.MergeFrom(base))).To(Succeed())
	Eventually(func() string { return m.get(ctx).Status.LastHandledRequest }).WithTimeout(20 * time.Second).Should(Equal(request))
	return m.get(ctx)
}

// complete waits for a status of all nodes.
func (m *coalMine) complete(ctx context.Context) *v1alpha1.EnforcementCanary {
	GinkgoHelper()
	Eventually(func() metav1.ConditionStatus { return condition(m.get(ctx), v1alpha1.ConditionComplete).Status }).WithTimeout(20*time.Second).
		Should(Equal(metav1.ConditionTrue), "%v", m.get(ctx).Status)
	return m.get(ctx)
}

func (m *coalMine) pods(ctx context.Context) map[string]string {
	GinkgoHelper()
	out := map[string]string{}
	for _, ns := range []string{m.ns, m.ns + canary.AbroadSuffix} {
		var list corev1.PodList
		Expect(k8s.List(ctx, &list, client.InNamespace(ns))).To(Succeed())
		for _, p := range list.Items {
			if p.DeletionTimestamp == nil {
				out[p.Name] = string(p.UID)
			}
		}
	}
	return out
}

func condition(c *v1alpha1.EnforcementCanary, t string) metav1.Condition {
	if got := meta.FindStatusCondition(c.Status.Conditions, t); got != nil {
		return *got
	}
	return metav1.Condition{}
}

func offenders(c *v1alpha1.EnforcementCanary) []string {
	var out []string
	for _, o := range c.Status.Offenders {
		out = append(out, fmt.Sprintf("%s %s %s", o.Node, o.Direction, o.Feature))
	}
	return out
}

var _ = Describe("the enforcement canary", func() {
	udpOpen := func(_, to string, p canary.Probe) wire.Outcome {
		if to == "node-b" && p.To == canary.Guarded && p.Transport == wire.UDP {
			return wire.Connected
		}
		return 0
	}

	It("covers every node and says what is enforced, in objects of its own", func(ctx SpecContext) {
		startOperator(nil)
		m := newCoalMine()
		m.create(ctx, nil)
		c := m.complete(ctx)
		for _, t := range []string{v1alpha1.ConditionEnforced, v1alpha1.ConditionReady} {
			Expect(condition(c, t).Status).To(Equal(metav1.ConditionTrue), condition(c, t).Message)
		}
		Expect(*c.Status.Nodes).To(Equal(v1alpha1.CanaryNodes{Selected: 2, Covered: 2}))
		for _, f := range c.Status.Features {
			want := v1alpha1.FeatureStatus{Feature: f.Feature, Enforced: 2}
			if slices.Contains([]v1alpha1.CanaryFeature{v1alpha1.FeatureSCTP, v1alpha1.FeatureIPv6, v1alpha1.FeatureClusterNetworkPolicy}, f.Feature) {
				want = v1alpha1.FeatureStatus{Feature: f.Feature, Unsupported: 2}
			}
			Expect(f).To(Equal(want))
		}
		Expect(c.Status.Features).To(HaveLen(11))
		Expect(condition(c, v1alpha1.ConditionComplete).Message).To(Equal("2 of 2 nodes are covered; ClusterNetworkPolicy is not tested: " +
			"the API server does not serve ClusterNetworkPolicies of policy.networking.k8s.io/v1alpha2"))
		Expect(c.Status.Offenders).To(BeEmpty())
		Expect(testutil.CollectAndCompare(canaryMetrics, strings.NewReader(`
# HELP pathproof_canary_nodes Nodes that the canary selects, by state: Covered, Unknown, or the reason for which they are left out.
# TYPE pathproof_canary_nodes gauge
pathproof_canary_nodes{state="Covered"} 2
pathproof_canary_nodes{state="Unknown"} 0
# HELP pathproof_canary_interval_seconds The interval of the canary's rounds.
# TYPE pathproof_canary_interval_seconds gauge
pathproof_canary_interval_seconds 60
`), "pathproof_canary_nodes", "pathproof_canary_interval_seconds")).To(Succeed())

		owned := func(o client.Object) {
			GinkgoHelper()
			Expect(o.GetOwnerReferences()).To(HaveLen(1))
			Expect(o.GetOwnerReferences()[0].UID).To(Equal(c.UID))
			Expect(o.GetLabels()[canary.Label]).To(Equal("default"))
		}
		for _, name := range []string{m.ns, m.ns + canary.AbroadSuffix} {
			var ns corev1.Namespace
			Expect(k8s.Get(ctx, client.ObjectKey{Name: name}, &ns)).To(Succeed())
			owned(&ns)
			Expect(ns.Labels["pod-security.kubernetes.io/enforce"]).To(Equal("restricted"))
		}
		var policies networkingv1.NetworkPolicyList
		Expect(k8s.List(ctx, &policies, client.MatchingLabels{canary.Label: "default"}, client.InNamespace(m.ns))).To(Succeed())
		Expect(policies.Items).To(HaveLen(1 + 9 + 2)) // default deny, one for each other feature, ipBlock for each node
		for i := range policies.Items {
			owned(&policies.Items[i])
		}
		Expect(m.pods(ctx)).To(HaveLen(8))
	}, SpecTimeout(time.Minute))

	It("names the node, the direction and the feature, until it is healed", func(ctx SpecContext) {
		startOperator(nil)
		m := newCoalMine()
		m.create(ctx, nil)
		m.complete(ctx)
		m.breaks(udpOpen)
		c := m.round(ctx)
		Expect(offenders(c)).To(Equal([]string{"node-b Ingress UDP"}))
		Expect(condition(c, v1alpha1.ConditionEnforced).Reason).To(Equal(v1alpha1.ReasonCanaryNotEnforced))
		Expect(condition(c, v1alpha1.ConditionReady).Status).To(Equal(metav1.ConditionFalse))
		Expect(condition(c, v1alpha1.ConditionComplete).Status).To(Equal(metav1.ConditionTrue))
		Expect(testutil.CollectAndCompare(canaryMetrics, strings.NewReader(`
# HELP pathproof_enforcement_violations 1 for each node, feature and direction that the canary found not to be enforced, until it is known to be or the node is gone; at most 500 of them.
# TYPE pathproof_enforcement_violations gauge
pathproof_enforcement_violations{direction="Ingress",feature="UDP",node="node-b"} 1
`), "pathproof_enforcement_violations")).To(Succeed())
		since := c.Status.Offenders[0].Since
		time.Sleep(1100 * time.Millisecond) // the API keeps whole seconds
		again := m.round(ctx)
		Expect(again.Status.Offenders[0].Since).To(Equal(since))
		m.breaks(nil)
		c = m.round(ctx)
		Expect(offenders(c)).To(BeEmpty())
		Expect(condition(c, v1alpha1.ConditionReady).Status).To(Equal(metav1.ConditionTrue))
		Expect(testutil.CollectAndCount(canaryMetrics, "pathproof_enforcement_violations")).To(BeZero())
	}, SpecTimeout(time.Minute))

	It("looks at the turns of a plan that nobody asks for", func(ctx SpecContext) {
		startOperator(nil)
		m := newCoalMine()
		m.create(ctx, nil)
		m.complete(ctx)
		m.breaks(udpOpen)
		for _, k := range m.kubelets {
			k.set(func(k *kubelet) { k.turn = 100 })
		}
		Eventually(func() []string { return offenders(m.get(ctx)) }).WithTimeout(10 * time.Second).Should(Equal([]string{"node-b Ingress UDP"}))
	}, SpecTimeout(time.Minute))

	It("concludes nothing without its positive controls", func(ctx SpecContext) {
		startOperator(nil)
		m := newCoalMine()
		m.create(ctx, nil)
		m.complete(ctx)
		m.breaks(func(string, string, canary.Probe) wire.Outcome { return wire.TimedOut })
		c := m.round(ctx)
		Expect(offenders(c)).To(BeEmpty())
		Expect(condition(c, v1alpha1.ConditionEnforced).Status).To(Equal(metav1.ConditionUnknown))
		Expect(condition(c, v1alpha1.ConditionComplete).Status).To(Equal(metav1.ConditionFalse))
		Expect(c.Status.Nodes.Covered).To(BeZero())
		Expect(c.Status.Nodes.LeftOut[0].Message).To(ContainSubstring("positive control"))
	}, SpecTimeout(time.Minute))

	It("goes on in the same pods when the operator is restarted, and tells no other story meanwhile", func(ctx SpecContext) {
		stop, _ := startOperator(nil)
		m := newCoalMine()
		m.create(ctx, nil)
		m.complete(ctx)
		m.breaks(udpOpen)
		before := m.round(ctx)
		pods := m.pods(ctx)
		stop()
		startOperator(nil)
		Consistently(func() []string { return offenders(m.get(ctx)) }).WithTimeout(3 * time.Second).Should(Equal([]string{"node-b Ingress UDP"}))
		Expect(m.pods(ctx)).To(Equal(pods))
		Expect(m.get(ctx).Status.Offenders[0].Since).To(Equal(before.Status.Offenders[0].Since))
		Expect(testutil.CollectAndCount(canaryMetrics, "pathproof_enforcement_violations")).To(Equal(1))
	}, SpecTimeout(time.Minute))

	It("leaves a cordoned node out, without alarm, and takes it back", func(ctx SpecContext) {
		startOperator(nil)
		m := newCoalMine()
		m.create(ctx, nil)
		m.complete(ctx)
		cordon := func(ctx context.Context, on bool) {
			GinkgoHelper()
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-b"}}
			Expect(k8s.Patch(ctx, node, client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"spec":{"unschedulable":%t}}`, on)))).To(Succeed())
		}
		cordon(ctx, true)
		DeferCleanup(func(ctx SpecContext) { cordon(ctx, false) })
		Eventually(func() map[string]string { return m.pods(ctx) }).WithTimeout(10 * time.Second).Should(HaveLen(4))
		Eventually(func() int32 { return m.get(ctx).Status.Nodes.Covered }).WithTimeout(10 * time.Second).Should(BeEquivalentTo(1))
		c := m.round(ctx)
		Expect(*c.Status.Nodes).To(Equal(v1alpha1.CanaryNodes{Selected: 2, Covered: 1, LeftOut: []v1alpha1.NodesLeftOut{
			{Reason: canary.LeftOutCordoned, Count: 1, First: "node-b", Message: "the node is cordoned"},
		}}))
		Expect(condition(c, v1alpha1.ConditionReady).Status).To(Equal(metav1.ConditionTrue), condition(c, v1alpha1.ConditionReady).Message)
		cordon(ctx, false)
		Eventually(func() int32 { return m.get(ctx).Status.Nodes.Covered }).WithTimeout(20 * time.Second).Should(BeEquivalentTo(2))
		Expect(m.pods(ctx)).To(HaveLen(8))
	}, SpecTimeout(time.Minute))

	It("puts back what somebody deletes or changes, and takes nobody's absence for a fault of the network", func(ctx SpecContext) {
		startOperator(nil)
		m := newCoalMine()
		m.create(ctx, nil)
		m.complete(ctx)
		first := m.pods(ctx)
		for name := range first {
			if strings.HasPrefix(name, "pathproof-canary-guarded") {
				Expect(k8s.Delete(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: m.ns, Name: name}})).To(Succeed())
				break
			}
		}
		Eventually(func() int {
			n := 0
			for name, uid := range m.pods(ctx) {
				if first[name] == uid {
					n++
				}
			}
			return n*10 + len(m.pods(ctx))
		}).WithTimeout(10 * time.Second).Should(Equal(78)) // seven as before, eight in all
		Expect(k8s.Delete(ctx, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: m.ns, Name: "default-deny"}})).To(Succeed())
		port := &networkingv1.NetworkPolicy{}
		Expect(k8s.Get(ctx, client.ObjectKey{Namespace: m.ns, Name: "port"}, port)).To(Succeed())
		base := port.DeepCopy()
		port.Spec.Ingress = nil
		Expect(k8s.Patch(ctx, port, client.MergeFrom(base))).To(Succeed())
		Eventually(func() error {
			return k8s.Get(ctx, client.ObjectKey{Namespace: m.ns, Name: "default-deny"}, &networkingv1.NetworkPolicy{})
		}).WithTimeout(10 * time.Second).Should(Succeed())
		Eventually(func() int {
			Expect(k8s.Get(ctx, client.ObjectKeyFromObject(port), port)).To(Succeed())
			return len(port.Spec.Ingress)
		}).WithTimeout(10 * time.Second).Should(Equal(1))
		c := m.round(ctx)
		Expect(offenders(c)).To(BeEmpty())
		m.complete(ctx)
	}, SpecTimeout(time.Minute))

	It("takes no namespace that is there already", func(ctx SpecContext) {
		startOperator(nil)
		m := newCoalMine()
		Expect(k8s.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: m.ns + canary.AbroadSuffix}})).To(Succeed())
		m.create(ctx, nil)
		Eventually(func() string { return condition(m.get(ctx), v1alpha1.ConditionReady).Reason }).WithTimeout(10 * time.Second).
			Should(Equal(v1alpha1.ReasonCanaryNamespaceRefused))
		Expect(condition(m.get(ctx), v1alpha1.ConditionReady).Message).To(ContainSubstring(m.ns + canary.AbroadSuffix))
		Expect(m.pods(ctx)).To(BeEmpty())
	}, SpecTimeout(time.Minute))

	It("forgets a canary that is deleted", func(ctx SpecContext) {
		startOperator(nil)
		m := newCoalMine()
		m.create(ctx, func(s *v1alpha1.EnforcementCanarySpec) {
			s.Features = []v1alpha1.CanaryFeature{v1alpha1.FeatureDefaultDeny}
		})
		c := m.complete(ctx)
		Expect(c.Status.Features).To(Equal([]v1alpha1.FeatureStatus{{Feature: v1alpha1.FeatureDefaultDeny, Enforced: 2}}))
		Expect(testutil.CollectAndCount(canaryMetrics)).To(BeNumerically(">", 0))
		Expect(k8s.Delete(ctx, c)).To(Succeed())
		Eventually(func() int { return testutil.CollectAndCount(canaryMetrics) }).WithTimeout(10 * time.Second).Should(BeZero())
	}, SpecTimeout(time.Minute))

	DescribeTable("is refused with words that say what to write", func(ctx SpecContext, name string, change func(*v1alpha1.EnforcementCanarySpec), words string) {
		c := &v1alpha1.EnforcementCanary{ObjectMeta: metav1.ObjectMeta{Name: name}}
		change(&c.Spec)
		Expect(k8s.Create(ctx, c, client.DryRunAll)).To(MatchError(ContainSubstring(words)))
	},
		Entry("another name", "other", func(*v1alpha1.EnforcementCanarySpec) {}, "name it default"),
		Entry("too short an interval", "default", func(s *v1alpha1.EnforcementCanarySpec) { s.IntervalSeconds = 5 }, "greater than or equal to 15"),
		Entry("an unknown feature", "default", func(s *v1alpha1.EnforcementCanarySpec) { s.Features = []v1alpha1.CanaryFeature{"Ports"} }, "supported values"),
		Entry("too many neighbours", "default", func(s *v1alpha1.EnforcementCanarySpec) { s.Neighbours = 9 }, "less than or equal to 8"),
	)

	It("keeps its namespace", func(ctx SpecContext) {
		m := newCoalMine()
		m.create(ctx, nil)
		c := m.get(ctx)
		Expect(slices.Contains([]v1alpha1.NamespaceName{"", "pathproof-canary"}, c.Spec.Namespace)).To(BeFalse())
		c.Spec.Namespace = "elsewhere"
		Expect(k8s.Update(ctx, c)).To(MatchError(ContainSubstring("delete the canary and create it anew")))
	}, SpecTimeout(time.Minute))
})
