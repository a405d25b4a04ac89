//go:build linux

package probe

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// trouble says what is wrong with the pod's own network, such that nothing it tries can
// be answered; empty if that is nothing that the pod can see. What is wrong on its node
// it cannot see.
func trouble() string {
	interfaces, err := net.Interfaces()
	if err != nil {
		return "" // nothing is known
	}
	if s := interfaceTrouble(interfaces); s != "" {
		return s
	}
	return tableTrouble("/proc/sys/net/netfilter")
}

// interfaceTrouble tells whether no interface can carry anything. One is enough: tunnel
// interfaces that the kernel puts into every namespace are down for ever.
func interfaceTrouble(interfaces []net.Interface) string {
	var off []string
	for _, i := range interfaces {
		switch {
		case i.Flags&net.FlagLoopback != 0:
		case i.Flags&net.FlagUp == 0:
			off = append(off, i.Name+" is down")
		case i.Flags&net.FlagRunning == 0:
			off = append(off, i.Name+" has no carrier")
		default:
			return ""
		}
	}
	if len(off) == 0 {
		return "there is no network interface"
	}
	slices.Sort(off)
	return clip(strings.Join(off, ", "))
}

// tableTrouble tells whether the connection table of the pod's network namespace is
// full, so that the kernel drops every packet of a new connection. The table of its node
// has a count of its own, which no pod can see.
func tableTrouble(dir string) string {
	count, err := readNumber(filepath.Join(dir, "nf_conntrack_count"))
	if err != nil {
		return "" // there is no such table
	}
	limit, err := readNumber(filepath.Join(dir, "nf_conntrack_max"))
	if err != nil || limit == 0 || count < limit {
		return ""
	}
	return fmt.Sprintf("its connection table is full (%d of %d)", count, limit)
}

func readNumber(file string) (int, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}
