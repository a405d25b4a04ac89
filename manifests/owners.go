package manifests

import (
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// Owner is the workload that a person would say a pod is of.
type Owner struct {
	Kind, Name string
}

// Owners finds the workloads of pods. The owner of an owner comes first: a
// Deployment, and not its ReplicaSet.
type Owners struct {
	standIns map[*corev1.Pod]*workload
	byKey    map[string]*workload
}

// Owners returns the owners of the pods of the input.
func (r *Result) Owners() *Owners {
	o := &Owners{standIns: map[*corev1.Pod]*workload{}, byKey: map[string]*workload{}}
	for i := range r.workloads {
		w := &r.workloads[i]
		o.byKey[w.namespace+"/"+w.kind+"/"+w.name] = w
		// A pod of the input says itself what it belongs to.
		if w.pod != nil && ownerOf(w.pod) == "" {
			o.standIns[w.pod] = w
		}
	}
	return o
}

// Of returns the owner of a pod; ok is false for a pod that nothing made.
func (o *Owners) Of(pod *corev1.Pod) (owner Owner, ok bool) {
	name := ownerOf(pod)
	if w := o.standIns[pod]; w != nil {
		name = w.kind + "/" + w.name
	}
	// A node owns the pods that its kubelet reads from files.
	if name == "" || strings.HasPrefix(name, "Node/") {
		return Owner{}, false
	}
	// Owners of owners are few; the bound is for those that own each other.
	for range 4 {
		w := o.byKey[pod.Namespace+"/"+name]
		if w == nil || w.owner == "" {
			break
		}
		name = w.owner
	}
	owner.Kind, owner.Name, _ = strings.Cut(name, "/")
	// A dump of pods lacks the ReplicaSet that says whose it is, and its name ends in
	// the hash that the pods have as a label.
	hash := pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
	if deployment, cut := strings.CutSuffix(owner.Name, "-"+hash); cut && hash != "" && owner.Kind == "ReplicaSet" {
		owner = Owner{Kind: "Deployment", Name: deployment}
	}
	return owner, true
}
