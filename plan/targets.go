package plan

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// partial is an edge without its source.
type partial struct {
	edge Edge
	// of are the sources that it is for; nil means all of the path.
	of []*Source
}

// targets returns what a path ends at, and records obstacles for what cannot be
// resolved.
func (r *resolver) targets(p *v1alpha1.Path, sources []*Source) []partial {
	switch {
	case p.DNS != nil:
		return r.dnsTargets(p, sources)
	case p.To.PodSelector != nil:
		return r.podTargets(p)
	case p.To.Identity != nil:
		return r.responderTargets(p)
	case p.To.Service != nil:
		return r.serviceTargets(p)
	case p.To.Address != nil:
		return r.addressTargets(p)
	default:
		return r.hostTargets(p)
	}
}

func (r *resolver) podTargets(p *v1alpha1.Path) []partial {
	source := describeSource(r.ns, p.From)
	name := describeSelector(p.To.PodSelector)
	selector, err := metav1.LabelSelectorAsSelector(p.To.PodSelector.AsMeta())
	if err != nil {
		r.obstacle(p, NoTargetMatched, fmt.Sprintf("to.podSelector cannot be parsed: %v", err), source, name)
		return nil
	}
	inNamespace, err := r.namespaces(p.To)
	if err != nil {
		r.obstacle(p, NoTargetMatched, fmt.Sprintf("to.namespaceSelector cannot be parsed: %v", err), source, name)
		return nil
	}
	var pods []*corev1.Pod
	pending := 0
	for _, pod := range r.in.Snapshot.Pods {
		if !inNamespace(pod.Namespace) || !isLive(pod) || !selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		r.targetPods[pod.Namespace+"/"+pod.Name] = true
		if len(podAddrs(pod)) == 0 {
			pending++
			continue
		}
		pods = append(pods, pod)
	}
	switch {
	case len(pods) == 0 && pending > 0:
		r.obstacle(p, TargetNotReady, fmt.Sprintf("%d pods match %s, and none has an address yet", pending, name), source, name)
	case len(pods) == 0:
		r.obstacle(p, NoTargetMatched, "no running pod matches "+name, source, name)
	}
	var out []partial
	for _, pod := range pods {
		r.matched[pod.Namespace+"/"+pod.Name] = pod.Spec.NodeName
	}
	standIns := map[string]int{}
	for _, pod := range r.chosenTargets(p, pods) {
		r.probedPods[pod.Namespace+"/"+pod.Name] = true
		for _, t := range r.onePod(p, pod, source) {
			if t.edge.Target.StandsFor != nil {
				// Pods of one identity on one node share a stand-in.
				listener := t.edge.Listener()
				if i, ok := standIns[listener]; ok {
					out[i].edge.Target.Twins = append(out[i].edge.Target.Twins, pod)
					continue
				}
				standIns[listener] = len(out)
			}
			out = append(out, t)
		}
	}
	return out
}

func (r *resolver) onePod(p *v1alpha1.Path, pod *corev1.Pod, source string) []partial {
	var out []partial
	for _, port := range p.Ports {
		numbers := portNumbers(port)
		if port.Port.Type == intstr.String {
			n, ok := namedPort(pod, transportOf(port.Protocol).Protocol(), port.Port.StrVal)
			if !ok {
				r.obstacle(p, PortNotFound, fmt.Sprintf("pod %s/%s has no %s port named %q", pod.Namespace, pod.Name, transportOf(port.Protocol), port.Port.StrVal), source, pod.Namespace+"/"+pod.Name)
				continue
			}
			numbers = []uint16{n}
		}
		for _, n := range numbers {
			out = append(out, r.podPort(p, pod, source, transportOf(port.Protocol), n)...)
		}
	}
	return out
}

// podPort is a port of a pod, or of its stand-in.
func (r *resolver) podPort(p *v1alpha1.Path, pod *corev1.Pod, source string, transport wire.Transport, port uint16) []partial {
	name := pod.Namespace + "/" + pod.Name
	var out []partial
	for _, addr := range podAddrs(pod) {
		out = append(out, partial{edge: Edge{
			Target: Target{
				Kind: TargetPod, Key: flow.ID("pod", pod.Namespace, pod.Name, addr.String()), Name: name,
				Addr: addr, Node: pod.Spec.NodeName, Ready: IsReady(pod), HostNetwork: pod.Spec.HostNetwork,
			},
			Backends:  []Backend{{Endpoint: flow.Endpoint{Namespace: pod.Namespace, Pod: pod.Name, Addr: addr}, Port: port}},
			Transport: transport, Port: port,
		}})
	}
	standIn, refusal := r.viaStandIn(p, pod, out)
	switch {
	case refusal != "":
		r.obstacle(p, StandInRefused, refusal, source, name)
		return nil
	case standIn:
		target, backends := standInTarget(pod, port)
		return []partial{{edge: Edge{Target: target, Backends: backends, Transport: transport, Port: port}}}
	}
	return out
}

// namespaces returns which namespaces a target is looked for in.
func (r *resolver) namespaces(t *v1alpha1.Target) (func(string) bool, error) {
	if t.NamespaceSelector == nil {
		want := r.ns
		if t.Namespace != "" {
			want = string(t.Namespace)
		}
		return func(ns string) bool { return ns == want }, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(t.NamespaceSelector.AsMeta())
	if err != nil {
		return nil, err
	}
	matched := map[string]bool{}
	for _, ns := range r.in.Snapshot.Namespaces {
		matched[ns.Name] = selector.Matches(labels.Set(ns.Labels))
	}
	return func(ns string) bool { return matched[ns] }, nil
}

func (r *resolver) responderTargets(p *v1alpha1.Path) []partial {
	l := v1alpha1.PlainLabels(p.To.Identity.Labels)
	end := flow.Endpoint{Namespace: r.ns, Labels: l}
	var out []partial
	for _, port := range p.Ports {
		for _, n := range portNumbers(port) {
			out = append(out, partial{edge: Edge{
				Target:    Target{Kind: TargetResponder, Key: flow.ID("responder", r.ns, flow.FormatLabels(l)), Name: end.String(), Ready: true, Labels: l},
				Backends:  []Backend{{Endpoint: end, Port: n}},
				Transport: transportOf(port.Protocol), Port: n,
			}})
		}
	}
	return out
}

func (r *resolver) addressTargets(p *v1alpha1.Path) []partial {
	// Both were parsed at admission; what does not parse is skipped with its path
	// left without edges, which is an obstacle.
	prefix, _ := netip.ParsePrefix(p.To.Address.CIDR)
	var out []partial
	for _, text := range p.To.Address.IPs {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			r.obstacle(p, NoTargetMatched, fmt.Sprintf("%q is no address: %v", text, err), describeSource(r.ns, p.From), text)
			continue
		}
		for _, port := range p.Ports {
			for _, n := range portNumbers(port) {
				out = append(out, partial{edge: Edge{
					Target:    Target{Kind: TargetAddress, Key: flow.ID("address", addr.String()), Name: addr.String(), Addr: addr, Ready: true, Range: prefix},
					Backends:  []Backend{{Endpoint: flow.Endpoint{Addr: addr}, Port: n}},
					Transport: transportOf(port.Protocol), Port: n,
				}})
			}
		}
	}
	return out
}

func (r *resolver) hostTargets(p *v1alpha1.Path) []partial {
	host := strings.TrimSuffix(string(p.To.Host), ".") + "."
	var out []partial
	for _, port := range p.Ports {
		out = append(out, hostPort(host, host, port)...)
	}
	return out
}

// hostPort is a port of a host, which has a name for people beside its own.
func hostPort(host, name string, port v1alpha1.Port) []partial {
	var out []partial
	for _, n := range portNumbers(port) {
		out = append(out, partial{edge: Edge{
			Target:    Target{Kind: TargetHost, Key: flow.ID("host", host), Name: name, Host: host, Ready: true},
			Transport: transportOf(port.Protocol), Port: n,
		}})
	}
	return out
}

// serviceTargets resolves a Service to its cluster addresses, or to the host that it
// is an alias of. Policies apply to the pod and port behind them (rule S9).
func (r *resolver) serviceTargets(p *v1alpha1.Path) []partial {
	key := types.NamespacedName{Namespace: r.ns, Name: p.To.Service.Name}
	if p.To.Service.Namespace != "" {
		key.Namespace = string(p.To.Service.Namespace)
	}
	if p.To.Via == v1alpha1.ViaStandIn {
		r.obstacle(p, StandInRefused, fmt.Sprintf("what is sent to Service %s goes to its ready endpoints, and a stand-in must never be one: write to.podSelector with the labels of its pods and the port that they listen on", key),
			describeSource(r.ns, p.From), key.String())
		return nil
	}
	var out []partial
	for _, port := range p.Ports {
		to, err := r.in.Snapshot.follow(key, transportOf(port.Protocol).Protocol(), port.Port)
		var bad *aliasError
		switch {
		case errors.As(err, &bad):
			r.obstacle(p, bad.reason, bad.message, describeSource(r.ns, p.From), key.String())
		case to.host != "":
			port.Port = to.port
			out = append(out, hostPort(to.host, "Service "+key.String()+" ("+to.host+")", port)...)
		default:
			out = append(out, r.servicePort(p, to.service, transportOf(port.Protocol), to.port)...)
		}
	}
	return out
}

func (r *resolver) servicePort(p *v1alpha1.Path, key types.NamespacedName, transport wire.Transport, port intstr.IntOrString) []partial {
	source := describeSource(r.ns, p.From)
	svc := r.service(key)
	switch {
	case svc == nil:
		r.obstacle(p, NoTargetMatched, fmt.Sprintf("there is no Service %s", key), source, key.String())
		return nil
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		// What has followed aliases does not come here: pods need the address of the
		// cluster DNS, not a name.
		r.obstacle(p, NoTargetMatched, fmt.Sprintf("Service %s is an alias of %s, and pods ask the cluster DNS at an address", key, svc.Spec.ExternalName), source, key.String())
		return nil
	}
	sp := findServicePort(svc, transport.Protocol(), port)
	if sp == nil {
		r.obstacle(p, PortNotFound, fmt.Sprintf("Service %s has no %s port %s", key, transport, port.String()), source, key.String())
		return nil
	}
	backends := r.endpoints(svc, sp.Name, transport.Protocol())
	if len(backends) == 0 {
		r.obstacle(p, NoTargetMatched, fmt.Sprintf("Service %s has no ready endpoint for port %s", key, port.String()), source, key.String())
		return nil
	}
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		return r.headless(key, backends, transport)
	}
	var out []partial
	for _, ip := range svc.Spec.ClusterIPs {
		addr, err := netip.ParseAddr(ip)
		if err != nil {
			continue
		}
		e := Edge{
			Target:    Target{Kind: TargetService, Key: flow.ID("service", key.String(), ip), Name: "Service " + key.String(), Addr: addr, Ready: true},
			Transport: transport, Port: uint16(sp.Port),
		}
		for _, b := range backends {
			if b.Endpoint.Addr.Is4() == addr.Is4() {
				e.Backends = append(e.Backends, b.Backend)
				e.Target.Node = b.node
			}
		}
		if len(e.Backends) == 0 {
			// Pods that use this address find nobody, whatever the policies say.
			if r.reaches(addr) {
				r.obstacle(p, NoTargetMatched, fmt.Sprintf("Service %s has the address %s and no ready %s endpoint for port %s", key, addr, FamilyOf(addr), port.String()), source, key.String())
			}
			continue
		}
		if local := svc.Spec.InternalTrafficPolicy; len(e.Backends) > 1 || (local != nil && *local == corev1.ServiceInternalTrafficPolicyLocal) {
			// From other nodes than its own, an endpoint may not be found at all.
			e.Target.Node = ""
		}
		out = append(out, partial{edge: e})
	}
	return out
}

func (r *resolver) headless(key types.NamespacedName, backends []endpoint, transport wire.Transport) []partial {
	var out []partial
	for _, b := range backends {
		out = append(out, partial{edge: Edge{
			Target: Target{
				Kind: TargetPod, Key: flow.ID("pod", b.Endpoint.Namespace, b.Endpoint.Pod, b.Endpoint.Addr.String()),
				Name: "Service " + key.String() + " endpoint " + b.Endpoint.String(), Addr: b.Endpoint.Addr, Node: b.node, Ready: true,
				HostNetwork: r.onHostNetwork(b.Endpoint),
			},
			Backends: []Backend{b.Backend}, Transport: transport, Port: b.Port,
		}})
	}
	return out
}

func (r *resolver) service(key types.NamespacedName) *corev1.Service {
	i := slices.IndexFunc(r.in.Snapshot.Services, func(s *corev1.Service) bool { return s.Namespace == key.Namespace && s.Name == key.Name })
	if i < 0 {
		return nil
	}
	return r.in.Snapshot.Services[i]
}

// onHostNetwork tells whether an endpoint is known to be at the address of a node: as a pod
// there, or as something that is no pod.
func (r *resolver) onHostNetwork(e flow.Endpoint) bool {
	return (e.Pod == "" && r.in.Snapshot.isNodeAddr(e.Addr)) || slices.ContainsFunc(r.in.Snapshot.Pods, func(p *corev1.Pod) bool {
		return p.Spec.HostNetwork && p.Namespace == e.Namespace && p.Name == e.Pod
	})
}

// endpoint is a ready backend of a Service and the node it runs on.
type endpoint struct {
	Backend
	node string
}

func (r *resolver) endpoints(svc *corev1.Service, portName string, protocol flow.Protocol) []endpoint {
	var out []endpoint
	for _, slice := range r.in.Snapshot.EndpointSlices {
		if slice.Namespace != svc.Namespace || slice.Labels[discoveryv1.LabelServiceName] != svc.Name {
			continue
		}
		port, ok := slicePort(slice, portName, protocol)
		if !ok {
			continue
		}
		for _, ep := range slice.Endpoints {
			// "A nil value should be interpreted as true" (EndpointConditions.ready).
			if (ep.Conditions.Ready != nil && !*ep.Conditions.Ready) || len(ep.Addresses) == 0 {
				continue
			}
			addr, err := netip.ParseAddr(ep.Addresses[0])
			if err != nil {
				continue
			}
			e := endpoint{Backend: Backend{Endpoint: flow.Endpoint{Addr: addr}, Port: port}}
			if ep.TargetRef != nil && ep.TargetRef.Kind == "Pod" {
				e.Endpoint.Namespace, e.Endpoint.Pod = slice.Namespace, ep.TargetRef.Name
			}
			if ep.NodeName != nil {
				e.node = *ep.NodeName
			}
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b endpoint) int {
		return cmp.Or(a.Endpoint.Addr.Compare(b.Endpoint.Addr), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Endpoint.Pod, b.Endpoint.Pod))
	})
	// An endpoint may be in two slices of a Service while it moves between them.
	return slices.CompactFunc(out, func(a, b endpoint) bool { return a.Endpoint.Addr == b.Endpoint.Addr && a.Port == b.Port })
}

func slicePort(slice *discoveryv1.EndpointSlice, name string, protocol flow.Protocol) (uint16, bool) {
	for _, p := range slice.Ports {
		proto := corev1.ProtocolTCP
		if p.Protocol != nil {
			proto = *p.Protocol
		}
		if p.Port != nil && string(proto) == string(protocol) && (p.Name == nil || *p.Name == name) {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}

func findServicePort(svc *corev1.Service, protocol flow.Protocol, want intstr.IntOrString) *corev1.ServicePort {
	for i := range svc.Spec.Ports {
		sp := &svc.Spec.Ports[i]
		proto := sp.Protocol
		if proto == "" {
			proto = corev1.ProtocolTCP
		}
		if string(proto) != string(protocol) {
			continue
		}
		if (want.Type == intstr.Int && sp.Port == want.IntVal) || (want.Type == intstr.String && sp.Name == want.StrVal) {
			return sp
		}
	}
	return nil
}

// portNumbers returns the ports of a numeric port or range that are probed: the
// first and the last, the two that an implementation that forgets endPort, or
// stops one short, gets wrong.
func portNumbers(p v1alpha1.Port) []uint16 {
	if p.Port.Type != intstr.Int {
		return nil
	}
	out := []uint16{uint16(p.Port.IntVal)}
	if p.EndPort > p.Port.IntVal {
		out = append(out, uint16(p.EndPort))
	}
	return out
}

// namedPort looks a port up in the containers of a pod, and in its sidecars:
// init containers that keep running (rules S7 and S8).
func namedPort(pod *corev1.Pod, protocol flow.Protocol, name string) (uint16, bool) {
	for _, c := range evaluator.ServingContainers(&pod.Spec) {
		for _, p := range c.Ports {
			proto := p.Protocol
			if proto == "" {
				proto = corev1.ProtocolTCP
			}
			if p.Name == name && string(proto) == string(protocol) {
				return uint16(p.ContainerPort), true
			}
		}
	}
	return 0, false
}

// podAddrs returns the addresses of a pod, one for each family.
func podAddrs(pod *corev1.Pod) []netip.Addr {
	ips := pod.Status.PodIPs
	if len(ips) == 0 && pod.Status.PodIP != "" {
		ips = []corev1.PodIP{{IP: pod.Status.PodIP}}
	}
	var out []netip.Addr
	for _, ip := range ips {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			out = append(out, addr)
		}
	}
	return out
}
