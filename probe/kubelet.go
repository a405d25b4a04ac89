//go:build linux

package probe

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"
)

// kubeletWait bounds the wait for the first readiness probe at the end of a run.
// It is three periods of the probe that the operator gives its pods: a run can
// be over before the kubelet has come by once.
const kubeletWait = 3 * time.Second

// Kubelet answers the kubelet's readiness probes of a pod that runs a plan, and
// counts them. Policies cannot block the pod's own node, so that one is enough
// to know that the pod's interface works in both directions: then the silence of
// a target is not the probe's own deafness. A request of anybody else that comes
// from outside proves the same, and counts.
type Kubelet struct {
	stop   context.CancelFunc
	served sync.WaitGroup

	mu sync.Mutex
	// count is guarded by mu.
	count int
	// next is closed by the next probe. It is guarded by mu.
	next chan struct{}
}

// ListenKubelet answers GET /ready on a TCP port with 200 until Close.
func ListenKubelet(port uint16) (*Kubelet, error) {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(int(port)))
	if err != nil {
		return nil, fmt.Errorf("listening on health port %d: %w", port, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	k := &Kubelet{stop: stop, next: make(chan struct{})}
	server := newHealthServer(l, func(_ context.Context, c net.Conn) string {
		if arrived(c) {
			k.probed()
		}
		return ""
	})
	// When it ends, nobody can reach the pod, and the count says so.
	k.served.Go(func() { _ = server.serve(ctx) })
	return k, nil
}

// arrived tells whether a request came through the pod's interface. One from
// loopback or from the pod's own address did not, and proves nothing about it.
func arrived(c net.Conn) bool {
	from, known := c.RemoteAddr().(*net.TCPAddr)
	local, ok := c.LocalAddr().(*net.TCPAddr)
	if !known || !ok {
		return false
	}
	addr := from.AddrPort().Addr().Unmap()
	return !addr.IsLoopback() && addr != local.AddrPort().Addr().Unmap()
}

func (k *Kubelet) probed() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.count++
	close(k.next)
	k.next = make(chan struct{})
}

// Count returns the number of probes so far. What arrived before a plan says nothing about
// the time in which it runs: a run takes the difference.
func (k *Kubelet) Count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.count
}

// await waits until there were more probes than before, for kubeletWait at most.
func (k *Kubelet) await(ctx context.Context, before int) {
	ctx, cancel := context.WithTimeout(ctx, kubeletWait)
	defer cancel()
	k.mu.Lock()
	count, next := k.count, k.next
	k.mu.Unlock()
	if count > before {
		return
	}
	select {
	case <-next:
	case <-ctx.Done():
	}
}

// Close closes the port.
func (k *Kubelet) Close() {
	k.stop()
	k.served.Wait()
}
