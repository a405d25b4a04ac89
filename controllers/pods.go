package controllers

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/probepod"
)

// Annotations of probe pods. Everything of ours is in annotations: a label more
// would make another identity of the pod.
const (
	expectationAnnotation = v1alpha1.ExpectationAnnotation
	runAnnotation         = "pathproof.dev/run"
	// residentAnnotation marks pods that stay between runs. They have no run.
	residentAnnotation = "pathproof.dev/resident"
)

// neverReady is a readiness gate that nothing ever fulfils: a probe pod carries
// the labels of a workload, and must not get the traffic of its Services.
const neverReady corev1.PodConditionType = "pathproof.dev/never-ready"

const (
	// planDelivery is how long a plan may take from the annotation to the file: the
	// kubelet looks once a minute at the latest (syncFrequency).
	planDelivery = 90 * time.Second
	// grace is added to the longest run, so that the kubelet ends a pod whose
	// operator is gone only when nobody can be waiting for it.
	grace = 60 * time.Second
)

// probePod builds the pod that runs one plan. It waits for the plan, which is an
// annotation that it is given later.
func probePod(exp *v1alpha1.ConnectivityExpectation, r *run, p *probeRun, o Options) *corev1.Pod {
	pod := basePod(exp, r, p.name, p.Source.Labels, p.Node, o)
	if w := p.Source.Workload; w != nil {
		pod.Spec.Tolerations = w.Spec.Tolerations
		// Names are resolved by the nameservers, and with the search list, of the workload.
		pod.Spec.DNSPolicy, pod.Spec.DNSConfig = w.Spec.DNSPolicy, w.Spec.DNSConfig.DeepCopy()
	}
	c := &pod.Spec.Containers[0]
	c.ReadinessProbe = probepod.ReadinessProbe(probepod.HealthPort)
	if r.resident {
		c.Args = []string{"stay", "--annotations=" + wire.AnnotationsPath, "--health-port=" + strconv.Itoa(probepod.HealthPort)}
		probepod.ProjectAnnotations(pod, wire.AnnotationsPath, "metadata.annotations")
		if exp.Spec.Probe.WatchMilliseconds > 0 {
			// What it measures are moments: it must not be the last to get a busy processor.
			c.Resources.Requests[corev1.ResourceCPU] = resource.MustParse("100m")
		}
	} else {
		// The plan comes when the responders have started, or have been given up.
		c.Args = []string{"run", "--plan=" + wire.PlanPath, "--plan-wait=" + (o.StartTimeout + planDelivery).String(), "--health-port=" + strconv.Itoa(probepod.HealthPort), "--print-report"}
		probepod.ProjectAnnotations(pod, wire.PlanPath, "metadata.annotations['"+wire.PlanAnnotation+"']")
	}
	if exp.Spec.Probe.SCTP == v1alpha1.SCTPRaw && r.probesSCTP(p.Source.Key) {
		probepod.AllowRawSCTP(c)
	}
	return pod
}

// responderPod builds a pod that listens on the ports of the edges to its identity.
func responderPod(exp *v1alpha1.ConnectivityExpectation, r *run, x *responderRun, o Options) *corev1.Pod {
	pod := basePod(exp, r, x.name, x.Labels, x.Node, o)
	health := freePort(x.Ports)
	var listen []string
	c := &pod.Spec.Containers[0]
	if w := x.StandsFor; w != nil {
		pod.Spec.ServiceAccountName, pod.Spec.Tolerations = w.Spec.ServiceAccountName, w.Spec.Tolerations
		c.Ports = namedPorts(w)
	}
	for _, port := range x.Ports {
		listen = append(listen, port.String())
		own := corev1.ContainerPort{ContainerPort: int32(port.First), Protocol: corev1.Protocol(port.Protocol)}
		if !slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool {
			return p.ContainerPort == own.ContainerPort && p.Protocol == own.Protocol
		}) {
			c.Ports = append(c.Ports, own)
		}
		if port.First < 1024 {
			// A safe sysctl, allowed by the restricted Pod Security Standard, in place of
			// the capability NET_BIND_SERVICE.
			pod.Spec.SecurityContext.Sysctls = []corev1.Sysctl{{Name: "net.ipv4.ip_unprivileged_port_start", Value: "0"}}
		}
	}
	c.Args = []string{"serve", "--listen=" + strings.Join(listen, ","), "--health-port=" + strconv.Itoa(health), "--annotations=" + wire.AnnotationsPath}
	if !r.resident {
		c.Args = append(c.Args, "--record="+terminationLog)
	}
	probepod.ProjectAnnotations(pod, wire.AnnotationsPath, "metadata.annotations")
	if exp.Spec.Probe.SCTP == v1alpha1.SCTPRaw && slices.ContainsFunc(x.Ports, func(p flow.PortRange) bool { return p.Protocol == flow.SCTP }) {
		probepod.AllowRawSCTP(c)
	}
	c.ReadinessProbe = probepod.ReadinessProbe(health)
	return pod
}

// namedPorts returns the ports that a pod declares under a name: policies ask for these, of a
// stand-in as of the pod. One container can have a name once, and a number.
func namedPorts(pod *corev1.Pod) []corev1.ContainerPort {
	var out []corev1.ContainerPort
	for _, c := range evaluator.ServingContainers(&pod.Spec) {
		for _, p := range c.Ports {
			own := corev1.ContainerPort{Name: p.Name, ContainerPort: p.ContainerPort, Protocol: cmp.Or(p.Protocol, corev1.ProtocolTCP)}
			taken := slices.ContainsFunc(out, func(o corev1.ContainerPort) bool {
				return o.Name == own.Name || (o.ContainerPort == own.ContainerPort && o.Protocol == own.Protocol)
			})
			if own.Name != "" && !taken {
				out = append(out, own)
			}
		}
	}
	return out
}

func basePod(exp *v1alpha1.ConnectivityExpectation, r *run, name string, labels map[string]string, node string, o Options) *corev1.Pod {
	pod := probepod.New(exp.Namespace, name, labels, node, o.image())
	pod.Annotations[expectationAnnotation] = exp.Name
	// controller is false on purpose: the disruption controller gives up on a
	// budget that counts a pod whose controller has no scale.
	pod.OwnerReferences = []metav1.OwnerReference{ownerReference(exp)}
	pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: neverReady}}
	deadline := 2*o.StartTimeout + o.bound(exp.Spec.Probe) + grace
	if r.resident {
		pod.Annotations[residentAnnotation] = "true"
		deadline = 2 * residentAge
	} else {
		pod.Annotations[runAnnotation] = r.id
	}
	pod.Spec.ActiveDeadlineSeconds = ptr.To(int64(deadline.Seconds()))
	return pod
}

func ownerReference(exp *v1alpha1.ConnectivityExpectation) metav1.OwnerReference {
	return metav1.OwnerReference{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: "ConnectivityExpectation", Name: exp.Name, UID: exp.UID,
		Controller: ptr.To(false), BlockOwnerDeletion: ptr.To(false),
	}
}

// freePort returns a health port that is not among the ports listened on.
func freePort(ports []flow.PortRange) int {
	port := probepod.HealthPort
	for slices.ContainsFunc(ports, func(p flow.PortRange) bool { return p.Contains(flow.TCP, uint16(port)) }) {
		port++
	}
	return port
}

// expectationsOf returns the names of the expectations that a pod belongs to.
func expectationsOf(pod *corev1.Pod) []string {
	var out []string
	for _, o := range pod.OwnerReferences {
		if plan.IsExpectationRef(o) {
			out = append(out, o.Name)
		}
	}
	return out
}

// ownedByExpectation tells whether a pod belongs to the expectation of that name,
// and of that UID unless it is empty.
func ownedByExpectation(pod *corev1.Pod, name string, uid types.UID) bool {
	return slices.ContainsFunc(pod.OwnerReferences, func(o metav1.OwnerReference) bool {
		return plan.IsExpectationRef(o) && o.Name == name && (uid == "" || o.UID == uid)
	})
}
