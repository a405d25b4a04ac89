package manifests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"
)

// maxExpanded bounds what the aliases of a document may expand to, in bytes. The
// library's own limit counts nodes, so that a thousand aliases of one long text
// pass it and need gigabytes.
const maxExpanded = 16 << 20

// toJSON converts a YAML document the way kubectl does, so that what is a boolean
// there is one here. A key that is written twice is an error.
func toJSON(text []byte) ([]byte, error) {
	if err := checkAliases(text); err != nil {
		return nil, err
	}
	convert := yaml.YAMLToJSONStrict
	if bytes.Contains(text, []byte("<<")) {
		// The strict conversion takes a key that overrides a merged one for written twice. What
		// the other parser does not understand, the strict conversion is left to judge.
		if root := parseNode(text); root != nil {
			if err := checkDoubled(root); err != nil {
				return nil, err
			}
			convert = yaml.YAMLToJSON
		}
	}
	js, err := convert(text)
	if err != nil {
		return nil, yamlError(text, err)
	}
	return js, checkEnd(text)
}

// checkDoubled refuses mappings in which a key is written twice. Merged keys are not written
// there.
func checkDoubled(n *yamlv3.Node) error {
	seen := map[string]bool{}
	for i, child := range n.Content {
		if n.Kind == yamlv3.MappingNode && i%2 == 0 && child.Kind == yamlv3.ScalarNode && child.Tag != "!!merge" {
			if seen[child.Value] {
				return &syntaxError{line: child.Line, err: fmt.Errorf("cannot be parsed as YAML: key %q already set in map", child.Value)}
			}
			seen[child.Value] = true
		}
		if err := checkDoubled(child); err != nil {
			return err
		}
	}
	return nil
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

// yamlError takes the line out of the library's message, and adds what the text
// was probably meant to be.
func yamlError(text []byte, err error) error {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	message = strings.TrimPrefix(message, "unmarshal errors:\n")
	line := 0
	if m := yamlLine.FindStringSubmatchIndex(message); m != nil {
		line, _ = strconv.Atoi(message[m[2]:m[3]])
		message = message[:m[0]] + message[m[1]:]
	}
	message = "cannot be parsed as YAML: " + strings.Join(strings.Fields(message), " ")
	switch {
	case bytes.Contains(text, []byte("{{")):
		message += ": it looks like a template; render it first: helm template DIR | pathproof ... -f -"
	case strings.Contains(message, "found character that cannot start any token") && bytes.Contains(text, []byte("\t")):
		message += ": indent with spaces, not with tabs"
	}
	return &syntaxError{line: line, err: errors.New(message)}
}

// checkEnd finds what the conversion ignores: text behind the end of a document
// that is one flow mapping, as in a file of JSON objects without separators.
func checkEnd(text []byte) error {
	if c := firstByte(text); c != '{' && c != '[' {
		// Block collections end where the text does.
		return nil
	}
	d := yamlv3.NewDecoder(bytes.NewReader(text))
	var n yamlv3.Node
	if err := d.Decode(&n); err != nil {
		return nil //nolint:nilerr // the text was parsed once already, and the other parser only looks for more
	}
	if err := d.Decode(&n); !errors.Is(err, io.EOF) {
		return errors.New("something follows the end of the object: begin each document with a line ---")
	}
	return nil
}

// firstByte returns the first byte that is neither space nor comment nor marker; 0
// if there is none.
func firstByte(text []byte) byte {
	for line := range bytes.Lines(text) {
		if isMarker(line, "---") {
			line = line[3:]
		}
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && line[0] != '%' {
			return line[0]
		}
	}
	return 0
}

// checkAliases refuses documents whose aliases expand to more than any manifest
// needs, and those that contain themselves. The size is computed on the graph
// that the parser makes, in which an alias takes no space.
func checkAliases(text []byte) error {
	if bytes.IndexByte(text, '&') < 0 || bytes.IndexByte(text, '*') < 0 {
		return nil
	}
	var root yamlv3.Node
	if err := yamlv3.Unmarshal(text, &root); err != nil {
		// The conversion finds the same, in the words that users know.
		return nil //nolint:nilerr // see above
	}
	w := weigher{sizes: map[*yamlv3.Node]int{}, limit: maxExpanded + len(text)}
	if w.weigh(&root) > w.limit {
		return &syntaxError{line: w.line, err: fmt.Errorf("the aliases of this document expand to more than %d MiB: write out what it means", maxExpanded>>20)}
	}
	return nil
}

// weigher computes how large nodes are when their aliases are written out.
type weigher struct {
	// sizes holds what is known; a node that is being computed is over the limit,
	// which is what a node inside of itself is.
	sizes map[*yamlv3.Node]int
	limit int
	// line is that of the first node over the limit.
	line int
}

func (w *weigher) weigh(n *yamlv3.Node) int {
	if size, ok := w.sizes[n]; ok {
		return size
	}
	w.sizes[n] = w.limit + 1
	size := len(n.Value) + 8
	if n.Alias != nil {
		size = w.weigh(n.Alias)
	}
	for _, child := range n.Content {
		size = min(size+w.weigh(child), w.limit+1)
	}
	if size > w.limit && w.line == 0 {
		w.line = n.Line
	}
	w.sizes[n] = size
	return size
}

// lineOf finds the line of a field in the text of an object, and its value if it
// is a scalar; 0 if the text cannot be read. The path is that of strict decoding:
// spec.ports[0].name.
func lineOf(text []byte, path string) (line int, value string) {
	root := parseNode(text)
	if root == nil {
		return 0, ""
	}
	return find(root, path, 0)
}

// parseNode parses a text into a tree that knows its lines; nil if it cannot. That
// costs as much as decoding, so it is done for objects with mistakes only.
func parseNode(text []byte) *yamlv3.Node {
	var root yamlv3.Node
	if err := yamlv3.Unmarshal(text, &root); err != nil || len(root.Content) == 0 {
		return nil
	}
	return root.Content[0]
}

// find walks down the path and returns the line of the last field on it that
// exists, with its value if it is a scalar.
func find(n *yamlv3.Node, path string, line int) (int, string) {
	if path == "" {
		if line == 0 {
			line = n.Line
		}
		return line, n.Value
	}
	if rest, ok := strings.CutPrefix(path, "["); ok {
		number, rest, _ := strings.Cut(rest, "]")
		i, err := strconv.Atoi(number)
		if err != nil || n.Kind != yamlv3.SequenceNode || i < 0 || i >= len(n.Content) {
			return line, ""
		}
		return find(n.Content[i], rest, n.Content[i].Line)
	}
	path = strings.TrimPrefix(path, ".")
	if n.Kind != yamlv3.MappingNode {
		return line, ""
	}
	// Keys may hold dots, as those of labels do: the longest that fits is meant.
	best := -1
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i].Value
		rest, ok := strings.CutPrefix(path, key)
		if ok && (rest == "" || rest[0] == '.' || rest[0] == '[') && (best < 0 || len(key) > len(n.Content[best].Value)) {
			best = i
		}
	}
	if best < 0 {
		return line, ""
	}
	return find(n.Content[best+1], path[len(n.Content[best].Value):], n.Content[best].Line)
}

// pathAt returns the path of the JSON value that ends at the offset, or holds it.
func pathAt(js []byte, offset int64) string {
	d := json.NewDecoder(bytes.NewReader(js))
	// Each open collection is the path up to it, and for a list the next index.
	type level struct {
		path  string
		index int
		list  bool
		key   string
		isKey bool
	}
	var stack []level
	current := func() string {
		if len(stack) == 0 {
			return ""
		}
		top := stack[len(stack)-1]
		if top.list {
			return fmt.Sprintf("%s[%d]", top.path, top.index)
		}
		return strings.TrimPrefix(top.path+"."+top.key, ".")
	}
	for {
		token, err := d.Token()
		if err != nil {
			return ""
		}
		path := current()
		delim, isDelim := token.(json.Delim)
		if len(stack) > 0 && (!isDelim || delim == '{' || delim == '[') {
			top := &stack[len(stack)-1]
			if !top.list && top.isKey {
				top.key, _ = token.(string)
				top.isKey = false
				continue
			}
		}
		if d.InputOffset() >= offset {
			return path
		}
		switch {
		case isDelim && (delim == '{' || delim == '['):
			stack = append(stack, level{path: path, list: delim == '[', isKey: delim == '{'})
			continue
		case isDelim:
			stack = stack[:len(stack)-1]
		}
		if len(stack) > 0 {
			top := &stack[len(stack)-1]
			top.index++
			top.isKey = true
		}
	}
}
