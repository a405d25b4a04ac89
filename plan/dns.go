package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

const (
	// dnsPort is where the nameservers of a resolver configuration listen.
	dnsPort = 53
	// nodeCacheLabel is the value of the label k8s-app of NodeLocal DNSCache, and
	// nodeCacheFlag the flag that names the addresses that it listens on
	// (kubernetes/kubernetes, cluster/addons/dns/nodelocaldns/nodelocaldns.yaml).
	nodeCacheLabel, nodeCacheFlag = "node-local-dns", "-localip"
)

// IsNodeCache tells whether a pod is NodeLocal DNSCache. Its arguments count.
func IsNodeCache(pod *corev1.Pod) bool {
	return pod.Spec.HostNetwork && pod.Labels["k8s-app"] == nodeCacheLabel
}

// HasOwnResolvers tells whether the resolvers of a pod may be others than those of the
// cluster.
func HasOwnResolvers(pod *corev1.Pod) bool {
	return pod.Spec.DNSPolicy == corev1.DNSNone || pod.Spec.DNSPolicy == corev1.DNSDefault ||
		(pod.Spec.DNSConfig != nil && len(pod.Spec.DNSConfig.Nameservers) > 0)
}

// usesClusterDNS tells whether the kubelet gives pods of the source the nameservers of
// the cluster.
func (s *Source) usesClusterDNS() bool {
	return s.Workload == nil || (s.Workload.Spec.DNSPolicy != corev1.DNSDefault && s.Workload.Spec.DNSPolicy != corev1.DNSNone)
}

// ownNameservers returns those that the pods of the source bring along.
func (s *Source) ownNameservers() []netip.Addr {
	if s.Workload == nil || s.Workload.Spec.DNSConfig == nil {
		return nil
	}
	var out []netip.Addr
	for _, text := range s.Workload.Spec.DNSConfig.Nameservers {
		if addr, err := netip.ParseAddr(text); err == nil && !slices.Contains(out, addr.Unmap()) {
			out = append(out, addr.Unmap())
		}
	}
	return out
}

// resolverText is what counts of a workload for the question which resolvers it has.
func (s *Source) resolverText() string {
	if s.Workload == nil {
		return ""
	}
	return fmt.Sprintf("%s %v", s.Workload.Spec.DNSPolicy, s.ownNameservers())
}

// dnsTargets asks every resolver of the sources, over each transport, for each name.
func (r *resolver) dnsTargets(p *v1alpha1.Path, sources []*Source) []partial {
	transports := p.DNS.Transports
	if len(transports) == 0 {
		transports = []v1alpha1.DNSTransport{"UDP", "TCP"}
	}
	var out []partial
	for _, t := range transports {
		transport := wire.DNSUDP
		if t == "TCP" {
			transport = wire.DNSTCP
		}
		for _, to := range r.resolvers(p, transport, sources) {
			for _, name := range p.DNS.Names {
				e := to.edge
				e.QueryName, e.Search = string(name), p.DNS.Search
				if !e.Search {
					e.QueryName = strings.TrimSuffix(e.QueryName, ".") + "."
				}
				e.QueryType, e.Answer = cmp.Or(string(p.DNS.Type), "A"), wantedAnswer(p.DNS.Answer)
				e.Target.Name += " for " + e.QueryName
				out = append(out, partial{edge: e, of: to.of})
			}
		}
	}
	return out
}

// wantedAnswer converts an answer of the API, which has been validated.
func wantedAnswer(a *v1alpha1.DNSAnswer) wire.Answer {
	if a == nil {
		return wire.Answer{}
	}
	out := wire.Answer{NotFound: a.NotFound}
	if a.CNAME != "" {
		out.CNAME = strings.TrimSuffix(string(a.CNAME), ".") + "."
	}
	for _, text := range a.Addresses {
		if addr, err := netip.ParseAddr(text); err == nil {
			out.Addresses = append(out.Addresses, addr.Unmap())
		}
	}
	return out
}

// resolvers lists what the sources may be sent to with a query: the cluster DNS and each
// endpoint behind it, the nameservers that the pods bring along, and those that only the
// pod itself can tell.
func (r *resolver) resolvers(p *v1alpha1.Path, transport wire.Transport, sources []*Source) []partial {
	var out []partial
	clusterAddrs := r.clusterAddrs()
	asksCluster := func(s *Source) bool {
		return s.usesClusterDNS() || slices.ContainsFunc(s.ownNameservers(), func(a netip.Addr) bool { return slices.Contains(clusterAddrs, a) })
	}
	if cluster := slices.DeleteFunc(slices.Clone(sources), func(s *Source) bool { return !asksCluster(s) }); len(cluster) > 0 {
		for _, to := range r.servicePort(p, r.in.ClusterDNS, transport, intstr.FromInt32(dnsPort)) {
			to.of = cluster
			to.edge.Target.Name = "cluster DNS"
			if to.edge.Target.Kind == TargetPod { // a headless Service: pods have the addresses of its pods
				to.edge.Target.Name += " endpoint " + to.edge.Backends[0].Endpoint.String()
				out = append(out, to)
				continue
			}
			to.edge.Via = to.edge.Target.Addr
			out = append(out, to)
			// The prediction for a Service is about all its endpoints already.
			if r.in.Probed && !slices.Contains(r.in.Snapshot.nodeCacheAddrs(), to.edge.Target.Addr) {
				out = append(out, r.clusterEndpoints(to)...)
			}
		}
	}
	for _, s := range sources {
		for _, addr := range s.ownNameservers() {
			if slices.Contains(clusterAddrs, addr) {
				continue
			}
			out = append(out, partial{of: []*Source{s}, edge: Edge{
				Target: Target{Kind: TargetAddress, Key: flow.ID("address", addr.String()), Name: nameserverName(addr), Addr: addr, Ready: true},
				Via:    addr, Backends: []Backend{{Endpoint: flow.Endpoint{Addr: addr}, Port: dnsPort}}, Transport: transport, Port: dnsPort,
			}})
		}
		for i := 1; i <= r.unknownNameservers(s); i++ {
			out = append(out, partial{of: []*Source{s}, edge: Edge{
				Target:     Target{Kind: TargetNameserver, Key: flow.ID("nameserver", s.Key, fmt.Sprint(i)), Name: fmt.Sprintf("nameserver %d of the pod", i), Ready: true},
				Nameserver: i, Transport: transport, Port: dnsPort,
			}})
		}
	}
	return out
}

// clusterAddrs returns the addresses of the cluster DNS.
func (r *resolver) clusterAddrs() []netip.Addr {
	svc := r.service(r.in.ClusterDNS)
	if svc == nil {
		return nil
	}
	var out []netip.Addr
	for _, ip := range svc.Spec.ClusterIPs {
		if addr, err := netip.ParseAddr(ip); err == nil {
			out = append(out, addr)
		}
	}
	return out
}

// unknownNameservers returns how many nameservers a pod of the source may have that
// nobody but the pod can tell. Without probes, they matter only where there are no others.
func (r *resolver) unknownNameservers(s *Source) int {
	switch {
	case s.Workload != nil && s.Workload.Spec.DNSPolicy == corev1.DNSNone:
		return 0
	case r.in.Probed:
		return wire.MaxNameservers
	case s.usesClusterDNS():
		return 0
	}
	return 1
}

// clusterEndpoints lists the pods behind an address of the cluster DNS. Each is a check
// of its own: a connection through the Service reaches any of them, and says nothing
// about the others.
func (r *resolver) clusterEndpoints(service partial) []partial {
	svc := r.service(r.in.ClusterDNS)
	port := findServicePort(svc, service.edge.Transport.Protocol(), intstr.FromInt32(int32(service.edge.Port)))
	var out []partial
	for _, b := range r.endpoints(svc, port.Name, service.edge.Transport.Protocol()) {
		if b.Endpoint.Addr.Is4() != service.edge.Via.Is4() {
			continue
		}
		out = append(out, partial{of: service.of, edge: Edge{
			Target: Target{
				Kind: TargetPod, Key: flow.ID("pod", b.Endpoint.Namespace, b.Endpoint.Pod, b.Endpoint.Addr.String()),
				Name: "cluster DNS endpoint " + b.Endpoint.String(), Addr: b.Endpoint.Addr, Node: b.node, Ready: true,
				HostNetwork: r.onHostNetwork(b.Endpoint),
			},
			Via: service.edge.Via, Backends: []Backend{b.Backend}, Transport: service.edge.Transport, Port: b.Port,
		}})
	}
	return out
}

// nameserverName names a nameserver by its address.
func nameserverName(addr netip.Addr) string {
	if addr.IsLinkLocalUnicast() {
		return "NodeLocal DNSCache " + addr.String()
	}
	return "nameserver " + addr.String()
}

// Question is what a DNS edge asks for; empty for other edges.
func (e *Edge) Question() string {
	if !e.Transport.IsDNS() {
		return ""
	}
	return e.QueryType + " " + e.QueryName
}

// TargetName names the target of an edge, once the nameserver of the pod is known.
func (e *Edge) TargetName(tried []netip.Addr) string {
	if e.Target.Kind != TargetNameserver || len(tried) == 0 {
		return e.Target.Name
	}
	return nameserverName(tried[0]) + " for " + e.QueryName
}

// Learns tells whether the edge ends at addresses that only the probe finds out.
func (e *Edge) Learns() bool { return e.Target.Kind == TargetHost || e.Target.Kind == TargetNameserver }

// LearnedAs is the key of those addresses in Input.Learned.
func (e *Edge) LearnedAs() string {
	if e.Target.Kind == TargetNameserver {
		return "nameservers of " + e.Source.Key
	}
	return e.Target.Host
}

// Asks tells whether an edge is about a resolver of its pod, once the nameservers and the
// addresses of the pod are known; none means that they are not. Nameservers that the pod
// does not have are none of its resolvers, nor are those of a family that it lacks, if it
// has another. What another edge of the pod asks already is not asked twice.
func (p *Pod) Asks(e *Edge, nameservers, addrs []netip.Addr) bool {
	switch {
	case !e.Transport.IsDNS() || e.Control:
		return true
	case e.Nameserver == 0:
		return len(nameservers) == 0 || !e.Via.IsValid() || slices.Contains(nameservers, e.Via)
	case len(nameservers) == 0:
		// One check has to say so.
		return e.Nameserver == 1
	case e.Nameserver > len(nameservers):
		return false
	}
	addr := nameservers[e.Nameserver-1]
	reached := func(ns netip.Addr) bool {
		return len(addrs) == 0 || slices.ContainsFunc(addrs, func(a netip.Addr) bool { return FamilyOf(a) == FamilyOf(ns) })
	}
	if !reached(addr) && slices.ContainsFunc(nameservers, reached) {
		return false
	}
	return !slices.Contains(nameservers[:e.Nameserver-1], addr) && !slices.ContainsFunc(p.Edges, func(o *Edge) bool {
		return o.Nameserver == 0 && o.Path == e.Path && o.Target.Addr == addr && o.Port == e.Port && o.Transport == e.Transport && o.Question() == e.Question()
	})
}

// nodeCacheAddrs returns the addresses at which NodeLocal DNSCache listens on every node,
// so that what is sent there does not leave the node.
func (s Snapshot) nodeCacheAddrs() []netip.Addr {
	var out []netip.Addr
	for _, pod := range s.Pods {
		if !IsNodeCache(pod) || !isLive(pod) {
			continue
		}
		for _, c := range pod.Spec.Containers {
			out = append(out, listenAddresses(c.Args)...)
		}
	}
	return out
}

// listenAddresses reads the addresses that NodeLocal DNSCache listens on from its
// arguments: -localip 169.254.20.10,10.96.0.10, or -localip=...
func listenAddresses(args []string) []netip.Addr {
	var out []netip.Addr
	for i, arg := range args {
		name, value, inOne := strings.Cut(arg, "=")
		if "-"+strings.TrimLeft(name, "-") != nodeCacheFlag || !strings.HasPrefix(name, "-") {
			continue
		}
		if !inOne && i+1 < len(args) {
			value = args[i+1]
		}
		for text := range strings.SplitSeq(value, ",") {
			if addr, err := netip.ParseAddr(strings.TrimSpace(text)); err == nil {
				out = append(out, addr)
			}
		}
	}
	return out
}

// OnOwnNode tells whether a DNS edge ends on the node that it is probed from: at a
// link-local address, or at one that NodeLocal DNSCache listens on. The same address is
// another listener on each node.
func (p *Predictor) OnOwnNode(e *Edge, tried []netip.Addr) bool {
	addr := e.Target.Addr
	if e.Target.Kind == TargetNameserver && len(tried) > 0 {
		addr = tried[0]
	}
	if !e.Transport.IsDNS() || !addr.IsValid() || e.Target.Kind == TargetPod {
		return false
	}
	return addr.IsLinkLocalUnicast() || slices.Contains(p.nodeCaches, addr)
}

// atOwnNode is what is predicted of an address on the pod's own node, where d is the
// answer for an address outside of the cluster. Whether an ipBlock matches a node, and
// whether a pod reaches its own node whatever the policies say, is open (rules S10 and
// S14) unless the profile settles it.
func (p *Predictor) atOwnNode(addr netip.Addr, d evaluator.Decision) evaluator.Decision {
	profile := p.snapshot.Profile
	byBlock := d.Egress.AllowedBy != nil && !d.Egress.AllowedBy.IsClusterWide() && !p.allowsAll(*d.Egress.AllowedBy)
	switch {
	case d.Verdict == evaluator.Undefined, d.Egress.DeniedBy != nil:
		return d
	case d.Verdict == evaluator.Allowed && (!byBlock || profile.IPBlockMatchesNodes == evaluator.True):
		return d
	case profile.PodReachesOwnNode == evaluator.True:
		d.Verdict, d.Egress.Verdict = evaluator.Allowed, evaluator.Allowed
		return d
	case d.Verdict == evaluator.Denied && profile.PodReachesOwnNode == evaluator.False:
		return d
	case d.Verdict == evaluator.Denied:
		return undefinedEgress(d, "S14", fmt.Sprintf("%s is on the pod's own node: the policies deny it, and whether a pod reaches its own node all the same is up to the implementation (assume podReachesOwnNode)", addr))
	}
	return undefinedEgress(d, "S10", fmt.Sprintf("%s is on the pod's own node, and only an ipBlock allows it: whether that matches a node is up to the implementation (assume ipBlockMatchesNodes)", addr))
}

func undefinedEgress(d evaluator.Decision, rule, reason string) evaluator.Decision {
	d.Egress.Verdict, d.Egress.Rule, d.Egress.Reason = evaluator.Undefined, rule, reason
	return evaluator.Decision{Verdict: evaluator.Undefined, Egress: d.Egress, Ingress: d.Ingress, Rule: rule, Reason: reason}
}

// allowsAll tells whether an egress rule of a NetworkPolicy names no peer.
func (p *Predictor) allowsAll(ref evaluator.RuleRef) bool {
	for _, policy := range p.snapshot.NetworkPolicies {
		if policy.Namespace == ref.Namespace && policy.Name == ref.Name && ref.Index < len(policy.Spec.Egress) {
			return len(policy.Spec.Egress[ref.Index].To) == 0
		}
	}
	return false
}
