package evaluator

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/pathproof/pathproof/flow"
)

// Basis is what the answers for flows from or to an end rest on at that end. While
// both ends of a flow have the same basis, and its objects are what they were, the
// answer is the same.
type Basis struct {
	// Objects are sorted, each once: the pods that the end is or may be; the namespaces
	// of these, or that of an identity, if the snapshot speaks of it at all; the policies
	// that select the end in the direction that counts there, or may; and the objects
	// that are not evaluated and apply there.
	Objects []Key
	// Node is set if the end is a bare address that is one of a node, by what the
	// statuses of pods say.
	Node bool
}

// SourceBasis returns the basis of an end that flows begin at. The policies that count
// there are those that have a say about egress.
func (e *Engine) SourceBasis(p flow.Endpoint) Basis { return e.basis(&p, egress) }

// TargetBasis returns the basis of an end that flows go to. The policies that count
// there are those that have a say about ingress.
func (e *Engine) TargetBasis(p flow.Endpoint) Basis { return e.basis(&p, ingress) }

func (e *Engine) basis(p *flow.Endpoint, d direction) Basis {
	var b Basis
	addr := canonical(p.Addr)
	for _, r := range e.residentsAt(p, addr) {
		if r.pod != nil {
			b.add(Key{KindPod, r.pod.namespace, r.pod.name})
		}
		b.add(Key{Kind: KindNamespace, Name: r.class.namespace.name})
		for _, ref := range r.class.selected[d].refs {
			b.add(Key{KindNetworkPolicy, ref.Namespace, ref.Name})
		}
		// "Note that host-networked pods are not included in subject selection." (S32)
		if t := r.class.tiers[d]; t != nil && (r.pod == nil || !r.pod.hostNetwork) {
			for _, ref := range t.refs {
				b.add(Key{Kind: ref.Kind, Name: ref.Name})
			}
		}
		for _, u := range e.unmodelled {
			if u.Namespace == "" || u.Namespace == r.class.namespace.name {
				b.add(Key(u))
			}
		}
	}
	if p.Namespace == "" {
		known := e.addressOf(addr)
		b.Node = known != nil && known.hosts > 0
	}
	slices.SortFunc(b.Objects, Key.compare)
	b.Objects = slices.Compact(b.Objects)
	return b
}

func (b *Basis) add(k Key) { b.Objects = append(b.Objects, k) }

// residentsAt lists the pods that an endpoint is or may be, each with its class. For an
// identity there is a class alone.
func (e *Engine) residentsAt(p *flow.Endpoint, addr netip.Addr) []resident {
	switch {
	case p.IsIdentity():
		if s := e.shards[p.Namespace]; s != nil {
			return []resident{{class: e.identityClass(s, p.Labels)}}
		}
	case p.IsPod():
		if s := e.shards[p.Namespace]; s != nil {
			if r, ok := s.pods[p.Pod]; ok {
				return []resident{r}
			}
		}
	default:
		known := e.addressOf(addr)
		if known == nil {
			return nil
		}
		var out []resident
		for _, list := range [][]*pod{known.owners, known.processes} {
			for _, o := range list {
				out = append(out, resident{o, e.classOf(o)})
			}
		}
		return out
	}
	return nil
}

// compare orders keys by kind, then by namespace, then by name.
func (k Key) compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Kind, o.Kind), cmp.Compare(k.Namespace, o.Namespace), cmp.Compare(k.Name, o.Name))
}
