package plan

import (
	"cmp"
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
	return max(len(p.Backends(e, tried)), len(p.behind(e, tried)))
}

// behind returns the endpoints of Services that have the addresses of an edge beside their
// cluster addresses.
func (p *Predictor) behind(e *Edge, tried []netip.Addr) []Backend {
	var out []Backend
	switch e.Target.Kind {
	case TargetPod, TargetResponder, TargetService:
	case TargetAddress:
		out = p.exposed(e.Target.Addr, e.Transport, e.Port)
	case TargetHost, TargetNameserver:
		for _, addr := range tried {
			out = append(out, p.exposed(addr, e.Transport, e.Port)...)
		}
	}
	return out
}

// place is where a Service may be exposed.
type place struct {
	addr     netip.Addr
	protocol flow.Protocol
	port     uint16
}

// exposed returns the endpoints of the Services that have an address beside their cluster
// addresses. Whether a proxy stands before them (ipMode) makes no difference: what it passes on
// meets the policies of the pods, too.
func (p *Predictor) exposed(addr netip.Addr, t wire.Transport, port uint16) []Backend {
	at := place{addr, t.Protocol(), port}
	out, known := p.places[at]
	if known {
		return out
	}
	for _, svc := range p.snapshot.Services {
		for _, sp := range svc.Spec.Ports {
			here := (uint16(sp.Port) == port && hasAddress(svc, addr)) || (sp.NodePort != 0 && uint16(sp.NodePort) == port && p.snapshot.isNodeAddr(addr))
			if !here || cmp.Or(sp.Protocol, corev1.ProtocolTCP) != corev1.Protocol(at.protocol) {
				continue
			}
			out = append(out, p.endpointsOf(svc, sp.Name, at.protocol, addr)...)
		}
	}
	p.places[at] = out
	return out
}

// hasAddress tells whether a Service has an address of a load balancer or an external one.
func hasAddress(svc *corev1.Service, addr netip.Addr) bool {
	is := func(text string) bool {
		a, err := netip.ParseAddr(text)
		return err == nil && a == addr
	}
	return slices.ContainsFunc(svc.Spec.ExternalIPs, is) ||
		slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(i corev1.LoadBalancerIngress) bool { return is(i.IP) })
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
// differently from the address. own leaves out that of the source itself.
func (p *Predictor) overBehind(e *Edge, from flow.Endpoint, tried []netip.Addr, own bool, d evaluator.Decision) evaluator.Decision {
	for _, b := range p.behind(e, tried) {
		if own && b.Endpoint.Addr == from.Addr {
			continue
		}
		if other := p.decideFrom(e, from, []Backend{b}); !alike(other, d) {
			return evaluator.Decision{Reason: fmt.Sprintf("%s leads to a Service, and whether policies see its address or the pods behind it is up to the implementation: the address is %s, %s is %s",
				e.Target.Name, Describe(d, other), b.Endpoint, Describe(other, d))}
		}
	}
	return d
}
