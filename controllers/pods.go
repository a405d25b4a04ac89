package controllers

import (
	"cmp"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/probe/wire"
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
	probeUser     = 65532
	containerName = "probe"
	// healthPort is where the kubelet asks whether a probe pod is alive, unless a
	// port of the path is the same.
	healthPort = 8099
	// planDelivery is how long a plan may take from the annotation to the file: the
	// kubelet looks once a minute at the latest (syncFrequency).
	planDelivery = 90 * time.Second
	// grace is added to the longest run, so that the kubelet ends a pod whose
	// operator is gone only when nobody can be waiting for it.
	grace = 60 * time.Second
)

// probePod builds the pod that runs one plan. It waits for the plan if there is
// none yet.
func probePod(exp *v1alpha1.ConnectivityExpectation, r *run, p *probeRun, o Options) *corev1.Pod {
	pod := basePod(exp, r, p.name, p.Source.Labels, p.Node, o)
	if w := p.Source.Workload; w != nil {
		pod.Spec.Tolerations = w.Spec.Tolerations
		// Names are resolved by the nameservers, and with the search list, of the workload.
		pod.Spec.DNSPolicy, pod.Spec.DNSConfig = w.Spec.DNSPolicy, w.Spec.DNSConfig.DeepCopy()
	}
	c := &pod.Spec.Containers[0]
	c.ReadinessProbe = readinessProbe(healthPort)
	if r.resident {
		c.Args = []string{"stay", "--annotations=" + wire.AnnotationsPath, "--health-port=" + strconv.Itoa(healthPort)}
		projectAnnotations(pod, wire.AnnotationsPath, "metadata.annotations")
		if exp.Spec.Probe.WatchMilliseconds > 0 {
			// What it measures are moments: it must not be the last to get a busy processor.
			c.Resources.Requests[corev1.ResourceCPU] = resource.MustParse("100m")
		}
	} else {
		if len(p.plan.Checks) > 0 {
			pod.Annotations[wire.PlanAnnotation] = encodedPlan(p.plan)
		}
		// The plan comes when the responders have started, or have been given up.
		c.Args = []string{"run", "--plan=" + wire.PlanPath, "--plan-wait=" + (o.StartTimeout + planDelivery).String(), "--health-port=" + strconv.Itoa(healthPort)}
		projectAnnotations(pod, wire.PlanPath, "metadata.annotations['"+wire.PlanAnnotation+"']")
	}
	if exp.Spec.Probe.SCTP == v1alpha1.SCTPRaw && r.probesSCTP(p.Source.Key) {
		allowRawSCTP(c)
	}
	return pod
}

// projectAnnotations gives the container a file that holds a field of the pod, and that
// follows it.
func projectAnnotations(pod *corev1.Pod, file, field string) {
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "plan", MountPath: path.Dir(file), ReadOnly: true}}
	pod.Spec.Volumes = []corev1.Volume{{Name: "plan", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{
		Items: []corev1.DownwardAPIVolumeFile{{Path: path.Base(file), FieldRef: &corev1.ObjectFieldSelector{FieldPath: field}}},
	}}}}
}

// encodedPlan encodes a plan of ours, which is within the bounds that the encoding
// checks; one that were not would be refused by the probe, with the reason in its
// report.
func encodedPlan(p wire.Plan) string {
	encoded, _ := wire.EncodePlan(p)
	return encoded
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
	projectAnnotations(pod, wire.AnnotationsPath, "metadata.annotations")
	if exp.Spec.Probe.SCTP == v1alpha1.SCTPRaw && slices.ContainsFunc(x.Ports, func(p flow.PortRange) bool { return p.Protocol == flow.SCTP }) {
		allowRawSCTP(c)
	}
	c.ReadinessProbe = readinessProbe(health)
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

// netRaw is what a raw socket takes.
const netRaw corev1.Capability = "NET_RAW"

// allowRawSCTP gives a container what it needs to speak SCTP without the kernel. The
// capability is in the permitted set of the binary (a file capability of the image), so
// that the container needs neither root nor privilege escalation.
func allowRawSCTP(c *corev1.Container) {
	c.Args = append(c.Args, "--raw-sctp")
	c.SecurityContext.Capabilities.Add = []corev1.Capability{netRaw}
}

func basePod(exp *v1alpha1.ConnectivityExpectation, r *run, name string, labels map[string]string, node string, o Options) *corev1.Pod {
	pod := confinedPod(exp.Namespace, name, labels, node, o)
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

// confinedPod builds a pod of the probe image that may do nothing but use its own network.
// It belongs to nobody yet.
func confinedPod(namespace, name string, labels map[string]string, node string, o Options) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: namespace, Labels: maps.Clone(labels),
			Annotations: map[string]string{
				// A sidecar would answer in place of the target, and would not end.
				"sidecar.istio.io/inject": "false",
				"linkerd.io/inject":       "disabled",
				// Argo CD prunes what carries the tracking label of an application and is
				// not in it.
				"argocd.argoproj.io/compare-options": "IgnoreExtraneous",
			},
		},
		Spec: corev1.PodSpec{
			RestartPolicy:                 corev1.RestartPolicyNever,
			TerminationGracePeriodSeconds: ptr.To(int64(1)),
			AutomountServiceAccountToken:  ptr.To(false),
			EnableServiceLinks:            ptr.To(false),
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: ptr.To(true), RunAsUser: ptr.To(int64(probeUser)), RunAsGroup: ptr.To(int64(probeUser)),
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{confinedContainer(containerName, o)},
		},
	}
	for _, s := range o.ImagePullSecrets {
		pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: s})
	}
	if node != "" {
		pod.Spec.Affinity = onNode(node)
	}
	return pod
}

func confinedContainer(name string, o Options) corev1.Container {
	return corev1.Container{
		Name: name, Image: o.ProbeImage, ImagePullPolicy: o.ProbeImagePullPolicy,
		TerminationMessagePolicy: corev1.TerminationMessageReadFile,
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: ptr.To(false), ReadOnlyRootFilesystem: ptr.To(true),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("16Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
		},
	}
}

func ownerReference(exp *v1alpha1.ConnectivityExpectation) metav1.OwnerReference {
	return metav1.OwnerReference{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: "ConnectivityExpectation", Name: exp.Name, UID: exp.UID,
		Controller: ptr.To(false), BlockOwnerDeletion: ptr.To(false),
	}
}

// onNode binds a pod to a node through the scheduler, which still checks that the
// pod fits, unlike spec.nodeName.
func onNode(node string) *corev1.Affinity {
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{
			Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{node},
		}}}},
	}}}
}

func readinessProbe(port int) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromInt(port)}},
		PeriodSeconds: 1, TimeoutSeconds: 2, SuccessThreshold: 1, FailureThreshold: 2,
	}
}

// freePort returns a health port that is not among the ports listened on.
func freePort(ports []flow.PortRange) int {
	port := healthPort
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
