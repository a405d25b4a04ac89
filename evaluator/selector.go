package evaluator

import (
	"fmt"
	"slices"
	"strings"
	"unique"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	operator "k8s.io/apimachinery/pkg/selection"
)

// word is a key or a value of a label. Equal words are one pointer, so that comparing
// them costs nothing, however long they are.
type word = unique.Handle[string]

// label is one label of a pod or a namespace.
type label struct{ key, value word }

// labelSet holds the labels of a pod or a namespace, in no order. There are few, so
// that going through all is faster than looking one up.
type labelSet []label

// newLabelSet returns the labels.
func newLabelSet(m map[string]string) labelSet {
	set := make(labelSet, 0, len(m))
	for k, v := range m {
		set = append(set, label{unique.Make(k), unique.Make(v)})
	}
	return set
}

// get returns the value of a label.
func (s labelSet) get(key word) (word, bool) {
	for i := range s {
		if s[i].key == key {
			return s[i].value, true
		}
	}
	return word{}, false
}

// selector is a compiled label selector: all of its requirements have to hold. An
// empty one selects everything.
type selector struct {
	requirements []requirement
	text         string
}

// requirement is one condition of a selector.
type requirement struct {
	key word
	// values are those of which the label has to have one, or with negated must not
	// have any. Without values, it is about whether the label is there.
	values  []word
	negated bool
	text    string
}

// matches tells whether the labels meet all requirements.
func (s *selector) matches(set labelSet) bool {
	for i := range s.requirements {
		if !s.requirements[i].matches(set) {
			return false
		}
	}
	return true
}

// matches tells whether the labels meet the requirement: "NotIn" and "DoesNotExist"
// hold for labels that are not there (S27).
func (r *requirement) matches(set labelSet) bool {
	value, found := set.get(r.key)
	if len(r.values) > 0 {
		found = found && slices.Contains(r.values, value)
	}
	return found != r.negated
}

// String renders the selector as kubectl would.
func (s *selector) String() string { return s.text }

// isEmpty tells whether the selector has no requirements.
func (s *selector) isEmpty() bool { return len(s.requirements) == 0 }

// compileSelector returns nil, and reports why, if the selector cannot be read.
func compileSelector(s *metav1.LabelSelector, field string, r reporter) *selector {
	parsed, err := metav1.LabelSelectorAsSelector(s)
	if err == nil {
		return newSelector(parsed)
	}
	operators := []metav1.LabelSelectorOperator{
		metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist,
	}
	for i, x := range s.MatchExpressions {
		if !slices.Contains(operators, x.Operator) {
			r.report(fmt.Sprintf("%s.matchExpressions[%d].operator", field, i),
				fmt.Sprintf("%q is unknown: write In, NotIn, Exists or DoesNotExist", x.Operator))
			return nil
		}
	}
	r.report(field, fmt.Sprintf("is not a label selector (%s): write label keys and values as Kubernetes allows them, "+
		"values for In and NotIn, and none for Exists and DoesNotExist", strings.TrimSpace(err.Error())))
	return nil
}

// newSelector compiles a selector that was parsed from one of the API.
func newSelector(parsed labels.Selector) *selector {
	requirements, _ := parsed.Requirements()
	s := &selector{text: parsed.String()}
	for i := range requirements {
		from := &requirements[i]
		to := requirement{key: unique.Make(from.Key()), text: from.String()}
		switch from.Operator() {
		case operator.NotIn, operator.NotEquals, operator.DoesNotExist:
			to.negated = true
		default:
		}
		for _, v := range from.ValuesUnsorted() {
			to.values = append(to.values, unique.Make(v))
		}
		s.requirements = append(s.requirements, to)
	}
	return s
}
