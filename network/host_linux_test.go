package network

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

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

// The test's networks: this host has an uplink to a client.
const (
	hostIP    = "192.0.2.1"
	hostIP6   = "2001:db8::1"
	hostIPb   = "192.0.2.11" // a second address of the host
	clientIP  = "192.0.2.2"
	clientIP6 = "2001:db8::2"
)

// newHost gives the test's own namespace an uplink and returns the client's.
func newHost(t testing.TB) (client string) {
	t.Helper()
	client = newCell(t)
	ip(t, "link set lo up")
	ip(t, "link add up0 type veth peer name up0 netns "+client)
	ip(t, "link set up0 up")
	t.Cleanup(func() { ip(t, "link del up0") })
	for _, a := range []string{hostIP + "/24", hostIPb + "/24", hostIP6 + "/64 nodad"} {
		ip(t, "addr add "+a+" dev up0")
	}
	in(t, client, func() {
		ip(t, "link set lo up")
		ip(t, "link set up0 up")
		ip(t, "addr add "+clientIP+"/24 dev up0")
		ip(t, "addr add "+clientIP6+"/64 dev up0 nodad")
	})
	return client
}

// newCell makes a network namespace as the jail package does, and returns its path.
func newCell(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
	return path
}

// in runs f in the namespace; "" is the host.
func in(t testing.TB, ns string, f func()) {
	t.Helper()
	if ns == "" {
		f()
		return
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		h, err := netns.GetFromPath(ns)
		if err == nil {
			defer h.Close()
			err = netns.Set(h)
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
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

// portable tests and those of both hosts use the names below.

func prepared(t testing.TB, change func(*Config)) *Network {
	t.Helper()
	n := newTestNetwork(t, change)
	if err := n.Prepare(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		names, err := n.List(context.Background())
		if err != nil {
			t.Error(err)
		}
		for _, name := range names {
			if err := n.Detach(context.Background(), name); err != nil {
				t.Error(err)
			}
		}
		ip(t, "link del "+n.Bridge)
		exec.Command("nft", "delete", "table", "inet", n.Anchor).Run()
	})
	return n
}

// listing is everything that attaching can change on the host.
func listing(t testing.TB, n *Network) string {
	t.Helper()
	var b strings.Builder
	for _, args := range []string{"-j link", "-j addr", "-j route show table all", "-j -6 route show table all", "-j neigh show nud permanent"} {
		b.WriteString(stable(t, ip(t, args)))
	}
	b.WriteString(nft(t, "list", "ruleset"))
	filepath.Walk(n.StateDir, func(path string, _ os.FileInfo, _ error) error {
		b.WriteString(path + "\n")
		return nil
	})
	return b.String()
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
		delete(e, "addr_info") // `ip route` shows those that count
		line, _ := json.Marshal(e)
		b.Write(append(line, '\n'))
	}
	return b.String()
}
