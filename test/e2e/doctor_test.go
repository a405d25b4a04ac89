package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gbytes"
	"github.com/onsi/gomega/gexec"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/diagnosis"
)

// visit is what a run of pathproof doctor said.
type visit struct {
	code int
	out  *diagnosis.Report
	text string
	took time.Duration
}

func doctorCommand(ctx context.Context, args ...string) *exec.Cmd {
	GinkgoHelper()
	cmd, err := bed.Pathproof(ctx, append([]string{"doctor", "--image", bed.ProbeImage()}, args...)...)
	Expect(err).NotTo(HaveOccurred())
	return cmd
}

// callDoctor runs doctor, and reads its answer.
func callDoctor(ctx context.Context, args ...string) visit {
	GinkgoHelper()
	cmd := doctorCommand(ctx, append([]string{"-o", "json"}, args...)...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	start := time.Now()
	v := visit{out: &diagnosis.Report{}}
	if exited := (*exec.ExitError)(nil); errors.As(cmd.Run(), &exited) {
		v.code = exited.ExitCode()
	}
	v.took, v.text = time.Since(start), out.String()+errs.String()
	Expect(json.Unmarshal([]byte(out.String()), v.out)).To(Succeed(), v.text)
	return v
}

// wrong are the rows that are not Enforced, by node and direction.
func (v visit) wrong(verdict canary.Verdict) map[string][]v1alpha1.CanaryFeature {
	out := map[string][]v1alpha1.CanaryFeature{}
	for _, n := range v.out.Nodes {
		for _, row := range n.Rows {
			if row.Verdict == verdict {
				key := n.Name + " " + string(row.Direction)
				out[key] = append(out[key], row.Feature)
			}
		}
	}
	for _, features := range out {
		slices.Sort(features)
	}
	return out
}

// doctorsObjects are what doctors have created and nobody has removed.
func doctorsObjects(ctx context.Context) []string {
	GinkgoHelper()
	var out []string
	var namespaces corev1.NamespaceList
	Expect(bed.Client.List(ctx, &namespaces)).To(Succeed())
	for _, ns := range namespaces.Items {
		if strings.HasPrefix(ns.Name, "pathproof-doctor-") {
			out = append(out, ns.Name)
		}
	}
	var pods corev1.PodList
	Expect(bed.Client.List(ctx, &pods)).To(Succeed())
	for _, p := range pods.Items {
		if strings.HasPrefix(p.Namespace, "pathproof-doctor-") {
			out = append(out, p.Namespace+"/"+p.Name)
		}
	}
	var policies networkingv1.NetworkPolicyList
	Expect(bed.Client.List(ctx, &policies)).To(Succeed())
	for _, p := range policies.Items {
		if strings.HasPrefix(p.Namespace, "pathproof-doctor-") {
			out = append(out, p.Namespace+"/"+p.Name)
		}
	}
	return out
}

var _ = Describe("pathproof doctor", Ordered, ContinueOnFailure, func() {
	BeforeAll(func(ctx SpecContext) {
		requireLab()
		doctorCommand(ctx) // builds it
	}, NodeTimeout(5*time.Minute))

	AfterEach(func(ctx SpecContext) {
		Expect(bed.Heal(ctx)).To(Succeed())
		Expect(doctorsObjects(ctx)).To(BeEmpty())
	})

	// The nodes of the lab may have no SCTP, and the pods have no NET_RAW.
	lacks := func(v visit) []v1alpha1.CanaryFeature {
		GinkgoHelper()
		unsupported := v.wrong(canary.Unsupported)
		for _, features := range unsupported {
			Expect(features).To(Equal([]v1alpha1.CanaryFeature{v1alpha1.FeatureSCTP}), v.text)
			return features
		}
		return nil
	}
	features := func(v visit) []v1alpha1.CanaryFeature {
		GinkgoHelper()
		without := lacks(v)
		all := slices.DeleteFunc(canary.Features(), func(f v1alpha1.CanaryFeature) bool { return slices.Contains(without, f) })
		slices.Sort(all)
		return all
	}

	It("calls a network that enforces enforcing, with exit code 0", func(ctx SpecContext) {
		v := callDoctor(ctx)
		Expect(v.out.Verdict).To(Equal(canary.Enforced), v.text)
		Expect(v.code).To(Equal(0), v.text)
		Expect(v.out.Summary).To(ContainSubstring("enforced on 2 of 2 nodes"))
		Expect(v.wrong(canary.Enforced)).To(HaveLen(4))
		for key, got := range v.wrong(canary.Enforced) {
			Expect(got).To(Equal(features(v)), key)
		}
		measured("pathproof doctor, everything enforced, with all of it removed", v.took)
	}, SpecTimeout(3*time.Minute))

	It("says within a minute from a cold start that nothing enforces when nothing does, with exit code 1", func(ctx SpecContext) {
		Expect(bed.Break(ctx, "off", "")).To(Succeed())
		cmd := doctorCommand(ctx)
		printed := gbytes.NewBuffer()
		start := time.Now()
		session, err := gexec.Start(cmd, printed, GinkgoWriter)
		Expect(err).NotTo(HaveOccurred())
		Eventually(printed).WithTimeout(60 * time.Second).WithPolling(100 * time.Millisecond).Should(gbytes.Say("NetworkPolicies are NOT enforced on this cluster: on 2 of 2 nodes"))
		measured("pathproof doctor, cold start to the answer, no enforcement", time.Since(start))
		Eventually(session).WithTimeout(90 * time.Second).Should(gexec.Exit(1))
		measured("pathproof doctor, cold start to all of it removed, no enforcement", time.Since(start))
		AddReportEntry("table", string(session.Out.Contents()))
	}, SpecTimeout(3*time.Minute))

	It("names the one node that does not enforce, in exactly its rows", func(ctx SpecContext) {
		Expect(bed.Break(ctx, "off", "node-b")).To(Succeed())
		v := callDoctor(ctx)
		Expect(v.code).To(Equal(1), v.text)
		Expect(v.wrong(canary.NotEnforced)).To(Equal(map[string][]v1alpha1.CanaryFeature{"node-b Ingress": features(v), "node-b Egress": features(v)}), v.text)
		Expect(v.wrong(canary.Unknown)).To(BeEmpty(), v.text)
		Expect(v.out.Summary).To(And(ContainSubstring("node-b"), Not(ContainSubstring("node-a"))))
	}, SpecTimeout(3*time.Minute))

	It("leaves nothing behind when it is interrupted", func(ctx SpecContext) {
		session, err := gexec.Start(doctorCommand(ctx), GinkgoWriter, GinkgoWriter)
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() int { return len(doctorsObjects(ctx)) }).WithTimeout(30 * time.Second).WithPolling(100 * time.Millisecond).Should(BeNumerically(">", 12))
		session.Signal(os.Interrupt)
		Eventually(session).WithTimeout(90 * time.Second).Should(gexec.Exit(3))
		Expect(string(session.Err.Contents())).To(ContainSubstring("interrupted"))
		Expect(session.Out.Contents()).To(BeEmpty())
		Expect(doctorsObjects(ctx)).To(BeEmpty())
	}, SpecTimeout(3*time.Minute))

	It("says that the image cannot be pulled, with exit code 3", func(ctx SpecContext) {
		v := callDoctor(ctx, "--image", "registry.invalid/probe:missing")
		Expect(v.code).To(Equal(3), v.text)
		Expect(v.out.Verdict).To(Equal(canary.Unknown))
		Expect(v.out.Summary).To(ContainSubstring("no node can pull the image registry.invalid/probe:missing"))
		measured("pathproof doctor, an image that cannot be pulled", v.took)
	}, SpecTimeout(3*time.Minute))
})
