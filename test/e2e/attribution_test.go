package e2e

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
)

// stalePaths are paths to pods whose labels change while an agent does not look.
const stalePaths = `apiVersion: pathproof.dev/v1alpha1
kind: ConnectivityExpectation
metadata: {name: stale, namespace: attribution}
spec:
  probe: {intervalSeconds: 86400, settleSeconds: 3}
  paths:
  - {name: friend-to-both, expect: Allow, from: {identity: {labels: {role: friend}}}, to: {podSelector: {matchExpressions: [{key: pod, operator: In, values: [joined, freed]}]}}, ports: [{port: 8080}]}
  - {name: stranger-to-joined, expect: Deny, from: {podSelector: {matchLabels: {role: stranger}}}, to: {podSelector: {matchLabels: {pod: joined}}}, ports: [{port: 8080}]}
  - {name: stranger-to-freed, expect: Allow, from: {podSelector: {matchLabels: {role: stranger}}}, to: {podSelector: {matchLabels: {pod: freed}}}, ports: [{port: 8080}]}
`

var _ = Describe("the direction and the node that fail", Ordered, ContinueOnFailure, func() {
	key := types.NamespacedName{Namespace: "attribution", Name: "attribution"}
	const broken = "node-b"

	BeforeAll(func(ctx SpecContext) {
		requireLab()
		Expect(bed.Kubectl(ctx, "apply", "-f", bed.Path("test/e2e/testdata/attribution.yaml"))).To(Succeed())
		DeferCleanup(func(ctx SpecContext) {
			Expect(bed.Kubectl(ctx, "delete", "namespace", "attribution", "--timeout=120s")).To(Succeed())
		})
		pods := []*corev1.Pod{
			attributionPod("server", broken, "app=server", "TCP/8080,UDP/5000,SCTP/9000"),
			attributionPod("guarded", broken, "app=guarded", "TCP/8080,TCP/8081"),
			attributionPod("named", broken, "app=named", "TCP/8080,TCP/8081"),
			attributionPod("open", "node-a", "app=open", "TCP/8080,TCP/8081"),
			attributionPod("joined", broken, "app=free", "TCP/8080"),
			attributionPod("freed", broken, "app=server", "TCP/8080"),
			attributionPod("stranger", "node-a", "role=stranger", "TCP/8080"),
			attributionPod("client", broken, "role=client", "TCP/8080"),
		}
		for _, p := range pods {
			Expect(bed.Client.Create(ctx, p)).To(Succeed())
		}
		Expect(bed.Kubectl(ctx, "-n", "attribution", "wait", "--for=condition=Ready", "--timeout=90s", "pod", "-l", "pod")).To(Succeed())
	}, NodeTimeout(3*time.Minute))

	AfterEach(func(ctx SpecContext) { Expect(bed.Heal(ctx)).To(Succeed()) })

	DescribeTable("are named", func(ctx SpecContext, mode, family string, want map[string]string) {
		Expect(bed.Break(ctx, mode, broken)).To(Succeed())
		exp := probe(ctx, key)
		if len(want) == 0 {
			expectAllMet(exp)
			return
		}
		exp = await(ctx, key, attributed)
		Expect(blamed(exp)).To(Equal(want), describe(exp))
		for _, f := range exp.Status.Findings {
			if len(f.Attributions) > 0 && family != "" {
				Expect(f.Family).To(Equal(family), describe(exp))
			}
			for _, a := range f.Attributions {
				Expect(f.Message).To(MatchRegexp("(?i)%s of the (source|target) .*node %s", a.Direction, a.Node), describe(exp))
			}
		}
	},
		Entry("none, where denied is answered with ICMP", SpecTimeout(3*time.Minute), "reject", "", nil),
		Entry("none, where denied is reset", SpecTimeout(3*time.Minute), "reject-rst", "", nil),
		Entry("nothing enforced", SpecTimeout(3*time.Minute), "off", "", merge(
			fails("EnforcementMissing Ingress@node-b controlled", "stranger-to-tcp", "stranger-to-udp", "stranger-to-sctp", "stranger-to-guarded", "stranger-to-named", "stranger-outside-range"),
			fails("EnforcementMissing Egress@node-b controlled", "client-to-closed-port", "client-to-excepted"),
			fails("EnforcementMissing Egress@node-b controlled Ingress@node-b controlled", "client-to-server"))),
		Entry("ingress ignored", SpecTimeout(3*time.Minute), "ingress-ignored", "",
			fails("EnforcementMissing Ingress@node-b controlled", "stranger-to-tcp", "stranger-to-udp", "stranger-to-sctp", "stranger-to-guarded", "stranger-to-named", "stranger-outside-range")),
		Entry("egress ignored", SpecTimeout(3*time.Minute), "egress-ignored", "",
			fails("EnforcementMissing Egress@node-b controlled", "client-to-closed-port", "client-to-excepted")),
		Entry("UDP ignored", SpecTimeout(3*time.Minute), "udp-ignored", "", fails("EnforcementMissing Ingress@node-b controlled", "stranger-to-udp")),
		Entry("SCTP ignored", SpecTimeout(3*time.Minute), "sctp-ignored", "", fails("EnforcementMissing Ingress@node-b controlled", "stranger-to-sctp")),
		Entry("IPv6 ignored", SpecTimeout(3*time.Minute), "ipv6-ignored", "IPv6", merge(
			fails("EnforcementMissing Ingress@node-b controlled", "stranger-to-tcp", "stranger-to-udp", "stranger-to-sctp", "stranger-to-guarded", "stranger-to-named", "stranger-outside-range"),
			fails("EnforcementMissing Egress@node-b controlled", "client-to-closed-port", "client-to-excepted"),
			fails("EnforcementMissing Egress@node-b controlled Ingress@node-b controlled", "client-to-server"))),
		Entry("namespaceSelector ignored", SpecTimeout(3*time.Minute), "namespaceselector-ignored", "", fails("EnforcementMissing Ingress@node-b controlled", "stranger-to-guarded")),
		Entry("named ports unresolved", SpecTimeout(3*time.Minute), "named-ports-unresolved", "", fails("EnforcementMissing Ingress@node-b controlled", "stranger-to-named")),
		Entry("endPort, read as no end", SpecTimeout(3*time.Minute), "endport-ignored", "", fails("EnforcementMissing Ingress@node-b controlled", "stranger-outside-range")),
		Entry("endPort, read as a single port", SpecTimeout(3*time.Minute), "endport-single", "", fails("UnexpectedBlock Ingress@node-b controlled", "stranger-inside-range")),
		// Egress is enforced towards everything else, so that no control fails with it.
		Entry("except ignored", SpecTimeout(3*time.Minute), "except-ignored", "", fails("EnforcementMissing Egress@node-b", "client-to-excepted")),
		// Of the servers there, nothing can be concluded: nobody gets an answer.
		Entry("answers dropped", SpecTimeout(3*time.Minute), "replies-dropped", "", fails("UnexpectedBlock Egress@node-b controlled", "client-to-open-port", "client-to-partner")),
	)

	It("are named where labels changed and the agent did not see it", func(ctx SpecContext) {
		Expect(bed.Break(ctx, "stale", broken)).To(Succeed())
		Expect(bed.Kubectl(ctx, "-n", "attribution", "label", "--overwrite", "pod", "joined", "app=server")).To(Succeed())
		Expect(bed.Kubectl(ctx, "-n", "attribution", "label", "--overwrite", "pod", "freed", "app=free")).To(Succeed())
		file := filepath.Join(GinkgoT().TempDir(), "stale.yaml")
		Expect(os.WriteFile(file, []byte(stalePaths), 0o600)).To(Succeed())
		Expect(bed.Kubectl(ctx, "apply", "-f", file)).To(Succeed())
		exp := await(ctx, types.NamespacedName{Namespace: "attribution", Name: "stale"}, func(e *v1alpha1.ConnectivityExpectation) bool {
			return e.Status.LastRun != nil && attributed(e)
		})
		Expect(blamed(exp)).To(Equal(merge(
			fails("EnforcementMissing Ingress@node-b controlled", "stranger-to-joined"), fails("UnexpectedBlock Ingress@node-b controlled", "stranger-to-freed"))), describe(exp))
		Eventually(func() []string { return oneShotPods(ctx, "attribution") }).WithTimeout(30 * time.Second).Should(BeEmpty())
	}, SpecTimeout(3*time.Minute))
})

// attributionPod is a pod that listens, on a node. Its port 8080 has the name http.
func attributionPod(name, node, label, listen string) *corev1.Pod {
	k, v, _ := strings.Cut(label, "=")
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "attribution", Name: name, Labels: map[string]string{"pod": name, k: v}},
		Spec: corev1.PodSpec{
			NodeSelector: map[string]string{"kubernetes.io/hostname": node}, AutomountServiceAccountToken: ptr.To(false), TerminationGracePeriodSeconds: ptr.To[int64](1),
			Containers: []corev1.Container{{
				Name: "server", Image: "ghcr.io/pathproof/probe:latest", ImagePullPolicy: corev1.PullIfNotPresent,
				Args:           []string{"serve", "--listen=" + listen, "--health-port=8099", "--raw-sctp"},
				Ports:          []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
				ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromInt32(8099)}}},
				SecurityContext: &corev1.SecurityContext{
					RunAsUser: ptr.To[int64](65532), AllowPrivilegeEscalation: ptr.To(false),
					Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_RAW"}},
				},
			}},
		},
	}
}

// contradicts tells whether a finding is about the network, and not about what is
// declared or not known.
func contradicts(f v1alpha1.Finding) bool {
	return slices.Contains([]string{"EnforcementMissing", "DriftMasked", "UnexpectedBlock", "BlockedOutsidePolicy"}, f.Cause)
}

// attributed tells whether a direction is named for all that the network does wrong.
func attributed(exp *v1alpha1.ConnectivityExpectation) bool {
	for _, f := range exp.Status.Findings {
		if contradicts(f) && len(f.Attributions) == 0 {
			return false
		}
	}
	return true
}

// fails returns what blamed does for paths that fail alike.
func fails(how string, paths ...string) map[string]string {
	out := map[string]string{}
	for _, p := range paths {
		out[p] = how
	}
	return out
}

func merge(all ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, m := range all {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}

// blamed renders what the network does wrong on each path, and which directions and nodes
// are named for it. Findings of a path that differ are all there.
func blamed(exp *v1alpha1.ConnectivityExpectation) map[string]string {
	out := map[string]string{}
	for _, f := range exp.Status.Findings {
		if !contradicts(f) {
			continue
		}
		s := f.Cause
		for _, a := range f.Attributions {
			s += " " + string(a.Direction) + "@" + a.Node
			if a.Controlled {
				s += " controlled"
			}
		}
		if known := out[f.Path]; known != "" && known != s {
			s = known + " / " + s
		}
		out[f.Path] = s
	}
	return out
}

// oneShotPods returns the probe pods of runs that are under way, without those that stay.
func oneShotPods(ctx context.Context, namespace string) []string {
	GinkgoHelper()
	var list corev1.PodList
	Expect(bed.Client.List(ctx, &list, client.InNamespace(namespace))).To(Succeed())
	var out []string
	for _, p := range list.Items {
		if p.Annotations["pathproof.dev/run"] != "" {
			out = append(out, p.Name)
		}
	}
	return out
}
