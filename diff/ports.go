package diff

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	policyv1alpha1 "sigs.k8s.io/network-policy-api/apis/v1alpha1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
)

const maxPort = 65535

var protocols = []flow.Protocol{flow.TCP, flow.UDP, flow.SCTP}

// portClass is a set of ports that no policy of either side tells apart.
type portClass struct {
	ranges []flow.PortRange
}

// sample is the port that is asked for all of the class.
func (c *portClass) sample() flow.Port {
	return flow.Port{Protocol: c.ranges[0].Protocol, Number: c.ranges[0].First}
}

// portClasses divides all ports of all protocols into classes: two ports are in one
// if the same ranges of policies hold them. A name stands for the numbers that any
// pod declares by it. The class that no range holds stands for the ports that no
// policy mentions, so that a rule without ports is not missed where no container
// declares a port.
func portClasses(sides ...*evaluator.Snapshot) []portClass {
	m := mentions{ranges: map[flow.PortRange]bool{}, names: map[string]bool{}}
	for _, s := range sides {
		m.collect(s)
	}
	for _, s := range sides {
		m.resolve(s)
	}
	var out []portClass
	for _, protocol := range protocols {
		out = append(out, m.classes(protocol)...)
	}
	return out
}

// mentions are the ports that policies speak of.
type mentions struct {
	ranges map[flow.PortRange]bool
	names  map[string]bool
}

func (m *mentions) number(protocol flow.Protocol, first, last int32) {
	if protocol == "" {
		protocol = flow.TCP
	}
	if first >= 1 && first <= last && last <= maxPort {
		m.ranges[flow.PortRange{Protocol: protocol, First: uint16(first), Last: uint16(last)}] = true
	}
}

func (m *mentions) collect(s *evaluator.Snapshot) {
	for _, p := range s.NetworkPolicies {
		for i := range p.Spec.Ingress {
			m.policyPorts(p.Spec.Ingress[i].Ports)
		}
		for i := range p.Spec.Egress {
			m.policyPorts(p.Spec.Egress[i].Ports)
		}
	}
	for _, p := range s.ClusterNetworkPolicies {
		for i := range p.Spec.Ingress {
			m.clusterProtocols(p.Spec.Ingress[i].Protocols)
		}
		for i := range p.Spec.Egress {
			m.clusterProtocols(p.Spec.Egress[i].Protocols)
		}
	}
	for _, p := range s.AdminNetworkPolicies {
		for i := range p.Spec.Ingress {
			m.adminPorts(p.Spec.Ingress[i].Ports)
		}
		for i := range p.Spec.Egress {
			m.adminPorts(p.Spec.Egress[i].Ports)
		}
	}
	for _, p := range s.BaselineAdminNetworkPolicies {
		for i := range p.Spec.Ingress {
			m.adminPorts(p.Spec.Ingress[i].Ports)
		}
		for i := range p.Spec.Egress {
			m.adminPorts(p.Spec.Egress[i].Ports)
		}
	}
}

func (m *mentions) policyPorts(list []networkingv1.NetworkPolicyPort) {
	for i := range list {
		p := &list[i]
		protocol := flow.TCP
		if p.Protocol != nil {
			protocol = flow.Protocol(*p.Protocol)
		}
		switch {
		case p.Port == nil:
			m.number(protocol, 1, maxPort)
		case p.Port.Type == intstr.String:
			m.names[p.Port.StrVal] = true
		case p.EndPort != nil:
			m.number(protocol, p.Port.IntVal, *p.EndPort)
		default:
			m.number(protocol, p.Port.IntVal, p.Port.IntVal)
		}
	}
}

func (m *mentions) clusterProtocols(list []policyv1alpha2.ClusterNetworkPolicyProtocol) {
	for i := range list {
		p := &list[i]
		if p.DestinationNamedPort != "" {
			m.names[p.DestinationNamedPort] = true
		}
		if p.TCP != nil {
			m.clusterPort(flow.TCP, p.TCP.DestinationPort)
		}
		if p.UDP != nil {
			m.clusterPort(flow.UDP, p.UDP.DestinationPort)
		}
		if p.SCTP != nil {
			m.clusterPort(flow.SCTP, p.SCTP.DestinationPort)
		}
	}
}

func (m *mentions) clusterPort(protocol flow.Protocol, p *policyv1alpha2.Port) {
	switch {
	case p == nil:
		m.number(protocol, 1, maxPort)
	case p.Range != nil:
		m.number(protocol, p.Range.Start, p.Range.End)
	default:
		m.number(protocol, p.Number, p.Number)
	}
}

func (m *mentions) adminPorts(list *[]policyv1alpha1.AdminNetworkPolicyPort) {
	if list == nil {
		return
	}
	for _, p := range *list {
		if p.NamedPort != nil {
			m.names[*p.NamedPort] = true
		}
		if p.PortNumber != nil {
			m.number(flow.Protocol(p.PortNumber.Protocol), p.PortNumber.Port, p.PortNumber.Port)
		}
		if p.PortRange != nil {
			m.number(flow.Protocol(p.PortRange.Protocol), p.PortRange.Start, p.PortRange.End)
		}
	}
}

// resolve adds the numbers that pods declare by the names that policies use.
func (m *mentions) resolve(s *evaluator.Snapshot) {
	if len(m.names) == 0 {
		return
	}
	for _, p := range s.Pods {
		for _, port := range containerPorts(p) {
			if m.names[port.Name] {
				m.number(flow.Protocol(port.Protocol), port.ContainerPort, port.ContainerPort)
			}
		}
	}
}

// containerPorts returns what the containers of a pod declare. Those of init
// containers are among them, although only some serve anything: a port too many is
// a class too many, and nothing else.
func containerPorts(p *corev1.Pod) []corev1.ContainerPort {
	var out []corev1.ContainerPort
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			out = append(out, list[i].Ports...)
		}
	}
	return out
}

// classes divides the ports of one protocol.
func (m *mentions) classes(protocol flow.Protocol) []portClass {
	var held []flow.PortRange
	starts := map[uint32]bool{1: true}
	for r := range m.ranges {
		if r.Protocol == protocol {
			held = append(held, r)
			starts[uint32(r.First)] = true
			starts[uint32(r.Last)+1] = true
		}
	}
	slices.SortFunc(held, comparePorts)
	var edges []uint32
	for start := range starts {
		if start <= maxPort {
			edges = append(edges, start)
		}
	}
	slices.Sort(edges)
	edges = append(edges, maxPort+1)
	var out []portClass
	index := map[string]int{}
	for i := range len(edges) - 1 {
		part := flow.PortRange{Protocol: protocol, First: uint16(edges[i]), Last: uint16(edges[i+1] - 1)}
		var holders strings.Builder
		for j, r := range held {
			if r.Contains(protocol, part.First) {
				holders.WriteString(strconv.Itoa(j) + " ")
			}
		}
		at, known := index[holders.String()]
		if !known {
			at = len(out)
			index[holders.String()] = at
			out = append(out, portClass{})
		}
		out[at].ranges = append(out[at].ranges, part)
	}
	return out
}

func comparePorts(a, b flow.PortRange) int {
	return cmp.Or(cmp.Compare(slices.Index(protocols, a.Protocol), slices.Index(protocols, b.Protocol)), cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
}

// joined returns the ports of classes as few ranges.
func joined(all []portClass, chosen []int) []flow.PortRange {
	var out, parts []flow.PortRange
	for _, i := range chosen {
		parts = append(parts, all[i].ranges...)
	}
	slices.SortFunc(parts, comparePorts)
	for _, p := range parts {
		if n := len(out) - 1; n >= 0 && out[n].Protocol == p.Protocol && uint32(out[n].Last)+1 == uint32(p.First) {
			out[n].Last = p.Last
			continue
		}
		out = append(out, p)
	}
	return out
}

// short names ports for people: TCP/80, UDP for all of a protocol, all for
// everything.
func short(ranges []flow.PortRange) string {
	var names []string
	whole := 0
	for _, r := range ranges {
		if r.First == 1 && r.Last == maxPort {
			whole++
			names = append(names, string(r.Protocol))
			continue
		}
		names = append(names, r.String())
	}
	if whole == len(protocols) {
		return "all"
	}
	return strings.Join(names, ", ")
}
