package manifests

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// MaxDocument bounds one document, and one item of a JSON list. What a YAML
// document becomes in memory is many times its text. JSON lists have no bound:
// they are read item by item.
const MaxDocument = 32 << 20

// document is the text of one YAML document.
type document struct {
	place Place
	// start is the line of the first byte of text, which may be a comment; the
	// place is that of the first content.
	start int
	text  []byte
	// tooLarge documents have no text.
	tooLarge bool
}

// splitter cuts a stream of YAML into documents. It knows just enough of YAML to
// find their ends: "---" and "..." at the start of a line. In particular, what
// follows "..." is a document of its own, which YAML libraries ignore.
type splitter struct {
	file string
	emit func(document) error
	line int
	doc  document
	// hasContent is set when the document holds more than comments and directives.
	hasContent, hasDirective bool
}

// splitYAML calls emit for every document of the stream that is not empty.
func splitYAML(in *bufio.Reader, file string, emit func(document) error) error {
	s := &splitter{file: file, emit: emit}
	s.reset()
	for {
		line, err := in.ReadSlice('\n')
		// A line longer than the buffer comes in pieces, and only the first of them
		// can hold a marker.
		if len(line) > 0 {
			s.line++
			if err := s.take(line); err != nil {
				return err
			}
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			line, err = in.ReadSlice('\n')
			s.append(line)
		}
		if errors.Is(err, io.EOF) {
			return s.flush()
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", file, err)
		}
	}
}

// take adds a line to the document, or ends the document there.
func (s *splitter) take(line []byte) error {
	begins, ends := isMarker(line, "---"), isMarker(line, "...")
	// Directives belong to the document behind the marker that follows them.
	if (begins && (s.hasContent || !s.hasDirective)) || ends {
		if err := s.flush(); err != nil {
			return err
		}
	}
	if ends {
		return nil
	}
	if i := bytes.IndexByte(line, '\r'); i >= 0 && i+1 < len(line) && line[i+1] != '\n' {
		// To YAML it ends a line, and what follows could be another document.
		return &syntaxError{line: s.line, err: errors.New("lines end with a carriage return alone: save the file with the line ends of Unix")}
	}
	if len(s.doc.text) == 0 {
		s.doc.start = s.line
	}
	content := bytes.TrimSpace(line)
	if begins {
		content = bytes.TrimSpace(content[3:])
	}
	switch {
	case len(content) == 0 || content[0] == '#':
	case line[0] == '%' && !s.hasContent:
		s.hasDirective = true
	case !s.hasContent:
		s.hasContent = true
		s.doc.place.Line = s.line
	}
	s.append(line)
	return nil
}

func (s *splitter) append(line []byte) {
	switch {
	case s.doc.tooLarge:
	case len(s.doc.text)+len(line) > MaxDocument:
		s.doc.tooLarge, s.doc.text = true, nil
	default:
		s.doc.text = append(s.doc.text, line...)
	}
}

// flush hands out the document, if it has content, and begins the next one.
func (s *splitter) flush() error {
	defer s.reset()
	if !s.hasContent {
		return nil
	}
	return s.emit(s.doc)
}

func (s *splitter) reset() {
	s.doc = document{place: Place{File: s.file}}
	s.hasContent, s.hasDirective = false, false
}

// isMarker tells whether a line is the marker, alone or with something behind it.
func isMarker(line []byte, marker string) bool {
	rest, ok := bytes.CutPrefix(line, []byte(marker))
	return ok && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\r\n"), rest[0]) >= 0)
}
