package manifests

import (
	"encoding/json"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha1 "sigs.k8s.io/network-policy-api/apis/v1alpha1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/plan"
)

// Cluster is what a cluster holds. Manifests can be laid over it.
type Cluster struct {
	// Snapshot has no Unmodelled: they are made of Unmodelled below.
	Snapshot     plan.Snapshot
	Expectations []*v1alpha1.ConnectivityExpectation
	// Unmodelled are policies that are not evaluated.
	Unmodelled []UnmodelledPolicy
	// Notes say what could not be read and may matter.
	Notes []string
}

// UnmodelledPolicy is a policy that is not evaluated, or a kind of policy whose
// objects cannot be read.
type UnmodelledPolicy struct {
	APIVersion, Kind string
	Namespace, Name  string
	// Unread says why the objects of the kind cannot be read; Namespace and Name are
	// empty then.
	Unread string
}

// endpointSliceController is what labels the slices of Services with a selector.
const endpointSliceController = "endpointslice-controller.k8s.io"

// overlay adds what the cluster holds and the input does not replace.
func (c *collection) overlay(cl *Cluster) {
	c.inherit(cl)
	touched := c.touched()
	r, from := c.result, &cl.Snapshot
	r.overCluster = true
	r.Notes = append(r.Notes, cl.Notes...)
	var pods []*corev1.Pod
	for _, p := range remaining(c, "", "Pod", from.Pods) {
		if !plan.IsProbePod(p) {
			pods = append(pods, r.retemplated(p))
		}
	}
	r.clusterWorkloads(pods)
	s := &r.Snapshot
	s.Pods = append(s.Pods, pods...)
	s.Namespaces = append(s.Namespaces, remaining(c, "", "Namespace", from.Namespaces)...)
	s.Nodes = append(s.Nodes, remaining(c, "", "Node", from.Nodes)...)
	s.Services = append(s.Services, remaining(c, "", "Service", from.Services)...)
	s.NetworkPolicies = append(s.NetworkPolicies, remaining(c, networkingv1.GroupName, "NetworkPolicy", from.NetworkPolicies)...)
	s.ClusterNetworkPolicies = append(s.ClusterNetworkPolicies, remaining(c, policyv1alpha2.GroupName, "ClusterNetworkPolicy", from.ClusterNetworkPolicies)...)
	s.AdminNetworkPolicies = append(s.AdminNetworkPolicies, remaining(c, policyv1alpha1.GroupName, "AdminNetworkPolicy", from.AdminNetworkPolicies)...)
	s.BaselineAdminNetworkPolicies = append(s.BaselineAdminNetworkPolicies, remaining(c, policyv1alpha1.GroupName, "BaselineAdminNetworkPolicy", from.BaselineAdminNetworkPolicies)...)
	s.EndpointSlices = append(s.EndpointSlices, current(remaining(c, discoveryv1.GroupName, "EndpointSlice", from.EndpointSlices), touched)...)
	for _, e := range remaining(c, v1alpha1.GroupVersion.Group, expectationKind, cl.Expectations) {
		r.Expectations = append(r.Expectations, Expectation{Object: e})
	}
	for _, u := range cl.Unmodelled {
		c.cloud(u)
	}
}

// remaining returns the objects that the input does not replace.
func remaining[T metav1.Object](c *collection, group, kind string, list []T) []T {
	var out []T
	for _, o := range list {
		if _, replaced := c.seen[identity{group, kind, o.GetNamespace(), o.GetName()}]; !replaced {
			out = append(out, o)
		}
	}
	return out
}

// cloud notes a policy that is not evaluated.
func (c *collection) cloud(u UnmodelledPolicy) {
	meta := typeMeta{u.APIVersion, u.Kind}
	kind, _ := policyKind(meta)
	clouds := evaluator.Unmodelled{Kind: kind.String()}
	if u.Unread == "" {
		clouds = kind.Clouds(u.Namespace, u.Name)
	}
	if slices.Contains(c.result.Snapshot.Unmodelled, clouds) {
		return
	}
	c.skip(parsed{meta: meta, cloud: &clouds})
	if u.Unread != "" {
		c.skipped[meta].Unread = u.Unread
	}
}

// inherit gives objects of the input what they keep of the objects that they
// replace, because manifests do not say it.
func (c *collection) inherit(cl *Cluster) {
	for old, o := range replaced(c.result.Snapshot.Namespaces, cl.Snapshot.Namespaces) {
		o.Labels = mergedLabels(old, o)
	}
	for old, o := range replaced(c.result.Snapshot.Nodes, cl.Snapshot.Nodes) {
		if len(o.Status.Addresses) == 0 {
			o.Status = old.Status
		}
	}
	for old, o := range replaced(c.result.Snapshot.Services, cl.Snapshot.Services) {
		if o.Spec.ClusterIP == "" && len(o.Spec.ClusterIPs) == 0 && o.Spec.Type != corev1.ServiceTypeExternalName {
			o.Spec.ClusterIP, o.Spec.ClusterIPs = old.Spec.ClusterIP, old.Spec.ClusterIPs
			o.Spec.IPFamilies, o.Spec.IPFamilyPolicy = old.Spec.IPFamilies, old.Spec.IPFamilyPolicy
		}
		if len(o.Status.LoadBalancer.Ingress) == 0 {
			o.Status = old.Status
		}
	}
	for old, o := range replaced(c.result.Snapshot.Pods, cl.Snapshot.Pods) {
		if o.Status.Phase == "" && o.Status.PodIP == "" && len(o.Status.PodIPs) == 0 {
			old = old.DeepCopy()
			o.Status = old.Status
			if o.Spec.NodeName == "" {
				o.Spec.NodeName = old.Spec.NodeName
			}
			if o.OwnerReferences == nil {
				o.OwnerReferences = old.OwnerReferences
			}
		}
	}
}

// replaced pairs objects of a cluster with those of the input that replace them.
func replaced[T metav1.Object](input, cluster []T) func(yield func(old, o T) bool) {
	type key struct{ namespace, name string }
	return func(yield func(old, o T) bool) {
		byName := map[key]T{}
		for _, o := range input {
			byName[key{o.GetNamespace(), o.GetName()}] = o
		}
		for _, old := range cluster {
			if o, ok := byName[key{old.GetNamespace(), old.GetName()}]; ok && !yield(old, o) {
				return
			}
		}
	}
}

// mergedLabels returns the labels that a Namespace has after it was applied: its
// own, and those that others have set and no earlier apply did.
func mergedLabels(old, o *corev1.Namespace) map[string]string {
	var last corev1.Namespace
	// Whoever does not use kubectl apply leaves nothing here, and then all stay.
	_ = json.Unmarshal([]byte(old.Annotations[corev1.LastAppliedConfigAnnotation]), &last)
	out := map[string]string{}
	for k, v := range old.Labels {
		if _, applied := last.Labels[k]; !applied {
			out[k] = v
		}
	}
	maps.Copy(out, o.Labels)
	return out
}

// retemplated returns the pod as its workload makes it after the workload was
// applied: with other labels and containers perhaps, and still in its place. A pod
// whose workload is not in the input stays as it is.
func (r *Result) retemplated(p *corev1.Pod) *corev1.Pod {
	if rank(p) > 0 {
		return p
	}
	for _, owner := range owners(p) {
		for i := range r.workloads {
			w := &r.workloads[i]
			if w.namespace != p.Namespace || w.kind+"/"+w.name != owner {
				continue
			}
			next := p.DeepCopy()
			next.Labels, next.Annotations = maps.Clone(w.pod.Labels), maps.Clone(w.pod.Annotations)
			for k, v := range p.Labels {
				if plan.IsControllerLabel(k) {
					if next.Labels == nil {
						next.Labels = map[string]string{}
					}
					next.Labels[k] = v
				}
			}
			next.Spec = *w.pod.Spec.DeepCopy()
			next.Spec.NodeName = p.Spec.NodeName
			if next.Spec.HostNetwork != p.Spec.HostNetwork {
				next.Status.PodIP, next.Status.PodIPs = "", nil
			}
			p = next
			break
		}
	}
	return p
}

// clusterWorkloads notes the workloads of a cluster, as far as their pods tell
// them, so that they can be named.
func (r *Result) clusterWorkloads(pods []*corev1.Pod) {
	type key struct{ namespace, kind, name string }
	known := map[key]bool{}
	for _, w := range r.workloads {
		known[key{w.namespace, w.kind, w.name}] = true
	}
	for _, p := range pods {
		kind, name := Workload(p)
		if k := (key{p.Namespace, kind, name}); kind != "Pod" && !known[k] {
			known[k] = true
			r.workloads = append(r.workloads, workload{kind: kind, namespace: p.Namespace, name: name})
		}
	}
}

// touched returns the namespaces in which the input may change what is behind a
// Service.
func (c *collection) touched() map[string]bool {
	out := map[string]bool{}
	for _, p := range c.result.Snapshot.Pods {
		out[p.Namespace] = true
	}
	for _, w := range c.result.workloads {
		out[w.namespace] = true
	}
	for _, s := range c.result.Snapshot.Services {
		out[s.Namespace] = true
	}
	return out
}

// current returns the slices that are still right: those of a touched namespace
// that the cluster's controller made, it would make again. A Service that has
// slices of others, too, keeps all of them.
func current(list []*discoveryv1.EndpointSlice, touched map[string]bool) []*discoveryv1.EndpointSlice {
	service := func(s *discoveryv1.EndpointSlice) string {
		return s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]
	}
	foreign := map[string]bool{}
	for _, s := range list {
		if s.Labels[discoveryv1.LabelManagedBy] != endpointSliceController {
			foreign[service(s)] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(list), func(s *discoveryv1.EndpointSlice) bool {
		return touched[s.Namespace] && !foreign[service(s)]
	})
}
