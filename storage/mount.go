package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Mount is something to see at Target in a task's root.
type Mount struct {
	Type     string // "bind" (FreeBSD: nullfs), "tmpfs", "dev": the devices that a jail may use; FreeBSD also: "fdescfs", "procfs"
	Source   string // of a bind: a directory of the host, or a file; FreeBSD before 14 takes directories only
	Within   string // of a bind: the directory of the host that Source, its symlinks followed, must not leave; "" for any
	Target   string // absolute, in the jail; made if it is missing
	ReadOnly bool
	Size     uint64      // of a tmpfs: bytes, 0 for the host's default
	Mode     fs.FileMode // of a tmpfs: its directory's, 0 for 0755
	Ruleset  int         // of a dev on FreeBSD: which devices, see devfs(8)
}

const (
	typeBind    = "bind"
	typeTmpfs   = "tmpfs"
	typeDev     = "dev"
	typeFdescfs = "fdescfs"
	typeProcfs  = "procfs"
)

// openPath is for files that are opened to be mounted or to be mounted on: nobody reads them, and a FIFO is not waited for.
const openPath = os.O_RDONLY | syscall.O_NONBLOCK

// Bind shows a directory of the host in the jail. Setuid programs and devices in it have no effect there.
func Bind(source, target string, readOnly bool) Mount {
	return Mount{Type: typeBind, Source: source, Target: target, ReadOnly: readOnly}
}

// DefaultMounts is what every jail has. Linux takes no ruleset: its /dev is null, zero, full, random, urandom, tty, pts and shm.
func DefaultMounts(ruleset int) []Mount {
	return []Mount{{Type: typeDev, Target: "/dev", Ruleset: ruleset}}
}

// CheckMounts refuses mounts that can't be right on a host of the kind goos, before anything is made. FreeBSD's nmount(2) takes a path, which
// whoever else has a folder could turn elsewhere: nothing is mounted in a folder that is itself mounted from the host.
func CheckMounts(goos string, mounts []Mount) error {
	for i, m := range mounts {
		if err := m.check(goos); err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
		for _, earlier := range mounts[:i] {
			if goos == "freebsd" && earlier.Type == typeBind && below(path.Clean(earlier.Target), path.Clean(m.Target)) {
				return fmt.Errorf("mount %s: %w", m.Target, errInside(earlier.Target))
			}
		}
	}
	return nil
}

func errInside(earlier string) error {
	return fmt.Errorf("it is inside of %s, which is mounted from the host, and FreeBSD cannot mount there safely; choose a target elsewhere", earlier)
}

// below is for clean paths.
func below(folder, p string) bool { return strings.HasPrefix(p, strings.TrimSuffix(folder, "/")+"/") }

func (m Mount) check(goos string) error {
	if _, err := local(m.Target); err != nil {
		return err
	}
	switch m.Type {
	case typeBind:
		if !filepath.IsAbs(m.Source) {
			return fmt.Errorf("source %q is not an absolute path", m.Source)
		}
	case typeTmpfs:
	case typeFdescfs, typeProcfs:
		if goos != "freebsd" {
			return fmt.Errorf("%s is FreeBSD's; %s has nothing to mount for it", m.Type, goos)
		}
	case typeDev:
		// Ruleset 0 is none, which shows all the host's devices. The kernel takes 16 bits.
		if goos == "freebsd" && (m.Ruleset < 1 || m.Ruleset > 1<<16-1) {
			return fmt.Errorf("there is no devfs ruleset %d; 4 is the system's for jails, 5 for those with a network", m.Ruleset)
		}
	default:
		return fmt.Errorf("unknown type %q", m.Type)
	}
	return nil
}

// bits is Mode as mode_t.
func (m Mount) bits() string {
	mode := m.Mode.Perm()
	if mode == 0 {
		mode = 0o755
	}
	if m.Mode&fs.ModeSticky != 0 {
		mode |= syscall.S_ISVTX
	}
	return strconv.FormatUint(uint64(mode), 8)
}

// local turns an absolute path in a jail into one below its root.
func local(target string) (string, error) {
	if !path.IsAbs(target) {
		return "", fmt.Errorf("%q is not an absolute path in the jail", target)
	}
	if slices.Contains(strings.Split(target, "/"), "..") {
		return "", fmt.Errorf("%q has a .. in it", target)
	}
	name := strings.TrimPrefix(path.Clean(target), "/")
	if name == "" {
		return "", errors.New("the jail's root itself can't be a target")
	}
	return name, nil
}

// MountAll mounts below root, in order, making mount points that are missing. A target that leaves root, by .. or by a symlink, is refused. On an
// error nothing stays mounted.
func MountAll(root string, mounts []Mount) error {
	if err := CheckMounts(runtime.GOOS, mounts); err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(root)
	if err != nil {
		return err
	}
	r, err := os.OpenRoot(real)
	if err != nil {
		return err
	}
	defer r.Close()
	var made, binds []string
	for _, m := range mounts {
		at, err := mountOne(r, m, binds)
		if err != nil {
			return errors.Join(fmt.Errorf("mount %s: %w", m.Target, err), unmountEach(made))
		}
		made = append(made, at)
		if m.Type == typeBind {
			binds = append(binds, at)
		}
	}
	return nil
}

// mountOne returns where something is mounted now, and takes the places of earlier binds.
func mountOne(root *os.Root, m Mount, binds []string) (at string, err error) {
	name, err := local(m.Target)
	if err != nil {
		return "", err
	}
	var source *os.File
	isDir := true
	if m.Type == typeBind {
		source, err = openSource(m)
		if err != nil {
			return "", fmt.Errorf("source: %w", err)
		}
		defer source.Close()
		info, err := source.Stat()
		if err != nil {
			return "", err
		}
		isDir = info.IsDir()
	}
	if err := makeMountPoint(root, name, isDir); err != nil {
		return "", explainEscape(err)
	}
	target, err := root.OpenFile(name, openPath, 0)
	if err != nil {
		return "", explainEscape(err)
	}
	defer target.Close()
	at, err = filepath.EvalSymlinks(filepath.Join(root.Name(), name))
	if err != nil {
		return "", err
	}
	if !below(root.Name(), at) {
		return "", errors.New("the target was turned out of the jail's root while it was mounted")
	}
	for _, bind := range binds {
		if runtime.GOOS == "freebsd" && below(bind, at) { // by a symlink of the image
			return "", errInside(bind)
		}
	}
	return at, attach(m, source, target, at)
}

func openSource(m Mount) (*os.File, error) {
	if m.Within == "" {
		return os.OpenFile(m.Source, openPath, 0)
	}
	within, err := os.OpenRoot(m.Within)
	if err != nil {
		return nil, err
	}
	defer within.Close()
	name, err := filepath.Rel(m.Within, m.Source)
	if err != nil {
		return nil, err
	}
	return within.OpenFile(name, openPath, 0)
}

// makeMountPoint makes a directory, or an empty file for a file to be seen at.
func makeMountPoint(root *os.Root, name string, isDir bool) error {
	info, err := root.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		if isDir {
			return root.MkdirAll(name, 0o755)
		}
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		return f.Close()
	}
	switch {
	case err != nil:
		return err
	case isDir && !info.IsDir():
		return errors.New("the image has something that is not a directory there")
	case !isDir && !info.Mode().IsRegular():
		return errors.New("the image has something that is not a file there, and a file is to be mounted on it")
	}
	return nil
}

// explainEscape words what os.Root refuses. It follows symlinks that stay inside, except for absolute ones.
func explainEscape(err error) error {
	if err != nil && strings.Contains(err.Error(), "path escapes from parent") {
		return fmt.Errorf("a symlink on the way leads out of the jail's root, or is absolute: %w", err)
	}
	return err
}

// UnmountAll unmounts all below root, and not root itself. It waits a moment for what is busy and then takes it away by force.
func UnmountAll(root string) error {
	if real, err := filepath.EvalSymlinks(root); err == nil {
		root = real
	}
	points, err := mountPoints()
	if err != nil {
		return fmt.Errorf("list of mounts: %w", err)
	}
	return unmountEach(slices.DeleteFunc(points, func(p string) bool { return !below(root, p) }))
}

// unmountEach unmounts in reverse, each with what is mounted below it.
func unmountEach(points []string) error {
	var errs []error
	for _, p := range slices.Backward(points) {
		if err := unmountBusy(p); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

const (
	unmountTries = 10
	unmountPause = 20 * time.Millisecond
)

func unmountBusy(point string) error {
	for range unmountTries {
		err := unmount(point, false)
		if !errors.Is(err, syscall.EBUSY) {
			return err
		}
		time.Sleep(unmountPause)
	}
	return unmount(point, true)
}
