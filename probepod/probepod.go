// Package probepod builds the pods of the probe image, and reads how they are. It is pure:
// who creates them, and for what, is a matter of those who talk to the API server.
package probepod

import (
	"maps"
	"path"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/pathproof/pathproof/probe/wire"
)

const (
	// ContainerName is the name of the container that probes, or that alone listens.
	ContainerName = "probe"
	// HealthPort is where the kubelet asks whether a probe pod is alive, unless a
	// port of the path is the same.
	HealthPort = 8099
	// ExitUnsupported is the exit code of a responder whose kernel lacks a protocol.
	ExitUnsupported = 3

	probeUser = 65532
)

// WarmUp is the time between a pod's first plan and its first attempt, unless more is asked
// for. It gets its plan when its status has its address, and those who enforce policies hear
// of that at the same time.
const WarmUp = 500 * time.Millisecond

// nudgedAnnotation is changed so that the kubelet looks at a pod again. Its value is a time
// that nobody reads.
const nudgedAnnotation = "pathproof.dev/nudged-at"

// Nudge returns the annotations that make the kubelet look at a pod again. It can lose an
// annotation on its way into the file that the pod reads: it may write the file from what it
// had read of the pod before the change, and take that for written after it. It looks again
// after its syncFrequency, a minute or more by default, which is longer than a run waits; or
// when the pod changes.
func Nudge(now time.Time) map[string]string {
	return map[string]string{nudgedAnnotation: now.UTC().Format(time.RFC3339Nano)}
}

// EnforceLabel is the label of a namespace that names the Pod Security Standard that its
// pods have to meet.
const EnforceLabel = "pod-security.kubernetes.io/enforce"

// Image is what the containers of a probe pod run.
type Image struct {
	// Name is the reference of the image.
	Name string
	// PullPolicy of the image.
	PullPolicy corev1.PullPolicy
	// PullSecrets are names of secrets in the namespace of the pod.
	PullSecrets []string
}

// New builds a pod of the probe image that may do nothing but use its own network.
// It belongs to nobody yet.
func New(namespace, name string, labels map[string]string, node string, i Image) *corev1.Pod {
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
			Containers: []corev1.Container{Container(ContainerName, i)},
		},
	}
	for _, s := range i.PullSecrets {
		pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: s})
	}
	if node != "" {
		pod.Spec.Affinity = onNode(node)
	}
	return pod
}

// Container builds a container that may do nothing but use the network of its pod.
func Container(name string, i Image) corev1.Container {
	return corev1.Container{
		Name: name, Image: i.Name, ImagePullPolicy: i.PullPolicy,
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

// onNode binds a pod to a node through the scheduler, which still checks that the
// pod fits, unlike spec.nodeName.
func onNode(node string) *corev1.Affinity {
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{
			Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{node},
		}}}},
	}}}
}

// ReadinessProbe asks a container of ours on its health port every second.
func ReadinessProbe(port int) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromInt(port)}},
		PeriodSeconds: 1, TimeoutSeconds: 2, SuccessThreshold: 1, FailureThreshold: 2,
	}
}

// ProjectAnnotations gives the container a file that holds a field of the pod, and that
// follows it.
func ProjectAnnotations(pod *corev1.Pod, file, field string) {
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "plan", MountPath: path.Dir(file), ReadOnly: true}}
	pod.Spec.Volumes = []corev1.Volume{{Name: "plan", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{
		Items: []corev1.DownwardAPIVolumeFile{{Path: path.Base(file), FieldRef: &corev1.ObjectFieldSelector{FieldPath: field}}},
	}}}}
}

// EncodedPlan encodes a plan of ours, which is within the bounds that the encoding
// checks; one that were not would be refused by the probe, with the reason in its
// report.
func EncodedPlan(p wire.Plan) string {
	encoded, _ := wire.EncodePlan(p)
	return encoded
}

// netRaw is what a raw socket takes.
const netRaw corev1.Capability = "NET_RAW"

// AllowRawSCTP gives a container what it needs to speak SCTP without the kernel. The
// capability is in the permitted set of the binary (a file capability of the image), so
// that the container needs neither root nor privilege escalation.
func AllowRawSCTP(c *corev1.Container) {
	c.Args = append(c.Args, "--raw-sctp")
	c.SecurityContext.Capabilities.Add = []corev1.Capability{netRaw}
}

// AddsNetRaw tells whether a container has the capability that raw sockets take.
func AddsNetRaw(c corev1.Container) bool {
	return c.SecurityContext != nil && c.SecurityContext.Capabilities != nil && slices.Contains(c.SecurityContext.Capabilities.Add, netRaw)
}
