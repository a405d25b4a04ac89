package plan

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// A Service may be reached at addresses that are no cluster addresses: those of its load
// balancer, external ones, and those of all nodes at its node ports. A node may translate
// them itself, and "it is not defined whether this happens before or after NetworkPolicy
// processing" (NetworkPolicySpec, of rewritten addresses, in the documentation of
// Kubernetes).

// Endpoints is the number of pods that one connection of the edge may be sent to; 1 if
// none are known. tried holds the addresses of a host that the probe has tried.
func (p *Predictor) Endpoints(e *Edge, tried []netip.Addr) int {
	return max(len(p.Backends(e, tried)), len(p.behind(e, tried, anyMode)))
}

// behind returns the endpoints of Services that have the addresses of an edge beside their
// cluster addresses, in a way.
func (p *Predictor) behind(e *Edge, tried []netip.Addr, at addressTest) []Backend {
	var out []Backend
	switch e.Target.Kind {
	case TargetPod, TargetResponder, TargetService:
	case TargetAddress:
		out = p.exposed(e.Target.Addr, e.Transport, e.Port, at)
	case TargetHost, TargetNameserver:
		for _, addr := range tried {
			out = append(out, p.exposed(addr, e.Transport, e.Port, at)...)
		}
	}
	return out
}

// addressTest tells whether an address of a load balancer counts.
type addressTest func(corev1.LoadBalancerIngress) bool

// anyMode counts every address.
func anyMode(corev1.LoadBalancerIngress) bool { return true }

// translated leaves out those that nodes leave to the load balancer itself: "Setting this to
// "Proxy" indicates that traffic is delivered to the node or pod with the destination set to
// the node's IP and node port or the pod's IP and port" (LoadBalancerIngress.ipMode).
func translated(i corev1.LoadBalancerIngress) bool {
	return i.IPMode == nil || *i.IPMode != corev1.LoadBalancerIPModeProxy
}

// exposed returns the endpoints of the Services that have an address beside their cluster
// addresses.
func (p *Predictor) exposed(addr netip.Addr, t wire.Transport, port uint16, counts addressTest) []Backend {
	var out []Backend
	for _, svc := range p.snapshot.Services {
		for _, sp := range svc.Spec.Ports {
			protocol := sp.Protocol
			if protocol == "" {
				protocol = corev1.ProtocolTCP
			}
			at := (uint16(sp.Port) == port && hasAddress(svc, addr, counts)) || (sp.NodePort != 0 && uint16(sp.NodePort) == port && p.snapshot.isNodeAddr(addr))
			if !at || string(protocol) != string(t.Protocol()) {
				continue
			}
			r := &resolver{in: Input{Snapshot: p.snapshot}}
			for _, b := range r.endpoints(svc, sp.Name, t.Protocol()) {
				if b.Endpoint.Addr.Is4() == addr.Is4() {
					out = append(out, b.Backend)
				}
			}
		}
	}
	return out
}

// hasAddress tells whether a Service has an address of a load balancer or an external one.
func hasAddress(svc *corev1.Service, addr netip.Addr, counts addressTest) bool {
	is := func(text string) bool {
		a, err := netip.ParseAddr(text)
		return err == nil && a == addr
	}
	return slices.ContainsFunc(svc.Spec.ExternalIPs, is) ||
		slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(i corev1.LoadBalancerIngress) bool { return is(i.IP) && counts(i) })
}

func (s *Snapshot) isNodeAddr(addr netip.Addr) bool {
	return slices.ContainsFunc(s.Nodes, func(n *corev1.Node) bool {
		return slices.ContainsFunc(n.Status.Addresses, func(a corev1.NodeAddress) bool {
			parsed, err := netip.ParseAddr(a.Address)
			return err == nil && parsed == addr
		})
	})
}

// overBehind looks for an endpoint behind the address of an edge that policies treat
// differently from the address.
func (p *Predictor) overBehind(e *Edge, from flow.Endpoint, tried []netip.Addr, d evaluator.Decision) evaluator.Decision {
	for _, b := range p.behind(e, tried, translated) {
		if other := p.decideFrom(e, from, []Backend{b}); !alike(other, d) {
			return evaluator.Decision{Reason: fmt.Sprintf("%s leads to a Service, and whether policies see its address or the pods behind it is up to the implementation: the address is %s, %s is %s",
				e.Target.Name, Describe(d, other), b.Endpoint, Describe(other, d))}
		}
	}
	return d
}
