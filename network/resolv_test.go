package network

import (
	"net/netip"
	"testing"
)

func TestResolvConf(t *testing.T) {
	for name, c := range map[string]struct {
		host string
		dns  *DNS
		want string
	}{
		"the host's": {
			"# made by resolvconf\nsearch example.org corp.example\nnameserver 192.0.2.53\nnameserver 2001:db8::53\noptions edns0 ndots:2\n", nil,
			"search example.org corp.example\nnameserver 192.0.2.53\nnameserver 2001:db8::53\noptions edns0 ndots:2\n",
		},
		"the last search counts": {"domain a.example\nsearch b.example\nnameserver 192.0.2.53\n", nil, "search b.example\nnameserver 192.0.2.53\n"},
		"a local one among others": {
			"nameserver 127.0.0.1\nnameserver 192.0.2.53\nnameserver fe80::1%vtnet0\nnameserver ::1\n", nil,
			"nameserver 192.0.2.53\n",
		},
		"only local ones": {
			"search example.org\nnameserver 127.0.0.1\nnameserver ::1\n", nil,
			"# The host's resolver 127.0.0.1, ::1 cannot be reached from a jail.\n# Name one in the job's dns block, or let the host's listen on the jails' gateway.\nsearch example.org\n",
		},
		"the job's servers, the host's search": {
			"search example.org\nnameserver 127.0.0.1\noptions ndots:1\n", &DNS{Servers: []string{"9.9.9.9"}},
			"search example.org\nnameserver 9.9.9.9\noptions ndots:1\n",
		},
		"the job's own loopback resolver": {"nameserver 192.0.2.53\n", &DNS{Servers: []string{"127.0.0.1"}}, "nameserver 127.0.0.1\n"},
		"all from the job": {
			"search example.org\nnameserver 192.0.2.53\n",
			&DNS{Servers: []string{"10.0.0.1", "10.0.0.2"}, Searches: []string{"a.example", "b.example"}, Options: []string{"ndots:5", "rotate"}},
			"search a.example b.example\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:5 rotate\n",
		},
		"no search at all": {"search example.org\nnameserver 192.0.2.53\n", &DNS{Searches: []string{"."}}, "nameserver 192.0.2.53\n"},
		"an empty block":   {"nameserver 192.0.2.53\n", &DNS{}, "nameserver 192.0.2.53\n"},
		"nothing":          {"", nil, ""},
	} {
		if got := string(ResolvConf([]byte(c.host), c.dns)); got != c.want {
			t.Errorf("%s:\n%s\nwant:\n%s", name, got, c.want)
		}
	}
}

func TestHosts(t *testing.T) {
	a := Attachment{IPv4: netip.MustParseAddr("10.209.0.7"), IPv6: netip.MustParseAddr("fd00::7"), Gateway: netip.MustParseAddr("10.209.0.1")}
	const local = "127.0.0.1\tlocalhost\n::1\tlocalhost\n"
	for name, c := range map[string]struct {
		hostname string
		a        Attachment
		extra    []string
		want     string
		refused  string
	}{
		"own stack":      {hostname: "web", a: a, want: local + "10.209.0.7\tweb\nfd00::7\tweb\n"},
		"host's network": {hostname: "web", want: local + "127.0.0.1\tweb\n"},
		"extra": {
			hostname: "web", a: Attachment{IPv4: a.IPv4, Gateway: a.Gateway},
			extra: []string{"db:192.0.2.10", "six:2001:db8::1", "six2:[2001:db8::2]", "host.internal:host-gateway"},
			want:  local + "10.209.0.7\tweb\n192.0.2.10\tdb\n2001:db8::1\tsix\n2001:db8::2\tsix2\n10.209.0.1\thost.internal\n",
		},
		"bad hostname": {hostname: "a b", refused: `hostname "a b": only letters, digits, dots, - and _ are possible, at most 63`},
		"no colon":     {hostname: "web", extra: []string{"db"}, refused: `extra_hosts "db": want name:address, such as db:192.0.2.10`},
		"a line feed":  {hostname: "web", extra: []string{"db\n1.2.3.4 x:192.0.2.10"}, refused: `extra_hosts "db\n1.2.3.4 x:192.0.2.10": want name:address, such as db:192.0.2.10`},
		"bad address":  {hostname: "web", extra: []string{"db:192.0.2"}, refused: `extra_hosts "db:192.0.2": "192.0.2" is not an IP address`},
		"no gateway":   {hostname: "web", extra: []string{"h:host-gateway"}, refused: `extra_hosts "h:host-gateway": only a task on the bridge has a gateway; on the host's network use 127.0.0.1`},
	} {
		got, err := Hosts(c.hostname, c.a, c.extra)
		if err != nil || c.refused != "" {
			wantError(t, err, c.refused)
			continue
		}
		if string(got) != c.want {
			t.Errorf("%s:\n%s\nwant:\n%s", name, got, c.want)
		}
	}
}
