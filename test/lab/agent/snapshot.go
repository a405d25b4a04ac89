package agent

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// Snapshot is all that enforcement on one node depends on.
type Snapshot struct {
	Node string
	// Namespaces holds the labels of each namespace.
	Namespaces map[string]map[string]string
	Pods       []Pod
	Policies   []*networkingv1.NetworkPolicy
	// ClusterPolicies are of both tiers, in any order.
	ClusterPolicies []*policyv1alpha2.ClusterNetworkPolicy
}

// Pod is a pod that can send or receive: it has an address of its own and has
// not ended.
type Pod struct {
	Namespace, Name, Node string
	Labels                map[string]string
	Addrs                 []netip.Addr
	Ports                 []NamedPort
}

// NamedPort is a port that a container of a pod declares under a name.
type NamedPort struct {
	Name     string
	Protocol corev1.Protocol
	Port     int32
}

// podOf reads a pod. It reports false for a pod that no policy can concern.
//
// "Pods that are running with hostNetwork: true" have no address of their own:
// they are left out. So is a pod that has ended, because its address may by now
// belong to another pod. A pod that is being deleted still has traffic and
// stays in.
func podOf(p *corev1.Pod, early []netip.Addr) (Pod, bool) {
	ended := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	if ended || p.Spec.HostNetwork {
		return Pod{}, false
	}
	addrs := early
	if len(addrs) == 0 {
		addrs = statusAddrs(p)
	}
	if len(addrs) == 0 {
		return Pod{}, false
	}
	return Pod{
		Namespace: p.Namespace,
		Name:      p.Name,
		Node:      p.Spec.NodeName,
		Labels:    p.Labels,
		Addrs:     addrs,
		Ports:     namedPorts(p.Spec),
	}, true
}

// statusAddrs returns the addresses of both families that the kubelet reported.
func statusAddrs(p *corev1.Pod) []netip.Addr {
	var addrs []netip.Addr
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// namedPorts lists the ports of all containers that run as long as the pod
// does. An init container with restartPolicy Always is one of them (a sidecar);
// any other init container has ended before the pod serves anything.
func namedPorts(spec corev1.PodSpec) []NamedPort {
	var ports []NamedPort
	add := func(c corev1.Container) {
		for _, p := range c.Ports {
			if p.Name == "" {
				continue
			}
			ports = append(ports, NamedPort{Name: p.Name, Protocol: protocolOrTCP(p.Protocol), Port: p.ContainerPort})
		}
	}
	for _, c := range spec.Containers {
		add(c)
	}
	for _, c := range spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	return ports
}

func protocolOrTCP(p corev1.Protocol) corev1.Protocol {
	if p == "" {
		return corev1.ProtocolTCP
	}
	return p
}

// versions are those of policies, by NAMESPACE/NAME.
type versions map[string]string

func versionsOf(policies []*networkingv1.NetworkPolicy) versions {
	out := versions{}
	for _, p := range policies {
		out[p.Namespace+"/"+p.Name] = fmt.Sprintf("%s/%d", p.UID, p.Generation)
	}
	return out
}

// changed lists the policies of which the versions differ, in order.
func (v versions) changed(now versions) []string {
	out := map[string]bool{}
	for name, version := range now {
		out[name] = v[name] != version
	}
	for name := range v {
		out[name] = v[name] != now[name]
	}
	maps.DeleteFunc(out, func(_ string, differs bool) bool { return !differs })
	return slices.Sorted(maps.Keys(out))
}
