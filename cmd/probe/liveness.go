//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pathproof/pathproof/probe/wire"
)

// livenessWait is how long a run whose checks all stayed without an answer waits
// for the kubelet's next readiness probe. The operator sets their period to a
// second.
const livenessWait = 3 * time.Second

// liveness counts the kubelet's readiness probes while a plan runs. One that
// arrives is a completed TCP connection from the node, which policies cannot cut:
// it proves that the pod's interface works in both directions, so that silence
// elsewhere is not the fault of this pod.
type liveness struct {
	server *http.Server
	count  atomic.Int32
	first  chan struct{}
	once   sync.Once
}

// watchLiveness opens the health port.
func watchLiveness(port uint16) (*liveness, error) {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, fmt.Errorf("opening health port: %w", err)
	}
	w := &liveness{first: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(rw http.ResponseWriter, req *http.Request) {
		if from, err := netip.ParseAddrPort(req.RemoteAddr); err == nil && !from.Addr().Unmap().IsLoopback() {
			w.count.Add(1)
			w.once.Do(func() { close(w.first) })
		}
		_, _ = fmt.Fprintln(rw, "ok")
	})
	w.server = &http.Server{Handler: mux, ReadHeaderTimeout: livenessWait, WriteTimeout: livenessWait}
	go func() { _ = w.server.Serve(l) }()
	return w, nil
}

// finish adds to the report how often the kubelet came by. When nothing else
// shows that the pod's interface works, it waits for the kubelet a little.
func (w *liveness) finish(ctx context.Context, r *wire.Report) {
	if !answered(r) {
		select {
		case <-w.first:
		case <-ctx.Done():
		case <-time.After(livenessWait):
		}
	}
	r.KubeletProbes = int(w.count.Load())
	_ = w.server.Close()
}

func answered(r *wire.Report) bool {
	for _, res := range r.Results {
		if res.Outcomes.Any(wire.Outcome.Answered) {
			return true
		}
	}
	return false
}
