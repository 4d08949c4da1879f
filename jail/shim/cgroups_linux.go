package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// cgroups are where a process of the task is born. In version 1 a thread goes ahead and its child is born where it is; in version 2
// that would need threaded cgroups, and clone3(2) does it.
type cgroups struct {
	roots []int // of hierarchies of version 1, as tasks: tried, as a container may forbid it
	tasks []int // files of version 1 that move the thread which writes to them
	v2    int   // directory, or -1
}

// openCgroups opens dirs, and the roots that host names for the hierarchies in which dirs has nothing.
func openCgroups(dirs []string, host hostCgroups) (cgroups, error) {
	g := cgroups{v2: -1}
	for _, dir := range host.v1 {
		if fd, err := unix.Open(filepath.Join(dir, "tasks"), unix.O_WRONLY|unix.O_CLOEXEC, 0); err == nil {
			g.roots = append(g.roots, fd)
		}
	}
	for _, dir := range dirs {
		fd, err := unix.Open(filepath.Join(dir, "tasks"), unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			g.tasks = append(g.tasks, fd)
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return g, fmt.Errorf("cgroup %s: %w", dir, err)
		}
		if g.v2, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return g, fmt.Errorf("cgroup %s: %w", dir, err)
		}
	}
	if g.v2 < 0 && host.v2 != "" {
		g.v2, _ = unix.Open(host.v2, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	return g, nil
}

func (g cgroups) close() {
	for _, fd := range append(append(g.roots, g.tasks...), g.v2) {
		_ = unix.Close(fd)
	}
}

// enter puts the calling thread, not the process, where the task's processes belong.
func (g cgroups) enter() error {
	for _, fd := range g.roots {
		_, _ = unix.Write(fd, []byte("0"))
	}
	for _, fd := range g.tasks {
		if _, err := unix.Write(fd, []byte("0")); err != nil {
			return fmt.Errorf("enter the task's cgroup: %w", err)
		}
	}
	return nil
}

// hostCgroups are the roots of all hierarchies, where stopping Nomad's service stops nothing: the task is born there, and this process
// moves there. Where that is forbidden (a container), they live as long as the service, which is the best to be had there.
type hostCgroups struct {
	v1    []string   // directories
	v2    string     // directory, or ""
	procs []*os.File // files that move the process which writes to them
}

// openHostCgroups returns those where this process is not already.
func openHostCgroups() hostCgroups {
	own, err := os.ReadFile("/proc/self/cgroup")
	below := belowRoot(string(own))
	if err != nil || len(below) == 0 {
		return hostCgroups{}
	}
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return hostCgroups{}
	}
	defer mounts.Close()
	var host hostCgroups
	for s := bufio.NewScanner(mounts); s.Scan(); {
		dir, names := cgroupRoot(s.Text())
		if slices.ContainsFunc(names, func(n string) bool { return slices.Contains(below, n) }) {
			host.add(dir, names[0] == version2)
		}
	}
	return host
}

func (host *hostCgroups) add(dir string, v2 bool) {
	procs, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
	if err != nil {
		return
	}
	if v2 && !isTrueRoot(dir) { // a container's: nothing may be born there, perhaps
		_, _ = procs.WriteString("0")
		procs.Close()
		return
	}
	if v2 {
		host.v2 = dir
	} else {
		host.v1 = append(host.v1, dir)
	}
	host.procs = append(host.procs, procs)
}

// isTrueRoot tells a hierarchy's root from that of a cgroup namespace, which has a type. (cgroups(7))
func isTrueRoot(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "cgroup.type"))
	return errors.Is(err, fs.ErrNotExist)
}

// enter moves this process. The kernel may wait for all processors before it moves one that has threads, which would be the longest step
// of a start, so it is done after.
func (host hostCgroups) enter() {
	for _, f := range host.procs {
		_, _ = f.WriteString("0")
		f.Close()
	}
}

// version2 stands for the hierarchy of version 2 where those of version 1 have the names of their controllers.
const version2 = ""

// belowRoot takes lines as "4:cpu,cpuacct:/nomad.service" and returns a name of each hierarchy in which the process is not at the root.
func belowRoot(own string) (names []string) {
	for line := range strings.Lines(own) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 && f[2] != "/" {
			name, _, _ := strings.Cut(f[1], ",")
			names = append(names, name)
		}
	}
	return names
}

// cgroupRoot returns the mount point and the names of the hierarchy whose root a line of mountinfo mounts, if it does.
func cgroupRoot(line string) (dir string, names []string) {
	before, after, _ := strings.Cut(line, " - ")
	f, g := strings.Fields(before), strings.Fields(after)
	if len(f) < 5 || len(g) < 3 || f[3] != "/" {
		return "", nil
	}
	switch g[0] {
	case "cgroup":
		return f[4], strings.Split(g[2], ",")
	case "cgroup2":
		return f[4], []string{version2}
	}
	return "", nil
}
