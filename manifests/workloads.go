package manifests

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// workload is an object that makes pods. It stands for one of them.
type workload struct {
	kind            string
	namespace, name string
	// owner is the object that controls this one, as kind/name; empty if none does.
	owner string
	pod   *corev1.Pod
}

// addWorkload notes a workload. labels are those that its controller adds to the
// pods and whose values are known beforehand.
func (r *Result) addWorkload(kind string, o metav1.Object, t *corev1.PodTemplateSpec, labels map[string]string) {
	pod := &corev1.Pod{Spec: t.Spec}
	pod.Labels = maps.Clone(t.Labels)
	if pod.Labels == nil && labels != nil {
		pod.Labels = map[string]string{}
	}
	maps.Copy(pod.Labels, labels)
	pod.Annotations = t.Annotations
	pod.Namespace = o.GetNamespace()
	r.workloads = append(r.workloads, workload{kind: kind, namespace: o.GetNamespace(), name: o.GetName(), owner: ownerOf(o), pod: pod})
}

func addStatefulSet(r *Result, o *appsv1.StatefulSet) {
	ordinal := 0
	if o.Spec.Ordinals != nil {
		ordinal = int(o.Spec.Ordinals.Start)
	}
	number := strconv.Itoa(ordinal)
	r.addWorkload("StatefulSet", o, &o.Spec.Template, map[string]string{
		appsv1.StatefulSetPodNameLabel: o.Name + "-" + number, appsv1.PodIndexLabel: number,
	})
}

func addReplicationController(r *Result, o *corev1.ReplicationController) {
	t := o.Spec.Template
	if t == nil {
		t = &corev1.PodTemplateSpec{}
	}
	r.addWorkload("ReplicationController", o, t, nil)
}

func addJob(r *Result, o *batchv1.Job) {
	r.addWorkload("Job", o, &o.Spec.Template, map[string]string{batchv1.JobNameLabel: o.Name, "job-name": o.Name})
}

// standIns gives every workload its pod. One that has pods in the input, as in a
// dump of a cluster, needs none; nor has one that belongs to another workload of
// the input, such as the old ReplicaSets of a Deployment.
func (r *Result) standIns() {
	type key struct{ namespace, workload string }
	owned := map[key]*corev1.Pod{}
	for _, p := range r.Snapshot.Pods {
		for _, owner := range owners(p) {
			k := key{p.Namespace, owner}
			if first := owned[k]; first == nil || better(p, first) {
				owned[k] = p
			}
		}
	}
	byKey := map[key]*workload{}
	for i := range r.workloads {
		w := &r.workloads[i]
		byKey[key{w.namespace, w.kind + "/" + w.name}] = w
	}
	taken := map[key]bool{}
	for _, p := range r.Snapshot.Pods {
		taken[key{p.Namespace, p.Name}] = true
	}
	// Pods count for the owners of their owners.
	for i := range r.workloads {
		w := &r.workloads[i]
		pod := owned[key{w.namespace, w.kind + "/" + w.name}]
		if k := (key{w.namespace, w.owner}); pod != nil && byKey[k] != nil {
			if first := owned[k]; first == nil || better(pod, first) {
				owned[k] = pod
			}
		}
	}
	for i := range r.workloads {
		w := &r.workloads[i]
		if pod := owned[key{w.namespace, w.kind + "/" + w.name}]; pod != nil {
			w.pod = pod
			continue
		}
		if byKey[key{w.namespace, w.owner}] != nil {
			w.pod = nil
			continue
		}
		w.pod.Name = strings.ToLower(w.kind) + "-" + w.name
		w.pod.OwnerReferences = []metav1.OwnerReference{{Kind: w.kind, Name: w.name, Controller: new(true)}}
		if taken[key{w.namespace, w.pod.Name}] {
			// No pod of a cluster has such a name.
			w.pod.Name += "~"
		}
		r.Snapshot.Pods = append(r.Snapshot.Pods, w.pod)
	}
}

// better tells whether a pod speaks for its workload rather than another one: the
// one that has not ended, then the first by name.
func better(a, b *corev1.Pod) bool {
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Name, b.Name)) < 0
}

func rank(p *corev1.Pod) int {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return 1
	}
	return 0
}

// completePods gives pods without a status the one that a running pod has.
func (r *Result) completePods() {
	for _, p := range r.Snapshot.Pods {
		// The API server keeps both fields in step.
		switch {
		case len(p.Status.PodIPs) == 0 && p.Status.PodIP != "":
			p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
		case len(p.Status.PodIPs) > 0:
			p.Status.PodIP = cmp.Or(p.Status.PodIP, p.Status.PodIPs[0].IP)
		}
		if p.Status.Phase == "" {
			p.Status.Phase = corev1.PodRunning
		}
		if p.Status.Phase == corev1.PodRunning && len(p.Status.Conditions) == 0 {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
	}
	nodes := map[string][]string{}
	for _, n := range r.Snapshot.Nodes {
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				nodes[n.Name] = append(nodes[n.Name], a.Address)
			}
		}
	}
	for _, p := range r.Snapshot.Pods {
		if p.Status.HostIP != "" || len(p.Status.HostIPs) > 0 || p.Spec.NodeName == "" {
			continue
		}
		for _, a := range nodes[p.Spec.NodeName] {
			p.Status.HostIPs = append(p.Status.HostIPs, corev1.HostIP{IP: a})
		}
		if len(p.Status.HostIPs) > 0 {
			p.Status.HostIP = p.Status.HostIPs[0].IP
		}
	}
}

// completeNamespaces adds the label that the API server sets (rule S26).
func (r *Result) completeNamespaces() {
	for _, n := range r.Snapshot.Namespaces {
		if _, ok := n.Labels[corev1.LabelMetadataName]; ok {
			continue
		}
		labels := maps.Clone(n.Labels)
		if labels == nil {
			labels = map[string]string{}
		}
		labels[corev1.LabelMetadataName] = n.Name
		n.Labels = labels
	}
}

// sorted returns the pods by namespace and name.
func sorted(pods []*corev1.Pod) []*corev1.Pod {
	return slices.SortedFunc(slices.Values(pods), func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
}
