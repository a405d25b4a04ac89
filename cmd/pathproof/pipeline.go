package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
)

const (
	// batchLines and batchBytes bound a batch: large enough that handing it over
	// costs nothing, small enough that all batches fit a processor's cache.
	batchLines = 256
	batchBytes = 64 << 10
	// maxLine bounds a flow. Real ones have 150 bytes.
	maxLine = 1 << 20
)

// batch is a number of flows that are answered together. Batches are used again
// and again, so that any number of flows takes the memory of a few.
type batch struct {
	// in holds the lines, which end at ends; first is the number of the first.
	in    []byte
	ends  []int
	first int
	// tooLong is set when the last line was cut off.
	tooLong bool
	out     []byte
	failed  bool
	done    chan struct{}
}

// answerAll answers the flows of a stream in their order, on all processors. It
// tells whether a flow could not be answered.
func answerAll(ctx context.Context, a *answerer, in io.Reader, out io.Writer) (failed bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	workers := runtime.GOMAXPROCS(0)
	free := make(chan *batch, 2*workers+1)
	for range cap(free) {
		free <- &batch{done: make(chan struct{}, 1)}
	}
	work, order := make(chan *batch, cap(free)), make(chan *batch, cap(free))
	for range workers {
		w := newWorker(a)
		go func() {
			for b := range work {
				w.answer(b)
				b.done <- struct{}{}
			}
		}()
	}
	readErr := make(chan error, 1)
	go func() {
		defer close(order)
		defer close(work)
		readErr <- readBatches(ctx, in, free, func(b *batch) {
			work <- b
			order <- b
		})
	}()
	for b := range order {
		<-b.done
		failed = failed || b.failed
		if _, err := out.Write(b.out); err != nil {
			return failed, fmt.Errorf("writing answers: %w", err)
		}
		free <- b
	}
	return failed, <-readErr
}

// readBatches cuts the stream into batches. Whoever writes a flow and waits for
// its answer gets it: a batch is handed on when nothing more is there to be read.
func readBatches(ctx context.Context, in io.Reader, free <-chan *batch, emit func(*batch)) error {
	lines := bufio.NewReaderSize(in, batchBytes)
	number := 1
	for {
		var b *batch
		select {
		case b = <-free:
		case <-ctx.Done():
			return ctx.Err()
		}
		b.in, b.ends, b.out, b.first, b.failed, b.tooLong = b.in[:0], b.ends[:0], b.out[:0], number, false, false
		err := b.fill(lines)
		number += len(b.ends)
		if len(b.ends) > 0 {
			emit(b)
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("reading flows: %w", err)
		}
	}
}

// fill reads lines until the batch is full or nothing more is buffered.
func (b *batch) fill(in *bufio.Reader) error {
	for {
		line, err := in.ReadSlice('\n')
		b.in = append(b.in, line...)
		start := 0
		if n := len(b.ends); n > 0 {
			start = b.ends[n-1]
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			line, err = in.ReadSlice('\n')
			if len(b.in)-start+len(line) <= maxLine {
				b.in = append(b.in, line...)
			} else {
				b.tooLong = true
			}
		}
		if len(b.in) > start {
			b.ends = append(b.ends, len(b.in))
		}
		if err != nil || b.tooLong || len(b.ends) >= batchLines || len(b.in) >= batchBytes || in.Buffered() == 0 {
			return err
		}
	}
}

// lineReader hands a JSON decoder one line, and then no more until the next.
type lineReader struct{ line []byte }

// Read returns what is left of the line.
func (l *lineReader) Read(p []byte) (int, error) {
	if len(l.line) == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n := copy(p, l.line)
	l.line = l.line[n:]
	return n, nil
}

// answer answers the flows of a batch.
func (w *worker) answer(b *batch) {
	start := 0
	for i, end := range b.ends {
		line := bytes.TrimSpace(b.in[start:end])
		start = end
		switch {
		case len(line) == 0:
		case b.tooLong && i == len(b.ends)-1:
			b.failed = true
			b.out = appendError(b.out, "", b.first+i, fmt.Sprintf("the line is longer than %d bytes", maxLine))
		default:
			var ok bool
			if b.out, ok = w.line(b.out, line, b.first+i); !ok {
				b.failed = true
			}
		}
	}
}
