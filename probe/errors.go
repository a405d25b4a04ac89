//go:build linux

package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/pathproof/pathproof/probe/wire"
)

// icmpError is an ICMP or ICMPv6 error that a packet of ours provoked.
type icmpError struct {
	v6        bool
	typ, code uint8
	offender  netip.Addr
}

// rejected renders the error as people know it, for instance "icmp 3/13 from
// 10.0.0.1" for "communication administratively prohibited" (RFC 1812, section
// 5.2.7.1).
func (e icmpError) rejected() error {
	name := "icmp"
	if e.v6 {
		name = "icmp6"
	}
	return &outcomeError{wire.Rejected, fmt.Sprintf("%s %d/%d from %s", name, e.typ, e.code, e.offender)}
}

// ICMP types and codes that do not end an attempt: they ask for smaller packets
// (RFC 1191, RFC 8201), and the kernel obeys by itself.
const (
	icmpUnreachable   = 3
	icmpFragNeeded    = 4
	icmp6PacketTooBig = 2
)

// readErrorQueue empties the socket's error queue and returns the first ICMP
// error in it (ip(7), IP_RECVERR; the layout is struct sock_extended_err,
// followed by the address of the node that sent the error). Errors of the local
// stack are in the queue, too, and are passed over: errno tells as much.
func readErrorQueue(fd int) (found icmpError, ok bool) {
	drainErrorQueue(fd, func(_ []byte, icmp icmpError) {
		if !ok {
			found, ok = icmp, true
		}
	})
	return found, ok
}

// quotedBytes is how much is read of the packet that provoked an error. An ICMP error
// quotes no less of what follows its IP header (RFC 792), and the ports are there.
const quotedBytes = 8

// drainErrorQueue empties the socket's error queue and hands out every ICMP error in it
// with the packet that provoked it.
func drainErrorQueue(fd int, take func(quoted []byte, icmp icmpError)) {
	data, oob := make([]byte, quotedBytes), make([]byte, 512)
	for {
		k, n, _, _, err := unix.Recvmsg(fd, data, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err != nil {
			return
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil {
			continue
		}
		for _, m := range msgs {
			if icmp, is := parseExtendedError(m); is {
				take(data[:k], icmp)
			}
		}
	}
}

// extendedErrorBytes is the size of struct sock_extended_err.
const extendedErrorBytes = 16

func parseExtendedError(m unix.SocketControlMessage) (icmpError, bool) {
	v4 := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR
	v6 := m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR
	if !v4 && !v6 || len(m.Data) < extendedErrorBytes {
		return icmpError{}, false
	}
	e := icmpError{typ: m.Data[5], code: m.Data[6], offender: offender(m.Data[extendedErrorBytes:])}
	switch origin := m.Data[4]; origin {
	case unix.SO_EE_ORIGIN_ICMP:
		return e, e.typ != icmpUnreachable || e.code != icmpFragNeeded
	case unix.SO_EE_ORIGIN_ICMP6:
		e.v6 = true
		return e, e.typ != icmp6PacketTooBig
	}
	return icmpError{}, false
}

// offender reads a struct sockaddr_in or sockaddr_in6.
func offender(b []byte) netip.Addr {
	if len(b) < 8 {
		return netip.Addr{}
	}
	switch binary.NativeEndian.Uint16(b) {
	case unix.AF_INET:
		return netip.AddrFrom4([4]byte(b[4:8]))
	case unix.AF_INET6:
		if len(b) >= 24 {
			return netip.AddrFrom16([16]byte(b[8:24])).Unmap()
		}
	}
	return netip.Addr{}
}

// openError classifies an error of socket() and bind(). Nothing was sent.
func openError(err error) error {
	var oe *outcomeError
	switch {
	case errors.As(err, &oe):
		return err
	case isAny(err, unix.EPROTONOSUPPORT, unix.ESOCKTNOSUPPORT, unix.EAFNOSUPPORT, unix.EPFNOSUPPORT):
		return &outcomeError{wire.Unsupported, localDetail(err)}
	case isAny(err, unix.EADDRINUSE, unix.EADDRNOTAVAIL):
		return &outcomeError{wire.AddressUnavailable, localDetail(err)}
	}
	// EPERM and EACCES belong here: a sandbox forbids the socket, not the path.
	return &outcomeError{wire.ProbeError, "opening socket: " + err.Error()}
}

// localError classifies an error that connect() returned at once, before any
// answer could arrive: the routing table and local filters speak here.
func localError(err error) error {
	switch {
	case isAny(err, unix.EHOSTUNREACH, unix.EINVAL, unix.ENETDOWN):
		// A route of type unreachable (EHOSTUNREACH) or blackhole (EINVAL).
		return &outcomeError{wire.NoRoute, localDetail(err)}
	case isAny(err, unix.EAGAIN):
		// ip(7), tcp(7): no free ephemeral port.
		return &outcomeError{wire.AddressUnavailable, localDetail(err)}
	}
	return remoteError(err)
}

// remoteError classifies an error of a socket that has sent something, once the
// error queue is known to hold no ICMP error.
func remoteError(err error) error {
	detail := localDetail(err)
	switch {
	case isAny(err, unix.ECONNREFUSED):
		return &outcomeError{outcome: wire.Refused}
	case isAny(err, unix.ETIMEDOUT):
		return &outcomeError{outcome: wire.TimedOut}
	case isAny(err, unix.EPERM, unix.EACCES, unix.EHOSTUNREACH):
		return &outcomeError{wire.Rejected, detail}
	case isAny(err, unix.ENETUNREACH):
		return &outcomeError{wire.NoRoute, detail}
	case isAny(err, unix.EADDRNOTAVAIL, unix.EADDRINUSE):
		return &outcomeError{wire.AddressUnavailable, detail}
	case isAny(err, unix.ECONNRESET, unix.EPIPE):
		// A RST to a SYN is ECONNREFUSED: this one came after the handshake.
		return &outcomeError{wire.Connected, "reset after the handshake"}
	}
	return &outcomeError{wire.ProbeError, detail}
}

// localDetail is the text of the errno alone: the operation and the name of the
// file that os adds tell a user nothing.
func localDetail(err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return "local: " + errno.Error()
	}
	return "local: " + err.Error()
}

func isAny(err error, errnos ...unix.Errno) bool {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return false
	}
	for _, e := range errnos {
		if errno == e {
			return true
		}
	}
	return false
}
