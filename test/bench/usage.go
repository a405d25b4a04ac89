package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pathproof/pathproof/test/lab/process"
)

const (
	// podsGroup is the lab's cgroup, which holds all pods.
	podsGroup = "pathproof-lab"
	// daemonsGroup is where the lab's other processes are put while they are measured:
	// what starts pods has children that live for milliseconds.
	daemonsGroup = "pathproof-bench"
	// tick is the unit of processor times in procfs (USER_HZ, 100 on all platforms).
	tick = 10 * time.Millisecond
)

// usage reads the processor time of the machine and of the lab.
type usage struct {
	// root is where cgroups are mounted; v2 tells of which version they are.
	root string
	v2   bool
}

// newUsage puts the lab's daemons into a cgroup of their own.
func newUsage() (*usage, error) {
	u := &usage{root: "/sys/fs/cgroup/cpuacct"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		u.root, u.v2 = "/sys/fs/cgroup", true
	}
	if err := os.Mkdir(filepath.Join(u.root, daemonsGroup), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("making a cgroup: %w", err)
	}
	moved := 0
	for _, pid := range pids() {
		groups, err := os.ReadFile(procFile(pid, "cgroup"))
		environ, _ := os.ReadFile(procFile(pid, "environ"))
		if err != nil || !bytes.Contains(environ, []byte(process.Marker+"=")) || bytes.Contains(groups, []byte("/"+podsGroup)) {
			continue
		}
		// One that has ended in the meantime is no loss.
		if os.WriteFile(filepath.Join(u.root, daemonsGroup, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0) == nil {
			moved++
		}
	}
	if moved == 0 {
		return nil, errors.Join(errors.New("no process of the lab was found"), u.close())
	}
	return u, nil
}

// close puts the daemons back.
func (u *usage) close() error {
	group := filepath.Join(u.root, daemonsGroup)
	// Until it is empty: what is there may start more.
	for range 100 {
		text, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
		if err != nil {
			return fmt.Errorf("reading a cgroup: %w", err)
		}
		for _, pid := range strings.Fields(string(text)) {
			_ = os.WriteFile(filepath.Join(u.root, "cgroup.procs"), []byte(pid), 0)
		}
		if err := os.Remove(group); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("removing %s: processes are left in it", group)
}

// spent is processor time.
type spent struct {
	// machine is that of everything, the kernel's work for interrupts included.
	machine time.Duration
	// cluster is that of the lab's processes and pods, those that have ended included.
	cluster time.Duration
	// of is that of the processes that live, by their name.
	of map[string]time.Duration
}

func (u *usage) read() (*spent, error) {
	s := &spent{of: map[string]time.Duration{}}
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return nil, err
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	fields := strings.Fields(line)
	// user nice system idle iowait irq softirq steal: proc_stat(5).
	for _, i := range []int{1, 2, 3, 6, 7} {
		if i < len(fields) {
			n, _ := strconv.ParseInt(fields[i], 10, 64)
			s.machine += time.Duration(n) * tick
		}
	}
	for _, group := range []string{podsGroup, daemonsGroup} {
		d, err := u.ofGroup(group)
		if err != nil {
			return nil, err
		}
		s.cluster += d
		for _, pid := range u.members(group) {
			name, d := processTime(pid)
			s.of[name] += d
		}
	}
	return s, nil
}

func (u *usage) ofGroup(name string) (time.Duration, error) {
	if !u.v2 {
		text, err := os.ReadFile(filepath.Join(u.root, name, "cpuacct.usage"))
		if err != nil {
			return 0, err
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		return time.Duration(n), err
	}
	text, err := os.ReadFile(filepath.Join(u.root, name, "cpu.stat"))
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(string(text), "\n") {
		if value, ok := strings.CutPrefix(line, "usage_usec "); ok {
			n, err := strconv.ParseInt(value, 10, 64)
			return time.Duration(n) * time.Microsecond, err
		}
	}
	return 0, fmt.Errorf("%s tells no usage", name)
}

// members returns the processes of a group and of those below it.
func (u *usage) members(name string) []int {
	var out []int
	_ = filepath.WalkDir(filepath.Join(u.root, name), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "cgroup.procs" {
			return nil //nolint:nilerr // groups come and go
		}
		text, _ := os.ReadFile(path)
		for _, f := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(f); err == nil {
				out = append(out, pid)
			}
		}
		return nil
	})
	return out
}

// processTime returns the name of a process and its processor time.
func processTime(pid int) (string, time.Duration) {
	text, _ := os.ReadFile(procFile(pid, "stat"))
	// The name is in parentheses, and may hold some.
	begin, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if begin < 0 || end < begin {
		return "", 0
	}
	fields := strings.Fields(string(text[end+1:]))
	if len(fields) < 13 {
		return "", 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return string(text[begin+1 : end]), time.Duration(user+system) * tick
}

// since returns the difference to an earlier reading.
func (s *spent) since(before *spent) *spent {
	d := &spent{machine: s.machine - before.machine, cluster: s.cluster - before.cluster, of: map[string]time.Duration{}}
	for name, t := range s.of {
		d.of[name] = max(0, t-before.of[name])
	}
	return d
}

// over returns what is spent in a time at the rate of another time.
func (s *spent) over(d, measured time.Duration) *spent {
	scale := func(t time.Duration) time.Duration {
		return time.Duration(float64(t) * d.Seconds() / measured.Seconds())
	}
	out := &spent{machine: scale(s.machine), cluster: scale(s.cluster), of: map[string]time.Duration{}}
	for name, t := range s.of {
		out.of[name] = scale(t)
	}
	return out
}

// shares names the processes that spent most, without what they spend when idle.
func (s *spent) shares(idle *spent, checks int) string {
	rest, net := s.cluster-idle.cluster, map[string]time.Duration{}
	for name, t := range s.of {
		net[name] = t - idle.of[name]
		rest -= net[name]
	}
	names := slices.SortedFunc(maps.Keys(net), func(a, b string) int { return cmp.Or(cmp.Compare(net[b], net[a]), cmp.Compare(a, b)) })
	var out []string
	for _, name := range append(names[:min(6, len(names))], "what has ended, and the rest") {
		t, ok := net[name]
		if !ok {
			t = rest
		}
		out = append(out, fmt.Sprintf("%s %.2f ms", name, t.Seconds()*1000/float64(checks)))
	}
	return strings.Join(out, ", ")
}

// peak is the memory of the largest probe.
type peak struct {
	pods  int
	bytes int64
}

// watchProbes follows the memory of the probes on this machine until it is stopped.
func watchProbes() (stop func() peak) {
	quit, done := make(chan struct{}), make(chan peak)
	go func() {
		seen := map[int]int64{}
		for {
			for _, pid := range pids() {
				if isProbe(pid) {
					seen[pid] = max(seen[pid], highWater(pid))
				}
			}
			select {
			case <-quit:
				p := peak{pods: len(seen)}
				for _, n := range seen {
					p.bytes = max(p.bytes, n)
				}
				done <- p
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	return func() peak {
		close(quit)
		return <-done
	}
}

// isProbe tells whether a process runs checks. A responder is the same program.
func isProbe(pid int) bool {
	text, _ := os.ReadFile(procFile(pid, "cmdline"))
	args := strings.Split(string(text), "\x00")
	return len(args) > 1 && filepath.Base(args[0]) == "probe" && (args[1] == "run" || args[1] == "stay")
}

// highWater returns the most memory that a process has had in bytes, 0 if it is gone.
func highWater(pid int) int64 {
	text, _ := os.ReadFile(procFile(pid, "status"))
	for _, line := range strings.Split(string(text), "\n") {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return n * 1024
		}
	}
	return 0
}

func procFile(pid int, name string) string { return filepath.Join("/proc", strconv.Itoa(pid), name) }

// pids returns the processes of the machine.
func pids() []int {
	entries, _ := os.ReadDir("/proc")
	var out []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// loadAverage returns the machine's.
func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(text))
	return strings.Join(fields[:min(3, len(fields))], " ")
}
