package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/test/testbed"
)

// What looks like a closed path and is none. Each way is one row of docs/evidence.md,
// which names the spec; none may be green, and none a violation.
var _ = Describe("silence that proves nothing", Ordered, func() {
	const namespace = "evidence"
	asItIs, resident := testbed.AsItIs.Key, testbed.Evidence.Key
	ownKey := types.NamespacedName{Namespace: namespace, Name: "own"}

	BeforeAll(func(ctx SpecContext) {
		requireLab() // its nodes are network namespaces of this machine
		applyScenario(ctx, testbed.AsItIs)
		both := pairOf(ctx, asItIs)
		expectTheSame(both.probe(ctx))
		// The faults are for the pods of the others.
		Expect(bed.Kubectl(ctx, "-n", namespace, "delete", "cxp", both.resident.Name)).To(Succeed())
		expectAllMet(probe(ctx, resident))
	}, NodeTimeout(3*time.Minute))

	Context("without a fault", func() {
		It("at a port without a listener", func(ctx SpecContext) {
			exp := settled(ctx, asItIs)
			inconclusive(exp, "no-listener", "TargetNotListening", "was refused at this port, although policies let it through")
			inconclusive(exp, "no-listener-for-friends", "TargetNotListening", "the connection was reset and nobody else reached this port")
		})
		It("at a port that no policy lets anybody reach", func(ctx SpecContext) {
			inconclusive(settled(ctx, asItIs), "for-nobody", "NoPositiveControl", "no other check of this run reached this address and port")
		})
		It("of a target that is not ready", func(ctx SpecContext) {
			inconclusive(settled(ctx, asItIs), "not-ready", "TargetNotReady", "the target pod is not ready")
		})
		It("of a kernel without SCTP", func(ctx SpecContext) {
			if testbed.KernelSCTP() {
				Skip("this kernel has SCTP sockets")
			}
			inconclusive(settled(ctx, asItIs), "without-sctp", "Unsupported", "has no SCTP sockets")
		})
		It("of a name that does not exist", func(ctx SpecContext) {
			inconclusive(settled(ctx, asItIs), "no-such-name", "NameNotResolved", "the name did not resolve inside the probe pod")
		})
	})

	It("where a filter resets in the name of the target", func(ctx SpecContext) {
		DeferCleanup(func(ctx SpecContext) { Expect(bed.Heal(ctx)).To(Succeed()) })
		Expect(bed.Break(ctx, "reject-rst", "")).To(Succeed())
		inconclusive(probe(ctx, asItIs), "for-nobody", "TargetNotListening", "the connection was reset and nobody else reached this port")
	}, SpecTimeout(2*time.Minute))

	Context("with a fault put on the pods of a run", func() {
		It("between nodes that are cut apart", func(ctx SpecContext) {
			from, to := podRanges(ctx, "node-a"), podRanges(ctx, "node-b")
			filter(ctx, nodeNetns("node-a"), "forward",
				fmt.Sprintf("ip saddr %s ip daddr %s drop", from[0], to[0]), fmt.Sprintf("ip6 saddr %s ip6 daddr %s drop", from[1], to[1]))
			inconclusive(probe(ctx, resident), "closed", "PathBroken", "a path that policies allow is silent from node node-a to node node-b")
		}, SpecTimeout(2*time.Minute))

		It("of a resolver that answers nobody", func(ctx SpecContext) {
			for _, pod := range dnsPods(ctx) {
				filter(ctx, podNetns(&pod), "input", "udp dport 53 drop", "tcp dport 53 drop")
			}
			exp := probe(ctx, resident)
			inconclusive(exp, "resolves-not", "TargetSilent", "got answers elsewhere and none here, although policies let it through")
			inconclusive(exp, "resolves", "TargetSilent", "got answers elsewhere and none here, although policies let it through")
			inconclusive(probe(ctx, asItIs), "no-such-name", "ResolverSilent", "no resolver answered inside the probe pod")
		}, SpecTimeout(2*time.Minute))

		It("while nothing that the control sends arrives", func(ctx SpecContext) {
			var rules []string
			for _, pod := range probesWith(ctx, namespace, "role", "friend") {
				for _, ip := range pod.Status.PodIPs {
					keyword := "ip"
					if strings.Contains(ip.IP, ":") {
						keyword = "ip6"
					}
					rules = append(rules, fmt.Sprintf("%s saddr %s drop", keyword, ip.IP))
				}
			}
			Expect(rules).NotTo(BeEmpty())
			for _, node := range nodeNames(ctx) {
				filter(ctx, nodeNetns(node), "forward", rules...)
			}
			inconclusive(probe(ctx, resident), "closed", "NoPositiveControl", "got no answer to any of its checks: the target is silent, or what the control sends is lost")
		}, SpecTimeout(2*time.Minute))

		It("where the connection tables are full", func(ctx SpecContext) {
			fillTables(ctx)
			inconclusive(probe(ctx, resident), "closed", "SourceCutOff", "nothing new gets in or out, as where a connection table is full")
		}, SpecTimeout(2*time.Minute))

		It("of a probe whose interface is down", func(ctx SpecContext) {
			pods := probesWith(ctx, namespace, "role", "stranger")
			Expect(pods).NotTo(BeEmpty())
			for _, pod := range pods {
				inNetns(ctx, podNetns(&pod), "", "ip", "link", "set", "eth0", "down")
				// Its routes are gone for good.
				DeferCleanup(func(ctx SpecContext) { Expect(client.IgnoreNotFound(bed.Client.Delete(ctx, &pod))).To(Succeed()) })
			}
			inconclusive(probe(ctx, resident), "closed", "SourceNetworkDown", "the probe could neither send nor hear: eth0 is down")
		}, SpecTimeout(2*time.Minute))
	})

	Context("with an expectation of its own", func() {
		BeforeAll(func(ctx SpecContext) {
			// What is done to policies and pods here would start their runs, too.
			Expect(bed.Kubectl(ctx, "-n", namespace, "delete", "cxp", "--all")).To(Succeed())
		})

		// own declares a closed path and its control, and what it takes to probe them.
		own := func(ctx context.Context, app, settings string) {
			GinkgoHelper()
			path := "  - {name: %s, expect: %s, from: {identity: {labels: {role: %s}}}, to: {podSelector: {matchLabels: {app: " + app + "}}}, ports: [{port: 8080}]}\n"
			apply(ctx, "apiVersion: pathproof.dev/v1alpha1\nkind: ConnectivityExpectation\nmetadata: {name: own, namespace: evidence}\nspec:\n"+
				"  probe: {intervalSeconds: 86400, "+settings+"}\n  paths:\n"+fmt.Sprintf(path, "closed", "Deny", "stranger")+fmt.Sprintf(path, "open", "Allow", "friend"))
			DeferCleanup(func(ctx SpecContext) {
				Expect(bed.Kubectl(ctx, "-n", namespace, "delete", "cxp", "own")).To(Succeed())
			})
		}
		const quick = "settleSeconds: 2, timeoutMilliseconds: 500"

		It("of a target that is gone", func(ctx SpecContext) {
			own(ctx, "leaving", quick)
			expectAllMet(settled(ctx, ownKey))
			Expect(bed.Kubectl(ctx, "-n", namespace, "delete", "pod", "leaving")).To(Succeed())
			exp := await(ctx, ownKey, func(e *v1alpha1.ConnectivityExpectation) bool { return testbed.Ready(e).Reason == "NoTargetMatched" })
			inconclusive(exp, "closed", "NoTargetMatched", "no running pod matches")
		}, SpecTimeout(3*time.Minute))

		It("while policies change", func(ctx SpecContext) {
			own(ctx, "server", quick)
			changing, stop := context.WithCancel(ctx)
			defer stop()
			go changePolicy(changing, types.NamespacedName{Namespace: namespace, Name: "from-friends"})
			exp := await(ctx, ownKey, func(e *v1alpha1.ConnectivityExpectation) bool {
				return testbed.Condition(e, v1alpha1.ConditionEnforced).Reason == "ChangedDuringProbe"
			})
			inconclusive(exp, "closed", "ChangedDuringProbe", "policies, labels or endpoints changed during each of 4 runs in a row")
		}, SpecTimeout(3*time.Minute))

		It("when the probe was evicted", func(ctx SpecContext) {
			own(ctx, "server", "timeoutMilliseconds: 5000")
			var pods []corev1.Pod
			Eventually(func() []corev1.Pod {
				pods = probesWith(ctx, namespace, "role", "stranger")
				return pods
			}).WithContext(ctx).WithTimeout(30 * time.Second).Should(And(Not(BeEmpty()), HaveEach(HaveField("Status.Phase", corev1.PodRunning))))
			for _, pod := range pods {
				Expect(bed.Client.SubResource("eviction").Create(ctx, &pod, &policyv1.Eviction{})).To(Succeed())
			}
			inconclusive(settled(ctx, ownKey), "closed", "ProbeFailed", "the probe pod was evicted before it had reported: EvictionByEvictionAPI")
		}, SpecTimeout(3*time.Minute))

		It("when admission refuses the probe", func(ctx SpecContext) {
			// It takes the API server a moment to know of a policy, and to forget it.
			refused := func(ctx context.Context, is OmegaMatcher) {
				stranger := &corev1.Pod{
					ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "stranger", Labels: map[string]string{"role": "stranger"}},
					Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "example.com/none"}}},
				}
				Eventually(func() error { return bed.Client.Create(ctx, stranger.DeepCopy(), client.DryRunAll) }).
					WithContext(ctx).WithTimeout(30 * time.Second).Should(is)
			}
			apply(ctx, refusal)
			DeferCleanup(func(ctx SpecContext) {
				Expect(bed.Kubectl(ctx, "delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", fault)).To(Succeed())
				refused(ctx, Succeed())
			})
			refused(ctx, MatchError(ContainSubstring("no strangers here")))
			own(ctx, "server", quick)
			inconclusive(settled(ctx, ownKey), "closed", "ProbeRefused", "ValidatingAdmissionPolicy 'pathproof-evidence'", "no strangers here")
		}, SpecTimeout(3*time.Minute))

		It("when a quota is exhausted", func(ctx SpecContext) {
			apply(ctx, "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: full, namespace: evidence}\nspec: {hard: {pods: 1}}\n")
			DeferCleanup(func(ctx SpecContext) {
				Expect(bed.Kubectl(ctx, "-n", namespace, "delete", "resourcequota", "full")).To(Succeed())
			})
			own(ctx, "server", quick)
			inconclusive(settled(ctx, ownKey), "closed", "ProbeRefused", "exceeded quota: full")
		}, SpecTimeout(3*time.Minute))

		It("when the image of the probe is missing", func(ctx SpecContext) {
			const manager = "deployment/pathproof-manager"
			system := []string{"-n", "pathproof-system"}
			kubectl := func(ctx context.Context, args ...string) {
				GinkgoHelper()
				Expect(bed.Kubectl(ctx, append(system, args...)...)).To(Succeed())
			}
			DeferCleanup(func(ctx SpecContext) {
				kubectl(ctx, "rollout", "undo", manager)
				kubectl(ctx, "rollout", "status", manager, "--timeout=120s")
			})
			kubectl(ctx, "patch", manager, "--type=json", "--patch", `[{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--start-timeout=10s"},`+
				`{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--probe-image=example.com/pathproof/missing:none"}]`)
			kubectl(ctx, "rollout", "status", manager, "--timeout=120s")
			own(ctx, "server", quick)
			inconclusive(settled(ctx, ownKey), "closed", "SourceNotReady", "the probe pod did not start within 10s", "ImagePull")
		}, SpecTimeout(5*time.Minute))
	})
})

// refusal is an admission policy that admits no pod of a stranger.
const refusal = `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: pathproof-evidence}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
  validations:
  - expression: "object.metadata.?labels.role.orValue('') != 'stranger'"
    message: no strangers here
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: pathproof-evidence}
spec:
  policyName: pathproof-evidence
  validationActions: [Deny]
  matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: evidence}}}
`

// inconclusive is testbed.Inconclusive.
func inconclusive(exp *v1alpha1.ConnectivityExpectation, path, cause string, words ...string) {
	GinkgoHelper()
	Expect(testbed.Inconclusive(exp, path, cause, words...)).To(Succeed(), describe(exp))
}

// settled waits for the result of a run.
func settled(ctx context.Context, key types.NamespacedName) *v1alpha1.ConnectivityExpectation {
	GinkgoHelper()
	return await(ctx, key, func(e *v1alpha1.ConnectivityExpectation) bool {
		return e.Status.LastRun != nil && testbed.Ready(e).Reason != v1alpha1.ReasonPending
	})
}

// apply applies a manifest.
func apply(ctx context.Context, text string) {
	GinkgoHelper()
	file := filepath.Join(GinkgoT().TempDir(), "object.yaml")
	Expect(os.WriteFile(file, []byte(text), 0o600)).To(Succeed())
	Expect(bed.Kubectl(ctx, "apply", "-f", file)).To(Succeed())
}

// probesWith returns the probe pods of an identity.
func probesWith(ctx context.Context, namespace, key, value string) []corev1.Pod {
	GinkgoHelper()
	var list corev1.PodList
	Expect(bed.Client.List(ctx, &list, client.InNamespace(namespace), client.MatchingLabels{key: value})).To(Succeed())
	var out []corev1.Pod
	for _, p := range list.Items {
		if isProbe(p.Name) && p.DeletionTimestamp == nil {
			out = append(out, p)
		}
	}
	return out
}

// podRanges returns the ranges of a node's pods, of IPv4 and of IPv6.
func podRanges(ctx context.Context, node string) [2]string {
	GinkgoHelper()
	n := &corev1.Node{}
	Expect(bed.Client.Get(ctx, types.NamespacedName{Name: node}, n)).To(Succeed())
	Expect(n.Spec.PodCIDRs).To(HaveLen(2))
	return [2]string(n.Spec.PodCIDRs)
}

// changePolicy goes on changing a policy, in a way that allows nothing to those who are
// probed, until the context ends.
func changePolicy(ctx context.Context, key types.NamespacedName) {
	defer GinkgoRecover()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		patch := fmt.Sprintf(`[{"op": "replace", "path": "/spec/ingress/0/ports/1", "value": {"port": %d}}]`, 10_000+n%1000)
		policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
		err := bed.Client.Patch(ctx, policy, client.RawPatch(types.JSONPatchType, []byte(patch)))
		if ctx.Err() == nil {
			Expect(err).NotTo(HaveOccurred())
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}
