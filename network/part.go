package network

import (
	"errors"
	"fmt"
	"strings"
)

// Part is one thing that networking needs of its host.
type Part struct {
	Name string
	Err  error // what is wrong with it, and the way out
}

// The parts that a host can lack; each kind of host has those that it needs.
const (
	partVNET       = "vnet"
	partForwarding = "forwarding"
	partBridge     = "bridge"
	partSubnet     = "subnet"
	partPf         = "pf"
	partAnchors    = "pf_anchors"
	partNftables   = "nftables"
)

// Fault is an error of Prepare, about one of the parts that Check looks at.
type Fault struct {
	Part string
	error
}

func (f *Fault) Unwrap() error { return f.error }

// about is nil for a nil error.
func about(part string, err error) error {
	if err == nil {
		return nil
	}
	return &Fault{part, err}
}

// privileged refuses all users but root.
func privileged(uid int) error {
	if uid != 0 {
		return errors.New("networking needs root: run the Nomad client as root")
	}
	return nil
}

// vnetError is for what sysctl says of kern.features.vimage, which a kernel
// without VNET does not know.
func vnetError(vimage uint32, err error) error {
	if err != nil || vimage != 1 {
		return errors.New("the kernel has no VNET: run a GENERIC kernel, or build one with `options VIMAGE`")
	}
	return nil
}

// forwardingError asks sysctl, and names all lines that /etc/rc.conf lacks.
func (n *Network) forwardingError(sysctl func(string) (uint32, error)) error {
	switches := []struct{ name, rcVar string }{{"net.inet.ip.forwarding", "gateway_enable"}}
	if n.Subnet6.IsValid() {
		switches = append(switches, struct{ name, rcVar string }{"net.inet6.ip6.forwarding", "ipv6_gateway_enable"})
	}
	var lines, settings []string
	for _, s := range switches {
		v, err := sysctl(s.name)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if v != 1 {
			lines = append(lines, s.rcVar+`="YES"`)
			settings = append(settings, s.name+"=1")
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return fmt.Errorf("the host does not forward packets for its jails: add %s to /etc/rc.conf and run `sysctl %s`",
		strings.Join(lines, " and "), strings.Join(settings, " "))
}
