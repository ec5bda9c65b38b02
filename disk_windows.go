package obelisk

import "golang.org/x/sys/windows"

// diskSpace returns the free and total bytes of the disk that path is on, as
// its owner can use them.
func diskSpace(path string) (free, total uint64, err error) {
	p, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return 0, 0, err
	}
	err = windows.GetDiskFreeSpaceEx(p, &free, &total, nil)
	return free, total, err
}
