package manifests

import (
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
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

// kind is how objects of one kind are read.
type kind struct {
	empty func() metav1.Object
	add   func(*Result, parsed)
	// cluster is set for kinds without a namespace.
	cluster bool
}

// reads makes a kind of a function that takes its objects.
func reads[T any, P interface {
	*T
	metav1.Object
}](add func(*Result, P)) *kind {
	return &kind{
		empty: func() metav1.Object { return P(new(T)) },
		add:   func(r *Result, p parsed) { add(r, p.object.(P)) },
	}
}

// ofCluster marks a kind that has no namespace.
func ofCluster(k *kind) *kind {
	k.cluster = true
	return k
}

// kinds is everything that is read. Each of them is decoded strictly; what is not
// here is skipped and counted.
var kinds = map[typeMeta]*kind{
	{"v1", "Namespace"}: ofCluster(reads(func(r *Result, o *corev1.Namespace) { r.Snapshot.Namespaces = append(r.Snapshot.Namespaces, o) })),
	{"v1", "Node"}:      ofCluster(reads(func(r *Result, o *corev1.Node) { r.Snapshot.Nodes = append(r.Snapshot.Nodes, o) })),
	{"v1", "Pod"}:       reads(addPod),
	{"v1", "Service"}:   reads(func(r *Result, o *corev1.Service) { r.Snapshot.Services = append(r.Snapshot.Services, o) }),
	{"discovery.k8s.io/v1", "EndpointSlice"}: reads(func(r *Result, o *discoveryv1.EndpointSlice) {
		r.Snapshot.EndpointSlices = append(r.Snapshot.EndpointSlices, o)
	}),
	{"networking.k8s.io/v1", "NetworkPolicy"}: reads(func(r *Result, o *networkingv1.NetworkPolicy) {
		r.Snapshot.NetworkPolicies = append(r.Snapshot.NetworkPolicies, o)
	}),
	{"policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"}: ofCluster(reads(func(r *Result, o *policyv1alpha2.ClusterNetworkPolicy) {
		r.Snapshot.ClusterNetworkPolicies = append(r.Snapshot.ClusterNetworkPolicies, o)
	})),
	{"policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"}: ofCluster(reads(func(r *Result, o *policyv1alpha1.AdminNetworkPolicy) {
		r.Snapshot.AdminNetworkPolicies = append(r.Snapshot.AdminNetworkPolicies, o)
	})),
	{"policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy"}: ofCluster(reads(func(r *Result, o *policyv1alpha1.BaselineAdminNetworkPolicy) {
		r.Snapshot.BaselineAdminNetworkPolicies = append(r.Snapshot.BaselineAdminNetworkPolicies, o)
	})),
	{"apps/v1", "Deployment"}:       reads(func(r *Result, o *appsv1.Deployment) { r.addWorkload("Deployment", o, &o.Spec.Template, nil) }),
	{"apps/v1", "DaemonSet"}:        reads(func(r *Result, o *appsv1.DaemonSet) { r.addWorkload("DaemonSet", o, &o.Spec.Template, nil) }),
	{"apps/v1", "ReplicaSet"}:       reads(func(r *Result, o *appsv1.ReplicaSet) { r.addWorkload("ReplicaSet", o, &o.Spec.Template, nil) }),
	{"apps/v1", "StatefulSet"}:      reads(addStatefulSet),
	{"v1", "ReplicationController"}: reads(addReplicationController),
	{"batch/v1", "Job"}:             reads(addJob),
	{"batch/v1", "CronJob"}: reads(func(r *Result, o *batchv1.CronJob) {
		r.addWorkload("CronJob", o, &o.Spec.JobTemplate.Spec.Template, nil)
	}),
	{"pathproof.dev/v1alpha1", expectationKind}: {empty: func() metav1.Object { return &v1alpha1.ConnectivityExpectation{} }, add: addExpectation},
}

const expectationKind = "ConnectivityExpectation"

// addPod notes a pod, unless it is one of the operator's in a dump of a cluster.
func addPod(r *Result, o *corev1.Pod) {
	if !plan.IsProbePod(o) {
		r.Snapshot.Pods = append(r.Snapshot.Pods, o)
	}
}

func addExpectation(r *Result, p parsed) {
	o := p.object.(*v1alpha1.ConnectivityExpectation)
	r.Expectations = append(r.Expectations, Expectation{Object: o, JSON: p.json, Place: p.place, PathLines: p.lines})
}

// PolicyKind returns the kind of an apiVersion and a kind, if its objects may decide
// about traffic and it is not NetworkPolicy itself. They may be evaluated or not.
func PolicyKind(apiVersion, kind string) (evaluator.PolicyKind, bool) {
	if groupOf(apiVersion) == "networking.k8s.io" && kind == "NetworkPolicy" {
		return evaluator.PolicyKind{}, false
	}
	return policyKind(typeMeta{apiVersion, kind})
}

// policyKind returns the kind if its objects may decide about traffic, and are not
// evaluated (rule S30). A kind of any group that calls itself a network policy may.
func policyKind(m typeMeta) (evaluator.PolicyKind, bool) {
	group := groupOf(m.APIVersion)
	for _, k := range evaluator.PolicyKinds() {
		if k.Group == group && k.Kind == m.Kind {
			return k, true
		}
	}
	unheard := evaluator.PolicyKind{Group: group, Kind: m.Kind}
	return unheard, strings.HasSuffix(m.Kind, "NetworkPolicy") && !strings.HasPrefix(m.Kind, "Staged")
}

// groupOf returns the API group of an apiVersion; empty for the core's.
func groupOf(apiVersion string) string {
	group, _, found := strings.Cut(apiVersion, "/")
	if !found {
		return ""
	}
	return group
}

// otherVersion returns the apiVersion that a kind is read in, if another one was
// written of a group that the kind may have been meant to be of: an old version,
// or a slip. Kinds of the same name in groups of other projects are their own.
func otherVersion(m typeMeta) string {
	group, right := groupOf(m.APIVersion), ""
	ours := group == "extensions"
	for known := range kinds {
		if known.Kind == m.Kind {
			right = known.APIVersion
		}
		ours = ours || groupOf(known.APIVersion) == group
	}
	if !ours {
		return ""
	}
	return right
}
