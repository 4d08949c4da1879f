package isolate

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	inside  = "host0"
	outside = "outside"
)

func executable() string { return "/proc/self/exe" }

func command(opt Options, label string) (undo func(), cmd *exec.Cmd, err error) {
	made, err := makeCgroups(label)
	undo = func() { removeCgroups(made) }
	if err != nil {
		undo()
		return nil, nil, err
	}
	madeNetns := os.Mkdir("/run/netns", 0o755) == nil
	undo = func() {
		removeCgroups(made)
		if madeNetns {
			os.Remove("/run/netns")
		}
	}
	// The child dies with the thread that started it, so that thread has to stay.
	runtime.LockOSThread()
	cmd = self("init")
	cmd.Env = append(cmd.Env, cgroupLabel+"="+label)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
	if opt.Network {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWNET
	}
	return undo, cmd, nil
}

// initialise is process 1: it furnishes the host, starts the program and reaps what the program leaves. When it ends, the kernel ends all
// that is left.
func initialise(opt Options) int {
	runtime.LockOSThread()
	if err := furnish(opt); err != nil {
		fmt.Fprintln(os.Stderr, "cannot furnish a host of its own:", err)
		return 1
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	cmd := self("inside")
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() {
		for s := range signals {
			cmd.Process.Signal(s)
		}
	}()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR || pid != cmd.Process.Pid:
		case status.Signaled():
			return 128 + int(status.Signal())
		case status.Exited():
			return status.ExitStatus()
		}
	}
}

func furnish(opt Options) error {
	// Not private: a mount copied into a namespace that hears of no unmount keeps its dataset busy.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount propagation: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run/netns", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount /run/netns: %w", err)
	}
	if err := enterCgroups(os.Getenv(cgroupLabel)); err != nil {
		return err
	}
	if opt.Network {
		return furnishNetwork()
	}
	return nil
}

// furnishNetwork gives this host 198.51.100.1 and makes another one, 198.51.100.2, which is also its default route.
func furnishNetwork() error {
	if err := up("lo"); err != nil {
		return err
	}
	here, err := netns.Get()
	if err != nil {
		return err
	}
	defer here.Close()
	there, err := netns.NewNamed(outside)
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", outside, err)
	}
	defer there.Close()
	if err := up("lo"); err != nil {
		return err
	}
	if err := netns.Set(here); err != nil {
		return err
	}
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: inside}, PeerName: "eth0", PeerNamespace: netlink.NsFd(there)}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("veth %s: %w", inside, err)
	}
	if err := address(inside, "198.51.100.1/24", "2001:db8:100::1/64"); err != nil {
		return err
	}
	gateway := net.ParseIP("198.51.100.2")
	if err := netlink.RouteAdd(&netlink.Route{Gw: gateway}); err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	if err := netns.Set(there); err != nil {
		return err
	}
	if err := address("eth0", "198.51.100.2/24", "2001:db8:100::2/64"); err != nil {
		return err
	}
	return netns.Set(here)
}

func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func address(name string, cidrs ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, cidr := range cidrs {
		addr, err := netlink.ParseAddr(cidr)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("address %s of %s: %w", cidr, name, err)
		}
	}
	return netlink.LinkSetUp(link)
}

// Interface is the interface that other hosts are behind, "" if Nomad should find it.
func Interface() string {
	if _, err := net.InterfaceByName(inside); err == nil {
		return inside
	}
	return ""
}

// DialOutside connects as another host would; without a network of its own, from this one.
func DialOutside(network, address string) (net.Conn, error) {
	there, err := netns.GetFromPath(filepath.Join("/run/netns", outside))
	if err != nil {
		return net.Dial(network, address)
	}
	defer there.Close()
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	go func() {
		// Not unlocked: the thread stays in the other namespace and ends with the goroutine.
		runtime.LockOSThread()
		if err := netns.Set(there); err != nil {
			done <- result{nil, err}
			return
		}
		conn, err := net.Dial(network, address)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}
