package cluster

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// restoreSettings puts back what the kubelets and `ip netns` changed for the
// whole machine. After a reboot there is nothing to put back.
func (l *Lab) restoreSettings() error {
	if l.state.Boot != l.processes.Boot() {
		return nil
	}
	for name, value := range l.state.Sysctls {
		path := filepath.Join("/proc/sys", name)
		if now, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(now)) != value {
			if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
				return err
			}
		}
	}
	// `ip netns add` turned its folder into a mount point.
	if entries, err := os.ReadDir("/run/netns"); err != nil || len(entries) > 0 || l.state.NetnsMount {
		return nil //nolint:nilerr // no such folder: nothing to restore
	}
	if err := syscall.Unmount("/run/netns", 0); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return removeIfEmpty("/run/netns")
}

// kubeletSocket is the one path of a kubelet that no setting changes. Several
// kubelets then share it; only plugins for devices would mind.
const kubeletSocket = "/var/lib/kubelet/device-plugins/kubelet.sock"

// hasKubelet tells whether this machine has a kubelet of its own.
func hasKubelet() bool {
	_, err := os.Stat(filepath.Dir(kubeletSocket))
	return err == nil
}

// removeTraces removes the few files that kubelet, containerd and the CNI
// library keep at fixed places outside the state folder. It needs the state
// folder to know them.
func (l *Lab) removeTraces() error {
	if l.state.OwnsKubeletDir {
		if err := removeFile(kubeletSocket); err != nil {
			return err
		}
	}
	// The sockets of the shims: each container's folder names its own.
	addresses, _ := filepath.Glob(filepath.Join(State, "nodes/*/containerd/state/io.containerd.runtime.v2.task/*/*/address"))
	for _, file := range addresses {
		data, err := os.ReadFile(file)
		socket, ok := strings.CutPrefix(strings.TrimSpace(string(data)), "unix://")
		if err != nil || !ok || !strings.HasPrefix(socket, "/run/containerd/s/") {
			continue
		}
		if err := removeFile(socket); err != nil {
			return err
		}
	}
	// What the CNI library remembers of each pod; it names the pod's namespace.
	results, _ := filepath.Glob("/var/lib/cni/results/*")
	for _, file := range results {
		if data, err := os.ReadFile(file); err == nil && bytes.Contains(data, []byte(State+"/")) {
			if err := removeFile(file); err != nil {
				return err
			}
		}
	}
	logs, _ := filepath.Glob("/var/log/containers/*")
	for _, link := range logs {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, State+"/") {
			if err := removeFile(link); err != nil {
				return err
			}
		}
	}
	for _, dir := range []string{
		"/run/containerd/s", "/run/containerd", "/var/lib/cni/results", "/var/lib/cni", "/var/log/containers",
		"/var/lib/kubelet/device-plugins", "/var/lib/kubelet",
	} {
		if err := removeIfEmpty(dir); err != nil {
			return err
		}
	}
	return nil
}

// removeIfEmpty leaves a folder that something else uses.
func removeIfEmpty(dir string) error {
	err := syscall.Rmdir(dir)
	for _, harmless := range []error{syscall.ENOENT, syscall.ENOTEMPTY, syscall.EEXIST, syscall.EBUSY} {
		if errors.Is(err, harmless) {
			return nil
		}
	}
	return err
}
