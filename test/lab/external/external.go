// Package external is the outside world of the lab: an echo server on addresses
// that belong to no pod and no node.
package external

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// The ports that answer on every address.
var (
	TCPPorts = []uint16{443, 8443}
	UDPPorts = []uint16{53, 443}
)

// idle ends a connection whose client went away without closing it.
const idle = 30 * time.Second

// Serve echoes until ctx ends. Each address has sockets of its own: a UDP reply
// from a wildcard socket could leave with another source address than the one
// that was asked.
func Serve(ctx context.Context, addrs []netip.Addr) error {
	var config net.ListenConfig
	failed := make(chan error)
	for _, addr := range addrs {
		for _, port := range TCPPorts {
			l, err := config.Listen(ctx, "tcp", netip.AddrPortFrom(addr, port).String())
			if err != nil {
				return fmt.Errorf("listening: %w", err)
			}
			go func() { failed <- serveTCP(l) }()
		}
		for _, port := range UDPPorts {
			c, err := config.ListenPacket(ctx, "udp", netip.AddrPortFrom(addr, port).String())
			if err != nil {
				return fmt.Errorf("listening: %w", err)
			}
			go func() { failed <- serveUDP(c) }()
		}
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

func serveTCP(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return fmt.Errorf("accepting: %w", err)
		}
		go func() {
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(idle))
			_, _ = io.Copy(conn, conn)
		}()
	}
}

func serveUDP(c net.PacketConn) error {
	buffer := make([]byte, 65535)
	for {
		n, from, err := c.ReadFrom(buffer)
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("reading: %w", err)
		}
		if err == nil {
			// An ICMP error for an earlier reply may surface here; the next
			// read goes on.
			_, _ = c.WriteTo(buffer[:n], from)
		}
	}
}
