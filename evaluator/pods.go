package evaluator

import (
	"fmt"
	"net/netip"
	"slices"
	"unique"

	corev1 "k8s.io/api/core/v1"

	"github.com/pathproof/pathproof/flow"
)

// pod is a compiled Pod.
type pod struct {
	namespace, name string
	addrs           []netip.Addr
	// hostAddrs are the addresses of the pod's node.
	hostAddrs   []netip.Addr
	node        string
	hostNetwork bool
	// terminated pods (S19) have ended; their address may be in use elsewhere.
	terminated bool
	// ambiguous pods are defined more than once.
	ambiguous bool
	ports     []declaredPort
	problems  []Problem
}

// compilePod reads what the evaluation needs of a Pod.
func compilePod(o *corev1.Pod) *pod {
	p := &pod{
		namespace:   o.Namespace,
		name:        o.Name,
		node:        o.Spec.NodeName,
		hostNetwork: o.Spec.HostNetwork,
		terminated:  o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed,
		ports:       declaredPorts(&o.Spec),
	}
	r := reporter{kind: KindPod, namespace: o.Namespace, name: o.Name, problems: &p.problems}
	p.addrs = addAddr(p.addrs, o.Status.PodIP, "status.podIP", r)
	for i, ip := range o.Status.PodIPs {
		p.addrs = addAddr(p.addrs, ip.IP, fmt.Sprintf("status.podIPs[%d].ip", i), r)
	}
	p.hostAddrs = addAddr(p.hostAddrs, o.Status.HostIP, "status.hostIP", r)
	for i, ip := range o.Status.HostIPs {
		p.hostAddrs = addAddr(p.hostAddrs, ip.IP, fmt.Sprintf("status.hostIPs[%d].ip", i), r)
	}
	if p.hostNetwork {
		// A host-network pod has the addresses of its node, whichever field says so.
		for _, a := range p.addrs {
			p.hostAddrs = appendNew(p.hostAddrs, a)
		}
		p.addrs = p.hostAddrs
	}
	return p
}

// addAddr appends an address of the status; an empty one is not set yet.
func addAddr(list []netip.Addr, text, field string, r reporter) []netip.Addr {
	if text == "" {
		return list
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		r.report(field, fmt.Sprintf("%q is not an IP address, so it is ignored: write one such as 10.0.0.1 or 2001:db8::1", text))
		return list
	}
	return appendNew(list, canonical(a))
}

// appendNew appends the address unless the list holds it.
func appendNew(list []netip.Addr, a netip.Addr) []netip.Addr {
	if slices.Contains(list, a) {
		return list
	}
	return append(list, a)
}

// canonical makes addresses comparable: 10.0.0.1 and ::ffff:10.0.0.1 are one
// address on the wire, and a zone has no meaning outside of its host.
func canonical(a netip.Addr) netip.Addr {
	return a.Unmap().WithZone("")
}

// ServingContainers lists the containers that run as long as the pod does: their ports
// are the pod's.
func ServingContainers(spec *corev1.PodSpec) []*corev1.Container {
	list := make([]*corev1.Container, 0, len(spec.Containers)+len(spec.InitContainers))
	for i := range spec.Containers {
		list = append(list, &spec.Containers[i])
	}
	// S8: an init container with restartPolicy Always is a sidecar. Other init
	// containers have ended before the pod serves anything.
	for i := range spec.InitContainers {
		c := &spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			list = append(list, c)
		}
	}
	return list
}

// declaredPorts lists the ports that have a name.
func declaredPorts(spec *corev1.PodSpec) []declaredPort {
	var ports []declaredPort
	for _, c := range ServingContainers(spec) {
		for _, cp := range c.Ports {
			if cp.Name == "" || cp.ContainerPort < 1 || cp.ContainerPort > maxPort {
				continue
			}
			// "Must be UDP, TCP, or SCTP. Defaults to "TCP"."
			d := declaredPort{name: unique.Make(cp.Name), protocol: tcp, number: uint16(cp.ContainerPort)}
			if cp.Protocol != "" {
				known, ok := protocolOf(flow.Protocol(cp.Protocol))
				if !ok {
					continue
				}
				d.protocol = known
			}
			if !slices.Contains(ports, d) {
				ports = append(ports, d)
			}
		}
	}
	return ports
}

// isNodeProcess tells whether the pod's traffic carries the node's address.
func (p *pod) isNodeProcess() bool { return p.hostNetwork && !p.terminated }

// eachAddress calls f for the addresses that the pod's status names: its own, and
// those of its node.
func (p *pod) eachAddress(f func(a netip.Addr, isOwn bool)) {
	for _, a := range p.hostAddrs {
		f(a, false)
	}
	// S19: the address of a pod that has ended may belong to another pod by now.
	if p.terminated || p.hostNetwork {
		return
	}
	for _, a := range p.addrs {
		f(a, true)
	}
}

// String returns namespace/name.
func (p *pod) String() string { return p.namespace + "/" + p.name }
