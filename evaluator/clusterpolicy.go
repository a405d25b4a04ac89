package evaluator

import (
	"fmt"

	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/pathproof/pathproof/flow"
)

// compileClusterNetworkPolicy compiles a policy of v1alpha2. Whatever it cannot read
// is reported, and the policy is broken then.
func compileClusterNetworkPolicy(o *policyv1alpha2.ClusterNetworkPolicy) *clusterPolicy {
	c := newClusterCompiler(KindClusterNetworkPolicy, &o.ObjectMeta, &o.Spec.Subject)
	// "ClusterNetworkPolicy can use 2 of these tiers: Admin and Baseline."
	switch o.Spec.Tier {
	case policyv1alpha2.AdminTier:
		c.place(TierAdmin, o.Spec.Priority)
	case policyv1alpha2.BaselineTier:
		c.place(TierBaseline, o.Spec.Priority)
	default:
		c.report.report("spec.tier", fmt.Sprintf("%q is unknown: write Admin or Baseline", o.Spec.Tier))
		c.placeAnywhere()
	}
	for i := range o.Spec.Ingress {
		in := &o.Spec.Ingress[i]
		peers := make([]policyv1alpha2.ClusterNetworkPolicyEgressPeer, len(in.From))
		for j, p := range in.From {
			peers[j] = policyv1alpha2.ClusterNetworkPolicyEgressPeer{Namespaces: p.Namespaces, Pods: p.Pods}
		}
		c.addRule(ingress, rawRule{
			title: in.Name, action: string(in.Action), peers: peers, portsField: "protocols",
			ports: compileProtocols(in.Protocols, fmt.Sprintf("spec.ingress[%d].protocols", i), c.report),
		})
	}
	for i := range o.Spec.Egress {
		out := &o.Spec.Egress[i]
		c.addRule(egress, rawRule{
			title: out.Name, action: string(out.Action), peers: out.To, portsField: "protocols",
			ports: compileProtocols(out.Protocols, fmt.Sprintf("spec.egress[%d].protocols", i), c.report),
		})
	}
	return c.finish()
}

// compileProtocols compiles protocols.
func compileProtocols(list []policyv1alpha2.ClusterNetworkPolicyProtocol, path string, r reporter) []port {
	if list != nil && len(list) == 0 {
		r.report(path, "is empty: write at least one item, or leave it out to match every port")
	}
	ports := make([]port, 0, len(list))
	for i := range list {
		if p, ok := compileProtocol(&list[i], fmt.Sprintf("%s[%d]", path, i), r); ok {
			ports = append(ports, p)
		}
	}
	return ports
}

// compileProtocol compiles one entry of protocols.
func compileProtocol(o *policyv1alpha2.ClusterNetworkPolicyProtocol, path string, r reporter) (port, bool) {
	set := 0
	for _, isSet := range []bool{o.TCP != nil, o.UDP != nil, o.SCTP != nil, o.DestinationNamedPort != ""} {
		if isSet {
			set++
		}
	}
	switch {
	// "Exactly one field must be set."
	case set != 1:
		r.report(path, "must have exactly one field: write tcp, udp, sctp or destinationNamedPort")
		return port{}, false
	case o.TCP != nil:
		return compileDestination(flow.TCP, o.TCP.DestinationPort, path+".tcp", r)
	case o.UDP != nil:
		return compileDestination(flow.UDP, o.UDP.DestinationPort, path+".udp", r)
	case o.SCTP != nil:
		return compileDestination(flow.SCTP, o.SCTP.DestinationPort, path+".sctp", r)
	default:
		// "DestinationNamedPort selects a destination port on a pod based on the
		// ContainerPort name." It says nothing of the protocol (S36).
		return compileAnyName(o.DestinationNamedPort, path+".destinationNamedPort", r)
	}
}

// compileDestination compiles the destination port of a protocol.
func compileDestination(protocol flow.Protocol, o *policyv1alpha2.Port, path string, r reporter) (port, bool) {
	// The port is optional by the text, so that a protocol without one is every port of
	// it (S36).
	if o == nil {
		return newPort(protocol, 0, maxPort), true
	}
	path += ".destinationPort"
	switch {
	// "Port matches on port number. You must specify either Port or Range."
	case (o.Number == 0) == (o.Range == nil):
		r.report(path, "must have exactly one field: write number or range")
		return port{}, false
	case o.Range != nil:
		return compileRange(protocol, o.Range.Start, o.Range.End, path+".range", r)
	default:
		return compileSingle(protocol, o.Number, path+".number", r)
	}
}
