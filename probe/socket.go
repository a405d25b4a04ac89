//go:build linux

package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// socketFunc is the signature of socket(2).
type socketFunc func(domain, typ, proto int) (int, error)

// stack opens the sockets of one run. It sees to it that no source port is used
// twice for the same target: a network may treat a known 5-tuple as an existing connection,
// to which a new policy need not apply.
type stack struct {
	socket socketFunc
	// rawSCTP lets SCTP go over a raw socket where the kernel has none of its own.
	rawSCTP bool

	mu sync.Mutex
	// used and peers are guarded by mu. peers are the raw sockets, by the addresses that
	// they are connected to.
	used  map[portUse]struct{}
	peers map[netip.Addr]*rawPeer
	// remembered bounds used: ports that were used longer ago may be used again. Zero means
	// no bound. order holds them by their age then.
	remembered int
	order      []portUse
}

type portUse struct {
	protocol flow.Protocol
	port     uint16
	target   netip.AddrPort
}

func newStack(socket socketFunc) *stack {
	if socket == nil {
		socket = unix.Socket
	}
	return &stack{socket: socket, used: map[portUse]struct{}{}, peers: map[netip.Addr]*rawPeer{}}
}

// claim reserves a source port for a target and tells whether it was unused.
func (s *stack) claim(u portUse) bool {
	// A TCP socket that connects to its own port on a local address connects to
	// itself (simultaneous open, RFC 9293, section 3.5): a listener out of thin air.
	if u.port == u.target.Port() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.used[u]; ok {
		return false
	}
	s.used[u] = struct{}{}
	if s.remembered > 0 {
		s.order = append(s.order, u)
		if len(s.order) > s.remembered {
			delete(s.used, s.order[0])
			s.order = s.order[1:]
		}
	}
	return true
}

// conn is one socket of one attempt.
type conn struct {
	// file gives read, write and deadlines through the runtime's poller.
	file   *os.File
	raw    syscall.RawConn
	target netip.AddrPort
	span
	// deadline is when the timeout is over.
	deadline time.Time
	// stop ends the watch over the context.
	stop func() bool
}

// open returns a bound, not yet connected socket whose deadline is the timeout
// from now. Cancelling the context ends whatever the socket waits for. The error is an *outcomeError.
func (s *stack) open(ctx context.Context, p flow.Protocol, target netip.AddrPort, timeout time.Duration) (*conn, error) {
	fd, err := s.bound(p, target)
	if err != nil {
		return nil, openError(err)
	}
	c := &conn{file: os.NewFile(uintptr(fd), string(p)), target: target, span: span{opened: time.Now()}}
	c.deadline = c.opened.Add(timeout)
	c.raw, err = c.file.SyscallConn()
	if err == nil {
		err = c.file.SetDeadline(c.deadline)
	}
	if err != nil {
		_ = c.file.Close()
		return nil, fmt.Errorf("preparing socket: %w", err)
	}
	c.stop = context.AfterFunc(ctx, func() { _ = c.file.SetDeadline(time.Unix(1, 0)) })
	return c, nil
}

// close closes the socket.
func (c *conn) close() {
	_ = c.file.Close()
	c.stop()
}

// maxPortTries bounds the search for an unused source port.
const maxPortTries = 16

// errNoPort says that the kernel offered only ports that this run has used for
// the same target already.
var errNoPort = &outcomeError{wire.AddressUnavailable, "local: no unused source port"}

// bound returns a socket that is bound to a source port of the kernel's choice
// that this run never used for this target. Rejected sockets stay open until
// the end of the search: otherwise the kernel might offer the same port again.
func (s *stack) bound(p flow.Protocol, target netip.AddrPort) (int, error) {
	var rejected []int
	defer func() {
		for _, fd := range rejected {
			_ = unix.Close(fd)
		}
	}()
	for range maxPortTries {
		fd, err := s.newSocket(p, target.Addr())
		if err != nil {
			return -1, err
		}
		sa, err := unix.Getsockname(fd)
		if err == nil && s.claim(portUse{p, addrPort(sa).Port(), target}) {
			return fd, nil
		}
		rejected = append(rejected, fd)
		if err != nil {
			return -1, fmt.Errorf("reading source port: %w", err)
		}
	}
	return -1, errNoPort
}

// newSocket returns a non-blocking socket that is bound to an unused port.
func (s *stack) newSocket(p flow.Protocol, target netip.Addr) (int, error) {
	domain, wildcard := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{})
	if target.Is6() {
		domain, wildcard = unix.AF_INET6, &unix.SockaddrInet6{}
	}
	typ, proto := unix.SOCK_STREAM, unix.IPPROTO_TCP
	switch p {
	case flow.UDP:
		typ, proto = unix.SOCK_DGRAM, unix.IPPROTO_UDP
	case flow.SCTP:
		proto = unix.IPPROTO_SCTP
	case flow.TCP:
	}
	fd, err := s.socket(domain, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return -1, err
	}
	if err = configure(fd, p, domain); err == nil {
		err = unix.Bind(fd, wildcard)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// configure sets the options of a new socket. An SCTP socket gets no RECVERR:
// the kernel has no error queue for SCTP, and with the option an ICMP
// port-unreachable would end connect() with the same ECONNREFUSED as an ABORT.
// Without it ECONNREFUSED is an ABORT for sure, and ICMP errors are ignored.
func configure(fd int, p flow.Protocol, domain int) error {
	if domain == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return err
		}
	}
	if p == flow.SCTP {
		return nil
	}
	return queueErrors(fd, domain)
}

// queueErrors asks the kernel to keep ICMP errors in the socket's error queue.
func queueErrors(fd, domain int) error {
	if domain == unix.AF_INET6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
}

// connect connects the socket to its target. The error is an *outcomeError.
func (c *conn) connect(ctx context.Context) error {
	var result error
	err := c.raw.Write(func(fd uintptr) (done bool) {
		if c.sent.IsZero() {
			done, result = c.startConnect(int(fd))
			c.sent = time.Now()
		} else {
			done, result = c.finishConnect(int(fd))
		}
		return done
	})
	if err == nil {
		return result
	}
	if late(ctx, err) && !c.sent.IsZero() {
		done := false
		if c.raw.Control(func(fd uintptr) { done, result = c.finishConnect(int(fd)) }) == nil && done {
			return result
		}
	}
	return c.explain(ctx, err)
}

// late tells whether a wait ended by its deadline. On a busy machine, that is noticed some
// time later, and what came in before must not be called silence: the kernel is asked once
// more.
func late(ctx context.Context, err error) bool {
	return ctx.Err() == nil && errors.Is(err, os.ErrDeadlineExceeded)
}

// Read reads what the peer of a connection has sent. What is there when the deadline is
// noticed counts.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.file.Read(b)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err
	}
	there := -1
	ctrlErr := c.raw.Control(func(fd uintptr) {
		if k, _, err := unix.Recvfrom(int(fd), b, unix.MSG_DONTWAIT); err == nil {
			there = k
		}
	})
	switch {
	case ctrlErr != nil || there < 0:
		return n, err
	case there == 0:
		return 0, io.EOF // as of a file
	}
	return there, nil
}

// startConnect sends the first packet, if the protocol has a handshake.
func (c *conn) startConnect(fd int) (done bool, result error) {
	err := unix.Connect(fd, sockaddr(c.target))
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EINPROGRESS), errors.Is(err, unix.EINTR):
		return c.checkQueue(fd)
	}
	if icmp, ok := readErrorQueue(fd); ok {
		return true, icmp.rejected()
	}
	return true, localError(err)
}

// finishConnect looks whether a handshake came to an end. A wake-up without one
// is possible: the poller may hold an event of the time before connect().
func (c *conn) finishConnect(fd int) (done bool, result error) {
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return true, fmt.Errorf("reading socket error: %w", err)
	}
	if errno != 0 {
		if icmp, ok := readErrorQueue(fd); ok {
			return true, icmp.rejected()
		}
		return true, remoteError(unix.Errno(errno))
	}
	if _, err := unix.Getpeername(fd); err == nil {
		return true, nil
	}
	return c.checkQueue(fd)
}

// checkQueue looks for an ICMP error that did not end the handshake. The kernel
// only queues it when it arrives while connect() still holds the socket
// (tcp_v4_err: sock_owned_by_user), as it does between two pods of one node;
// connect() would go on until the next SYN, one second later.
func (c *conn) checkQueue(fd int) (done bool, result error) {
	if icmp, ok := readErrorQueue(fd); ok {
		return true, icmp.rejected()
	}
	return false, nil
}

// explain turns an error of a connected socket, or of waiting for one, into an
// outcome.
func (c *conn) explain(ctx context.Context, err error) error {
	var (
		icmp   icmpError
		queued bool
	)
	_ = c.raw.Control(func(fd uintptr) { icmp, queued = readErrorQueue(int(fd)) })
	switch {
	case queued:
		return icmp.rejected()
	case ctx.Err() != nil:
		return cancelled(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return c.silence()
	}
	return remoteError(err)
}

// silence is the outcome of an attempt that nothing answered in its time.
func (c *conn) silence() error { return c.silent(c.deadline) }

// local returns the address that the socket sends from.
func (c *conn) local() (addr netip.Addr) {
	_ = c.raw.Control(func(fd uintptr) {
		if sa, err := unix.Getsockname(int(fd)); err == nil {
			addr = addrPort(sa).Addr()
		}
	})
	return addr
}

// sockaddr converts an address for the kernel. A zone that is no interface gives
// scope 0, which connect() refuses.
func sockaddr(ap netip.AddrPort) unix.Sockaddr {
	if ap.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	}
	sa := &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
	if zone := ap.Addr().Zone(); zone != "" {
		if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
			sa.ZoneId = uint32(n)
		} else if ifi, err := net.InterfaceByName(zone); err == nil {
			sa.ZoneId = uint32(ifi.Index)
		}
	}
	return sa
}

// addrPort is the inverse of sockaddr, without zone.
func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
