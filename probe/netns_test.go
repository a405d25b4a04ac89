//go:build linux

package probe

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// namespace is a network namespace without a name: it lives as long as the
// thread that made it and the sockets in it, so that even a test that is killed
// leaves nothing behind.
type namespace struct {
	t    testing.TB
	jobs chan func()
	fd   int
}

// newNamespace makes a namespace with loopback up. It skips the test where that
// cannot be done.
func newNamespace(t testing.TB) *namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipping: making network namespaces needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN)")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skipf("skipping: the nft command is needed to drop and reject packets: %v", err)
	}
	n := &namespace{t: t, jobs: make(chan func())}
	made := make(chan error)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// Never unlocked: the runtime ends the thread with the goroutine, so that no
		// other goroutine can end up in this namespace.
		runtime.LockOSThread()
		made <- unix.Unshare(unix.CLONE_NEWNET)
		for job := range n.jobs {
			job()
		}
	}()
	t.Cleanup(func() {
		close(n.jobs)
		<-ended
	})
	if err := <-made; err != nil {
		t.Skipf("skipping: this system allows no new network namespace: %v", err)
	}
	n.do(func() {
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		n.must(err)
		n.fd = fd
		// Without it an IPv6 address is of no use for its first seconds (RFC 4862,
		// duplicate address detection).
		n.sysctl("net/ipv6/conf/default/accept_dad", "0")
		n.sysctl("net/ipv6/conf/all/accept_dad", "0")
		lo, err := netlink.LinkByName("lo")
		n.must(err)
		n.must(netlink.LinkSetUp(lo))
	})
	t.Cleanup(func() { _ = unix.Close(n.fd) })
	return n
}

// do runs a function inside the namespace. Sockets that it opens and processes
// that it starts belong there; goroutines that it starts do not.
func (n *namespace) do(f func()) {
	done := make(chan struct{})
	n.jobs <- func() {
		defer close(done)
		f()
	}
	<-done
}

// must fails the test. It is called inside do, where t.Fatal must not be called.
func (n *namespace) must(err error) {
	if err != nil {
		n.t.Helper()
		n.t.Error(err)
	}
}

// sysctl sets a parameter of the namespace that the calling thread is in.
func (n *namespace) sysctl(name, value string) {
	n.must(os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0))
}

// socket is socket(2) inside the namespace.
func (n *namespace) socket(domain, typ, proto int) (fd int, err error) {
	n.do(func() { fd, err = unix.Socket(domain, typ, proto) })
	return fd, err
}

// nft runs an nftables script inside the namespace.
func (n *namespace) nft(script string) {
	n.t.Helper()
	n.do(func() {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			n.t.Errorf("running nft: %v\n%s", err, out)
		}
	})
}

// link connects two namespaces by a veth pair with the given addresses.
func (n *namespace) link(other *namespace, name string, here, there []string) {
	n.t.Helper()
	n.do(func() {
		n.must(netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: name},
			PeerName:      name,
			PeerNamespace: netlink.NsFd(other.fd),
		}))
	})
	n.addresses(name, here)
	other.addresses(name, there)
}

func (n *namespace) addresses(name string, addrs []string) {
	n.t.Helper()
	n.do(func() {
		link, err := netlink.LinkByName(name)
		if err != nil {
			n.t.Error(err)
			return
		}
		for _, text := range addrs {
			addr, err := netlink.ParseAddr(text)
			n.must(err)
			addr.Flags = unix.IFA_F_NODAD
			n.must(netlink.AddrAdd(link, addr))
		}
		n.must(netlink.LinkSetUp(link))
	})
}

// route adds a route through a gateway.
func (n *namespace) route(dst, gateway string) {
	n.t.Helper()
	n.do(func() {
		ipnet, err := netlink.ParseIPNet(dst)
		n.must(err)
		n.must(netlink.RouteAdd(&netlink.Route{Dst: ipnet, Gw: net.ParseIP(gateway)}))
	})
}

// routeType adds a route of a type without gateway (RTN_PROHIBIT and the like).
func (n *namespace) routeType(dst string, typ int) {
	n.t.Helper()
	n.do(func() {
		ipnet, err := netlink.ParseIPNet(dst)
		n.must(err)
		n.must(netlink.RouteAdd(&netlink.Route{Dst: ipnet, Type: typ}))
	})
}

// lab is a client and a server on either side of a router, which is where the
// packets of a policy are dropped and rejected.
type lab struct {
	client, router, server *namespace
}

// The addresses of the lab.
var (
	clientV4 = netip.MustParseAddr("10.91.1.2")
	routerV4 = netip.MustParseAddr("10.91.1.1")
	serverV4 = netip.MustParseAddr("10.91.2.2")
	serverV6 = netip.MustParseAddr("fd91:2::2")
)

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{client: newNamespace(t), router: newNamespace(t), server: newNamespace(t)}
	l.router.do(func() {
		l.router.sysctl("net/ipv4/ip_forward", "1")
		l.router.sysctl("net/ipv6/conf/all/forwarding", "1")
		// The kernel sends few ICMP errors per second to one destination by default:
		// tests run many attempts in little time.
		l.router.sysctl("net/ipv4/icmp_ratelimit", "0")
		l.router.sysctl("net/ipv6/icmp/ratelimit", "0")
	})
	l.router.link(l.client, "client", []string{"10.91.1.1/24", "fd91:1::1/64"}, []string{"10.91.1.2/24", "fd91:1::2/64"})
	l.router.link(l.server, "server", []string{"10.91.2.1/24", "fd91:2::1/64"}, []string{"10.91.2.2/24", "fd91:2::2/64"})
	l.client.route("10.91.2.0/24", "10.91.1.1")
	l.client.route("fd91:2::/64", "fd91:1::1")
	l.server.route("10.91.1.0/24", "10.91.2.1")
	l.server.route("fd91:1::/64", "fd91:2::1")
	if t.Failed() {
		t.FailNow()
	}
	l.await(serverV4, serverV6)
	return l
}

// await waits until the server answers the client at the addresses. The kernel
// sets up links and IPv6 addresses in work queues, and drops silently what is
// sent before it is done: the lab is not ready until a closed port refuses.
func (l *lab) await(addrs ...netip.Addr) {
	l.client.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for _, addr := range addrs {
		for {
			plan := planOf(wire.Check{Transport: wire.TCP, Addr: addr, Port: 1})
			plan.Attempts, plan.TimeoutMilliseconds = 1, 100
			got := l.client.run(plan)[0]
			if got.Outcomes[0] == wire.Refused {
				break
			}
			if time.Now().After(deadline) {
				l.client.t.Fatalf("the lab is not ready: %s answers with %v %s", addr, got.Outcomes, got.Detail)
			}
		}
	}
}

// serve runs a responder in a namespace until the test ends.
func (n *namespace) serve(cfg Config) *Responder {
	n.t.Helper()
	r := n.listen(cfg)
	n.start(r)
	return r
}

// listen opens a responder in a namespace.
func (n *namespace) listen(cfg Config) *Responder {
	n.t.Helper()
	var (
		r   *Responder
		err error
	)
	n.do(func() {
		if r, err = Listen(cfg); err == nil {
			// The namespace is that of this thread.
			r.record.kernel.dir, err = os.Readlink("/proc/thread-self")
		}
	})
	if err != nil {
		n.t.Fatal(err)
	}
	r.record.kernel.dir = filepath.Join("/proc", r.record.kernel.dir, "net")
	r.newSocket = n.socket
	return r
}

// start runs a responder until the test ends.
func (n *namespace) start(r *Responder) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.Serve(ctx) })
	n.t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

// handle serves TCP connections in a namespace until the test ends.
func (n *namespace) handle(address string, f func(net.Conn)) {
	n.t.Helper()
	var (
		l   net.Listener
		err error
		wg  sync.WaitGroup
	)
	n.do(func() { l, err = net.Listen("tcp", address) })
	if err != nil {
		n.t.Fatal(err)
	}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				f(c)
			})
		}
	})
	n.t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
}

// listenUDP opens a UDP socket in a namespace.
func (n *namespace) listenUDP(address string) net.PacketConn {
	n.t.Helper()
	var (
		pc  net.PacketConn
		err error
	)
	n.do(func() { pc, err = net.ListenPacket("udp", address) })
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = pc.Close() })
	return pc
}

func ports(p flow.Protocol, port uint16) flow.PortRange {
	return flow.PortRange{Protocol: p, First: port, Last: port}
}

// planOf returns a plan whose attempts wait one second: plenty for everything in
// the lab that answers at all, also on a busy machine.
func planOf(checks ...wire.Check) wire.Plan {
	return wire.Plan{Version: wire.Version, ID: "test", TimeoutMilliseconds: 1000, Attempts: 2, Checks: checks}
}

// run runs a plan in a namespace.
func (n *namespace) run(plan wire.Plan) []wire.Result {
	n.t.Helper()
	return n.runWith(&Runner{}, plan)
}

func (n *namespace) runWith(r *Runner, plan wire.Plan) []wire.Result {
	n.t.Helper()
	if r.socket == nil {
		r.socket = n.socket
	}
	report := r.Run(context.Background(), plan)
	if report.Error != "" || len(report.Results) != len(plan.Checks) {
		n.t.Fatalf("got error %q and %d results, want %d", report.Error, len(report.Results), len(plan.Checks))
	}
	return report.Results
}
