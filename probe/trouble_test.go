//go:build linux

package probe

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

func TestInterfaceTrouble(t *testing.T) {
	lo := net.Interface{Name: "lo", Flags: net.FlagLoopback | net.FlagUp | net.FlagRunning}
	eth := func(f net.Flags) net.Interface { return net.Interface{Name: "eth0", Flags: f} }
	tunnel := net.Interface{Name: "tunl0"}
	for want, interfaces := range map[string][]net.Interface{
		"":                                  {lo, tunnel, eth(net.FlagUp | net.FlagRunning)},
		"eth0 is down":                      {lo, eth(0)},
		"eth0 has no carrier":               {lo, eth(net.FlagUp)},
		"eth0 is down, tunl0 is down":       {lo, tunnel, eth(net.FlagRunning)},
		"there is no network interface":     {lo},
		"eth0 has no carrier, eth0 is down": {eth(0), eth(net.FlagUp)},
	} {
		if got := interfaceTrouble(interfaces); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestTableTrouble(t *testing.T) {
	for name, c := range map[string]struct{ count, limit, want string }{
		"full":                 {"65536\n", "65536\n", "its connection table is full (65536 of 65536)"},
		"over its limit":       {"9", "1", "its connection table is full (9 of 1)"},
		"almost full":          {"65535", "65536", ""},
		"without a limit":      {"9", "0", ""},
		"no table":             {"", "65536", ""},
		"a limit out of sight": {"9", "", ""},
		"no number":            {"many", "few", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range map[string]string{"nf_conntrack_count": c.count, "nf_conntrack_max": c.limit} {
				if text == "" {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got := tableTrouble(dir); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestTroubleOfANamespace(t *testing.T) {
	n := newNamespace(t)
	expect := func(want string) {
		t.Helper()
		var got string
		// The kernel tells of a carrier when it comes to it (linkwatch), within a second.
		for range 200 {
			if n.do(func() { got = trouble() }); got == want {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("got %q, want %q", got, want)
	}
	expect("there is no network interface")
	var eth0, peer netlink.Link
	n.do(func() {
		n.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "peer"}))
		var err error
		eth0, err = netlink.LinkByName("eth0")
		n.must(err)
		peer, err = netlink.LinkByName("peer")
		n.must(err)
		n.must(netlink.LinkSetUp(eth0))
	})
	expect("eth0 has no carrier, peer is down")
	n.do(func() { n.must(netlink.LinkSetUp(peer)) })
	expect("")
}
