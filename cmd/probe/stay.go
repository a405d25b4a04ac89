//go:build linux

package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/pathproof/pathproof/probe"
	"github.com/pathproof/pathproof/probe/wire"
)

// stay runs the plans of a resident pod until it is told to end.
func (p program) stay(ctx context.Context, args []string) int {
	flags := flag.NewFlagSet("probe stay", flag.ContinueOnError)
	path := flags.String("annotations", wire.AnnotationsPath, "`file` with the pod's annotations, as the downward API projects them")
	healthPort := flags.Uint("health-port", 0, "TCP `port` on which /ready answers the kubelet's readiness probes, which the reports count; 0 for none")
	raw := flags.Bool("raw-sctp", false, rawSCTPUsage)
	if code, ok := p.parse(flags, args); !ok {
		return code
	}
	if !p.validPort(*healthPort) {
		return exitUsage
	}
	runner := &probe.Runner{RawSCTP: *raw}
	if *healthPort != 0 {
		k, err := probe.ListenKubelet(uint16(*healthPort))
		if err != nil {
			p.logf("%v", err)
			return exitFailed
		}
		defer k.Close()
		runner.Kubelet = k
	}
	resident := &probe.Resident{Runner: runner, Emit: p.emitter()}
	defer resident.Close()
	p.follow(ctx, *path, func(text string) {
		plans, err := wire.DecodePlans(text)
		if err != nil {
			p.logf("%v", err)
		}
		resident.Apply(ctx, plans)
	})
	return exitOK
}

// emitter returns a function that prints messages one line at a time.
func (p program) emitter() func(wire.Message) {
	var mu sync.Mutex
	return func(m wire.Message) {
		line, err := wire.EncodeMessage(m)
		if err != nil && m.Report != nil {
			// The operator must never have to guess why there is no report.
			line, err = wire.EncodeMessage(wire.Message{Report: tooLong(*m.Report, err)})
		}
		if err != nil {
			p.logf("encoding message: %v", err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if _, err := fmt.Fprintln(p.stdout, line); err != nil {
			p.logf("printing message: %v", err)
		}
	}
}

// follow hands on the text of a file whenever it changes, until the context ends.
func (p program) follow(ctx context.Context, path string, apply func(text string)) {
	tick := time.NewTicker(planPoll)
	defer tick.Stop()
	var last os.FileInfo
	for ctx.Err() == nil {
		// The kubelet puts another file in its place for every change.
		if info, err := os.Stat(path); err == nil && (last == nil || !os.SameFile(last, info) || !last.ModTime().Equal(info.ModTime())) {
			last = info
			if text, err := readBounded(path); err == nil {
				apply(string(text))
			} else {
				p.logf("reading annotations: %v", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}
