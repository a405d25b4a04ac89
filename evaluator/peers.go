package evaluator

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// peer is one entry of from or to: an ipBlock, or pods by selectors.
type peer struct {
	block *ipBlock
	// own is the policy's namespace, in force when namespaces is nil.
	own        string
	namespaces *selector
	// pods is nil when every pod of the selected namespaces matches.
	pods *selector
}

// ipBlock is a compiled IPBlock.
type ipBlock struct {
	cidr   netip.Prefix
	except []netip.Prefix
	// profile tells whether blocks match pods and nodes.
	profile *Profile
}

// compilePeers compiles from or to. It leaves out what it cannot read: the policy
// is broken then, and its rules are never consulted.
func compilePeers(list []networkingv1.NetworkPolicyPeer, own, path string, r reporter) []peer {
	peers := make([]peer, 0, len(list))
	for i := range list {
		o, field := &list[i], fmt.Sprintf("%s[%d]", path, i)
		selectors := o.PodSelector != nil || o.NamespaceSelector != nil
		switch {
		// "If this field is set then neither of the other fields can be."
		case o.IPBlock != nil && selectors:
			r.report(field, "has ipBlock together with a selector: write them as two items of the list")
		case o.IPBlock != nil:
			if b := compileIPBlock(o.IPBlock, field+".ipBlock", r); b != nil {
				peers = append(peers, peer{block: b})
			}
		case selectors:
			p := peer{own: own}
			if o.PodSelector != nil {
				p.pods = compileSelector(o.PodSelector, field+".podSelector", r)
			}
			if o.NamespaceSelector != nil {
				p.namespaces = compileSelector(o.NamespaceSelector, field+".namespaceSelector", r)
			}
			peers = append(peers, p)
		default:
			// S3: an empty list means everybody, an empty item is refused.
			r.report(field, "is empty: write podSelector, namespaceSelector or ipBlock, or leave the whole list out to match everybody")
		}
	}
	return peers
}

// compileIPBlock returns nil, and reports why, if a CIDR cannot be read.
func compileIPBlock(o *networkingv1.IPBlock, path string, r reporter) *ipBlock {
	cidr, ok := compileCIDR(o.CIDR, path+".cidr", r)
	if !ok {
		return nil
	}
	b := &ipBlock{cidr: cidr}
	for i, text := range o.Except {
		field := fmt.Sprintf("%s.except[%d]", path, i)
		except, ok := compileCIDR(text, field, r)
		if !ok {
			return nil
		}
		// "Except values will be rejected if they are outside the cidr range"
		if !cidr.Contains(except.Addr()) || except.Bits() <= cidr.Bits() {
			r.report(field, fmt.Sprintf("%s is not a part of %s: write a smaller range inside of it", except, cidr))
			return nil
		}
		b.except = append(b.except, except)
	}
	return b
}

// compileCIDR parses a CIDR. Bits after the prefix are tolerated, as the API server
// tolerates them.
func compileCIDR(text, field string, r reporter) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		r.report(field, fmt.Sprintf("%q is not a CIDR: write an address and a prefix length, such as 192.0.2.0/24 or 2001:db8::/64", text))
		return netip.Prefix{}, false
	}
	if p.Addr().Is4In6() {
		r.report(field, fmt.Sprintf("%q is an IPv4 range in IPv6 notation: write it as IPv4", text))
		return netip.Prefix{}, false
	}
	return p.Masked(), true
}

// matches tells whether the peer matches the end of the flow.
func (p *peer) matches(v *view, a *assumptions) (truth, doubt) {
	if p.block != nil {
		return p.block.matches(v, a)
	}
	// Selectors select pods; an address that belongs to no pod has no labels.
	if !v.selectable {
		return no, certain
	}
	// S4: both selectors of one item must match. "If podSelector is also set, then the
	// NetworkPolicyPeer as a whole selects the pods matching podSelector in the
	// namespaces selected by namespaceSelector. Otherwise it selects all pods in the
	// namespaces selected by namespaceSelector."
	if p.pods != nil && !p.pods.matches(v.class.labels) {
		return no, certain
	}
	// "Otherwise it selects the pods matching podSelector in the policy's own
	// namespace."
	if p.namespaces == nil {
		return truthOf(v.class.namespace.name == p.own), certain
	}
	return v.class.namespace.matches(p.namespaces, a)
}

// matches tells whether a selector selects the namespace. If only the name is
// known, a requirement about another label may or may not hold.
func (n *namespace) matches(s *selector, a *assumptions) (truth, doubt) {
	if n.known {
		return truthOf(s.matches(n.labels)), certain
	}
	answer, why := yes, certain
	for i := range s.requirements {
		r := &s.requirements[i]
		// S26: this label is known even then.
		if r.key.Value() == corev1.LabelMetadataName {
			if !r.matches(n.labels) {
				return no, certain
			}
			continue
		}
		holds := maybe
		if a != nil {
			holds = a.ask(question{why: namespaceUnknown, namespace: n.name, text: r.text})
		}
		switch holds {
		case no:
			return no, certain
		case maybe:
			answer, why = maybe, namespaceUnknown
		case yes:
		}
	}
	return answer, why
}

// matches tells whether the block holds the end's address.
func (b *ipBlock) matches(v *view, a *assumptions) (truth, doubt) {
	matches := yes
	if v.kind != externalEnd {
		// S10: the API describes blocks as cluster-external addresses and leaves open
		// whether they match pods and nodes. Implementations do both.
		matches = b.profile.blocksMatch(v)
	}
	if matches == no {
		return no, certain
	}
	if !v.addr.IsValid() {
		switch held := b.mayHold(v, a); {
		case held == no:
			return no, certain
		case matches == maybe && (held == yes || v.kind == identityEnd):
			return maybe, blockHoldsPod
		case held == maybe:
			return maybe, blockNeedsAddress
		}
		// Where the address lies is assumed, as it was for the tiers before.
		return yes, certain
	}
	// S24: a prefix holds addresses of its own family only.
	if !b.cidr.Contains(v.addr) {
		return no, certain
	}
	// S11: except narrows this block and nothing else.
	for _, x := range b.except {
		if x.Contains(v.addr) {
			return no, certain
		}
	}
	if matches == maybe {
		return maybe, blockHoldsPod
	}
	return yes, certain
}

// mayHold tells whether the block holds an address that is not known: under assumptions
// that is certain.
func (b *ipBlock) mayHold(v *view, a *assumptions) truth {
	if held := v.within(b.cidr, a); held != yes {
		return held
	}
	for _, x := range b.except {
		if v.within(x, a) == yes {
			return no
		}
	}
	return yes
}
