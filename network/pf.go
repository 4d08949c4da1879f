package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// pfPublished tags packets that come by a published port, until they are out.
const pfPublished = "nomad-jail-published"

// pfGroup is an interface group: the bridge and the host's end of every pair.
const pfGroup = "nomad-jail"

// pfTable has the jails' addresses: the subnets without the host's own.
const pfTable = "jails"

// uplink is an interface by which jails can reach other hosts.
type uplink struct {
	Name string
	IPv4 bool
	IPv6 netip.Addr // zero: none
}

// uplinks are all interfaces with an address that other hosts can answer.
func (n *Network) uplinks(uses []inUse) []uplink {
	var ups []uplink
	for _, u := range uses {
		a := u.Prefix.Addr()
		if u.Route || u.Interface == n.Bridge || a.IsLoopback() || a.IsLinkLocalUnicast() {
			continue
		}
		i := slices.IndexFunc(ups, func(up uplink) bool { return up.Name == u.Interface })
		if i < 0 {
			i = len(ups)
			ups = append(ups, uplink{Name: u.Interface})
		}
		if a.Is4() {
			ups[i].IPv4 = true
		} else if !ups[i].IPv6.IsValid() {
			ups[i].IPv6 = a
		}
	}
	return ups
}

// pfHostRules leads the jails out by the uplinks, each with its own address,
// and lets other hosts reach nothing of a jail but its published ports.
func (n *Network) pfHostRules(uplinks []uplink) string {
	var b strings.Builder
	fmt.Fprintf(&b, "table <%s> const {", pfTable)
	for _, f := range n.pfFamilies() {
		fmt.Fprintf(&b, " %s, ! %s", f.subnet, f.gateway)
	}
	b.WriteString(" }\n")
	for _, up := range uplinks {
		if up.IPv4 {
			fmt.Fprintf(&b, "nat on %s inet from %s to ! %s -> (%s:0)\n", up.Name, n.Subnet, n.Subnet, up.Name)
		}
		// By its name, pf would take an interface's link-local address.
		if up.IPv6.IsValid() && n.Subnet6.IsValid() {
			fmt.Fprintf(&b, "nat on %s inet6 from %s to ! %s -> %s\n", up.Name, n.Subnet6, n.Subnet6, up.IPv6)
		}
	}
	// A jail that reaches a jail by a port of the host must get its answers
	// the same way.
	for _, f := range n.pfFamilies() {
		fmt.Fprintf(&b, "nat on %s %s from %s to %s tagged %s -> %s\n", n.Bridge, f.af, f.subnet, f.subnet, pfPublished, f.gateway)
	}
	// A jail speaks for itself only.
	fmt.Fprintf(&b, "block drop in quick on %s inet from ! %s to any\n", n.Bridge, n.Subnet)
	fmt.Fprintf(&b, "pass in quick on %s inet6 proto icmp6 from { fe80::/10, :: } to any\n", n.Bridge)
	if n.Subnet6.IsValid() {
		fmt.Fprintf(&b, "block drop in quick on %s inet6 from ! %s to any\n", n.Bridge, n.Subnet6)
	} else {
		fmt.Fprintf(&b, "block drop in quick on %s inet6 all\n", n.Bridge)
	}
	for _, f := range n.pfFamilies() {
		fmt.Fprintf(&b, "block drop in quick on ! %s %s from any to <%s> ! tagged %s\n", pfGroup, f.af, pfTable, pfPublished)
	}
	return b.String()
}

type pfFamily struct{ af, subnet, gateway string }

func (n *Network) pfFamilies() []pfFamily {
	families := []pfFamily{{"inet", n.Subnet.String(), n.plan.gateway().String()}}
	if n.Subnet6.IsValid() {
		families = append(families, pfFamily{"inet6", n.Subnet6.String(), n.plan.gateway6().String()})
	}
	return families
}

// pfTaskRules lets a task's traffic through and redirects its ports. Every
// state that they make has the task's name as label, by which it is ended.
// What the host says to itself goes by lo0, where a redirection leads nowhere:
// that is package forward's. A task that shares a network has its ports only.
func (n *Network) pfTaskRules(name string, a Attachment, rs []redirect) string {
	var rdr, filter strings.Builder
	for _, r := range rs {
		if r.Host.IsLoopback() {
			continue // comes by lo0 only
		}
		host := "(self)"
		if !r.Host.IsUnspecified() {
			host = r.Host.String()
		}
		af, task := "inet", r.Task.Addr()
		if task.Is6() {
			af = "inet6"
		}
		fmt.Fprintf(&rdr, "rdr on ! lo0 %s proto %s from any to %s port %d tag %s -> %s port %d\n", af, r.Proto, host, r.HostPort, pfPublished, task, r.Task.Port())
		fmt.Fprintf(&filter, "pass in quick %s proto %s from any to %s port %d tagged %s label %q\n", af, r.Proto, task, r.Task.Port(), pfPublished, name)
	}
	if a.shares(name) {
		return rdr.String() + filter.String()
	}
	addresses := []struct{ af, ip string }{{"inet", a.IPv4.String()}}
	if a.IPv6.IsValid() {
		addresses = append(addresses, struct{ af, ip string }{"inet6", a.IPv6.String()})
	}
	for _, own := range addresses {
		fmt.Fprintf(&filter, "pass in quick on %s %s from %s to any ! tagged %s tag %s label %q\n", pfGroup, own.af, own.ip, pfPublished, name, name)
		fmt.Fprintf(&filter, "pass out quick on %s %s from any to %s label %q\n", pfGroup, own.af, own.ip, name)
		fmt.Fprintf(&filter, "pass out quick %s from any to any tagged %s label %q\n", own.af, name, name)
	}
	return rdr.String() + filter.String()
}

func pfLoadedError(loaded bool) error {
	if !loaded {
		return errors.New("pf is not loaded: add pf_enable=\"YES\" to /etc/rc.conf and run `service pf start`; " +
			"only then it can be seen whether /etc/pf.conf calls this driver's anchors")
	}
	return nil
}

// pfEnabledError is for what pfctl -s info says.
func pfEnabledError(info string) error {
	if !strings.Contains(info, "Status: Enabled") {
		return errors.New("pf is not enabled: add pf_enable=\"YES\" to /etc/rc.conf and run `service pf start`")
	}
	return nil
}

// pfMissingLines tells which lines /etc/pf.conf lacks, from the output of
// pfctl -s nat and pfctl -s rules.
func (n *Network) pfMissingLines(loaded string) []string {
	var missing []string
	for _, kind := range []string{"nat-anchor", "rdr-anchor", "anchor"} {
		line := fmt.Sprintf("%s %q", kind, n.Anchor+"/*")
		calls := false
		for l := range strings.Lines(loaded) {
			calls = calls || strings.HasPrefix(l, line)
		}
		if !calls {
			missing = append(missing, line)
		}
	}
	return missing
}

// pfAnchorError is nil when pf's main ruleset calls our anchors.
func (n *Network) pfAnchorError(loaded string) error {
	missing := n.pfMissingLines(loaded)
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("pf does not call this driver's anchors: add to /etc/pf.conf, translation before filter rules, the lines `%s`, and run `service pf reload`",
		strings.Join(missing, "`, `"))
}

// pfTasks names the tasks that have an anchor, from pfctl -v -s Anchors.
func (n *Network) pfTasks(anchors string) []string {
	var names []string
	for l := range strings.Lines(anchors) {
		name, ours := strings.CutPrefix(strings.TrimSpace(l), n.Anchor+"/")
		if ours && taskName.MatchString(name) {
			names = append(names, name)
		}
	}
	return names
}
