package main

import (
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// forgetProgram returns a function that unmaps the pages of the program that starting a task took, which are most of it. The few that
// waiting takes come back from the page cache. It looks for them now, as /proc will not show this process later.
func forgetProgram() func() {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return func() {}
	}
	return func() {
		for line := range strings.Lines(string(maps)) {
			if from, to, ok := programRange(line); ok {
				_, _, _ = syscall.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
			}
		}
	}
}

// programRange takes a line as "00400000-00515000 r-xp 00000000 fe:00 9997470 /path" and is false for what is writable or no file's.
func programRange(line string) (from, to uintptr, ok bool) {
	f := strings.Fields(line)
	if len(f) < 6 || f[1] != "r-xp" && f[1] != "r--p" || !strings.HasPrefix(f[5], "/") {
		return 0, 0, false
	}
	a, b, _ := strings.Cut(f[0], "-")
	low, err1 := strconv.ParseUint(a, 16, 64)
	high, err2 := strconv.ParseUint(b, 16, 64)
	return uintptr(low), uintptr(high), err1 == nil && err2 == nil
}
