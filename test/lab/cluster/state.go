package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/pathproof/pathproof/test/lab/assets"
	"github.com/pathproof/pathproof/test/lab/process"
)

// Lab is a handle on the lab of this machine.
type Lab struct {
	progress  assets.Progress
	processes process.Table
	binaries  assets.Binaries
	state     state
	nodes     []Node
}

// New returns a handle. Nothing is changed yet.
func New(progress assets.Progress) *Lab {
	l := &Lab{progress: progress, processes: process.NewTable(State)}
	l.load()
	return l
}

// state is what a later run must know of an earlier one. Nothing that `down`
// has to find depends on it, except for the two settings to put back.
type state struct {
	Boot     string          `json:"boot"`
	Nodes    int             `json:"nodes"`
	Binaries assets.Binaries `json:"binaries"`
	// Layout is the layout that the lab was built with; zero until it is complete.
	Layout int `json:"layout"`
	// Sysctls are the machine's settings before the kubelets changed them.
	Sysctls map[string]string `json:"sysctls"`
	// OwnsKubeletDir tells that this machine had no kubelet before.
	OwnsKubeletDir bool `json:"ownsKubeletDir"`
	// NetnsMount tells that /run/netns was a mount point before.
	NetnsMount bool `json:"netnsMount"`
}

func (l *Lab) load() {
	l.state = state{}
	if data, err := os.ReadFile(stateFile); err == nil {
		// A file that cannot be read stands for an unfinished `up`.
		_ = json.Unmarshal(data, &l.state)
	}
	l.nodes = nodes(l.state.Nodes)
	l.binaries = l.state.Binaries
}

func (l *Lab) save() error {
	data, err := json.MarshalIndent(l.state, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(stateFile+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(stateFile+".new", stateFile)
}

// layout numbers how the lab is built: the networks, and what its programs expect
// of each other. A lab of another layout cannot be repaired, only replaced. (One of
// the first layout, with IPv4 alone, has a mark of another name in its state.)
const layout = 3

// Complete tells whether an `up` of this layout has come to its end since the
// machine booted.
func (l *Lab) Complete() bool {
	return l.state.Layout == layout && l.state.Boot == l.processes.Boot()
}

// NotUpError says that there is no lab to work with.
type NotUpError struct{}

func (*NotUpError) Error() string { return "the lab is not up; start it with: go run ./test/lab up" }

// Nodes returns the node with this name, or all if it is empty.
func (l *Lab) Nodes(name string) ([]Node, error) {
	if !l.Complete() {
		return nil, &NotUpError{}
	}
	if name == "" {
		return l.nodes, nil
	}
	var names []string
	for _, n := range l.nodes {
		if n.Name == name {
			return []Node{n}, nil
		}
		names = append(names, n.Name)
	}
	return nil, &UnknownNodeError{Given: name, Names: names}
}

// UnknownNodeError says that a node does not exist, and which do.
type UnknownNodeError struct {
	Given string
	Names []string
}

func (e *UnknownNodeError) Error() string {
	return fmt.Sprintf("there is no node %q; the nodes are %s", e.Given, strings.Join(e.Names, ", "))
}

// lock keeps two runs of `up` or `down` apart. It is an abstract socket: it
// leaves no file behind, and the kernel gives it up when the process dies.
func lock(ctx context.Context) (unlock func(), _ error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "unix", "@"+prefix+"-lab")
	if err != nil {
		return nil, errors.New("another `up` or `down` of the lab is running")
	}
	return func() { _ = l.Close() }, nil
}

// sysctls lists what a kubelet sets for the whole machine when it starts.
var sysctls = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

func readSysctls() map[string]string {
	out := map[string]string{}
	for _, name := range sysctls {
		if value, err := os.ReadFile(filepath.Join("/proc/sys", name)); err == nil {
			out[name] = strings.TrimSpace(string(value))
		}
	}
	return out
}

// run runs a command to its end. Its output is shown only if it fails.
func run(ctx context.Context, command ...string) error {
	cmd := marked(ctx, command...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running %s: %w: %s", strings.Join(command, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// marked prepares a command that `down` can find, should this program be killed
// while the command runs.
func marked(ctx context.Context, command ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), process.Marker+"="+State)
	return cmd
}

// removeFile removes a file that may already be gone.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// tail returns the last lines of a log.
func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
