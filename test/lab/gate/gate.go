// Package gate is the last plugin in the lab's CNI chain. It tells the node's
// enforcement agent the addresses of a pod that is about to start and waits until
// the agent has programmed the pod's isolation, so that a pod which a policy
// selects never runs unprotected.
//
// Without an agent it opens after a moment, as a node does whose agent died.
package gate

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"
)

// PluginName is the name of the plugin in the CNI configuration, and the name
// under which the lab's binary acts as that plugin.
const PluginName = "pathproof-gate"

// SocketName is the name of the agent's socket in its folder.
const SocketName = "gate.sock"

// patience bounds the wait for an agent that is down or stuck.
const patience = 3 * time.Second

// Announcement is what the plugin tells the agent.
type Announcement struct {
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	UID       string       `json:"uid"`
	Addrs     []netip.Addr `json:"addrs"`
}

type config struct {
	CNIVersion string          `json:"cniVersion"`
	Socket     string          `json:"socket"`
	PrevResult json.RawMessage `json:"prevResult"`
}

type result struct {
	IPs []struct {
		Address netip.Prefix `json:"address"`
	} `json:"ips"`
}

// Main runs one CNI call: the environment holds the verb, stdin the
// configuration. It returns the exit status.
func Main() int {
	if err := run(os.Getenv("CNI_COMMAND"), os.Stdin, os.Stdout); err != nil {
		// The CNI specification wants errors as JSON on stdout. 100 is the
		// first code that it leaves to plugins.
		_ = json.NewEncoder(os.Stdout).Encode(map[string]any{"cniVersion": "0.4.0", "code": 100, "msg": err.Error()})
		return 1
	}
	return 0
}

func run(command string, stdin io.Reader, stdout io.Writer) error {
	switch command {
	case "VERSION":
		return json.NewEncoder(stdout).Encode(map[string]any{
			"cniVersion": "0.4.0", "supportedVersions": []string{"0.3.0", "0.3.1", "0.4.0"},
		})
	case "ADD":
		var c config
		if err := json.NewDecoder(stdin).Decode(&c); err != nil {
			return fmt.Errorf("reading the configuration: %w", err)
		}
		var r result
		if err := json.Unmarshal(c.PrevResult, &r); err != nil {
			return fmt.Errorf("reading the previous result %q: %w", c.PrevResult, err)
		}
		if len(r.IPs) == 0 {
			return fmt.Errorf("the previous result %q has no address", c.PrevResult)
		}
		if err := announce(c.Socket, announcement(os.Getenv("CNI_ARGS"), r)); err != nil {
			fmt.Fprintln(os.Stderr, "pod starts without the agent:", err)
		}
		_, err := stdout.Write(c.PrevResult)
		return err
	default: // DEL, CHECK: nothing to do
		return nil
	}
}

// announcement reads CNI_ARGS, which holds KEY=VALUE pairs split by semicolons.
func announcement(args string, r result) Announcement {
	values := map[string]string{}
	for pair := range strings.SplitSeq(args, ";") {
		key, value, _ := strings.Cut(pair, "=")
		values[key] = value
	}
	a := Announcement{
		Namespace: values["K8S_POD_NAMESPACE"],
		Name:      values["K8S_POD_NAME"],
		UID:       values["K8S_POD_UID"],
	}
	for _, ip := range r.IPs {
		a.Addrs = append(a.Addrs, ip.Address.Addr())
	}
	return a
}

func announce(socket string, a Announcement) error {
	conn, err := net.DialTimeout("unix", socket, patience)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if err := json.NewEncoder(conn).Encode(a); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}
