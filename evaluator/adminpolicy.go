package evaluator

import (
	"fmt"

	policyv1alpha1 "sigs.k8s.io/network-policy-api/apis/v1alpha1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/pathproof/pathproof/flow"
)

// The subjects and peers of v1alpha1 mean the same as those of v1alpha2. They are
// translated, so that there is one implementation of them.

// compileAdminNetworkPolicy compiles a policy of v1alpha1, which is of the Admin
// tier: "All AdminNetworkPolicy rules have higher precedence than NetworkPolicy or
// BaselineAdminNetworkPolicy rules." (S31)
func compileAdminNetworkPolicy(o *policyv1alpha1.AdminNetworkPolicy) *clusterPolicy {
	c := newClusterCompiler(KindAdminNetworkPolicy, &o.ObjectMeta, subjectOf(&o.Spec.Subject))
	c.place(TierAdmin, o.Spec.Priority)
	for i := range o.Spec.Ingress {
		in := &o.Spec.Ingress[i]
		c.addRule(ingress, rawRule{
			title: in.Name, action: string(in.Action), peers: sources(in.From), portsField: "ports",
			ports: compileAdminPorts(in.Ports, fmt.Sprintf("spec.ingress[%d].ports", i), c.report),
		})
	}
	for i := range o.Spec.Egress {
		out := &o.Spec.Egress[i]
		peers := make([]policyv1alpha2.ClusterNetworkPolicyEgressPeer, len(out.To))
		for j := range out.To {
			p := &out.To[j]
			peers[j] = policyv1alpha2.ClusterNetworkPolicyEgressPeer{
				Namespaces: p.Namespaces, Pods: podsOf(p.Pods), Nodes: p.Nodes,
				Networks:    translate[policyv1alpha2.CIDR](p.Networks),
				DomainNames: translate[policyv1alpha2.DomainName](p.DomainNames),
			}
		}
		c.addRule(egress, rawRule{
			title: out.Name, action: string(out.Action), peers: peers, portsField: "ports",
			ports: compileAdminPorts(out.Ports, fmt.Sprintf("spec.egress[%d].ports", i), c.report),
		})
	}
	return c.finish()
}

// compileBaselineAdminNetworkPolicy compiles a policy of v1alpha1, whose rules are
// for pods "if they are not matched by any AdminNetworkPolicy or NetworkPolicy
// rules" (S31).
func compileBaselineAdminNetworkPolicy(o *policyv1alpha1.BaselineAdminNetworkPolicy) *clusterPolicy {
	c := newClusterCompiler(KindBaselineAdminNetworkPolicy, &o.ObjectMeta, subjectOf(&o.Spec.Subject))
	c.place(TierBaseline, 0)
	// "Only one baseline admin network policy with metadata.name="default" can be
	// created in the cluster"
	if o.Name != "default" && o.Name != "" {
		c.report.report("metadata.name", "is not the name of the only policy of this kind: write default")
	}
	for i := range o.Spec.Ingress {
		in := &o.Spec.Ingress[i]
		c.addRule(ingress, rawRule{
			title: in.Name, action: string(in.Action), peers: sources(in.From), portsField: "ports",
			ports: compileAdminPorts(in.Ports, fmt.Sprintf("spec.ingress[%d].ports", i), c.report),
		})
	}
	for i := range o.Spec.Egress {
		out := &o.Spec.Egress[i]
		peers := make([]policyv1alpha2.ClusterNetworkPolicyEgressPeer, len(out.To))
		for j := range out.To {
			p := &out.To[j]
			peers[j] = policyv1alpha2.ClusterNetworkPolicyEgressPeer{
				Namespaces: p.Namespaces, Pods: podsOf(p.Pods), Nodes: p.Nodes,
				Networks: translate[policyv1alpha2.CIDR](p.Networks),
			}
		}
		c.addRule(egress, rawRule{
			title: out.Name, action: string(out.Action), peers: peers, portsField: "ports",
			ports: compileAdminPorts(out.Ports, fmt.Sprintf("spec.egress[%d].ports", i), c.report),
		})
	}
	return c.finish()
}

// subjectOf translates a subject.
func subjectOf(o *policyv1alpha1.AdminNetworkPolicySubject) *policyv1alpha2.ClusterNetworkPolicySubject {
	return &policyv1alpha2.ClusterNetworkPolicySubject{Namespaces: o.Namespaces, Pods: podsOf(o.Pods)}
}

// podsOf translates selectors.
func podsOf(o *policyv1alpha1.NamespacedPod) *policyv1alpha2.NamespacedPod {
	if o == nil {
		return nil
	}
	return &policyv1alpha2.NamespacedPod{NamespaceSelector: o.NamespaceSelector, PodSelector: o.PodSelector}
}

// sources translates the peers of ingress rules.
func sources(list []policyv1alpha1.AdminNetworkPolicyIngressPeer) []policyv1alpha2.ClusterNetworkPolicyEgressPeer {
	peers := make([]policyv1alpha2.ClusterNetworkPolicyEgressPeer, len(list))
	for i, p := range list {
		peers[i] = policyv1alpha2.ClusterNetworkPolicyEgressPeer{Namespaces: p.Namespaces, Pods: podsOf(p.Pods)}
	}
	return peers
}

// translate converts a list of strings. A list that is not set stays so.
func translate[To, From ~string](list []From) []To {
	if list == nil {
		return nil
	}
	out := make([]To, len(list))
	for i, s := range list {
		out[i] = To(s)
	}
	return out
}

// compileAdminPorts compiles ports.
func compileAdminPorts(list *[]policyv1alpha1.AdminNetworkPolicyPort, path string, r reporter) []port {
	// "If Ports is not set then the rule does not filter traffic via port." (S36)
	if list == nil {
		return nil
	}
	if len(*list) == 0 {
		r.report(path, "is empty: write at least one item, or leave it out to match every port")
	}
	ports := make([]port, 0, len(*list))
	for i := range *list {
		if p, ok := compileAdminPort(&(*list)[i], fmt.Sprintf("%s[%d]", path, i), r); ok {
			ports = append(ports, p)
		}
	}
	return ports
}

// compileAdminPort compiles one entry of ports.
func compileAdminPort(o *policyv1alpha1.AdminNetworkPolicyPort, path string, r reporter) (port, bool) {
	set := 0
	for _, isSet := range []bool{o.PortNumber != nil, o.NamedPort != nil, o.PortRange != nil} {
		if isSet {
			set++
		}
	}
	switch {
	// "Exactly one field must be set."
	case set != 1:
		r.report(path, "must have exactly one field: write portNumber, portRange or namedPort")
		return port{}, false
	case o.NamedPort != nil:
		// "NamedPort selects a port on a pod(s) based on name." It says nothing of the
		// protocol (S36).
		return compileAnyName(*o.NamedPort, path+".namedPort", r)
	case o.PortNumber != nil:
		protocol, ok := compileAdminProtocol(flow.Protocol(o.PortNumber.Protocol), path+".portNumber", r)
		if !ok {
			return port{}, false
		}
		return compileSingle(protocol, o.PortNumber.Port, path+".portNumber.port", r)
	default:
		protocol, ok := compileAdminProtocol(flow.Protocol(o.PortRange.Protocol), path+".portRange", r)
		if !ok {
			return port{}, false
		}
		return compileRange(protocol, o.PortRange.Start, o.PortRange.End, path+".portRange", r)
	}
}

// compileAdminProtocol checks the protocol of a port.
func compileAdminProtocol(protocol flow.Protocol, path string, r reporter) (flow.Protocol, bool) {
	switch protocol {
	case "":
		// "If not specified, this field defaults to TCP."
		return flow.TCP, true
	case flow.TCP, flow.UDP, flow.SCTP:
		return protocol, true
	default:
		r.report(path+".protocol", fmt.Sprintf("%q is unknown: write TCP, UDP or SCTP", protocol))
		return "", false
	}
}
