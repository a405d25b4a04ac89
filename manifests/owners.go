package manifests

import (
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Workload returns the workload that a pod belongs to, by kind and name: the
// Deployment and not its ReplicaSet, as people know it. A pod that nothing controls
// is its own.
func Workload(p *corev1.Pod) (kind, name string) {
	list := owners(p)
	if len(list) == 0 {
		return "Pod", p.Name
	}
	// The CronJob of a Job is a guess, and only good to find one that is known.
	last := list[len(list)-1]
	if kind, _, _ = strings.Cut(last, "/"); kind == "CronJob" {
		last = list[0]
	}
	kind, name, _ = strings.Cut(last, "/")
	return kind, name
}

// owners returns the controller of a pod and the controllers above it, as
// kind/name, as far as the pod tells them: what a Deployment or a CronJob makes is
// named after it.
func owners(p *corev1.Pod) []string {
	ref := metav1.GetControllerOf(p)
	// The kubelet shows a static pod as one that its node controls.
	if ref == nil || ref.Kind == "Node" {
		return nil
	}
	out := []string{ref.Kind + "/" + ref.Name}
	switch ref.Kind {
	case "ReplicaSet":
		// Only a Deployment gives its pods this label.
		if hash := p.Labels[appsv1.DefaultDeploymentUniqueLabelKey]; hash != "" {
			if name, ok := strings.CutSuffix(ref.Name, "-"+hash); ok {
				out = append(out, "Deployment/"+name)
			}
		}
	case "Job":
		// A CronJob names its Jobs after the minute that they are for.
		if i := strings.LastIndex(ref.Name, "-"); i > 0 && i+1 < len(ref.Name) && strings.Trim(ref.Name[i+1:], "0123456789") == "" {
			out = append(out, "CronJob/"+ref.Name[:i])
		}
	}
	return out
}

// ownerOf returns the controller of an object as kind/name.
func ownerOf(o metav1.Object) string {
	if ref := metav1.GetControllerOf(o); ref != nil {
		return ref.Kind + "/" + ref.Name
	}
	return ""
}
