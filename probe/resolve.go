//go:build linux

package probe

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/pathproof/pathproof/probe/wire"
)

// dnsPort is where the resolvers of resolv.conf(5) listen.
const dnsPort = 53

// resolve returns the addresses of a host, sorted, as the resolvers of the pod
// give them. A and AAAA are asked for at the same time; addresses of one family
// are enough. The name is fully qualified: the search list and /etc/hosts play
// no part. It takes one timeout at most. Silence of all resolvers is
// DNSTimedOut; a resolver that could not even be asked is the local error.
func (s *session) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}, nil
	}
	conf, err := s.resolver()
	if err != nil {
		return nil, err
	}
	types := [2]string{"A", "AAAA"}
	var (
		wg       sync.WaitGroup
		attempts [2]attempt
		found    [2][]netip.Addr
	)
	for i, qtype := range types {
		wg.Go(func() { attempts[i], found[i] = s.lookup(ctx, conf.servers, host, qtype) })
	}
	wg.Wait()
	if addrs := slices.Concat(found[0], found[1]); len(addrs) > 0 {
		slices.SortFunc(addrs, netip.Addr.Compare)
		return slices.Compact(addrs), nil
	}
	return nil, unresolved(attempts[:])
}

// resolverConfig is a resolver configuration.
type resolverConfig struct {
	// servers are at least one, and at most wire.MaxNameservers.
	servers []netip.Addr
	// names returns the fully qualified names to ask for, one after the other, of a name
	// that need not be: its dots are counted against ndots, and the search list is
	// appended.
	names func(string) []string
}

// readResolverConfig reads a resolv.conf(5) file.
func readResolverConfig(path string) (resolverConfig, error) {
	cfg, err := dns.ClientConfigFromFile(path)
	if err != nil {
		return resolverConfig{}, fmt.Errorf("reading resolver configuration: %w", err)
	}
	// The root as a search domain appends nothing.
	cfg.Search = slices.DeleteFunc(cfg.Search, func(domain string) bool { return domain == "." })
	out := resolverConfig{names: cfg.NameList}
	for _, text := range cfg.Servers[:min(len(cfg.Servers), wire.MaxNameservers)] {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return resolverConfig{}, fmt.Errorf("reading resolver configuration: %w", err)
		}
		out.servers = append(out.servers, addr.Unmap())
	}
	if len(out.servers) == 0 {
		return resolverConfig{}, fmt.Errorf("reading resolver configuration: no nameserver in %s", path)
	}
	return out, nil
}

// nameserver returns the nameserver at a place of the resolver configuration.
func (s *session) nameserver(n int) (netip.Addr, error) {
	conf, err := s.resolver()
	if err != nil {
		return netip.Addr{}, err
	}
	if n > len(conf.servers) {
		return netip.Addr{}, fmt.Errorf("the resolver configuration has %d nameservers", len(conf.servers))
	}
	return conf.servers[n-1], nil
}

// lookup asks one server after the other until one answers.
func (s *session) lookup(ctx context.Context, servers []netip.Addr, host, qtype string) (attempt, []netip.Addr) {
	var last attempt
	for _, server := range servers {
		a, m := s.query(ctx, wire.DNSUDP, netip.AddrPortFrom(server, dnsPort), host, qtype, s.timeout/time.Duration(len(servers)))
		if m != nil && (a.outcome == wire.Connected || a.outcome == wire.NameNotFound) {
			return a, addresses(m)
		}
		if last = a; ctx.Err() != nil {
			break
		}
	}
	return last, nil
}

func addresses(m *dns.Msg) (addrs []netip.Addr) {
	for _, rr := range m.Answer {
		var (
			addr netip.Addr
			ok   bool
		)
		switch rr := rr.(type) {
		case *dns.A:
			addr, ok = netip.AddrFromSlice(rr.A)
		case *dns.AAAA:
			addr, ok = netip.AddrFromSlice(rr.AAAA)
		}
		if ok {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs
}

// unresolved picks the outcome when no family had an address. That a name does
// not exist is certain only when both families say so; anything else wins.
func unresolved(attempts []attempt) error {
	worst := attempts[0]
	for _, a := range attempts[1:] {
		if worst.outcome == wire.NameNotFound {
			worst = a
		}
	}
	e := &outcomeError{worst.outcome, "resolver: " + worst.outcome.String()}
	if worst.detail != "" {
		e.detail += " " + worst.detail
	}
	switch worst.outcome {
	case wire.TimedOut, wire.Refused, wire.Rejected, wire.Unanswered:
		e.outcome = wire.DNSTimedOut
	case wire.Connected:
		e.outcome = wire.NameNotFound
	case wire.Replied, wire.Delivered, wire.NoRoute, wire.AddressUnavailable, wire.NameNotFound, wire.ServerFailure,
		wire.DNSRefused, wire.DNSTimedOut, wire.Truncated, wire.AnswerDiffers, wire.Unsupported, wire.ProbeError:
	}
	return e
}

// reachable returns the addresses for which the pod has a route and a source
// address. If there is none, it returns the first address, so that the attempt
// ends with the kernel's own reason.
func (s *stack) reachable(addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, addr := range addrs {
		if connectable(s.socket, addr) == nil {
			out = append(out, addr)
		}
	}
	if len(out) == 0 {
		return addrs[:1]
	}
	return out
}

// attempts makes one attempt of a check: at its address, or at each address that
// its host has, side by side. A host of which one address is open is not closed,
// and one of which one is closed is not open to everybody.
//
// An attempt at a check's own address runs in the slot of the caller; one by host
// takes a slot for the resolver and then one for each address.
func (s *session) attempts(ctx context.Context, c *wire.Check) []attempt {
	if c.Nameserver > 0 {
		addr, err := s.nameserver(c.Nameserver)
		if err != nil {
			return []attempt{failed(err)}
		}
		at := *c
		at.Nameserver, at.Addr = 0, addr
		c = &at
	}
	if c.Host == "" {
		return []attempt{s.guarded(ctx, c)}
	}
	if !s.acquire(ctx) {
		return []attempt{failed(cancelled(ctx))}
	}
	addrs, err := s.addresses(ctx, c.Host)
	s.release()
	if err != nil {
		return []attempt{failed(err)}
	}
	untried := max(0, len(addrs)-wire.MaxHostAddresses)
	addrs = addrs[:len(addrs)-untried]
	out := make([]attempt, len(addrs))
	var wg sync.WaitGroup
	for i, addr := range addrs {
		wg.Go(func() {
			if s.acquire(ctx) {
				defer s.release()
				at := *c
				at.Host, at.Addr = "", addr
				out[i] = s.guarded(ctx, &at)
			} else {
				out[i] = failed(cancelled(ctx))
			}
			out[i].tried, out[i].untried = addr, untried
		})
	}
	wg.Wait()
	return out
}

// connectable asks the kernel whether it has a route to an address and a source
// address for it. Connecting a UDP socket finds out and sends nothing.
func connectable(socket socketFunc, addr netip.Addr) error {
	domain := unix.AF_INET
	if addr.Is6() {
		domain = unix.AF_INET6
	}
	fd, err := socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Connect(fd, sockaddr(netip.AddrPortFrom(addr, dnsPort)))
}
