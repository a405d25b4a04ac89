package manifests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// lineCounter is a reader that can tell the line of an offset that was read.
// Offsets must be asked for in ascending order; what lies behind is forgotten, so
// that it stays as small as the reader's own buffer.
type lineCounter struct {
	in   io.Reader
	read int64
	// breaks are the offsets of the line breaks behind the last answer.
	breaks []int64
	line   int
}

// Read reads from the underlying reader and notes the line breaks.
func (c *lineCounter) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	for i, b := range p[:n] {
		if b == '\n' {
			c.breaks = append(c.breaks, c.read+int64(i))
		}
	}
	c.read += int64(n)
	return n, err
}

// at returns the line of an offset.
func (c *lineCounter) at(offset int64) int {
	i, _ := slices.BinarySearch(c.breaks, offset)
	c.line += i
	c.breaks = slices.Delete(c.breaks, 0, i)
	return c.line + 1
}

// jsonReader reads JSON objects from a stream, one after the other, and lists
// item by item: a list of a whole cluster is one value of hundreds of megabytes.
type jsonReader struct {
	file  string
	lines *lineCounter
	in    *json.Decoder
	emit  func(object) error
}

// errNotJSON means that the text is not JSON, though it may be YAML.
var errNotJSON = errors.New("is not JSON")

// splitJSON calls emit for every object of the stream.
func splitJSON(in io.Reader, file string, firstLine int, emit func(object) error) error {
	lines := &lineCounter{in: in, line: firstLine - 1}
	r := &jsonReader{file: file, lines: lines, in: json.NewDecoder(lines), emit: emit}
	for {
		token, err := r.in.Token()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return r.fail(err)
		case token != json.Delim('{'):
			return r.fail(errors.New("a JSON file holds objects, one after the other, each between { and }"))
		}
		if err := r.object(); err != nil {
			return err
		}
	}
}

// fail says on which line reading ended.
func (r *jsonReader) fail(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = errors.New("the JSON ends in the middle of an object")
	}
	offset := r.in.InputOffset()
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		offset = max(offset, syntax.Offset-1)
	}
	return &syntaxError{line: r.lines.at(offset), err: fmt.Errorf("%w: %w", errNotJSON, err)}
}

// syntaxError is an error with the line that it was found on.
type syntaxError struct {
	line int
	err  error
}

// Error returns the message without the line.
func (e *syntaxError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *syntaxError) Unwrap() error { return e.err }

// object reads one top-level object whose brace was read. Items are handed out as
// they come. Those without a kind of their own wait for that of the list, which
// may be written behind them.
func (r *jsonReader) object() error {
	first := r.lines.at(r.in.InputOffset() - 1)
	rest := bytes.NewBufferString("{")
	var list string
	var waiting []object
	isList := false
	for r.in.More() {
		token, err := r.in.Token()
		if err != nil {
			return r.fail(err)
		}
		key, _ := token.(string)
		line := r.lines.at(r.in.InputOffset() - 1)
		if key == "items" {
			if isList {
				return r.fail(errors.New("items is written twice: keep one"))
			}
			isList = true
			if waiting, err = r.items(); err != nil {
				return err
			}
			continue
		}
		var value json.RawMessage
		if err := r.in.Decode(&value); err != nil {
			return r.fail(err)
		}
		if key == "kind" {
			_ = json.Unmarshal(value, &list)
		}
		if rest.Len() > 1 {
			rest.WriteByte(',')
		}
		// Keeps the lines of the copy those of the original.
		for range line - first - bytes.Count(rest.Bytes(), []byte("\n")) {
			rest.WriteByte('\n')
		}
		name, _ := json.Marshal(key)
		rest.Write(name)
		rest.WriteByte(':')
		rest.Write(value)
	}
	if _, err := r.in.Token(); err != nil {
		return r.fail(err)
	}
	if rest.Len() > MaxDocument {
		return &syntaxError{line: first, err: fmt.Errorf("an object of more than %d MiB: split it", MaxDocument>>20)}
	}
	rest.WriteByte('}')
	o := object{place: Place{File: r.file, Line: first}, json: rest.Bytes(), text: rest.Bytes(), start: first}
	if !isList {
		return r.emit(o)
	}
	var meta typeMeta
	if err := json.Unmarshal(o.json, &meta); err != nil {
		return r.fail(err)
	}
	for _, item := range waiting {
		item.list = meta
		if err := r.emit(item); err != nil {
			return err
		}
	}
	return nil
}

// items reads the items of a list, and returns those that have no kind.
func (r *jsonReader) items() ([]object, error) {
	token, err := r.in.Token()
	switch {
	case err != nil:
		return nil, r.fail(err)
	case token == nil:
		return nil, nil
	case token != json.Delim('['):
		return nil, r.fail(errors.New("items must be a list"))
	}
	var waiting []object
	for i := 0; r.in.More(); i++ {
		var value json.RawMessage
		if err := r.in.Decode(&value); err != nil {
			return nil, r.fail(err)
		}
		line := r.lines.at(r.in.InputOffset() - int64(len(value)))
		o := object{place: Place{File: r.file, Line: line, Item: fmt.Sprintf("items[%d]", i)}, json: value, text: value, start: line}
		if len(value) > MaxDocument {
			return nil, &syntaxError{line: line, err: fmt.Errorf("an object of more than %d MiB: split it", MaxDocument>>20)}
		}
		var meta typeMeta
		if json.Unmarshal(value, &meta) == nil && meta.Kind == "" {
			waiting = append(waiting, o)
			continue
		}
		if err := r.emit(o); err != nil {
			return nil, err
		}
	}
	if _, err := r.in.Token(); err != nil {
		return nil, r.fail(err)
	}
	return waiting, nil
}
