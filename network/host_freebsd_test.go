package network

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/nomad-driver-jail/nomad-driver-jail/network/forward"
	"golang.org/x/sys/unix"
)

// TestMain is also the forwarding process and the agent in a jail. The tests
// change the machine that they run on: its pf rules, its interfaces.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 3 && os.Args[1] == "forward":
		if err := forward.Run(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	case len(os.Args) == 2 && os.Args[1] == "agent":
		runAgent()
		return
	}
	os.Exit(m.Run())
}

func run(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// preparePf has the main ruleset call our anchors, as the operator is told to.
func preparePf(t testing.TB) {
	t.Helper()
	if !hasModule("pf") {
		run(t, "", "kldload", "pf")
	}
	exec.Command("pfctl", "-e").Run()
	run(t, "", "sysctl", "net.inet.ip.forwarding=1", "net.inet6.ip6.forwarding=1")
	n := newTestNetwork(t, nil)
	if err := n.checkAnchors(context.Background()); err != nil {
		t.Log(err)
		run(t, pfConf, "pfctl", "-f", "-")
	}
}

const pfConf = `nat-anchor "nomad-driver-jail/*"
rdr-anchor "nomad-driver-jail/*"
anchor "nomad-driver-jail/*"
pass
`

func hostSeenAs(gateway netip.Addr, _ string) string { return gateway.String() }

const (
	noCell         = "999999"
	noCellError    = "interface nj000000000002a: jail 999999: attach: invalid argument"
	nameTakenError = "interface nj000000000002a: give nj000000000002b to jail %s: file exists"
)

func testForwarder() []string { return []string{exe, "forward"} }

// newHost gives this machine an uplink and returns what is at its other end.
func newHost(t testing.TB) (client *cell) {
	t.Helper()
	preparePf(t)
	client = newCell(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	c, err := openIfconfig()
	must(err)
	defer c.Close()
	s, err := openStack(client.jid)
	must(err)
	defer s.Close()
	must(loadModule("if_epair"))
	near, err := c.create("epair")
	must(err)
	pair, _ := trimEnd(near)
	t.Cleanup(func() { run(t, "", "ifconfig", "up0", "destroy") })
	// Without ::1 and 127.0.0.1 the agent would think that there is no IPv6.
	must(s.addAddress("lo0", netip.MustParsePrefix("127.0.0.1/8")))
	must(s.up("lo0"))
	must(c.rename(near, "up0"))
	must(c.giveTo(pair+"b", client.jid))
	must(s.setIPv6(pair+"b", ndPerformNUD|ndAutoLocal|ndNoDAD))
	must(c.setIPv6("up0", ndPerformNUD|ndAutoLocal|ndNoDAD))
	for _, p := range []string{hostIP + "/24", hostIPb + "/32", hostIP6 + "/64"} {
		must(c.addAddress("up0", netip.MustParsePrefix(p)))
	}
	must(c.up("up0"))
	for _, p := range []string{clientIP + "/24", clientIP6 + "/64"} {
		must(s.addAddress(pair+"b", netip.MustParsePrefix(p)))
	}
	must(s.up(pair + "b"))
	return client
}

// cell is a vnet jail, persistent and at first without processes.
type cell struct {
	id    string
	jid   int
	name  string
	agent *agent
}

var cells atomic.Int32

func newCell(t testing.TB) *cell {
	t.Helper()
	return newJail(t, fmt.Sprintf("networktest%d_%d", os.Getpid(), cells.Add(1)), map[string][]byte{
		"vnet": cInt(1), "allow.raw_sockets": nil, "children.max": cInt(9),
	})
}

// member is a child that has the cell's network stack.
func (c *cell) member(t testing.TB) *cell {
	t.Helper()
	return newJail(t, fmt.Sprintf("%s.m%d", c.name, cells.Add(1)), map[string][]byte{"ip4": cInt(2), "ip6": cInt(2)})
}

func newJail(t testing.TB, name string, params map[string][]byte) *cell {
	t.Helper()
	params["name"], params["path"], params["persist"] = cString(name), cString("/"), nil
	jid, err := jailSet(params)
	if err != nil {
		t.Fatal(err)
	}
	c := &cell{id: strconv.Itoa(jid), jid: jid, name: name}
	t.Cleanup(func() { c.remove(t) })
	return c
}

func cString(s string) []byte { return append([]byte(s), 0) }

func cInt(i uint32) []byte { return binary.NativeEndian.AppendUint32(nil, i) }

// jailSet is jail_set(2) with JAIL_CREATE.
func jailSet(params map[string][]byte) (int, error) {
	const create = 1
	var iovs []unix.Iovec
	add := func(b []byte) {
		v := unix.Iovec{}
		if len(b) > 0 {
			v.Base = &b[0]
			v.SetLen(len(b))
		}
		iovs = append(iovs, v)
	}
	for name, value := range params {
		add(cString(name))
		add(value)
	}
	message := make([]byte, 256)
	add(cString("errmsg"))
	add(message)
	jid, _, errno := unix.Syscall(unix.SYS_JAIL_SET, uintptr(unsafe.Pointer(&iovs[0])), uintptr(len(iovs)), create)
	if errno != 0 {
		return 0, fmt.Errorf("jail_set: %w: %s", errno, unix.ByteSliceToString(message))
	}
	return int(jid), nil
}

func (c *cell) remove(t testing.TB) {
	t.Helper()
	if c.jid == 0 {
		return
	}
	if _, _, errno := unix.Syscall(unix.SYS_JAIL_REMOVE, uintptr(c.jid), 0, 0); errno != 0 {
		t.Errorf("jail_remove: %v", errno)
	}
	if c.agent != nil {
		c.agent.stop()
	}
	c.jid = 0
	time.Sleep(50 * time.Millisecond)
}

func (c *cell) start(t testing.TB) *agent {
	t.Helper()
	if c.agent == nil {
		c.agent = startAgent(t, c.jid)
	}
	return c.agent
}

func (c *cell) serve(t testing.TB, proto, server string, port uint16) {
	t.Helper()
	if c == nil {
		s, err := serve(proto, server, port)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return
	}
	if _, err := c.start(t).do(agentRequest{Op: "serve", Proto: proto, Server: server, Port: port}); err != nil {
		t.Error(err)
	}
}

func (c *cell) dial(t testing.TB, proto, to string) (talker, error) {
	if c == nil {
		return dialHere(proto, to)
	}
	return c.start(t).dial(proto, to)
}

// jexec runs a program of the host's in the jail, whose root is the host's.
func (c *cell) jexec(t testing.TB, args ...string) string {
	t.Helper()
	return run(t, "", append([]string{"jexec", c.id}, args...)...)
}

func (c *cell) addRoute(t testing.TB, to netip.Prefix, via string) {
	t.Helper()
	family := "-inet"
	if to.Addr().Is6() {
		family = "-inet6"
	}
	c.jexec(t, "route", "add", family, to.String(), via)
}

func (c *cell) addAddress(t testing.TB, inside, p string) {
	t.Helper()
	s, err := openStack(c.jid)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.addAddress(inside, netip.MustParsePrefix(p)); err != nil {
		t.Error(err)
	}
}

// takeName gives the cell an interface of the name that it should get.
func (c *cell) takeName(t testing.TB) {
	t.Helper()
	s, err := openStack(c.jid)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	name, err := s.create("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.rename(name, jailEnd(taskN(2))); err != nil {
		t.Fatal(err)
	}
}

func unprepare(t testing.TB, n *Network) {
	t.Helper()
	run(t, "", "ifconfig", n.Bridge, "destroy")
	run(t, "", "pfctl", "-a", n.pfAnchor(n.pfHostAnchor()), "-f", "/dev/null")
}

func hostListing(t testing.TB, n *Network) string {
	t.Helper()
	var b strings.Builder
	for l := range strings.Lines(run(t, "", "ifconfig", "-a")) {
		b.WriteString(l)
	}
	b.WriteString(run(t, "", "netstat", "-rn"))
	anchors, err := pfctl(context.Background(), "", "-v", "-a", n.Anchor+"/*", "-s", "Anchors")
	if err != nil {
		t.Error(err)
	}
	b.WriteString(anchors)
	for l := range strings.Lines(anchors) {
		for _, what := range []string{"nat", "rules"} {
			out, err := pfctl(context.Background(), "", "-a", strings.TrimSpace(l), "-s", what)
			if err != nil {
				t.Error(err)
			}
			b.WriteString(out)
		}
	}
	tasks, err := forward.Tasks(n.forwardDir())
	if err != nil {
		t.Error(err)
	}
	fmt.Fprintln(&b, "forwarded", tasks)
	return b.String()
}

func wantNoStates(t testing.TB, a Attachment) {
	t.Helper()
	states, err := pfctl(context.Background(), "", "-s", "state")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(states) {
		if strings.Contains(l, " ipv6-icmp ") {
			continue // the host looks for its neighbour, which on FreeBSD 15 is a state
		}
		if strings.Contains(l, a.IPv4.String()+":") || strings.Contains(l, a.IPv6.String()+"[") {
			t.Errorf("state left: %s", l)
		}
	}
}
