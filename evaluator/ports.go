package evaluator

import (
	"fmt"
	"strings"
	"unique"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pathproof/pathproof/flow"
)

// protocol is a transport protocol.
type protocol uint8

const (
	// anyProtocol is for a name that may be of any; no flow has it.
	anyProtocol protocol = iota
	tcp
	udp
	sctp
)

// protocolOf returns the protocol, or false if NetworkPolicy does not know it.
func protocolOf(p flow.Protocol) (protocol, bool) {
	switch p {
	case flow.TCP:
		return tcp, true
	case flow.UDP:
		return udp, true
	case flow.SCTP:
		return sctp, true
	}
	return anyProtocol, false
}

// port is one entry of ports: a range of numbers, or a name.
type port struct {
	// name is set for a named port. The numbers have no meaning then, and the protocol
	// is anyProtocol if the name may be of any.
	name        word
	protocol    protocol
	first, last uint16
}

// newPort returns the range of ports from first to last.
func newPort(p flow.Protocol, first, last int32) port {
	known, _ := protocolOf(p)
	return port{protocol: known, first: uint16(first), last: uint16(last)}
}

// portSpan is one range that holds all ports of a rule, and may hold others.
type portSpan struct {
	// protocols has a bit for each protocol.
	protocols   uint8
	first, last uint16
}

// newPortSpan returns the smallest span, to which a name may stand for any number.
func newPortSpan(ports []port) portSpan {
	const everything = ^uint8(0)
	if len(ports) == 0 {
		return portSpan{everything, 0, maxPort}
	}
	s := portSpan{0, maxPort, 0}
	for i := range ports {
		p := &ports[i]
		first, last := p.first, p.last
		if p.isNamed() {
			first, last = 0, maxPort
		}
		s.first, s.last = min(s.first, first), max(s.last, last)
		if p.protocol == anyProtocol {
			s.protocols = everything
		}
		s.protocols |= 1 << p.protocol
	}
	return s
}

// mayHold tells whether a rule with the span may be about the port.
func (s portSpan) mayHold(to service) bool {
	return s.protocols&(1<<to.protocol) != 0 && s.first <= to.number && to.number <= s.last
}

// isNamed tells whether the port is a name.
func (p *port) isNamed() bool { return p.name != word{} }

// declaredPort is a port that a container of a pod declares under a name (S7).
type declaredPort struct {
	name     word
	protocol protocol
	number   uint16
}

// maxPort is the highest port number of TCP, UDP and SCTP.
const maxPort = 65535

// compilePorts compiles ports. It leaves out what it cannot read: the policy is
// broken then, and its rules are never consulted.
func compilePorts(list []networkingv1.NetworkPolicyPort, path string, r reporter) []port {
	ports := make([]port, 0, len(list))
	for i := range list {
		if p, ok := compilePort(&list[i], fmt.Sprintf("%s[%d]", path, i), r); ok {
			ports = append(ports, p)
		}
	}
	return ports
}

// compilePort compiles one entry of ports.
func compilePort(o *networkingv1.NetworkPolicyPort, path string, r reporter) (port, bool) {
	// "If not specified, this field defaults to TCP." (S2)
	protocol := flow.TCP
	if o.Protocol != nil {
		protocol = flow.Protocol(*o.Protocol)
	}
	if _, known := protocolOf(protocol); !known {
		r.report(path+".protocol", fmt.Sprintf("%q is unknown: write TCP, UDP or SCTP", protocol))
		return port{}, false
	}
	if o.Port == nil {
		if o.EndPort != nil {
			r.report(path+".endPort", "is set without port: write the first port of the range as port")
			return port{}, false
		}
		// "If this field is not provided, this matches all port names and numbers." The
		// protocol still counts (S5).
		return newPort(protocol, 0, maxPort), true
	}
	if o.Port.Type == intstr.Int {
		return compileNumber(o.Port.IntVal, o.EndPort, protocol, path, r)
	}
	return compileName(o, protocol, path, r)
}

// compileNumber compiles a port number or a range of them.
func compileNumber(first int32, endPort *int32, protocol flow.Protocol, path string, r reporter) (port, bool) {
	if first < 1 || first > maxPort {
		r.report(path+".port", fmt.Sprintf("%d is not a port: write a number from 1 to %d", first, maxPort))
		return port{}, false
	}
	last := first
	if endPort != nil {
		last = *endPort
	}
	// "The endPort must be equal or greater than port." (S6)
	if last < first || last > maxPort {
		r.report(path+".endPort", fmt.Sprintf("%d does not end a range that starts at %d: write a number from %d to %d", last, first, first, maxPort))
		return port{}, false
	}
	return newPort(protocol, first, last), true
}

// compileName compiles a named port.
func compileName(o *networkingv1.NetworkPolicyPort, protocol flow.Protocol, path string, r reporter) (port, bool) {
	name := o.Port.StrVal
	if o.EndPort != nil {
		// "This field cannot be defined if the port field is not defined or if the port
		// field is defined as a named (string) port."
		r.report(path+".endPort", fmt.Sprintf("is set although port is the name %q: write port as a number, or leave endPort out", name))
		return port{}, false
	}
	if !isPortName(name) {
		r.report(path+".port", fmt.Sprintf("%q is not the name of a port: %s", name, portNameHint(name)))
		return port{}, false
	}
	p := newPort(protocol, 0, 0)
	p.name = unique.Make(name)
	return p, true
}

// portNameHint says what to write instead of something that is no name of a port.
func portNameHint(name string) string {
	if name != "" && strings.Trim(name, "0123456789") == "" {
		return "write the number without quotes"
	}
	return "write at most 15 lower-case letters, digits and single inner dashes, with at least one letter"
}

// isPortName tells whether a container can declare a port of this name.
func isPortName(s string) bool {
	const letters, others = "abcdefghijklmnopqrstuvwxyz", "0123456789-"
	return len(s) <= 15 && strings.Trim(s, letters+others) == "" && strings.ContainsAny(s, letters) &&
		!strings.Contains(s, "--") && s[0] != '-' && s[len(s)-1] != '-'
}

// matches tells whether the port allows the traffic, which goes to a port of the
// destination: the pod's own port, after any Service translation (S9).
func (p *port) matches(m *match) (truth, doubt) {
	// "If present, only traffic on the specified protocol AND port will be matched."
	if !p.isNamed() {
		return truthOf(p.protocol == m.protocol && p.first <= m.number && m.number <= p.last), certain
	}
	if p.protocol != anyProtocol && p.protocol != m.protocol {
		return no, certain
	}
	// S7: a name is looked up among the ports that the destination pod declares, in
	// both directions. A name that the pod does not declare matches nothing.
	if m.to.kind == identityEnd {
		return m.assumed.answer(question{why: portsUnknown, text: p.name.Value()})
	}
	if m.to.pod == nil || m.to.kind != podEnd {
		return no, certain
	}
	found, declared := false, 0
	for i := range m.to.pod.ports {
		d := &m.to.pod.ports[i]
		// S36: a name without a protocol stands for one port, of whichever protocol.
		if d.name != p.name || (p.protocol != anyProtocol && d.protocol != p.protocol) {
			continue
		}
		declared++
		found = found || (d.protocol == m.protocol && d.number == m.number)
	}
	switch {
	case !found:
		return no, certain
	case declared > 1:
		return m.assumed.answer(question{why: portAmbiguous, text: p.name.Value()})
	}
	return yes, certain
}

// matchPorts tells whether one of the ports matches.
func (m *match) matchPorts(ports []port) (truth, doubt) {
	// "If this field is empty or missing, this rule matches all ports"
	if len(ports) == 0 {
		return yes, certain
	}
	best, bestWhy := no, certain
	for i := range ports {
		answer, why := ports[i].matches(m)
		if answer > best {
			best, bestWhy = answer, why
		}
		if best == yes {
			break
		}
	}
	return best, bestWhy
}
