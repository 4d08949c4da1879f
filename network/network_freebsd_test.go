package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bridgeFilters runs a test with pf asked at the bridge and its members, as by default until FreeBSD 13, and with it not asked.
func bridgeFilters(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	if !hasModule("if_bridge") {
		run(t, "", "kldload", "if_bridge")
	}
	for _, name := range []string{"net.link.bridge.pfil_member", "net.link.bridge.pfil_bridge"} {
		was := strings.TrimSpace(run(t, "", "sysctl", "-n", name))
		t.Cleanup(func() { run(t, "", "sysctl", name+"="+was) })
	}
	for _, value := range []string{"0", "1"} {
		t.Run("bridge filter "+value, func(t *testing.T) {
			run(t, "", "sysctl", "net.link.bridge.pfil_member="+value, "net.link.bridge.pfil_bridge="+value)
			test(t)
		})
	}
}

func TestReach(t *testing.T) { bridgeFilters(t, reachAll) }

// reachAll also has an operator's pf.conf that lets in nothing by itself.
func reachAll(t *testing.T) {
	t.Run("pass", func(t *testing.T) { reach(t, newHost(t)) })
	t.Run("block", func(t *testing.T) {
		client := newHost(t)
		loadPf(t, `set skip on { lo0 vtnet1 }
nat-anchor "nomad-driver-jail/*"
rdr-anchor "nomad-driver-jail/*"
block in log all
pass out all keep state
pass in on up0 proto { icmp icmp6 }
anchor "nomad-driver-jail/*"
`)
		reach(t, client)
	})
}

// loadPf replaces the main ruleset for the time of the test.
func loadPf(t testing.TB, rules string) {
	t.Helper()
	t.Cleanup(func() { run(t, "", "pfctl", "-f", "/etc/pf.conf") })
	run(t, rules, "pfctl", "-f", "-")
}

func TestKeptOut(t *testing.T) { bridgeFilters(t, keptOut) }

// keptOut is what a jail or a neighbour may not reach.
func keptOut(t *testing.T) {
	client := newHost(t)
	n := prepared(t, nil)
	web, a := attach(t, n, 1, port("tcp", "127.0.0.1", 8080, 80))
	web.serve(t, "tcp", "web", 80)
	(*cell)(nil).serve(t, "tcp", "host", 9000)
	wantAnswer(t, "127.0.0.1 only", nil, "tcp", "127.0.0.1:8080", "web "+a.Gateway.String()+" hello")
	wantNoAnswer(t, "127.0.0.1 only, from elsewhere", client, "tcp", hostIP+":8080")

	client.addRoute(t, n.Subnet, hostIP)
	client.addRoute(t, n.Subnet6, hostIP6)
	wantNoAnswer(t, "an unpublished port by way of the host", client, "tcp", a.IPv4.String()+":80")
	wantNoAnswer(t, "an unpublished port by way of the host", client, "tcp", "["+a.IPv6.String()+"]:80")
	wantAnswer(t, "the host from a jail", web, "tcp", a.Gateway.String()+":9000", "host "+a.IPv4.String()+" hello")
	wantHeard(t, web, a.IPv4.String(), a.Gateway.String(), true)
	web.addAddress(t, jailEnd(taskN(1)), "192.0.2.77/32")
	wantHeard(t, web, "192.0.2.77", a.Gateway.String(), false) // another's address
}

// tell has the jail send something by UDP from one of its addresses.
func (c *cell) tell(t testing.TB, from, to string) {
	t.Helper()
	if _, err := c.start(t).do(agentRequest{Op: "tell", From: from, To: to}); err != nil {
		t.Error(err)
	}
}

// TestInterface: what ifconfig(8) shows of a task, outside and inside.
func TestInterface(t *testing.T) {
	newHost(t)
	n := prepared(t, nil)
	_, a := attach(t, n, 1)
	out := run(t, "", "ifconfig", a.Interface)
	for _, want := range []string{
		"description: nomad-driver-jail jail ", " alloc/task", "groups: epair nomad-jail", "ether " + hardwareAddr(a.IPv4, 'a').String(), "UP,",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("ifconfig %s lacks %q:\n%s", a.Interface, want, out)
		}
	}
	if strings.Contains(out, "inet") {
		t.Errorf("a bridge's member has an address:\n%s", out)
	}
	web, a := attach(t, n, 2)
	inside := web.jexec(t, "ifconfig", "-a")
	for _, want := range []string{
		"nj000000000002b: ", "inet " + a.IPv4.String() + " netmask 0xffff0000", "inet6 " + a.IPv6.String() + " prefixlen 64",
		"ether " + hardwareAddr(a.IPv4, 'b').String(), "inet 127.0.0.1 netmask 0xff000000", "description: nomad-driver-jail jail " + web.id + " alloc/task",
	} {
		if !strings.Contains(inside, want) {
			t.Errorf("ifconfig in the jail lacks %q:\n%s", want, inside)
		}
	}
	if strings.Contains(inside, "tentative") {
		t.Errorf("an address does not work yet:\n%s", inside)
	}
	routes := web.jexec(t, "netstat", "-rn")
	for _, want := range []string{"10.209.0.1 ", "fd12:3456:789a::1 "} {
		if !strings.Contains(routes, want) {
			t.Errorf("no route by %s:\n%s", want, routes)
		}
	}
}

// TestDyingJail: a jail that was removed and lingers, as one does while a
// socket drains, keeps neither its interface nor its address from the next.
func TestDyingJail(t *testing.T) {
	client := newHost(t)
	n := prepared(t, func(c *Config) { c.Subnet = netip.MustParsePrefix("10.209.0.0/29") })
	before := listing(t, n)
	client.serve(t, "tcp", "client", 7)
	for i := range 8 {
		web, _ := attach(t, n, i, port("tcp", "", 8080, 80))
		web.serve(t, "tcp", "web", 80)
		conn := dial(t, web, "tcp", clientIP+":7")
		if _, err := conn.Say(); err != nil {
			t.Error(err)
		}
		wantAnswer(t, "client", client, "tcp", hostIP+":8080", "web "+clientIP+" hello")
		web.remove(t)
		detach(t, n, i)
		wantSame(t, fmt.Sprint("round ", i), before, listing(t, n))
	}
}

// TestNamesake: root in a jail gives its end's name to another interface,
// which stays the jail's.
func TestNamesake(t *testing.T) {
	newHost(t)
	n := prepared(t, nil)
	before := listing(t, n)
	web, _ := attach(t, n, 2)
	web.jexec(t, "ifconfig", jailEnd(taskN(2)), "name", "away0")
	web.takeName(t)
	detach(t, n, 2)
	wantSame(t, "Detach", before, listing(t, n))
	if inside := strings.Fields(web.jexec(t, "ifconfig", "-l")); !slices.Contains(inside, jailEnd(taskN(2))) || slices.Contains(inside, "away0") {
		t.Errorf("the jail has %q, want its own interface and not the pair's end", inside)
	}
	web.remove(t)
	wantSame(t, "the jail's end", before, listing(t, n))
}

// TestStrayEnd: a process was killed while it had the jail's own interface.
func TestStrayEnd(t *testing.T) {
	newHost(t)
	n := prepared(t, nil)
	before := listing(t, n)
	c, err := openIfconfig()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stray, err := c.create("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.rename(stray, jailEnd(taskN(2))); err != nil {
		t.Fatal(err)
	}
	detach(t, n, 2)
	wantSame(t, "Detach", before, listing(t, n))
}

// TestHalfPair: a process that was killed between creating a pair or the
// bridge and naming it leaves them to the next Prepare.
func TestHalfPair(t *testing.T) {
	newHost(t)
	n := prepared(t, nil)
	before := listing(t, n)
	c, err := openIfconfig()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, name := range []string{taskN(1), taskN(2)} {
		if _, err := createPairUnit(c, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.rename(fmt.Sprintf("epair%da", pairUnit(taskN(2), 0)), hostEnd(taskN(2))); err != nil {
		t.Fatal(err)
	}
	if err := n.Prepare(context.Background()); err != nil {
		t.Fatal(err)
	}
	detach(t, n, 2)
	wantSame(t, "Prepare", before, listing(t, n))
}

// TestRequestSizes: the kernel copies as many bytes as a request's number says.
func TestRequestSizes(t *testing.T) {
	for request, size := range map[uint]uintptr{
		unix.SIOCIFCREATE2: unsafe.Sizeof(ifreq{}),
		unix.SIOCSIFNAME:   unsafe.Sizeof(ifreqPointer{}),
		unix.SIOCSIFDESCR:  unsafe.Sizeof(ifreqBuffer{}),
		unix.SIOCSIFMTU:    unsafe.Sizeof(ifreqInt{}),
		unix.SIOCSIFFLAGS:  unsafe.Sizeof(ifreqFlags{}),
		unix.SIOCAIFGROUP:  unsafe.Sizeof(ifgroupreq{}),
		unix.SIOCSDRVSPEC:  unsafe.Sizeof(ifdrv{}),
		siocAIFADDR:        unsafe.Sizeof(inAliasreq{}),
		siocAIFADDR_IN6:    unsafe.Sizeof(in6Aliasreq{}),
		siocSIFINFO_IN6:    unsafe.Sizeof(in6Ndireq{}),
	} {
		if want := uintptr(request >> 16 & 0x1fff); size != want {
			t.Errorf("request %#x has %d bytes, want %d", request, size, want)
		}
	}
}

func TestPrepareRefuses(t *testing.T) {
	newHost(t)
	for _, c := range []struct {
		make, undo [][]string
		want       string
	}{
		{
			[][]string{{"ifconfig", "bridge77", "create"}, {"ifconfig", "bridge77", "inet", "10.209.7.1/24"}},
			[][]string{{"ifconfig", "bridge77", "destroy"}},
			"subnet 10.209.0.0/16 is already used by interface bridge77 (10.209.7.1/24): give the plugin another one",
		},
		{
			[][]string{{"route", "add", "10.209.8.0/24", clientIP}},
			[][]string{{"route", "delete", "10.209.8.0/24"}},
			"subnet 10.209.0.0/16 is already used by interface up0 (10.209.8.0/24): give the plugin another one",
		},
		{
			[][]string{{"ifconfig", "bridge77", "create", "name", "njail0"}, {"ifconfig", "njail0", "inet", "172.17.0.1/16"}},
			[][]string{{"ifconfig", "njail0", "destroy"}},
			"bridge njail0 is already used by something else (its address 172.17.0.1/16): give the plugin another name",
		},
		{
			[][]string{{"ifconfig", "epair77", "create"}, {"ifconfig", "epair77a", "name", "njail0"}},
			[][]string{{"ifconfig", "njail0", "destroy"}},
			"bridge njail0 is already used by something else, which is no bridge: give the plugin another name",
		},
	} {
		for _, args := range c.make {
			run(t, "", args...)
		}
		n := newTestNetwork(t, nil)
		before := hostListing(t, n)
		err := n.Prepare(context.Background())
		wantError(t, err, c.want)
		var fault *Fault
		if !errors.As(err, &fault) || faults(n) != fault.Part+": "+c.want+"\n" {
			t.Errorf("Check finds %s", faults(n))
		}
		wantSame(t, "a refused Prepare", before, hostListing(t, n))
		for _, args := range c.undo {
			run(t, "", args...)
		}
	}
}

// TestPrepareAdopts: the operator's own bridge, and ours of a former subnet.
func TestPrepareAdopts(t *testing.T) {
	newHost(t)
	run(t, "", "ifconfig", "bridge77", "create", "name", "njail0")
	run(t, "", "ifconfig", "njail0", "inet", "10.209.0.1/16")
	prepared(t, nil)
	run(t, "", "ifconfig", "njail0", "description", "nomad-driver-jail")
	n := newTestNetwork(t, func(c *Config) { c.Subnet = netip.MustParsePrefix("10.77.0.0/16") })
	if err := n.Prepare(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := run(t, "", "ifconfig", "njail0"); strings.Contains(got, "10.209.0.1") || !strings.Contains(got, "10.77.0.1 netmask 0xffff0000") {
		t.Error(got)
	}
}

// TestCheck: all that is missing is named at once, and no more.
func TestCheck(t *testing.T) {
	newHost(t)
	n := prepared(t, nil)
	if got := faults(n); got != "" {
		t.Errorf("a host that is ready: %s", got)
	}
	const (
		forwarding = "forwarding: the host does not forward packets for its jails: add gateway_enable=\"YES\" to /etc/rc.conf and run `sysctl net.inet.ip.forwarding=1`\n"
		off        = "pf: pf is not enabled: add pf_enable=\"YES\" to /etc/rc.conf and run `service pf start`\n"
		anchors    = "pf_anchors: pf does not call this driver's anchors: add to /etc/pf.conf, translation before filter rules, the lines `rdr-anchor \"nomad-driver-jail/*\"`, `anchor \"nomad-driver-jail/*\"`, and run `service pf reload`\n"
	)
	run(t, "", "sysctl", "net.inet.ip.forwarding=0")
	t.Cleanup(func() { run(t, "", "sysctl", "net.inet.ip.forwarding=1") })
	loadPf(t, "nat-anchor \"nomad-driver-jail/*\"\npass\n")
	run(t, "", "pfctl", "-d")
	t.Cleanup(func() { run(t, "", "pfctl", "-e") })
	if got, want := faults(n), forwarding+off+anchors; got != want {
		t.Errorf("Check finds\n%s want\n%s", got, want)
	}
}

// TestLostRules: what an operator's pfctl -F all or kill took away is back after the next Prepare.
func TestLostRules(t *testing.T) {
	client := newHost(t)
	n := prepared(t, nil)
	web, a := attach(t, n, 1, port("tcp", "", 8080, 80))
	web.serve(t, "tcp", "web", 80)
	before := hostListing(t, n)
	run(t, "", "pfctl", "-a", n.pfAnchor(n.pfHostAnchor()), "-F", "all")
	run(t, "", "pkill", "-f", "forward "+n.forwardDir())
	if hostListing(t, n) == before {
		t.Fatal("the rules were not flushed, so this shows nothing")
	}
	if err := n.Prepare(context.Background()); err != nil {
		t.Fatal(err)
	}
	wantSame(t, "Prepare", before, hostListing(t, n))
	wantAnswer(t, "by the uplink", client, "tcp", hostIP+":8080", "web "+clientIP+" hello")
	wantAnswer(t, "by the forwarder", nil, "tcp", "127.0.0.1:8080", "web "+a.Gateway.String()+" hello")
}

// TestPrepareAgain: a host that is ready keeps its addresses and routes, and a new uplink is seen.
func TestPrepareAgain(t *testing.T) {
	newHost(t)
	n := prepared(t, nil)
	s, err := unix.Socket(unix.AF_ROUTE, unix.SOCK_RAW, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	if err := n.Prepare(context.Background()); err != nil {
		t.Fatal(err)
	}
	message := make([]byte, 2048)
	if size, _, err := unix.Recvfrom(s, message, unix.MSG_DONTWAIT); err != unix.EAGAIN {
		t.Errorf("Prepare changed addresses or routes: %x, %v", message[:max(size, 0)], err)
	}
	run(t, "", "ifconfig", "bridge77", "create", "inet", "192.0.2.77/24")
	t.Cleanup(func() { run(t, "", "ifconfig", "bridge77", "destroy") })
	if err := n.Prepare(context.Background()); err != nil {
		t.Fatal(err)
	}
	if rules := run(t, "", "pfctl", "-a", n.pfAnchor(n.pfHostAnchor()), "-s", "nat"); !strings.Contains(rules, "nat on bridge77") {
		t.Errorf("rules without the new uplink:\n%s", rules)
	}
}

// BenchmarkScript does what Attach does as a shell script would, one command
// after the other. (Its taking down is not measured.)
func BenchmarkScript(b *testing.B) {
	newHost(b)
	n := prepared(b, nil)
	c := newCell(b)
	a := n.plan.attachment(taskN(1), n.plan.candidate(taskN(1), 0))
	ports := redirects(a, []PortMap{port("tcp", "", 8080, 80)})
	script := fmt.Sprintf(`set -e
e=$(ifconfig epair create)
ifconfig $e name %[1]sa
ifconfig ${e%%a}b name %[1]sb
ifconfig %[1]sa description "task %[1]s" group nomad-jail
ifconfig %[2]s addm %[1]sa
ifconfig %[1]sa up
ifconfig %[1]sb vnet %[3]s
jexec %[3]s ifconfig lo0 inet 127.0.0.1/8 up
jexec %[3]s ifconfig %[1]sb inet %[4]s/16 up
jexec %[3]s ifconfig %[1]sb inet6 %[5]s/64
jexec %[3]s route -q add default %[6]s
jexec %[3]s route -q add -inet6 default %[7]s
pfctl -q -a nomad-driver-jail/%[1]s -f -
`, taskN(1), n.Bridge, c.id, a.IPv4, a.IPv6, n.plan.gateway(), n.plan.gateway6())
	rules := n.pfTaskRules(taskN(1), a, ports)
	for b.Loop() {
		run(b, rules, "sh", "-c", script)
		b.StopTimer()
		run(b, "", "ifconfig", taskN(1)+"a", "destroy")
		run(b, "", "pfctl", "-q", "-a", n.pfAnchor(taskN(1)), "-f", "/dev/null")
		b.StartTimer()
	}
}

// TestOpenFolder connects a jail while somebody else in this process has a
// folder open, with which FreeBSD from 13 on attaches no process to a jail.
func TestOpenFolder(t *testing.T) {
	newHost(t)
	c := newCell(t)
	folder, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	s, err := openStack(c.jid)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}
