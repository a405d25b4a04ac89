package manifests

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/plan"
)

func read(t *testing.T, text string) *Result {
	t.Helper()
	r := readBytes([]byte(text), Options{ClusterDNS: DefaultClusterDNS})
	if len(r.Problems) > 0 {
		t.Fatal(r.Problems)
	}
	return r
}

func find1[T any](t *testing.T, list []T, is func(T) bool) T {
	t.Helper()
	i := slices.IndexFunc(list, is)
	if i < 0 {
		t.Fatal("there is no such object")
	}
	return list[i]
}

func (r *Result) pod(t *testing.T, name string) *corev1.Pod {
	t.Helper()
	return find1(t, r.Snapshot.Pods, func(p *corev1.Pod) bool { return p.Name == name })
}

const everyWorkload = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: x}
spec: {template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: x}
spec: {template: {metadata: {labels: {app: db}}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: x}
spec: {template: {metadata: {labels: {app: agent}}, spec: {hostNetwork: true, containers: []}}}
---
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: rs, namespace: x}
spec: {template: {metadata: {labels: {app: rs}}}}
---
apiVersion: v1
kind: ReplicationController
metadata: {name: rc, namespace: x}
spec: {template: {metadata: {labels: {app: rc}}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once, namespace: x}
spec: {template: {metadata: {labels: {app: once}}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: x}
spec: {jobTemplate: {spec: {template: {metadata: {labels: {app: nightly}}}}}}
`

func TestEveryWorkloadStandsForOnePod(t *testing.T) {
	r := read(t, everyWorkload)
	want := map[string]string{
		"deployment-web": "app=web", "statefulset-db": "app=db,apps.kubernetes.io/pod-index=0,statefulset.kubernetes.io/pod-name=db-0",
		"daemonset-agent": "app=agent", "replicaset-rs": "app=rs", "replicationcontroller-rc": "app=rc",
		"job-once": "app=once,batch.kubernetes.io/job-name=once,job-name=once", "cronjob-nightly": "app=nightly",
	}
	if len(r.Snapshot.Pods) != len(want) {
		t.Errorf("got %d pods, want %d", len(r.Snapshot.Pods), len(want))
	}
	names := r.Names()
	for name, labels := range want {
		p := r.pod(t, name)
		if got := flow.FormatLabels(p.Labels); got != labels || p.Status.Phase != corev1.PodRunning || !plan.IsReady(p) || p.Status.PodIP == "" {
			t.Errorf("%s has labels %s and status %v, want %s and to run at an address", name, got, p.Status, labels)
		}
		kind, plain, _ := strings.Cut(name, "-")
		for _, alias := range []string{"x/" + plain, "x/" + name, "x/" + kind + "/" + plain} {
			if e, err := names.Source(alias); err != nil || e.Pod != name {
				t.Errorf("%s is %v (%v), want %s", alias, e, err, name)
			}
		}
	}
}

func TestNamesThatClash(t *testing.T) {
	workload := func(kind, name string) string {
		return "apiVersion: apps/v1\nkind: " + kind + "\nmetadata: {name: " + name + ", namespace: x}\nspec: {template: {metadata: {labels: {kind: " + strings.ToLower(kind) + "}}}}\n---\n"
	}
	realPod := func(name string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + ", namespace: x}\n---\n"
	}
	cases := map[string]struct {
		text, name string
		want       string
		wantErr    string
	}{
		"a pod wins over a workload":              {workload("Deployment", "web") + realPod("web"), "x/web", "web", ""},
		"the workload is still there by its kind": {workload("Deployment", "web") + realPod("web"), "x/deployment/web", "deployment-web", ""},
		"a pod that is called like a stand-in":    {workload("Deployment", "web") + realPod("deployment-web"), "x/deployment-web", "deployment-web", ""},
		"whose stand-in has another name":         {workload("Deployment", "web") + realPod("deployment-web"), "x/deployment/web", "deployment-web~", ""},
		"two workloads of one name":               {workload("Deployment", "web") + workload("StatefulSet", "web"), "x/web", "", "write x/deployment/web or x/statefulset/web"},
		"two workloads, by kind":                  {workload("Deployment", "web") + workload("StatefulSet", "web"), "x/statefulset/web", "statefulset-web", ""},
		"nobody":                                  {realPod("a"), "x/b", "", "there is no pod or workload x/b"},
		"no namespace":                            {realPod("a"), "a", "", "neither NAMESPACE/POD nor an address"},
		"a Service":                               {realPod("a"), "svc:x/a", "", "a connection does not begin at one"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			e, err := read(t, tc.text).Names().Source(tc.name)
			switch {
			case tc.wantErr == "" && (err != nil || e.Pod != tc.want):
				t.Errorf("got %v (%v), want %s", e, err, tc.want)
			case tc.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tc.wantErr)):
				t.Errorf("got %v (%v), want an error with %q", e, err, tc.wantErr)
			}
		})
	}
}

// In a dump of a cluster, workloads have pods already.
func TestWorkloadsWithPodsNeedNoStandIn(t *testing.T) {
	owner := func(kind, name string) string {
		return fmt.Sprintf("ownerReferences: [{apiVersion: apps/v1, kind: %s, name: %s, uid: u, controller: true}]", kind, name)
	}
	r := read(t, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {template: {}}\n---\n"+
		"apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: web-1, "+owner("Deployment", "web")+"}\nspec: {template: {}}\n---\n"+
		"apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: web-0, "+owner("Deployment", "web")+"}\nspec: {template: {}}\n---\n"+
		"apiVersion: v1\nkind: Pod\nmetadata: {name: web-1-b, "+owner("ReplicaSet", "web-1")+"}\nstatus: {phase: Running, podIP: 10.0.0.2}\n---\n"+
		"apiVersion: v1\nkind: Pod\nmetadata: {name: web-1-a, "+owner("ReplicaSet", "web-1")+"}\nstatus: {phase: Failed}\n")
	if len(r.Snapshot.Pods) != 2 {
		t.Errorf("got %d pods, want the two of the dump", len(r.Snapshot.Pods))
	}
	if e, err := r.Names().Source("default/web"); err != nil || e.Pod != "web-1-b" {
		t.Errorf("the Deployment is %v (%v), want its pod that runs", e, err)
	}
}

func TestAddressesAreStableAndTheirOwn(t *testing.T) {
	taken := read(t, everyWorkload).pod(t, "deployment-web").Status.PodIP
	// The address that it got is somebody's now.
	r := read(t, everyWorkload+"---\napiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: x}\nstatus: {podIP: "+taken+", phase: Running}\n")
	if got := r.pod(t, "deployment-web").Status.PodIP; got == taken {
		t.Errorf("%s has the address of another pod", got)
	}
	seen := map[string]string{}
	for _, p := range r.Snapshot.Pods {
		if other := seen[p.Status.PodIP]; other != "" {
			t.Errorf("%s and %s have the address %s", other, p.Name, p.Status.PodIP)
		}
		seen[p.Status.PodIP] = p.Name
		if again := read(t, everyWorkload); p.Name == "statefulset-db" && again.pod(t, p.Name).Status.PodIP != p.Status.PodIP {
			t.Errorf("%s changes its address when another pod is there", p.Name)
		}
	}
}

func TestStatusIsHonoured(t *testing.T) {
	r := read(t, `apiVersion: v1
kind: Pod
metadata: {name: plain}
status: {podIP: 10.1.0.1, phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: dual}
status: {podIPs: [{ip: 10.1.0.2}, {ip: "2001:db8::2"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: pending}
status: {phase: Pending}
---
apiVersion: v1
kind: Pod
metadata: {name: unready}
status: {phase: Running, podIP: 10.1.0.3, conditions: [{type: Ready, status: "False"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: placed}
spec: {nodeName: node-1, containers: []}
---
apiVersion: v1
kind: Pod
metadata: {name: host}
spec: {nodeName: node-1, hostNetwork: true, containers: []}
---
apiVersion: v1
kind: Node
metadata: {name: node-1}
status: {addresses: [{type: InternalIP, address: 192.0.2.7}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: x, labels: {team: a}}
`)
	if p := r.pod(t, "plain"); p.Status.PodIP != "10.1.0.1" || !plan.IsReady(p) {
		t.Errorf("plain: %v", p.Status)
	}
	if p := r.pod(t, "pending"); p.Status.PodIP != "" {
		t.Errorf("a pod that is pending has the address %s", p.Status.PodIP)
	}
	if p := r.pod(t, "unready"); plan.IsReady(p) {
		t.Error("a pod that is not ready became ready")
	}
	// The input is about both families, so pods without a status have both.
	if p := r.pod(t, "placed"); p.Status.HostIP != "192.0.2.7" || len(p.Status.PodIPs) != 2 {
		t.Errorf("placed: %v", p.Status)
	}
	if p := r.pod(t, "host"); p.Status.PodIP != "192.0.2.7" {
		t.Errorf("a host-network pod has the address %s, want its node's", p.Status.PodIP)
	}
	if ns := r.Snapshot.Namespaces[0]; ns.Namespace != "" || ns.Labels[corev1.LabelMetadataName] != "x" || ns.Labels["team"] != "a" || len(ns.Labels) != 2 {
		t.Errorf("namespace: %v", ns.ObjectMeta)
	}
}

const services = everyWorkload + `---
apiVersion: v1
kind: Pod
metadata: {name: web2, namespace: x, labels: {app: web}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 9090}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web3, namespace: x, labels: {app: web}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 9090}]}]}
status: {phase: Running, podIP: 10.9.0.3, conditions: [{type: Ready, status: "False"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: x}
spec: {selector: {app: web}, ports: [{name: main, port: 80, targetPort: http}, {name: plain, port: 81}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: x}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias, namespace: x}
spec: {type: ExternalName, externalName: example.org}
---
apiVersion: v1
kind: Service
metadata: {name: inner, namespace: x}
spec: {type: ExternalName, externalName: web.x.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: dangling, namespace: x}
spec: {type: ExternalName, externalName: gone.x.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: own, namespace: x}
spec: {clusterIP: 10.96.0.9, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: own-1, namespace: x, labels: {kubernetes.io/service-name: own}}
addressType: IPv4
ports: [{port: 7, protocol: TCP}]
endpoints: [{addresses: [192.0.2.1]}]
`

func TestServicesGetEndpointSlices(t *testing.T) {
	r := read(t, services)
	key := func(name string) types.NamespacedName { return types.NamespacedName{Namespace: "x", Name: name} }
	cases := map[string]struct {
		service string
		port    intstr.IntOrString
		want    []string
		wantErr string
	}{
		"a named target port is each pod's own": {"web", intstr.FromInt32(80), []string{"x/deployment-web 8080", "x/web2 9090"}, ""},
		"by the name of the Service's port":     {"web", intstr.FromString("main"), []string{"x/deployment-web 8080", "x/web2 9090"}, ""},
		"the target port is the port if unset":  {"web", intstr.FromInt32(81), []string{"x/deployment-web 81", "x/web2 81"}, ""},
		"a headless Service":                    {"headless", intstr.FromInt32(80), []string{"x/deployment-web 8080", "x/web2 9090"}, ""},
		"slices of the input are kept":          {"own", intstr.FromInt32(80), []string{"192.0.2.1 7"}, ""},
		"an alias of a Service":                 {"inner", intstr.FromInt32(80), []string{"x/deployment-web 8080", "x/web2 9090"}, ""},
		"an alias of a Service that is missing": {"dangling", intstr.FromInt32(80), nil, "Service x/dangling is an alias of Service x/gone, which does not exist"},
		"a port that is not there":              {"web", intstr.FromInt32(82), nil, "has no TCP port 82"},
		"a Service that is not there":           {"nope", intstr.FromInt32(80), nil, "there is no Service x/nope"},
	}
	names := r.Names()
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			target, err := names.Target("svc:"+key(tc.service).String(), flow.TCP, tc.port)
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Errorf("got %v, want %q", err, tc.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, b := range target.Backends {
				got = append(got, fmt.Sprintf("%s %d", b.Endpoint, b.Port))
			}
			slices.Sort(got)
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
	alias, err := names.Target("svc:x/alias", flow.TCP, intstr.FromInt32(80))
	if err != nil || len(alias.Backends) != 0 || !strings.Contains(alias.Unknown, "is an alias of example.org., whose addresses are known to nobody") {
		t.Errorf("an alias of a host is %+v (%v)", alias, err)
	}
	for _, s := range r.Snapshot.Services {
		switch ip := s.Spec.ClusterIP; s.Name {
		case "web":
			if _, err := netip.ParseAddr(ip); err != nil || !slices.Equal(s.Spec.ClusterIPs, []string{ip}) {
				t.Errorf("%s has the cluster address %q of %q", s.Name, ip, s.Spec.ClusterIPs)
			}
			// A flow to the address is a flow to the Service.
			if target, err := names.Target(ip, flow.TCP, intstr.FromInt32(80)); err != nil || len(target.Backends) != 2 {
				t.Errorf("%s is %v (%v)", ip, target, err)
			}
		case "headless":
			if ip != corev1.ClusterIPNone {
				t.Errorf("a headless Service got the address %s", ip)
			}
		case "alias":
			if ip != "" {
				t.Errorf("an alias got the address %s", ip)
			}
		case "own":
			if ip != "10.96.0.9" {
				t.Errorf("an address was replaced by %s", ip)
			}
		}
	}
	unready := find1(t, r.Snapshot.EndpointSlices, func(s *discoveryv1.EndpointSlice) bool {
		return s.Labels[discoveryv1.LabelServiceName] == "web" && *s.Ports[0].Port == 9090
	})
	if len(unready.Endpoints) != 2 || !*unready.Endpoints[0].Conditions.Ready || *unready.Endpoints[1].Conditions.Ready {
		t.Errorf("got the endpoints %v, want the pod that is not ready to be there and not ready", unready.Endpoints)
	}
}

const expectationOfDNS = `apiVersion: pathproof.dev/v1alpha1
kind: ConnectivityExpectation
metadata: {name: e, namespace: x}
spec:
  paths:
  - name: resolves
    expect: Allow
    from: {podSelector: {matchLabels: {app: web}}}
    dns: {names: [a.b]}
`

func TestTheClusterDNSIsAssumedOnlyWhereItIsAskedFor(t *testing.T) {
	if r := read(t, services); len(r.Notes) > 0 {
		t.Errorf("got the notes %q", r.Notes)
	}
	r := read(t, services+"---\n"+expectationOfDNS)
	if len(r.Notes) != 1 || len(r.Expectations) != 1 || r.Expectations[0].PathLines["resolves"] == 0 {
		t.Errorf("got the notes %q and %v", r.Notes, r.Expectations)
	}
	if _, err := r.Snapshot.ServiceBackends(types.NamespacedName{Namespace: "kube-system", Name: "kube-dns"}, flow.UDP, intstr.FromInt32(53)); err != nil {
		t.Error(err)
	}
	own := "---\napiVersion: v1\nkind: Service\nmetadata: {name: kube-dns, namespace: kube-system}\nspec: {ports: [{port: 53}]}\n"
	if r := read(t, services+"---\n"+expectationOfDNS+own); len(r.Notes) > 0 {
		t.Errorf("a cluster DNS was assumed besides that of the input: %q", r.Notes)
	}
}

func TestPrivateBlocksAndMadeUpAddressesAreNoted(t *testing.T) {
	policy := "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: x}\nspec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: %s}}]}]}\n"
	if r := read(t, everyWorkload+fmt.Sprintf(policy, "192.168.0.0/16")); len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "192.168.0.0/16 of NetworkPolicy x/p") {
		t.Errorf("got the notes %q", r.Notes)
	}
	if r := read(t, everyWorkload+fmt.Sprintf(policy, "203.0.113.0/24")); len(r.Notes) > 0 {
		t.Errorf("got the notes %q about a public range", r.Notes)
	}
	except := "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: x}\nspec: {podSelector: {}, egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [%s]}}]}]}\n"
	if r := read(t, everyWorkload+fmt.Sprintf(except, "10.0.0.0/8")); len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "10.0.0.0/8 of NetworkPolicy x/p") {
		t.Errorf("got the notes %q about a range that is left out", r.Notes)
	}
	if r := read(t, everyWorkload+fmt.Sprintf(except, "10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16")); len(r.Notes) > 0 {
		t.Errorf("got the notes %q about the internet", r.Notes)
	}
	networks := "---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: p}\n" +
		"spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [10.244.0.0/16]}]}]}\n"
	if r := read(t, everyWorkload+networks); len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "10.244.0.0/16 of ClusterNetworkPolicy p") {
		t.Errorf("got the notes %q about networks of a cluster-wide policy", r.Notes)
	}
}
