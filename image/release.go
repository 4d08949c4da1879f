package image

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// newerRelease compares releases by their numbers, which is how FreeBSD's kernels promise to run older programs. What has
// no number, such as a Linux distribution's name, is not newer.
func newerRelease(image, host string) bool {
	i, imageOK := releaseNumber(image)
	h, hostOK := releaseNumber(host)
	if !imageOK || !hostOK {
		return false
	}
	return i[0] > h[0] || i[0] == h[0] && i[1] > h[1]
}

// releaseNumber is {12, 2} of 12.2-RELEASE-p3.
func releaseNumber(release string) (n [2]int, ok bool) {
	found, _ := fmt.Sscanf(release, "%d.%d", &n[0], &n[1])
	return n, found == 2
}

// hostRelease is the running kernel's.
func hostRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}
