//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pathproof/pathproof/probe/wire"
)

// asked writes annotations with requests for records.
func asked(t *testing.T, path string, ids map[string]string) {
	t.Helper()
	values := map[string]string{}
	for owner, id := range ids {
		text, err := wire.EncodeRecordRequest(wire.RecordRequest{Version: wire.Version, ID: id})
		if err != nil {
			t.Fatal(err)
		}
		values[wire.RecordKeyPrefix+owner] = text
	}
	annotate(t, path, values)
}

func TestServeLeavesItsRecordAndEnds(t *testing.T) {
	dir := t.TempDir()
	path, file := filepath.Join(dir, "annotations"), filepath.Join(dir, "record")
	asked(t, path, nil)
	done := make(chan int, 1)
	var out bytes.Buffer
	go func() {
		p := program{stdout: &out, stderr: writerFunc(func([]byte) { asked(t, path, map[string]string{"a": "run-1"}) })}
		done <- p.main(t.Context(), []string{"serve", "--listen=UDP/45123", "--health-port=0", "--annotations=" + path, "--record=" + file})
	}()
	if code := <-done; code != exitOK {
		t.Errorf("got code %d", code)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if record, err := wire.DecodeRecord(string(text)); err != nil || record.ID != "run-1" {
		t.Errorf("got %+v, %v", record, err)
	}
	if m, err := wire.DecodeMessage(strings.TrimSuffix(out.String(), "\n")); err != nil || m.Record == nil || m.Record.ID != "run-1" {
		t.Errorf("printed %q, %v, want the record", out.String(), err)
	}
}

func TestServePrintsEveryRecordAndStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "annotations")
	asked(t, path, map[string]string{"a": "run-1"})
	out, in := io.Pipe()
	done := make(chan int, 1)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		p := program{stdout: in, stderr: io.Discard}
		done <- p.main(ctx, []string{"serve", "--listen=UDP/45124", "--health-port=0", "--annotations=" + path})
		_ = in.Close()
	}()
	var ids []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		m, err := wire.DecodeMessage(lines.Text())
		if err != nil || m.Record == nil {
			t.Fatalf("got %q, %v, want a record", lines.Text(), err)
		}
		ids = append(ids, m.Record.ID)
		switch m.Record.ID {
		case "run-1":
			asked(t, path, map[string]string{"a": "run-1", "b": "run-2"})
		case "run-2":
			asked(t, path, map[string]string{"a": "run-3", "b": "run-2"})
		default:
			stop()
		}
	}
	if code := <-done; code != exitOK || !slices.Equal(ids, []string{"run-1", "run-2", "run-3"}) {
		t.Errorf("got code %d and records of %v", code, ids)
	}
}

// annotate writes annotations as the kubelet does: another file takes the place of the last
// one.
func annotate(t *testing.T, path string, annotations map[string]string) {
	t.Helper()
	text := "kubernetes.io/config.source=\"api\""
	for key, value := range annotations {
		text += fmt.Sprintf("\n%s=%q", key, value)
	}
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}
