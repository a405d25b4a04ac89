package cluster

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
)

// network lays the lab's wires: the fabric bridge, and a namespace with one
// port on it for this machine, each node and the outside world. The machine's
// own interfaces, firewall and forwarding are left alone: frames between nodes
// do not pass its namespace, and it only talks to the lab, never through it.
func (l *Lab) network(ctx context.Context) error {
	var b script
	b.add("", "netns add "+fabricNetns)
	b.add(fabricNetns, "link set lo up", "link add bridge type bridge", "link set bridge up")

	// The machine's port. It reaches the pods by the nodes, at their IPv4 addresses:
	// the control plane needs no others.
	b.add("", fmt.Sprintf("link add %s type veth peer name host netns %s", hostLink, fabricNetns))
	b.add(fabricNetns, "link set host master bridge", "link set host up")
	b.add("", fmt.Sprintf("addr add %s/%d dev %s", hostAddr, fabricPrefix.Bits(), hostLink), "link set "+hostLink+" up")
	// The root namespace gets no route to the external range: documentation ranges
	// may be in real use on the host (by a module proxy, say), and only pods need
	// to reach it.
	for _, n := range l.nodes {
		b.add("", fmt.Sprintf("route add %s via %s dev %s", n.PodCIDR, n.Addr, hostLink))
	}

	for _, n := range l.nodes {
		b.port(n.Netns, strings.TrimPrefix(n.Netns, prefix+"-"), n.Addr, n.Addr6)
		// There is no default route: what is not in the lab is unreachable.
		b.add(n.Netns,
			fmt.Sprintf("route add %s via %s dev eth0", externalRange, externalGate),
			fmt.Sprintf("route add %s via %s dev eth0", externalRange6, externalGate6))
		// The node's own processes use Services too. This route only makes the
		// kernel consider the packet; kube-proxy then rewrites it.
		b.add(n.Netns,
			fmt.Sprintf("route add %s dev eth0 scope link", serviceRange),
			fmt.Sprintf("route add %s dev eth0", serviceRange6))
		b.add(n.Netns, fmt.Sprintf("addr add %s/32 dev lo", NodeDNSAddr))
		l.podRoutes(&b, n.Netns, n.Name)
	}

	b.port(externalNetns, "external", externalGate, externalGate6)
	for _, a := range ExternalAddrs {
		b.address(externalNetns, a, externalRange.Bits(), externalRange6.Bits())
	}
	l.podRoutes(&b, externalNetns, "")

	if err := b.run(ctx); err != nil {
		return fmt.Errorf("building the network: %w", err)
	}
	for _, n := range l.nodes {
		// A node routes between its pods and the fabric, and refuses every
		// denied packet in the rejecting modes, not only a few each second. All
		// these settings exist per namespace; the machine's own stay as they are.
		// Nobody else can have the address of a pod, so that no pod waits until the
		// kernel has made sure of that (duplicate address detection, DAD).
		const settings = "cd /proc/sys/net/ipv4; echo 1 >ip_forward; echo 0 >conf/all/rp_filter; echo 0 >icmp_ratelimit; " +
			"cd ../ipv6; echo 1 >conf/all/forwarding; echo 0 >icmp/ratelimit; echo 0 >conf/all/accept_dad; echo 0 >conf/default/accept_dad"
		if err := run(ctx, "nsenter", "--net=/run/netns/"+n.Netns, "sh", "-ec", settings); err != nil {
			return err
		}
	}
	return nil
}

// podRoutes routes every node's pods by that node, except by itself.
func (l *Lab) podRoutes(b *script, netns, except string) {
	for _, n := range l.nodes {
		if n.Name != except {
			b.add(netns,
				fmt.Sprintf("route add %s via %s dev eth0", n.PodCIDR, n.Addr),
				fmt.Sprintf("route add %s via %s dev eth0", n.PodCIDR6, n.Addr6))
		}
	}
}

// script collects the arguments of ip commands, and in which namespace each of
// them is to run.
type script struct{ steps []step }

type step struct{ netns, args string }

func (s *script) add(netns string, commands ...string) {
	for _, c := range commands {
		s.steps = append(s.steps, step{netns, c})
	}
}

// port makes a namespace whose eth0 is plugged into the bridge.
func (s *script) port(netns, peer string, addrs ...netip.Addr) {
	s.add("", "netns add "+netns)
	s.add(fabricNetns,
		fmt.Sprintf("link add %s type veth peer name eth0 netns %s", peer, netns),
		fmt.Sprintf("link set %s master bridge", peer), fmt.Sprintf("link set %s up", peer))
	s.add(netns, "link set lo up")
	for _, a := range addrs {
		s.address(netns, a, fabricPrefix.Bits(), fabricPrefix6.Bits())
	}
	s.add(netns, "link set eth0 up")
}

// address gives eth0 an address of either family. An IPv6 one is usable at once.
func (s *script) address(netns string, addr netip.Addr, bits, bits6 int) {
	if addr.Is4() {
		s.add(netns, fmt.Sprintf("addr add %s/%d dev eth0", addr, bits))
		return
	}
	s.add(netns, fmt.Sprintf("addr add %s/%d dev eth0 nodad", addr, bits6))
}

// run runs the steps in order, neighbours in the same namespace as one batch.
func (s *script) run(ctx context.Context) error {
	for len(s.steps) > 0 {
		netns := s.steps[0].netns
		var batch bytes.Buffer
		for len(s.steps) > 0 && s.steps[0].netns == netns {
			fmt.Fprintln(&batch, s.steps[0].args)
			s.steps = s.steps[1:]
		}
		command := []string{"ip", "-batch", "-"}
		if netns != "" {
			command = []string{"ip", "-n", netns, "-batch", "-"}
		}
		text := batch.String()
		cmd := marked(ctx, command...)
		cmd.Stdin = &batch
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("running %s: %w: %s\n%s", strings.Join(command, " "), err, strings.TrimSpace(string(out)), text)
		}
	}
	return nil
}
