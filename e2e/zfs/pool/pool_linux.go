package pool

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func kernelHasZFS() bool { return exists("/dev/zfs") }

// zfsrc is the daemon's configuration. With its default cache, 500 mounted clones livelock.
const zfsrc = `
max-arc-size = 1024
vdev-cache-size = 10
zfs-prefetch-disable
fuse-attr-timeout = 3600
fuse-entry-timeout = 3600
fuse-mount-options = default_permissions
`

// makeDisk makes a file.
func (p *Pool) makeDisk() (string, error) {
	disk := filepath.Join(p.dir, "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		return "", err
	}
	return disk, os.Truncate(disk, Size)
}

// sweepDisk has nothing to do: the file is in the folder.
func sweepDisk(string) error { return nil }

const socket = "/run/zfs/zfs_socket"

// onDaemon makes a pool of a zfs-fuse of this process's own.
func (p *Pool) onDaemon() error {
	for _, step := range []func() error{p.coverState, p.installDialect, p.startDaemon} {
		if err := step(); err != nil {
			return err
		}
	}
	return p.create("njd")
}

// coverState hides the state of the machine's own daemon, should it have one.
func (p *Pool) coverState() error {
	for _, dir := range []string{"/run/zfs", "/run/lock/zfs", "/var/lib/zfs"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=700"); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
		p.later(func() error { return unix.Unmount(dir, unix.MNT_DETACH) })
	}
	config := filepath.Join(p.dir, "zfsrc")
	if err := os.WriteFile(config, []byte(zfsrc), 0o644); err != nil {
		return err
	}
	if err := unix.Mount(config, "/etc/zfs/zfsrc", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("/etc/zfs/zfsrc: %w; is zfs-fuse installed?", err)
	}
	p.later(func() error { return unix.Unmount("/etc/zfs/zfsrc", unix.MNT_DETACH) })
	return nil
}

// installDialect puts today's zfs and zpool ahead in PATH: built here, or the program that the variable ZFS_DIALECT names or that lies beside
// this one as zfs-dialect.
func (p *Pool) installDialect() error {
	bin := filepath.Join(p.dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	program := filepath.Join(bin, "zfs")
	if built := dialect(); built != "" {
		if err := os.Symlink(built, program); err != nil {
			return err
		}
	} else if err := build(program); err != nil {
		return err
	}
	if err := os.Symlink("zfs", filepath.Join(bin, "zpool")); err != nil {
		return err
	}
	path := os.Getenv("PATH") + ":/usr/sbin:/sbin"
	if os.Getenv("ZFS_FUSE_COMMANDS") == "" {
		daemon, err := exec.LookPath("zfs-fuse")
		if err != nil {
			daemon = "/usr/sbin/zfs-fuse"
		}
		if err := p.setenv("ZFS_FUSE_COMMANDS", filepath.Dir(daemon)); err != nil {
			return err
		}
	}
	return p.setenv("PATH", bin+":"+path)
}

func (p *Pool) setenv(name, value string) error {
	old := os.Getenv(name)
	p.later(func() error { return os.Setenv(name, old) })
	return os.Setenv(name, value)
}

func dialect() string {
	if path := os.Getenv("ZFS_DIALECT"); path != "" {
		return path
	}
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	if path := filepath.Join(filepath.Dir(self), "zfs-dialect"); exists(path) {
		return path
	}
	return ""
}

func build(program string) error {
	cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", program, "github.com/nomad-driver-jail/nomad-driver-jail/e2e/zfs")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

func (p *Pool) startDaemon() error {
	log, err := os.Create(filepath.Join(p.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	daemon := exec.Command("zfs-fuse", "--no-daemon", "--no-kstat-mount")
	daemon.Dir = "/"
	daemon.Stdout, daemon.Stderr = log, log
	daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	if err := daemon.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- daemon.Wait() }()
	p.later(func() error {
		err := detachAll()
		daemon.Process.Kill()
		<-ended
		return err
	})
	for end := time.Now().Add(20 * time.Second); !exists(socket); time.Sleep(5 * time.Millisecond) {
		select {
		case err := <-ended:
			ended <- err
			said, _ := os.ReadFile(log.Name())
			return fmt.Errorf("zfs-fuse: %w: %s", err, bytes.TrimSpace(said))
		default:
		}
		if time.Now().After(end) {
			return errors.New("zfs-fuse does not listen")
		}
	}
	return nil
}

// detachAll unmounts what the daemon has mounted, which nobody can read any more once it has gone.
func detachAll() error {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return err
	}
	defer f.Close()
	var mounts []string
	for scanner := bufio.NewScanner(f); scanner.Scan(); {
		if fields := strings.Fields(scanner.Text()); len(fields) > 2 && fields[2] == "fuse.zfs" {
			mounts = append(mounts, strings.ReplaceAll(fields[1], `\040`, " "))
		}
	}
	var errs []error
	for i := len(mounts) - 1; i >= 0; i-- {
		if err := unix.Unmount(mounts[i], unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", mounts[i], err))
		}
	}
	return errors.Join(errs...)
}
