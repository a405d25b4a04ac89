//go:build linux

package probe

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pathproof/pathproof/probe/wire"
)

// BenchmarkWatchedAttempt prints what an attempt of a watched check takes of a processor,
// of both ends together. A pod makes 500 of them a second at most.
func BenchmarkWatchedAttempt(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	target := l.Addr().(*net.TCPAddr).AddrPort()
	c := &wire.Check{Transport: wire.TCP, Addr: target.Addr(), Port: target.Port()}
	s := new(Runner).watchSession(wire.Plan{TimeoutMilliseconds: 500})
	defer s.close()
	before := cpuTime(b)
	for b.Loop() {
		if a := s.attempt(b.Context(), c); a.outcome != wire.Connected {
			b.Fatalf("got %+v, want a connection", a)
		}
	}
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}

// cpuTime returns what the process has had of the processors, in nanoseconds.
func cpuTime(b *testing.B) int64 {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
