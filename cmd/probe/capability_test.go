//go:build linux

package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pathproof/pathproof/probe/wire"
)

// runtimeEnv makes a process of this test binary what a container runtime is between
// clone and exec. Its value is the capability that the container may have.
const runtimeEnv = "PATHPROOF_TEST_CAPABILITIES"

func TestMain(m *testing.M) {
	if capabilities, ok := os.LookupEnv(runtimeEnv); ok {
		become(capabilities)
		panic("exec returned")
	}
	os.Exit(m.Run())
}

// become does what a runtime does for a container that drops all capabilities and adds
// those given, runs as nobody and forbids privilege escalation, and then runs the
// arguments. The kernel takes the permitted set away from who is not root when it runs
// the binary; what the file has and what was permitted before stays.
func become(capabilities string) {
	runtime.LockOSThread()
	kept, err := strconv.ParseUint(capabilities, 10, 32)
	check(err)
	for c := range uintptr(unix.CAP_LAST_CAP + 1) {
		if kept&(1<<c) == 0 {
			check(unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0))
		}
	}
	check(unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0))
	for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
		// Of this thread alone: it is the one that stays.
		if _, _, errno := unix.RawSyscall(call, 65532, 65532, 65532); errno != 0 {
			panic(errno)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	sets := [2]unix.CapUserData{{Effective: uint32(kept), Permitted: uint32(kept)}}
	check(unix.Capset(&header, &sets[0]))
	check(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	check(os.Unsetenv(runtimeEnv))
	check(syscall.Exec(os.Args[1], os.Args[1:], os.Environ()))
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// contained is a command that runs like a container's.
func contained(capabilities uint32, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), runtimeEnv+"="+strconv.FormatUint(uint64(capabilities), 10))
	return cmd
}

// binaries builds the probe, with and without the file capability of the image.
func binaries(t *testing.T) (with, without string) {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Flags&unix.ST_NOSUID != 0 {
		t.Skipf("skipping: file capabilities mean nothing in %s (nosuid; %v)", dir, err)
	}
	with, without = filepath.Join(dir, "with"), filepath.Join(dir, "without")
	goTool(t, "build", "-o", without, ".")
	binary, err := os.ReadFile(without)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(with, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	goTool(t, "run", "../../hack/filecap", with)
	return with, without
}

// inNamespace runs a function in a network namespace of its own. What it starts is in
// there, too.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			done <- err
			return
		}
		f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// What the operator asks for (no root, no privilege escalation, NET_RAW added) and what
// the image has (the capability in its file) are enough, and nothing less is. Without
// the capability the binary still runs: most probe pods have none.
func TestRawSCTPWithoutRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipping: giving a process capabilities takes root")
	}
	if fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP); err == nil {
		_ = unix.Close(fd)
		t.Skip("skipping: this kernel has SCTP, so that no raw socket is used")
	}
	with, without := binaries(t)
	const netRaw = 1 << unix.CAP_NET_RAW
	plan := loopbackPlan(9000)
	plan.Checks[0].Transport, plan.Checks[0].Nonce = wire.SCTP, "n1"
	encoded := encodePlan(t, plan)
	cases := map[string]struct {
		binary       string
		capabilities uint32
		want         wire.Outcome
		wantServe    int
	}{
		"the pod has the capability and so has the file":   {with, netRaw, wire.Replied, exitOK},
		"the pod has none, as all without SCTP checks":     {with, 0, wire.Unsupported, exitUnsupported},
		"the file has none, as after a careless copy":      {without, netRaw, wire.Unsupported, exitUnsupported},
		"the pod has another one, which is no use for raw": {with, 1 << unix.CAP_NET_BIND_SERVICE, wire.Unsupported, exitUnsupported},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			inNamespace(t, func() {
				server := contained(tc.capabilities, tc.binary, "serve", "--listen=SCTP/9000", "--health-port=0", "--raw-sctp")
				log, err := server.StderrPipe()
				if err != nil {
					t.Error(err)
					return
				}
				if err := server.Start(); err != nil {
					t.Error(err)
					return
				}
				defer func() {
					_ = server.Process.Signal(syscall.SIGTERM)
					_ = server.Wait()
					if got := server.ProcessState.ExitCode(); got != tc.wantServe {
						t.Errorf("the responder ended with %d, want %d", got, tc.wantServe)
					}
				}()
				// It listens, or has ended.
				lines := make([]byte, 4096)
				for text := ""; !strings.Contains(text, "answering on"); {
					n, err := log.Read(lines)
					text += string(lines[:n])
					if err != nil {
						break
					}
				}
				go func() { _, _ = io.Copy(io.Discard, log) }()

				client := contained(tc.capabilities, tc.binary, "run", "--plan=-", "--report=-", "--raw-sctp")
				client.Stdin = strings.NewReader(encoded)
				var stdout, stderr bytes.Buffer
				client.Stdout, client.Stderr = &stdout, &stderr
				client.WaitDelay = 10 * time.Second
				if err := client.Run(); err != nil {
					t.Errorf("the probe ended with %v: %s", err, &stderr)
					return
				}
				report, err := wire.DecodeReport(stdout.String())
				if err != nil || len(report.Results) != 1 || !report.Results[0].Outcomes.All(func(o wire.Outcome) bool { return o == tc.want }) {
					t.Errorf("got report %+v (%v), want only %v", report, err, tc.want)
				}
			})
		})
	}
}
