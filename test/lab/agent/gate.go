package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pathproof/pathproof/test/lab/gate"
)

// gatePatience is how long a pod waits for the agent to hear of it from the
// API server before it starts all the same, as it would with an agent that is
// down.
const gatePatience = time.Second

// request is a pod that waits at the gate.
type request struct {
	gate.Announcement
	expires time.Time
	done    chan<- struct{}
}

// serveGate listens for pods that are about to start. The kubelet reports a
// pod's addresses only after its containers run; an agent that learned them from
// the API server alone would leave every new pod open for that long.
func serveGate(ctx context.Context, dir string, log *slog.Logger) (<-chan request, error) {
	path := filepath.Join(dir, gate.SocketName)
	if err := os.RemoveAll(path); err != nil {
		return nil, err
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("opening the gate: %w", err)
	}
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	requests := make(chan request)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				if err := answer(ctx, conn, requests); err != nil {
					log.Error("answering at the gate", "error", err)
				}
			}()
		}
	}()
	return requests, nil
}

func answer(ctx context.Context, conn net.Conn, requests chan<- request) error {
	defer func() { _ = conn.Close() }()
	deadline := time.Now().Add(gatePatience)
	if err := conn.SetDeadline(deadline.Add(gatePatience)); err != nil {
		return err
	}
	var a gate.Announcement
	if err := json.NewDecoder(conn).Decode(&a); err != nil {
		return fmt.Errorf("reading an announcement: %w", err)
	}
	done := make(chan struct{})
	select {
	case requests <- request{Announcement: a, expires: deadline, done: done}:
	case <-ctx.Done():
		return nil
	}
	select {
	case <-done:
	case <-time.After(time.Until(deadline)):
		log := fmt.Errorf("pod %s/%s starts without its rules: not seen in time", a.Namespace, a.Name)
		_, _ = conn.Write([]byte{'.'})
		return log
	}
	_, err := conn.Write([]byte{'.'})
	return err
}

// admit takes the addresses of those waiting pods that the watch has shown.
// The others stay, and are looked for again with the next event.
func (e *enforcer) admit() {
	for _, r := range e.waiting {
		if p, err := e.pods.Pods(r.Namespace).Get(r.Name); err == nil && p.UID == types.UID(r.UID) {
			e.early[p.UID] = r.Addrs
		}
	}
	e.forget()
}

// release lets the admitted pods start: their rules are in force.
func (e *enforcer) release() {
	var still []request
	for _, r := range e.waiting {
		if _, admitted := e.early[types.UID(r.UID)]; admitted {
			close(r.done)
		} else if time.Now().Before(r.expires) {
			still = append(still, r)
		}
	}
	e.waiting = still
}

// forget drops the addresses of pods that vanished before the kubelet reported
// them.
func (e *enforcer) forget() {
	if len(e.early) == 0 {
		return
	}
	alive := map[types.UID]bool{}
	pods, _ := e.pods.List(everything)
	for _, p := range pods {
		alive[p.UID] = true
	}
	for uid := range e.early {
		if !alive[uid] {
			delete(e.early, uid)
		}
	}
}
