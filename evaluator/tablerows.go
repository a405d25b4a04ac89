package evaluator

import "github.com/pathproof/pathproof/flow"

// tableRows makes up the verdicts between kinds of pods from those of each direction,
// by joining the sets of kinds that the peers of rules match. Without cluster-wide
// policies and host-network pods, the directions have nothing in common, and nothing
// else is asked of an end than which peers match it.
type tableRows struct {
	kinds []podKind
	// inNamespace lists the kinds of each namespace.
	inNamespace map[string][]int
	everybody   bitset
	matched     map[peerKey]*matchedKinds
}

// peerKey identifies peers that match the same pods.
type peerKey struct {
	block                 *ipBlock
	own, namespaces, pods string
}

// matchedKinds are the kinds that a peer matches for certain, and those that it may
// match.
type matchedKinds struct{ yes, maybe bitset }

// half holds the verdicts of one direction: by subject, the other ends.
type half struct{ allowed, undefined []bitset }

func newTableRows(kinds []podKind) *tableRows {
	t := &tableRows{
		kinds: kinds, inNamespace: map[string][]int{}, everybody: newFullBitset(len(kinds)), matched: map[peerKey]*matchedKinds{},
	}
	for i := range kinds {
		name := kinds[i].view.class.namespace.name
		t.inNamespace[name] = append(t.inNamespace[name], i)
	}
	return t
}

// verdicts returns the verdicts at one port.
func (t *tableRows) verdicts(p flow.Port) kindVerdicts {
	known, ok := protocolOf(p.Protocol)
	if !ok || p.Number == 0 {
		// Nothing can be said of such a flow.
		v := kindVerdicts{allowed: newBitsets(len(t.kinds)), undefined: newBitsets(len(t.kinds))}
		for _, row := range v.undefined {
			row.addAll(t.everybody)
		}
		return v
	}
	s := service{known, p.Number}
	out, in := t.half(egress, s), t.half(ingress, s)
	allowedIn, undefinedIn := transpose(in.allowed), transpose(in.undefined)
	for source := range t.kinds {
		// S16: both directions must allow, and one that denies is enough.
		a, u := out.allowed[source], out.undefined[source]
		for i := range a {
			open := (a[i] | u[i]) & (allowedIn[source][i] | undefinedIn[source][i])
			a[i] &= allowedIn[source][i]
			u[i] = open &^ a[i]
		}
	}
	t.leaveOpen(out)
	return kindVerdicts(out)
}

// leaveOpen makes verdicts Undefined for reasons that come before all policies.
func (t *tableRows) leaveOpen(v half) {
	for source := range t.kinds {
		from := &t.kinds[source].view
		for target := range t.kinds {
			to := &t.kinds[target].view
			if from.class.namespace.terminating || to.class.namespace.terminating || from.family() != to.family() {
				v.allowed[source].remove(target)
				v.undefined[source].add(target)
			}
		}
	}
}

// family returns the family of the end's only address; 0 if there is not exactly one.
func (n *end) family() int {
	list := n.candidates()
	switch {
	case len(list) != 1:
		return 0
	case list[0].Is4():
		return 4
	}
	return 6
}

// half decides one direction for all kinds.
func (t *tableRows) half(d direction, s service) half {
	h := half{allowed: newBitsets(len(t.kinds)), undefined: newBitsets(len(t.kinds))}
	for i := range t.kinds {
		t.row(d, s, i, h.allowed[i], h.undefined[i])
	}
	return h
}

// row decides one direction for one subject. It is judge for all other ends at once.
func (t *tableRows) row(d direction, s service, subject int, allowed, undefined bitset) {
	m := match{service: s, dir: d, subject: &t.kinds[subject].view, to: &t.kinds[subject].view}
	selected := &m.subject.class.selected[d]
	switch {
	case m.subject.class.namespace.unmodelled != nil:
		// S30
		undefined.addAll(t.everybody)
		return
	case len(selected.refs) == 0:
		allowed.addAll(t.everybody)
		return
	}
	for _, c := range selected.rules {
		if c.mayHold(s) {
			t.join(&m, c.rule, allowed, undefined)
		}
	}
	if len(selected.broken) > 0 {
		// X1
		undefined.addAll(t.everybody)
	}
	undefined.removeAll(allowed)
}

// join adds what one rule allows, or may allow.
func (t *tableRows) join(m *match, r *rule, allowed, undefined bitset) {
	ports, _ := m.matchPorts(r.ports)
	named := m.dir == egress && r.namesPorts()
	if ports == no && !named {
		return
	}
	if len(r.peers) == 0 {
		t.add(m, r, &matchedKinds{yes: t.everybody}, ports, named, allowed, undefined)
	}
	for i := range r.peers {
		t.add(m, r, t.matchedBy(&r.peers[i]), ports, named, allowed, undefined)
	}
}

// add adds what one peer of a rule matches. In egress, named ports depend on the
// other end.
func (t *tableRows) add(m *match, r *rule, matched *matchedKinds, ports truth, named bool, allowed, undefined bitset) {
	if !named {
		if ports == yes {
			allowed.addAll(matched.yes)
		} else {
			undefined.addAll(matched.yes)
		}
		undefined.addAll(matched.maybe)
		return
	}
	at := *m
	for target := range matched.yes.all() {
		at.to = &t.kinds[target].view
		switch ports, _ := at.matchPorts(r.ports); ports {
		case yes:
			allowed.add(target)
		case maybe:
			undefined.add(target)
		case no:
		}
	}
	for target := range matched.maybe.all() {
		at.to = &t.kinds[target].view
		if ports, _ := at.matchPorts(r.ports); ports != no {
			undefined.add(target)
		}
	}
}

// namesPorts tells whether the rule has a named port.
func (r *rule) namesPorts() bool {
	for i := range r.ports {
		if r.ports[i].isNamed() {
			return true
		}
	}
	return false
}

// matchedBy returns the kinds that a peer matches.
func (t *tableRows) matchedBy(p *peer) *matchedKinds {
	key := peerKey{block: p.block, own: p.own}
	candidates := t.inNamespace[p.own]
	if p.pods != nil {
		key.pods = "selector " + p.pods.text
	}
	if p.namespaces != nil {
		key.own, key.namespaces = "", "selector "+p.namespaces.text
	}
	if known := t.matched[key]; known != nil {
		return known
	}
	found := &matchedKinds{yes: newBitset(len(t.kinds)), maybe: newBitset(len(t.kinds))}
	t.matched[key] = found
	ask := func(i int) {
		switch answer, _ := p.matches(&t.kinds[i].view, nil); answer {
		case yes:
			found.yes.add(i)
		case maybe:
			found.maybe.add(i)
		case no:
		}
	}
	if p.block == nil && p.namespaces == nil {
		for _, i := range candidates {
			ask(i)
		}
		return found
	}
	for i := range t.kinds {
		ask(i)
	}
	return found
}
