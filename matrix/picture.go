package matrix

import (
	"encoding/xml"
	"fmt"
	"strings"
)

// MaxPicture is the most rows of a picture: with more, each of which has as many
// cells with their reasons, no viewer is of use any more.
const MaxPicture = 200

// TooBigError is the error of a picture that would have too many rows.
type TooBigError struct {
	Rows int
}

// Error says how many rows there are.
func (e *TooBigError) Error() string {
	return fmt.Sprintf("a picture has at most %d rows, and this one would have %d", MaxPicture, e.Rows)
}

// pictured tells whether the table can be a picture.
func (m *Matrix) pictured() error {
	if len(m.Rows) > MaxPicture {
		return &TooBigError{Rows: len(m.Rows)}
	}
	return nil
}

// escape makes any text a part of XML and of HTML, be it an attribute or content.
func escape(text string) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`<>&"'`, r) }) {
		return text
	}
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text))
	return b.String()
}

// classes name the states in style sheets, and as the identifiers of symbols.
var classes = [states]string{NotAsked: "n", Allowed: "a", Denied: "d", Undefined: "u", Mixed: "m"}

// The colours are from the palette of Okabe and Ito, which people tell apart
// whatever colours they see; denied is pale and allowed dark, so that a print in
// grey is readable, too.
const (
	allowedColor   = "#00785a"
	deniedColor    = "#b34700"
	deniedBack     = "#fbe6d8"
	undefinedColor = "#4a4a6a"
	undefinedBack  = "#e4e4f2"
)
