package e2e

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
)

const canaryNamespace = "pathproof-canary"

func readCanary(ctx context.Context) *v1alpha1.EnforcementCanary {
	GinkgoHelper()
	c := &v1alpha1.EnforcementCanary{}
	Expect(bed.Client.Get(ctx, client.ObjectKey{Name: v1alpha1.CanaryName}, c)).To(Succeed())
	return c
}

// canaryRound asks for a round and returns the first status that is newer.
func canaryRound(ctx context.Context) *v1alpha1.EnforcementCanary {
	GinkgoHelper()
	c := readCanary(ctx)
	request := strconv.FormatInt(time.Now().UnixNano(), 10)
	base := c.DeepCopy()
	metav1.SetMetaDataAnnotation(&c.ObjectMeta, v1alpha1.RequestedAtAnnotation, request)
	Expect(bed.Client.Patch(ctx, c, client.MergeFrom(base))).To(Succeed())
	Eventually(func() string {
		c = readCanary(ctx)
		return c.Status.LastHandledRequest
	}).WithTimeout(60*time.Second).WithPolling(200*time.Millisecond).Should(Equal(request), func() string { return describeCanary(c) })
	return c
}

func canaryCondition(c *v1alpha1.EnforcementCanary, t string) metav1.Condition {
	if got := meta.FindStatusCondition(c.Status.Conditions, t); got != nil {
		return *got
	}
	return metav1.Condition{}
}

func describeCanary(c *v1alpha1.EnforcementCanary) string {
	s := ""
	for _, cond := range c.Status.Conditions {
		s += fmt.Sprintf("%s=%s %s: %s\n", cond.Type, cond.Status, cond.Reason, cond.Message)
	}
	if c.Status.Nodes != nil {
		s += fmt.Sprintf("%+v\n", *c.Status.Nodes)
	}
	for _, o := range c.Status.Offenders {
		s += fmt.Sprintf("%s %s %s: %s\n", o.Node, o.Direction, o.Feature, o.Message)
	}
	return s
}

// canaryRows are the offenders, by node and direction.
func canaryRows(c *v1alpha1.EnforcementCanary) map[string][]v1alpha1.CanaryFeature {
	out := map[string][]v1alpha1.CanaryFeature{}
	for _, o := range c.Status.Offenders {
		key := o.Node + " " + string(o.Direction)
		out[key] = append(out[key], o.Feature)
	}
	for _, features := range out {
		slices.Sort(features)
	}
	return out
}

func canaryFeature(c *v1alpha1.EnforcementCanary, f v1alpha1.CanaryFeature) v1alpha1.FeatureStatus {
	for _, st := range c.Status.Features {
		if st.Feature == f {
			return st
		}
	}
	return v1alpha1.FeatureStatus{}
}

var allCanaryFeatures = []v1alpha1.CanaryFeature{
	v1alpha1.FeatureClusterNetworkPolicy, v1alpha1.FeatureDefaultDeny, v1alpha1.FeatureEndPort, v1alpha1.FeatureIPBlock, v1alpha1.FeatureIPv6, v1alpha1.FeatureNamedPort,
	v1alpha1.FeatureNamespaceSelector, v1alpha1.FeaturePodSelector, v1alpha1.FeaturePort, v1alpha1.FeatureSCTP, v1alpha1.FeatureUDP,
}

func expectCanaryGreen(c *v1alpha1.EnforcementCanary) {
	GinkgoHelper()
	for _, t := range []string{v1alpha1.ConditionEnforced, v1alpha1.ConditionComplete, v1alpha1.ConditionReady} {
		Expect(canaryCondition(c, t).Status).To(Equal(metav1.ConditionTrue), describeCanary(c))
	}
	Expect(*c.Status.Nodes).To(Equal(v1alpha1.CanaryNodes{Selected: 2, Covered: 2}), describeCanary(c))
	Expect(c.Status.Features).To(HaveLen(len(allCanaryFeatures)))
	for _, f := range c.Status.Features {
		Expect(f).To(Equal(v1alpha1.FeatureStatus{Feature: f.Feature, Enforced: 2}), describeCanary(c))
	}
}

var _ = Describe("the canary", Ordered, func() {
	create := func(ctx context.Context, sctp v1alpha1.SCTPSockets) {
		GinkgoHelper()
		createCanary(ctx, v1alpha1.EnforcementCanarySpec{IntervalSeconds: 120, SCTP: sctp})
	}

	BeforeAll(func(ctx SpecContext) {
		requireLab()
		removeCanary(ctx) // of a suite that was killed
		start := time.Now()
		create(ctx, v1alpha1.SCTPRaw)
		DeferCleanup(removeCanary)
		var c *v1alpha1.EnforcementCanary
		Eventually(func() metav1.ConditionStatus {
			c = readCanary(ctx)
			return canaryCondition(c, v1alpha1.ConditionComplete).Status
		}).WithTimeout(180*time.Second).Should(Equal(metav1.ConditionTrue), func() string { return describeCanary(c) })
		measured("canary created to every row known", time.Since(start))
	}, NodeTimeout(5*time.Minute))

	AfterEach(func(ctx SpecContext) { Expect(bed.Heal(ctx)).To(Succeed()) })

	in, out := "node-b Ingress", "node-b Egress"
	rows := func(features ...v1alpha1.CanaryFeature) map[string][]v1alpha1.CanaryFeature {
		return map[string][]v1alpha1.CanaryFeature{in: features, out: features}
	}
	none := map[string][]v1alpha1.CanaryFeature{}
	// What a mode changes for established policies is all that a canary can see: slow and
	// stale are about changes.
	for mode, want := range map[string]map[string][]v1alpha1.CanaryFeature{
		"correct":                      none,
		"reject":                       none,
		"reject-rst":                   none,
		"slow":                         none,
		"stale":                        none,
		"off":                          rows(allCanaryFeatures[1:]...), // the first 20, which are all but ClusterNetworkPolicy's
		"ingress-ignored":              {in: allCanaryFeatures},
		"egress-ignored":               {out: allCanaryFeatures},
		"udp-ignored":                  rows(v1alpha1.FeatureUDP),
		"sctp-ignored":                 rows(v1alpha1.FeatureSCTP),
		"ipv6-ignored":                 rows(v1alpha1.FeatureIPv6),
		"endport-ignored":              rows(v1alpha1.FeatureEndPort),
		"endport-single":               none, // as the API says of networks without endPort
		"except-ignored":               rows(v1alpha1.FeatureIPBlock),
		"namespaceselector-ignored":    rows(v1alpha1.FeatureNamespaceSelector),
		"named-ports-unresolved":       rows(v1alpha1.FeatureNamedPort),
		"clusternetworkpolicy-ignored": rows(v1alpha1.FeatureClusterNetworkPolicy),
		"replies-dropped": rows(slices.DeleteFunc(slices.Clone(allCanaryFeatures), func(f v1alpha1.CanaryFeature) bool {
			return f == v1alpha1.FeatureDefaultDeny // nothing of it gets through
		})...),
	} {
		It("shows "+mode+" on one node in its rows, and in no other", func(ctx SpecContext) {
			Expect(bed.Break(ctx, mode, "node-b")).To(Succeed())
			c := canaryRound(ctx)
			Expect(canaryRows(c)).To(Equal(want), describeCanary(c))
			Expect(canaryCondition(c, v1alpha1.ConditionComplete).Status).To(Equal(metav1.ConditionTrue), describeCanary(c))
			switch {
			case mode == "endport-single":
				Expect(canaryFeature(c, v1alpha1.FeatureEndPort)).To(Equal(v1alpha1.FeatureStatus{Feature: v1alpha1.FeatureEndPort, Enforced: 1, Unsupported: 1}), describeCanary(c))
			case len(want) == 0:
				expectCanaryGreen(c)
			case mode == "off":
				for _, f := range c.Status.Features {
					Expect(f).To(Equal(v1alpha1.FeatureStatus{Feature: f.Feature, Enforced: 1, NotEnforced: 1}), describeCanary(c))
				}
			default:
				Expect(canaryCondition(c, v1alpha1.ConditionEnforced).Status).To(Equal(metav1.ConditionFalse))
			}
			Expect(bed.Heal(ctx)).To(Succeed())
			if len(want) > 0 {
				expectCanaryGreen(canaryRound(ctx))
			}
		}, SpecTimeout(2*time.Minute))
	}

	It("says that nothing enforces when nothing does", func(ctx SpecContext) {
		Expect(bed.Break(ctx, "off", "")).To(Succeed())
		c := canaryRound(ctx)
		for _, f := range c.Status.Features {
			Expect(f).To(Equal(v1alpha1.FeatureStatus{Feature: f.Feature, NotEnforced: 2}), describeCanary(c))
		}
		Expect(c.Status.Offenders).To(HaveLen(20))
		Expect(canaryCondition(c, v1alpha1.ConditionEnforced).Message).To(ContainSubstring("44 rows are not enforced"))
	}, SpecTimeout(2*time.Minute))

	It("notices a node that breaks by itself, within two intervals", func(ctx SpecContext) {
		c := readCanary(ctx)
		base := c.DeepCopy()
		c.Spec.IntervalSeconds = 15
		Expect(bed.Client.Patch(ctx, c, client.MergeFrom(base))).To(Succeed())
		expectCanaryGreen(canaryRound(ctx))
		start := time.Now()
		Expect(bed.Break(ctx, "ingress-ignored", "node-b")).To(Succeed())
		Eventually(func() map[string][]v1alpha1.CanaryFeature { return canaryRows(readCanary(ctx)) }).
			WithTimeout(30 * time.Second).WithPolling(200 * time.Millisecond).Should(Equal(map[string][]v1alpha1.CanaryFeature{in: allCanaryFeatures}))
		measured("enforcement broken on a node to all of its rows, interval 15 s", time.Since(start))
	}, SpecTimeout(2*time.Minute))

	It("raises no alarm when the operator is restarted, a pod is killed, or a node is drained", func(ctx SpecContext) {
		expectCanaryGreen(canaryRound(ctx))
		calm(ctx, func() {
			By("a restart")
			Expect(bed.RestartOperator(ctx)).To(Succeed())
			expectCanaryGreen(canaryRound(ctx))
			By("a pod that is killed")
			var pods corev1.PodList
			Expect(bed.Client.List(ctx, &pods, client.InNamespace(canaryNamespace), client.MatchingLabels{"pathproof.dev/canary-role": "guarded"})).To(Succeed())
			Expect(pods.Items).To(HaveLen(2))
			Expect(bed.Client.Delete(ctx, &pods.Items[0])).To(Succeed())
			Eventually(func() error {
				pod := &corev1.Pod{}
				err := bed.Client.Get(ctx, client.ObjectKeyFromObject(&pods.Items[0]), pod)
				if err == nil && pod.UID == pods.Items[0].UID {
					err = fmt.Errorf("pod %s is still there", pod.Name)
				}
				return err
			}).WithTimeout(30 * time.Second).Should(Succeed())
			Eventually(func() string { return describeCanary(canaryRound(ctx)) }).WithTimeout(60 * time.Second).Should(ContainSubstring("Ready=True"))
			expectCanaryGreen(canaryRound(ctx))
			By("a drained node")
			Expect(bed.Kubectl(ctx, "cordon", "node-b")).To(Succeed())
			DeferCleanup(func(ctx SpecContext) { Expect(bed.Kubectl(ctx, "uncordon", "node-b")).To(Succeed()) })
			Expect(bed.Kubectl(ctx, "drain", "node-b", "--pod-selector=pathproof.dev/canary=default", "--timeout=60s")).To(Succeed())
			Eventually(func() int32 { return readCanary(ctx).Status.Nodes.Covered }).WithTimeout(30 * time.Second).Should(BeEquivalentTo(1))
			c := canaryRound(ctx)
			Expect(c.Status.Nodes.LeftOut).To(HaveLen(1))
			Expect(c.Status.Nodes.LeftOut[0].Reason).To(Equal("Cordoned"))
			Expect(canaryCondition(c, v1alpha1.ConditionReady).Status).To(Equal(metav1.ConditionTrue), describeCanary(c))
			By("and a node that comes back")
			Expect(bed.Kubectl(ctx, "uncordon", "node-b")).To(Succeed())
			Eventually(func() int32 { return readCanary(ctx).Status.Nodes.Covered }).WithTimeout(60 * time.Second).Should(BeEquivalentTo(2))
			expectCanaryGreen(canaryRound(ctx))
		})
	}, SpecTimeout(4*time.Minute))

	It("leaves nothing when it is deleted, and calls SCTP unsupported where kernels have none", func(ctx SpecContext) {
		removeCanary(ctx)
		create(ctx, v1alpha1.SCTPKernel)
		var c *v1alpha1.EnforcementCanary
		Eventually(func() metav1.ConditionStatus {
			c = readCanary(ctx)
			return canaryCondition(c, v1alpha1.ConditionReady).Status
		}).WithTimeout(90*time.Second).Should(Equal(metav1.ConditionTrue), func() string { return describeCanary(c) })
		Expect(canaryFeature(c, v1alpha1.FeatureSCTP).Unsupported + canaryFeature(c, v1alpha1.FeatureSCTP).Enforced).To(BeEquivalentTo(2))
		removeCanary(ctx)
	}, SpecTimeout(4*time.Minute))
})
