package testbed

import (
	"context"
	"fmt"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pathproof/pathproof/api/v1alpha1"
)

// Scenario is an expectation, all that it needs, and what is right to find of it while
// policies are enforced correctly. The end-to-end tests and the soak share them.
type Scenario struct {
	// Key names the expectation.
	Key types.NamespacedName
	// Manifests is the file, or the folder with a kustomization, that holds everything,
	// as a path inside the module.
	Manifests string
	// Workloads are what has to run first, as pod/NAME, deployment/NAME or daemonset/NAME, with
	// NAMESPACE: before it if that is another one.
	Workloads []string
	// LabOnly says that it needs something of the lab: a node by its name, or the
	// partner network.
	LabOnly bool
	// Elsewhere says that the manifests hold objects outside the namespace of the
	// expectation, too, which go with them.
	Elsewhere bool
	// NotMet are the paths of which something is found, by their names. All others are
	// met.
	NotMet map[string]Found
}

// Found is what is right to find of a path that is not met.
type Found struct {
	// Cause is that of each of its checks.
	Cause string
	// Checks is their number on the lab.
	Checks int
}

// Met tells whether all paths of the scenario are met.
func (s Scenario) Met() bool { return len(s.NotMet) == 0 }

// Verdicts maps the paths that are not met to their causes.
func (s Scenario) Verdicts() map[string][]string {
	out := map[string][]string{}
	for path, found := range s.NotMet {
		out[path] = []string{found.Cause}
	}
	return out
}

// The scenarios by the names of their expectations. Of those in the namespace life, each
// shows one way in which a run can go.
var (
	Production = Scenario{
		Key: types.NamespacedName{Namespace: "production", Name: "mongodb"}, Manifests: "config/samples/production",
		Workloads: []string{"deployment/frontend", "deployment/backend", "deployment/mongodb"},
	}
	Features = Scenario{
		Key: types.NamespacedName{Namespace: "features", Name: "features"}, Manifests: "test/e2e/testdata/features.yaml", LabOnly: true,
	}
	Dualstack = Scenario{
		Key: types.NamespacedName{Namespace: "dualstack", Name: "dualstack"}, Manifests: "test/e2e/testdata/dualstack.yaml", LabOnly: true,
		Workloads: []string{"pod/server-a", "pod/server-b"},
	}
	// AsItIs and Evidence are in one file. Of what looks closed and is not, nothing is green.
	AsItIs = Scenario{
		Key: types.NamespacedName{Namespace: "evidence", Name: "as-it-is"}, Manifests: "test/e2e/testdata/evidence.yaml", LabOnly: true,
		Workloads: []string{"pod/server", "pod/other", "pod/leaving"},
		NotMet: map[string]Found{
			"no-listener": {"TargetNotListening", 4}, "no-listener-for-friends": {"TargetNotListening", 4}, "for-nobody": {"NoPositiveControl", 4},
			"not-ready": {"TargetNotReady", 4}, "without-sctp": withoutKernelSCTP(Found{"Unsupported", 4}, Found{"NoPositiveControl", 4}),
			"no-such-name": {"NameNotResolved", 2},
		},
	}
	Evidence = Scenario{
		Key: types.NamespacedName{Namespace: "evidence", Name: "resident"}, Manifests: "test/e2e/testdata/evidence.yaml", LabOnly: true,
		Workloads: []string{"pod/server", "pod/other"},
	}
	Attribution = Scenario{
		Key: types.NamespacedName{Namespace: "attribution", Name: "attribution"}, Manifests: "test/e2e/testdata/attribution.yaml", LabOnly: true,
		Workloads: []string{"pod/server", "pod/guarded", "pod/named", "pod/open", "pod/joined", "pod/freed", "pod/stranger", "pod/client"},
	}
	// Stale needs the pods of Attribution.
	Stale = Scenario{
		Key: types.NamespacedName{Namespace: "attribution", Name: "stale"}, Manifests: "test/e2e/testdata/attribution-stale.yaml", LabOnly: true,
		NotMet: map[string]Found{"stranger-to-joined": {"PolicyDrift", 2}, "stranger-to-freed": {"PolicyDrift", 2}},
	}
	// AsDeclared and Otherwise are in one file: what the cluster DNS, of one endpoint, may be
	// asked and answers, and what it does not.
	AsDeclared = Scenario{
		Key: types.NamespacedName{Namespace: "names", Name: "as-declared"}, Manifests: "test/e2e/testdata/dns.yaml", LabOnly: true,
		Workloads: []string{"pod/custom"},
	}
	Otherwise = Scenario{
		Key: types.NamespacedName{Namespace: "names", Name: "otherwise"}, Manifests: "test/e2e/testdata/dns.yaml", LabOnly: true,
		Workloads: []string{"pod/custom"},
		NotMet: map[string]Found{
			"forgets-tcp": {"DNSOverUDPOnly", 2}, "another-address": {"UnexpectedAnswer", 2}, "no-such-name": {"NameNotResolved", 2}, "short-without": {"NameNotResolved", 2},
		},
	}
	// Cached: whether policies keep a pod from its own node is up to the implementation.
	Cached = Scenario{
		Key: types.NamespacedName{Namespace: "cached", Name: "cached"}, Manifests: "test/e2e/testdata/nodelocaldns.yaml", LabOnly: true, Elsewhere: true,
		Workloads: []string{"kube-system:daemonset/node-local-dns", "pod/free", "pod/isolated"},
		NotMet:    map[string]Found{"isolated": {"ImplementationDefined", 1}},
	}
	// Records needs the pods of Attribution.
	Records = Scenario{
		Key: types.NamespacedName{Namespace: "attribution", Name: "records"}, Manifests: "test/e2e/testdata/attribution-records.yaml", LabOnly: true,
	}
	// Clusterwide needs the pods of Attribution.
	Clusterwide = Scenario{
		Key: types.NamespacedName{Namespace: "attribution", Name: "clusterwide"}, Manifests: "test/e2e/testdata/attribution-clusterwide.yaml", LabOnly: true, Elsewhere: true,
	}
	// Watched: many checks of one source, for what watching them can measure.
	Watched = Scenario{
		Key: types.NamespacedName{Namespace: "watched", Name: "watched"}, Manifests: "test/e2e/testdata/watched.yaml",
		Workloads: []string{"pod/server"}, LabOnly: true,
	}
	// StandIn: a workload that answers nothing, and an identity that does not exist yet.
	StandIn = Scenario{
		Key: types.NamespacedName{Namespace: "standin", Name: "standin"}, Manifests: "test/e2e/testdata/standin.yaml", LabOnly: true,
		Workloads: []string{"pod/silent"},
	}
	// Sealed: only a canary could show that nodes carry traffic. As long as there is none,
	// nothing is concluded.
	Sealed = Scenario{
		Key: types.NamespacedName{Namespace: "sealed", Name: "sealed"}, Manifests: "test/e2e/testdata/sealed.yaml", LabOnly: true,
		NotMet: map[string]Found{"closed": {"NoPositiveControl", 4}},
	}
	Open  = life("open", nil)
	Alone = life("alone", nil)
	// WrongPort: what is declared closed and is not is known whatever the wire says.
	WrongPort = life("wrong-port", map[string]Found{"dns-wrong-port": {"TargetNotListening", 4}, "denied-wrong-port": {"PolicyDrift", 4}})
	Nobody    = life("nobody", map[string]Found{"nobody": {"NoSourceMatched", 1}, "nowhere": {"NoTargetMatched", 1}})
	SCTP      = life("sctp", sctpNotMet())
	SCTPRaw   = labOnly(life("sctp-raw", nil)) // its image has the file capability
	Drift     = withWorkloads(life("drift", map[string]Found{
		"open-tcp-declared-closed": {"PolicyDrift", 4}, "open-udp-declared-closed": {"PolicyDrift", 4},
		"closed-declared-open": {"PolicyDrift", 4}, "dns-declared-closed": {"PolicyDrift", 4},
	}), "pod/web")
)

// Scenarios are all of them. A test compares them with the expectations in the manifests.
var Scenarios = []Scenario{Production, Features, Dualstack, AsItIs, Evidence, Attribution, Stale, Records, Clusterwide, AsDeclared, Otherwise, Cached, Watched, StandIn, Sealed, Open, Alone, WrongPort, Nobody, SCTP, SCTPRaw, Drift}

func life(name string, notMet map[string]Found) Scenario {
	return Scenario{
		Key: types.NamespacedName{Namespace: "life", Name: name}, Manifests: "test/e2e/testdata/life/" + name + ".yaml", NotMet: notMet,
	}
}

func labOnly(s Scenario) Scenario {
	s.LabOnly = true
	return s
}

func withWorkloads(s Scenario, workloads ...string) Scenario {
	s.Workloads = workloads
	return s
}

// withoutKernelSCTP chooses by whether the kernel has no SCTP.
func withoutKernelSCTP(without, with Found) Found {
	if KernelSCTP() {
		return with
	}
	return without
}

func sctpNotMet() map[string]Found {
	if KernelSCTP() {
		return nil
	}
	return map[string]Found{"sctp": {"Unsupported", 1}}
}

// KernelSCTP tells whether the kernel of this machine, which is that of the lab's nodes, has
// SCTP sockets.
func KernelSCTP() bool {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, syscall.IPPROTO_SCTP)
	if err != nil {
		return false
	}
	_ = syscall.Close(fd)
	return true
}

// Apply applies a scenario and waits until its workloads run.
func (b *Bed) Apply(ctx context.Context, s Scenario) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.Key.Namespace}}
	if err := b.Client.Create(ctx, ns); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating namespace %s: %w", ns.Name, err)
	}
	how := "-f"
	if !strings.HasSuffix(s.Manifests, ".yaml") {
		how = "-k"
	}
	if err := b.Kubectl(ctx, "apply", how, b.Path(s.Manifests)); err != nil {
		return err
	}
	for _, w := range s.Workloads {
		namespace := s.Key.Namespace
		if other, name, ok := strings.Cut(w, ":"); ok {
			namespace, w = other, name
		}
		wait := []string{"rollout", "status", w}
		if strings.HasPrefix(w, "pod/") {
			wait = []string{"wait", "--for=condition=Ready", w}
		}
		if err := b.Kubectl(ctx, append([]string{"-n", namespace, "--timeout=180s"}, wait...)...); err != nil {
			return err
		}
	}
	return nil
}

// Namespaces are those of all scenarios.
func Namespaces() []string {
	seen := map[string]bool{}
	var out []string
	for _, s := range Scenarios {
		if ns := s.Key.Namespace; !seen[ns] {
			seen[ns] = true
			out = append(out, ns)
		}
	}
	return out
}

// DeleteScenarios deletes the namespaces of all scenarios, with everything in them and
// what belongs to them elsewhere, and waits until they are gone.
func (b *Bed) DeleteScenarios(ctx context.Context) error {
	// Where the kind was never installed, there is nothing of them, and kubectl would not know
	// what to delete.
	kind := v1alpha1.GroupVersion.WithKind("ConnectivityExpectation")
	if _, err := b.Client.RESTMapper().RESTMapping(kind.GroupKind(), kind.Version); meta.IsNoMatchError(err) {
		return nil
	}
	for _, s := range Scenarios {
		if !s.Elsewhere {
			continue
		}
		if err := b.Kubectl(ctx, "delete", "-f", b.Path(s.Manifests), "--ignore-not-found", "--timeout=180s"); err != nil {
			return err
		}
	}
	args := append([]string{"delete", "namespace", "--ignore-not-found", "--timeout=180s"}, Namespaces()...)
	return b.Kubectl(ctx, args...)
}
