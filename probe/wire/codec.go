package wire

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// prefix marks an encoded message and its encoding: base64 of raw deflate of
// JSON. Base64, because a termination message and an annotation have to be
// valid UTF-8.
const prefix = "pp1:"

// maxDecodedBytes bounds what Decode inflates. A plan of MaxChecks checks with
// names of 253 bytes is about 200 KiB; the bound stops a decompression bomb that
// a pod's owner could put into a termination message.
const maxDecodedBytes = 1 << 20

// ErrNotEncoded tells that a text is not an encoded message at all, as when the
// container died before it could write one.
var ErrNotEncoded = errors.New("text is not an encoded message")

// EncodePlan encodes a plan for PlanAnnotation.
func EncodePlan(p Plan) (string, error) {
	if err := p.Validate(); err != nil {
		return "", err
	}
	return encode(p)
}

// DecodePlan decodes and validates a plan.
func DecodePlan(s string) (Plan, error) {
	var p Plan
	if err := decode(s, &p); err != nil {
		return Plan{}, fmt.Errorf("decoding plan: %w", err)
	}
	return p, p.Validate()
}

// EncodeReport encodes a report into at most MaxReportBytes. It leaves out
// first the details and then the times when they do not fit, and says so in
// Trimmed; outcomes are never left out.
func EncodeReport(r Report) (string, error) {
	trims := []func(*Result){
		func(*Result) {},
		func(res *Result) { res.Detail = "" },
		func(res *Result) { res.RTTMicroseconds, res.SettledMilliseconds = 0, 0 },
	}
	for i, trim := range trims {
		results := make([]Result, len(r.Results))
		copy(results, r.Results)
		for j := range results {
			for _, t := range trims[:i] {
				t(&results[j])
			}
			trim(&results[j])
		}
		trimmed := r
		trimmed.Results, trimmed.Trimmed = results, i > 0
		s, err := encode(trimmed)
		if err != nil {
			return "", err
		}
		if len(s) <= MaxReportBytes {
			return s, nil
		}
	}
	return "", fmt.Errorf("a report of %d results does not fit into %d bytes", len(r.Results), MaxReportBytes)
}

// DecodeReport decodes a report. A text that is no encoded message gives
// ErrNotEncoded.
func DecodeReport(s string) (Report, error) {
	var r Report
	if err := decode(s, &r); err != nil {
		return Report{}, fmt.Errorf("decoding report: %w", err)
	}
	if r.Version != Version {
		return Report{}, fmt.Errorf("report version %d is not understood, want %d: use operator and probe images of the same release", r.Version, Version)
	}
	return r, nil
}

func encode(v any) (string, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encoding message: %w", err)
	}
	var buf bytes.Buffer
	w, err := flate.NewWriter(&buf, flate.BestCompression)
	if err != nil {
		return "", fmt.Errorf("encoding message: %w", err)
	}
	// Writes to a bytes.Buffer do not fail.
	_, _ = w.Write(raw)
	_ = w.Close()
	return prefix + base64.StdEncoding.EncodeToString(buf.Bytes()), nil
}

func decode(s string, v any) error {
	body, ok := strings.CutPrefix(strings.TrimSpace(s), prefix)
	if !ok {
		return ErrNotEncoded
	}
	compressed, err := base64.StdEncoding.DecodeString(body)
	if err != nil {
		return damaged(s, err)
	}
	raw, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(compressed)), maxDecodedBytes+1))
	if err != nil {
		return damaged(s, err)
	}
	if len(raw) > maxDecodedBytes {
		return fmt.Errorf("message is larger than %d bytes", maxDecodedBytes)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	return dec.Decode(v)
}

// damaged says of a message that begins like one of ours what can have happened to it.
func damaged(s string, err error) error {
	return fmt.Errorf("the message was cut off after %d bytes, or is damaged: %w", len(s), err)
}
