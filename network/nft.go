package network

import (
	"fmt"
	"strings"
	"text/template"
)

// The maps lead a protocol, the host's address (absent where all are meant)
// and port to a task's address and port. Each element's comment is the task.
const (
	mapAny4 = "any4"
	mapOne4 = "one4"
	mapAny6 = "any6"
	mapOne6 = "one6"
)

// nftRules is what all tasks share, for nft(8). Loading it again replaces the
// rules in one transaction and leaves the maps' elements alone.
func (n *Network) nftRules() string {
	var b strings.Builder
	if err := nftTemplate.Execute(&b, n.Config); err != nil {
		panic(err) // the template and Config do not fit together
	}
	return b.String()
}

var nftTemplate = template.Must(template.New("nft").Parse(`
{{- $t := .Anchor -}}
add table inet {{$t}}
add map inet {{$t}} any4 { type inet_proto . inet_service : ipv4_addr . inet_service; }
add map inet {{$t}} one4 { type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service; }
add map inet {{$t}} any6 { type inet_proto . inet_service : ipv6_addr . inet_service; }
add map inet {{$t}} one6 { type inet_proto . ipv6_addr . inet_service : ipv6_addr . inet_service; }
add chain inet {{$t}} guard { type filter hook prerouting priority raw; }
add chain inet {{$t}} publish
add chain inet {{$t}} prerouting { type nat hook prerouting priority dstnat; }
add chain inet {{$t}} output { type nat hook output priority -100; }
add chain inet {{$t}} postrouting { type nat hook postrouting priority srcnat; }
add chain inet {{$t}} forward { type filter hook forward priority filter; }
flush chain inet {{$t}} guard
flush chain inet {{$t}} publish
flush chain inet {{$t}} prerouting
flush chain inet {{$t}} output
flush chain inet {{$t}} postrouting
flush chain inet {{$t}} forward
table inet {{$t}} {
	# A jail speaks for itself only, and not to the host's loopback, which
	# route_localnet would let it reach.
	chain guard {
		iifname "{{.Bridge}}" ip saddr != {{.Subnet}} drop
		iifname "{{.Bridge}}" ip daddr 127.0.0.0/8 drop
		iifname "{{.Bridge}}" ip6 saddr != { fe80::/10, ::{{if .Subnet6.IsValid}}, {{.Subnet6}}{{end}} } drop
	}
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
		ip saddr {{.Subnet}} oifname != "{{.Bridge}}" masquerade
		ip saddr { {{.Subnet}}, 127.0.0.0/8 } oifname "{{.Bridge}}" ct status dnat masquerade
{{- if .Subnet6.IsValid}}
		ip6 saddr {{.Subnet6}} oifname != "{{.Bridge}}" masquerade
		ip6 saddr { {{.Subnet6}}, ::1 } oifname "{{.Bridge}}" ct status dnat masquerade
{{- end}}
	}
	# Other hosts get at a jail's published ports and at nothing else of it.
	chain forward {
		iifname "{{.Bridge}}" accept
		oifname "{{.Bridge}}" ct status dnat accept
		oifname "{{.Bridge}}" ct state established,related accept
		oifname "{{.Bridge}}" drop
	}
}
`))

// element is an entry of one of the maps, in the kernel's encoding: the parts
// of a concatenation one after the other, each padded to four bytes.
type element struct {
	Map      string
	Key, Val []byte
}

var protocolNumbers = map[string]uint8{"tcp": 6, "udp": 17}

func nftElement(r redirect) (element, error) {
	proto := protocolNumbers[r.Proto]
	if proto == 0 {
		return element{}, fmt.Errorf("protocol %q has no number", r.Proto)
	}
	e := element{Map: mapName(r), Key: []byte{proto, 0, 0, 0}}
	if !r.Host.IsUnspecified() {
		e.Key = append(e.Key, r.Host.AsSlice()...)
	}
	e.Key = appendPort(e.Key, r.HostPort)
	e.Val = appendPort(r.Task.Addr().AsSlice(), r.Task.Port())
	return e, nil
}

func mapName(r redirect) string {
	switch {
	case r.Host.Is4() && r.Host.IsUnspecified():
		return mapAny4
	case r.Host.Is4():
		return mapOne4
	case r.Host.IsUnspecified():
		return mapAny6
	}
	return mapOne6
}

func appendPort(b []byte, port uint16) []byte {
	return append(b, byte(port>>8), byte(port), 0, 0)
}
