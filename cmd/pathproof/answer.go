package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/explain"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/manifests"
	"github.com/pathproof/pathproof/plan"
)

// answerer answers flows. Any number of workers may share it.
type answerer struct {
	engine *evaluator.Engine
	names  *manifests.Names
}

// question is a flow as it is asked for.
type question struct {
	ID       string          `json:"id"`
	From     string          `json:"from"`
	To       string          `json:"to"`
	Protocol string          `json:"protocol"`
	Port     json.RawMessage `json:"port"`
}

// worker answers flows one after the other, with one decoder and one buffer.
type worker struct {
	*answerer
	source  lineReader
	decoder *json.Decoder
	asked   question
}

func newWorker(a *answerer) *worker {
	w := &worker{answerer: a}
	w.decoder = json.NewDecoder(&w.source)
	// A field that is misspelt would be a flow that was not asked for.
	w.decoder.DisallowUnknownFields()
	return w
}

// line appends the answer to one line, and tells whether it is one.
func (w *worker) line(out, line []byte, number int) ([]byte, bool) {
	if line[0] != '{' || !json.Valid(line) {
		return appendError(out, "", number, "the line is not a JSON object: write one flow a line"), false
	}
	w.source.line = line
	port := w.asked.Port[:0]
	w.asked = question{Port: port}
	if err := w.decoder.Decode(&w.asked); err != nil {
		return appendError(out, w.asked.ID, number, mistake(err)), false
	}
	d, err := w.decide(&w.asked)
	if err != nil {
		return appendError(out, w.asked.ID, 0, err.Error()), false
	}
	return appendAnswer(out, w.asked.ID, d), true
}

// mistake says what is wrong with a flow that is JSON.
func mistake(err error) string {
	var mistyped *json.UnmarshalTypeError
	if errors.As(err, &mistyped) {
		return fmt.Sprintf("%s must be a string, and is a %s", mistyped.Field, mistyped.Value)
	}
	return strings.TrimPrefix(err.Error(), "json: ") + ": a flow has id, from, to, protocol and port"
}

// decide predicts a flow. It fails if the flow names something unknown.
func (w *worker) decide(q *question) (evaluator.Decision, error) {
	protocol := flow.TCP
	if q.Protocol != "" {
		protocol = flow.Protocol(strings.ToUpper(q.Protocol))
	}
	port, err := parsePort(q.Port)
	if err != nil {
		return evaluator.Decision{}, err
	}
	from, err := w.names.Source(q.From)
	if err != nil {
		return evaluator.Decision{}, fmt.Errorf("from: %w", err)
	}
	to, err := w.names.Target(q.To, protocol, port)
	if err != nil {
		return evaluator.Decision{}, fmt.Errorf("to: %w", err)
	}
	if to.Unknown != "" {
		open := evaluator.DirectionDecision{Rule: evaluator.RuleIncomplete, Reason: to.Unknown}
		return evaluator.Decision{Rule: open.Rule, Reason: open.Reason, Egress: open, Ingress: open}, nil
	}
	d := plan.DecideBackends(w.engine, from, to.Backends, protocol, to.Name)
	if d.Rule != "" && d.Egress.Rule == "" && d.Ingress.Rule == "" {
		// What is true of the whole is true of both directions.
		d.Egress.Rule, d.Egress.Reason = d.Rule, d.Reason
		d.Ingress = d.Egress
	}
	return d, nil
}

// parsePort reads a number or a name.
func parsePort(raw json.RawMessage) (intstr.IntOrString, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return intstr.IntOrString{}, errors.New("the flow has no port: write a number or a name")
	}
	if raw[0] == '"' {
		var name string
		if err := json.Unmarshal(raw, &name); err != nil || name == "" {
			return intstr.IntOrString{}, errors.New("port is neither a number nor a name")
		}
		return intstr.FromString(name), nil
	}
	n, err := strconv.ParseUint(string(raw), 10, 16)
	if err != nil || n == 0 {
		return intstr.IntOrString{}, fmt.Errorf("port %s is no port: write a number from 1 to 65535, or a name", raw)
	}
	return intstr.FromInt32(int32(n)), nil
}

// appendAnswer appends {"id":…,"verdict":…,"reason":…,"egress":{…},"ingress":{…}}.
func appendAnswer(out []byte, id string, d evaluator.Decision) []byte {
	out = append(out, `{"id":`...)
	out = appendString(out, id)
	out = append(out, `,"verdict":"`...)
	out = append(out, d.Verdict.String()...)
	out = append(out, `","reason":`...)
	out = appendString(out, explain.Short(d))
	out = append(out, `,"egress":`...)
	out = appendDirection(out, &d.Egress)
	out = append(out, `,"ingress":`...)
	out = appendDirection(out, &d.Ingress)
	return append(out, "}\n"...)
}

func appendRule(out []byte, r *evaluator.RuleRef) []byte {
	out = append(out, `{"policy":`...)
	out = appendString(out, r.String())
	out = append(out, `,"rule":`...)
	return append(strconv.AppendInt(out, int64(r.Index), 10), '}')
}

func appendDirection(out []byte, d *evaluator.DirectionDecision) []byte {
	out = append(out, `{"verdict":"`...)
	out = append(out, d.Verdict.String()...)
	out = append(out, '"')
	for i, p := range d.Isolating {
		if i == 0 {
			out = append(out, `,"isolating":[`...)
		} else {
			out = append(out, ',')
		}
		out = appendString(out, p.String())
		if i == len(d.Isolating)-1 {
			out = append(out, ']')
		}
	}
	if d.AllowedBy != nil {
		out = appendRule(append(out, `,"allowedBy":`...), d.AllowedBy)
	}
	if d.DeniedBy != nil {
		out = appendRule(append(out, `,"deniedBy":`...), d.DeniedBy)
	}
	if d.Rule != "" {
		out = append(out, `,"rule":`...)
		out = appendString(out, d.Rule)
	}
	if d.Reason != "" {
		out = append(out, `,"reason":`...)
		out = appendString(out, d.Reason)
	}
	return append(out, '}')
}

// appendError appends {"id":…,"error":…}, with the line if the line itself is at
// fault.
func appendError(out []byte, id string, line int, message string) []byte {
	out = append(out, `{"id":`...)
	out = appendString(out, id)
	if line > 0 {
		out = append(out, `,"line":`...)
		out = strconv.AppendInt(out, int64(line), 10)
	}
	out = append(out, `,"error":`...)
	out = appendString(out, message)
	return append(out, "}\n"...)
}

// appendString appends a JSON string. Nearly all are plain text.
func appendString(out []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, err := json.Marshal(s)
			if err != nil {
				return append(out, `""`...)
			}
			return append(out, quoted...)
		}
	}
	out = append(out, '"')
	out = append(out, s...)
	return append(out, '"')
}
