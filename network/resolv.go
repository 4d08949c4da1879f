package network

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// DNS is a jobspec's dns block. What it leaves empty comes from the host.
type DNS struct {
	Servers, Searches, Options []string
}

// HostResolvConf reads the host's resolver configuration. Where that only
// leads to systemd-resolved's own address, it is what systemd-resolved asks.
func HostResolvConf() ([]byte, error) {
	const stub = "127.0.0.53"
	conf, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil, err
	}
	if servers := parseResolvConf(conf).Servers; len(servers) == 1 && servers[0] == stub {
		if upstream, err := os.ReadFile("/run/systemd/resolve/resolv.conf"); err == nil {
			return upstream, nil
		}
	}
	return conf, nil
}

// ResolvConf is a jail's /etc/resolv.conf, made from the host's and the
// jobspec's. A resolver of the host's at a loopback or link-local address
// cannot be reached from a jail's own network stack and is left out; when none
// remains, the file says so in a comment and names no other: a task's
// questions are not sent to a stranger unasked. What the jobspec names is
// written as it is.
func ResolvConf(host []byte, dns *DNS) []byte {
	conf := parseResolvConf(host)
	var unreachable []string
	conf.Servers = slices.DeleteFunc(conf.Servers, func(s string) bool {
		if reachable(s) {
			return false
		}
		unreachable = append(unreachable, s)
		return true
	})
	if dns != nil {
		conf.override(*dns)
	}
	var b bytes.Buffer
	if len(conf.Servers) == 0 && len(unreachable) > 0 {
		fmt.Fprintf(&b, "# The host's resolver %s cannot be reached from a jail.\n"+
			"# Name one in the job's dns block, or let the host's listen on the jails' gateway.\n", strings.Join(unreachable, ", "))
	}
	if len(conf.Searches) > 0 && !slices.Equal(conf.Searches, []string{"."}) {
		fmt.Fprintf(&b, "search %s\n", strings.Join(conf.Searches, " "))
	}
	for _, s := range conf.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(conf.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(conf.Options, " "))
	}
	return b.Bytes()
}

func (d *DNS) override(by DNS) {
	if len(by.Servers) > 0 {
		d.Servers = by.Servers
	}
	if len(by.Searches) > 0 {
		d.Searches = by.Searches
	}
	if len(by.Options) > 0 {
		d.Options = by.Options
	}
}

// parseResolvConf follows resolver(5): of several search or domain lines the
// last one counts.
func parseResolvConf(b []byte) DNS {
	var d DNS
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			d.Servers = append(d.Servers, f[1])
		case "search", "domain":
			d.Searches = f[1:]
		case "options":
			d.Options = append(d.Options, f[1:]...)
		}
	}
	return d
}

func reachable(server string) bool {
	a, err := netip.ParseAddr(server)
	return err == nil && !a.IsLoopback() && !a.IsUnspecified() && !a.IsLinkLocalUnicast()
}

// Hosts is a jail's /etc/hosts. Each of extra is NAME:ADDRESS, as docker and
// pot spell it, where the address host-gateway means the host. A jail without
// an attachment (the host's network) has its own name at 127.0.0.1.
func Hosts(hostname string, a Attachment, extra []string) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost\n")
	if !validHostname(hostname) || len(hostname) > MaxHostname {
		return nil, fmt.Errorf("hostname %q: only letters, digits, dots, - and _ are possible, at most %d", hostname, MaxHostname)
	}
	own := []netip.Addr{a.IPv4, a.IPv6}
	if !a.IPv4.IsValid() {
		own = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	for _, ip := range own {
		if ip.IsValid() {
			fmt.Fprintf(&b, "%s\t%s\n", ip, hostname)
		}
	}
	for _, e := range extra {
		name, ip, err := parseExtraHost(e, a)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%s\t%s\n", ip, name)
	}
	return b.Bytes(), nil
}

func parseExtraHost(s string, a Attachment) (string, netip.Addr, error) {
	name, addr, ok := strings.Cut(s, ":")
	if !ok || !validHostname(name) {
		return "", netip.Addr{}, fmt.Errorf("extra_hosts %q: want name:address, such as db:192.0.2.10", s)
	}
	if addr == "host-gateway" {
		if !a.Gateway.IsValid() {
			return "", netip.Addr{}, fmt.Errorf("extra_hosts %q: only a task on the bridge has a gateway; on the host's network use 127.0.0.1", s)
		}
		return name, a.Gateway, nil
	}
	ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(addr, "["), "]"))
	if err != nil {
		return "", netip.Addr{}, fmt.Errorf("extra_hosts %q: %q is not an IP address", s, addr)
	}
	return name, ip, nil
}

// HostnameChars are what a jail's host name is made of, and MaxHostname is how many bytes it has at most.
const (
	HostnameChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
	MaxHostname   = 63
)

func validHostname(s string) bool { return s != "" && strings.Trim(s, HostnameChars) == "" }
