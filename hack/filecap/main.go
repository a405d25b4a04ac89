//go:build linux

// Command filecap gives a binary the file capability that the probe's image needs, as
// `setcap cap_net_raw=p FILE` does, for build images that have no setcap:
//
//	filecap FILE
//
// It is in the permitted set alone. With the effective bit, the kernel would refuse to
// run the binary wherever the capability may not be had (capabilities(7), "Safety
// checking for capability-dumb binaries"), and that is in every probe pod but those
// that are to speak SCTP over raw sockets.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"syscall"
)

// The layout of struct vfs_cap_data (linux/capability.h): a version, then the permitted
// and the inheritable set, 32 capabilities at a time, all in little endian.
const (
	attribute = "security.capability"
	version2  = 0x02000000
	netRaw    = 13
)

// value encodes the capability.
func value() []byte {
	b := binary.LittleEndian.AppendUint32(nil, version2)
	b = binary.LittleEndian.AppendUint32(b, 1<<netRaw)
	return append(b, make([]byte, 12)...)
}

func main() {
	if len(os.Args) != 2 {
		_, _ = fmt.Fprintln(os.Stderr, "usage: filecap FILE")
		os.Exit(2)
	}
	if err := syscall.Setxattr(os.Args[1], attribute, value(), 0); err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "filecap: setting %s of %s: %v\n", attribute, os.Args[1], err)
		os.Exit(1)
	}
}
