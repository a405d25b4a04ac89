package process

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// fakeProc is a procfs with one process.
func fakeProc(t *testing.T, boot, stat, environ string) Table {
	t.Helper()
	proc := t.TempDir()
	for path, content := range map[string]string{
		"sys/kernel/random/boot_id": boot + "\n",
		"42/stat":                   stat,
		"42/environ":                environ,
		"self/environ":              environ, // not a process ID: never looked at
	} {
		file := filepath.Join(proc, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Table{State: "/state", Proc: proc}
}

// statLine is /proc/PID/stat of a process with this name, state and start time.
func statLine(name, state string, start int) string {
	return fmt.Sprintf("42 (%s) %s 1 42 42 0 -1 0 0 0 0 0 1 2 3 4 20 0 1 0 %d 1000 10", name, state, start)
}

func TestAlive(t *testing.T) {
	record := Record{PID: 42, Start: 777, Boot: "this"}
	for name, tc := range map[string]struct {
		boot, stat string
		record     Record
		want       bool
	}{
		"the same process":                      {"this", statLine("lab", "S", 777), record, true},
		"a name with parentheses and blanks":    {"this", statLine("a) Z (b", "S", 777), record, true},
		"the number was given to another":       {"this", statLine("lab", "S", 778), record, false},
		"the machine was rebooted":              {"that", statLine("lab", "S", 777), record, false},
		"it has ended but nobody waited for it": {"this", statLine("lab", "Z", 777), record, false},
		"there is no such process":              {"this", statLine("lab", "S", 777), Record{PID: 43, Start: 777, Boot: "this"}, false},
		"an unreadable line":                    {"this", "42 lab", record, false},
		"a record that was never filled in":     {"this", statLine("lab", "S", 0), Record{Boot: "this"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := fakeProc(t, tc.boot, tc.stat, "").Alive(tc.record); got != tc.want {
				t.Errorf("alive: %t, want %t", got, tc.want)
			}
		})
	}
}

func TestMarked(t *testing.T) {
	for environ, want := range map[string][]int{
		"A=1\x00PATHPROOF_LAB_STATE=/state\x00B=2\x00": {42},
		"PATHPROOF_LAB_STATE=/state/other\x00":         nil,
		"XPATHPROOF_LAB_STATE=/state\x00":              nil,
		"":                                             nil,
	} {
		got, err := fakeProc(t, "b", statLine("lab", "S", 1), environ).Marked()
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v, want %v", environ, got, err, want)
		}
	}
}

func TestStartRecordsAndMarks(t *testing.T) {
	table := NewTable(t.TempDir())
	started, err := table.Start(Spec{Name: "sleeper", Command: []string{"sleep", "60"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(started.PID, syscall.SIGKILL) }()
	record, ok := table.Get("sleeper")
	if !ok || record.PID != started.PID || !table.Alive(record) {
		t.Fatalf("record %+v, found %t, want a living %d", record, ok, started.PID)
	}
	if all, err := table.List(); err != nil || len(all) != 1 {
		t.Errorf("list: %v, %v, want one record", all, err)
	}
	if !eventually(func() bool { pids, _ := table.Marked(); return slices.Contains(pids, started.PID) }) {
		t.Error("the process does not carry the marker")
	}
	if err := syscall.Kill(started.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if !eventually(func() bool { return !table.Alive(record) }) {
		t.Error("the process still counts as alive")
	}
}

func TestListWithoutAnything(t *testing.T) {
	if all, err := NewTable(filepath.Join(t.TempDir(), "none")).List(); err != nil || all != nil {
		t.Errorf("%v, %v, want nothing", all, err)
	}
}

func eventually(holds func() bool) bool {
	for range 200 {
		if holds() {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}
