package controllers

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/probepod"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares an object with the YAML in testdata.
func golden(t *testing.T, name string, o any) {
	t.Helper()
	got, err := yaml.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-want +got); if that is meant, run the test with -update:\n%s", path, diff)
	}
}

func podOptions() Options {
	o := DefaultOptions()
	o.ProbeImage, o.ImagePullSecrets = "registry.example/probe:v1", []string{"pull"}
	return o
}

func podExpectation() *v1alpha1.ConnectivityExpectation {
	return &v1alpha1.ConnectivityExpectation{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "paths", UID: "8b5d6a52-0000-4000-8000-000000000001"}}
}

func TestProbePod(t *testing.T) {
	p := &probeRun{
		podRun: podRun{name: "pathproof-probe-1"},
		Pod: plan.Pod{Node: "node-a", Source: &plan.Source{
			Labels:   map[string]string{"app": "web"},
			Workload: &corev1.Pod{Spec: corev1.PodSpec{Tolerations: []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpExists}}}},
		}},
		plan: wire.Plan{
			Version: wire.Version, ID: "1", TimeoutMilliseconds: 1000, Attempts: 3,
			Checks: []wire.Check{{Transport: wire.TCP, Addr: netip.MustParseAddr("10.0.0.1"), Port: 5432}},
		},
	}
	// The plan is not in it: without the annotation the pod gets an empty file, and waits.
	pod := probePod(podExpectation(), &run{id: "r1"}, p, podOptions())
	golden(t, "probe.yaml", pod)

	pod.Labels["app"] = "changed"
	if p.Source.Labels["app"] != "web" {
		t.Error("the pod shares its labels with the plan")
	}
}

// A probe that began before its address is known would tell of a pod that nobody could have
// let through.
func TestPlanWaitsForTheAddressOfThePod(t *testing.T) {
	cases := map[string]struct {
		change func(*probeRun)
		want   bool
	}{
		"with an address":               {func(*probeRun) {}, true},
		"without an address":            {func(p *probeRun) { p.addrs = nil }, false},
		"while responders are awaited":  {func(p *probeRun) { p.plan.Checks = nil }, false},
		"without anything to check":     {func(p *probeRun) { p.Edges = nil }, false},
		"of a pod that has its plan":    {func(p *probeRun) { p.armedAt = time.Unix(1, 0) }, false},
		"of a pod that is done with it": {func(p *probeRun) { p.done = true }, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := &probeRun{
				podRun: podRun{addrs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}},
				Pod:    plan.Pod{Edges: []*plan.Edge{{}}},
				plan:   wire.Plan{Checks: []wire.Check{{}}},
			}
			tc.change(p)
			if got := p.wantsPlan(); got != tc.want {
				t.Errorf("wants its plan: %t, want %t", got, tc.want)
			}
		})
	}
}

// Pods that watch measure moments, and are not shared with expectations that do not.
func TestProbePodThatWatchesRequestsMore(t *testing.T) {
	request := func(watch int32) string {
		exp := podExpectation()
		exp.Spec.Probe.Mode, exp.Spec.Probe.WatchMilliseconds = v1alpha1.ProbeModeResident, watch
		pod := probePod(exp, &run{id: "r1", resident: true}, &probeRun{Pod: plan.Pod{Source: &plan.Source{}}}, podOptions())
		return pod.Spec.Containers[0].Resources.Requests.Cpu().String()
	}
	if got := request(0); got != "10m" {
		t.Errorf("one that does not watch requests %s, want 10m", got)
	}
	if got := request(40); got != "100m" {
		t.Errorf("one that watches requests %s, want 100m", got)
	}
}

func TestProbePodOfAnIdentity(t *testing.T) {
	p := &probeRun{podRun: podRun{name: "p"}, Pod: plan.Pod{Source: &plan.Source{Labels: map[string]string{"app": "web"}}}}
	pod := probePod(podExpectation(), &run{id: "r1"}, p, podOptions())
	if pod.Spec.Affinity != nil {
		t.Error("a pod without a node is bound to one")
	}
	if pod.Spec.Tolerations != nil {
		t.Error("an identity has tolerations")
	}
}

func TestResponderPod(t *testing.T) {
	x := &responderRun{
		podRun: podRun{name: "pathproof-responder-1"},
		Responder: plan.Responder{Labels: map[string]string{"app": "db"}, Node: "node-b", Ports: []flow.PortRange{
			{Protocol: flow.TCP, First: 80, Last: 80}, {Protocol: flow.UDP, First: 5353, Last: 5353},
			// The usual health port is one of the path's.
			{Protocol: flow.TCP, First: probepod.HealthPort, Last: probepod.HealthPort},
		}},
	}
	golden(t, "responder.yaml", responderPod(podExpectation(), &run{id: "r1"}, x, podOptions()))
}

// A stand-in is to policies and to the scheduler what its pod is.
func TestStandInPod(t *testing.T) {
	w := &corev1.Pod{Spec: corev1.PodSpec{
		ServiceAccountName: "db", Tolerations: []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpExists}},
		Containers: []corev1.Container{
			{Ports: []corev1.ContainerPort{{Name: "main", ContainerPort: 5432, HostPort: 5432}, {Name: "stats", ContainerPort: 9187, Protocol: corev1.ProtocolTCP}, {ContainerPort: 7}}},
			{Ports: []corev1.ContainerPort{{Name: "main", ContainerPort: 1}, {Name: "again", ContainerPort: 5432}, {Name: "trace", ContainerPort: 5432, Protocol: corev1.ProtocolUDP}}},
		},
	}}
	x := &responderRun{Responder: plan.Responder{Labels: map[string]string{"app": "db"}, StandsFor: w, Ports: []flow.PortRange{
		{Protocol: flow.TCP, First: 5432, Last: 5432}, {Protocol: flow.UDP, First: 53, Last: 53},
	}}}
	pod := responderPod(podExpectation(), &run{id: "r1"}, x, podOptions())
	if pod.Spec.ServiceAccountName != "db" || len(pod.Spec.Tolerations) != 1 || *pod.Spec.AutomountServiceAccountToken {
		t.Errorf("got service account %q, token %v, tolerations %v", pod.Spec.ServiceAccountName, *pod.Spec.AutomountServiceAccountToken, pod.Spec.Tolerations)
	}
	want := []corev1.ContainerPort{
		{Name: "main", ContainerPort: 5432, Protocol: corev1.ProtocolTCP}, {Name: "stats", ContainerPort: 9187, Protocol: corev1.ProtocolTCP},
		{Name: "trace", ContainerPort: 5432, Protocol: corev1.ProtocolUDP}, {ContainerPort: 53, Protocol: corev1.ProtocolUDP},
	}
	if diff := cmp.Diff(want, pod.Spec.Containers[0].Ports); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
	if !slices.Contains(pod.Spec.Containers[0].Args, "--listen=TCP/5432,UDP/53") {
		t.Errorf("got %v", pod.Spec.Containers[0].Args)
	}
}

// The capability goes to the pods that need it, of expectations that ask for it.
func TestNetRawIsForSCTPAlone(t *testing.T) {
	sctp, tcp := &plan.Source{Key: "sctp"}, &plan.Source{Key: "tcp"}
	r := &run{id: "r1", edges: []*plan.Edge{{Source: tcp, Transport: wire.TCP}, {Source: sctp, Transport: wire.TCP}, {Source: sctp, Transport: wire.SCTP}}}
	listen := func(ps ...flow.Protocol) *responderRun {
		x := &responderRun{}
		for _, p := range ps {
			x.Ports = append(x.Ports, flow.PortRange{Protocol: p, First: 80, Last: 80})
		}
		return x
	}
	exp := podExpectation()
	probe := func(s *plan.Source) *corev1.Pod {
		return probePod(exp, r, &probeRun{Pod: plan.Pod{Source: s}}, podOptions())
	}
	responder := func(ps ...flow.Protocol) *corev1.Pod { return responderPod(exp, r, listen(ps...), podOptions()) }
	cases := map[string]struct {
		sockets v1alpha1.SCTPSockets
		build   func() *corev1.Pod
		want    bool
	}{
		"a probe with SCTP checks":                    {v1alpha1.SCTPRaw, func() *corev1.Pod { return probe(sctp) }, true},
		"a probe without":                             {v1alpha1.SCTPRaw, func() *corev1.Pod { return probe(tcp) }, false},
		"a responder of an SCTP port":                 {v1alpha1.SCTPRaw, func() *corev1.Pod { return responder(flow.TCP, flow.SCTP) }, true},
		"a responder of others":                       {v1alpha1.SCTPRaw, func() *corev1.Pod { return responder(flow.TCP, flow.UDP) }, false},
		"a probe of an expectation that says Kernel":  {v1alpha1.SCTPKernel, func() *corev1.Pod { return probe(sctp) }, false},
		"a probe of an expectation that says nothing": {"", func() *corev1.Pod { return probe(sctp) }, false},
		"a responder of one that says nothing":        {"", func() *corev1.Pod { return responder(flow.SCTP) }, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			exp.Spec.Probe.SCTP = tc.sockets
			pod := tc.build()
			c := pod.Spec.Containers[0]
			var add []corev1.Capability
			if tc.want {
				add = []corev1.Capability{"NET_RAW"}
			}
			// All else is as restricted as ever.
			want := &corev1.SecurityContext{
				AllowPrivilegeEscalation: new(bool), ReadOnlyRootFilesystem: ptr.To(true),
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: add},
			}
			if diff := cmp.Diff(want, c.SecurityContext); diff != "" || !*pod.Spec.SecurityContext.RunAsNonRoot {
				t.Errorf("security context (-want +got):\n%s", diff)
			}
			if got := slices.Contains(c.Args, "--raw-sctp"); got != tc.want {
				t.Errorf("got arguments %q, want --raw-sctp: %v", c.Args, tc.want)
			}
		})
	}
}

func TestNetRawIsRefusedWhereItIsForbidden(t *testing.T) {
	cases := map[string]struct {
		level  string
		raw    bool
		refuse bool
	}{
		"no level":                    {"", true, false},
		"privileged":                  {"privileged", true, false},
		"baseline":                    {"baseline", true, true},
		"restricted":                  {"restricted", true, true},
		"a level that does not exist": {"strict", true, true},
		"restricted, without NET_RAW": {"restricted", false, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			exp := podExpectation()
			if tc.raw {
				exp.Spec.Probe.SCTP = v1alpha1.SCTPRaw
			}
			pod := responderPod(exp, &run{}, &responderRun{Responder: plan.Responder{Ports: []flow.PortRange{{Protocol: flow.SCTP, First: 80, Last: 80}}}}, podOptions())
			ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: pod.Namespace}}
			if tc.level != "" {
				ns.Labels = map[string]string{"pod-security.kubernetes.io/enforce": tc.level}
			}
			other := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}}}
			got := forbiddenRaw(pod, []*corev1.Namespace{other, ns})
			if (got != "") != tc.refuse || tc.refuse && !strings.Contains(got, strconv.Quote(tc.level)) {
				t.Errorf("got %q, want a refusal: %v", got, tc.refuse)
			}
		})
	}
}

func TestPodOutlivesItsRun(t *testing.T) {
	o := podOptions()
	exp := podExpectation()
	exp.Spec.Probe = v1alpha1.ProbeSettings{SettleSeconds: 300, TimeoutMilliseconds: 10000, Attempts: 10}
	p := probePod(exp, &run{}, &probeRun{Pod: plan.Pod{Source: &plan.Source{}}}, o)
	// A probe may have to wait for its plan until the last responder has started.
	longest := 2*o.StartTimeout + o.bound(exp.Spec.Probe)
	if d := time.Duration(*p.Spec.ActiveDeadlineSeconds) * time.Second; d <= longest {
		t.Errorf("the kubelet ends a probe after %s, and the operator waits %s", d, longest)
	}
	x := responderPod(exp, &run{}, &responderRun{}, o)
	if d := time.Duration(*x.Spec.ActiveDeadlineSeconds) * time.Second; d <= longest {
		t.Errorf("the kubelet ends a responder after %s, and a run takes %s", d, longest)
	}
}

func TestStripPodKeepsWhatIsRead(t *testing.T) {
	ours := probePod(podExpectation(), &run{id: "r1"}, &probeRun{Pod: plan.Pod{Node: "n", Source: &plan.Source{}}}, podOptions())
	out, err := stripPod(ours.DeepCopy())
	if err != nil {
		t.Fatal(err)
	}
	stripped := out.(*corev1.Pod)
	if !plan.IsProbePod(stripped) || !ownedByExpectation(stripped, "paths", podExpectation().UID) || stripped.Annotations[runAnnotation] != "r1" {
		t.Errorf("a probe pod is not recognized without what was stripped: %v", stripped.ObjectMeta)
	}
	if _, ok := stripped.Annotations[wire.PlanAnnotation]; ok {
		t.Error("the plan is kept")
	}

	always := corev1.ContainerRestartPolicyAlways
	theirs := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"a": "b"}},
		Spec: corev1.PodSpec{
			NodeName: "n", Tolerations: []corev1.Toleration{{Key: "k"}},
			Containers:     []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}}, Env: []corev1.EnvVar{{Name: "E"}}}},
			InitContainers: []corev1.Container{{Name: "i", Image: "i", RestartPolicy: &always}},
		},
	}
	want := theirs.DeepCopy()
	want.Annotations = nil
	want.Spec.Containers[0].Image, want.Spec.Containers[0].Env, want.Spec.InitContainers[0].Image = "", nil, ""
	got, err := stripPod(theirs)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Without the image, nothing is known of the version of a network implementation.
func TestStripPodKeepsTheImageOfNetworkImplementations(t *testing.T) {
	agent := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "cilium-a", Labels: map[string]string{"k8s-app": "cilium"}},
		Spec:       corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{Name: "cilium-agent", Image: "quay.io/cilium/cilium:v1.18.4"}}},
	}
	want := evaluator.Implementation{}.Detect([]*corev1.Pod{agent.DeepCopy()})
	got, err := stripPod(agent)
	if err != nil {
		t.Fatal(err)
	}
	if d := (evaluator.Implementation{}).Detect([]*corev1.Pod{got.(*corev1.Pod)}); d != want || d.Profile.IPBlockMatchesPods != evaluator.False {
		t.Errorf("got %+v, want %+v", d, want)
	}
}
