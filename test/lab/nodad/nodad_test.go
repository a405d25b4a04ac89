package nodad

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestAddTurnsItOffInThePodsNamespaceOnly uses a namespace of its own.
func TestAddTurnsItOffInThePodsNamespaceOnly(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const setting = "/proc/sys/net/ipv6/conf/default/accept_dad"
	before, err := os.ReadFile(setting)
	if err != nil {
		t.Skip("needs IPv6:", err)
	}
	pod := exec.CommandContext(t.Context(), "unshare", "--net", "sh", "-c", "echo; read line; cat "+setting)
	in, err := pod.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := pod.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := pod.Start(); err != nil {
		t.Skip("needs unshare:", err)
	}
	// The first byte says that the namespace is there.
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	var result bytes.Buffer
	if err := run("ADD", filepath.Join("/proc", strconv.Itoa(pod.Process.Pid), "ns/net"), &result); err != nil {
		t.Fatal(err)
	}
	if !json.Valid(result.Bytes()) || !strings.Contains(result.String(), "cniVersion") {
		t.Errorf("result %q", result.String())
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	if _, err := said.ReadFrom(out); err != nil {
		t.Fatal(err)
	}
	if err := pod.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(said.String()); got != "0" {
		t.Errorf("in the pod's namespace the setting is %q, want 0", got)
	}
	if after, err := os.ReadFile(setting); err != nil || string(after) != string(before) {
		t.Errorf("the machine's own setting was %s and is %s, %v", before, after, err)
	}
}

func TestAddFailsWithoutANamespace(t *testing.T) {
	if err := run("ADD", filepath.Join(t.TempDir(), "none"), &bytes.Buffer{}); err == nil {
		t.Error("no error")
	}
}

func TestVersionAndDelete(t *testing.T) {
	var out bytes.Buffer
	if err := run("VERSION", "", &out); err != nil || !strings.Contains(out.String(), "0.4.0") {
		t.Errorf("VERSION: %v, %s", err, out.String())
	}
	if err := run("DEL", "", &bytes.Buffer{}); err != nil {
		t.Errorf("DEL: %v", err)
	}
}
