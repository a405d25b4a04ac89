// Package cluster builds the lab's Kubernetes cluster and takes it down again.
//
// Everything that it makes can be found by its name, or in the state folder, or
// by a mark on the process: [Lab.Down] looks for the things themselves and
// needs no record of how far an `up` had come.
package cluster

import (
	"fmt"
	"net/netip"
	"path/filepath"
)

// State is the lab's folder. There is one lab per machine: its interfaces and
// namespaces have fixed names, so that they can be found without any record.
const State = "/var/lib/pathproof-lab"

// Names in the kernel. The prefix is shared by all, and by nothing else.
const (
	prefix        = "pathproof"
	fabricNetns   = prefix + "-fabric"
	externalNetns = prefix + "-external"
	// hostLink is this machine's port on the fabric. The bridge itself has a
	// namespace of its own: in the machine's own one, the firewall rules of a
	// container engine could apply to bridged frames and cut the nodes apart.
	hostLink   = prefix + "0"
	cgroupName = prefix + "-lab"
)

// Addresses of both families; IPv4 is the first one, which the cluster gives to
// everything that does not ask. The external addresses are of the ranges for
// documentation, which no real host has. The IPv6 addresses inside are unique local
// ones, whose random part spells "pathp".
var (
	hostAddr       = netip.MustParseAddr("172.31.250.1")
	fabricPrefix   = netip.MustParsePrefix("172.31.250.0/24")
	fabricPrefix6  = netip.MustParsePrefix("fd70:6174:6870:250::/64")
	externalGate   = netip.MustParseAddr("172.31.250.200")
	externalGate6  = netip.MustParseAddr("fd70:6174:6870:250::200")
	externalRange  = netip.MustParsePrefix("203.0.113.0/24")
	externalRange6 = netip.MustParsePrefix("2001:db8:203::/64")
	podRange       = netip.MustParsePrefix("10.244.0.0/16")
	podRange6      = netip.MustParsePrefix("fd70:6174:6870:2400::/56")
	serviceRange   = netip.MustParsePrefix("10.96.0.0/16")
	serviceRange6  = netip.MustParsePrefix("fd70:6174:6870:96::/112")
	apiService     = netip.MustParseAddr("10.96.0.1")

	// ExternalAddrs are the addresses of the outside world's echo server.
	ExternalAddrs = []netip.Addr{
		netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("203.0.113.20"),
		netip.MustParseAddr("2001:db8:203::10"), netip.MustParseAddr("2001:db8:203::20"),
	}
	// DNSAddr is the cluster address of DNS.
	DNSAddr = netip.MustParseAddr("10.96.0.10")
	// NodeDNSAddr is an address that every node has for itself, and its only nameserver:
	// where NodeLocal DNSCache listens, if somebody starts one.
	NodeDNSAddr = netip.MustParseAddr("169.254.20.10")
)

// Ports of the control plane, off the usual ones so that a cluster on the same
// machine is not in the way.
const (
	apiPort      = 16443
	etcdPort     = 12379
	etcdPeerPort = 12380
)

const (
	apiName      = "pathproof-lab"
	pauseImage   = "pathproof.dev/lab/pause:lab"
	coreDNSImage = "pathproof.dev/lab/coredns:lab"
)

// MaxNodes bounds the number of nodes; each costs a kubelet and a containerd.
const MaxNodes = 3

// Node is one of the lab's machines: a network namespace with a kubelet.
type Node struct {
	Name     string
	Netns    string
	Addr     netip.Addr
	Addr6    netip.Addr
	PodCIDR  netip.Prefix
	PodCIDR6 netip.Prefix
	Dir      string
}

// nodes returns the first n nodes: node-a, node-b, …
func nodes(n int) []Node {
	out := make([]Node, n)
	for i := range out {
		name := "node-" + string(rune('a'+i))
		out[i] = Node{
			Name:     name,
			Netns:    prefix + "-" + name,
			Addr:     netip.MustParseAddr(fmt.Sprintf("172.31.250.%d", 11+i)),
			Addr6:    netip.MustParseAddr(fmt.Sprintf("fd70:6174:6870:250::%d", 11+i)),
			PodCIDR:  netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", 1+i)),
			PodCIDR6: netip.MustParsePrefix(fmt.Sprintf("fd70:6174:6870:24%02d::/64", 1+i)),
			Dir:      filepath.Join(State, "nodes", name),
		}
	}
	return out
}

func (n Node) containerd() string { return filepath.Join(n.Dir, "containerd.sock") }

// AgentDir is where the node's enforcement agent takes its orders.
func (n Node) AgentDir() string { return filepath.Join(n.Dir, "agent") }

// Paths in the state folder.
var (
	stateFile   = filepath.Join(State, "state.json")
	selfPath    = filepath.Join(State, "bin", "lab")
	pkiDir      = filepath.Join(State, "pki")
	pluginLinks = filepath.Join(State, "cni-plugins")
	// Kubeconfig is the administrator's.
	Kubeconfig = filepath.Join(State, "admin.kubeconfig")
)

func apiURL() string { return "https://" + netip.AddrPortFrom(hostAddr, apiPort).String() }
func pki(file string) string {
	return filepath.Join(pkiDir, file)
}

func kubeconfigOf(component string) string { return filepath.Join(pkiDir, component+".kubeconfig") }
