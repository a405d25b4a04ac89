package matrix

import (
	"bufio"
	"encoding/csv"
	"io"
	"strconv"
)

// CSV writes one line for each source, target and port, with the reason.
func (m *Matrix) CSV(out io.Writer) error {
	buffer := bufio.NewWriterSize(out, 1<<16)
	w := csv.NewWriter(buffer)
	_ = w.Write([]string{"from", "to", "protocol", "port", "verdict", "reason"})
	record := make([]string, 6)
	names := make([]string, len(m.Rows))
	for i := range m.Rows {
		names[i] = m.Rows[i].String()
	}
	for from := range m.Rows {
		for to := range m.Rows {
			for i, p := range m.Rows[to].Ports {
				record[0], record[1] = names[from], names[to]
				record[2], record[3] = string(p.Protocol), strconv.Itoa(int(p.Number))
				record[4], record[5] = m.Verdict(from, to, i).String(), m.Why(from, to, i)
				if err := w.Write(record); err != nil {
					return err
				}
			}
		}
	}
	w.Flush()
	if err := w.Error(); err != nil {
		return err
	}
	return buffer.Flush()
}
