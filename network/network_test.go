package network

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The tests' networks: this host has an uplink to a client. A cell is a jail's
// network stack or the client's; the nil cell is this host. How they are made
// is in host_linux_test.go and host_freebsd_test.go.
const (
	hostIP    = "192.0.2.1"
	hostIPb   = "192.0.2.11"
	hostIP6   = "2001:db8::1"
	clientIP  = "192.0.2.2"
	clientIP6 = "2001:db8::2"
)

// serve answers each line or datagram with the server's name and the client's
// address as the server sees it.
func serve(proto, server string, port uint16) (io.Closer, error) {
	addr := ":" + strconv.Itoa(int(port))
	if proto == "udp" {
		pc, err := net.ListenPacket("udp", addr)
		if err != nil {
			return nil, err
		}
		go servePackets(pc, server)
		return pc, nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serveLines(c, server)
		}
	}()
	return l, nil
}

func servePackets(pc net.PacketConn, server string) {
	b := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFrom(b)
		if err != nil {
			return
		}
		pc.WriteTo([]byte(fmt.Sprintf("%s %s %s", server, ipOf(from), b[:n])), from)
	}
}

func serveLines(c net.Conn, server string) {
	defer c.Close()
	s := bufio.NewScanner(c)
	for s.Scan() {
		fmt.Fprintf(c, "%s %s %s\n", server, ipOf(c.RemoteAddr()), s.Text())
	}
}

func ipOf(a net.Addr) string {
	ap, _ := netip.ParseAddrPort(a.String())
	return ap.Addr().Unmap().String()
}

const patience = 2 * time.Second

// say sends one line and returns the answer.
func say(c net.Conn) (string, error) {
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		return "", err
	}
	b := make([]byte, 200)
	k, err := c.Read(b)
	return strings.TrimSpace(string(b[:k])), err
}

// talker is a connection made in a cell.
type talker interface {
	Say() (string, error)
	Close() error
}

type hostTalker struct{ net.Conn }

func (h hostTalker) Say() (string, error) { return say(h.Conn) }

func dialHere(proto, to string) (talker, error) {
	c, err := net.DialTimeout(proto, to, patience)
	if err != nil {
		return nil, err
	}
	return hostTalker{c}, nil
}

func ask(t testing.TB, c *cell, proto, to string) (string, error) {
	conn, err := c.dial(t, proto, to)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return conn.Say()
}

func dial(t testing.TB, c *cell, proto, to string) talker {
	t.Helper()
	conn, err := c.dial(t, proto, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func wantAnswer(t testing.TB, what string, c *cell, proto, to, want string) {
	t.Helper()
	got, err := ask(t, c, proto, to)
	if err != nil || got != want {
		t.Errorf("%s: %s %s: %q, %v; want %q", what, proto, to, got, err, want)
	}
}

func wantNoAnswer(t testing.TB, what string, c *cell, proto, to string) {
	t.Helper()
	if got, err := ask(t, c, proto, to); err == nil {
		t.Errorf("%s: %s %s answers %q", what, proto, to, got)
	}
}

func attach(t testing.TB, n *Network, i int, ports ...PortMap) (*cell, Attachment) {
	t.Helper()
	c := newCell(t)
	req := request(i, ports...)
	req.Cell = c.id
	a, err := reserveAndAttach(context.Background(), n, req)
	if err != nil {
		t.Fatal(err)
	}
	return c, a
}

func reserveAndAttach(ctx context.Context, n *Network, req Request) (Attachment, error) {
	a, err := n.Reserve(ctx, req)
	if err != nil {
		return a, err
	}
	if err := n.Attach(ctx, req, a); err != nil {
		return a, errors.Join(err, n.Detach(context.WithoutCancel(ctx), req.Name))
	}
	return a, nil
}

func detach(t testing.TB, n *Network, i int) {
	t.Helper()
	if err := n.Detach(context.Background(), taskN(i)); err != nil {
		t.Error(err)
	}
}

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
		unprepare(t, n)
	})
	return n
}

// listing is everything that attaching can change on the host.
func listing(t testing.TB, n *Network) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(hostListing(t, n))
	for _, d := range []string{addressDir, portDir, sharedDir} {
		links, err := readLinks(filepath.Join(n.StateDir, d))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range slices.Sorted(maps.Keys(links)) {
			fmt.Fprintln(&b, filepath.Join(d, file))
		}
	}
	return b.String()
}

// wantSame shows what differs.
func wantSame(t testing.TB, what, before, after string) {
	t.Helper()
	count := map[string]int{}
	for l := range strings.Lines(before) {
		count[l]--
	}
	for l := range strings.Lines(after) {
		count[l]++
	}
	for l, more := range count {
		if more != 0 {
			t.Errorf("%s: %+d: %s", what, more, l)
		}
	}
}

// reach tries every way to a published port.
func reach(t *testing.T, client *cell) {
	n := prepared(t, nil)
	web, a := attach(t, n, 1, port("tcp", "", 8080, 80), port("udp", "", 5300, 53), port("tcp", hostIPb, 8081, 80))
	other, b := attach(t, n, 2)
	web.serve(t, "tcp", "web", 80)
	web.serve(t, "udp", "web", 53)
	gw, gw6 := a.Gateway.String(), n.plan.gateway6().String()
	self, self6 := hostSeenAs(a.Gateway, hostIP), hostSeenAs(n.plan.gateway6(), hostIP6)
	for proto, at := range map[string]string{"tcp": "8080", "udp": "5300"} {
		to := func(ip string) string { return net.JoinHostPort(ip, at) }
		wantAnswer(t, "another host", client, proto, to(hostIP), "web "+clientIP+" hello")
		wantAnswer(t, "another host, IPv6", client, proto, to(hostIP6), "web "+clientIP6+" hello")
		wantAnswer(t, "the host, its address", nil, proto, to(hostIP), "web "+self+" hello")
		wantAnswer(t, "the host, its IPv6 address", nil, proto, to(hostIP6), "web "+self6+" hello")
		wantAnswer(t, "the host, the gateway's address", nil, proto, to(gw), "web "+gw+" hello")
		wantAnswer(t, "the host, 127.0.0.1", nil, proto, to("127.0.0.1"), "web "+gw+" hello")
		wantAnswer(t, "a jail", other, proto, to(hostIP), "web "+gw+" hello")
		wantAnswer(t, "a jail, the gateway's address", other, proto, to(gw), "web "+gw+" hello")
		wantAnswer(t, "a jail, IPv6", other, proto, to(hostIP6), "web "+gw6+" hello")
		wantAnswer(t, "the jail itself", web, proto, to(hostIP), "web "+gw+" hello")
		wantAnswer(t, "the jail itself, IPv6", web, proto, to(hostIP6), "web "+gw6+" hello")
	}
	wantAnswer(t, "directly", other, "tcp", net.JoinHostPort(a.IPv4.String(), "80"), "web "+b.IPv4.String()+" hello")
	wantAnswer(t, "directly, IPv6", other, "tcp", net.JoinHostPort(a.IPv6.String(), "80"), "web "+b.IPv6.String()+" hello")
	wantAnswer(t, "directly from the host", nil, "tcp", net.JoinHostPort(a.IPv4.String(), "80"), "web "+gw+" hello")
	wantAnswer(t, "one address of the host", client, "tcp", hostIPb+":8081", "web "+clientIP+" hello")
	wantAnswer(t, "one address of the host, from it", nil, "tcp", hostIPb+":8081", "web "+self+" hello")
	wantNoAnswer(t, "another address of the host", client, "tcp", hostIP+":8081")
	wantNoAnswer(t, "127.0.0.1, which was not asked for", nil, "tcp", "127.0.0.1:8081")
	wantAnswer(t, "in the jail, 127.0.0.1", web, "tcp", "127.0.0.1:80", "web 127.0.0.1 hello")
	wantAnswer(t, "in the jail, ::1", web, "tcp", "[::1]:80", "web ::1 hello")

	client.serve(t, "tcp", "client", 7)
	wantAnswer(t, "outgoing", web, "tcp", clientIP+":7", "client "+hostIP+" hello")
	wantAnswer(t, "outgoing, IPv6", web, "tcp", "["+clientIP6+"]:7", "client "+hostIP6+" hello")
}

// TestDetach: connections end, the port is free, nothing is left.
func TestDetach(t *testing.T) {
	client := newHost(t)
	n := prepared(t, nil)
	before := listing(t, n)
	ctx := context.Background()
	for round := range 2 {
		web, a := attach(t, n, 1, port("tcp", "", 8080, 80), port("udp", "", 5300, 53))
		web.serve(t, "tcp", "web", 80)
		web.serve(t, "udp", "web", 53)
		client.serve(t, "tcp", "client", uint16(7+round))
		conns := map[string]talker{
			"from a client, TCP":       dial(t, client, "tcp", hostIP+":8080"),
			"from a client, IPv6":      dial(t, client, "tcp", "["+hostIP6+"]:8080"),
			"from a client, UDP":       dial(t, client, "udp", hostIP+":5300"),
			"from the host, 127.0.0.1": dial(t, nil, "tcp", "127.0.0.1:8080"),
			"from the host":            dial(t, nil, "tcp", hostIP+":8080"),
		}
		out := dial(t, web, "tcp", clientIP+":"+strconv.Itoa(7+round))
		for what, c := range conns {
			if _, err := c.Say(); err != nil {
				t.Errorf("round %d: %s: %v", round, what, err)
			}
		}
		if _, err := out.Say(); err != nil {
			t.Errorf("round %d: outgoing: %v", round, err)
		}
		if found, ok, err := n.Find(taskN(1)); err != nil || !ok || found != a {
			t.Errorf("Find: %+v, %v, %v; want %+v", found, ok, err, a)
		}
		if names, err := n.List(ctx); err != nil || len(names) != 1 || names[0] != taskN(1) {
			t.Errorf("List: %v, %v", names, err)
		}
		detach(t, n, 1)
		detach(t, n, 1)
		for what, c := range conns {
			if got, err := c.Say(); err == nil || timedOut(err) {
				t.Errorf("round %d: %s after Detach: %q, %v; want it to have ended", round, what, got, err)
			}
		}
		wantSame(t, "Detach", before, listing(t, n))
		wantNoStates(t, a)
		if _, ok, err := n.Find(taskN(1)); ok || err != nil {
			t.Errorf("Find after Detach: %v, %v", ok, err)
		}
		if names, err := n.List(ctx); err != nil || len(names) != 0 {
			t.Errorf("List after Detach: %v, %v", names, err)
		}
	}
}

// timedOut also knows an error that came from another process.
func timedOut(err error) bool { return strings.Contains(err.Error(), "timeout") }

// TestOthersUntouched: one task's coming and going does not disturb another's
// connection.
func TestOthersUntouched(t *testing.T) {
	client := newHost(t)
	n := prepared(t, nil)
	web, _ := attach(t, n, 1, port("tcp", "", 8080, 80))
	web.serve(t, "tcp", "web", 80)
	conns := map[string]talker{
		"client":    dial(t, client, "tcp", hostIP+":8080"),
		"127.0.0.1": dial(t, nil, "tcp", "127.0.0.1:8080"),
	}
	for range 3 {
		attach(t, n, 2, port("tcp", "", 8081, 80))
		if err := n.Prepare(context.Background()); err != nil {
			t.Error(err)
		}
		detach(t, n, 2)
		for what, c := range conns {
			if _, err := c.Say(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
	}
}

// TestUDPBefore: somebody who sent before the port was published gets through.
func TestUDPBefore(t *testing.T) {
	client := newHost(t)
	n := prepared(t, nil)
	conn := dial(t, client, "udp", hostIP+":5300")
	conn.Say()
	web, _ := attach(t, n, 1, port("udp", "", 5300, 53))
	web.serve(t, "udp", "web", 53)
	if got, err := conn.Say(); err != nil || !strings.HasPrefix(got, "web ") {
		t.Errorf("%q, %v", got, err)
	}
}

// TestHalf: what a Reserve or Attach leaves that was killed at any step, and
// what a jail leaves that died, is listed and goes.
func TestHalf(t *testing.T) {
	newHost(t)
	n := prepared(t, nil)
	before := listing(t, n)
	ctx := context.Background()
	for steps := 1; steps <= 5; steps++ {
		c := newCell(t)
		req := request(steps, port("tcp", "", 8080, 80))
		req.Cell = c.id
		a, err := n.reserve(req)
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range []func() error{
			func() error { return n.publish(ctx, req, a) },
			func() error { return n.layCable(req, a) },
			func() error { return n.connect(ctx, req, a) },
		}[:min(steps-1, 3)] {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		if steps == 5 {
			c.remove(t)
		}
		if names, err := n.List(ctx); err != nil || len(names) != 1 {
			t.Errorf("after step %d: List %v, %v", steps, names, err)
		}
		_, err = reserveAndAttach(ctx, n, req)
		wantError(t, err, "task "+req.Name+" is already attached: detach it first")
		detach(t, n, steps)
		c.remove(t)
		wantSame(t, fmt.Sprint("after step ", steps), before, listing(t, n))
	}
}

// TestLostState: interface and rules alone are found and removed.
func TestLostState(t *testing.T) {
	newHost(t)
	n := prepared(t, nil)
	before := listing(t, n)
	attach(t, n, 1, port("tcp", "", 8080, 80))
	for _, d := range []string{addressDir, portDir} {
		if err := os.RemoveAll(filepath.Join(n.StateDir, d)); err != nil {
			t.Fatal(err)
		}
	}
	if names, err := n.List(context.Background()); err != nil || len(names) != 1 {
		t.Errorf("List: %v, %v", names, err)
	}
	detach(t, n, 1)
	wantSame(t, "Detach", before, listing(t, n))
}

// TestFailedAttach leaves nothing, whatever fails.
func TestFailedAttach(t *testing.T) {
	newHost(t)
	n := prepared(t, nil)
	attach(t, n, 1, port("tcp", "", 8080, 80))
	for _, addr := range []string{"127.0.0.1:2222", ":2223"} {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	pc, err := net.ListenPacket("udp", hostIP+":2224")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	taken := newCell(t)
	taken.takeName(t)
	before := listing(t, n)
	for _, c := range []struct {
		cell string
		port PortMap
		want string
	}{
		{newCell(t).id, port("tcp", "", 8080, 443), `port "http": task nj000000000002 cannot have host port 8080/tcp for its port 443, because task nj000000000001 has it for its port 80`},
		{newCell(t).id, port("tcp", "", 2222, 22), `port "http": a process on the host already uses port 2222/tcp`},
		{newCell(t).id, port("tcp", "", 2223, 22), `port "http": a process on the host already uses port 2223/tcp`},
		{newCell(t).id, port("tcp", hostIP, 2223, 22), `port "http": a process on the host already uses port 192.0.2.1:2223/tcp`},
		{newCell(t).id, port("udp", "", 2224, 22), `port "http": a process on the host already uses port 2224/udp`},
		{newCell(t).id, port("tcp", "198.51.100.9", 80, 80), `port "http": the host has no address 198.51.100.9`},
		{noCell, port("tcp", "", 8082, 80), noCellError},
		{taken.id, port("tcp", "", 8082, 80), strings.ReplaceAll(nameTakenError, "%s", taken.id)},
	} {
		req := request(2, c.port)
		req.Cell = c.cell
		_, err := reserveAndAttach(context.Background(), n, req)
		wantError(t, err, c.want)
		wantSame(t, c.want, before, listing(t, n))
	}
	stopped, stop := context.WithCancel(context.Background())
	stop()
	req := request(2)
	req.Cell = newCell(t).id
	if _, err := reserveAndAttach(stopped, n, req); err == nil {
		t.Error("Attach with a cancelled context")
	}
	wantSame(t, "cancelled", before, listing(t, n))
}

// TestOptionalPort: a port that a task can do without is left out where
// another task, the task itself or a process of the host's has it, and what
// has it keeps it.
func TestOptionalPort(t *testing.T) {
	client := newHost(t)
	n := prepared(t, nil)
	before := listing(t, n)
	l, err := net.Listen("tcp", "127.0.0.1:5300")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serveLines(c, "resolver")
		}
	}()
	local := func(host, task uint16) PortMap {
		p := port("tcp", "127.0.0.1", host, task)
		p.Optional = true
		return p
	}
	for i, ports := range [][]PortMap{
		{port("tcp", hostIP, 8080, 80), local(8080, 80)},
		{port("tcp", hostIPb, 8080, 80), local(8080, 80)},
		{port("tcp", hostIP, 9090, 80), port("tcp", hostIPb, 9090, 81), local(9090, 80), local(9090, 81)},
		{port("tcp", hostIP, 5300, 80), local(5300, 80)},
	} {
		c, _ := attach(t, n, 1+i, ports...)
		c.serve(t, "tcp", taskN(1+i), 80)
		c.serve(t, "tcp", taskN(1+i)+":81", 81)
	}
	gateway := n.plan.gateway().String()
	for to, want := range map[string]string{hostIP + ":8080": taskN(1), hostIPb + ":8080": taskN(2), hostIP + ":9090": taskN(3), hostIPb + ":9090": taskN(3) + ":81", hostIP + ":5300": taskN(4)} {
		wantAnswer(t, "the given address", client, "tcp", to, want+" "+clientIP+" hello")
	}
	wantAnswer(t, "who came first", nil, "tcp", "127.0.0.1:8080", taskN(1)+" "+gateway+" hello")
	wantAnswer(t, "the port that came first", nil, "tcp", "127.0.0.1:9090", taskN(3)+" "+gateway+" hello")
	wantAnswer(t, "a process of the host's", nil, "tcp", "127.0.0.1:5300", "resolver 127.0.0.1 hello")
	links, err := readLinks(filepath.Join(n.StateDir, portDir))
	if err != nil {
		t.Fatal(err)
	}
	for file, owner := range map[string]string{"tcp-8080-127.0.0.1": taskN(1) + ":80", "tcp-9090-127.0.0.1": taskN(3) + ":80", "tcp-5300-127.0.0.1": ""} {
		if links[file] != owner {
			t.Errorf("%s -> %q, want %q", file, links[file], owner)
		}
	}
	detach(t, n, 2)
	wantAnswer(t, "who came first, alone", nil, "tcp", "127.0.0.1:8080", taskN(1)+" "+gateway+" hello")
	for _, i := range []int{1, 3, 4} {
		detach(t, n, i)
	}
	wantSame(t, "Detach", before, listing(t, n))
}

// TestShared: tasks with one network stack. A member's ports come and go with
// it, and its connections with them, while the others' go on.
func TestShared(t *testing.T) {
	client := newHost(t)
	n := prepared(t, nil)
	ctx := context.Background()
	pod, a := attach(t, n, 1)
	before := listing(t, n)
	members := []*cell{pod.member(t), pod.member(t)}
	for i, c := range members {
		req := Request{Name: taskN(2 + i), TaskID: "alloc/task", Within: taskN(1), Ports: []PortMap{port("tcp", "", uint16(8080+i), uint16(80+i))}}
		got, err := reserveAndAttach(ctx, n, req)
		if err != nil || got != a {
			t.Fatalf("%+v, %v; want %+v", got, err, a)
		}
		if got, up, err := n.Find(req.Name); err != nil || !up || got != a {
			t.Errorf("Find: %+v, %v, %v", got, up, err)
		}
		c.serve(t, "tcp", req.Name, uint16(80+i))
	}
	wantAnswer(t, "the other by 127.0.0.1", members[0], "tcp", "127.0.0.1:81", taskN(3)+" 127.0.0.1 hello")
	first, second := dial(t, client, "tcp", hostIP+":8080"), dial(t, client, "tcp", hostIP+":8081")
	for _, c := range []talker{first, second} {
		if _, err := c.Say(); err != nil {
			t.Error(err)
		}
	}
	if names, err := n.List(ctx); err != nil || len(names) != 3 {
		t.Errorf("List: %v, %v", names, err)
	}
	detach(t, n, 2)
	if got, err := first.Say(); err == nil || timedOut(err) {
		t.Errorf("the first after Detach: %q, %v; want it to have ended", got, err)
	}
	if _, err := second.Say(); err != nil {
		t.Errorf("the second: %v", err)
	}
	detach(t, n, 3)
	wantSame(t, "members", before, listing(t, n))

	_, err := reserveAndAttach(ctx, n, Request{Name: taskN(4), Within: taskN(9)})
	wantError(t, err, "task nj000000000004 cannot share the network of nj000000000009, which has none of its own")
	if _, err := reserveAndAttach(ctx, n, Request{Name: taskN(4), Within: taskN(1)}); err != nil {
		t.Fatal(err)
	}
	_, err = reserveAndAttach(ctx, n, Request{Name: taskN(5), Within: taskN(4)})
	wantError(t, err, "task nj000000000005 cannot share the network of nj000000000004, which has none of its own")
	detach(t, n, 1)
	if _, up, err := n.Find(taskN(4)); up || err != nil {
		t.Errorf("Find of a member without its network: %v, %v", up, err)
	}
	detach(t, n, 4)
	if names, err := n.List(ctx); err != nil || len(names) != 0 {
		t.Errorf("List: %v, %v", names, err)
	}
}

// TestReboot: reservations of before a reboot are listed and go; interfaces
// and rules are gone already.
func TestReboot(t *testing.T) {
	newHost(t)
	n := newTestNetwork(t, nil)
	ctx := context.Background()
	if _, err := n.reserve(request(1, port("tcp", "", 8080, 80))); err != nil {
		t.Fatal(err)
	}
	if names, err := n.List(ctx); err != nil || len(names) != 1 {
		t.Errorf("List before Prepare: %v, %v", names, err)
	}
	detach(t, n, 1)
	if names, err := n.List(ctx); err != nil || len(names) != 0 {
		t.Errorf("List: %v, %v", names, err)
	}
}

// TestAddressAgain: a new task with a former one's address is reached at once
// by those who knew the former.
func TestAddressAgain(t *testing.T) {
	newHost(t)
	n := prepared(t, func(c *Config) { c.Subnet = netip.MustParsePrefix("10.209.0.0/29") })
	other, first := attach(t, n, 1)
	seen := map[netip.Addr]int{first.IPv4: 1}
	for i := 2; i < 9; i++ {
		web, a := attach(t, n, i)
		web.serve(t, "tcp", taskN(i), 80)
		for what, from := range map[string]*cell{"the host": nil, "a jail": other} {
			start := time.Now()
			if got, err := ask(t, from, "tcp", a.IPv4.String()+":80"); err != nil || !strings.HasPrefix(got, taskN(i)) {
				t.Errorf("%s: %q, %v", taskN(i), got, err)
			}
			if d := time.Since(start); d > time.Second {
				t.Errorf("%s (of task %d before) is reached by %s after %v", a.IPv4, seen[a.IPv4], what, d)
			}
		}
		seen[a.IPv4] = i
		detach(t, n, i)
		web.remove(t)
	}
}

func TestAttachAtOnce(t *testing.T) {
	client := newHost(t)
	n := prepared(t, nil)
	before := listing(t, n)
	const tasks = 20
	cells := make([]*cell, tasks)
	for i := range cells {
		cells[i] = newCell(t)
	}
	var wg sync.WaitGroup
	start := time.Now()
	for i := range tasks {
		wg.Go(func() {
			req := request(i, port("tcp", "", uint16(8000+i), 80))
			req.Cell = cells[i].id
			if _, err := reserveAndAttach(context.Background(), n, req); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d attached at once in %v", tasks, time.Since(start))
	for i := range tasks {
		cells[i].serve(t, "tcp", taskN(i), 80)
		wantAnswer(t, "at once", client, "tcp", fmt.Sprintf("%s:%d", hostIP, 8000+i), taskN(i)+" "+clientIP+" hello")
		wantAnswer(t, "at once, from the host", nil, "tcp", fmt.Sprintf("127.0.0.1:%d", 8000+i), taskN(i)+" "+n.plan.gateway().String()+" hello")
	}
	start = time.Now()
	for i := range tasks {
		wg.Go(func() {
			if err := n.Detach(context.Background(), taskN(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d detached at once in %v", tasks, time.Since(start))
	wantSame(t, "at once", before, listing(t, n))
}

func BenchmarkAttachDetach(b *testing.B) {
	newHost(b)
	n := prepared(b, nil)
	attach(b, n, 2, port("tcp", "", 8081, 80)) // the host is at work already
	c := newCell(b)
	ctx := context.Background()
	var attaching, detaching time.Duration
	for b.Loop() {
		req := request(1, port("tcp", "", 8080, 80))
		req.Cell = c.id
		start := time.Now()
		if _, err := reserveAndAttach(ctx, n, req); err != nil {
			b.Fatal(err)
		}
		middle := time.Now()
		if err := n.Detach(ctx, req.Name); err != nil {
			b.Fatal(err)
		}
		attaching += middle.Sub(start)
		detaching += time.Since(middle)
	}
	b.ReportMetric(float64(attaching.Microseconds())/float64(b.N), "µs/attach")
	b.ReportMetric(float64(detaching.Microseconds())/float64(b.N), "µs/detach")
}

// BenchmarkPrepareAgain is what each fingerprint costs on a host that is ready.
func BenchmarkPrepareAgain(b *testing.B) {
	newHost(b)
	n := prepared(b, nil)
	for b.Loop() {
		if err := n.Prepare(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

func TestRelease(t *testing.T) {
	newHost(t)
	n := prepared(t, nil)
	ctx := context.Background()
	req := request(1, port("tcp", "", 8080, 80))
	req.Cell = newCell(t).id
	if _, err := reserveAndAttach(ctx, n, req); err != nil {
		t.Fatal(err)
	}
	wantError(t, n.Release(ctx), "the network is in use by "+req.Name+": stop these tasks first")
	if err := n.Detach(ctx, req.Name); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := n.Release(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := net.InterfaceByName(n.Bridge); err == nil {
			t.Fatalf("bridge %s is still there", n.Bridge)
		}
	}
	if err := n.Prepare(ctx); err != nil {
		t.Errorf("after a release: %v", err)
	}
}

// wantHeard tells whether the host hears what the jail says from an address.
func wantHeard(t testing.TB, jail *cell, from, to string, want bool) {
	t.Helper()
	pc, err := net.ListenPacket("udp4", to+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	jail.tell(t, from, pc.LocalAddr().String())
	pc.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	if _, _, err := pc.ReadFrom(make([]byte, 10)); (err == nil) != want {
		t.Errorf("the host hears a jail that speaks as %s: %v, want %v", from, err == nil, want)
	}
}
