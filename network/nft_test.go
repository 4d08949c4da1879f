package network

import (
	"encoding/hex"
	"net/netip"
	"testing"
)

func TestNftRules(t *testing.T) {
	const head = `add table inet nomad-driver-jail
add map inet nomad-driver-jail any4 { type inet_proto . inet_service : ipv4_addr . inet_service; }
add map inet nomad-driver-jail one4 { type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service; }
add map inet nomad-driver-jail any6 { type inet_proto . inet_service : ipv6_addr . inet_service; }
add map inet nomad-driver-jail one6 { type inet_proto . ipv6_addr . inet_service : ipv6_addr . inet_service; }
add chain inet nomad-driver-jail guard { type filter hook prerouting priority raw; }
add chain inet nomad-driver-jail publish
add chain inet nomad-driver-jail prerouting { type nat hook prerouting priority dstnat; }
add chain inet nomad-driver-jail output { type nat hook output priority -100; }
add chain inet nomad-driver-jail postrouting { type nat hook postrouting priority srcnat; }
add chain inet nomad-driver-jail forward { type filter hook forward priority filter; }
flush chain inet nomad-driver-jail guard
flush chain inet nomad-driver-jail publish
flush chain inet nomad-driver-jail prerouting
flush chain inet nomad-driver-jail output
flush chain inet nomad-driver-jail postrouting
flush chain inet nomad-driver-jail forward
table inet nomad-driver-jail {
	# A jail speaks for itself only, and not to the host's loopback, which
	# route_localnet would let it reach.
	chain guard {
		iifname "njail0" ip saddr != 10.209.0.0/16 drop
		iifname "njail0" ip daddr 127.0.0.0/8 drop
`
	const middle = `	}
	chain publish {
		dnat ip to meta l4proto . ip daddr . th dport map @one4
		dnat ip to meta l4proto . th dport map @any4
		dnat ip6 to meta l4proto . ip6 daddr . th dport map @one6
		dnat ip6 to meta l4proto . th dport map @any6
	}
	# From other hosts and from jails. A neighbour could address a packet to
	# 127.0.0.1, and the redirection comes before the kernel's refusal.
	chain prerouting {
		ip daddr 127.0.0.0/8 return
		fib daddr type local jump publish
	}
	# From the host itself. Nothing can answer ::1 from elsewhere: there a
	# client had better be refused at once, and try 127.0.0.1.
	chain output {
		ip6 daddr ::1 return
		fib daddr type local jump publish
	}
	# A jail that reaches a jail through the host's port must get its answers
	# the same way; so must the host's 127.0.0.1.
	chain postrouting {
		ip saddr 10.209.0.0/16 oifname != "njail0" masquerade
		ip saddr { 10.209.0.0/16, 127.0.0.0/8 } oifname "njail0" ct status dnat masquerade
`
	const tail = `	}
	# Other hosts get at a jail's published ports and at nothing else of it.
	chain forward {
		iifname "njail0" accept
		oifname "njail0" ct status dnat accept
		oifname "njail0" ct state established,related accept
		oifname "njail0" drop
	}
}
`
	for name, c := range map[string]struct {
		subnet6 netip.Prefix
		want    string
	}{
		"IPv4": {
			netip.Prefix{},
			head + "\t\tiifname \"njail0\" ip6 saddr != { fe80::/10, :: } drop\n" + middle + tail,
		},
		"IPv4 and IPv6": {
			netip.MustParsePrefix("fd12::/64"),
			head + "\t\tiifname \"njail0\" ip6 saddr != { fe80::/10, ::, fd12::/64 } drop\n" + middle + `		ip6 saddr fd12::/64 oifname != "njail0" masquerade
		ip6 saddr { fd12::/64, ::1 } oifname "njail0" ct status dnat masquerade
` + tail,
		},
	} {
		n := newTestNetwork(t, func(cfg *Config) { cfg.Subnet6 = c.subnet6 })
		if got := n.nftRules(); got != c.want {
			t.Errorf("%s:\n%s\nwant:\n%s", name, got, c.want)
		}
	}
}

func TestNftElement(t *testing.T) {
	for _, c := range []struct{ proto, host, task, want string }{
		{"tcp", "0.0.0.0:8080", "10.209.0.7:80", "any4 06000000" + "1f900000" + " 0ad10007" + "00500000"},
		{"udp", "192.0.2.1:53", "10.209.0.7:5353", "one4 11000000" + "c0000201" + "00350000" + " 0ad10007" + "14e90000"},
		{"tcp", "[::]:443", "[fd00::7]:8443", "any6 06000000" + "01bb0000" + " fd000000000000000000000000000007" + "20fb0000"},
		{"tcp", "[2001:db8::1]:443", "[fd00::7]:8443", "one6 06000000" + "20010db8000000000000000000000001" + "01bb0000" + " fd000000000000000000000000000007" + "20fb0000"},
	} {
		host := netip.MustParseAddrPort(c.host)
		e, err := nftElement(redirect{c.proto, host.Addr(), host.Port(), netip.MustParseAddrPort(c.task)})
		if err != nil {
			t.Fatal(err)
		}
		if got := e.Map + " " + hex.EncodeToString(e.Key) + " " + hex.EncodeToString(e.Val); got != c.want {
			t.Errorf("%s\nwant %s", got, c.want)
		}
	}
}
