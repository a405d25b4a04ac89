package manifests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
)

// typeMeta is what tells the kind of an object.
type typeMeta struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

// object is one object before it is decoded.
type object struct {
	place Place
	json  []byte
	// text is what the object was written in, from line start on; path is where in
	// it. They serve to find the lines of mistakes.
	text  []byte
	start int
	path  string
	// list is the type of the list that the object is an item of.
	list typeMeta
}

// parsed is what became of an object: one of them is set.
type parsed struct {
	place   Place
	meta    typeMeta
	kind    *kind
	object  metav1.Object
	json    []byte
	lines   map[string]int
	skip    string
	skipped bool
	// cloud is what a skipped policy is to the evaluator; nil for other objects.
	cloud *evaluator.Unmodelled
	// problems do not exclude an object.
	problems []Problem
}

// parse decodes a document into objects. It does not fail: what is wrong is in the
// problems of what it returns.
func (d document) parse() []parsed {
	if d.tooLarge {
		return []parsed{failed(d.place, fmt.Sprintf("the document is larger than %d MiB: split it, or write it as JSON, which is read item by item", MaxDocument>>20))}
	}
	if firstByte(d.text) == '{' {
		var out []parsed
		err := splitJSON(bytes.NewReader(afterMarker(d.text)), d.place.File, d.start, func(o object) error {
			out = append(out, o.parse()...)
			return nil
		})
		if err == nil {
			return out
		}
	}
	js, err := toJSON(d.text)
	if err != nil {
		place := d.place
		if syntax := (*syntaxError)(nil); errors.As(err, &syntax) && syntax.line > 0 {
			place.Line = d.start + syntax.line - 1
		}
		return []parsed{failed(place, err.Error())}
	}
	return object{place: d.place, json: js, text: d.text, start: d.start}.parse()
}

// afterMarker returns the text without a leading "---".
func afterMarker(text []byte) []byte {
	if isMarker(text, "---") {
		return text[3:]
	}
	return text
}

func failed(place Place, message string) parsed {
	return parsed{place: place, problems: []Problem{{Place: place, Message: message}}}
}

// head is what tells what an object is.
type head struct {
	typeMeta
	Items     []json.RawMessage `json:"items"`
	Resources json.RawMessage   `json:"resources"`
}

// parse decodes an object, or the items of a list.
func (o object) parse() []parsed {
	var h head
	if err := json.Unmarshal(o.json, &h); err != nil {
		var mistyped *json.UnmarshalTypeError
		if !errors.As(err, &mistyped) || mistyped.Field == "" {
			return []parsed{failed(o.place, "is not a Kubernetes object: write apiVersion, kind and metadata")}
		}
		// Kinds may have items of their own that are no list, unless they are lists.
		if mistyped.Field != "items" || h.isKnownList() {
			return []parsed{o.failed(h.typeMeta, mistyped)}
		}
	}
	if h.Kind == "" && o.list.Kind != "" {
		h.APIVersion, h.Kind = itemsOf(o.list)
	}
	switch {
	case h.isKustomization():
		return []parsed{{place: o.place, meta: typeMeta{h.APIVersion, "Kustomization"}, skipped: true, skip: "kustomize build DIR | pathproof ... -f -"}}
	case h.Kind == "" && h.APIVersion == "" && len(bytes.TrimSpace(o.json)) <= len("null"):
		// {} and null are what templates leave behind.
		return nil
	case h.Kind == "":
		return []parsed{failed(o.place, "has no kind, so it is not a Kubernetes object: write apiVersion and kind, or keep it out of what is read "+
			"(for a Helm chart: helm template DIR | pathproof ... -f -)")}
	case h.APIVersion == "":
		return []parsed{failed(o.place, "has no apiVersion: write it above kind")}
	case !strings.HasSuffix(h.Kind, "List"):
	case h.Items != nil:
		return o.items(h.typeMeta, h.Items)
	case h.isKnownList():
		if field := o.notOfList(); field != "" {
			return []parsed{failed(o.line(field), fmt.Sprintf("%s has no field %s: what it holds is below items", h.Kind, field))}
		}
		return nil
	}
	return []parsed{o.decode(h.typeMeta)}
}

// isKustomization tells whether the object is a file of kustomize. They may leave
// out what they are.
func (h *head) isKustomization() bool {
	return h.Kind == "Kustomization" || (h.Kind == "Component" && strings.HasPrefix(h.APIVersion, "kustomize.")) ||
		(h.Kind == "" && h.APIVersion == "" && h.Resources != nil)
}

// isKnownList tells whether an object is a List, or a list of a known kind.
func (h *head) isKnownList() bool {
	if !strings.HasSuffix(h.Kind, "List") {
		return false
	}
	apiVersion, item := itemsOf(h.typeMeta)
	return item == "" || kinds[typeMeta{apiVersion, item}] != nil
}

// notOfList returns a field that no list has; empty if there is none. It is most likely
// misspelt, and what is below it must not get lost.
func (o object) notOfList() string {
	var fields map[string]json.RawMessage
	_ = json.Unmarshal(o.json, &fields) // it was decoded before
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains([]string{"apiVersion", "kind", "metadata", "items"}, field) {
			return field
		}
	}
	return ""
}

// itemsOf returns the type of the items of a typed list; List itself says nothing
// about its items.
func itemsOf(list typeMeta) (apiVersion, kind string) {
	return list.APIVersion, strings.TrimSuffix(list.Kind, "List")
}

// maxListDepth bounds lists of lists, which nobody writes.
const maxListDepth = 4

func (o object) items(meta typeMeta, items []json.RawMessage) []parsed {
	if strings.Count(o.path, "items[") >= maxListDepth {
		return []parsed{failed(o.place, "is a list of lists of lists: write the objects one below the other")}
	}
	var out []parsed
	for i, item := range items {
		child := o
		child.json, child.list = item, meta
		child.path = strings.TrimPrefix(fmt.Sprintf("%s.items[%d]", o.path, i), ".")
		child.place.Item = child.path
		out = append(out, child.parse()...)
	}
	return out
}

// decode decodes an object of a known kind, strictly, and skips others.
func (o object) decode(meta typeMeta) parsed {
	out := parsed{place: o.place, meta: meta}
	k := kinds[meta]
	if k == nil {
		if right := otherVersion(meta); right != "" {
			return failed(o.line("apiVersion"), fmt.Sprintf("%s of apiVersion %s is not read: write apiVersion: %s", meta.Kind, meta.APIVersion, right))
		}
		out.skipped = true
		if policy, ok := policyKind(meta); ok {
			out.cloud = new(policy.Clouds(o.identity()))
		}
		return out
	}
	obj := k.empty()
	strict, err := kjson.UnmarshalStrict(o.json, obj)
	if err != nil {
		return o.failed(meta, err)
	}
	out.kind, out.object = k, obj
	name := describe(meta.Kind, obj)
	for _, e := range strict {
		field, message := "", e.Error()
		if f := kjson.FieldError(nil); errors.As(e, &f) {
			field = f.FieldPath()
		}
		if strings.HasPrefix(message, "unknown field") {
			message += ": " + meta.Kind + " has no such field; check its spelling and its indentation"
		}
		out.problems = append(out.problems, Problem{Place: o.line(field), Object: name, Message: message})
	}
	switch {
	case obj.GetName() == "" && obj.GetGenerateName() != "":
		out.problems = append(out.problems, Problem{Place: o.place, Object: name, Message: "has generateName only: write metadata.name"})
	case obj.GetName() == "":
		out.problems = append(out.problems, Problem{Place: o.place, Object: name, Message: "has no name: write metadata.name"})
	}
	if e, ok := obj.(*v1alpha1.ConnectivityExpectation); ok {
		out.json, out.lines = o.json, pathLines(o, e)
	}
	return out
}

// identity returns namespace and name of an object of an unknown kind, as far as it
// has any.
func (o object) identity() (namespace, name string) {
	var h struct {
		Metadata struct{ Namespace, Name string } `json:"metadata"`
	}
	// What is no metadata names nothing: the object then applies everywhere.
	_ = json.Unmarshal(o.json, &h)
	if h.Metadata.Name == "" {
		h.Metadata.Name = "without a name"
	}
	return h.Metadata.Namespace, h.Metadata.Name
}

// failed reports what the decoder refused.
func (o object) failed(meta typeMeta, err error) parsed {
	var mistyped *json.UnmarshalTypeError
	if !errors.As(err, &mistyped) {
		return failed(o.place, "cannot be decoded: "+err.Error())
	}
	path := pathAt(o.json, mistyped.Offset)
	if path == "" {
		path = mistyped.Field
	}
	place := o.line(path)
	_, written := lineOf(o.text, joinPath(o.path, path))
	message := fmt.Sprintf("%s is of the wrong type: it is %s, and must be %s", path, valueName(mistyped.Value), typeName(mistyped.Type))
	isScalar := mistyped.Value == "bool" || strings.HasPrefix(mistyped.Value, "number")
	if isScalar && mistyped.Type != nil && mistyped.Type.Kind() == reflect.String {
		message = fmt.Sprintf("%s must be text, and YAML reads what is written there as a %s: quote it", path, strings.Fields(mistyped.Value)[0])
		if written != "" {
			message = fmt.Sprintf("%s must be text, and YAML reads %s as a %s: quote it, as in %q", path, written, strings.Fields(mistyped.Value)[0], written)
		}
		if mistyped.Value == "bool" {
			message += " (y, yes, on, n, no, off, true and false are booleans)"
		}
	}
	out := failed(place, message)
	if meta.Kind != "" {
		out.problems[0].Object = meta.Kind
	}
	return out
}

// valueName names what JSON calls a value as YAML does.
func valueName(json string) string {
	name, _, _ := strings.Cut(json, " ")
	switch name {
	case "object":
		return "a mapping"
	case "array":
		return "a list"
	case "string":
		return "text"
	}
	return "a " + name
}

// typeName names a type for people.
func typeName(t reflect.Type) string {
	if t == nil {
		return "something else"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "text"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map, reflect.Struct, reflect.Pointer:
		return "a mapping"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64:
		return "a number"
	default:
		return "a " + t.String()
	}
}

// line returns the place of a field of the object.
func (o object) line(field string) Place {
	place := o.place
	if line, _ := lineOf(o.text, joinPath(o.path, field)); line > 0 {
		place.Line = o.start + line - 1
	}
	return place
}

func joinPath(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "." + b
}

// describe names an object as in NetworkPolicy production/web.
func describe(kind string, o metav1.Object) string {
	name := o.GetName()
	if name == "" {
		name = "without a name"
	} else if o.GetNamespace() != "" {
		name = o.GetNamespace() + "/" + name
	}
	return kind + " " + name
}

// pathLines finds the lines of the paths of an expectation.
func pathLines(o object, e *v1alpha1.ConnectivityExpectation) map[string]int {
	root := parseNode(o.text)
	if root == nil {
		return nil
	}
	lines := map[string]int{}
	for i := range e.Spec.Paths {
		if line, _ := find(root, joinPath(o.path, fmt.Sprintf("spec.paths[%d]", i)), 0); line > 0 {
			lines[e.Spec.Paths[i].Name] = o.start + line - 1
		}
	}
	return lines
}
