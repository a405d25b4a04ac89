package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/test/testbed"
)

const systemNamespace = "pathproof-system"

// createCanary creates the canary, without waiting for it.
func createCanary(ctx context.Context, spec v1alpha1.EnforcementCanarySpec) {
	GinkgoHelper()
	Expect(bed.Client.Create(ctx, &v1alpha1.EnforcementCanary{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.CanaryName}, Spec: spec})).To(Succeed())
}

// removeCanary deletes the canary, which has to leave nothing.
func removeCanary(ctx context.Context) {
	GinkgoHelper()
	Expect(bed.Kubectl(ctx, "delete", "enforcementcanary", v1alpha1.CanaryName, "--ignore-not-found", "--timeout=60s")).To(Succeed())
	Eventually(func() bool {
		for _, ns := range []string{canaryNamespace, canaryNamespace + "-abroad"} {
			if err := bed.Client.Get(ctx, client.ObjectKey{Name: ns}, &corev1.Namespace{}); !apierrors.IsNotFound(err) {
				return false
			}
		}
		policy := &metav1.PartialObjectMetadata{}
		policy.SetGroupVersionKind(schema.GroupVersionKind{Group: "policy.networking.k8s.io", Version: "v1alpha2", Kind: "ClusterNetworkPolicy"})
		return apierrors.IsNotFound(bed.Client.Get(ctx, client.ObjectKey{Name: canaryNamespace}, policy))
	}).WithTimeout(90 * time.Second).WithPolling(500 * time.Millisecond).Should(BeTrue())
}

// awaitCanary waits for a state of the canary.
func awaitCanary(ctx context.Context, timeout time.Duration, what string, is func(*v1alpha1.EnforcementCanary) bool) *v1alpha1.EnforcementCanary {
	GinkgoHelper()
	c := &v1alpha1.EnforcementCanary{}
	Eventually(func() bool {
		return bed.Client.Get(ctx, client.ObjectKey{Name: v1alpha1.CanaryName}, c) == nil && is(c)
	}).WithContext(ctx).WithTimeout(timeout).WithPolling(200*time.Millisecond).Should(BeTrue(), func() string { return what + "\n" + describeCanary(c) })
	return c
}

// seen is what was seen of the canary, of all expectations and of the operator's metrics.
type seen struct {
	mu sync.Mutex
	// enforced are the values of the canary's condition, and ready those of expectations.
	enforced, ready map[string]bool
	// alarms are what must not be seen, in words.
	alarms []string
	// scrapes counts the times at which the metrics could be read.
	scrapes int
}

func (s *seen) alarm(format string, args ...any) {
	s.alarms = append(s.alarms, time.Now().Format("15:04:05 ")+fmt.Sprintf(format, args...))
}

// note takes a look at an object. One that was just written must not be green by what is
// too old to count.
func (s *seen) note(o client.Object, written bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch o := o.(type) {
	case *v1alpha1.EnforcementCanary:
		c := canaryCondition(o, v1alpha1.ConditionEnforced)
		s.enforced[string(c.Status)] = true
		if c.Status == metav1.ConditionFalse {
			s.alarm("%s", describeCanary(o))
		}
		limit := time.Duration(float64(o.Spec.IntervalSeconds)*2.5)*time.Second + 5*time.Second
		if last := o.Status.LastRound; written && c.Status == metav1.ConditionTrue && last != nil && time.Since(last.FinishedAt.Time) > limit {
			s.alarm("green by a round of %s", last.FinishedAt)
		}
	case *v1alpha1.ConnectivityExpectation:
		s.ready[string(testbed.Ready(o).Status)] = true
		if testbed.Ready(o).Status == metav1.ConditionFalse || (o.Status.Summary != nil && o.Status.Summary.Violated > 0) {
			s.alarm("%s", describe(o))
		}
	}
}

// calm watches every state of the canary, of all expectations and of the metrics while
// something happens, and returns it: nothing may be called violated at any time.
func calm(ctx context.Context, happens func()) *seen {
	GinkgoHelper()
	s := &seen{enforced: map[string]bool{}, ready: map[string]bool{}}
	token := metricsToken(ctx)
	watching, stop := context.WithCancel(ctx)
	var watches sync.WaitGroup
	watches.Go(func() { follow(watching, &v1alpha1.EnforcementCanaryList{}, s.note) })
	watches.Go(func() { follow(watching, &v1alpha1.ConnectivityExpectationList{}, s.note) })
	watches.Go(func() { s.scrape(watching, token) })
	defer watches.Wait()
	defer stop()
	happens()
	stop()
	watches.Wait()
	Expect(s.alarms).To(BeEmpty())
	Expect(s.scrapes).To(BeNumerically(">", 0))
	Expect(slices.Collect(maps.Keys(s.enforced))).To(ContainElement("True"))
	return s
}

// follow looks at every state of all objects of a kind until the context ends. The API
// server may be away for some of the time.
func follow(ctx context.Context, list client.ObjectList, see func(o client.Object, written bool)) {
	for ctx.Err() == nil {
		if bed.Client.List(ctx, list) == nil {
			_ = meta.EachListItem(list, func(o runtime.Object) error { see(o.(client.Object), false); return nil })
			from := &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.GetResourceVersion()}}
			if w, err := bed.Client.Watch(ctx, list.DeepCopyObject().(client.ObjectList), from); err == nil {
				for e := range w.ResultChan() {
					if o, ok := e.Object.(client.Object); ok && e.Type == watch.Modified {
						see(o, true)
					}
				}
				w.Stop()
			}
		}
		pause(ctx, 100*time.Millisecond)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// metricsToken returns a token that may read the metrics of the operator.
func metricsToken(ctx context.Context) string {
	GinkgoHelper()
	const account = "pathproof-calm"
	remove := func(ctx context.Context) {
		GinkgoHelper()
		Expect(bed.Kubectl(ctx, "-n", systemNamespace, "delete", "serviceaccount", account, "--ignore-not-found")).To(Succeed())
		Expect(bed.Kubectl(ctx, "delete", "clusterrolebinding", account, "--ignore-not-found")).To(Succeed())
	}
	remove(ctx)
	DeferCleanup(func(ctx SpecContext) { remove(ctx) })
	Expect(bed.Kubectl(ctx, "-n", systemNamespace, "create", "serviceaccount", account)).To(Succeed())
	Expect(bed.Kubectl(ctx, "create", "clusterrolebinding", account, "--clusterrole=pathproof-metrics-reader", "--serviceaccount="+systemNamespace+":"+account)).To(Succeed())
	token, err := bed.KubectlOutput(ctx, "-n", systemNamespace, "create", "token", account, "--duration=1h")
	Expect(err).NotTo(HaveOccurred())
	return strings.TrimSpace(token)
}

// scrape reads the metrics of the operator at the addresses of its pods, twice a second,
// until the context ends. While it is restarted, or nobody can tell who asks, there are none.
func (s *seen) scrape(ctx context.Context, token string) {
	insecure := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer insecure.CloseIdleConnections()
	for ; ctx.Err() == nil; pause(ctx, 500*time.Millisecond) {
		var pods corev1.PodList
		if bed.Client.List(ctx, &pods, client.InNamespace(systemNamespace)) != nil {
			continue
		}
		for _, pod := range pods.Items {
			text, err := metricsAt(ctx, insecure, pod.Status.PodIP, token)
			if err != nil {
				continue
			}
			s.mu.Lock()
			s.scrapes++
			for line := range strings.Lines(text) {
				if strings.HasPrefix(line, "pathproof_enforcement_violation") {
					s.alarm("the metrics say %s", line)
				}
			}
			s.mu.Unlock()
		}
	}
}

func metricsAt(ctx context.Context, c *http.Client, addr, token string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+net.JoinHostPort(addr, "8443")+"/metrics", http.NoBody)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, text)
	}
	return string(text), err
}

// sealedBy says what the path of the sealed namespace has to show.
func sealedBy(exp *v1alpha1.ConnectivityExpectation, canary int32) {
	GinkgoHelper()
	expectAllMet(exp)
	Expect(exp.Status.Summary.Checks).To(BeEquivalentTo(4), "from two nodes, over two families; probe pods: %+v", exp.Status.LastRun.ProbePods)
	Expect(exp.Status.LastRun.CanaryEvidence).To(Equal(canary))
}

// canaryUIDs are those of the canary's pods.
func canaryUIDs(ctx context.Context) map[string]types.UID {
	GinkgoHelper()
	var pods corev1.PodList
	Expect(bed.Client.List(ctx, &pods, client.HasLabels{"pathproof.dev/canary"})).To(Succeed())
	Expect(pods.Items).NotTo(BeEmpty())
	out := map[string]types.UID{}
	for i := range pods.Items {
		out[pods.Items[i].Name] = pods.Items[i].UID
	}
	return out
}

// Nobody raises an alarm for what is no fault of the network, and nobody is green for
// what is not known.
var _ = Describe("in a namespace where nobody may reach anybody, with a canary", Ordered, func() {
	const interval = 15
	fresh := func(since time.Time) func(*v1alpha1.EnforcementCanary) bool {
		return func(c *v1alpha1.EnforcementCanary) bool {
			return c.Status.LastRound != nil && c.Status.LastRound.StartedAt.After(since) && canaryCondition(c, v1alpha1.ConditionReady).Status == metav1.ConditionTrue
		}
	}

	BeforeAll(func(ctx SpecContext) {
		requireLab()
		removeCanary(ctx) // of a suite that was killed
		applyScenario(ctx, testbed.Sealed)
		exp := probe(ctx, testbed.Sealed.Key)
		expectRight(exp, testbed.Sealed)
		inconclusive(exp, "closed", "NoPositiveControl", "the canary does not know the way either: there is no EnforcementCanary")
		createCanary(ctx, v1alpha1.EnforcementCanarySpec{IntervalSeconds: interval})
		DeferCleanup(removeCanary)
		awaitCanary(ctx, 3*time.Minute, "its first round", fresh(time.Time{}))
	}, NodeTimeout(5*time.Minute))

	AfterEach(func(ctx SpecContext) { Expect(bed.Heal(ctx)).To(Succeed()) })

	It("closed paths are proved, unless the nodes are cut apart or the network lets them through", func(ctx SpecContext) {
		start := time.Now()
		exp := probe(ctx, testbed.Sealed.Key)
		measured("a run that waits for the canary", time.Since(start))
		sealedBy(exp, 4)

		By("nodes that are cut apart")
		a, b := podRanges(ctx, "node-a"), podRanges(ctx, "node-b")
		var rules []string
		for _, way := range [][2][2]string{{a, b}, {b, a}} {
			from, to := way[0], way[1]
			rules = append(rules, fmt.Sprintf("ip saddr %s ip daddr %s drop", from[0], to[0]), fmt.Sprintf("ip6 saddr %s ip6 daddr %s drop", from[1], to[1]))
		}
		filter(ctx, nodeNetns("node-a"), "forward", rules...)
		exp = probe(ctx, testbed.Sealed.Key)
		inconclusive(exp, "closed", "PathBroken", "nor do pods of the canary, which no policy selects, reach each other between these nodes")
		Expect(exp.Status.Findings).To(HaveLen(2), describe(exp)) // within a node, nothing is cut
		Expect(exp.Status.LastRun.CanaryEvidence).To(BeEquivalentTo(2))
		unfilter(ctx, nodeNetns("node-a"))
		canaryRound(ctx) // what was broken in the round before counts for nothing
		sealedBy(probe(ctx, testbed.Sealed.Key), 4)

		By("policies that are not enforced")
		Expect(bed.Break(ctx, "off", "")).To(Succeed())
		exp = probe(ctx, testbed.Sealed.Key)
		Expect(verdicts(exp)).To(Equal(violations("EnforcementMissing", "closed")), describe(exp))
		Expect(exp.Status.LastRun.CanaryEvidence).To(BeZero())
		Expect(bed.Heal(ctx)).To(Succeed())
		canaryRound(ctx)
		sealedBy(probe(ctx, testbed.Sealed.Key), 4)
	}, SpecTimeout(4*time.Minute))

	It("raises no alarm while the API server is away for a minute", func(ctx SpecContext) {
		Expect(bed.RestartOperator(ctx)).To(Succeed()) // whatever the specs before have done to it
		canaryRound(ctx)
		sealedBy(probe(ctx, testbed.Sealed.Key), 4)
		before := canaryUIDs(ctx)
		calm(ctx, func() {
			Expect(bed.Stop(ctx, "kube-apiserver")).To(Succeed())
			DeferCleanup(func(ctx SpecContext) { Expect(bed.Repair(ctx)).To(Succeed()) })
			pause(ctx, time.Minute)
			Expect(bed.Repair(ctx)).To(Succeed())
			back := time.Now()
			// What is written there is as old as the outage until somebody writes again.
			awaitCanary(ctx, 3*time.Minute, "something new", func(c *v1alpha1.EnforcementCanary) bool {
				return canaryCondition(c, v1alpha1.ConditionEnforced).Status == metav1.ConditionUnknown || c.Status.LastRound.FinishedAt.After(back)
			})
			measured("the API server came back, to a status that is not from before", time.Since(back))
			awaitCanary(ctx, 3*time.Minute, "all known again", fresh(back))
			measured("the API server came back, to everything known again", time.Since(back))
			// The node controller takes nodes for lost at first.
			Expect(canaryUIDs(ctx)).To(Equal(before))
			// client-go opens a watch again within a minute, when it was refused for so long.
			// An agent that waits for that does not know of new pods, which are open until then,
			// and whoever probes with them says so. One that begins anew knows of all, as soon as
			// it has said that it enforces.
			for _, node := range []string{"node-a", "node-b"} {
				Expect(bed.Stop(ctx, "agent-"+node)).To(Succeed())
			}
			Expect(bed.Repair(ctx)).To(Succeed())
			Expect(bed.Heal(ctx)).To(Succeed())
			sealedBy(probe(ctx, testbed.Sealed.Key), 4)
		})
	}, SpecTimeout(6*time.Minute))

	It("raises no alarm when a node goes, and when one comes", func(ctx SpecContext) {
		canaryRound(ctx)
		var managers corev1.PodList
		Expect(bed.Client.List(ctx, &managers, client.InNamespace(systemNamespace))).To(Succeed())
		name := "node-a"
		if managers.Items[0].Spec.NodeName == name {
			name = "node-b"
		}
		node := &corev1.Node{}
		Expect(bed.Client.Get(ctx, client.ObjectKey{Name: name}, node)).To(Succeed())
		comes := func(ctx context.Context) {
			GinkgoHelper()
			// Its range of addresses is given to a node before its kubelet registers it.
			again := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: node.Spec.PodCIDR, PodCIDRs: node.Spec.PodCIDRs}}
			if err := bed.Client.Create(ctx, again); !apierrors.IsAlreadyExists(err) {
				Expect(err).NotTo(HaveOccurred())
				Expect(bed.Stop(ctx, "kubelet-"+name)).To(Succeed())
			}
			Expect(bed.Repair(ctx)).To(Succeed())
		}
		calm(ctx, func() {
			DeferCleanup(func(ctx SpecContext) { comes(ctx) })
			Expect(bed.Client.Delete(ctx, node)).To(Succeed())
			awaitCanary(ctx, 60*time.Second, "one node", func(c *v1alpha1.EnforcementCanary) bool {
				return c.Status.Nodes.Selected == 1 && canaryCondition(c, v1alpha1.ConditionReady).Status == metav1.ConditionTrue
			})
			comes(ctx)
			back := time.Now()
			awaitCanary(ctx, 3*time.Minute, "two nodes", func(c *v1alpha1.EnforcementCanary) bool { return c.Status.Nodes.Covered == 2 && fresh(back)(c) })
			measured("a node came, to everything known of it", time.Since(back))
			sealedBy(probe(ctx, testbed.Sealed.Key), 4)
		})
	}, SpecTimeout(6*time.Minute))

	It("knows what it knows for 2.5 intervals while the image of the probe is gone, and recovers", func(ctx SpecContext) {
		canaryRound(ctx)
		s := calm(ctx, func() {
			Expect(bed.RemoveProbeImage(ctx)).To(Succeed())
			DeferCleanup(func(ctx SpecContext) { Expect(bed.RestoreProbeImage(ctx)).To(Succeed()) })
			var pods corev1.PodList
			Expect(bed.Client.List(ctx, &pods, client.InNamespace(canaryNamespace), client.MatchingLabels{"pathproof.dev/canary-role": "guarded"})).To(Succeed())
			Expect(pods.Items).To(HaveLen(2))
			Expect(bed.Client.Delete(ctx, &pods.Items[0])).To(Succeed())
			start := time.Now()
			awaitCanary(ctx, 90*time.Second, "unknown", func(c *v1alpha1.EnforcementCanary) bool {
				return canaryCondition(c, v1alpha1.ConditionEnforced).Status == metav1.ConditionUnknown
			})
			Expect(time.Since(start)).To(BeNumerically(">", interval*time.Second))
			c := readCanary(ctx)
			Expect(canaryCondition(c, v1alpha1.ConditionComplete).Reason).To(Equal(v1alpha1.ReasonCanaryIncomplete))
			Expect(canaryCondition(c, v1alpha1.ConditionComplete).Message).To(ContainSubstring("ImagePull"), describeCanary(c))
			Expect(bed.RestoreProbeImage(ctx)).To(Succeed())
			back := time.Now()
			awaitCanary(ctx, 3*time.Minute, "all known again", fresh(back))
			measured("the image came back, to everything known again", time.Since(back))
		})
		Expect(slices.Sorted(maps.Keys(s.enforced))).To(Equal([]string{"True", "Unknown"}))
		sealedBy(probe(ctx, testbed.Sealed.Key), 4)
	}, SpecTimeout(6*time.Minute))
})
