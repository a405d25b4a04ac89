package schema

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"pgregory.net/rapid"
)

// texts returns the rules of the CRD.
func texts(t *testing.T) map[string]bool {
	t.Helper()
	v, err := New(crdFile)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	walk(v.structural, "$", nil, func(s *structuralschema.Structural, _ string, _ []any) {
		for _, x := range s.XValidations {
			out[x.Rule] = true
		}
	})
	return out
}

// A rule that is not known is compiled for every expectation, which makes each check
// pay for it.
func TestEveryRuleIsAcceptedWithoutCEL(t *testing.T) {
	rules := texts(t)
	if len(rules) < 20 {
		t.Fatalf("found %d rules: they are not where they are looked for", len(rules))
	}
	for rule := range rules {
		if _, ok := acceptance(rule); !ok {
			t.Errorf("say in accept.go what is sufficient for %s", rule)
		}
	}
	for rule := range sufficient {
		if !rules[rule] {
			t.Errorf("the CRD has no rule %s any more", rule)
		}
	}
}

// What is valid is mostly accepted, or knowing the rules is of no use.
func TestValidObjectsNeedNoCEL(t *testing.T) {
	v, err := New(crdFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range []string{
		path(fromBackend + ", " + toMongo + ", ports: [{port: 1, endPort: 2}, {protocol: UDP, port: dns}]"),
		path("from: {namespace: z, identity: {labels: {a.b/c: ''}}}, to: {podSelector: {matchExpressions: [{key: a, operator: In, values: [b]}]}, namespaceSelector: {matchLabels: {a: b}}}, " + tcp),
		path(fromBackend + ", to: {address: {cidr: 203.0.113.0/24, ips: [203.0.113.10]}}, " + tcp),
		path(fromBackend + ", to: {service: {name: x, namespace: z}}, ports: [{port: http}]"),
		path(fromBackend + ", dns: {names: [a.b.], type: AAAA, answer: {addresses: ['fd00::1']}}"),
		path(fromBackend + ", dns: {names: [a.b.], answer: {cname: c.d}}"),
		path(fromBackend + ", dns: {names: [a.b.], type: TXT, answer: {notFound: true}}"),
		path(fromBackend+", dns: {names: [a.b.]}") + "\nprobe: {mode: Resident, watchMilliseconds: 500}",
		manyPaths(64),
	} {
		if errs := v.Validate(t.Context(), expectation(t, spec)); len(errs) > 0 {
			t.Errorf("%s: %v", spec, errs)
		}
	}
	if sets := slices.Collect(maps.Keys(v.rules.compiled)); !slices.Equal(sets, []string{""}) {
		t.Errorf("compiled %q", sets)
	}
}

// The rules that are compiled say the same as all of them, of any object.
func TestAcceptanceAgreesWithCEL(t *testing.T) {
	v, err := New(crdFile)
	if err != nil {
		t.Fatal(err)
	}
	everything := cel.NewValidator(v.structural, true, celconfig.PerCallLimit)
	rapid.Check(t, func(t *rapid.T) {
		obj := drawSpec(t)
		want, _ := everything.Validate(t.Context(), nil, v.structural, obj, nil, celconfig.RuntimeCELCostBudget)
		// Once many objects were seen, everything is compiled.
		fresh := &rules{structural: v.structural, compiled: map[string][]*cel.Validator{}}
		got := fresh.validate(t.Context(), obj)
		if diff := cmp.Diff(sorted(want), sorted(got)); diff != "" {
			t.Errorf("of %v CEL says, and we say: %s", obj, diff)
		}
	})
}

// The test above shows nothing of a rule that accepts all that is drawn, or nothing.
func TestDrawnObjectsPutEveryRuleToTheTest(t *testing.T) {
	v, err := New(crdFile)
	if err != nil {
		t.Fatal(err)
	}
	accepting, asking := map[string]int{}, map[string]int{}
	draw, without := rapid.Custom(drawSpec), 0
	const objects = 1000
	for seed := range objects {
		obj := draw.Example(seed)
		undecided, asked := v.rules.undecided(obj), false
		walk(v.structural, "$", []any{obj}, func(s *structuralschema.Structural, _ string, values []any) {
			asked = asked || undecided(s, values)
			for _, x := range s.XValidations {
				accepts, _ := acceptance(x.Rule)
				for _, value := range values {
					if accepts(value) {
						accepting[x.Rule]++
					} else {
						asking[x.Rule]++
					}
				}
			}
		})
		if !asked {
			without++
		}
	}
	for rule := range texts(t) {
		if accepting[rule] < 3 || asking[rule] < 3 {
			t.Errorf("accepts %d values, and asks about %d: %s", accepting[rule], asking[rule], rule)
		}
	}
	if without < objects/5 {
		t.Errorf("%d of %d objects were accepted without CEL", without, objects)
	}
}

// CEL refuses what costs it too much, and must not be spared such an object.
func TestWhatIsAcceptedIsWithinTheBudgetOfCEL(t *testing.T) {
	v, err := New(crdFile)
	if err != nil {
		t.Fatal(err)
	}
	everything := cel.NewValidator(v.structural, true, celconfig.PerCallLimit)
	numbered := func(n int) map[string]any {
		m := map[string]any{}
		for i := range n {
			m[fmt.Sprint("k", i)] = "v"
		}
		return m
	}
	// Each is a way to make an object large, as large as it may be.
	for name, one := range map[string]map[string]any{
		"many paths":     {"paths": slices.Repeat([]any{map[string]any{"name": "p", "to": map[string]any{"host": "a"}, "ports": []any{}}}, 3000)},
		"many labels":    {"paths": []any{map[string]any{"to": map[string]any{"identity": map[string]any{"labels": numbered(4500)}}}}},
		"many names":     {"paths": []any{map[string]any{"dns": map[string]any{"names": slices.Repeat([]any{"a"}, 16600)}}}},
		"many answers":   {"paths": []any{map[string]any{"dns": map[string]any{"type": "AAAA", "answer": map[string]any{"addresses": slices.Repeat([]any{"::"}, 8300)}}}}},
		"a long name":    {"paths": []any{map[string]any{"to": map[string]any{"host": strings.Repeat("a", 33000)}}}},
		"many addresses": {"paths": []any{map[string]any{"to": map[string]any{"address": map[string]any{"cidr": "::/0", "ips": slices.Repeat([]any{"::"}, 8300)}}}}},
		"many ports":     {"paths": []any{map[string]any{"to": map[string]any{"service": map[string]any{"name": "x"}}, "ports": slices.Repeat([]any{map[string]any{"port": int64(1)}}, 7500)}}},
	} {
		t.Run(name, func(t *testing.T) {
			obj, sum := map[string]any{"spec": one}, 0
			walk(v.structural, "$", []any{obj}, func(_ *structuralschema.Structural, _ string, values []any) {
				for _, value := range values {
					n, _ := weight(value)
					sum += n
				}
			})
			if sum < maxWeight*9/10 || sum > maxWeight*11/10 {
				t.Errorf("has the weight %d, which shows little of what weighs %d", sum, maxWeight)
			}
			errs, left := everything.Validate(t.Context(), nil, v.structural, obj, nil, celconfig.RuntimeCELCostBudget)
			for _, err := range errs {
				if strings.Contains(err.Error(), "cost") {
					t.Errorf("CEL says %v", err)
				}
			}
			if used := celconfig.RuntimeCELCostBudget - left; used > celconfig.RuntimeCELCostBudget/10 {
				t.Errorf("CEL needs %d of %d", used, celconfig.RuntimeCELCostBudget)
			}
		})
	}
}

func sorted(list field.ErrorList) []string {
	out := []string{}
	for _, err := range list {
		out = append(out, err.Error())
	}
	slices.Sort(out)
	return out
}

// drawSpec draws an object with a spec, of which most fields are as they should be. It may be one
// that the structure of the schema refuses: what is said of the rules holds for these,
// too, as long as the types are right.
func drawSpec(t *rapid.T) map[string]any {
	// Some objects are well-formed throughout: few would be, by chance.
	d := drawing{t: t, good: rapid.Bool().Draw(t, "good")}
	spec := map[string]any{}
	var paths []any
	for range rapid.IntRange(0, 3).Draw(t, "paths") {
		paths = append(paths, d.path())
	}
	spec["paths"] = paths
	d.maybe(spec, "probe", func() any {
		probe := map[string]any{}
		d.maybe(probe, "watchMilliseconds", func() any { return int64(500) })
		if d.good && len(probe) > 0 {
			probe["mode"] = "Resident"
		} else {
			d.maybe(probe, "mode", func() any { return d.of([]any{"Resident", "OneShot"}) })
		}
		return probe
	})
	return map[string]any{"spec": spec}
}

type drawing struct {
	t    *rapid.T
	good bool
}

// maybe sets a field, or does not.
func (d drawing) maybe(m map[string]any, name string, value func() any) {
	if rapid.Bool().Draw(d.t, name) {
		m[name] = value()
	}
}

// of picks a value, bad ones less often.
func (d drawing) of(good []any, bad ...any) any {
	if len(bad) > 0 && !d.good && rapid.IntRange(0, 5).Draw(d.t, "bad") == 0 {
		return rapid.SampledFrom(bad).Draw(d.t, "bad value")
	}
	return rapid.SampledFrom(good).Draw(d.t, "value")
}

// several draws a list.
func (d drawing) several(least int, item func() any) []any {
	list := []any{}
	for range rapid.IntRange(least, 3).Draw(d.t, "items") {
		list = append(list, item())
	}
	return list
}

func (d drawing) name() any {
	return d.of([]any{"a", "web-1", strings.Repeat("n", 63)}, "A", "-a", "a.b", "", "a\n", "é", nil)
}

func (d drawing) key() any {
	return d.of([]any{"app", "a.b/c", strings.Repeat("k", 63)}, "a b", "/a", "A_/x", strings.Repeat("k", 64), strings.Repeat("p", 253)+"/"+strings.Repeat("k", 64), "", "é")
}

func (d drawing) labelValue() any {
	return d.of([]any{"", "v", "a_b.c"}, "-v", "v/w", "v\n", "é", nil)
}

func (d drawing) hostName() any {
	return d.of([]any{"a", "a.b.", "_sql._tcp.a-b"}, ".", "a..b", "-a", strings.Repeat("h", 64), "", nil)
}

func (d drawing) labels() any {
	m := map[string]any{}
	for _, key := range d.several(1, d.key) {
		m[key.(string)] = d.labelValue()
	}
	return m
}

func (d drawing) selector() any {
	s := map[string]any{}
	if !d.good {
		d.maybe(s, "matchLabels", func() any { return d.of([]any{d.labels()}, map[string]any{}, nil) })
	} else {
		s["matchLabels"] = d.labels()
	}
	d.maybe(s, "matchExpressions", func() any {
		return d.several(0, func() any {
			operator := d.of([]any{"In", "NotIn", "Exists", "DoesNotExist"}, "Like")
			e := map[string]any{"key": d.key(), "operator": operator}
			if takes := operator == "In" || operator == "NotIn"; d.good && takes || !d.good && rapid.Bool().Draw(d.t, "values") {
				least := 0
				if d.good {
					least = 1
				}
				e["values"] = d.several(least, d.labelValue)
			}
			return e
		})
	})
	return s
}

func (d drawing) end(kinds map[string]func() any) map[string]any {
	end := map[string]any{}
	names := slices.Sorted(maps.Keys(kinds))
	chosen := rapid.SampledFrom(names).Draw(d.t, "kind")
	end[chosen] = kinds[chosen]()
	if !d.good {
		for _, name := range names {
			if rapid.IntRange(0, 9).Draw(d.t, "another") == 0 {
				end[name] = kinds[name]()
			}
		}
		if rapid.IntRange(0, 9).Draw(d.t, "none") == 0 {
			delete(end, chosen)
		}
	}
	return end
}

func (d drawing) address() any {
	a := map[string]any{"ips": d.several(1, func() any {
		return d.of([]any{"203.0.113.10", "203.0.113.11"}, "198.51.100.1", "2001:db8::1", "::ffff:203.0.113.10", "fe80::1%eth0", "203.0.113", "")
	})}
	d.maybe(a, "cidr", func() any {
		return d.of([]any{"203.0.113.0/24", "0.0.0.0/0"}, "203.0.113.7/24", "203.0.113.0", "::/0", "::ffff:0.0.0.0/96", "")
	})
	return a
}

// answer draws what names have to resolve to, in the good case as records of the type can.
func (d drawing) answer(qtype any) any {
	kinds := map[string]func() any{"notFound": func() any { return d.of([]any{true}, false) }}
	if qtype != "TXT" || !d.good {
		kinds["cname"] = d.hostName
	}
	switch {
	case qtype == nil || qtype == "A" || !d.good:
		kinds["addresses"] = func() any {
			return d.several(1, func() any {
				return d.of([]any{"203.0.113.10", "203.0.113.11"}, "2001:db8::1", "::ffff:203.0.113.10", "203.0.113", "")
			})
		}
	case qtype == "AAAA":
		kinds["addresses"] = func() any { return d.several(1, func() any { return d.of([]any{"2001:db8::1", "fd00::1"}) }) }
	}
	return d.end(kinds)
}

func (d drawing) path() any {
	selector, identity := d.selector, func() any { return map[string]any{"labels": d.labels()} }
	p := map[string]any{"name": d.name(), "expect": d.of([]any{"Allow"}, "Deny"), "from": d.end(map[string]func() any{"podSelector": selector, "identity": identity})}
	if rapid.IntRange(0, 3).Draw(d.t, "dns") == 0 {
		dns := map[string]any{"names": d.several(1, d.hostName)}
		d.maybe(dns, "type", func() any { return d.of([]any{"A", "AAAA", "CNAME", "TXT"}) })
		d.maybe(dns, "answer", func() any { return d.answer(dns["type"]) })
		p["dns"] = dns
		if d.good {
			return p
		}
	}
	to := d.end(map[string]func() any{
		"podSelector": selector, "identity": identity, "host": d.hostName, "address": d.address,
		"service": func() any { return map[string]any{"name": d.name(), "namespace": d.name()} },
	})
	if _, pods := to["podSelector"]; pods || !d.good {
		d.maybe(to, "namespace", d.name)
		if _, both := to["namespace"]; !both || !d.good {
			d.maybe(to, "namespaceSelector", selector)
		}
	}
	d.maybe(to, "via", func() any {
		_, pods := to["podSelector"]
		if _, service := to["service"]; pods || service {
			return d.of([]any{"Auto", "Endpoint", "StandIn"}, "Proxy")
		}
		return d.of([]any{"Auto"}, "Endpoint", "StandIn")
	})
	if rapid.IntRange(0, 9).Draw(d.t, "to") > 0 || d.good {
		p["to"] = to
	}
	if rapid.IntRange(0, 9).Draw(d.t, "ports") > 0 || d.good {
		p["ports"] = d.several(1, func() any { return d.port(to) })
	}
	return p
}

func (d drawing) port(to map[string]any) any {
	named := count(to, "identity", "address", "host") == 0 || !d.good
	port := map[string]any{"port": d.of([]any{int64(80), int64(65535)}, int64(0), int64(65536), "80", "", "Http", strings.Repeat("x", 16))}
	if named && rapid.IntRange(0, 3).Draw(d.t, "named") == 0 {
		port["port"] = "http"
	}
	if _, number := port["port"].(int64); count(to, "service") == 0 && number || !d.good {
		d.maybe(port, "endPort", func() any { return d.of([]any{int64(65535)}, int64(1), int64(79)) })
	}
	return port
}
