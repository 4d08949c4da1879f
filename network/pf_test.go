package network

import (
	"net/netip"
	"slices"
	"testing"
)

func TestPfHostRules(t *testing.T) {
	for name, c := range map[string]struct {
		subnet6 netip.Prefix
		uplinks []uplink
		want    string
	}{
		"IPv4, two uplinks": {
			netip.Prefix{}, []uplink{{Name: "lagg0", IPv4: true}, {Name: "vtnet0", IPv4: true, IPv6: netip.MustParseAddr("2001:db8::1")}},
			`table <jails> const { 10.209.0.0/16, ! 10.209.0.1 }
nat on lagg0 inet from 10.209.0.0/16 to ! 10.209.0.0/16 -> (lagg0:0)
nat on vtnet0 inet from 10.209.0.0/16 to ! 10.209.0.0/16 -> (vtnet0:0)
nat on njail0 inet from 10.209.0.0/16 to 10.209.0.0/16 tagged nomad-jail-published -> 10.209.0.1
block drop in quick on njail0 inet from ! 10.209.0.0/16 to any
pass in quick on njail0 inet6 proto icmp6 from { fe80::/10, :: } to any
block drop in quick on njail0 inet6 all
block drop in quick on ! nomad-jail inet from any to <jails> ! tagged nomad-jail-published
`,
		},
		"IPv4 and IPv6": {
			netip.MustParsePrefix("fd12::/64"), []uplink{{Name: "vtnet0", IPv4: true, IPv6: netip.MustParseAddr("2001:db8::1")}, {Name: "wg0", IPv6: netip.MustParseAddr("2001:db8:1::1")}},
			`table <jails> const { 10.209.0.0/16, ! 10.209.0.1 fd12::/64, ! fd12::1 }
nat on vtnet0 inet from 10.209.0.0/16 to ! 10.209.0.0/16 -> (vtnet0:0)
nat on vtnet0 inet6 from fd12::/64 to ! fd12::/64 -> 2001:db8::1
nat on wg0 inet6 from fd12::/64 to ! fd12::/64 -> 2001:db8:1::1
nat on njail0 inet from 10.209.0.0/16 to 10.209.0.0/16 tagged nomad-jail-published -> 10.209.0.1
nat on njail0 inet6 from fd12::/64 to fd12::/64 tagged nomad-jail-published -> fd12::1
block drop in quick on njail0 inet from ! 10.209.0.0/16 to any
pass in quick on njail0 inet6 proto icmp6 from { fe80::/10, :: } to any
block drop in quick on njail0 inet6 from ! fd12::/64 to any
block drop in quick on ! nomad-jail inet from any to <jails> ! tagged nomad-jail-published
block drop in quick on ! nomad-jail inet6 from any to <jails> ! tagged nomad-jail-published
`,
		},
	} {
		n := newTestNetwork(t, func(cfg *Config) { cfg.Subnet6 = c.subnet6 })
		if got := n.pfHostRules(c.uplinks); got != c.want {
			t.Errorf("%s:\n%s\nwant:\n%s", name, got, c.want)
		}
	}
}

func TestPfTaskRules(t *testing.T) {
	v4 := Attachment{Interface: hostEnd(taskN(1)), IPv4: netip.MustParseAddr("10.209.0.7")}
	both := Attachment{Interface: v4.Interface, IPv4: v4.IPv4, IPv6: netip.MustParseAddr("fd12::7")}
	shared := Attachment{Interface: hostEnd(taskN(2)), IPv4: v4.IPv4}
	for name, c := range map[string]struct {
		a     Attachment
		ports []PortMap
		want  string
	}{
		"no ports": {
			v4, nil,
			`pass in quick on nomad-jail inet from 10.209.0.7 to any ! tagged nomad-jail-published tag nj000000000001 label "nj000000000001"
pass out quick on nomad-jail inet from any to 10.209.0.7 label "nj000000000001"
pass out quick inet from any to any tagged nj000000000001 label "nj000000000001"
`,
		},
		"for the host alone": {
			shared, []PortMap{port("tcp", "127.0.0.1", 8080, 80)}, "",
		},
		"another's network": {
			shared, []PortMap{port("tcp", "", 8080, 80)},
			`rdr on ! lo0 inet proto tcp from any to (self) port 8080 tag nomad-jail-published -> 10.209.0.7 port 80
pass in quick inet proto tcp from any to 10.209.0.7 port 80 tagged nomad-jail-published label "nj000000000001"
`,
		},
		"IPv4 and IPv6": {
			both, []PortMap{port("tcp", "", 8080, 80), port("udp", "192.0.2.1", 53, 5353)},
			`rdr on ! lo0 inet proto tcp from any to (self) port 8080 tag nomad-jail-published -> 10.209.0.7 port 80
rdr on ! lo0 inet6 proto tcp from any to (self) port 8080 tag nomad-jail-published -> fd12::7 port 80
rdr on ! lo0 inet proto udp from any to 192.0.2.1 port 53 tag nomad-jail-published -> 10.209.0.7 port 5353
pass in quick inet proto tcp from any to 10.209.0.7 port 80 tagged nomad-jail-published label "nj000000000001"
pass in quick inet6 proto tcp from any to fd12::7 port 80 tagged nomad-jail-published label "nj000000000001"
pass in quick inet proto udp from any to 10.209.0.7 port 5353 tagged nomad-jail-published label "nj000000000001"
pass in quick on nomad-jail inet from 10.209.0.7 to any ! tagged nomad-jail-published tag nj000000000001 label "nj000000000001"
pass out quick on nomad-jail inet from any to 10.209.0.7 label "nj000000000001"
pass out quick inet from any to any tagged nj000000000001 label "nj000000000001"
pass in quick on nomad-jail inet6 from fd12::7 to any ! tagged nomad-jail-published tag nj000000000001 label "nj000000000001"
pass out quick on nomad-jail inet6 from any to fd12::7 label "nj000000000001"
pass out quick inet6 from any to any tagged nj000000000001 label "nj000000000001"
`,
		},
	} {
		n := newTestNetwork(t, nil)
		if got := n.pfTaskRules(taskN(1), c.a, redirects(c.a, c.ports)); got != c.want {
			t.Errorf("%s:\n%s\nwant:\n%s", name, got, c.want)
		}
	}
}

func TestPfAnchorError(t *testing.T) {
	n := newTestNetwork(t, nil)
	const (
		nat    = "nat-anchor \"nomad-driver-jail/*\" all\n"
		rdr    = "rdr-anchor \"nomad-driver-jail/*\" all\n"
		filter = "pass all flags S/SA keep state\nanchor \"nomad-driver-jail/*\" all\n"
	)
	if err := n.pfAnchorError(nat + rdr + filter); err != nil {
		t.Error(err)
	}
	wantError(t, n.pfAnchorError("nat-anchor \"other/*\" all\n"+nat+filter),
		"pf does not call this driver's anchors: add to /etc/pf.conf, translation before filter rules, the lines `rdr-anchor \"nomad-driver-jail/*\"`, and run `service pf reload`")
	wantError(t, n.pfAnchorError(""),
		"pf does not call this driver's anchors: add to /etc/pf.conf, translation before filter rules, the lines `nat-anchor \"nomad-driver-jail/*\"`, `rdr-anchor \"nomad-driver-jail/*\"`, `anchor \"nomad-driver-jail/*\"`, and run `service pf reload`")
}

func TestPfTasks(t *testing.T) {
	n := newTestNetwork(t, nil)
	got := n.pfTasks("  nomad-driver-jail/host-njail0\n  nomad-driver-jail/nj000000000001\n  nomad-driver-jail/nj000000000002\n")
	if want := []string{taskN(1), taskN(2)}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestUplinks(t *testing.T) {
	n := newTestNetwork(t, nil)
	got := n.uplinks([]inUse{
		{"vtnet0", netip.MustParsePrefix("fe80::1/64"), false},
		{"vtnet0", netip.MustParsePrefix("192.0.2.1/24"), false},
		{"vtnet0", netip.MustParsePrefix("2001:db8::1/64"), false},
		{"vtnet0", netip.MustParsePrefix("2001:db8::2/64"), false},
		{"lo0", netip.MustParsePrefix("127.0.0.1/8"), false},
		{"njail0", netip.MustParsePrefix("10.209.0.1/16"), false},
		{"vtnet0", netip.MustParsePrefix("198.51.100.0/24"), true},
		{"wg0", netip.MustParsePrefix("2001:db8:1::1/64"), false},
	})
	want := []uplink{{"vtnet0", true, netip.MustParseAddr("2001:db8::1")}, {"wg0", false, netip.MustParseAddr("2001:db8:1::1")}}
	if !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}
