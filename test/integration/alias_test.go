package integration

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

var _ = Describe("A Service that is an alias", func() {
	It("is followed into another namespace, and told from a host", func(ctx SpecContext) {
		startOperator(nil)
		w, other := newWorld(ctx, nil), newWorld(ctx, nil)
		Expect(k8s.Delete(ctx, other.policy())).To(Succeed())
		behind := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: other.ns, Name: "behind"},
			Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "db", Port: 80}}},
		}
		Expect(k8s.Create(ctx, behind)).To(Succeed())
		Expect(k8s.Create(ctx, &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: other.ns, Name: "behind", Labels: map[string]string{discoveryv1.LabelServiceName: behind.Name}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("db"), Port: ptr.To[int32](5432), Protocol: ptr.To(corev1.ProtocolTCP)}},
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.8.0.1"}, NodeName: ptr.To("node-b"), TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: other.ns, Name: "db"}}},
		})).To(Succeed())
		alias := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "alias"},
			Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "behind." + other.ns + ".svc.cluster.local"},
		}
		Expect(k8s.Create(ctx, alias)).To(Succeed())
		w.expect(ctx, "paths: [{name: p, expect: Allow, from: {identity: {labels: {app: web}}}, to: {service: {name: alias}}, ports: [{port: 80}]}]")
		Expect(causes(w.result(ctx))).To(BeEmpty())
		Expect(reasons(w.get(ctx))).To(HaveKeyWithValue("PolicyAligned", HavePrefix("True ")))

		By("predicting with policies of the other namespace, of which every change counts")
		Expect(k8s.Create(ctx, other.policy())).To(Succeed())
		Eventually(func() string { return causes(w.get(ctx))["p"] }).WithTimeout(20 * time.Second).Should(BeElementOf("DriftMasked", "PolicyDrift"))

		By("leaving open what a host will resolve to")
		alias.Spec.ExternalName = "db.example.org"
		Expect(k8s.Update(ctx, alias)).To(Succeed())
		Eventually(func() string {
			exp := w.get(ctx)
			if len(exp.Status.Findings) == 0 {
				return ""
			}
			return exp.Status.Findings[0].Target
		}).WithTimeout(20 * time.Second).Should(Equal("Service " + w.ns + "/alias (db.example.org.)"))
	}, SpecTimeout(2*time.Minute))
})
