//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/pathproof/pathproof/probe/wire"
)

const (
	// planWait is the default bound of the wait for the plan: the kubelet fills a
	// downward API volume before it starts the container, but the annotation may
	// follow later.
	planWait = 5 * time.Second
	// planPoll is how often the file is looked at in that time.
	planPoll = 50 * time.Millisecond
	// maxPlanBytes is above what all annotations of one object may hold together
	// (256 KiB, apimachinery's TotalAnnotationSizeLimitB).
	maxPlanBytes = 1 << 20
)

// readPlan reads, decodes and validates the plan.
func (p program) readPlan(ctx context.Context, source planSource) (wire.Plan, error) {
	text, err := p.readPlanText(ctx, source)
	if err != nil {
		return wire.Plan{}, fmt.Errorf("reading plan: %w", err)
	}
	if !source.plain {
		return wire.DecodePlan(string(text))
	}
	var plan wire.Plan
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&plan); err != nil {
		return wire.Plan{}, fmt.Errorf("decoding plan: %w", err)
	}
	return plan, plan.Validate()
}

func (p program) readPlanText(ctx context.Context, source planSource) ([]byte, error) {
	if source.path == "-" {
		return io.ReadAll(io.LimitReader(p.stdin, maxPlanBytes))
	}
	ctx, cancel := context.WithTimeout(ctx, source.wait)
	defer cancel()
	tick := time.NewTicker(planPoll)
	defer tick.Stop()
	for {
		text, err := readBounded(source.path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if len(bytes.TrimSpace(text)) > 0 {
			return text, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("%s is still empty after %s", source.path, source.wait)
			}
			return nil, err
		}
	}
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxPlanBytes))
}

// writeReport writes the report. One that cannot be encoded is replaced by one
// that says so: the operator must never have to guess why there is none.
func (p program) writeReport(path string, plain bool, r wire.Report) error {
	text, err := encodeReport(plain, r)
	if err != nil {
		if text, err = encodeReport(plain, *tooLong(r, err)); err != nil {
			return fmt.Errorf("encoding report: %w", err)
		}
	}
	if path == "-" {
		_, err = p.stdout.Write(text)
	} else {
		err = os.WriteFile(path, text, 0o644)
	}
	if err != nil {
		return fmt.Errorf("writing report: %w", err)
	}
	return nil
}

// tooLong is what takes the place of a report that cannot be encoded.
func tooLong(r wire.Report, err error) *wire.Report {
	return &wire.Report{Version: r.Version, ID: r.ID, Error: err.Error(), ElapsedMilliseconds: r.ElapsedMilliseconds}
}

func encodeReport(plain bool, r wire.Report) ([]byte, error) {
	if plain {
		text, err := json.MarshalIndent(r, "", "  ")
		return append(text, '\n'), err
	}
	text, err := wire.EncodeReport(r)
	return []byte(text), err
}
