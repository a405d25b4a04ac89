package manifests

import (
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/pathproof/pathproof/evaluator"
)

const clusterText = `apiVersion: v1
kind: Namespace
metadata:
  name: x
  labels: {team: a, applied: before, kubernetes.io/metadata.name: x}
  annotations: {kubectl.kubernetes.io/last-applied-configuration: '{"metadata":{"name":"x","labels":{"applied":"before"}}}'}
---
apiVersion: v1
kind: Pod
metadata:
  name: web-5d8f-a
  namespace: x
  labels: {app: web, pod-template-hash: 5d8f}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-5d8f, uid: u, controller: true}]
spec: {nodeName: node, containers: [{name: c, ports: [{containerPort: 80}]}]}
status: {phase: Running, podIP: 10.0.0.1, hostIP: 192.0.2.1}
---
apiVersion: v1
kind: Pod
metadata: {name: plain, namespace: x, labels: {app: plain}}
spec: {nodeName: node, containers: []}
status: {phase: Running, podIP: 10.0.0.2}
---
apiVersion: v1
kind: Pod
metadata:
  name: every-29000000-a
  namespace: x
  ownerReferences: [{apiVersion: batch/v1, kind: Job, name: every-29000000, uid: u, controller: true}]
spec: {containers: []}
status: {phase: Succeeded, podIP: 10.0.0.1}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: x}
spec: {clusterIP: 10.96.0.7, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: x, labels: {kubernetes.io/service-name: web, endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, namespace: x, name: web-5d8f-a}}]
ports: [{name: "", protocol: TCP, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: far, namespace: far}
spec: {clusterIP: 10.96.0.8, selector: {app: far}, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: far-1, namespace: far, labels: {kubernetes.io/service-name: far, endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.9]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: x}
spec: {podSelector: {matchLabels: {app: web}}}
---
apiVersion: pathproof.dev/v1alpha1
kind: ConnectivityExpectation
metadata: {name: e, namespace: x}
spec: {paths: [{name: theirs, expect: Deny}]}
`

// clusterOf is a cluster that holds what a text says.
func clusterOf(t *testing.T, text string) *Cluster {
	t.Helper()
	r := read(t, text)
	c := &Cluster{Snapshot: r.Snapshot}
	for _, e := range r.Expectations {
		c.Expectations = append(c.Expectations, e.Object)
	}
	return c
}

func over(t *testing.T, c *Cluster, text string) *Result {
	t.Helper()
	r := readBytes([]byte(text), Options{Cluster: c, ClusterDNS: DefaultClusterDNS, Namespace: "x"})
	if len(r.Problems) > 0 {
		t.Fatal(r.Problems)
	}
	return r
}

func endpointsOf(r *Result, service string) []string {
	var out []string
	for _, s := range r.Snapshot.EndpointSlices {
		if s.Labels[discoveryv1.LabelServiceName] == service {
			for _, e := range s.Endpoints {
				out = append(out, e.Addresses...)
			}
		}
	}
	return out
}

const nothingToApply = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"

func TestNothingOverAClusterIsTheCluster(t *testing.T) {
	c := clusterOf(t, clusterText)
	r := over(t, c, nothingToApply)
	s := &r.Snapshot
	if len(s.Namespaces) != 1 || len(s.Pods) != 3 || len(s.Services) != 2 || len(s.EndpointSlices) != 2 || len(s.NetworkPolicies) != 1 || len(r.Expectations) != 1 {
		t.Fatalf("got %d namespaces, %d pods, %d services, %d slices, %d policies, %d expectations", len(s.Namespaces), len(s.Pods), len(s.Services), len(s.EndpointSlices), len(s.NetworkPolicies), len(r.Expectations))
	}
	if e := r.Expectations[0]; e.JSON != nil || e.Place.String() != "the cluster" {
		t.Errorf("the expectation is from %s", e.Place)
	}
	names := r.Names()
	for name, want := range map[string]string{"x/web": "web-5d8f-a", "x/deployment/web": "web-5d8f-a", "x/plain": "plain", "x/every-29000000": "every-29000000-a"} {
		if e, err := names.Source(name); err != nil || e.Pod != want {
			t.Errorf("%s is %v (%v), want %s", name, e, err, want)
		}
	}
	if _, err := names.Source("x/nobody"); err == nil || !strings.HasSuffix(err.Error(), "in the cluster") {
		t.Errorf("got %v", err)
	}
}

func TestChangesOverACluster(t *testing.T) {
	deployment := func(labels, more string) string {
		return "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {template: {metadata: {labels: " + labels + "}, spec: {" + more + "containers: [{name: c, ports: [{name: http, containerPort: 81}]}]}}}\n"
	}
	cases := map[string]struct {
		text  string
		check func(*testing.T, *Result)
	}{
		"a policy is replaced": {
			"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web}\nspec: {podSelector: {matchLabels: {app: new}}}\n",
			func(t *testing.T, r *Result) {
				if len(r.Snapshot.NetworkPolicies) != 1 || r.Snapshot.NetworkPolicies[0].Spec.PodSelector.MatchLabels["app"] != "new" {
					t.Errorf("got %v", r.Snapshot.NetworkPolicies)
				}
			},
		},
		"a policy is added": {
			"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web, namespace: far}\nspec: {podSelector: {}}\n",
			func(t *testing.T, r *Result) {
				if len(r.Snapshot.NetworkPolicies) != 2 {
					t.Errorf("got %v", r.Snapshot.NetworkPolicies)
				}
			},
		},
		"an expectation is replaced": {
			"apiVersion: pathproof.dev/v1alpha1\nkind: ConnectivityExpectation\nmetadata: {name: e}\nspec: {paths: [{name: ours, expect: Deny}]}\n",
			func(t *testing.T, r *Result) {
				if len(r.Expectations) != 1 || r.Expectations[0].Object.Spec.Paths[0].Name != "ours" {
					t.Errorf("got %+v", r.Expectations)
				}
			},
		},
		"labels of a namespace that nobody applied stay": {
			"apiVersion: v1\nkind: Namespace\nmetadata: {name: x, labels: {new: b}}\n",
			func(t *testing.T, r *Result) {
				want := map[string]string{"team": "a", "new": "b", corev1.LabelMetadataName: "x"}
				if got := r.Snapshot.Namespaces[0].Labels; !maps.Equal(got, want) {
					t.Errorf("got %v, want %v", got, want)
				}
			},
		},
		"the pods of a workload get its template, and stay in their place": {
			deployment("{app: other}", ""),
			func(t *testing.T, r *Result) {
				p := r.pod(t, "web-5d8f-a")
				if want := map[string]string{"app": "other", "pod-template-hash": "5d8f"}; !maps.Equal(p.Labels, want) {
					t.Errorf("got %v, want %v", p.Labels, want)
				}
				if p.Status.PodIP != "10.0.0.1" || p.Spec.NodeName != "node" || p.Spec.Containers[0].Ports[0].ContainerPort != 81 || len(r.Snapshot.Pods) != 3 {
					t.Errorf("got %s on %s and %d pods", p.Status.PodIP, p.Spec.NodeName, len(r.Snapshot.Pods))
				}
				if got := endpointsOf(r, "web"); got != nil {
					t.Errorf("the Service still has the endpoints %v", got)
				}
				if got := endpointsOf(r, "far"); !slices.Equal(got, []string{"10.0.0.9"}) {
					t.Errorf("the Service of another namespace has the endpoints %v", got)
				}
			},
		},
		"a workload that moves to the network of its node has another address": {
			deployment("{app: web}", "hostNetwork: true, "),
			func(t *testing.T, r *Result) {
				if got := r.pod(t, "web-5d8f-a").Status.PodIP; got != "192.0.2.1" {
					t.Errorf("got %s", got)
				}
			},
		},
		"a new workload gets a pod": {
			strings.ReplaceAll(deployment("{app: web}", ""), "name: web", "name: web2"),
			func(t *testing.T, r *Result) {
				if got := endpointsOf(r, "web"); len(got) != 2 {
					t.Errorf("the Service has the endpoints %v, want the old pod and the new one", got)
				}
				if kind, name := Workload(r.pod(t, "deployment-web2")); kind != "Deployment" || name != "web2" {
					t.Errorf("the pod is of %s %s", kind, name)
				}
			},
		},
		"a Service keeps its address, and selects others": {
			"apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: plain}, ports: [{port: 80}]}\n",
			func(t *testing.T, r *Result) {
				s := find1(t, r.Snapshot.Services, func(s *corev1.Service) bool { return s.Name == "web" })
				if s.Spec.ClusterIP != "10.96.0.7" || !slices.Equal(endpointsOf(r, "web"), []string{"10.0.0.2"}) {
					t.Errorf("got %s with %v", s.Spec.ClusterIP, endpointsOf(r, "web"))
				}
			},
		},
		"a pod keeps its status": {
			"apiVersion: v1\nkind: Pod\nmetadata: {name: plain, labels: {app: new}}\n",
			func(t *testing.T, r *Result) {
				if p := r.pod(t, "plain"); p.Status.PodIP != "10.0.0.2" || p.Spec.NodeName != "node" || p.Labels["app"] != "new" {
					t.Errorf("got %+v", p)
				}
			},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := clusterOf(t, clusterText)
			tc.check(t, over(t, c, tc.text))
			// What the next reading is laid over must be the cluster, still.
			again := over(t, c, nothingToApply)
			if p := again.pod(t, "web-5d8f-a"); p.Labels["app"] != "web" || p.Status.PodIP != "10.0.0.1" || !slices.Equal(endpointsOf(again, "web"), []string{"10.0.0.1"}) {
				t.Errorf("the cluster has changed: %+v", p)
			}
		})
	}
}

func TestUnmodelledPoliciesOfAClusterCloud(t *testing.T) {
	cilium := UnmodelledPolicy{APIVersion: "cilium.io/v2", Kind: "CiliumNetworkPolicy", Namespace: "x", Name: "a"}
	unread := UnmodelledPolicy{APIVersion: "policy.networking.k8s.io/v1alpha2", Kind: "ClusterNetworkPolicy", Unread: "no permission"}
	c := &Cluster{Unmodelled: []UnmodelledPolicy{cilium, unread}}
	// The file replaces the object of the cluster.
	r := over(t, c, "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a, namespace: x}\n")
	want := []evaluator.Unmodelled{{Kind: "CiliumNetworkPolicy.cilium.io", Namespace: "x", Name: "a"}, {Kind: "ClusterNetworkPolicy.policy.networking.k8s.io"}}
	if !slices.Equal(r.Snapshot.Unmodelled, want) {
		t.Errorf("got %v, want %v", r.Snapshot.Unmodelled, want)
	}
	var texts []string
	for _, k := range r.Unmodelled() {
		texts = append(texts, k.String())
	}
	if got := strings.Join(texts, "; "); !strings.HasPrefix(got, "1 CiliumNetworkPolicy (cilium.io/v2), the first in ") || !strings.Contains(got, "cannot be read: no permission") {
		t.Errorf("got %s", got)
	}
	r = readBytes([]byte(nothingToApply), Options{Cluster: c, IgnoredKinds: []string{"CiliumNetworkPolicy", "clusternetworkpolicy"}})
	if len(r.Snapshot.Unmodelled) > 0 || len(r.Unmodelled()) > 0 {
		t.Errorf("ignored kinds cloud: %v", r.Snapshot.Unmodelled)
	}
}

func TestWorkloadOfAPod(t *testing.T) {
	pod := func(kind, name, labels string) *corev1.Pod {
		owner := ""
		if kind != "" {
			owner = "ownerReferences: [{apiVersion: v1, kind: " + kind + ", name: " + name + ", uid: u, controller: true}], "
		}
		return read(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: p, "+owner+"labels: {"+labels+"}}\n").Snapshot.Pods[0]
	}
	cases := map[string]struct {
		pod  *corev1.Pod
		want string
	}{
		"a pod of its own":      {pod("", "", ""), "Pod/p"},
		"a static pod":          {pod("Node", "node", ""), "Pod/p"},
		"a pod of a Deployment": {pod("ReplicaSet", "web-5d8f", "pod-template-hash: 5d8f"), "Deployment/web"},
		"a pod of a ReplicaSet that belongs to nobody": {pod("ReplicaSet", "web-5d8f", ""), "ReplicaSet/web-5d8f"},
		"a pod of a Job":          {pod("Job", "every-29000000", ""), "Job/every-29000000"},
		"a pod of something else": {pod("Rollout", "web", ""), "Rollout/web"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if kind, workload := Workload(tc.pod); kind+"/"+workload != tc.want {
				t.Errorf("got %s/%s, want %s", kind, workload, tc.want)
			}
		})
	}
}

func TestProbePodsAreLeftOut(t *testing.T) {
	probe := "apiVersion: v1\nkind: Pod\nmetadata: {name: probe, namespace: x, annotations: {pathproof.dev/expectation: e}, ownerReferences: [{apiVersion: pathproof.dev/v1alpha1, kind: ConnectivityExpectation, name: e, uid: u}]}\n"
	if r := read(t, probe); len(r.Snapshot.Pods) != 0 {
		t.Errorf("a dump holds %d pods, want none", len(r.Snapshot.Pods))
	}
	c := &Cluster{}
	c.Snapshot.Pods = []*corev1.Pod{{}}
	c.Snapshot.NetworkPolicies = []*networkingv1.NetworkPolicy{}
	*c.Snapshot.Pods[0] = *read(t, strings.Replace(probe, "pathproof.dev/expectation", "other", 1)).Snapshot.Pods[0]
	c.Snapshot.Pods[0].Annotations = map[string]string{"pathproof.dev/expectation": "e"}
	if r := over(t, c, nothingToApply); len(r.Snapshot.Pods) != 0 {
		t.Errorf("the cluster holds %d pods, want none", len(r.Snapshot.Pods))
	}
}
