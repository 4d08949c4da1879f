package network

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func request(i int, ports ...PortMap) Request {
	return Request{Name: taskN(i), TaskID: "alloc/task", Ports: ports}
}

func port(proto string, ip string, host, task uint16) PortMap {
	p := PortMap{Label: "http", Proto: proto, HostPort: host, TaskPort: task}
	if ip != "" {
		p.HostIP = netip.MustParseAddr(ip)
	}
	return p
}

func TestReserve(t *testing.T) {
	n := newTestNetwork(t, nil)
	a, err := n.reserve(request(1, port("tcp", "", 8080, 80), port("udp", "192.0.2.1", 53, 5353), port("tcp", "::", 81, 80)))
	if err != nil {
		t.Fatal(err)
	}
	if got, ok, err := n.reservation(taskN(1)); err != nil || !ok || got != a {
		t.Errorf("reservation: %+v %v %v, want %+v", got, ok, err, a)
	}
	links, err := readLinks(filepath.Join(n.StateDir, portDir))
	if err != nil {
		t.Fatal(err)
	}
	for file, owner := range map[string]string{"tcp-8080-any": ":80", "udp-53-192.0.2.1": ":5353", "tcp-81-any": ":80"} {
		if links[file] != taskN(1)+owner {
			t.Errorf("%s -> %q", file, links[file])
		}
	}
	if names, err := n.reservedNames(); err != nil || len(slices.Compact(names)) != 1 {
		t.Errorf("names %v, %v", names, err)
	}
	if err := n.releasePorts(taskN(1)); err != nil {
		t.Error(err)
	}
	if err := n.releaseAddress(taskN(1)); err != nil {
		t.Error(err)
	}
	if names, err := n.reservedNames(); err != nil || len(names) != 0 {
		t.Errorf("left over: %v, %v", names, err)
	}
}

func TestPortCollisions(t *testing.T) {
	for _, c := range []struct {
		first, second PortMap
		want          string
	}{
		{port("tcp", "", 8080, 80), port("udp", "", 8080, 80), ""},
		{port("tcp", "192.0.2.1", 8080, 80), port("tcp", "192.0.2.2", 8080, 80), ""},
		{port("tcp", "", 8080, 80), port("tcp", "", 8080, 443), `port "http": task nj000000000002 cannot have host port 8080/tcp for its port 443, because task nj000000000001 has it for its port 80`},
		{port("tcp", "", 8080, 80), port("tcp", "192.0.2.1", 8080, 443), `port "http": task nj000000000002 cannot have host port 192.0.2.1:8080/tcp for its port 443, because task nj000000000001 has it for its port 80`},
		{port("udp", "2001:db8::1", 53, 53), port("udp", "", 53, 5353), `port "http": task nj000000000002 cannot have host port 53/udp for its port 5353, because task nj000000000001 has it for its port 53`},
	} {
		n := newTestNetwork(t, nil)
		if _, err := n.reserve(request(1, c.first)); err != nil {
			t.Fatal(err)
		}
		_, err := n.reserve(request(2, port("tcp", "", 9999, 1), c.second))
		if err != nil || c.want != "" {
			wantError(t, err, c.want)
		}
		if err == nil {
			continue
		}
		if names, err := n.reservedNames(); err != nil || slices.Contains(names, taskN(2)) {
			t.Errorf("a refused task keeps a reservation: %v %v", names, err)
		}
	}
	n := newTestNetwork(t, nil)
	_, err := n.reserve(request(1, port("tcp", "", 8080, 80), port("tcp", "", 8080, 81)))
	wantError(t, err, `port "http": task nj000000000001 cannot have host port 8080/tcp for its port 81, because task nj000000000001 has it for its port 80`)
}

func TestFullSubnet(t *testing.T) {
	n := newTestNetwork(t, func(c *Config) { c.Subnet = netip.MustParsePrefix("10.1.0.0/29") })
	seen := map[netip.Addr]bool{}
	for i := range 5 {
		a, err := n.reserve(request(i))
		if err != nil {
			t.Fatal(err)
		}
		seen[a.IPv4] = true
	}
	if len(seen) != 5 {
		t.Errorf("5 tasks share %d addresses", len(seen))
	}
	_, err := n.reserve(request(5))
	wantError(t, err, "subnet 10.1.0.0/29 is full: tasks have all of its 5 addresses; stop some or give the plugin a larger subnet")
	if err := n.releaseAddress(taskN(3)); err != nil {
		t.Fatal(err)
	}
	if _, err := n.reserve(request(5)); err != nil {
		t.Error(err)
	}
	for _, i := range []int{0, 1, 2, 4, 5} {
		if _, ok, err := n.reservation(taskN(i)); !ok || err != nil {
			t.Errorf("task %d: %v %v", i, ok, err)
		}
	}
}

func TestReserveAtOnce(t *testing.T) {
	n := newTestNetwork(t, func(c *Config) { c.Subnet = netip.MustParsePrefix("10.1.0.0/26") })
	var wg sync.WaitGroup
	got := make([]Attachment, 50)
	for i := range got {
		wg.Go(func() {
			a, err := n.reserve(request(i, port("tcp", "", uint16(1000+i), 80)))
			if err != nil {
				t.Error(err)
			}
			got[i] = a
		})
	}
	wg.Wait()
	seen := map[netip.Addr]bool{}
	for _, a := range got {
		seen[a.IPv4] = true
	}
	if len(seen) != len(got) {
		t.Errorf("%d tasks share %d addresses", len(got), len(seen))
	}
}

func TestBrokenReservation(t *testing.T) {
	n := newTestNetwork(t, nil)
	if _, err := n.reserve(request(1)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("x", filepath.Join(n.StateDir, portDir, "junk")); err != nil {
		t.Fatal(err)
	}
	_, err := n.reserve(request(2, port("tcp", "", 1, 1)))
	wantError(t, err, "ports/junk -> x is not a port reservation: remove it")
}

func TestValid(t *testing.T) {
	n := newTestNetwork(t, func(c *Config) { c.Subnet6 = netip.Prefix{} })
	for _, c := range []struct {
		req  Request
		want string
	}{
		{Request{Name: "../../etc"}, `task name "../../etc": want nj and 12 hexadecimal digits`},
		{request(1, port("sctp", "", 1, 1)), `port "http": protocol "sctp": want tcp or udp`},
		{request(1, port("tcp", "", 0, 1)), `port "http" has no port of the host`},
		{request(1, port("tcp", "", 1, 0)), `port "http" has no port of the task`},
		{request(1, port("tcp", "fe80::1%eth0", 1, 1)), `port "http": fe80::1%eth0: a link-local address of the host cannot lead to a jail`},
		{request(1, port("tcp", "2001:db8::1", 1, 1)), `port "http": host address 2001:db8::1 needs jails with IPv6: give the plugin a subnet6`},
		{request(1, port("tcp", "::ffff:192.0.2.1", 1, 1)), ""},
	} {
		if err := n.valid(c.req); err != nil || c.want != "" {
			wantError(t, err, c.want)
		}
	}
}

func TestRedirects(t *testing.T) {
	a := Attachment{IPv4: netip.MustParseAddr("10.209.0.7"), IPv6: netip.MustParseAddr("fd00::7")}
	ports := []PortMap{port("tcp", "", 8080, 80), port("udp", "192.0.2.1", 53, 5353), port("tcp", "2001:db8::1", 443, 8443)}
	var got []string
	for _, r := range redirects(a, ports) {
		got = append(got, r.Proto+" "+netip.AddrPortFrom(r.Host, r.HostPort).String()+" "+r.Task.String())
	}
	want := `tcp 0.0.0.0:8080 10.209.0.7:80
tcp [::]:8080 [fd00::7]:80
udp 192.0.2.1:53 10.209.0.7:5353
tcp [2001:db8::1]:443 [fd00::7]:8443`
	if s := strings.Join(got, "\n"); s != want {
		t.Error(s)
	}
}
