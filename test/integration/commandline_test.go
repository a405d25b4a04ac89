package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gexec"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
)

// buildCommand builds the command line once: what is tested is what users run.
var buildCommand = sync.OnceValues(func() (string, error) {
	return gexec.Build("github.com/pathproof/pathproof/cmd/pathproof")
})

var _ = AfterSuite(gexec.CleanupBuildArtifacts)

// site is a namespace with what the command line is asked about: a Deployment web
// of two pods, a Deployment db of one, and a policy that lets web into db.
type site struct {
	ns         string
	kubeconfig string
	// user may do nothing at first.
	user string
}

// answer is what a run of the command said.
type answer struct {
	Code     int
	Out, Err string
}

func newSite(ctx context.Context) *site {
	GinkgoHelper()
	worlds++
	s := &site{ns: fmt.Sprintf("site-%d", worlds)}
	Expect(k8s.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.ns}})).To(Succeed())
	s.user = s.ns + "-user"
	s.kubeconfig = kubeconfigOf(restConfig.Host)
	s.pod(ctx, "web", "web-1", "10.7.0.1")
	s.pod(ctx, "web", "web-2", "10.7.0.2")
	s.pod(ctx, "db", "db-1", "10.7.0.3")
	s.apply(ctx, s.policy("db", "web", 5432))
	DeferCleanup(func(ctx SpecContext) {
		for _, o := range []client.Object{&corev1.Pod{}, &networkingv1.NetworkPolicy{}, &v1alpha1.ConnectivityExpectation{}, &corev1.Service{}} {
			Expect(k8s.DeleteAllOf(ctx, o, client.InNamespace(s.ns), client.GracePeriodSeconds(0))).To(Succeed())
		}
	})
	return s
}

// kubeconfigOf writes a kubeconfig of the administrator.
func kubeconfigOf(server string) string {
	GinkgoHelper()
	path := filepath.Join(GinkgoT().TempDir(), "kubeconfig")
	config := clientcmdapi.NewConfig()
	config.Clusters["test"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: restConfig.CAData}
	config.AuthInfos["admin"] = &clientcmdapi.AuthInfo{ClientCertificateData: restConfig.CertData, ClientKeyData: restConfig.KeyData}
	config.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: "admin"}
	config.CurrentContext = "test"
	Expect(clientcmd.WriteToFile(*config, path)).To(Succeed())
	return path
}

// pod creates a running pod of a Deployment, as its controllers would.
func (s *site) pod(ctx context.Context, app, name, ip string) {
	GinkgoHelper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.ns, Name: app + "-5d8f-" + name, Labels: map[string]string{"app": app, appsv1.DefaultDeploymentUniqueLabelKey: "5d8f"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: app + "-5d8f", UID: "1", Controller: ptr.To(true)}},
		},
		Spec: corev1.PodSpec{NodeName: "node-a", Containers: []corev1.Container{{Name: app, Image: app, Ports: []corev1.ContainerPort{{ContainerPort: 5432}}}}},
	}
	Expect(k8s.Create(ctx, pod)).To(Succeed())
	pod.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
	Expect(k8s.Status().Update(ctx, pod)).To(Succeed())
}

func (s *site) apply(ctx context.Context, text string) {
	GinkgoHelper()
	Expect(k8s.Create(ctx, object(text))).To(Succeed())
}

// policy lets an app into another one, at a port.
func (s *site) policy(to, from string, port int32) string {
	return strings.NewReplacer("NS", s.ns, "TO", to, "FROM", from, "PORT", strconv.Itoa(int(port))).Replace(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: TO, namespace: NS}
spec:
  podSelector: {matchLabels: {app: TO}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: FROM}}}]
    ports: [{port: PORT}]
`)
}

func (s *site) expectation() string {
	return strings.ReplaceAll(`
apiVersion: pathproof.dev/v1alpha1
kind: ConnectivityExpectation
metadata: {name: db, namespace: NS}
spec:
  paths:
  - name: web-to-db
    expect: Allow
    from: {podSelector: {matchLabels: {app: web}}}
    to: {podSelector: {matchLabels: {app: db}}}
    ports: [{port: 5432}]
`, "NS", s.ns)
}

// run runs the command with the site's kubeconfig and namespace.
func (s *site) run(ctx context.Context, args ...string) answer {
	GinkgoHelper()
	return runCommand(ctx, append(args, "--kubeconfig", s.kubeconfig, "-n", s.ns)...)
}

func runCommand(ctx context.Context, args ...string) answer {
	GinkgoHelper()
	path, err := buildCommand()
	Expect(err).NotTo(HaveOccurred())
	cmd := exec.CommandContext(ctx, path, args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	failed := (*exec.ExitError)(nil)
	if err != nil && !errors.As(err, &failed) {
		Expect(err).NotTo(HaveOccurred())
	}
	return answer{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// permit lets the user list resources, and do nothing else.
func (s *site) permit(ctx context.Context, rules ...rbacv1.PolicyRule) {
	GinkgoHelper()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: s.user}, Rules: rules}
	Expect(k8s.Create(ctx, role)).To(Succeed())
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: s.user}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: s.user},
		Subjects: []rbacv1.Subject{{Kind: "User", Name: s.user}},
	}
	Expect(k8s.Create(ctx, binding)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) {
		Expect(k8s.Delete(ctx, binding)).To(Succeed())
		Expect(k8s.Delete(ctx, role)).To(Succeed())
	})
}

// mayList is the permission to list, and to do nothing else.
func mayList(group string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: resources, Verbs: []string{"list"}}
}

// reading is what every command needs.
func reading() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		mayList("", "namespaces", "pods", "services"), mayList("discovery.k8s.io", "endpointslices"),
		mayList("networking.k8s.io", "networkpolicies"), mayList("pathproof.dev", "connectivityexpectations"),
	}
}

func manifest(text string) string {
	GinkgoHelper()
	path := filepath.Join(GinkgoT().TempDir(), "manifest.yaml")
	Expect(os.WriteFile(path, []byte(text), 0o600)).To(Succeed())
	return path
}

var _ = Describe("the command line", func() {
	It("explains what the policies of the cluster decide, by the names of workloads", func(ctx SpecContext) {
		s := newSite(ctx)
		a := s.run(ctx, "explain", "web", "db", "5432")
		Expect(a).To(HaveField("Code", 0), a.Err)
		Expect(a.Out).To(ContainSubstring("TCP/5432: Allowed"))
		a = s.run(ctx, "explain", "db", "web", "1")
		Expect(a.Out).To(ContainSubstring("TCP/1: Allowed"))
		a = s.run(ctx, "explain", "web", "db", "1")
		Expect(a.Out).To(ContainSubstring("TCP/1: Denied"))
		a = s.run(ctx, "explain", "web", "nobody", "1")
		Expect(a).To(HaveField("Code", 2))
		Expect(a.Err).To(ContainSubstring("there is no pod or workload " + s.ns + "/nobody in the cluster"))
	}, SpecTimeout(2*time.Minute))

	It("checks a change together with what the cluster holds", func(ctx SpecContext) {
		s := newSite(ctx)
		s.apply(ctx, s.expectation())
		a := s.run(ctx, "check", "--with-cluster")
		Expect(a).To(HaveField("Code", 0), a.Err)
		Expect(a.Out).To(ContainSubstring("1 checks: 1 hold"))

		By("finding that a changed policy breaks an expectation of the cluster")
		a = s.run(ctx, "check", "--with-cluster", "-f", manifest(s.policy("db", "web", 5433)))
		Expect(a).To(HaveField("Code", 1), a.Err)
		Expect(a.Out).To(ContainSubstring("no rule of " + s.ns + "/db allows it"))

		By("judging the expectation of the files in place of the cluster's")
		changed := strings.ReplaceAll(s.expectation(), "5432", "5433") + "---" + s.policy("db", "web", 5433)
		a = s.run(ctx, "check", "--with-cluster", "-f", manifest(changed))
		Expect(a).To(HaveField("Code", 0), a.Err)
		Expect(a.Out).To(ContainSubstring("TCP/5433"))
		Expect(a.Out).NotTo(ContainSubstring("TCP/5432"))

		By("giving the pods of a changed workload its new labels")
		a = s.run(ctx, "check", "--with-cluster", "-f", manifest(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: site}}
    spec: {containers: [{name: web, image: web}]}
`))
		Expect(a).To(HaveField("Code", 3), a.Out+a.Err)
		Expect(a.Out).To(ContainSubstring("NoSourceMatched"))

		By("leaving the cluster as it was")
		a = s.run(ctx, "check", "--with-cluster")
		Expect(a).To(HaveField("Code", 0), a.Err)
	}, SpecTimeout(2*time.Minute))

	It("shows what a change opens and closes", func(ctx SpecContext) {
		s := newSite(ctx)
		a := s.run(ctx, "diff", "-f", manifest(s.policy("db", "web", 5432)))
		Expect(a).To(HaveField("Code", 0), a.Out+a.Err)
		Expect(a.Out).To(HavePrefix("0 opened, 0 closed, 0 became undefined, 0 no longer undefined"))

		a = s.run(ctx, "diff", "-f", manifest(s.policy("db", "web", 5433)+"---"+s.policy("web", "db", 80)))
		Expect(a).To(HaveField("Code", 1), a.Out+a.Err)
		Expect(a.Out).To(MatchRegexp(`opened +%s/web +%s/db +TCP/5433`, s.ns, s.ns))
		Expect(a.Out).To(MatchRegexp(`closed +%s/web +%s/db +TCP/5432`, s.ns, s.ns))
		Expect(a.Out).To(MatchRegexp(`closed +%s/db +%s/web +TCP/1-79, TCP/81-65535, UDP, SCTP \(declared: TCP/5432\)`, s.ns, s.ns))
		// A table gathers similar lines, and the API server may hold more than this site.
		a = s.run(ctx, "diff", "-o", "json", "-f", manifest(s.policy("db", "web", 5433)+"---"+s.policy("web", "db", 80)))
		var report struct {
			Rows []struct{ Change, From, To string }
		}
		Expect(json.Unmarshal([]byte(a.Out), &report)).To(Succeed(), a.Out)
		Expect(report.Rows).To(ContainElement(And(HaveField("Change", "Closed"), HaveField("From", s.ns+"/web"), HaveField("To", s.ns+"/web"))),
			"the two pods of web spoke to each other")
	}, SpecTimeout(2*time.Minute))

	It("needs the permission to list and no other, and says what is missing", func(ctx SpecContext) {
		s := newSite(ctx)
		a := s.run(ctx, "explain", "web", "db", "5432", "--as", s.user)
		Expect(a).To(HaveField("Code", 2))
		Expect(a.Err).To(ContainSubstring("may not list endpointslices.discovery.k8s.io, namespaces, networkpolicies.networking.k8s.io, pods, services in all namespaces"))
		Expect(a.Out).To(BeEmpty())

		s.permit(ctx, reading()...)
		s.apply(ctx, s.expectation())
		var last answer
		Eventually(func() int {
			last = s.run(ctx, "check", "--with-cluster", "-f", manifest(s.policy("db", "web", 5432)), "--as", s.user)
			return last.Code
		}).WithTimeout(20*time.Second).Should(Equal(0), func() string { return last.Out + last.Err })
		Expect(last.Err).To(ContainSubstring("nodes may not be listed"))
		a = s.run(ctx, "explain", "web", "db", "5432", "--as", s.user)
		Expect(a).To(HaveField("Code", 0), a.Err)
		a = s.run(ctx, "diff", "-f", manifest(s.policy("db", "web", 5433)), "--as", s.user)
		Expect(a).To(HaveField("Code", 1), a.Err)
	}, SpecTimeout(2*time.Minute))

	It("reads with the permissions of the ClusterRole view, and leaves out probe pods", func(ctx SpecContext) {
		s := newSite(ctx)
		binding := &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: s.user},
			// No controller aggregates it here: this is what it is made of.
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:aggregate-to-view"},
			Subjects: []rbacv1.Subject{{Kind: "User", Name: s.user}},
		}
		Expect(k8s.Create(ctx, binding)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(k8s.Delete(ctx, binding)).To(Succeed()) })
		probe := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: s.ns, Name: "probe", Labels: map[string]string{"app": "web"}, Annotations: map[string]string{v1alpha1.ExpectationAnnotation: "db"},
				OwnerReferences: []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: "ConnectivityExpectation", Name: "db", UID: "1"}},
			},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "probe", Image: "probe"}}},
		}
		Expect(k8s.Create(ctx, probe)).To(Succeed())
		var last answer
		Eventually(func() int {
			last = s.run(ctx, "explain", "web", "db", "5432", "--as", s.user)
			return last.Code
		}).WithTimeout(20*time.Second).Should(Equal(0), func() string { return last.Out + last.Err })
		a := s.run(ctx, "explain", "probe", "db", "5432", "--as", s.user)
		Expect(a).To(HaveField("Code", 2))
		Expect(a.Err).To(ContainSubstring("there is no pod or workload " + s.ns + "/probe"))
	}, SpecTimeout(2*time.Minute))

	It("does not predict what policies of other kinds could decide, be they readable or not", func(ctx SpecContext) {
		s := newSite(ctx)
		s.permit(ctx, reading()...)
		install(ctx, crd("cilium.io", "v2", "CiliumNetworkPolicy", "ciliumnetworkpolicies", apiextensionsv1.NamespaceScoped))
		explain := []string{"explain", "web", "db", "5432"}
		Eventually(func() int { return s.run(ctx, explain...).Code }).WithTimeout(20 * time.Second).Should(Equal(0))

		By("naming one that is there")
		s.apply(ctx, "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: l7, namespace: "+s.ns+"}\n")
		a := s.run(ctx, explain...)
		Expect(a).To(HaveField("Code", 3))
		Expect(a.Err).To(ContainSubstring("warning: 1 CiliumNetworkPolicy (cilium.io/v2) in the cluster"))
		Expect(a.Out).To(ContainSubstring("S30"))
		a = s.run(ctx, append(explain, "--ignore-policy-kinds", "CiliumNetworkPolicy")...)
		Expect(a).To(HaveField("Code", 0), a.Err)

		By("naming a kind that the user may not list")
		a = s.run(ctx, append(explain, "--as", s.user)...)
		Expect(a).To(HaveField("Code", 3), a.Err)
		Expect(a.Err).To(ContainSubstring("the user may not list ciliumnetworkpolicies.cilium.io"))
		Expect(a.Out).To(ContainSubstring("may exist and cannot be read"))
	}, SpecTimeout(2*time.Minute))

	It("evaluates cluster-wide policies where they are served", func(ctx SpecContext) {
		s := newSite(ctx)
		install(ctx, crd("policy.networking.k8s.io", "v1alpha2", "ClusterNetworkPolicy", "clusternetworkpolicies", apiextensionsv1.ClusterScoped))
		policy := object(`
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: lockdown}
spec:
  tier: Admin
  priority: 1
  subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ` + s.ns + `}}, podSelector: {matchLabels: {app: db}}}}
  ingress:
  - {name: nobody, action: Deny, from: [{namespaces: {}}]}
`)
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		var last answer
		Eventually(func() string {
			last = s.run(ctx, "explain", "web", "db", "5432")
			return last.Out
		}).WithTimeout(20*time.Second).Should(ContainSubstring("TCP/5432: Denied"), func() string { return last.Err })
		Expect(last.Out).To(ContainSubstring("lockdown"))
	}, SpecTimeout(2*time.Minute))

	It("ends with 2 if no cluster answers", func(ctx SpecContext) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		address := listener.Addr().String()
		Expect(listener.Close()).To(Succeed())
		s := &site{ns: "default", kubeconfig: kubeconfigOf("https://" + address)}
		a := s.run(ctx, "explain", "web", "db", "5432")
		Expect(a).To(HaveField("Code", 2))
		Expect(a.Err).To(ContainSubstring("error: the cluster at https://" + address + " cannot be reached"))
		Expect(a.Err).To(ContainSubstring("connection refused"))

		By("ending at once when it is interrupted while nobody answers")
		silent, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		defer silent.Close()
		path, err := buildCommand()
		Expect(err).NotTo(HaveOccurred())
		session, err := gexec.Start(exec.Command(path, "explain", "web", "db", "5432", "--kubeconfig", kubeconfigOf("https://"+silent.Addr().String())), GinkgoWriter, GinkgoWriter)
		Expect(err).NotTo(HaveOccurred())
		_, err = silent.Accept()
		Expect(err).NotTo(HaveOccurred())
		Eventually(session.Interrupt()).WithTimeout(10 * time.Second).Should(gexec.Exit(2))
		Expect(string(session.Err.Contents())).To(ContainSubstring("interrupted while reading the cluster"))

		By("saying that a context does not exist")
		a = s.run(ctx, "explain", "web", "db", "5432", "--context", "nowhere")
		Expect(a).To(HaveField("Code", 2))
		Expect(a.Err).To(ContainSubstring(`context "nowhere" does not exist`))
	}, SpecTimeout(time.Minute))
})
