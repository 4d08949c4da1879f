// Package pool gives tests and the demo a ZFS pool to throw away: below the dataset that the variable POOL names, else on a disk of its
// own where the machine has ZFS (a file, or on FreeBSD memory), else from a zfs-fuse daemon of its own, behind the program in e2e/zfs that
// makes it speak today's dialect.
package pool

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/isolate"
)

// Size is that of the disk below a pool, in bytes. It takes what is written.
const Size = 16 << 30

// Pool is a pool in use.
type Pool struct {
	Dataset string // to work below; its mount point is none

	dir  string   // holds all files of the pool
	lock *os.File // locked as long as this process lives
	undo []func() error
}

var current *Pool

// Main runs a package's tests on a host of their own, with a pool for all of them. It belongs in TestMain and does not return.
func Main(m *testing.M) {
	isolate.Enter(isolate.Options{After: Sweep})
	p, err := Start()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	current = p
	code := m.Run()
	if err := p.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// Dataset makes a dataset for one test of a package that runs in Main. It goes away with the test, with all that is in it, and its mounts: a
// t.TempDir to mount in has to be made before, so that it is removed after.
func Dataset(t testing.TB) string {
	t.Helper()
	if current == nil {
		t.Fatal("the package has no func TestMain(m *testing.M) { pool.Main(m) }")
	}
	name := current.Dataset + "/" + strings.ToLower(rand.Text()[:10])
	if err := zfs("create", "-o", "canmount=off", name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := zfs("destroy", "-r", name); err != nil {
			t.Errorf("left over: %v", err)
		}
	})
	return name
}

// Kernel tells whether the pool is of the kernel's ZFS, today's, rather than of zfs-fuse behind its translator.
func Kernel() bool { return kernelHasZFS() }

// Start makes a pool for this process and for what it starts, which finds today's commands in PATH. On Linux the process should be in a mount
// namespace of its own (isolate.Enter): the daemon and what it mounts are then gone with the namespace, however the process ends.
func Start() (*Pool, error) {
	if err := Sweep(); err != nil {
		return nil, err
	}
	p, err := newPool()
	if err != nil {
		return nil, err
	}
	start := p.onDisk
	switch {
	case os.Getenv("POOL") != "":
		start = p.below
	case !kernelHasZFS():
		start = p.onDaemon
	}
	if err := start(); err != nil {
		return nil, errors.Join(fmt.Errorf("throw-away pool: %w", err), p.Close())
	}
	return p, nil
}

// Close takes the pool down, in use or not.
func (p *Pool) Close() error {
	var errs []error
	for i := len(p.undo) - 1; i >= 0; i-- {
		errs = append(errs, p.undo[i]())
	}
	p.undo = nil
	return errors.Join(append(errs, os.RemoveAll(p.dir), p.lock.Close())...)
}

// later records an undo for Close.
func (p *Pool) later(undo func() error) { p.undo = append(p.undo, undo) }

const dirPattern = "/tmp/nomad-driver-jail-pool-*"

func newPool() (*Pool, error) {
	for {
		dir, err := os.MkdirTemp(filepath.Dir(dirPattern), filepath.Base(dirPattern))
		if err != nil {
			return nil, err
		}
		lock, err := lockDir(dir)
		if err == nil && exists(lock.Name()) {
			return &Pool{dir: dir, lock: lock}, nil
		}
		// A Sweep took it for one that was left.
		if err != nil && !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Sweep takes down what processes left that were killed before their Close. The kernel has let go of their locks.
func Sweep() error {
	dirs, err := filepath.Glob(dirPattern)
	var errs []error
	for _, dir := range dirs {
		lock, err := lockDir(dir)
		if err != nil {
			continue
		}
		errs = append(errs, sweep(dir), lock.Close())
	}
	return errors.Join(append(errs, err)...)
}

func sweep(dir string) error {
	for _, kind := range []struct {
		file    string
		command []string
	}{
		{"pool", []string{"zpool", "destroy", "-f"}},
		{"dataset", []string{"zfs", "destroy", "-r"}},
	} {
		name, err := os.ReadFile(filepath.Join(dir, kind.file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := destroy(string(name), kind.command...); err != nil {
			return fmt.Errorf("left over: %w", err)
		}
	}
	if err := sweepDisk(dir); err != nil {
		return fmt.Errorf("left over: %w", err)
	}
	return os.RemoveAll(dir)
}

// destroy waits for what the killed process was about to do.
func destroy(name string, command ...string) (err error) {
	for range 20 {
		if exec.Command("zfs", "list", name).Run() != nil {
			return nil
		}
		if err = run(append(command, name)...); err == nil {
			return nil
		}
		time.Sleep(200 * time.Millisecond)
	}
	return err
}

// promise writes down what there will be to take down, before it is made.
func (p *Pool) promise(kind, name string) error {
	return os.WriteFile(filepath.Join(p.dir, kind), []byte(name), 0o600)
}

// below makes a dataset below the one that the caller of the tests named.
func (p *Pool) below() error {
	p.Dataset = os.Getenv("POOL") + "/" + strings.TrimPrefix(filepath.Base(p.dir), "nomad-driver-jail-")
	if err := p.promise("dataset", p.Dataset); err != nil {
		return err
	}
	if err := zfs("create", "-o", "canmount=off", "-o", "mountpoint=none", p.Dataset); err != nil {
		return err
	}
	p.later(func() error { return zfs("destroy", "-r", p.Dataset) })
	return nil
}

// onDisk makes a pool of the kernel's ZFS.
func (p *Pool) onDisk() error {
	name := "njd" + strings.ToLower(rand.Text()[:8])
	if err := p.promise("pool", name); err != nil {
		return err
	}
	if err := p.create(name); err != nil {
		return err
	}
	p.later(func() error { return run("zpool", "destroy", "-f", name) })
	return nil
}

// create makes the pool itself, which the host forgets if it reboots.
func (p *Pool) create(name string) error {
	disk, err := p.makeDisk()
	if err != nil {
		return err
	}
	p.Dataset = name
	return run("zpool", "create", "-f", "-o", "cachefile=none", "-O", "mountpoint=none", "-O", "atime=off", name, disk)
}

func zfs(args ...string) error { return run(append([]string{"zfs"}, args...)...) }

func run(args ...string) error {
	var stderr bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
