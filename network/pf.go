package network

import (
	"fmt"
	"strings"
)

// pfHostAnchor has what all tasks share. It comes before every task's anchor,
// because pf goes through anchors in the order of their names.
const pfHostAnchor = "host"

// pfPublished tags packets that come by a published port, until they are out.
const pfPublished = "nomad-jail-published"

// pfGroup is an interface group: the bridge and the host's end of every pair.
const pfGroup = "nomad-jail"

// pfAnchor is where a task's rules are.
func (n *Network) pfAnchor(sub string) string { return n.Anchor + "/" + sub }

// pfHostRules leads the jails out by the uplinks, each with its own address,
// and lets other hosts reach nothing of a jail but its published ports.
func (n *Network) pfHostRules(uplinks []string) string {
	var nat, filter strings.Builder
	for _, f := range n.pfFamilies() {
		for _, uplink := range uplinks {
			fmt.Fprintf(&nat, "nat on %s %s from %s to ! %s -> (%s:0)\n", uplink, f.af, f.subnet, f.subnet, uplink)
		}
		// A jail that reaches a jail by a port of the host must get its
		// answers the same way.
		fmt.Fprintf(&nat, "nat on %s %s from %s to %s tagged %s -> %s\n", n.Bridge, f.af, f.subnet, f.subnet, pfPublished, f.gateway)
	}
	// A jail speaks for itself only.
	fmt.Fprintf(&filter, "block drop in quick on %s inet from ! %s to any\n", n.Bridge, n.Subnet)
	fmt.Fprintf(&filter, "pass in quick on %s inet6 proto icmp6 from { fe80::/10, :: } to any\n", n.Bridge)
	if n.Subnet6.IsValid() {
		fmt.Fprintf(&filter, "block drop in quick on %s inet6 from ! %s to any\n", n.Bridge, n.Subnet6)
	} else {
		fmt.Fprintf(&filter, "block drop in quick on %s inet6 all\n", n.Bridge)
	}
	for _, f := range n.pfFamilies() {
		fmt.Fprintf(&filter, "block drop in quick on ! %s %s from any to %s ! tagged %s\n", pfGroup, f.af, f.subnet, pfPublished)
	}
	return nat.String() + filter.String()
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
func (n *Network) pfTaskRules(name string, a Attachment, rs []redirect) string {
	var rdr, filter strings.Builder
	for _, r := range rs {
		host := "(self)"
		if !r.Host.IsUnspecified() {
			host = r.Host.String()
		}
		af, task := "inet", r.Task.Addr()
		if task.Is6() {
			af = "inet6"
		}
		fmt.Fprintf(&rdr, "rdr %s proto %s from any to %s port %d tag %s -> %s port %d\n", af, r.Proto, host, r.HostPort, pfPublished, task, r.Task.Port())
		fmt.Fprintf(&filter, "pass in quick %s proto %s from any to %s port %d tagged %s label %q\n", af, r.Proto, task, r.Task.Port(), pfPublished, name)
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
