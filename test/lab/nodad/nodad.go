// Package nodad is the first plugin in the lab's CNI chain. It turns duplicate
// address detection off in the network namespace of a pod that is about to start:
// nobody else can have the pod's IPv6 address, and every pod would wait a second or
// two until the kernel has made sure of that.
package nodad

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// PluginName is the name of the plugin in the CNI configuration, and the name
// under which the lab's binary acts as that plugin.
const PluginName = "pathproof-nodad"

// Main runs one CNI call: the environment holds the verb and the namespace. It
// returns the exit status.
func Main() int {
	if err := run(os.Getenv("CNI_COMMAND"), os.Getenv("CNI_NETNS"), os.Stdout); err != nil {
		// The CNI specification wants errors as JSON on stdout. 100 is the first code
		// that it leaves to plugins.
		_ = json.NewEncoder(os.Stdout).Encode(map[string]any{"cniVersion": "0.4.0", "code": 100, "msg": err.Error()})
		return 1
	}
	return 0
}

func run(command, netns string, stdout io.Writer) error {
	switch command {
	case "VERSION":
		return json.NewEncoder(stdout).Encode(map[string]any{
			"cniVersion": "0.4.0", "supportedVersions": []string{"0.3.0", "0.3.1", "0.4.0"},
		})
	case "ADD":
		if err := within(netns, turnOff); err != nil {
			return err
		}
		// The next plugin makes the interface: there is nothing to say of it yet.
		return json.NewEncoder(stdout).Encode(map[string]any{"cniVersion": "0.4.0", "ips": []any{}})
	default: // DEL, CHECK: nothing to do
		return nil
	}
}

// turnOff sets both settings that the kernel looks at, the default for interfaces
// to come.
func turnOff() error {
	for _, scope := range []string{"all", "default"} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+scope+"/accept_dad", []byte("0"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// within calls f in a network namespace. The thread that was there ends with the
// goroutine, so that no other one finds itself there.
func within(netns string, f func() error) error {
	ns, err := os.Open(netns)
	if err != nil {
		return fmt.Errorf("opening the pod's network namespace: %w", err)
	}
	defer func() { _ = ns.Close() }()
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("entering %s: %w", netns, err)
			return
		}
		result <- f()
	}()
	return <-result
}
