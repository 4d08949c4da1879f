package rctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// host is what this machine has mounted, looked up once: hierarchies do not come and go.
var host = sync.OnceValues(func() (tree, error) {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	t := parseMounts(mountinfo)
	for i := range t {
		t[i].look()
	}
	return t, nil
})

var hostReadings = sync.OnceValues(func() ([]reading, error) {
	t, err := host()
	return t.readings(), err
})

// look completes a hierarchy with what its root directory says. A file that is not there leaves its field empty.
func (h *hierarchy) look() {
	text := func(file string) string {
		b, _ := os.ReadFile(filepath.Join(h.dir, file))
		return strings.TrimSpace(string(b))
	}
	switch {
	case h.v2:
		h.controllers = strings.Fields(text("cgroup.controllers"))
	case slices.Contains(h.controllers, "memory"):
		_, err := os.Stat(filepath.Join(h.dir, "memory.memsw.limit_in_bytes"))
		h.noSwapCount = errors.Is(err, fs.ErrNotExist)
	case slices.Contains(h.controllers, "cpuset"):
		h.cpus, h.mems = text("cpuset.cpus"), text("cpuset.mems")
	}
}

func check() error {
	t, err := host()
	if err != nil {
		return err
	}
	return t.check()
}

func apply(name string, l Limits) (Subject, error) {
	t, err := host()
	if err != nil {
		return Subject{}, err
	}
	steps, subject, err := t.plan(name, l)
	if err != nil {
		return Subject{}, err
	}
	unlock, err := t.lock()
	if err != nil {
		return Subject{}, err
	}
	defer unlock()
	// A leftover would bring its counters along, and with them an OOM kill that was not this task's.
	for _, h := range t {
		if err := removeGroup(filepath.Join(h.dir, parent, name)); err != nil {
			return Subject{}, err
		}
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return Subject{}, errors.Join(err, t.removeGroups(name))
		}
	}
	return subject, nil
}

func (s step) do() error {
	if s.value == "" {
		if err := os.Mkdir(s.path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	}
	// Never O_CREATE: a file missing here is one the kernel does not have.
	f, err := os.OpenFile(s.path, os.O_WRONLY, 0)
	if err != nil && s.optional && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(s.value); err != nil {
		return fmt.Errorf("%q is refused: %w", s.value, err)
	}
	return nil
}

// lock keeps one process from removing the parent cgroups, empty again, while another makes its first below them.
func (t tree) lock() (unlock func(), err error) {
	if len(t) == 0 {
		return func() {}, nil
	}
	f, err := os.Open(t[0].dir)
	if err != nil {
		return nil, err
	}
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "flock", Path: t[0].dir, Err: err}
	}
	return func() { f.Close() }, nil
}

func remove(name string) error {
	t, err := host()
	if err != nil {
		return err
	}
	if err := t.removeWaiting(name); err != nil {
		return err
	}
	unlock, err := t.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return t.removeGroups(name)
}

// removeWaiting gives processes that were killed the time to be gone from the cgroup.
func (t tree) removeWaiting(name string) error {
	const patience = 2 * time.Second
	deadline := time.Now().Add(patience)
	for _, h := range t {
		dir := filepath.Join(h.dir, parent, name)
		pause := time.Millisecond
		err := removeGroup(dir)
		for errors.Is(err, unix.EBUSY) && time.Now().Before(deadline) {
			time.Sleep(pause)
			pause = min(2*pause, 50*time.Millisecond)
			err = removeGroup(dir)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// removeGroups removes the task's cgroups, and their parents when these were the last.
func (t tree) removeGroups(name string) error {
	var all []error
	for _, h := range t {
		all = append(all, removeGroup(filepath.Join(h.dir, parent, name)))
		// Not empty is the usual case, and no error.
		_ = unix.Rmdir(filepath.Join(h.dir, parent))
	}
	return errors.Join(all...)
}

// removeGroup removes a cgroup, with those that its processes made below it, if there are no processes in any.
func removeGroup(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.EBUSY {
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := removeGroup(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
		procs, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		return fmt.Errorf("cgroup %s still has processes (%s); end them first: %w", dir, strings.Join(strings.Fields(string(procs)), " "), err)
	}
	return nil
}

func list() ([]string, error) {
	t, err := host()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, h := range t {
		entries, err := os.ReadDir(filepath.Join(h.dir, parent))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if e.IsDir() {
				names = append(names, e.Name())
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// buffers hold one file's text each; the longest, memory.stat, has under 2 KiB, and what is read of it stands early.
var buffers = sync.Pool{New: func() any { return new([4096]byte) }}

func read(name string) (Usage, error) {
	var u Usage
	readings, err := hostReadings()
	if err != nil {
		return u, err
	}
	buf := buffers.Get().(*[4096]byte)
	defer buffers.Put(buf)
	for _, r := range readings {
		path := r.dir + name + r.file
		n, err := readFile(path, buf[:])
		if err == unix.ENOENT && r.optional {
			continue
		}
		if err != nil {
			return u, &fs.PathError{Op: "read", Path: path, Err: err}
		}
		r.parse(buf[:n], &u)
	}
	return u, nil
}

// readFile is three system calls. os.ReadFile is eight, because it gives every file to the poller.
func readFile(path string, buf []byte) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	for {
		n, err := unix.Read(fd, buf)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}
