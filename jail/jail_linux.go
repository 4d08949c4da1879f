package jail

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// marks has a file for every cell. The cell's shim holds a lock on it, which tells its pid and goes with it.
	marks    = "/run/nomad-driver-jail"
	netnsDir = "/run/netns"
)

func create(spec Spec) (Cell, error) {
	if err := os.MkdirAll(marks, 0o700); err != nil {
		return Cell{}, err
	}
	mark, err := os.OpenFile(filepath.Join(marks, spec.Name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return Cell{}, ErrExists
	}
	if err != nil {
		return Cell{}, err
	}
	mark.Close()
	cell := Cell{Name: spec.Name}
	if !spec.ownNetwork() {
		return cell, nil
	}
	cell.NetNS = NetNSPath(spec)
	if err := makeNetNS(cell.NetNS); err != nil {
		return Cell{}, errors.Join(err, os.Remove(mark.Name()))
	}
	return cell, nil
}

// NetNSPath returns the network namespace that the processes of the cell are in, "" for the host's.
func NetNSPath(spec Spec) string {
	if spec.ownNetwork() {
		return filepath.Join(netnsDir, spec.Name)
	}
	return spec.NetNS
}

// makeNetNS makes a network namespace with its loopback up, and keeps it by a mount at path.
func makeNetNS(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("network namespace %s: %w", path, ErrExists)
	}
	if err != nil {
		return err
	}
	f.Close()
	done := make(chan error)
	go func() { done <- keepNewNetNS(path) }()
	if err := <-done; err != nil {
		return errors.Join(fmt.Errorf("network namespace %s: %w", path, err), dropNetNS(path))
	}
	return nil
}

// keepNewNetNS runs in a goroutine of its own, whose thread ends with it should it not find back to its network namespace.
func keepNewNetNS(path string) error {
	runtime.LockOSThread()
	own := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
	before, err := unix.Open(own, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(before)
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = loopbackUp()
	if err == nil {
		err = unix.Mount(own, path, "", unix.MS_BIND, "")
	}
	if back := unix.Setns(before, unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	return err
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo)
}

func dropNetNS(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && err != unix.EINVAL && err != unix.ENOENT { // not mounted, not there
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func find(name string) (Cell, bool, error) {
	marked, err := exists(filepath.Join(marks, name))
	if err != nil {
		return Cell{}, false, err
	}
	netns := filepath.Join(netnsDir, name)
	kept, err := exists(netns)
	if err != nil || !marked && !kept {
		return Cell{}, false, err
	}
	cell := Cell{Name: name}
	if kept {
		cell.NetNS = netns
	}
	cell.JID, err = shimOf(name)
	return cell, true, err
}

func lingers(string) bool { return false }

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// shimOf returns the pid of the cell's shim, 0 when it has none.
func shimOf(name string) (int, error) {
	mark, err := os.Open(filepath.Join(marks, name))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer mark.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(mark.Fd(), unix.F_GETLK, &lock); err != nil {
		return 0, fmt.Errorf("%s: %w", mark.Name(), err)
	}
	if lock.Type == unix.F_UNLCK {
		return 0, nil
	}
	return int(lock.Pid), nil
}

// Hold makes the calling process the shim of the cell until it ends. It keeps the mark open, and must neither close that nor open
// and close it again (Find does): either drops the lock.
func Hold(name string) error {
	fd, err := unix.Open(filepath.Join(marks, name), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("jail %s: %w", name, err)
	}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		return fmt.Errorf("jail %s runs already: %w", name, err)
	}
	return nil
}

// OpenShim returns a pidfd of the cell's shim, -1 when it has none.
func OpenShim(name string) (int, error) {
	pid, err := shimOf(name)
	if err != nil || pid == 0 {
		return -1, err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	if again, err := shimOf(name); err != nil || again != pid { // the number is another process by now
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

const (
	// shimGrace is how long a shim may take to write down the end of a task that Remove killed, and to see its last lines read.
	shimGrace = 2 * time.Second
	killLimit = 10 * time.Second
)

func remove(name string) error {
	if err := removeShim(name); err != nil {
		return err
	}
	if err := dropNetNS(filepath.Join(netnsDir, name)); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(marks, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// removeShim ends the shim, and thereby, as it is init of the cell's pid namespace, whatever is still there.
func removeShim(name string) error {
	shim, err := OpenShim(name)
	if err != nil || shim < 0 {
		return err
	}
	defer unix.Close(shim)
	if err := kill(name); err != nil {
		return err
	}
	if awaitExit(shim, shimGrace) {
		return nil
	}
	if err := unix.PidfdSendSignal(shim, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return err
	}
	if !awaitExit(shim, killLimit) {
		return fmt.Errorf("its processes do not die")
	}
	return nil
}

// awaitExit tells whether the process of the pidfd ended within limit.
func awaitExit(pidfd int, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for {
		left := time.Until(deadline)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(max(left, 0).Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		return n > 0
	}
}

func list() ([]string, error) {
	var names []string
	for _, dir := range []string{marks, netnsDir} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if ValidName(e.Name()) {
				names = append(names, e.Name())
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func kill(name string) error {
	shim, err := shimOf(name)
	if err != nil || shim == 0 {
		return err
	}
	cell, err := pidNamespace(shim)
	if err != nil {
		return nil // the shim is gone and with it all processes
	}
	for deadline := time.Now().Add(killLimit); ; time.Sleep(2 * time.Millisecond) {
		left, err := killMembers(cell, shim)
		if err != nil || left == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes do not die", left)
		}
	}
}

// killMembers kills what is in the pid namespace cell, the shim apart, and returns how many it saw.
func killMembers(cell string, shim int) (int, error) {
	proc, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	seen := 0
	for _, e := range proc {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == shim {
			continue
		}
		if ns, err := pidNamespace(pid); err == nil && ns == cell {
			seen++
			killMember(pid, cell)
		}
	}
	return seen, nil
}

func killMember(pid int, cell string) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if ns, err := pidNamespace(pid); err == nil && ns == cell { // still the same process
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
}

// pidNamespace fails for a zombie, which is in none.
func pidNamespace(pid int) (string, error) {
	return os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
}

// hostSecurelevel: Linux has none, and takes whatever a job asks for.
func hostSecurelevel() (int, error) { return -1, nil }
