//go:build linux

package probe

import (
	"net/netip"
	"os"
	"runtime"
	"runtime/pprof"
	"testing"
	"time"

	"github.com/pathproof/pathproof/probe/wire"
)

func TestZZ(t *testing.T) {
	n := newNamespace(t)
	n.nft(`table inet t { chain i { type filter hook input priority 0; udp dport 83 drop; }; }`)
	plan := planOf()
	plan.Attempts, plan.TimeoutMilliseconds = 10, 4000
	for range 500 {
		plan.Checks = append(plan.Checks, wire.Check{Transport: wire.UDP, Addr: netip.MustParseAddr("127.0.0.2"), Port: 83})
	}
	for i := range 7 {
		time.AfterFunc(time.Duration(i+1)*time.Second, func() {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			t.Logf("%d gor=%d stack=%dM heapinuse=%dM alloc=%dM sys=%dM gc=%d", i, runtime.NumGoroutine(), m.StackInuse>>20, m.HeapInuse>>20, m.HeapAlloc>>20, m.Sys>>20, m.NumGC)
			if i == 3 {
				f, _ := os.Create("/tmp/heap.pprof")
				runtime.GC()
				_ = pprof.WriteHeapProfile(f)
				f.Close()
			}
		})
	}
	n.run(plan)
}
