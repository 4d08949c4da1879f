package isolate

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	inside  = "host0"
	outside = "outside"
	beside  = "njbeside" // the machine's end of its link with the host beside it
)

// covered are folders where things of the whole machine are found by their names.
var covered = []string{"/run/netns", "/run/nomad-driver-jail"}

func executable() string { return "/proc/self/exe" }

func command(opt Options, label string) (undo func() error, cmd *exec.Cmd, err error) {
	made, err := makeCgroups(label)
	if err != nil {
		return nil, nil, errors.Join(err, removeCgroups(made))
	}
	var covers []string
	for _, dir := range covered {
		if os.Mkdir(dir, 0o755) == nil {
			covers = append(covers, dir)
		}
	}
	undo = func() error {
		for _, dir := range covers {
			os.Remove(dir) // fails if others use it by now
		}
		return errors.Join(removeCgroups(made), disconnect(opt.Network))
	}
	// The child dies with the thread that started it, so that thread has to stay.
	runtime.LockOSThread()
	cmd = self("init")
	cmd.Env = append(cmd.Env, cgroupLabel+"="+label)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
	if opt.Network != Shared {
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
	for _, dir := range covered {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	if err := enterCgroups(os.Getenv(cgroupLabel)); err != nil {
		return err
	}
	switch opt.Network {
	case Apart:
		if err := neighbour(); err != nil {
			return err
		}
	case Shared:
		return nil
	}
	return furnishNetwork()
}

// connect links the host that pid has made to the machine.
func connect(network Network, pid int) error {
	if network != Beside {
		return nil
	}
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: beside}, PeerName: inside, PeerNamespace: netlink.NsPid(pid)}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("veth %s: %w; does another such host run?", beside, err)
	}
	return address(beside, "198.51.100.2/24")
}

// disconnect does what the end of the host does too, some time later.
func disconnect(network Network) error {
	if network != Beside {
		return nil
	}
	link, err := netlink.LinkByName(beside)
	if err != nil {
		return nil // gone already
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("interface %s: %w", beside, err)
	}
	return nil
}

// neighbour makes another host and links this one to it.
func neighbour() error {
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
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: inside, PeerNamespace: netlink.NsFd(here)}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("veth eth0: %w", err)
	}
	if err := errors.Join(up("lo"), address("eth0", "198.51.100.2/24", "2001:db8:100::2/64")); err != nil {
		return err
	}
	return netns.Set(here)
}

// furnishNetwork gives this host its address and the other host as its way to everywhere.
func furnishNetwork() error {
	// The other host may be linking us just now.
	for range 500 {
		if _, err := netlink.LinkByName(inside); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := errors.Join(up("lo"), address(inside, ownAddress+"/24", "2001:db8:100::1/64")); err != nil {
		return err
	}
	if err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("198.51.100.2")}); err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	return nil
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
		conn, err := dialIn(there, network, address)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// dialIn takes its thread along and brings it back: a thread that ended would take with it what it has started (prctl(2), PR_SET_PDEATHSIG).
func dialIn(there netns.NsHandle, network, address string) (net.Conn, error) {
	runtime.LockOSThread()
	here, err := netns.Get()
	if err != nil {
		return nil, err
	}
	defer here.Close()
	if err := netns.Set(there); err != nil {
		return nil, err
	}
	conn, err := net.Dial(network, address)
	if back := netns.Set(here); back != nil {
		return nil, errors.Join(err, back) // and the thread stays locked, to end
	}
	runtime.UnlockOSThread()
	return conn, err
}
