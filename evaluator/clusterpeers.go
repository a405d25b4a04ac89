package evaluator

// matches tells whether the set holds the pods of a class. Without assumptions, a
// namespace of which only the name is known may be in the set or not.
func (s *podSet) matches(c *class, a *assumptions) (truth, doubt) {
	if s.namespaces == nil {
		return yes, certain
	}
	// "PodSelector is used to explicitly select pods within a namespace; if empty, it
	// selects all Pods."
	if s.pods != nil && !s.pods.matches(c.labels) {
		return no, certain
	}
	// "NamespaceSelector follows standard label selector semantics; if empty, it selects
	// all Namespaces."
	return c.namespace.matches(s.namespaces, a)
}

// matches tells whether the peer matches the end of the flow, under the answers that
// are assumed.
func (p *clusterPeer) matches(v *view, a *assumptions) bool {
	switch {
	case p.pods != nil:
		// "Note that host-networked pods are not included in this type of peer." (S32)
		if !v.onPodNetwork() {
			return false
		}
		selected, _ := p.pods.matches(v.class, a)
		return selected == yes
	case p.nodes != nil:
		return p.matchesNode(v, a)
	case p.networks != nil:
		// S33: "note that cluster-internal traffic will be checked against the rule as
		// well. So if you Accept or Deny traffic to "0.0.0.0/0", that will allow or deny all
		// IPv4 pod-to-pod traffic as well."
		for _, n := range p.networks {
			if v.within(n, a) == yes {
				return true
			}
		}
		return false
	default:
		return p.matchesDomain(v, a)
	}
}

// matchesNode tells whether the peer selects the node whose address the end has.
func (p *clusterPeer) matchesNode(v *view, a *assumptions) bool {
	// "It selects the nodeIPs as the peer type by matching on the IPs present in the
	// node.Status.Addresses field of the node." (S34) The address of a pod is none.
	if v.onPodNetwork() {
		return false
	}
	if !v.isHost() && a.ask(question{why: nodeUnknown, target: v.target}) == no {
		return false
	}
	// "if present but empty, it selects all Nodes"
	if p.nodes.isEmpty() {
		return true
	}
	return a.ask(question{why: nodeLabelsUnknown, target: v.target, text: p.nodes.String()}) == yes
}

// matchesDomain tells whether the end's address is one of those that the names of
// the peer resolve to, which nothing in the snapshot tells (S34).
func (p *clusterPeer) matchesDomain(v *view, a *assumptions) bool {
	if v.onPodNetwork() {
		return false
	}
	for _, name := range p.domains {
		if a.ask(question{why: domainUnknown, target: v.target, text: name}) == yes {
			return true
		}
	}
	return false
}
