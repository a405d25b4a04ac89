//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe"
	"github.com/pathproof/pathproof/probe/wire"
)

// serve answers probes until it is told to end, or until it has left its record.
func (p program) serve(ctx context.Context, args []string) int {
	flags := flag.NewFlagSet("probe serve", flag.ContinueOnError)
	listen := flags.String("listen", "", "`ports` to answer on, for instance TCP/8080,UDP/53,SCTP/9000-9003")
	healthPort := flags.Uint("health-port", 8099, "TCP `port` of the readiness endpoint /ready, 0 for none")
	raw := flags.Bool("raw-sctp", false, rawSCTPUsage)
	printSeen := flags.Bool("print-seen", false, "print every nonce that arrives to standard output: protocol/port nonce address")
	annotations := flags.String("annotations", "", "`file` with the pod's annotations, as the downward API projects them, in which records are asked for; empty for none")
	record := flags.String("record", "", "`file` to write the first record to that is asked for, and end; empty to stay. Records are printed in any case")
	if code, ok := p.parse(flags, args); !ok {
		return code
	}
	ports, err := probe.ParseListen(*listen)
	if err != nil {
		p.logf("%v", err)
		return exitUsage
	}
	if !p.validPort(*healthPort) {
		return exitUsage
	}
	cfg := probe.Config{Listen: ports, HealthPort: uint16(*healthPort), RawSCTP: *raw, Logf: p.logf}
	if *printSeen {
		cfg.Seen = p.seen()
	}
	responder, err := probe.Listen(cfg)
	if err != nil {
		p.logf("%v", err)
		if errors.Is(err, probe.ErrUnsupported) {
			return exitUnsupported
		}
		return exitFailed
	}
	p.logf("answering on %s", *listen)
	ctx, end := context.WithCancel(ctx)
	defer end()
	var following sync.WaitGroup
	defer following.Wait()
	if *annotations != "" {
		following.Go(func() { p.answerRequests(ctx, responder, *annotations, *record, end) })
	}
	if err := responder.Serve(ctx); err != nil {
		p.logf("%v", err)
		return exitFailed
	}
	return exitOK
}

// answerRequests prints the records that annotations ask for. With a file, it writes the
// first one to it, too, and ends.
func (p program) answerRequests(ctx context.Context, r *probe.Responder, annotations, file string, end func()) {
	emit := p.emitter()
	p.follow(ctx, annotations, func(text string) {
		requests, err := wire.DecodeRecordRequests(text)
		if err != nil {
			p.logf("%v", err)
		}
		records, err := r.Records(ctx, requests)
		if err != nil {
			p.logf("%v", err)
		}
		for _, record := range records {
			emit(wire.Message{Record: &record})
			if file == "" {
				continue
			}
			if err := writeRecord(file, record); err != nil {
				p.logf("%v", err)
			}
			end()
			return
		}
	})
}

func writeRecord(file string, r wire.Record) error {
	text, err := wire.EncodeRecord(r)
	if err == nil {
		err = os.WriteFile(file, []byte(text), 0o644)
	}
	if err != nil {
		return fmt.Errorf("writing record: %w", err)
	}
	return nil
}

// seen returns a callback that prints nonces one line at a time.
func (p program) seen() func(flow.Protocol, uint16, string, netip.Addr) {
	var mu sync.Mutex
	return func(protocol flow.Protocol, port uint16, nonce string, from netip.Addr) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprintf(p.stdout, "%s/%d %s %s\n", protocol, port, nonce, from)
	}
}
