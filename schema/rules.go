package schema

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

// rules compiles the CEL rules of a schema as they are needed. Compiling all of
// them takes ten times as long as everything else that a small check does, and an
// object needs few of them, mostly none: a rule is only ever evaluated about a
// value, and need not be about one that it accepts for certain.
type rules struct {
	structural *structuralschema.Structural

	mu sync.Mutex
	// compiled holds validators by the set of rules that they hold. An object may need
	// no rule at all: then the name of the set is empty.
	compiled map[string][]*cel.Validator
	// everything holds all rules; nil until they are needed.
	everything []*cel.Validator
}

// maxSets bounds the sets of rules that are compiled one by one. Objects that need
// still more of them are validated with all rules.
const maxSets = 8

// maxWeight bounds what is accepted without CEL, which gives up on objects that cost
// it too much. It is the sum over all values that have rules; none of that weight
// needs a tenth of CEL's budget.
const maxWeight = 100_000

// parallel is the number of parts that a set is compiled in at the same time.
const parallel = 2

// validate evaluates the rules about the values of an object.
func (r *rules) validate(ctx context.Context, obj map[string]any) field.ErrorList {
	var errs field.ErrorList
	for _, v := range r.needed(obj) {
		found, _ := v.Validate(ctx, nil, r.structural, obj, nil, celconfig.RuntimeCELCostBudget)
		errs = append(errs, found...)
	}
	// Which part a rule is in must not show.
	slices.SortStableFunc(errs, func(a, b *field.Error) int { return strings.Compare(a.Field, b.Field) })
	return errs
}

// needed returns validators that hold all rules about the values of an object.
func (r *rules) needed(obj map[string]any) []*cel.Validator {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.everything != nil {
		return r.everything
	}
	var names []string
	undecided := r.undecided(obj)
	walk(r.structural, "$", []any{obj}, func(s *structuralschema.Structural, name string, values []any) {
		if undecided(s, values) {
			names = append(names, name)
		}
	})
	key := strings.Join(names, " ")
	if found, ok := r.compiled[key]; ok {
		return found
	}
	all := len(r.compiled) >= maxSets
	parts := make([]*cel.Validator, parallel)
	var group sync.WaitGroup
	for i := range parts {
		part := r.structural.DeepCopy()
		n := 0
		walk(part, "$", []any{obj}, func(s *structuralschema.Structural, name string, _ []any) {
			needed := all || slices.Contains(names, name)
			if needed {
				n++
			}
			if !needed || n%parallel != i {
				s.XValidations = nil
			}
		})
		group.Go(func() { parts[i] = cel.NewValidator(part, true, celconfig.PerCallLimit) })
	}
	group.Wait()
	parts = slices.DeleteFunc(parts, func(v *cel.Validator) bool { return v == nil })
	if all {
		r.everything = parts
	} else {
		r.compiled[key] = parts
	}
	return parts
}

// undecided returns what tells whether CEL has to be asked about values of an object:
// about all that there are, if there is anything unusual about the object.
func (r *rules) undecided(obj map[string]any) func(*structuralschema.Structural, []any) bool {
	sum, usual := 0, true
	walk(r.structural, "$", []any{obj}, func(_ *structuralschema.Structural, _ string, values []any) {
		for _, v := range values {
			n, ok := weight(v)
			sum, usual = sum+n, usual && ok
		}
	})
	usual = usual && sum <= maxWeight
	return func(s *structuralschema.Structural, values []any) bool {
		return slices.ContainsFunc(values, func(v any) bool { return !usual || !accepted(s, v) })
	}
}

// weight returns the number of values and of bytes of strings that a value is made
// of, and false if there is a null among them: whether a field that is null is there
// is a question for CEL.
func weight(v any) (sum int, ok bool) {
	sum, ok = 1, v != nil
	add := func(v any) {
		n, good := weight(v)
		sum, ok = sum+n, ok && good
	}
	switch v := v.(type) {
	case string:
		sum += len(v)
	case []any:
		for _, item := range v {
			add(item)
		}
	case map[string]any:
		for key, item := range v {
			sum += len(key)
			add(item)
		}
	}
	return sum, ok
}

// walk calls visit for every part of a schema that has rules, in a fixed order, with
// the values that there are for it. visit may take the rules away.
func walk(s *structuralschema.Structural, name string, values []any, visit func(s *structuralschema.Structural, name string, values []any)) {
	if len(s.XValidations) > 0 {
		visit(s, name, values)
	}
	if s.Items != nil {
		var below []any
		for _, v := range values {
			if list, ok := v.([]any); ok {
				below = append(below, list...)
			}
		}
		walk(s.Items, name+"[]", below, visit)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Structural != nil {
		var below []any
		for _, v := range values {
			if m, ok := v.(map[string]any); ok {
				below = slices.AppendSeq(below, maps.Values(m))
			}
		}
		walk(s.AdditionalProperties.Structural, name+"{}", below, visit)
	}
	for _, key := range slices.Sorted(maps.Keys(s.Properties)) {
		child := s.Properties[key]
		rules := len(child.XValidations)
		var below []any
		for _, v := range values {
			if m, ok := v.(map[string]any); ok {
				if value, ok := m[key]; ok {
					below = append(below, value)
				}
			}
		}
		walk(&child, name+"."+key, below, visit)
		if len(child.XValidations) != rules {
			// The map holds copies.
			s.Properties[key] = child
		}
	}
}
