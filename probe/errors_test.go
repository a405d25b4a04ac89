//go:build linux

package probe

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pathproof/pathproof/probe/wire"
)

// extended builds the control message that carries a struct sock_extended_err.
func extended(level, typ int32, origin, icmpType, code byte, offender ...byte) unix.SocketControlMessage {
	data := make([]byte, extendedErrorBytes, extendedErrorBytes+len(offender))
	data[4], data[5], data[6] = origin, icmpType, code
	return unix.SocketControlMessage{
		Header: unix.Cmsghdr{Level: level, Type: typ},
		Data:   append(data, offender...),
	}
}

func TestParseExtendedError(t *testing.T) {
	// struct sockaddr_in: family (native order), port, address, padding.
	family := func(f uint16) []byte { return binary.NativeEndian.AppendUint16(nil, f) }
	v4 := append(family(unix.AF_INET), 0, 0, 10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0)
	a6 := netip.MustParseAddr("fd00::9").As16()
	v6 := append(family(unix.AF_INET6), 0, 0, 0, 0, 0, 0) // port, flow
	v6 = append(append(v6, a6[:]...), 0, 0, 0, 0)         // address, scope
	const (
		icmp4, icmp6, own = unix.SO_EE_ORIGIN_ICMP, unix.SO_EE_ORIGIN_ICMP6, unix.SO_EE_ORIGIN_LOCAL
	)
	cases := map[string]struct {
		message unix.SocketControlMessage
		want    string // empty: no ICMP error
	}{
		"admin-prohibited":                    {extended(unix.IPPROTO_IP, unix.IP_RECVERR, icmp4, 3, 13, v4...), "icmp 3/13 from 10.0.0.9"},
		"ICMPv6 admin-prohibited":             {extended(unix.IPPROTO_IPV6, unix.IPV6_RECVERR, icmp6, 1, 1, v6...), "icmp6 1/1 from fd00::9"},
		"time exceeded":                       {extended(unix.IPPROTO_IP, unix.IP_RECVERR, icmp4, 11, 0, v4...), "icmp 11/0 from 10.0.0.9"},
		"an unknown offender":                 {extended(unix.IPPROTO_IP, unix.IP_RECVERR, icmp4, 3, 1), "icmp 3/1 from invalid IP"},
		"fragmentation needed is no refusal":  {extended(unix.IPPROTO_IP, unix.IP_RECVERR, icmp4, 3, 4, v4...), ""},
		"packet too big is no refusal":        {extended(unix.IPPROTO_IPV6, unix.IPV6_RECVERR, icmp6, 2, 0, v6...), ""},
		"an error of the local stack is none": {extended(unix.IPPROTO_IP, unix.IP_RECVERR, own, 0, 0, v4...), ""},
		"another control message is none":     {extended(unix.IPPROTO_IP, unix.IP_TTL, icmp4, 3, 13, v4...), ""},
		"a short message is none":             {unix.SocketControlMessage{Header: unix.Cmsghdr{Level: unix.IPPROTO_IP, Type: unix.IP_RECVERR}, Data: []byte{1}}, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			e, ok := parseExtendedError(tc.message)
			if ok != (tc.want != "") {
				t.Fatalf("got %+v, %v, want %q", e, ok, tc.want)
			}
			if ok && failed(e.rejected()).detail != tc.want {
				t.Errorf("got %q, want %q", failed(e.rejected()).detail, tc.want)
			}
		})
	}
}

// The same errno means different things before anything was sent, at connect()
// and after it.
func TestErrnoOutcomes(t *testing.T) {
	cases := map[string]struct {
		classify func(error) error
		errno    unix.Errno
		want     wire.Outcome
	}{
		"a RST":                                  {remoteError, unix.ECONNREFUSED, wire.Refused},
		"the kernel gave up":                     {remoteError, unix.ETIMEDOUT, wire.TimedOut},
		"a late EHOSTUNREACH is a rejection":     {remoteError, unix.EHOSTUNREACH, wire.Rejected},
		"an early EHOSTUNREACH is a route":       {localError, unix.EHOSTUNREACH, wire.NoRoute},
		"no route":                               {localError, unix.ENETUNREACH, wire.NoRoute},
		"the link is down":                       {localError, unix.ENETDOWN, wire.NoRoute},
		"a filter of the sandbox":                {localError, unix.EPERM, wire.Rejected},
		"a prohibited route":                     {localError, unix.EACCES, wire.Rejected},
		"no source address":                      {localError, unix.EADDRNOTAVAIL, wire.AddressUnavailable},
		"no port for connect":                    {localError, unix.EAGAIN, wire.AddressUnavailable},
		"no port for bind":                       {openError, unix.EADDRINUSE, wire.AddressUnavailable},
		"no address for bind":                    {openError, unix.EADDRNOTAVAIL, wire.AddressUnavailable},
		"a forbidden socket is no rejection":     {openError, unix.EACCES, wire.ProbeError},
		"a reset after the handshake":            {remoteError, unix.ECONNRESET, wire.Connected},
		"an errno nobody thought of":             {remoteError, unix.ENOTTY, wire.ProbeError},
		"a full send queue is the probe's error": {remoteError, unix.ENOBUFS, wire.ProbeError},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := tc.classify(&os.PathError{Op: "write", Path: "TCP", Err: tc.errno})
			if got := failed(err).outcome; got != tc.want {
				t.Errorf("got %v (%v), want %v", got, err, tc.want)
			}
		})
	}
	if got := failed(errors.New("boom")); got.outcome != wire.ProbeError || got.detail != "boom" {
		t.Errorf("got %+v for an error of unknown origin, want ProbeError", got)
	}
}

func TestPortIsClaimedOncePerTarget(t *testing.T) {
	s := newStack(nil)
	a, b := netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("10.0.0.1:81")
	cases := []struct {
		use  portUse
		want bool
	}{
		{portUse{"TCP", 40000, a}, true},
		{portUse{"TCP", 40000, a}, false},
		{portUse{"TCP", 40000, b}, true},
		{portUse{"UDP", 40000, a}, true},
		{portUse{"TCP", 80, a}, false}, // would connect to itself on a local address
	}
	for i, tc := range cases {
		if got := s.claim(tc.use); got != tc.want {
			t.Errorf("claim %d of %+v: got %v, want %v", i, tc.use, got, tc.want)
		}
	}
}

// A watch goes on for longer than there are source ports.
func TestWatchesUsePortsAgain(t *testing.T) {
	s := new(Runner).watchSession(wire.Plan{TimeoutMilliseconds: 1000})
	target := netip.MustParseAddrPort("10.0.0.1:80")
	for i := range 3 * watchedPorts {
		if port := uint16(10_000 + i%(watchedPorts+1)); !s.claim(portUse{"TCP", port, target}) {
			t.Fatalf("attempt %d: port %d was refused, %d attempts after it was used", i, port, watchedPorts+1)
		}
	}
	if s.claim(portUse{"TCP", uint16(10_000 + (3*watchedPorts-1)%(watchedPorts+1)), target}) {
		t.Error("the port of the last attempt was used again at once")
	}
	if len(s.used) > watchedPorts {
		t.Errorf("%d ports are remembered, want at most %d", len(s.used), watchedPorts)
	}
}
