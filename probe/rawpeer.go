//go:build linux

package probe

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pathproof/pathproof/probe/sctp"
	"github.com/pathproof/pathproof/probe/wire"
)

// rawPeer is a raw SCTP socket that is connected to one address. All attempts to that
// address share it, and each gets the packets and ICMP errors of its pair of ports. Had
// each a socket of its own, the kernel would give every packet to all of them, which
// takes so long when there are hundreds that it loses packets.
type rawPeer struct {
	file  *os.File
	raw   syscall.RawConn
	local netip.Addr
	v6    bool

	mu sync.Mutex
	// waiting are the attempts by their ports; broken is why there can be no more; next
	// is when the next one may start. All are guarded by mu.
	waiting map[rawPorts]chan<- rawEvent
	broken  error
	next    time.Time
}

// rawPorts are the ports of an attempt, as its own packets have them.
type rawPorts struct{ source, destination uint16 }

// rawEvent is a packet, or an ICMP error and the header that it quotes, or the end of
// the socket.
type rawEvent struct {
	packet []byte
	icmp   *icmpError
	quoted sctp.Header
	err    error
}

// rawPace separates the starts of two attempts to an address. At the other end, one
// socket gets all packets, six for each attempt, where a kernel has a queue for each
// association: a full plan at once would overflow it, which would look like a policy.
const rawPace = 250 * time.Microsecond

// rawBuffer is how many bytes of packets may wait in a raw socket. The kernel grants as
// much as net.core.rmem_max allows, which is twice the default.
const rawBuffer = 1 << 22

// rawBacklog is how many events may wait for an attempt. A whole exchange has fewer.
const rawBacklog = 16

// peer returns the raw socket for an address. The error is an *outcomeError.
func (s *stack) peer(addr netip.Addr) (*rawPeer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.peers[addr]; p != nil {
		return p, nil
	}
	p, err := s.openPeer(addr)
	if err != nil {
		return nil, err
	}
	s.peers[addr] = p
	return p, nil
}

func (s *stack) openPeer(addr netip.Addr) (*rawPeer, error) {
	domain := unix.AF_INET
	if addr.Is6() {
		domain = unix.AF_INET6
	}
	fd, err := rawSocket(s.socket, domain, sctp.Protocol)
	switch {
	case isAny(err, unix.EPERM, unix.EACCES):
		return nil, &outcomeError{wire.Unsupported, "no SCTP in this kernel, and no CAP_NET_RAW: " + localDetail(err)}
	case err != nil:
		return nil, openError(err)
	}
	p := &rawPeer{file: os.NewFile(uintptr(fd), "raw"), v6: addr.Is6(), waiting: map[rawPorts]chan<- rawEvent{}}
	if p.raw, err = p.file.SyscallConn(); err == nil {
		err = errors.Join(queueErrors(fd, domain), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, rawBuffer))
	}
	if err != nil {
		_ = p.file.Close()
		return nil, openError(err)
	}
	// The port of a raw socket's address is none of a transport (raw(7)).
	if err := unix.Connect(fd, sockaddr(netip.AddrPortFrom(addr, 0))); err != nil {
		_ = p.file.Close()
		return nil, localError(err)
	}
	if sa, err := unix.Getsockname(fd); err == nil {
		p.local = addrPort(sa).Addr()
	}
	go p.receive()
	return p, nil
}

// closePeers closes all raw sockets.
func (s *stack) closePeers() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.peers {
		_ = p.file.Close()
	}
	clear(s.peers)
}

// turn waits for the turn of the next attempt, and tells whether the context is still
// alive then.
func (p *rawPeer) turn(ctx context.Context) bool {
	p.mu.Lock()
	now := time.Now()
	wait := max(0, p.next.Sub(now))
	p.next = now.Add(wait + rawPace)
	p.mu.Unlock()
	return sleep(ctx, wait)
}

// join gives an attempt what arrives for its ports from now on, until it leaves.
func (p *rawPeer) join(ports rawPorts) (<-chan rawEvent, error) {
	events := make(chan rawEvent, rawBacklog)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return nil, p.broken
	}
	p.waiting[ports] = events
	return events, nil
}

func (p *rawPeer) leave(ports rawPorts) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, ports)
}

// deliver hands an event to the attempt with these ports. Like a kernel whose buffer
// is full it drops what the attempt is too late for.
func (p *rawPeer) deliver(ports rawPorts, e rawEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case p.waiting[ports] <- e: // nil if there is none
	default:
	}
}

// receive hands out what arrives until the socket is closed.
func (p *rawPeer) receive() {
	in := make([]byte, maxDatagram)
	for {
		n, err := p.file.Read(in)
		// An empty packet reads like the end of a file.
		if err != nil && !errors.Is(err, io.EOF) {
			p.drain()
			if provoked(err) {
				continue
			}
			p.fail(remoteError(err))
			return
		}
		p.handOut(in[:n])
	}
}

// catchUp hands out all that has arrived, whether or not receive has had the time for it.
func (p *rawPeer) catchUp() {
	p.drain()
	in := make([]byte, maxDatagram)
	_ = p.raw.Control(func(fd uintptr) {
		for {
			n, _, err := unix.Recvfrom(int(fd), in, unix.MSG_DONTWAIT)
			if err != nil {
				return
			}
			p.handOut(in[:n])
		}
	})
}

// handOut gives a packet to the attempt that it is for.
func (p *rawPeer) handOut(packet []byte) {
	packet = payload(packet, p.v6)
	if h, ok := sctp.Quoted(packet); ok {
		p.deliver(rawPorts{h.Destination, h.Source}, rawEvent{packet: slices.Clone(packet)})
	}
}

// drain hands out the ICMP errors that have arrived.
func (p *rawPeer) drain() {
	_ = p.raw.Control(func(fd uintptr) {
		drainErrorQueue(int(fd), func(quoted []byte, icmp icmpError) {
			if h, ok := sctp.Quoted(quoted); ok {
				p.deliver(rawPorts{h.Source, h.Destination}, rawEvent{icmp: &icmp, quoted: h})
			}
		})
	})
}

// fail ends all attempts, and those to come.
func (p *rawPeer) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broken = err
	for _, events := range p.waiting {
		select {
		case events <- rawEvent{err: err}:
		default:
		}
	}
}

// maxProvoked bounds how often sending one packet is tried again.
const maxProvoked = 8

// send sends a packet. A raw socket returns the error that the last ICMP error stands
// for, whosever packet it is about: that one is handed out, and the packet sent again.
// The error is an *outcomeError.
func (p *rawPeer) send(packet []byte) error {
	for try := 0; ; try++ {
		_, err := p.file.Write(packet)
		if err == nil {
			return nil
		}
		p.drain()
		switch {
		case !provoked(err):
			return remoteError(err)
		case try == maxProvoked:
			return &outcomeError{wire.ProbeError, localDetail(err)}
		}
	}
}

// provoked tells whether an error is one that the kernel makes of an ICMP error
// (icmp_err_convert, icmpv6_err_convert).
func provoked(err error) bool {
	return isAny(err, unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ENOPROTOOPT, unix.EOPNOTSUPP,
		unix.EHOSTDOWN, unix.ENONET, unix.EMSGSIZE, unix.EPROTO, unix.EACCES)
}

// payload returns what follows the IP header, which a raw socket hands out for IPv4
// (raw(7)) and not for IPv6 (RFC 3542, section 3).
func payload(packet []byte, v6 bool) []byte {
	if v6 || len(packet) == 0 {
		return packet
	}
	n := int(packet[0]&0x0f) * 4
	return packet[min(n, len(packet)):]
}
