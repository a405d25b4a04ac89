//go:build linux

package probe

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pathproof/pathproof/flow"
)

const (
	// maxListeners bounds the ports of one responder.
	maxListeners = 1024
	// maxConnections bounds the connections that are served at the same time.
	// More wait in the kernel's backlog, where a handshake still completes.
	maxConnections = 1024
	// connectionTime is how long a connection may take to send its line. It is
	// above the round trip of any cluster and far below what would let idle
	// strangers hold all connections for long.
	connectionTime = 5 * time.Second
)

// ErrUnsupported tells that this kernel lacks a protocol that a responder was
// asked to listen on, so that no restart can help.
var ErrUnsupported = errors.New("protocol is not supported by this kernel")

// Config says what a responder listens on.
type Config struct {
	// Listen are the ports to answer on, 1..1024 altogether.
	Listen []flow.PortRange
	// HealthPort is the TCP port of the readiness endpoint, GET /ready. 0 means
	// none.
	HealthPort uint16
	// RawSCTP lets the responder answer SCTP over a raw socket, which takes
	// CAP_NET_RAW, where the kernel has no SCTP of its own.
	RawSCTP bool
	// Logf reports what an operator of the responder should know, in one line
	// without a line break. nil discards it.
	Logf func(format string, args ...any)
	// Seen is called for every nonce that arrives from elsewhere than loopback,
	// before the reply is sent: a nonce that was seen, but whose echo never arrived, is what tells a broken
	// way back from a broken way there (wire.Delivered). nil ignores it. It is
	// called concurrently.
	Seen func(p flow.Protocol, port uint16, nonce string, from netip.Addr)
}

// ParseListen parses a comma-separated list such as
// "TCP/8080,UDP/53,SCTP/9000-9003".
func ParseListen(text string) ([]flow.PortRange, error) {
	var ranges []flow.PortRange
	for item := range strings.SplitSeq(text, ",") {
		protocol, ports, _ := strings.Cut(strings.TrimSpace(item), "/")
		first, last, isRange := strings.Cut(ports, "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil || from == 0 || to < from {
			return nil, fmt.Errorf("parsing %q: want PROTOCOL/PORT or PROTOCOL/FIRST-LAST with ports 1 to 65535", item)
		}
		switch p := flow.Protocol(protocol); p {
		case flow.TCP, flow.UDP, flow.SCTP:
			ranges = append(ranges, flow.PortRange{Protocol: p, First: uint16(from), Last: uint16(to)})
		default:
			return nil, fmt.Errorf("parsing %q: want protocol TCP, UDP or SCTP", item)
		}
	}
	return ranges, nil
}

// Responder answers probes on a set of ports, of IPv4 and of IPv6.
type Responder struct {
	cfg       Config
	listeners []*listener
	// raw are the sockets that answer SCTP in place of the kernel, by whether they are
	// of IPv6.
	raw    map[bool]*rawHost
	health net.Listener
	slots  chan struct{}
	record *recorder
	// newSocket opens the sockets with which the responder tests itself.
	newSocket socketFunc
	// checking is held while the responder tests itself, so that a flood of
	// readiness requests costs one test at a time.
	checking sync.Mutex
}

// listener is one port of one address family.
type listener struct {
	protocol flow.Protocol
	port     uint16
	// loopback is where the responder itself can reach the listener.
	loopback netip.Addr
	stream   net.Listener
	packet   *net.UDPConn
	raw      *rawHost
}

func (l *listener) String() string {
	return fmt.Sprintf("%s/%d on %s", l.protocol, l.port, map[bool]string{true: "IPv4", false: "IPv6"}[l.loopback.Is4()])
}

// Listen opens all ports. The error wraps ErrUnsupported when the kernel lacks a
// protocol altogether. A missing address family is no error as long as the other
// one is there.
func Listen(cfg Config) (_ *Responder, err error) {
	if cfg.Logf == nil {
		cfg.Logf = func(string, ...any) {}
	}
	if cfg.Seen == nil {
		cfg.Seen = func(flow.Protocol, uint16, string, netip.Addr) {}
	}
	r := &Responder{
		cfg: cfg, slots: make(chan struct{}, maxConnections), newSocket: unix.Socket, raw: map[bool]*rawHost{},
		record: newRecorder(cfg.Logf),
	}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	total := 0
	for _, ports := range cfg.Listen {
		total += int(ports.Last) - int(ports.First) + 1
	}
	if total < 1 || total > maxListeners {
		return nil, fmt.Errorf("listening on %d ports: want 1 to %d", total, maxListeners)
	}
	for _, ports := range cfg.Listen {
		for port := int(ports.First); port <= int(ports.Last); port++ {
			if err := r.open(ports.Protocol, uint16(port)); err != nil {
				return nil, fmt.Errorf("listening on %s/%d: %w", ports.Protocol, port, err)
			}
		}
	}
	if cfg.HealthPort != 0 {
		if r.health, err = net.Listen("tcp", ":"+strconv.Itoa(int(cfg.HealthPort))); err != nil {
			return nil, fmt.Errorf("listening on health port %d: %w", cfg.HealthPort, err)
		}
	}
	return r, nil
}

// open opens a port in both address families. Two sockets rather than one for
// both: a kernel without IPv6 then still gets IPv4, and the addresses of IPv4
// clients need no conversion.
func (r *Responder) open(p flow.Protocol, port uint16) error {
	opened := false
	for _, loopback := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		l := &listener{protocol: p, port: port, loopback: loopback}
		// With IPv6 switched off by sysctl the wildcard can still be bound, but
		// nothing can ever arrive, and the self-test would fail for ever.
		err := connectable(r.newSocket, loopback)
		if err == nil {
			err = l.open()
		}
		switch unsupported := isAny(err, unix.EPROTONOSUPPORT, unix.ESOCKTNOSUPPORT); {
		case p != flow.SCTP:
		case r.cfg.RawSCTP && unsupported:
			err = r.openRaw(l, err)
		case err == nil:
			r.recordSCTP(l)
		}
		switch {
		case err == nil:
			r.listeners = append(r.listeners, l)
			opened = true
		case isAny(err, unix.EAFNOSUPPORT, unix.EADDRNOTAVAIL, unix.ENETUNREACH):
			r.cfg.Logf("Skipping %s: %v", l, err)
		case isAny(err, unix.EPROTONOSUPPORT, unix.ESOCKTNOSUPPORT):
			return fmt.Errorf("%w: %w", ErrUnsupported, err)
		default:
			return err
		}
	}
	if !opened {
		return fmt.Errorf("%w: neither IPv4 nor IPv6", ErrUnsupported)
	}
	return nil
}

func (l *listener) open() (err error) {
	suffix, wildcard := "4", "0.0.0.0"
	if l.loopback.Is6() {
		suffix, wildcard = "6", "[::]"
	}
	address := wildcard + ":" + strconv.Itoa(int(l.port))
	switch l.protocol {
	case flow.TCP:
		l.stream, err = net.Listen("tcp"+suffix, address)
	case flow.UDP:
		var pc net.PacketConn
		if pc, err = net.ListenPacket("udp"+suffix, address); err == nil {
			l.packet = pc.(*net.UDPConn)
			err = wantPacketInfo(l.packet, l.loopback.Is6())
		}
	case flow.SCTP:
		l.stream, err = listenSCTP(l.loopback.Is6(), l.port)
	}
	return err
}

// listenSCTP opens a one-to-one style SCTP socket (RFC 6458, section 4), which
// package net handles like any other stream socket once it has the descriptor.
func listenSCTP(v6 bool, port uint16) (net.Listener, error) {
	domain, wildcard := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(port)})
	if v6 {
		domain, wildcard = unix.AF_INET6, &unix.SockaddrInet6{Port: int(port)}
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), "sctp")
	defer func() { _ = file.Close() }()
	if err := configure(fd, flow.SCTP, domain); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(fd, wildcard); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	return net.FileListener(file)
}

// Serve answers until the context ends, then closes all ports and returns nil.
func (r *Responder) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tcp := r.tcpPorts()
	r.record.begin(tcp)
	var wg sync.WaitGroup
	wg.Go(func() { r.record.watch(ctx, tcp) })
	for _, l := range r.listeners {
		switch {
		case l.packet != nil:
			wg.Go(func() { r.servePackets(l) })
		case l.stream != nil:
			wg.Go(func() { r.serveStreams(ctx, l, &wg) })
		}
	}
	for _, h := range r.raw {
		wg.Go(h.serve)
	}
	if r.health != nil {
		wg.Go(func() {
			if err := newHealthServer(r.health, r.ready).serve(ctx); err != nil {
				r.cfg.Logf("Serving readiness ended: %v", err)
			}
		})
	}
	<-ctx.Done()
	r.close()
	wg.Wait()
	return nil
}

func (r *Responder) close() {
	for _, l := range r.listeners {
		l.close()
	}
	for _, h := range r.raw {
		h.close()
	}
	if r.health != nil {
		_ = r.health.Close()
	}
}

func (l *listener) close() {
	if l.stream != nil {
		_ = l.stream.Close()
	}
	if l.packet != nil {
		_ = l.packet.Close()
	}
}

// serveStreams accepts connections until the listener is closed.
func (r *Responder) serveStreams(ctx context.Context, l *listener, wg *sync.WaitGroup) {
	for {
		select {
		case r.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		c, err := l.stream.Accept()
		if err == nil {
			if from, known := c.RemoteAddr().(*net.TCPAddr); known {
				r.record.completed(l.protocol, l.port, from.AddrPort())
			}
			wg.Go(func() {
				defer func() { <-r.slots }()
				r.serveStream(ctx, l, c)
			})
			continue
		}
		<-r.slots
		if errors.Is(err, net.ErrClosed) {
			return
		}
		// EMFILE, ECONNABORTED: they pass.
		r.cfg.Logf("Accepting on %s: %v", l, err)
		sleep(ctx, roundPause)
	}
}

// serveStream answers one request and closes. The responder closes first, so
// that TIME_WAIT uses up no source port of the probe.
func (r *Responder) serveStream(ctx context.Context, l *listener, c net.Conn) {
	defer func() { _ = c.Close() }()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	if err := c.SetDeadline(time.Now().Add(connectionTime)); err != nil {
		return
	}
	line, err := bufio.NewReaderSize(c, 2*maxLine).ReadSlice('\n')
	if err != nil {
		return
	}
	nonce, ok := parseRequest(line)
	from, known := c.RemoteAddr().(*net.TCPAddr)
	if !ok || !known {
		return
	}
	addr := from.AddrPort().Addr()
	r.seen(l, nonce, addr)
	_, _ = c.Write(reply(nonce, addr))
}

// seen notes a nonce and passes it on, unless it is one of the responder's own self-test.
func (r *Responder) seen(l *listener, nonce string, from netip.Addr) {
	if from = from.Unmap(); !from.IsLoopback() {
		r.record.request(l.protocol, nonce)
		r.cfg.Seen(l.protocol, l.port, nonce, from)
	}
}

// servePackets answers datagrams until the socket is closed. A reply leaves from
// the address that the request was sent to: the client's socket is connected
// and takes no other.
func (r *Responder) servePackets(l *listener) {
	in, oob := make([]byte, 2*maxLine), make([]byte, 128)
	for {
		n, oobn, _, from, err := l.packet.ReadMsgUDPAddrPort(in, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// An ICMP error that an earlier reply provoked.
			continue
		}
		nonce, ok := parseRequest(in[:n])
		if !ok {
			continue
		}
		out := reply(nonce, from.Addr())
		if len(out) > n {
			continue
		}
		r.seen(l, nonce, from.Addr())
		_, _, _ = l.packet.WriteMsgUDPAddrPort(out, replySource(oob[:oobn]), from)
	}
}

// wantPacketInfo asks the kernel for the destination address of each datagram
// (ip(7), IP_PKTINFO; RFC 3542, section 6).
func wantPacketInfo(c syscall.Conn, v6 bool) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	level, option := unix.IPPROTO_IP, unix.IP_PKTINFO
	if v6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
	}
	var sockErr error
	if err := raw.Control(func(fd uintptr) { sockErr = unix.SetsockoptInt(int(fd), level, option, 1) }); err != nil {
		return err
	}
	return os.NewSyscallError("setsockopt", sockErr)
}

// replySource makes the control message that sets the source address of a reply
// from the one that told the destination of the request. The interface is left
// to the routing table, except for link-local addresses, which need it.
func replySource(oob []byte) []byte {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range msgs {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			// struct in_pktinfo: index, local address, destination of the header.
			return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: [4]byte(m.Data[4:8])})
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			info := &unix.Inet6Pktinfo{Addr: [16]byte(m.Data[:16])}
			if netip.AddrFrom16(info.Addr).IsLinkLocalUnicast() {
				info.Ifindex = binary.NativeEndian.Uint32(m.Data[16:20])
			}
			return unix.PktInfo6(info)
		}
	}
	return nil
}
