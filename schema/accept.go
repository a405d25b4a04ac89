package schema

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/util/validation"
)

// accepted tells whether a value meets all rules of its schema for certain. If it
// does not, CEL decides: it knows every rule, and words what it refuses.
func accepted(s *structuralschema.Structural, value any) bool {
	for _, x := range s.XValidations {
		accepts, ok := acceptance(x.Rule)
		if !ok || !accepts(value) {
			return false
		}
	}
	return true
}

// acceptance returns what is sufficient for a rule to accept a value, false if none
// is known.
func acceptance(rule string) (func(self any) bool, bool) {
	if pattern, ok := matches(rule); ok {
		return func(self any) bool { return matching(self, pattern) }, true
	}
	accepts, ok := sufficient[rule]
	return accepts, ok
}

// matches returns the pattern of a rule that is nothing but one match of the value.
func matches(rule string) (pattern string, ok bool) {
	pattern, begins := strings.CutPrefix(rule, "self.matches('")
	pattern, ends := strings.CutSuffix(pattern, "')")
	return pattern, begins && ends && !strings.ContainsAny(pattern, `'\`)
}

// patterns holds compiled patterns, or nil, by their text.
var patterns sync.Map

// matching tells whether a value is a string that a pattern matches. CEL's patterns
// are those of package regexp.
func matching(self any, pattern string) bool {
	text, ok := self.(string)
	if !ok {
		return false
	}
	compiled, ok := patterns.Load(pattern)
	if !ok {
		// A pattern that cannot be compiled is for CEL to refuse.
		expression, _ := regexp.Compile(pattern)
		compiled, _ = patterns.LoadOrStore(pattern, expression)
	}
	expression, _ := compiled.(*regexp.Regexp)
	return expression != nil && expression.MatchString(text)
}

// sufficient holds, by the text of the rules that are more than one match, what is
// sufficient for them. Each function is about one text, so that a rule that is
// changed is CEL's again until it has one of its own.
var sufficient = map[string]func(self any) bool{
	// Labels and selectors.
	"self.all(k, size(k) <= 317 && !format.qualifiedName().validate(k).hasValue())": func(self any) bool {
		m, ok := self.(map[string]any)
		for k := range m {
			ok = ok && len(k) <= 317 && qualified(k)
		}
		return ok
	},
	"!format.qualifiedName().validate(self).hasValue()": qualified,
	"self.operator in ['In', 'NotIn'] == (has(self.values) && size(self.values) > 0)": func(self any) bool {
		operator, ok := at(self, "operator").(string)
		return ok && (operator == "In" || operator == "NotIn") == (length(at(self, "values")) > 0)
	},
	"(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)": func(self any) bool {
		return length(at(self, "matchLabels")) > 0 || length(at(self, "matchExpressions")) > 0
	},

	// Ends of a path.
	"has(self.podSelector) != has(self.identity)": func(self any) bool { return count(self, "podSelector", "identity") == 1 },
	"(has(self.podSelector) ? 1 : 0) + (has(self.identity) ? 1 : 0) + (has(self.service) ? 1 : 0) + (has(self.address) ? 1 : 0) + (has(self.host) ? 1 : 0) == 1": func(self any) bool {
		return count(self, "podSelector", "identity", "service", "address", "host") == 1
	},
	"!(has(self.__namespace__) && has(self.namespaceSelector))": func(self any) bool {
		return isObject(self) && count(self, "namespace", "namespaceSelector") < 2
	},
	"!(has(self.__namespace__) || has(self.namespaceSelector)) || has(self.podSelector)": func(self any) bool {
		return isObject(self) && (count(self, "namespace", "namespaceSelector") == 0 || count(self, "podSelector") == 1)
	},
	"!has(self.via) || self.via == 'Auto' || has(self.podSelector) || has(self.service)": func(self any) bool {
		return isObject(self) && (count(self, "via") == 0 || at(self, "via") == "Auto" || count(self, "podSelector", "service") > 0)
	},
	"isIP(self)":   func(self any) bool { return address(self).IsValid() },
	"isCIDR(self)": func(self any) bool { return prefix(self).IsValid() },
	"!isCIDR(self) || cidr(self) == cidr(self).masked()": func(self any) bool {
		p := prefix(self)
		return p.IsValid() && p == p.Masked()
	},
	"!has(self.cidr) || !isCIDR(self.cidr) || self.ips.all(i, !isIP(i) || cidr(self.cidr).containsIP(i))": func(self any) bool {
		if count(self, "cidr") == 0 {
			return isObject(self)
		}
		p := prefix(at(self, "cidr"))
		return all(at(self, "ips"), func(i any) bool { return p.Contains(address(i)) })
	},

	// Paths and their ports.
	"has(self.to) != has(self.dns)":   func(self any) bool { return count(self, "to", "dns") == 1 },
	"has(self.to) == has(self.ports)": func(self any) bool { return isObject(self) && count(self, "to", "ports") != 1 },
	"!has(self.to) || !has(self.ports) || !(has(self.to.identity) || has(self.to.address) || has(self.to.host)) || self.ports.all(p, type(p.port) == int)": func(self any) bool {
		if count(self, "to", "ports") < 2 {
			return isObject(self)
		}
		to := at(self, "to")
		return isObject(to) && count(to, "identity", "address", "host") == 0 ||
			all(at(self, "ports"), func(p any) bool { return isInteger(at(p, "port")) })
	},
	"!has(self.to) || !has(self.to.service) || !has(self.ports) || self.ports.all(p, !has(p.endPort))": func(self any) bool {
		if count(self, "to", "ports") < 2 {
			return isObject(self)
		}
		to := at(self, "to")
		return isObject(to) && count(to, "service") == 0 ||
			all(at(self, "ports"), func(p any) bool { return isObject(p) && count(p, "endPort") == 0 })
	},
	"type(self.port) == int ? (self.port >= 1 && self.port <= 65535) : (size(self.port) >= 1 && size(self.port) <= 15 && self.port.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && self.port.matches('[a-z]'))": func(self any) bool {
		port := at(self, "port")
		if n, ok := port.(int64); ok {
			return n >= 1 && n <= 65535
		}
		name, _ := port.(string)
		return len(name) <= 15 && matching(port, "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$") && matching(port, "[a-z]")
	},
	"!has(self.endPort) || type(self.port) == int": func(self any) bool {
		return isObject(self) && (count(self, "endPort") == 0 || isInteger(at(self, "port")))
	},
	"!has(self.endPort) || type(self.port) != int || self.endPort >= self.port": func(self any) bool {
		if count(self, "endPort") == 0 {
			return isObject(self)
		}
		end, isEnd := at(self, "endPort").(int64)
		port, isPort := at(self, "port").(int64)
		return isEnd && isPort && end >= port
	},

	// Names.
	"!has(self.dns) || !has(self.dns.answer) || self.expect == 'Allow'": func(self any) bool {
		if count(self, "dns") == 0 {
			return isObject(self)
		}
		dns := at(self, "dns")
		return isObject(dns) && (count(dns, "answer") == 0 || at(self, "expect") == "Allow")
	},
	"!has(self.answer) || !has(self.answer.addresses) || ((!has(self.type) || self.type in ['A', 'AAAA']) && self.answer.addresses.all(a, !isIP(a) || ip(a).family() == (has(self.type) && self.type == 'AAAA' ? 6 : 4)))": func(self any) bool {
		answer := at(self, "answer")
		if count(self, "answer") == 0 || isObject(answer) && count(answer, "addresses") == 0 {
			return isObject(self)
		}
		return typed(self, "A", "AAAA") && all(at(answer, "addresses"), func(a any) bool {
			return address(a).IsValid() && address(a).Is6() == (at(self, "type") == "AAAA")
		})
	},
	"!has(self.answer) || !has(self.answer.cname) || !has(self.type) || self.type in ['A', 'AAAA', 'CNAME']": func(self any) bool {
		answer := at(self, "answer")
		if count(self, "answer") == 0 || isObject(answer) && count(answer, "cname") == 0 {
			return isObject(self)
		}
		return isObject(answer) && typed(self, "A", "AAAA", "CNAME")
	},
	"(has(self.addresses) ? 1 : 0) + (has(self.cname) ? 1 : 0) + (has(self.notFound) && self.notFound ? 1 : 0) == 1": func(self any) bool {
		n := count(self, "addresses", "cname")
		if count(self, "notFound") == 0 {
			return n == 1
		}
		notFound, ok := at(self, "notFound").(bool)
		return ok && (n == 1) != notFound && n < 2
	},

	// Settings.
	"!has(self.watchMilliseconds) || (has(self.mode) && self.mode == 'Resident')": func(self any) bool {
		return isObject(self) && (count(self, "watchMilliseconds") == 0 || at(self, "mode") == "Resident")
	},
}

// typed tells whether names of DNS have one of the types, or none.
func typed(dns any, types ...string) bool {
	t, ok := at(dns, "type").(string)
	return isObject(dns) && (count(dns, "type") == 0 || ok && slices.Contains(types, t))
}

// isObject tells whether a value is one that can have fields.
func isObject(v any) bool {
	_, ok := v.(map[string]any)
	return ok
}

func isInteger(v any) bool {
	_, ok := v.(int64)
	return ok
}

// at returns a field of an object, nil if there is none.
func at(v any, name string) any {
	m, _ := v.(map[string]any)
	return m[name]
}

// count returns how many of the fields an object has.
func count(v any, names ...string) int {
	m, _ := v.(map[string]any)
	n := 0
	for _, name := range names {
		if _, ok := m[name]; ok {
			n++
		}
	}
	return n
}

// length returns the number of entries of an object or a list, 0 of anything else.
func length(v any) int {
	switch v := v.(type) {
	case map[string]any:
		return len(v)
	case []any:
		return len(v)
	}
	return 0
}

// all tells whether a value is a list of which every item is as asked for.
func all(v any, is func(any) bool) bool {
	list, ok := v.([]any)
	for _, item := range list {
		ok = ok && is(item)
	}
	return ok
}

// qualified tells whether a value is the key of a label.
func qualified(v any) bool {
	key, ok := v.(string)
	return ok && len(validation.IsQualifiedName(key)) == 0
}

// address returns the address that a string is for CEL, an invalid one for others.
func address(v any) netip.Addr {
	text, _ := v.(string)
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return netip.Addr{}
	}
	return a
}

// prefix returns the range that a string is for CEL, an invalid one for others.
func prefix(v any) netip.Prefix {
	text, _ := v.(string)
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}
	}
	return p
}
