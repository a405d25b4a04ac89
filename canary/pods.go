package canary

import (
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/probepod"
)

const (
	serveContainer = "serve"
	sctpContainer  = "sctp"
	servePort      = probepod.HealthPort - 1
	sctpHealthPort = probepod.HealthPort - 2
)

// PodSettings are what the pods of all roles and nodes have in common.
type PodSettings struct {
	// Name is the value of Label.
	Name string
	// Namespace is the first one.
	Namespace   string
	Features    []v1alpha1.CanaryFeature
	RawSCTP     bool
	Tolerations []corev1.Toleration
	// Lifetime is when the kubelet ends them.
	Lifetime time.Duration
	Image    probepod.Image
}

// NewPod builds the pod of a role on a node, which has no name and no owner yet. One
// container probes, another one listens, and a third one listens for SCTP, because it ends
// where the kernel has none.
func NewPod(s PodSettings, role Role, node string) *corev1.Pod {
	labels := map[string]string{Label: s.Name, RoleLabel: string(role), NodeLabel: NodeID(node)}
	pod := probepod.New(NamespaceOf(s.Namespace, role), "", labels, node, s.Image)
	// The cluster autoscaler would keep a node for the sake of a pod of no workload.
	pod.Annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] = "true"
	pod.Spec.Tolerations = s.Tolerations
	pod.Spec.ActiveDeadlineSeconds = ptr.To(int64(s.Lifetime.Seconds()))

	probe := &pod.Spec.Containers[0]
	probe.Args = []string{"stay", "--annotations=" + wire.AnnotationsPath, "--health-port=" + strconv.Itoa(probepod.HealthPort)}
	probe.ReadinessProbe = probepod.ReadinessProbe(probepod.HealthPort)
	probe.ReadinessProbe.PeriodSeconds = 2 // a run waits 3 s for one
	probepod.ProjectAnnotations(pod, wire.AnnotationsPath, "metadata.annotations")

	listener := func(name string, health int, listen []string) corev1.Container {
		l := probepod.Container(name, s.Image)
		l.Args = []string{"serve", "--listen=" + strings.Join(listen, ","), "--health-port=" + strconv.Itoa(health)}
		l.ReadinessProbe = probepod.ReadinessProbe(health)
		l.ReadinessProbe.PeriodSeconds = 5
		return l
	}
	tcp, udp, named := Listeners()
	serve := listener(serveContainer, servePort, append(ports(flow.TCP, tcp), ports(flow.UDP, udp)...))
	serve.Ports = []corev1.ContainerPort{{Name: NamedPort, ContainerPort: int32(named), Protocol: corev1.ProtocolTCP}}
	pod.Spec.Containers = append(pod.Spec.Containers, serve)
	if role != Abroad && slices.Contains(s.Features, v1alpha1.FeatureSCTP) {
		sctp := listener(sctpContainer, sctpHealthPort, ports(flow.SCTP, []uint16{SCTPPort}))
		if s.RawSCTP {
			probepod.AllowRawSCTP(&sctp)
			probepod.AllowRawSCTP(&pod.Spec.Containers[0])
		}
		pod.Spec.Containers = append(pod.Spec.Containers, sctp)
	}
	return pod
}

// ports writes ports as the probe reads them.
func ports(p flow.Protocol, numbers []uint16) []string {
	var out []string
	for _, n := range numbers {
		out = append(out, flow.PortRange{Protocol: p, First: n, Last: n}.String())
	}
	return out
}

// Up tells whether a pod can probe and be probed, and why not, in a text of any length.
func Up(pod *corev1.Pod) (up bool, why string) {
	switch {
	case pod == nil:
		return false, "is not there yet"
	case !runs(pod) || len(probepod.Addrs(pod)) == 0:
		return false, "does not run: " + probepod.Waiting(pod)
	case !Listening(pod):
		return false, "is not seen to listen by the kubelet"
	}
	return true, ""
}

func runs(pod *corev1.Pod) bool {
	c := probepod.Status(pod)
	return c != nil && c.State.Running != nil
}

// Listening tells whether the kubelet sees all listeners of a pod echo, but for SCTP where
// the kernel has none.
func Listening(pod *corev1.Pod) bool {
	serving := false
	for _, c := range pod.Status.ContainerStatuses {
		switch {
		case c.Name == serveContainer:
			serving = c.Ready && c.RestartCount == 0
		case c.Name == sctpContainer && c.State.Terminated == nil && !c.Ready:
			return false
		}
	}
	return serving
}

// LacksSCTP tells whether a pod was to listen for SCTP, and cannot.
func LacksSCTP(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool {
		return c.Name == sctpContainer && c.State.Terminated != nil && c.State.Terminated.ExitCode == probepod.ExitUnsupported
	})
}

// Ended tells whether one of the containers of a pod has ended that should not have: the
// listener for SCTP may, where the kernel has none.
func Ended(pod *corev1.Pod) bool {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return true
	}
	return slices.ContainsFunc(pod.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool {
		t := c.State.Terminated
		return t != nil && (c.Name != sctpContainer || t.ExitCode != probepod.ExitUnsupported)
	})
}
