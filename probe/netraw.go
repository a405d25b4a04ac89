//go:build linux

package probe

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// rawSocket opens a non-blocking raw socket. It takes CAP_NET_RAW, and nothing that is
// done with the socket afterwards does. So the probe, which has the capability in its
// permitted set at most, makes it effective for this one call and in this one thread
// (capabilities(7): each thread has sets of its own).
func rawSocket(socket socketFunc, domain, proto int) (fd int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var before [2]unix.CapUserData
	if err := unix.Capget(&header, &before[0]); err != nil {
		return -1, err
	}
	const netRaw = 1 << unix.CAP_NET_RAW
	if before[0].Permitted&netRaw != 0 && before[0].Effective&netRaw == 0 {
		raised := before
		raised[0].Effective |= netRaw
		if err := unix.Capset(&header, &raised[0]); err != nil {
			return -1, err
		}
		// Giving up what one has cannot fail.
		defer func() { _ = unix.Capset(&header, &before[0]) }()
	}
	return socket(domain, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
}
