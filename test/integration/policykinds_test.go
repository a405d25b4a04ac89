package integration

import (
	"context"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/controllers"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/test/testbed"
)

// crd is a kind without a schema: what its objects mean is the operator's concern.
func crd(group, version, kind, plural string, scope apiextensionsv1.ResourceScope) *apiextensionsv1.CustomResourceDefinition {
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{
			Name:        plural + "." + group,
			Annotations: map[string]string{apiextensionsv1.KubeAPIApprovedAnnotation: "unapproved, test"},
		},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: group, Scope: scope,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Kind: kind, ListKind: kind + "List", Plural: plural, Singular: strings.ToLower(kind)},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: version, Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{
				OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: ptr.To(true)},
			}}},
		},
	}
}

// install creates a CRD and waits until its kind is served.
func install(ctx context.Context, definition *apiextensionsv1.CustomResourceDefinition) {
	GinkgoHelper()
	Expect(k8s.Create(ctx, definition)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) { uninstall(ctx, definition) })
	probe := &unstructured.UnstructuredList{}
	probe.SetAPIVersion(definition.Spec.Group + "/" + definition.Spec.Versions[0].Name)
	probe.SetKind(definition.Spec.Names.ListKind)
	Eventually(func() error { return k8s.List(ctx, probe) }).WithTimeout(10 * time.Second).Should(Succeed())
}

// uninstall deletes a CRD with its objects, and waits until it is gone.
func uninstall(ctx context.Context, definition *apiextensionsv1.CustomResourceDefinition) {
	GinkgoHelper()
	gone := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: definition.Name}}
	Expect(client.IgnoreNotFound(k8s.Delete(ctx, gone))).To(Succeed())
	Eventually(func() error { return k8s.Get(ctx, client.ObjectKeyFromObject(gone), gone) }).WithTimeout(20 * time.Second).Should(MatchError(apierrors.IsNotFound, "not found"))
}

func object(text string) *unstructured.Unstructured {
	GinkgoHelper()
	o := &unstructured.Unstructured{}
	Expect(yaml.Unmarshal([]byte(text), &o.Object)).To(Succeed())
	return o
}

var _ = Describe("policies of other kinds", func() {
	becomes := func(ctx context.Context, w *world, want map[string]string) {
		GinkgoHelper()
		Eventually(func() map[string]string {
			e := w.get(ctx)
			if e.Status.LastRun == nil || testbed.Ready(e).Reason == v1alpha1.ReasonPending {
				return nil
			}
			return causes(e)
		}).WithTimeout(20 * time.Second).Should(Equal(want))
	}
	met := map[string]string{}

	It("evaluates ClusterNetworkPolicies as their CRD comes and goes", func(ctx SpecContext) {
		startOperator(nil)
		w := newWorld(ctx, nil)
		w.expect(ctx, paths)
		becomes(ctx, w, met)

		for range 2 {
			cnp := crd("policy.networking.k8s.io", "v1alpha2", "ClusterNetworkPolicy", "clusternetworkpolicies", apiextensionsv1.ClusterScoped)
			install(ctx, cnp)
			policy := object(`
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: lockdown}
spec:
  tier: Admin
  priority: 1
  subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ` + w.ns + `}}, podSelector: {matchLabels: {app: db}}}}
  ingress:
  - {name: nobody, action: Deny, from: [{namespaces: {}}]}
`)
			Expect(k8s.Create(ctx, policy)).To(Succeed())
			Eventually(func() string { return causes(w.get(ctx))["allowed"] }).WithTimeout(20 * time.Second).Should(BeElementOf("DriftMasked", "PolicyDrift"))
			Expect(w.get(ctx).Status.Findings[0].Message).To(ContainSubstring("ClusterNetworkPolicy lockdown"))
			uninstall(ctx, cnp)
			becomes(ctx, w, met)
		}
	}, SpecTimeout(2*time.Minute))

	cilium := `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: l7, namespace: NAMESPACE}
`
	installCilium := func(ctx context.Context) {
		GinkgoHelper()
		install(ctx, crd("cilium.io", "v2", "CiliumNetworkPolicy", "ciliumnetworkpolicies", apiextensionsv1.NamespaceScoped))
	}

	It("does not predict what a policy of a kind that is not evaluated could decide", func(ctx SpecContext) {
		installCilium(ctx)
		startOperator(nil)
		w, other := newWorld(ctx, nil), newWorld(ctx, nil)
		w.expect(ctx, paths)
		becomes(ctx, w, met)
		Expect(k8s.Create(ctx, object(strings.ReplaceAll(cilium, "NAMESPACE", w.ns)))).To(Succeed())
		becomes(ctx, w, map[string]string{"allowed": "ImplementationDefined", "denied": "ImplementationDefined"})
		exp := w.get(ctx)
		Expect(exp.Status.Findings[0].Predicted.Rule).To(Equal("S30"))
		Expect(reasons(exp)).To(HaveKeyWithValue("PoliciesValid", "False UnmodelledPolicies"))
		Expect(testbed.Condition(exp, "PoliciesValid").Message).To(ContainSubstring("1 of CiliumNetworkPolicy.cilium.io"))

		By("leaving other namespaces as they are")
		other.expect(ctx, paths)
		becomes(ctx, other, met)
		Expect(reasons(other.get(ctx))).To(HaveKeyWithValue("PoliciesValid", "True AllPoliciesParsed"))
	}, SpecTimeout(2*time.Minute))

	It("predicts in spite of a kind that it was told to ignore", func(ctx SpecContext) {
		installCilium(ctx)
		startOperator(func(o *controllers.Options) { o.IgnoredPolicyKinds = []string{"CiliumNetworkPolicy.cilium.io"} })
		w := newWorld(ctx, nil)
		Expect(k8s.Create(ctx, object(strings.ReplaceAll(cilium, "NAMESPACE", w.ns)))).To(Succeed())
		w.expect(ctx, paths)
		becomes(ctx, w, met)
	}, SpecTimeout(time.Minute))

	It("assumes what is known of the network implementation that it recognises", func(ctx SpecContext) {
		agent := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "cilium-a", Labels: map[string]string{"k8s-app": "cilium"}},
			Spec:       corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{Name: "cilium-agent", Image: "quay.io/cilium/cilium:v1.18.4"}}},
		}
		agent.Spec.NodeName = "node-of-the-agent"
		Expect(k8s.Create(ctx, agent)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(k8s.Delete(ctx, agent, client.GracePeriodSeconds(0))).To(Succeed()) })
		startOperator(func(o *controllers.Options) { o.Implementation.Told.PodReachesOwnNode = evaluator.True })
		w := newWorld(ctx, nil)
		w.expect(ctx, paths)
		becomes(ctx, w, met)
		Expect(testbed.Condition(w.get(ctx), "PoliciesValid").Message).To(HaveSuffix(
			"; assumed of the network implementation: ipBlockMatchesPods=false, hostNetworkPodsPoliced=false, hostNetworkPodsSelectable=false, podReachesOwnNode=true"))
	}, SpecTimeout(time.Minute))
})
