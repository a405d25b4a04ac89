package manifests

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/plan"
)

// Names finds what the ends of a flow are called by: pods, workloads, Services and
// addresses. Any number of goroutines may use it.
type Names struct {
	result *Result
	pods   map[string]*corev1.Pod
	// ambiguous names several workloads; the value lists what to write instead.
	ambiguous map[string][]string
	services  map[netip.Addr]types.NamespacedName

	mu      sync.Mutex
	targets map[targetKey]*Target // guarded by mu
}

// targetKey is a port of a Service, which takes a search.
type targetKey struct {
	service  types.NamespacedName
	protocol flow.Protocol
	port     intstr.IntOrString
}

// Target is the end of a flow, after translation.
type Target struct {
	// Name is for people.
	Name     string
	Backends []plan.Backend
	// Unknown says why nothing is known of what is behind the target; there are no
	// backends then.
	Unknown string
	// one is the memory of the backends where there is one, as there mostly is.
	one [1]plan.Backend
}

// Names returns the names of the input.
//
// A pod is namespace/name. A workload is namespace/name too, as long as neither a
// pod nor another workload has that name, and always namespace/kind/name; its pod
// is namespace/kind-name.
func (r *Result) Names() *Names {
	n := &Names{
		result: r, pods: map[string]*corev1.Pod{}, ambiguous: map[string][]string{},
		services: map[netip.Addr]types.NamespacedName{}, targets: map[targetKey]*Target{},
	}
	isPod := map[string]bool{}
	byKey := map[string]*corev1.Pod{}
	for _, p := range r.Snapshot.Pods {
		n.pods[p.Namespace+"/"+p.Name] = p
		isPod[p.Namespace+"/"+p.Name] = true
	}
	for _, w := range r.workloads {
		byKey[w.namespace+"/"+w.kind+"/"+w.name] = w.pod
	}
	owners := map[string]string{}
	for _, w := range r.workloads {
		pod, kind := w.pod, strings.ToLower(w.kind)
		if pod == nil {
			pod = byKey[w.namespace+"/"+w.owner]
		}
		if pod == nil {
			continue
		}
		n.pods[w.namespace+"/"+kind+"/"+w.name] = pod
		if dashed := w.namespace + "/" + kind + "-" + w.name; !isPod[dashed] {
			n.pods[dashed] = pod
		}
		plain := w.namespace + "/" + w.name
		switch first := owners[plain]; {
		case isPod[plain]:
		case first != "" && n.pods[plain] != pod:
			if n.ambiguous[plain] == nil {
				n.ambiguous[plain] = []string{first}
			}
			n.ambiguous[plain] = append(n.ambiguous[plain], w.namespace+"/"+kind+"/"+w.name)
		case first == "":
			owners[plain] = w.namespace + "/" + kind + "/" + w.name
			n.pods[plain] = pod
		}
	}
	for _, s := range r.Snapshot.Services {
		for _, ip := range s.Spec.ClusterIPs {
			if a, err := netip.ParseAddr(ip); err == nil {
				n.services[a.Unmap()] = types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
			}
		}
	}
	return n
}

const servicePrefix = "svc:"

// Source finds the source of a flow: a pod, a workload or an address.
func (n *Names) Source(name string) (flow.Endpoint, error) {
	if strings.HasPrefix(name, servicePrefix) {
		return flow.Endpoint{}, fmt.Errorf("%s is a Service, and a connection does not begin at one: name a pod or a workload", name)
	}
	e, _, err := n.endpoint(name)
	return e, err
}

// endpoint finds a pod, a workload or an address.
func (n *Names) endpoint(name string) (flow.Endpoint, *corev1.Pod, error) {
	if strings.IndexByte(name, '/') < 0 {
		switch addr, err := netip.ParseAddr(name); {
		case err == nil:
			return flow.Endpoint{Addr: addr}, nil, nil
		case name == "":
			return flow.Endpoint{}, nil, fmt.Errorf("the end of the flow is empty: write NAMESPACE/POD or an address")
		}
		return flow.Endpoint{}, nil, fmt.Errorf("%q is neither NAMESPACE/POD nor an address", name)
	}
	if choices := n.ambiguous[name]; choices != nil {
		return flow.Endpoint{}, nil, fmt.Errorf("%s is the name of several workloads: write %s", name, strings.Join(choices, " or "))
	}
	pod := n.pods[name]
	if pod == nil {
		where := "the manifests"
		if n.result.overCluster {
			where = "the cluster"
		}
		return flow.Endpoint{}, nil, fmt.Errorf("there is no pod or workload %s in %s", name, where)
	}
	return flow.Endpoint{Namespace: pod.Namespace, Pod: pod.Name}, pod, nil
}

// Target finds the target of a flow: a pod, a workload, an address or, as
// svc:namespace/name, a Service. A port name is looked up there.
func (n *Names) Target(name string, protocol flow.Protocol, port intstr.IntOrString) (*Target, error) {
	if svc, ok := strings.CutPrefix(name, servicePrefix); ok {
		namespace, svc, ok := strings.Cut(svc, "/")
		if !ok || namespace == "" || svc == "" {
			return nil, fmt.Errorf("%q is no Service: write svc:NAMESPACE/NAME", name)
		}
		return n.service(types.NamespacedName{Namespace: namespace, Name: svc}, protocol, port)
	}
	e, pod, err := n.endpoint(name)
	if err != nil {
		return nil, err
	}
	if pod == nil {
		// Policies see what is behind a Service's address (rule S9).
		if key, ok := n.services[e.Addr.Unmap()]; ok {
			return n.service(key, protocol, port)
		}
		if port.Type == intstr.String {
			return nil, fmt.Errorf("port %q is a name, and %s is an address: write the number", port.StrVal, name)
		}
	}
	number := uint16(port.IntVal)
	if port.Type == intstr.String {
		var ok bool
		if number, ok = plan.NamedPort(pod, protocol, port.StrVal); !ok {
			return nil, fmt.Errorf("pod %s has no %s port named %q", e, protocol, port.StrVal)
		}
	}
	t := &Target{Name: name, one: [1]plan.Backend{{Endpoint: e, Port: number}}}
	t.Backends = t.one[:]
	return t, nil
}

// service finds what is behind a port of a Service. Answers are kept: there are as
// many as Services have ports.
func (n *Names) service(key types.NamespacedName, protocol flow.Protocol, port intstr.IntOrString) (*Target, error) {
	k := targetKey{key, protocol, port}
	n.mu.Lock()
	defer n.mu.Unlock()
	if t := n.targets[k]; t != nil {
		return t, nil
	}
	t := &Target{Name: "Service " + key.String()}
	backends, err := n.result.Snapshot.ServiceBackends(key, protocol, port)
	var host *plan.HostError
	switch {
	case errors.As(err, &host):
		t.Unknown = host.Error()
	case err != nil:
		return nil, err
	}
	seen := map[string]bool{}
	for _, b := range backends {
		// A pod with two addresses is one endpoint: the one whose family the source
		// shares is used.
		if n.pods[b.Endpoint.Namespace+"/"+b.Endpoint.Pod] != nil {
			b.Endpoint.Addr = netip.Addr{}
		}
		if id := fmt.Sprintf("%s %d", b.Endpoint, b.Port); !seen[id] {
			seen[id] = true
			t.Backends = append(t.Backends, b)
		}
	}
	n.targets[k] = t
	return t, nil
}
