package evaluator

import (
	"cmp"
	"fmt"
	"slices"
)

// Unmodelled is an object that may allow or deny traffic, of a kind that this
// package does not evaluate (S30). It makes every flow from or to a pod in its reach
// Undefined in the direction that it could decide.
type Unmodelled struct {
	// Kind is written with its group, for example CiliumNetworkPolicy.cilium.io.
	Kind string
	// Namespace is where the object applies; empty means everywhere.
	Namespace string
	// Name is empty when the objects of the kind cannot be read, so that there may
	// be any.
	Name string
}

// String names the object, or says that it may exist.
func (u Unmodelled) String() string {
	switch {
	case u.Name == "":
		return "objects of kind " + u.Kind
	case u.Namespace == "":
		return u.Kind + " " + u.Name
	}
	return u.Kind + " " + u.Namespace + "/" + u.Name
}

// compare orders objects: those that apply everywhere come first.
func (u Unmodelled) compare(o Unmodelled) int {
	return cmp.Or(cmp.Compare(u.Namespace, o.Namespace), cmp.Compare(u.Kind, o.Kind), cmp.Compare(u.Name, o.Name))
}

// removeUnmodelled removes an object.
func (b *builder) removeUnmodelled(u Unmodelled) {
	if !slices.Contains(b.engine.unmodelled, u) {
		return
	}
	b.impact.addUnmodelled(u)
	b.engine.unmodelled = slices.DeleteFunc(slices.Clone(b.engine.unmodelled), func(o Unmodelled) bool { return o == u })
	b.cloudsChanged = true
}

// addUnmodelled keeps one object for each namespace, and one that applies
// everywhere: one is enough to not know.
func (b *builder) addUnmodelled(list []Unmodelled) {
	if len(list) == 0 && !b.cloudsChanged {
		return
	}
	for _, u := range list {
		b.impact.addUnmodelled(u)
	}
	e := b.engine
	e.unmodelled = slices.Concat(e.unmodelled, list)
	slices.SortFunc(e.unmodelled, Unmodelled.compare)
	e.clouds = map[string]*Unmodelled{}
	for i := range e.unmodelled {
		if u := &e.unmodelled[i]; e.clouds[u.Namespace] == nil {
			e.clouds[u.Namespace] = u
		}
	}
	for name, s := range e.shards {
		was, is := s.namespace.unmodelled, e.cloudOver(name)
		if was == is || (was != nil && is != nil && *was == *is) {
			continue
		}
		n := *s.namespace
		n.unmodelled = is
		b.staleShard(name).namespace = &n
	}
}

// cloudOver returns an unmodelled object that applies to the pods of a namespace, or
// nil.
func (e *Engine) cloudOver(namespace string) *Unmodelled {
	if u := e.clouds[""]; u != nil {
		return u
	}
	return e.clouds[namespace]
}

// clouded makes the decision Undefined if an unmodelled object could decide
// otherwise: such objects may deny what NetworkPolicy allows, and allow what it
// denies.
func (d *DirectionDecision) clouded(subject *view) {
	if !subject.policed || subject.class.namespace.unmodelled == nil {
		return
	}
	u := subject.class.namespace.unmodelled
	d.Verdict, d.AllowedBy, d.DeniedBy, d.Rule = Undefined, nil, nil, ruleUnmodelled
	if u.Name == "" {
		d.Reason = fmt.Sprintf("%s may exist and cannot be read; they may allow or deny this flow", u)
	} else {
		d.Reason = fmt.Sprintf("%s is of a kind that is not evaluated; it may allow or deny this flow", u)
	}
}
