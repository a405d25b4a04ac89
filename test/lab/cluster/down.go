package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Down removes everything that the lab made on this machine, except for the
// cache of binaries. It is idempotent.
func (l *Lab) Down(ctx context.Context) error {
	unlock, err := lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if len(l.remains()) == 0 {
		l.progress("nothing to do: the lab is down")
		return nil
	}
	if err := l.takeDown(ctx); err != nil {
		return err
	}
	l.progress("down")
	return nil
}

// takeDown goes from the living to the dead: processes first, because they
// would put back what is removed under them; the state folder last, because it
// holds what a second attempt needs.
func (l *Lab) takeDown(ctx context.Context) error {
	l.load()
	for _, step := range []struct {
		what string
		run  func(context.Context) error
	}{
		{"ending processes", l.killAll},
		{"removing network namespaces", removeNetns},
		{"removing links", removeLinks},
		{"unmounting", func(context.Context) error { return unmountAll() }},
		{"removing cgroups", func(context.Context) error { return removeCgroups() }},
		{"restoring settings", func(context.Context) error { return l.restoreSettings() }},
		{"removing traces", func(context.Context) error { return l.removeTraces() }},
		{"removing the state", func(context.Context) error { return os.RemoveAll(State) }},
	} {
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	l.load()
	if remains := l.remains(); len(remains) > 0 {
		return fmt.Errorf("still there: %s", strings.Join(remains, ", "))
	}
	return nil
}

// remains names what there is of a lab, whole or not.
func (l *Lab) remains() []string {
	var out []string
	for _, pid := range l.pids() {
		out = append(out, fmt.Sprintf("process %d", pid))
	}
	out = append(out, netnsNames()...)
	out = append(out, linkNames()...)
	out = append(out, mountsBelow(State)...)
	out = append(out, cgroupRoots()...)
	if _, err := os.Stat(State); err == nil {
		out = append(out, State)
	}
	return out
}

// pids finds the lab's processes: those recorded, those marked, and all that
// run in a container of one of its nodes.
func (l *Lab) pids() []int {
	pids, _ := l.processes.Marked()
	records, _ := l.processes.List()
	for _, r := range records {
		if l.processes.Alive(r) {
			pids = append(pids, r.PID)
		}
	}
	for _, root := range cgroupRoots() {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.Name() != "cgroup.procs" {
				return nil //nolint:nilerr // a group that vanishes meanwhile holds no process
			}
			data, _ := os.ReadFile(path)
			for field := range strings.FieldsSeq(string(data)) {
				if pid, err := strconv.Atoi(field); err == nil {
					pids = append(pids, pid)
				}
			}
			return nil
		})
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

func (l *Lab) killAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		pids := l.pids()
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			// Nothing is worth an orderly end: all that it could save is
			// removed next.
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("killing %d: %w", pid, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes %v survive: %w", pids, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func netnsNames() []string {
	entries, _ := os.ReadDir("/run/netns")
	var out []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix+"-") {
			out = append(out, e.Name())
		}
	}
	return out
}

func removeNetns(ctx context.Context) error {
	for _, name := range netnsNames() {
		if err := run(ctx, "ip", "netns", "delete", name); err != nil {
			return err
		}
	}
	return nil
}

func linkNames() []string {
	entries, _ := os.ReadDir("/sys/class/net")
	var out []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			out = append(out, e.Name())
		}
	}
	return out
}

// removeLinks removes the machine's port, and with it the routes. The end of
// its namespace may have taken it away already, at a moment of the kernel's
// choosing.
func removeLinks(ctx context.Context) error {
	for _, name := range linkNames() {
		if err := run(ctx, "ip", "link", "delete", name); err != nil && slices.Contains(linkNames(), name) {
			return err
		}
	}
	return nil
}

// mountsBelow lists the mount points in a folder, the deepest first.
func mountsBelow(dir string) []string {
	var out []string
	for _, m := range mountPoints() {
		if strings.HasPrefix(m, dir+"/") {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b string) int { return strings.Compare(b, a) })
	return out
}

func isMounted(path string) bool { return slices.Contains(mountPoints(), path) }

func mountPoints() []string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	var out []string
	// The kernel writes blanks and backslashes as octal numbers.
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		const mountPoint = 4
		if fields := strings.Fields(lines.Text()); len(fields) > mountPoint {
			out = append(out, unescape.Replace(fields[mountPoint]))
		}
	}
	return out
}

// unmountAll repeats itself because mounts can lie on top of each other.
func unmountAll() error {
	for range 10 {
		mounts := mountsBelow(State)
		if len(mounts) == 0 {
			return nil
		}
		for _, m := range mounts {
			if err := syscall.Unmount(m, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
				return fmt.Errorf("%s: %w", m, err)
			}
		}
	}
	return fmt.Errorf("still mounted: %v", mountsBelow(State))
}

// cgroupRoots finds the lab's group in every hierarchy: there is one with
// cgroup v2, and one for each controller with v1.
func cgroupRoots() []string {
	one, _ := filepath.Glob("/sys/fs/cgroup/" + cgroupName)
	many, _ := filepath.Glob("/sys/fs/cgroup/*/" + cgroupName)
	return append(one, many...)
}

func removeCgroups() error {
	for _, root := range cgroupRoots() {
		var dirs []string
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(dirs) {
			if err := removeCgroup(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeCgroup tries for a while: a group is busy until the kernel has done
// with the last process in it.
func removeCgroup(dir string) error {
	var err error
	for range 100 {
		err = syscall.Rmdir(dir)
		if err == nil || errors.Is(err, syscall.ENOENT) {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("%s: %w", dir, err)
}
