//go:build linux

package probe

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/sctp"
)

// rawHost answers SCTP in one address family in place of a kernel that has none: on
// the ports of the responder, and with ABORT on all others. Where the kernel has SCTP, it
// sees what arrives and is silent.
type rawHost struct {
	conn *net.IPConn
	v6   bool
	host *sctp.Host
}

// openRaw opens a port of SCTP on the raw socket of its address family. unsupported is
// the error with which the kernel said that it has no SCTP.
func (r *Responder) openRaw(l *listener, unsupported error) error {
	h, err := r.rawHost(l.loopback.Is6(), false)
	if err != nil {
		return fmt.Errorf("%w, and over a raw socket: %w", unsupported, err)
	}
	h.host.Listen(l.port)
	l.raw = h
	return nil
}

// recordSCTP sees to it that handshakes with a port of the kernel's SCTP are recorded. The
// kernel keeps no state for a peer that has not proved that it gets its answers, so that it
// takes a raw socket, which gets a copy of every packet.
func (r *Responder) recordSCTP(l *listener) {
	if !r.cfg.RawSCTP {
		r.record.blind[flow.SCTP] = "the kernel's SCTP keeps no trace of a handshake whose answer was lost: set probe.sctp to Raw"
		return
	}
	h, err := r.rawHost(l.loopback.Is6(), true)
	if err != nil {
		r.record.blind[flow.SCTP] = fmt.Sprintf("handshakes of SCTP cannot be seen: %v", err)
		return
	}
	h.host.Listen(l.port)
}

// rawHost returns the raw socket of an address family.
func (r *Responder) rawHost(v6, silent bool) (*rawHost, error) {
	if h := r.raw[v6]; h != nil {
		return h, nil
	}
	c, err := listenRaw(v6)
	if err != nil {
		return nil, err
	}
	h := &rawHost{conn: c, v6: v6, host: sctp.NewHost(r.answerRaw)}
	// Where the kernel answers, the host only sees what arrives.
	h.host.Silent = silent
	h.host.Began = func(port uint16, peer netip.AddrPort) { r.record.began(flow.SCTP, port, peer) }
	h.host.Completed = func(port uint16, peer netip.AddrPort) { r.record.completed(flow.SCTP, port, peer) }
	r.raw[v6] = h
	if !silent {
		r.cfg.Logf("Answering SCTP over a raw socket: this kernel has no SCTP")
	}
	return h, nil
}

// listenRaw opens a raw socket that gets every SCTP packet of an address family.
func listenRaw(v6 bool) (*net.IPConn, error) {
	domain := unix.AF_INET
	if v6 {
		domain = unix.AF_INET6
	}
	fd, err := rawSocket(unix.Socket, domain, sctp.Protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), "raw")
	defer func() { _ = file.Close() }()
	pc, err := net.FilePacketConn(file)
	if err != nil {
		return nil, err
	}
	c, ok := pc.(*net.IPConn)
	if !ok {
		_ = pc.Close()
		return nil, fmt.Errorf("a raw socket is a %T", pc)
	}
	if err := errors.Join(wantPacketInfo(c, v6), c.SetReadBuffer(rawBuffer)); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// answerRaw answers a message of an association.
func (r *Responder) answerRaw(port uint16, from netip.Addr, message []byte) []byte {
	nonce, ok := parseRequest(message)
	if !ok {
		return nil
	}
	r.seen(&listener{protocol: flow.SCTP, port: port}, nonce, from)
	return reply(nonce, from)
}

func (h *rawHost) close() { _ = h.conn.Close() }

// serve answers packets until the socket is closed.
func (h *rawHost) serve() {
	in, oob := make([]byte, maxDatagram), make([]byte, 128)
	for {
		n, oobn, _, from, err := h.conn.ReadMsgIP(in, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		addr, _ := netip.AddrFromSlice(from.IP)
		out := h.host.Receive(time.Now(), addr.Unmap().WithZone(from.Zone), destination(oob[:oobn]), payload(in[:n], h.v6))
		if out != nil {
			_, _, _ = h.conn.WriteMsgIP(out, replySource(oob[:oobn]), from)
		}
	}
}

// destination reads the address that a packet was sent to from the same control
// messages as replySource. It is none for a broadcast: there, the local address of the
// packet is another than the destination of its header.
func destination(oob []byte) netip.Addr {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}
	}
	for _, m := range msgs {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			if local, header := [4]byte(m.Data[4:8]), [4]byte(m.Data[8:12]); local == header {
				return netip.AddrFrom4(header)
			}
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			return netip.AddrFrom16([16]byte(m.Data[:16]))
		}
	}
	return netip.Addr{}
}
