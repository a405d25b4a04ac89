package kubelets

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// keptLines is how many lines of a log are kept for those who come late.
const keptLines = 4

// log is the log of a container. Whoever follows it waits for changed to be closed.
type log struct {
	mu      sync.Mutex
	lines   []logLine
	written int
	ended   bool
	changed chan struct{}
}

type logLine struct {
	at   time.Time
	text string
}

func newLog() *log { return &log{changed: make(chan struct{})} }

func (l *log) write(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, logLine{time.Now(), text})
	l.lines = l.lines[max(0, len(l.lines)-keptLines):]
	l.written++
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *log) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	close(l.changed)
	l.changed = make(chan struct{})
}

// after returns the lines after the first n, as far as they are kept and not older than
// since, the number of all lines, and what is closed when there are more.
func (l *log) after(n int, since time.Time) (lines []string, all int, ended bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, line := range l.lines {
		if l.written-len(l.lines)+i >= n && !line.at.Before(since) {
			lines = append(lines, line.text)
		}
	}
	return lines, l.written, l.ended, l.changed
}

// serve opens the port of all kubelets.
func (f *Fleet) serve(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", f.serveLog)
	f.server = httptest.NewUnstartedServer(mux)
	f.server.StartTLS() // the API server does not know the certificate, and was not told to ask for one
	addr, ok := f.server.Listener.Addr().(*net.TCPAddr)
	if !ok {
		return fmt.Errorf("the kubelets listen on %s, want TCP", f.server.Listener.Addr())
	}
	f.port = int32(addr.Port)
	context.AfterFunc(ctx, func() {
		f.server.CloseClientConnections()
		f.server.Close()
	})
	return nil
}

// serveLog follows a log as a kubelet does: what there is since a time, and then what is
// written.
func (f *Fleet) serveLog(w http.ResponseWriter, r *http.Request) {
	key := types.NamespacedName{Namespace: r.PathValue("namespace"), Name: r.PathValue("pod")}
	f.mu.Lock()
	p := f.pods[key]
	f.mu.Unlock()
	if p == nil {
		http.Error(w, "there is no pod "+key.String(), http.StatusNotFound)
		return
	}
	since, err := time.Parse(time.RFC3339, r.FormValue("sinceTime"))
	if err != nil && r.FormValue("sinceTime") != "" {
		http.Error(w, "sinceTime: "+err.Error(), http.StatusBadRequest)
		return
	}
	control := http.NewResponseController(w)
	for n := 0; ; {
		lines, all, ended, changed := p.log.after(n, since)
		n = all
		if len(lines) > 0 {
			if _, err := w.Write([]byte(strings.Join(lines, "\n") + "\n")); err != nil {
				return
			}
		}
		// Also before the first line: the header says that there is a log.
		if err := control.Flush(); err != nil || ended || r.FormValue("follow") != "true" {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		}
	}
}
