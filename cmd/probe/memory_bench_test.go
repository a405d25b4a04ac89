//go:build linux

package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pathproof/pathproof/probe/wire"
)

// silence makes a network in which nobody answers: a link whose other end takes every
// packet. Then it becomes the probe.
const silence = `set -e
ip link add here type veth peer name there
ip addr add 10.9.0.254/24 dev here
ip link set here up
ip link set there up
for i in 1 2 3 4 5 6 7 8 9 10; do ip neigh add 10.9.0.$i lladdr 02:00:00:00:00:01 dev here; done
exec "$0" run --plan - --report -`

// BenchmarkMemoryOfSilence reports the most memory that a probe has while all of its
// attempts wait: a plan of 10,000 checks from 40 sources has 250 for each.
func BenchmarkMemoryOfSilence(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("skipping: making network namespaces needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN)")
	}
	probe := filepath.Join(b.TempDir(), "probe")
	goTool(b, "build", "-trimpath", "-ldflags=-s -w", "-o", probe, ".")
	for _, size := range []struct{ checks, attempts int }{{1, 3}, {250, 3}, {wire.MaxChecks, 3}, {wire.MaxChecks, 5}} {
		b.Run(fmt.Sprintf("%dchecks%dattempts", size.checks, size.attempts), func(b *testing.B) {
			plan := wire.Plan{Version: wire.Version, ID: "memory", TimeoutMilliseconds: 1000, Attempts: size.attempts}
			for i := range size.checks {
				plan.Checks = append(plan.Checks, wire.Check{
					Transport: []wire.Transport{wire.TCP, wire.UDP}[i%2], Addr: netip.AddrFrom4([4]byte{10, 9, 0, byte(1 + i%10)}), Port: uint16(9000 + i/10),
				})
			}
			most := 0
			for b.Loop() {
				most = max(most, memoryOf(b, probe, plan))
			}
			b.ReportMetric(float64(most)*1024/1e6, "MB")
		})
	}
}

// memoryOf runs a plan to which nobody answers and returns the most memory that the probe
// has had, in kB.
func memoryOf(b *testing.B, probe string, plan wire.Plan) int {
	b.Helper()
	cmd := exec.Command("sh", "-c", silence, probe)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(encodePlan(b, plan)), &stdout, &stderr
	if err := cmd.Start(); err != nil {
		b.Skipf("skipping: this system allows no new network namespace: %v", err)
	}
	ended, most := make(chan error), 0
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			report, bad := wire.DecodeReport(stdout.String())
			if err != nil || bad != nil || len(report.Results) != len(plan.Checks) {
				b.Fatalf("ended with %v and the report %+v (%v)\n%s", err, report, bad, stderr.String())
			}
			for i, r := range report.Results {
				if !r.Outcomes.All(func(o wire.Outcome) bool { return o == wire.TimedOut }) {
					b.Fatalf("check %d ended as %v (%s), want silence", i, r.Outcomes, r.Detail)
				}
			}
			return most
		case <-time.After(20 * time.Millisecond):
			most = max(most, highWater(cmd.Process.Pid))
		}
	}
}

// highWater returns the most memory that a probe has had in kB, 0 for another program.
func highWater(pid int) int {
	text, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if !bytes.HasPrefix(text, []byte("Name:\tprobe\n")) {
		return 0
	}
	_, after, _ := strings.Cut(string(text), "VmHWM:")
	value, _, _ := strings.Cut(after, "kB")
	n, _ := strconv.Atoi(strings.TrimSpace(value))
	return n
}
