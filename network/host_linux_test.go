package network

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// TestMain runs the tests in a network and a mount namespace of their own:
// what they call the host is made of nothing and gone afterwards.
func TestMain(m *testing.M) {
	const inside = "NETWORK_TEST_INSIDE"
	if os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig is about the thread
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func testForwarder() []string { return nil }

// hostSeenAs is whom a task sees when the host connects to its own address.
func hostSeenAs(_ netip.Addr, own string) string { return own }

// What Attach says of a cell that is not there or has our interface's name.
const (
	noCell         = "/nowhere"
	noCellError    = "interface nj000000000002a: network namespace /nowhere: no such file or directory"
	nameTakenError = "interface nj000000000002a: file exists"
)

// newHost gives the test's own namespace an uplink and returns the client's.
func newHost(t testing.TB) (client *cell) {
	t.Helper()
	client = newCell(t)
	ip(t, "link set lo up")
	ip(t, "link add up0 type veth peer name up0 netns "+client.id)
	ip(t, "link set up0 up")
	t.Cleanup(func() { ip(t, "link del up0") })
	for _, a := range []string{hostIP + "/24", hostIPb + "/24", hostIP6 + "/64 nodad"} {
		ip(t, "addr add "+a+" dev up0")
	}
	client.in(t, func() {
		ip(t, "link set lo up")
		ip(t, "link set up0 up")
		ip(t, "addr add "+clientIP+"/24 dev up0")
		ip(t, "addr add "+clientIP6+"/64 dev up0 nodad")
		awaitUp(t, "up0")
	})
	awaitUp(t, "up0")
	return client
}

func awaitUp(t testing.TB, dev string) {
	t.Helper()
	for range 100 {
		if strings.Contains(ip(t, "link show dev "+dev), "state UP") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s does not come up", dev)
}

// cell is a network namespace.
type cell struct{ id string }

// newCell makes a network namespace as the jail package does.
func newCell(t testing.TB) *cell {
	t.Helper()
	c := &cell{filepath.Join(t.TempDir(), "ns")}
	if err := os.WriteFile(c.id, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			return unix.Mount("/proc/thread-self/ns/net", c.id, "", unix.MS_BIND, "")
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.remove(t) })
	return c
}

// remove takes the namespace away and waits for its interfaces to go.
func (c *cell) remove(t testing.TB) {
	t.Helper()
	unix.Unmount(c.id, unix.MNT_DETACH)
	time.Sleep(50 * time.Millisecond)
}

// member has the cell's network stack.
func (c *cell) member(testing.TB) *cell { return c }

// in runs f in the cell; the nil cell is the host.
func (c *cell) in(t testing.TB, f func()) {
	t.Helper()
	if err := c.do(f); err != nil {
		t.Fatal(err)
	}
}

func (c *cell) do(f func()) error {
	if c == nil {
		f()
		return nil
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		h, err := netns.GetFromPath(c.id)
		if err == nil {
			defer h.Close()
			err = netns.Set(h)
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	return <-done
}

func (c *cell) serve(t testing.TB, proto, server string, port uint16) {
	t.Helper()
	c.in(t, func() {
		s, err := serve(proto, server, port)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { s.Close() })
	})
}

func (c *cell) dial(_ testing.TB, proto, to string) (conn talker, err error) {
	if e := c.do(func() { conn, err = dialHere(proto, to) }); e != nil {
		return nil, e
	}
	return conn, err
}

// takeName gives the cell an interface of the name that it should get.
func (c *cell) takeName(t testing.TB) {
	t.Helper()
	c.in(t, func() { ip(t, "link add eth0 type bridge") })
}

func ip(t testing.TB, args string) string {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		t.Errorf("ip %s: %v: %s", args, err, out)
	}
	return string(out)
}

func nft(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("nft", args...).CombinedOutput()
	if err != nil {
		t.Errorf("nft %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func unprepare(t testing.TB, n *Network) {
	t.Helper()
	ip(t, "link del "+n.Bridge)
	nft(t, "delete", "table", "inet", n.Anchor)
}

func hostListing(t testing.TB, _ *Network) string {
	t.Helper()
	var b strings.Builder
	for _, args := range []string{"-j link", "-j route", "-j -6 route"} {
		b.WriteString(stable(t, ip(t, args)))
	}
	b.WriteString(nft(t, "list", "ruleset"))
	return b.String()
}

func wantNoStates(t testing.TB, a Attachment) {
	t.Helper()
	for _, family := range []netlink.InetFamily{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range flows {
			if touches(a.IPv4.AsSlice())(f) || touches(a.IPv6.AsSlice())(f) {
				t.Errorf("connection left: %s", f)
			}
		}
	}
}

// stable leaves out what changes by itself: the bridge's carrier, and the
// link-local addresses and routes that follow it.
func stable(t testing.TB, in string) string {
	t.Helper()
	var entries []map[string]any
	if err := json.Unmarshal([]byte(in), &entries); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range entries {
		if e["ifname"] == "njail0" || e["dev"] == "njail0" {
			delete(e, "flags")
			delete(e, "operstate")
		}
		if a, ok := e["dst"].(string); ok && (strings.HasPrefix(a, "fe80") || strings.HasPrefix(a, "ff00") || a == "multicast") {
			continue
		}
		line, _ := json.Marshal(e)
		b.Write(append(line, '\n'))
	}
	return b.String()
}
