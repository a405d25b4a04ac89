package integration

import (
	"context"
	"os"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/yaml"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/test/lab/assets"
)

// clusterPolicies is the CRD of ClusterNetworkPolicy, with its schema.
func clusterPolicies(ctx context.Context) *apiextensionsv1.CustomResourceDefinition {
	GinkgoHelper()
	path, err := assets.ClusterPolicyCRD(ctx)
	Expect(err).NotTo(HaveOccurred())
	text, err := os.ReadFile(path)
	Expect(err).NotTo(HaveOccurred())
	crd := &apiextensionsv1.CustomResourceDefinition{}
	Expect(yaml.Unmarshal(text, crd)).To(Succeed())
	return crd
}

// noClusterPolicies is a client that may not create ClusterNetworkPolicies.
type noClusterPolicies struct{ client.Client }

func (c noClusterPolicies) Create(ctx context.Context, o client.Object, opts ...client.CreateOption) error {
	if _, ok := o.(*policyv1alpha2.ClusterNetworkPolicy); ok {
		return apierrors.NewForbidden(schema.GroupResource{Resource: "clusternetworkpolicies"}, o.GetName(), nil)
	}
	return c.Client.Create(ctx, o, opts...)
}

var _ = Describe("the enforcement canary and ClusterNetworkPolicies", func() {
	feature := func(c *v1alpha1.EnforcementCanary) v1alpha1.FeatureStatus {
		for _, f := range c.Status.Features {
			if f.Feature == v1alpha1.FeatureClusterNetworkPolicy {
				return f
			}
		}
		return v1alpha1.FeatureStatus{}
	}
	becomes := func(ctx context.Context, m *coalMine, want v1alpha1.FeatureStatus) *v1alpha1.EnforcementCanary {
		GinkgoHelper()
		want.Feature = v1alpha1.FeatureClusterNetworkPolicy
		Eventually(func() v1alpha1.FeatureStatus { return feature(m.get(ctx)) }).WithTimeout(30 * time.Second).Should(Equal(want))
		c := m.complete(ctx)
		Expect(condition(c, v1alpha1.ConditionEnforced).Status).To(Equal(metav1.ConditionTrue), condition(c, v1alpha1.ConditionEnforced).Message)
		return c
	}
	read := func(ctx context.Context) (*policyv1alpha2.ClusterNetworkPolicy, error) {
		p := &policyv1alpha2.ClusterNetworkPolicy{}
		return p, k8s.Get(ctx, client.ObjectKey{Name: canary.ClusterPolicyName}, p)
	}
	only := func(s *v1alpha1.EnforcementCanarySpec) {
		s.Features = []v1alpha1.CanaryFeature{v1alpha1.FeatureDefaultDeny, v1alpha1.FeatureClusterNetworkPolicy}
	}

	It("tests them while they are served, by one policy of its own", func(ctx SpecContext) {
		startOperator(nil)
		m := newCoalMine()
		m.create(ctx, only)
		becomes(ctx, m, v1alpha1.FeatureStatus{Unsupported: 2})

		By("a CRD that comes")
		install(ctx, clusterPolicies(ctx))
		c := becomes(ctx, m, v1alpha1.FeatureStatus{Enforced: 2})
		Expect(condition(c, v1alpha1.ConditionComplete).Message).To(Equal("2 of 2 nodes are covered"))
		p, err := read(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(p.Spec).To(Equal(canary.ClusterPolicy("default", m.ns).Spec))
		Expect(p.Labels).To(HaveKeyWithValue(canary.Label, "default"))
		Expect(p.OwnerReferences).To(HaveLen(1))
		Expect(p.OwnerReferences[0].UID).To(Equal(c.UID))

		By("a node that ignores it")
		closed := canary.Rows([]v1alpha1.CanaryFeature{v1alpha1.FeatureClusterNetworkPolicy})[0].Closed[0]
		m.breaks(func(_, to string, p canary.Probe) wire.Outcome {
			if to == "node-b" && p == closed {
				return wire.Connected
			}
			return 0
		})
		c = m.round(ctx)
		Expect(offenders(c)).To(Equal([]string{"node-b Ingress ClusterNetworkPolicy"}))
		Expect(c.Status.Offenders[0].Message).To(ContainSubstring("a ClusterNetworkPolicy denies it"))
		m.breaks(nil)
		Expect(offenders(m.round(ctx))).To(BeEmpty())

		By("somebody who changes it, and deletes it")
		base := p.DeepCopy()
		p.Spec.Ingress[0].Action = policyv1alpha2.ClusterNetworkPolicyRuleActionPass
		Expect(k8s.Patch(ctx, p, client.MergeFrom(base))).To(Succeed())
		Eventually(func() (policyv1alpha2.ClusterNetworkPolicyRuleAction, error) {
			p, err := read(ctx)
			if err != nil {
				return "", err
			}
			return p.Spec.Ingress[0].Action, nil
		}).WithTimeout(20 * time.Second).Should(Equal(policyv1alpha2.ClusterNetworkPolicyRuleActionDeny))
		Expect(k8s.Delete(ctx, p)).To(Succeed())
		Eventually(func() error { _, err := read(ctx); return err }).WithTimeout(20 * time.Second).Should(Succeed())
		becomes(ctx, m, v1alpha1.FeatureStatus{Enforced: 2})

		By("a CRD that goes, and comes back")
		uninstall(ctx, clusterPolicies(ctx))
		becomes(ctx, m, v1alpha1.FeatureStatus{Unsupported: 2})
		install(ctx, clusterPolicies(ctx))
		becomes(ctx, m, v1alpha1.FeatureStatus{Enforced: 2})

		By("a canary that does not test them any more")
		c = m.get(ctx)
		before := c.DeepCopy()
		c.Spec.Features = []v1alpha1.CanaryFeature{v1alpha1.FeatureDefaultDeny}
		Expect(k8s.Patch(ctx, c, client.MergeFrom(before))).To(Succeed())
		Eventually(func() error { _, err := read(ctx); return err }).WithTimeout(20 * time.Second).Should(MatchError(apierrors.IsNotFound, "not found"))
	}, SpecTimeout(3*time.Minute))

	It("does without where it may not write them, and says so", func(ctx SpecContext) {
		install(ctx, clusterPolicies(ctx))
		startOperatorWith(clock.RealClock{}, nil, func(cl client.Client) client.Client {
			return noClusterPolicies{cl}
		})
		m := newCoalMine()
		m.create(ctx, only)
		c := becomes(ctx, m, v1alpha1.FeatureStatus{Unsupported: 2})
		Expect(condition(c, v1alpha1.ConditionComplete).Message).To(ContainSubstring("which config/clusternetworkpolicy permits"))
	}, SpecTimeout(time.Minute))

	It("may write that policy, and no other", func(ctx SpecContext) {
		install(ctx, clusterPolicies(ctx))
		dir := filepath.Join("..", "..", "config", "clusternetworkpolicy")
		for _, file := range []string{"role.yaml", "role_binding.yaml", "admission_policy.yaml", "admission_policy_binding.yaml"} {
			text, err := os.ReadFile(filepath.Join(dir, file))
			Expect(err).NotTo(HaveOccurred())
			o := object(string(text))
			Expect(k8s.Create(ctx, o)).To(Succeed())
			DeferCleanup(func(ctx SpecContext) { Expect(k8s.Delete(ctx, o)).To(Succeed()) })
		}
		config := rest.CopyConfig(restConfig)
		config.Impersonate.UserName = "system:serviceaccount:pathproof-system:pathproof-manager"
		operator, err := client.New(config, client.Options{Scheme: scheme})
		Expect(err).NotTo(HaveOccurred())
		write := func(change func(*policyv1alpha2.ClusterNetworkPolicy)) error {
			p := canary.ClusterPolicy("default", "pathproof-canary")
			change(p)
			return operator.Create(ctx, p, client.DryRunAll)
		}
		pods := func(p *policyv1alpha2.ClusterNetworkPolicy) *policyv1alpha2.NamespacedPod { return p.Spec.Subject.Pods }
		forbidden := MatchError(apierrors.IsForbidden, "forbidden")
		// The API server takes a moment to know the admission policy.
		Eventually(func() error {
			return write(func(p *policyv1alpha2.ClusterNetworkPolicy) { p.Name = "other" })
		}).WithTimeout(20 * time.Second).Should(MatchError(ContainSubstring("no ClusterNetworkPolicy but pathproof-canary")))
		Expect(write(func(*policyv1alpha2.ClusterNetworkPolicy) {})).To(Succeed())
		for what, change := range map[string]func(*policyv1alpha2.ClusterNetworkPolicy){
			"all namespaces": func(p *policyv1alpha2.ClusterNetworkPolicy) {
				p.Spec.Subject = policyv1alpha2.ClusterNetworkPolicySubject{Namespaces: &metav1.LabelSelector{}}
			},
			"pods of other namespaces": func(p *policyv1alpha2.ClusterNetworkPolicy) { pods(p).NamespaceSelector = metav1.LabelSelector{} },
			"pods of any role": func(p *policyv1alpha2.ClusterNetworkPolicy) {
				delete(pods(p).PodSelector.MatchLabels, canary.RoleLabel)
			},
			"pods of another role": func(p *policyv1alpha2.ClusterNetworkPolicy) { pods(p).PodSelector.MatchLabels[canary.RoleLabel] = "x" },
		} {
			Expect(write(change)).To(forbidden, what)
		}
		other := canary.ClusterPolicy("default", "pathproof-canary")
		other.Name = "other"
		Expect(k8s.Create(ctx, other)).To(Succeed()) // by somebody else, who is not bounded
		Expect(operator.Delete(ctx, other)).To(forbidden)
		Expect(k8s.Delete(ctx, other)).To(Succeed())
	}, SpecTimeout(time.Minute))
})
