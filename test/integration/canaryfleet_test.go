package integration

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	dto "github.com/prometheus/client_model/go"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/podlog"
	manykubelets "github.com/pathproof/pathproof/test/scale/kubelets"
)

// requests counts what an operator asks the API server for.
type requests struct {
	next http.RoundTripper

	mu   sync.Mutex
	made map[string]int
}

func (r *requests) RoundTrip(req *http.Request) (*http.Response, error) {
	path := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	what := path[len(path)-1]
	for _, resource := range []string{"pods", "networkpolicies", "enforcementcanaries"} {
		if strings.Contains(req.URL.Path, "/"+resource) && what != "log" {
			what = resource
		}
	}
	r.mu.Lock()
	r.made[req.Method+" "+what]++
	r.mu.Unlock()
	return r.next.RoundTrip(req)
}

// take returns what was counted since it was last called.
func (r *requests) take() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.made
	r.made = map[string]int{}
	return out
}

// reconciles counts those of the canary, of all operators in this process.
func reconciles() float64 {
	GinkgoHelper()
	families, err := ctrlmetrics.Registry.Gather()
	Expect(err).NotTo(HaveOccurred())
	total := 0.0
	for _, f := range families {
		if f.GetName() != "controller_runtime_reconcile_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if isOf(m, "enforcementcanary") {
				total += m.GetCounter().GetValue()
			}
		}
	}
	return total
}

func isOf(m *dto.Metric, controller string) bool {
	for _, l := range m.GetLabel() {
		if l.GetName() == "controller" && l.GetValue() == controller {
			return true
		}
	}
	return false
}

// All kubelets and pods are fakes; the API server, through which logs are read, is not. What
// is asserted are numbers of requests, whatever the time is that they take.
var _ = Describe("the enforcement canary on many nodes", func() {
	const nodes = 50
	name := func(i int) string { return fmt.Sprintf("fleet-%d", i) }

	It("asks the API server for nothing in steady state, and for what is about one node when one comes or goes", func(ctx SpecContext) {
		living, end := context.WithCancel(context.Background())
		DeferCleanup(end)
		fleet, err := manykubelets.Start(living, restConfig, func(format string, args ...any) { GinkgoWriter.Printf(format+"\n", args...) })
		Expect(err).NotTo(HaveOccurred())
		add := func(ctx context.Context, i int) {
			GinkgoHelper()
			DeferCleanup(func(ctx SpecContext) {
				Expect(k8s.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name(i)}})).To(Succeed())
			})
			Expect(fleet.AddNodes(ctx, name(i))).To(Succeed())
		}
		for i := range nodes {
			add(ctx, i)
		}
		counted := &requests{made: map[string]int{}}
		config := rest.CopyConfig(restConfig)
		config.QPS = -1
		config.Wrap(func(next http.RoundTripper) http.RoundTripper { counted.next = next; return counted })
		logs, err := podlog.NewReader(config)
		Expect(err).NotTo(HaveOccurred())
		startManager(config, logs, clock.RealClock{}, nil, nil)

		coalMines++
		m := &coalMine{ns: fmt.Sprintf("mine-%d", coalMines)}
		m.create(ctx, func(s *v1alpha1.EnforcementCanarySpec) {
			// The nodes of other tests have no such label. No turn comes by itself.
			s.NodeSelector, s.IntervalSeconds = map[string]v1alpha1.LabelValue{corev1.LabelArchStable: "amd64"}, 86_400
		})
		DeferCleanup(func(ctx SpecContext) {
			for _, ns := range []string{m.ns, m.ns + canary.AbroadSuffix} {
				Expect(k8s.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(ns), client.GracePeriodSeconds(0))).To(Succeed())
			}
		})
		covers := func(n int) *v1alpha1.EnforcementCanary {
			GinkgoHelper()
			var c *v1alpha1.EnforcementCanary
			Eventually(func() bool {
				c = m.get(ctx)
				return c.Status.Nodes != nil && int(c.Status.Nodes.Covered) == n && condition(c, v1alpha1.ConditionReady).Status == metav1.ConditionTrue
			}).WithTimeout(90*time.Second).Should(BeTrue(), func() string { return fmt.Sprintf("%+v", c.Status) })
			Expect(c.Status.Offenders).To(BeEmpty())
			return c
		}
		covers(nodes)
		made := counted.take()
		Expect(made).To(HaveKeyWithValue("POST pods", 4*nodes))
		Expect(made).To(HaveKeyWithValue("GET log", 4*nodes))
		Expect(made).To(HaveKeyWithValue("POST networkpolicies", 10+nodes))

		By("steady state, which ends with a node that breaks")
		before := reconciles()
		const turns = 4
		for turn := range int64(turns) {
			if turn == turns-1 {
				fleet.Enforce(name(7), false)
			}
			fleet.Report(1000 + turn)
		}
		broken := map[string]bool{}
		Eventually(func() int {
			c := m.get(ctx)
			for _, o := range c.Status.Offenders {
				broken[o.Node] = true
			}
			return len(c.Status.Offenders)
		}).WithTimeout(30 * time.Second).Should(Equal(20)) // all rows in both directions, on a canary without ClusterNetworkPolicies
		Expect(broken).To(Equal(map[string]bool{name(7): true}))
		made = counted.take()
		maps.DeleteFunc(made, func(what string, _ int) bool {
			// These tell of the node that broke, whose reports are not all judged at once, and
			// these begin watches anew.
			return what == "PATCH enforcementcanaries" || strings.HasSuffix(what, " events") || (strings.HasPrefix(what, "GET ") && what != "GET log")
		})
		Expect(made).To(BeEmpty(), "requests in %d turns of %d nodes", turns, nodes)
		// As many as there are reports would be a storm.
		Expect(reconciles() - before).To(BeNumerically("<", 4*nodes*turns/10))
		fleet.Enforce(name(7), true)
		fleet.Report(1000 + turns)
		covers(nodes)

		By("a node that is added")
		counted.take()
		add(ctx, nodes)
		covers(nodes + 1)
		made = counted.take()
		Expect(made).To(HaveKeyWithValue("POST pods", 4))
		Expect(made).To(HaveKeyWithValue("GET log", 4))
		Expect(made).To(HaveKeyWithValue("POST networkpolicies", 1))
		// The node, the two that probe it, and those that probe a node whose policy has
		// changed: each of them once for the pods and once for the policies that are new.
		Expect(made["PATCH pods"]).To(And(BeNumerically(">=", 12), BeNumerically("<=", 2*4*9)))
		Expect(made["PATCH networkpolicies"]).To(BeNumerically("<=", 2*5))

		By("nodes that are cordoned, and that are not Ready")
		Expect(k8s.Patch(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name(3)}},
			client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"unschedulable":true}}`)))).To(Succeed())
		covers(nodes)
		Expect(fleet.SetReady(ctx, name(9), false)).To(Succeed())
		c := covers(nodes - 1)
		Expect(c.Status.Nodes.LeftOut).To(HaveLen(2))
	}, SpecTimeout(4*time.Minute))
})
