package matrix

import (
	"bufio"
	"io"
	"strconv"
	"strings"
)

// CSV writes one line for each source, target and port, with the reason. (Tables of
// a thousand pods have millions of lines; encoding/csv looks for more than can be in
// these fields, and took half of the time.)
func (m *Matrix) CSV(out io.Writer) error {
	w := bufio.NewWriterSize(out, 1<<16)
	_, _ = w.WriteString("from,to,protocol,port,verdict,reason\n")
	names := make([]string, len(m.Rows))
	for i := range m.Rows {
		names[i] = string(appendField(nil, m.Rows[i].String()))
	}
	var line []byte
	for from := range m.Rows {
		for to := range m.Rows {
			for i, p := range m.Rows[to].Ports {
				line = append(append(append(append(line[:0], names[from]...), ','), names[to]...), ',')
				line = append(append(line, p.Protocol...), ',')
				line = append(strconv.AppendUint(line, uint64(p.Number), 10), ',')
				line = append(append(line, m.Verdict(from, to, i).String()...), ',')
				line = append(appendField(line, m.Why(from, to, i)), '\n')
				// What could not be written is known in the end, but not worth going on for.
				if _, err := w.Write(line); err != nil {
					return err
				}
			}
		}
	}
	return w.Flush()
}

// appendField appends a field, in quotes if it needs them (RFC 4180).
func appendField(line []byte, field string) []byte {
	if strings.IndexByte(field, ',') < 0 && strings.IndexByte(field, '"') < 0 && strings.IndexByte(field, '\n') < 0 && strings.IndexByte(field, '\r') < 0 {
		return append(line, field...)
	}
	line = append(line, '"')
	line = append(line, strings.ReplaceAll(field, `"`, `""`)...)
	return append(line, '"')
}
