//go:build linux

package probe

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// selfTestTimeout is how long a listener may take to echo over loopback. It is
// below the kubelet's default probe timeout of one second, so that the answer
// names the dead port instead of being late.
const selfTestTimeout = 500 * time.Millisecond

// healthServer serves GET /ready: 200 only while every listener echoes a nonce,
// tested by the request itself; otherwise 503 and the listeners that did not.
// Nothing is cached: the operator takes readiness as evidence that silence on
// the path is not the fault of the listener.
func (r *Responder) healthServer() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, req *http.Request) {
		dead := r.selfTest(req.Context())
		if len(dead) > 0 {
			http.Error(w, "not answering: "+strings.Join(dead, ", "), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
	return newHealthServer(mux)
}

// newHealthServer returns a server that idle and slow clients cannot hold.
func newHealthServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: connectionTime,
		ReadTimeout:       connectionTime,
		WriteTimeout:      connectionTime,
		IdleTimeout:       connectionTime,
		MaxHeaderBytes:    1 << 13,
		// A client that speaks TLS to the port would otherwise fill the log.
		ErrorLog: log.New(io.Discard, "", 0),
	}
}

// selfTest asks every listener to echo a fresh nonce over loopback, which no
// policy can cut, and returns those that did not, with what happened instead.
func (r *Responder) selfTest(ctx context.Context) []string {
	r.checking.Lock()
	defer r.checking.Unlock()
	if ctx.Err() != nil {
		return []string{"request cancelled"}
	}
	s := &session{stack: newStack(r.newSocket), timeout: selfTestTimeout}
	s.rawSCTP = r.cfg.RawSCTP
	defer s.close()
	attempts := make([]attempt, len(r.listeners))
	var wg sync.WaitGroup
	for i, l := range r.listeners {
		wg.Go(func() {
			target := netip.AddrPortFrom(l.loopback, l.port)
			if l.protocol == flow.UDP {
				attempts[i] = s.datagram(ctx, target, rand.Text())
			} else {
				attempts[i] = s.stream(ctx, l.protocol, target, rand.Text())
			}
		})
	}
	wg.Wait()
	var dead []string
	for i, a := range attempts {
		if a.outcome != wire.Replied {
			dead = append(dead, strings.TrimSpace(fmt.Sprintf("%s: %s %s", r.listeners[i], a.outcome, a.detail)))
		}
	}
	return dead
}
