//go:build linux

package probe

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
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

// healthServer answers GET /ready over HTTP/1.1, one request a connection. Nobody but
// the kubelet asks, so that the standard library's server would be of little use: with
// its HTTP/2 and TLS it is a third of the binary, and of each pod's memory 2 MB.
type healthServer struct {
	listener net.Listener
	// ready returns what is not ready, which is answered with 503; empty for 200.
	ready func(context.Context, net.Conn) string
	// slots holds one token for each connection.
	slots   chan struct{}
	serving sync.WaitGroup
}

const (
	// maxHealthConnections bounds the connections of strangers and of the kubelet.
	maxHealthConnections = 256
	// maxRequestBytes bounds a request. The kubelet's has about 100 bytes.
	maxRequestBytes = 8 << 10
)

func newHealthServer(l net.Listener, ready func(context.Context, net.Conn) string) *healthServer {
	return &healthServer{listener: l, ready: ready, slots: make(chan struct{}, maxHealthConnections)}
}

// serve answers until the context ends, closes the port and returns why it ended, nil for
// the context.
func (h *healthServer) serve(ctx context.Context) error {
	defer h.serving.Wait()
	defer context.AfterFunc(ctx, func() { _ = h.listener.Close() })()
	for {
		c, err := h.listener.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			// EMFILE, ECONNABORTED: they pass.
			sleep(ctx, roundPause)
			continue
		}
		select {
		case h.slots <- struct{}{}:
			h.serving.Go(func() {
				defer func() { <-h.slots }()
				h.answer(ctx, c)
			})
		default:
			_ = c.Close()
		}
	}
}

// answer answers the request of one connection, which idle and slow clients cannot hold.
func (h *healthServer) answer(ctx context.Context, c net.Conn) {
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(ctx, connectionTime)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	method, path, ok := readRequest(c)
	if !ok {
		return // not HTTP: who speaks TLS to the port, for example
	}
	status, body := "200 OK", "ok"
	switch {
	case path != "/ready":
		status, body = "404 Not Found", "the path is /ready"
	case method != "GET":
		status, body = "405 Method Not Allowed", "the method is GET"
	default:
		if bad := h.ready(ctx, c); bad != "" {
			status, body = "503 Service Unavailable", bad
		}
	}
	_, _ = fmt.Fprintf(c, "HTTP/1.1 %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s\n",
		status, len(body)+1, body)
}

// readRequest reads a request to the end of its header, and returns its method and path.
// Whatever is left unread would reset the connection when it is closed.
func readRequest(r io.Reader) (method, path string, ok bool) {
	lines := bufio.NewScanner(io.LimitReader(r, maxRequestBytes))
	if !lines.Scan() {
		return "", "", false
	}
	// RFC 9112, section 3.
	fields := strings.Split(lines.Text(), " ")
	if len(fields) != 3 || !strings.HasPrefix(fields[2], "HTTP/1.") {
		return "", "", false
	}
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			path, _, _ := strings.Cut(fields[1], "?")
			return fields[0], path, true
		}
	}
	return "", "", false
}

// ready tests every listener, and says which did not echo a nonce. Nothing is cached: the
// operator takes readiness as evidence that silence on the path is not the fault of the
// listener.
func (r *Responder) ready(ctx context.Context, _ net.Conn) string {
	if dead := r.selfTest(ctx); len(dead) > 0 {
		return "not answering: " + strings.Join(dead, ", ")
	}
	return ""
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
