// Package process starts the lab's long-lived processes and finds them again.
//
// Every process is recorded with its start time and the machine's boot, because
// a process ID alone says nothing: it may have been given to another process
// since. Every process also carries [Marker] in its environment, so that one
// whose record was never written (the lab was killed in between) can still be
// told from all others.
package process

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Marker is the environment variable that all processes of the lab carry. Its
// value is the lab's state folder.
const Marker = "PATHPROOF_LAB_STATE"

// Record identifies a process for good.
type Record struct {
	Name    string   `json:"name"`
	PID     int      `json:"pid"`
	Start   uint64   `json:"start"` // clock ticks after boot, from /proc/PID/stat
	Boot    string   `json:"boot"`
	Command []string `json:"command"`
	Log     string   `json:"log"`
}

// Spec is a process to start.
type Spec struct {
	Name    string
	Netns   string // name of a network namespace, or empty for the current one
	Command []string
	Env     []string
}

// Table is the set of the lab's processes.
type Table struct {
	// State is the lab's state folder, the value of the marker.
	State string
	// Proc is where procfs is mounted; tests replace it.
	Proc string
}

// NewTable returns the table kept in a state folder.
func NewTable(state string) Table { return Table{State: state, Proc: "/proc"} }

func (t Table) records() string { return filepath.Join(t.State, "run") }

// LogPath is where a process writes.
func (t Table) LogPath(name string) string { return filepath.Join(t.State, "logs", name+".log") }

// Start starts a process that outlives the caller, and records it.
func (t Table) Start(s Spec) (Record, error) {
	for _, dir := range []string{t.records(), filepath.Dir(t.LogPath(s.Name))} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return Record{}, err
		}
	}
	log, err := os.OpenFile(t.LogPath(s.Name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return Record{}, err
	}
	defer func() { _ = log.Close() }()
	command := s.Command
	if s.Netns != "" {
		// nsenter, not `ip netns exec`: that one also remounts /sys, which
		// hides the cgroup file systems from the kubelet. nsenter replaces
		// itself by the command, so the process ID stays.
		command = append([]string{"nsenter", "--net=/run/netns/" + s.Netns}, command...)
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(append(os.Environ(), s.Env...), Marker+"="+t.State)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return Record{}, fmt.Errorf("starting %s: %w", s.Name, err)
	}
	// Reaped while this program lives; afterwards by init.
	go func() { _ = cmd.Wait() }()
	r := Record{Name: s.Name, PID: cmd.Process.Pid, Boot: t.Boot(), Command: command, Log: log.Name()}
	if stat, err := t.stat(r.PID); err == nil {
		r.Start = stat.start
	}
	return r, t.write(r)
}

func (t Table) write(r Record) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(t.records(), r.Name+".json")
	if err := os.WriteFile(path+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Get returns the record of a process; it reports false if there is none.
func (t Table) Get(name string) (Record, bool) {
	data, err := os.ReadFile(filepath.Join(t.records(), name+".json"))
	if err != nil {
		return Record{}, false
	}
	var r Record
	return r, json.Unmarshal(data, &r) == nil
}

// List returns all records, by name.
func (t Table) List() ([]Record, error) {
	entries, err := os.ReadDir(t.records())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []Record
	for _, e := range entries {
		name, isRecord := strings.CutSuffix(e.Name(), ".json")
		if r, ok := t.Get(name); isRecord && ok {
			out = append(out, r)
		}
	}
	return out, err
}

// Alive tells whether the very process of the record still runs.
func (t Table) Alive(r Record) bool {
	if r.PID <= 0 || r.Boot != t.Boot() {
		return false
	}
	stat, err := t.stat(r.PID)
	return err == nil && stat.start == r.Start && stat.state != "Z" && stat.state != "X"
}

// Boot identifies the run of the kernel: process IDs and start times mean
// nothing beyond it.
func (t Table) Boot() string {
	id, err := os.ReadFile(filepath.Join(t.Proc, "sys/kernel/random/boot_id"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// Marked finds all processes that carry the marker of this state folder, the
// recorded ones and their descendants.
func (t Table) Marked() ([]int, error) {
	entries, err := os.ReadDir(t.Proc)
	if err != nil {
		return nil, err
	}
	want := []byte(Marker + "=" + t.State)
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		environ, err := os.ReadFile(filepath.Join(t.Proc, e.Name(), "environ"))
		if err != nil {
			continue // it ended meanwhile, or is another user's
		}
		if slices.ContainsFunc(bytes.Split(environ, []byte{0}), func(v []byte) bool { return bytes.Equal(v, want) }) {
			out = append(out, pid)
		}
	}
	return out, nil
}

type stat struct {
	state string
	start uint64
}

// stat reads /proc/PID/stat. The second field is the program's name in
// parentheses, and may itself hold spaces and parentheses: fields are counted
// from the last one.
func (t Table) stat(pid int) (stat, error) {
	path := filepath.Join(t.Proc, strconv.Itoa(pid), "stat")
	data, err := os.ReadFile(path)
	if err != nil {
		return stat{}, err
	}
	const stateField, startField = 3, 22 // as numbered in proc(5)
	end := bytes.LastIndexByte(data, ')')
	if end < 0 {
		return stat{}, fmt.Errorf("reading %s: no program name", path)
	}
	fields := strings.Fields(string(data[end+1:]))
	if len(fields) <= startField-stateField {
		return stat{}, fmt.Errorf("reading %s: %d fields", path, len(fields))
	}
	start, err := strconv.ParseUint(fields[startField-stateField], 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("reading %s: %w", path, err)
	}
	return stat{state: fields[0], start: start}, nil
}
