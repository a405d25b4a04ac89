package diagnosis

import (
	"encoding/json"
	"io"
)

// JSON writes the report for programs. Its fields are documented in docs/doctor.md.
func (r *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
