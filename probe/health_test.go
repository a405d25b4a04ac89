//go:build linux

package probe

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// health returns a connection to a server that is ready, or not.
func health(t *testing.T, bad string) net.Conn {
	t.Helper()
	client, server := net.Pipe()
	h := newHealthServer(nil, func(context.Context, net.Conn) string { return bad })
	go h.answer(t.Context(), server)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestHealthServerAnswersWhatTheKubeletAsks(t *testing.T) {
	const header = "Host: 10.0.0.1:8099\r\nUser-Agent: kube-probe/1.37\r\nAccept: */*\r\nConnection: close\r\n\r\n"
	cases := map[string]struct {
		request, bad string
		want         int
		body         string
	}{
		"ready":          {"GET /ready HTTP/1.1\r\n" + header, "", http.StatusOK, "ok\n"},
		"not ready":      {"GET /ready HTTP/1.1\r\n" + header, "not answering: TCP/80", http.StatusServiceUnavailable, "not answering: TCP/80\n"},
		"with a query":   {"GET /ready?verbose HTTP/1.1\r\n" + header, "", http.StatusOK, "ok\n"},
		"bare lines":     {"GET /ready HTTP/1.0\n\n", "", http.StatusOK, "ok\n"},
		"another path":   {"GET /readyz HTTP/1.1\r\n" + header, "", http.StatusNotFound, "the path is /ready\n"},
		"another method": {"DELETE /ready HTTP/1.1\r\n" + header, "", http.StatusMethodNotAllowed, "the method is GET\n"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := health(t, tc.bad)
			if _, err := io.WriteString(c, tc.request); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != tc.want || string(body) != tc.body || !resp.Close {
				t.Errorf("got %s %q (%v), want %d %q", resp.Status, body, err, tc.want, tc.body)
			}
		})
	}
}

// What is no request gets no answer: least of all 200.
func TestHealthServerClosesOnGarbage(t *testing.T) {
	for name, request := range map[string]string{
		"TLS":                   "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n",
		"another version":       "GET /ready HTTP/2.0\r\n\r\n",
		"no version":            "GET /ready\r\n\r\n",
		"an endless first line": strings.Repeat("a", 2*maxRequestBytes),
		"an endless header":     "GET /ready HTTP/1.1\r\n" + strings.Repeat("a: b\r\n", maxRequestBytes),
	} {
		t.Run(name, func(t *testing.T) {
			c := health(t, "")
			// It may be closed before all of it was written.
			go func() { _, _ = io.WriteString(c, request) }()
			if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
				t.Errorf("got %q, %v, want nothing", b, err)
			}
		})
	}
}

func TestHealthServerIsNotHeldBySlowClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := health(t, "")
		start := time.Now()
		if _, err := io.WriteString(c, "GET /ready HTTP/1.1\r\n"); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c); err != nil || len(b) > 0 || time.Since(start) != connectionTime {
			t.Errorf("got %q, %v after %v, want nothing, and the end after %v", b, err, time.Since(start), connectionTime)
		}
	})
}

// Strangers that fill all places are not let in, and those that are there are served.
func TestHealthServerBoundsConnections(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	h := newHealthServer(l, func(context.Context, net.Conn) string { return "" })
	for range maxHealthConnections {
		h.slots <- struct{}{}
	}
	ended := make(chan error)
	go func() { ended <- h.serve(ctx) }()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	if _, err := dial().Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want the end of the connection", err)
	}
	<-h.slots
	if _, err := io.WriteString(dial(), "GET /ready HTTP/1.1\r\n\r\n"); err != nil {
		t.Error(err)
	}
	h.slots <- struct{}{} // given back
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}
