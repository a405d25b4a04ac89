package integration

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/diagnosis"
	"github.com/pathproof/pathproof/doctor"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/probepod"
)

// practice is where a doctor works: fake kubelets and a fake network, which enforces
// policies but where a test says otherwise, and what deletes namespaces for good.
type practice struct {
	run    string
	doctor *doctor.Doctor
	said   []string

	mu    sync.Mutex
	known canaryPods
	// wrong replaces the outcome of a probe to a node; 0 leaves it.
	wrong func(to string, p canary.Probe) wire.Outcome
}

var practices int

func newPractice() *practice {
	GinkgoHelper()
	practices++
	p := &practice{run: fmt.Sprintf("test-%d", practices), known: canaryPods{}}
	for i, ns := range p.namespaces() {
		k := startKubeletIn(ns, fmt.Sprintf("10.%d.%d.", 200+practices, i))
		k.outcome = p.outcome
	}
	p.startNamespaceController()
	clients, err := doctor.NewClients(restConfig)
	Expect(err).NotTo(HaveOccurred())
	p.doctor = doctor.New(doctor.Config{
		Clients: clients, Logs: readLog, Clock: clock.RealClock{}, Server: restConfig.Host, Run: p.run, Image: probepod.Image{Name: "probe:test"},
		Features: canary.Features(), MaxNodes: 20, Timeout: time.Minute,
		Say: func(text string) { p.said = append(p.said, text) }, Progress: func(text string) { GinkgoWriter.Println(text) },
	})
	return p
}

func (p *practice) namespaces() []string {
	return []string{doctor.NamePrefix + p.run, doctor.NamePrefix + p.run + canary.AbroadSuffix}
}

// startNamespaceController does what the controller manager would: a namespace that is
// deleted goes when it is empty.
func (p *practice) startNamespaceController() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			var list corev1.NamespaceList
			if k8s.List(ctx, &list, client.HasLabels{doctor.Label}) != nil {
				continue
			}
			for i := range list.Items {
				ns := &list.Items[i]
				if ns.DeletionTimestamp == nil {
					continue
				}
				for _, o := range []client.Object{&corev1.Pod{}, &networkingv1.NetworkPolicy{}} {
					_ = k8s.DeleteAllOf(ctx, o, client.InNamespace(ns.Name), client.GracePeriodSeconds(0))
				}
				ns.Spec.Finalizers = nil
				_ = k8s.SubResource("finalize").Update(ctx, ns)
			}
		}
	}()
	DeferCleanup(func() { cancel(); <-done })
}

func (p *practice) outcome(from *corev1.Pod, c wire.Check) wire.Outcome {
	p.mu.Lock()
	defer p.mu.Unlock()
	to, ok := p.known.at(c.Addr.String())
	if !ok {
		return wire.ProbeError
	}
	probe := canary.Probe{From: canary.Role(from.Labels[canary.RoleLabel]), To: canary.Role(to.Labels[canary.RoleLabel]), Transport: c.Transport, Port: c.Port}
	if p.wrong != nil {
		if o := p.wrong(to.Spec.NodeName, probe); o != 0 {
			return o
		}
	}
	if canary.Goal(canary.Rows(canary.Features()), probe) == wire.GoalClosed {
		return wire.TimedOut
	}
	return wire.Connected // a responder's answer is made of it
}

// remove ends the visit, which has to leave nothing.
func (p *practice) remove(ctx context.Context) {
	GinkgoHelper()
	Expect(p.doctor.Delete(ctx)).To(Succeed())
	Expect(p.doctor.AwaitGone(ctx)).To(Succeed())
	for _, name := range p.namespaces() {
		Expect(apierrors.IsNotFound(k8s.Get(ctx, client.ObjectKey{Name: name}, &corev1.Namespace{}))).To(BeTrue())
		for _, list := range []client.ObjectList{&corev1.PodList{}, &networkingv1.NetworkPolicyList{}} {
			Expect(k8s.List(ctx, list, client.InNamespace(name))).To(Succeed())
			Expect(list).To(HaveField("Items", BeEmpty()))
		}
	}
}

// visited lists the namespaces of doctors.
func visited(ctx context.Context) (names []string) {
	GinkgoHelper()
	var list corev1.NamespaceList
	Expect(k8s.List(ctx, &list, client.HasLabels{doctor.Label})).To(Succeed())
	for _, ns := range list.Items {
		names = append(names, ns.Name)
	}
	return names
}

func wrongRows(r *diagnosis.Report) (out []string) {
	for _, n := range r.Nodes {
		for _, row := range n.Rows {
			if row.Verdict == canary.NotEnforced {
				out = append(out, fmt.Sprintf("%s %s %s", n.Name, row.Direction, row.Feature))
			}
		}
	}
	return out
}

var _ = Describe("pathproof doctor", func() {
	It("finds a network that enforces, under the restricted standard, and removes everything", func(ctx SpecContext) {
		p := newPractice()
		r, err := p.doctor.Examine(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(r.Verdict).To(Equal(canary.Enforced), r.Summary)
		Expect(r.Summary).To(ContainSubstring("enforced on 2 of 2 nodes, ingress and egress; unsupported: SCTP, IPv6"))
		var ns corev1.Namespace
		Expect(k8s.Get(ctx, client.ObjectKey{Name: p.namespaces()[0]}, &ns)).To(Succeed())
		Expect(ns.Labels["pod-security.kubernetes.io/enforce"]).To(Equal("restricted"))
		p.remove(ctx)
		Expect(p.said).To(BeEmpty())
	}, SpecTimeout(2*time.Minute))

	It("names the node, the feature and the direction that is not enforced", func(ctx SpecContext) {
		p := newPractice()
		p.wrong = func(to string, probe canary.Probe) wire.Outcome {
			if to == "node-b" && probe.To == canary.Guarded && probe.Transport == wire.UDP {
				return wire.Connected
			}
			return 0
		}
		r, err := p.doctor.Examine(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(wrongRows(r)).To(Equal([]string{"node-b Ingress UDP"}), r.Summary)
		Expect(r.Rounds).To(Equal(2))
		p.remove(ctx)
	}, SpecTimeout(2*time.Minute))

	It("leaves nothing when it is interrupted in the middle", func(ctx SpecContext) {
		p := newPractice()
		interrupted, interrupt := context.WithCancel(ctx)
		go func() {
			defer GinkgoRecover()
			defer interrupt()
			Eventually(func() int {
				var pods corev1.PodList
				Expect(k8s.List(ctx, &pods, client.InNamespace(p.namespaces()[0]))).To(Succeed())
				return len(pods.Items)
			}).WithTimeout(20 * time.Second).WithPolling(5 * time.Millisecond).Should(BeNumerically(">=", 3))
		}()
		_, err := p.doctor.Examine(interrupted)
		Expect(err).To(MatchError(context.Canceled))
		p.remove(ctx)
	}, SpecTimeout(time.Minute))

	It("removes what an earlier run has left when that has expired", func(ctx SpecContext) {
		p := newPractice()
		for name, expires := range map[string]time.Time{"killed": time.Now().Add(-time.Minute), "alive": time.Now().Add(time.Minute)} {
			Expect(k8s.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
				Name: doctor.NamePrefix + name, Labels: map[string]string{doctor.Label: name}, Annotations: map[string]string{doctor.ExpiryAnnotation: expires.UTC().Format(time.RFC3339)},
			}})).To(Succeed())
		}
		DeferCleanup(func(ctx SpecContext) {
			Expect(k8s.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: doctor.NamePrefix + "alive"}})).To(Succeed())
		})
		_, err := p.doctor.Examine(ctx)
		Expect(err).NotTo(HaveOccurred())
		p.remove(ctx)
		Expect(strings.Join(p.said, "\n")).To(And(ContainSubstring("left behind: namespaces pathproof-doctor-killed"), ContainSubstring("another run")))
		Eventually(func() bool {
			return apierrors.IsNotFound(k8s.Get(ctx, client.ObjectKey{Name: doctor.NamePrefix + "killed"}, &corev1.Namespace{}))
		}).WithTimeout(10 * time.Second).Should(BeTrue())
		Expect(k8s.Get(ctx, client.ObjectKey{Name: doctor.NamePrefix + "alive"}, &corev1.Namespace{})).To(Succeed())
	}, SpecTimeout(2*time.Minute))

	It("creates nothing for a user who may not do all of it, and says what is missing", func(ctx SpecContext) {
		s := newSite(ctx)
		s.permit(ctx, mayList("", "nodes", "namespaces"))
		before := visited(ctx)
		a := runCommand(ctx, "doctor", "--kubeconfig", s.kubeconfig, "--as", s.user)
		Expect(a).To(HaveField("Code", 3), a.Err)
		Expect(a.Out).To(ContainSubstring("the user of the kubeconfig may not create namespaces, delete namespaces, create pods, list pods, patch pods, get pods/log, create networkpolicies, list networkpolicies"))
		Expect(visited(ctx)).To(Equal(before))
	}, SpecTimeout(2*time.Minute))

	It("says that the cluster cannot be reached, and what is wrong in a call", func(ctx SpecContext) {
		a := runCommand(ctx, "doctor", "--kubeconfig", kubeconfigOf("https://127.0.0.1:1"))
		Expect(a).To(HaveField("Code", 3), a.Err)
		Expect(a.Out).To(And(ContainSubstring("could not be found out"), ContainSubstring("the cluster at https://127.0.0.1:1 cannot be reached")))
		for words, args := range map[string][]string{
			`there is no feature "Ports": write some of DefaultDeny, Port`: {"--features", "Ports"},
			"--max-nodes is 0: write a number from 1 to 500":               {"--max-nodes", "0"},
			"--timeout is 1s: write a time from 30s to 30m0s":              {"--timeout", "1s"},
			`-l "a b" is no label selector`:                                {"-l", "a b"},
			"takes no arguments":                                           {"node-a"},
			"--image is empty":                                             {"--image", ""},
			"-o":                                                           {"-o", "yaml"},
		} {
			a := runCommand(ctx, append([]string{"doctor", "--kubeconfig", kubeconfigOf("https://127.0.0.1:1")}, args...)...)
			Expect(a).To(HaveField("Code", 2), a.Out)
			Expect(a.Err).To(ContainSubstring(words))
		}
	}, SpecTimeout(2*time.Minute))
})
