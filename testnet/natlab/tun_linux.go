package natlab

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const tunDevice = "/dev/net/tun"

// openTUN makes a TUN device in a namespace: each Read takes one IP packet that
// was routed there, each Write is one that arrives from there.
func (s *sandbox) openTUN(place, device string) (*os.File, error) {
	var f *os.File
	err := s.inside(place, func() error {
		fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		request, err := unix.NewIfreq(device)
		if err == nil {
			request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
		}
		if err != nil {
			_ = unix.Close(fd)
			return err
		}
		f = os.NewFile(uintptr(fd), tunDevice)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("make %s in %s: %w", device, s.name(place), err)
	}
	return f, nil
}
