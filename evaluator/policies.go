package evaluator

import (
	"fmt"

	networkingv1 "k8s.io/api/networking/v1"
)

// policy is a compiled NetworkPolicy.
type policy struct {
	ref PolicyRef
	// selector is nil when it cannot be read; the policy could then select any pod
	// of its namespace.
	selector *selector
	// affects tells for each direction whether the policy isolates the pods that it
	// selects, or, for a broken one, might.
	affects [directions]bool
	rules   [directions][]rule
	// broken policies have a Problem (X1): nobody can say what they do.
	broken   bool
	problems []Problem
}

// rule is one entry of spec.ingress or spec.egress.
type rule struct {
	ref RuleRef
	// No peers means everybody, no ports means every port.
	peers []peer
	ports []port
}

// assume tells the policy's blocks what is known of the implementation.
func (p *policy) assume(profile *Profile) {
	for _, rules := range p.rules {
		for i := range rules {
			for _, peer := range rules[i].peers {
				if peer.block != nil {
					peer.block.profile = profile
				}
			}
		}
	}
}

// selects tells whether the policy selects pods with these labels, or might.
func (p *policy) selects(set labelSet) bool {
	return p.selector == nil || p.selector.matches(set)
}

// compilePolicy compiles one policy. Whatever it cannot read is reported, and the
// policy is broken then.
func compilePolicy(o *networkingv1.NetworkPolicy) *policy {
	p := &policy{ref: PolicyRef{Namespace: o.Namespace, Name: o.Name}}
	r := reporter{kind: KindNetworkPolicy, namespace: o.Namespace, name: o.Name, problems: &p.problems}
	if o.Namespace == "" {
		r.report("metadata.namespace", "is missing, so the policy could be in any namespace: write the namespace")
	}
	if o.Name == "" {
		r.report("metadata.name", "is missing: write a name")
	}
	// "An empty selector matches all pods in the policy's namespace."
	p.selector = compileSelector(&o.Spec.PodSelector, "spec.podSelector", r)
	p.affects = policyTypes(&o.Spec, r)

	for i, in := range o.Spec.Ingress {
		path := fmt.Sprintf("spec.ingress[%d]", i)
		p.addRule(ingress, i, compilePeers(in.From, o.Namespace, path+".from", r), compilePorts(in.Ports, path+".ports", r))
	}
	for i, out := range o.Spec.Egress {
		path := fmt.Sprintf("spec.egress[%d]", i)
		p.addRule(egress, i, compilePeers(out.To, o.Namespace, path+".to", r), compilePorts(out.Ports, path+".ports", r))
	}
	p.broken = len(p.problems) > 0
	return p
}

// addRule appends a compiled rule.
func (p *policy) addRule(d direction, index int, peers []peer, ports []port) {
	p.rules[d] = append(p.rules[d], rule{ref: RuleRef{PolicyRef: p.ref, Index: index}, peers: peers, ports: ports})
}

// policyTypes tells which directions the policy isolates (S2).
func policyTypes(spec *networkingv1.NetworkPolicySpec, r reporter) (affects [directions]bool) {
	// "If this field is not specified, it will default based on the existence of
	// ingress or egress rules; policies that contain an egress section are assumed to
	// affect egress, and all policies (whether or not they contain an ingress section)
	// are assumed to affect ingress."
	if len(spec.PolicyTypes) == 0 {
		affects[ingress] = true
		affects[egress] = len(spec.Egress) > 0
		return affects
	}
	if len(spec.PolicyTypes) > int(directions) {
		r.report("spec.policyTypes", "has more than two items: write each of Ingress and Egress at most once")
	}
	for i, t := range spec.PolicyTypes {
		switch t {
		case networkingv1.PolicyTypeIngress:
			affects[ingress] = true
		case networkingv1.PolicyTypeEgress:
			affects[egress] = true
		default:
			r.report(fmt.Sprintf("spec.policyTypes[%d]", i), fmt.Sprintf("%q is unknown: write Ingress or Egress", t))
			// Either direction may have been meant.
			return [directions]bool{true, true}
		}
	}
	return affects
}
