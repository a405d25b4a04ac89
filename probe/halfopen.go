//go:build linux

package probe

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/sctp"
)

// kernelTable reads what the kernel tells anybody about the sockets of a network namespace
// (proc(5)), which takes no privilege.
type kernelTable struct {
	// dir is the folder of the namespace, /proc/self/net.
	dir string
}

// The states of include/net/tcp_states.h, as /proc/net/tcp writes them.
const (
	stateSynReceived = "03"
	stateListen      = "0A"
)

// tcpSocket is a line of /proc/net/tcp: its own port, and the peer.
type tcpSocket struct {
	port uint16
	peer netip.AddrPort
}

// halfOpen returns the connections that have begun and are not established.
func (k kernelTable) halfOpen() ([]tcpSocket, error) {
	return k.sockets(stateSynReceived)
}

// shows tells by an error if the table does not have the ports that are listened on: then
// it is not that of this namespace, or the kernel is another than Linux.
func (k kernelTable) shows(ports []uint16) error {
	listening, err := k.sockets(stateListen)
	if err != nil {
		return err
	}
	for _, port := range ports {
		if !slices.ContainsFunc(listening, func(s tcpSocket) bool { return s.port == port }) {
			return fmt.Errorf("%s does not list port %d, which is listened on", filepath.Join(k.dir, "tcp"), port)
		}
	}
	return nil
}

// sockets returns the sockets of TCP that are in a state, of both families. A kernel without
// IPv6 has no table for it.
func (k kernelTable) sockets(state string) ([]tcpSocket, error) {
	var out []tcpSocket
	for _, name := range []string{"tcp", "tcp6"} {
		f, err := os.Open(filepath.Join(k.dir, name))
		if name == "tcp6" && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		err = eachLine(f, func(fields []string) error {
			// sl local_address rem_address st ...
			if len(fields) < 4 || fields[3] != state {
				return nil
			}
			local, err1 := parseKernelAddr(fields[1])
			peer, err2 := parseKernelAddr(fields[2])
			out = append(out, tcpSocket{local.Port(), peer})
			return errors.Join(err1, err2)
		})
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", f.Name(), err)
		}
	}
	return out, nil
}

// eachLine calls f with the fields of each line, and closes the file.
func eachLine(file *os.File, f func(fields []string) error) error {
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if err := f(strings.Fields(lines.Text())); err != nil {
			return err
		}
	}
	return lines.Err()
}

// parseKernelAddr parses an address such as 0100007F:1F90: words of 32 bits in the byte
// order of the machine, and the port.
func parseKernelAddr(text string) (netip.AddrPort, error) {
	addrText, portText, _ := strings.Cut(text, ":")
	words, err1 := hex.DecodeString(addrText)
	port, err2 := strconv.ParseUint(portText, 16, 16)
	if err := errors.Join(err1, err2); err != nil || len(words)%4 != 0 {
		return netip.AddrPort{}, fmt.Errorf("%q is no address", text)
	}
	for i := 0; i < len(words); i += 4 {
		word := binary.BigEndian.Uint32(words[i:])
		binary.NativeEndian.PutUint32(words[i:], word)
	}
	addr, ok := netip.AddrFromSlice(words)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("%q is no address", text)
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), nil
}

// lifetime is how long the kernel keeps a handshake whose answer is lost: it repeats the
// answer net.ipv4.tcp_synack_retries times, after one second, then two, then four.
func (k kernelTable) lifetime() time.Duration {
	const initial = time.Second
	text, err := os.ReadFile("/proc/sys/net/ipv4/tcp_synack_retries")
	if err != nil {
		return initial
	}
	retries, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || retries < 0 {
		return initial
	}
	// Ten make a quarter of an hour, which no run lasts.
	return initial * time.Duration(1<<min(retries+1, 10)-1)
}

// droppedCounters are those of packets and handshakes that leave no other trace, by their
// file and group. Of a handshake that was begun: it was answered by a cookie, the queue was
// full, an ICMP error or a reset ended it. Of a datagram: the queue was full.
var droppedCounters = map[flow.Protocol][]struct {
	file, group string
	names       []string
}{
	flow.TCP: {{"netstat", "TcpExt:", []string{"SyncookiesSent", "ListenOverflows", "ListenDrops", "EmbryonicRsts", "TCPReqQFullDrop", "TCPReqQFullDoCookies"}}},
	flow.UDP: {{"snmp", "Udp:", []string{"RcvbufErrors"}}, {"snmp6", "", []string{"Udp6RcvbufErrors"}}},
}

// dropped returns the counters of a protocol, by name. SCTP has none of its own: what is seen
// of it, raw sockets see.
func (k kernelTable) dropped(p flow.Protocol) (map[string]uint64, error) {
	out := map[string]uint64{}
	if p == flow.SCTP {
		n, err := k.rawDrops(sctp.Protocol)
		out["drops of raw sockets"] = n
		return out, err
	}
	for _, c := range droppedCounters[p] {
		counters, err := k.counters(c.file, c.group)
		if c.file == "snmp6" && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, name := range c.names {
			n, ok := counters[name]
			if !ok {
				return nil, fmt.Errorf("%s has no counter %s", filepath.Join(k.dir, c.file), name)
			}
			out[name] = n
		}
	}
	return out, nil
}

// rawDrops counts the packets for which raw sockets of an IP protocol had no room. They are
// listed with the protocol in place of a port, and their drops in the last column.
func (k kernelTable) rawDrops(protocol int) (n uint64, err error) {
	local := fmt.Sprintf(":%04X", protocol)
	for _, name := range []string{"raw", "raw6"} {
		f, err := os.Open(filepath.Join(k.dir, name))
		if name == "raw6" && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		err = eachLine(f, func(fields []string) error {
			if len(fields) < 4 || !strings.HasSuffix(fields[1], local) {
				return nil
			}
			drops, err := strconv.ParseUint(fields[len(fields)-1], 10, 64)
			n += drops
			return err
		})
		if err != nil {
			return 0, fmt.Errorf("reading %s: %w", f.Name(), err)
		}
	}
	return n, nil
}

// counters reads a group of counters: of two lines, names and values, or, without a group,
// of a file with one counter in each line.
func (k kernelTable) counters(name, group string) (map[string]uint64, error) {
	f, err := os.Open(filepath.Join(k.dir, name))
	if err != nil {
		return nil, err
	}
	out := map[string]uint64{}
	var names []string
	err = eachLine(f, func(fields []string) error {
		switch {
		case group == "" && len(fields) == 2:
			out[fields[0]], _ = strconv.ParseUint(fields[1], 10, 64)
		case group == "" || len(fields) == 0 || fields[0] != group:
		case names == nil:
			names = fields
		case len(fields) != len(names):
			return fmt.Errorf("%s has %d names and %d values", group, len(names), len(fields))
		default:
			for i := 1; i < len(fields); i++ {
				out[names[i]], _ = strconv.ParseUint(fields[i], 10, 64)
			}
		}
		return nil
	})
	return out, err
}
