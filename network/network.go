// Package network gives a task's jail its own way to the world: an address on
// the host's bridge, an interface pair into the jail's network stack, and the
// host's ports that lead to it.
//
// Everything a task holds bears the task's name: the interface NAMEa, the
// reservations in the state folder, the pf anchor ANCHOR/NAME or the elements
// of the nftables maps. So Detach and List need nothing but the name, and work
// after a reboot, after half an Attach, and in another process.
package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"github.com/hashicorp/go-hclog"
)

// Config is what the operator decides.
type Config struct {
	// Bridge is the interface that the host's jails share. It is made when
	// missing; one that somebody else uses is refused.
	Bridge string
	// Subnet is the jails' IPv4 network. Its first address is the host's.
	Subnet netip.Prefix
	// Subnet6 is their IPv6 network, or the zero Prefix for none. A task's
	// address has the same place in both.
	Subnet6 netip.Prefix
	// StateDir is where reservations are kept; made when missing.
	StateDir string
	// Forwarder is the command line of a program that calls forward.Run with
	// the folder that is added to it. FreeBSD needs it, for what the host
	// says to its own ports; Linux does not.
	Forwarder []string
	// Anchor names the pf anchor or the nftables table, and marks the
	// interfaces that are this driver's.
	Anchor string
}

// PortMap leads a port of the host to a port of the task.
type PortMap struct {
	Label    string     // the jobspec's word for it, for error messages
	HostIP   netip.Addr // the zero or the unspecified address: all of the host's
	HostPort uint16
	TaskPort uint16
	Proto    string // "tcp" or "udp"
	// Optional has the port left out where it is taken, by another task, by
	// one before it in the request or by a process of the host's.
	Optional bool `json:"-"`
}

// Request is what a task asks for.
type Request struct {
	Name   string // "nj" and 12 hex digits
	TaskID string // Nomad's, for people who look at the interface
	Cell   string // for Attach. Linux: path of the network namespace; FreeBSD: jid in decimal
	// Within names an attached task, or what was attached for a group of
	// tasks, whose network stack this task shares. It gets no interface and
	// no address of its own, and Cell is ignored; its ports come and go with it.
	Within string
	Ports  []PortMap
}

// Attachment is what a task got.
type Attachment struct {
	Interface string     // the host's end
	IPv4      netip.Addr // on the bridge's subnet
	IPv6      netip.Addr // zero without Subnet6
	Gateway   netip.Addr // the host on the bridge
}

// Network attaches and detaches the jails of one host. Any number of
// goroutines and processes may use the same Config at once.
type Network struct {
	Config
	plan plan
	log  hclog.Logger
}

var (
	taskName      = regexp.MustCompile(`^nj[0-9a-f]{12}$`)
	interfaceName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,14}$`)
	anchorName    = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,47}$`)
)

// New checks the configuration; it does not touch the host.
func New(c Config, log hclog.Logger) (*Network, error) {
	if !interfaceName.MatchString(c.Bridge) {
		return nil, fmt.Errorf("bridge %q is not an interface name: want at most 15 lower-case letters, digits and _", c.Bridge)
	}
	if !anchorName.MatchString(c.Anchor) {
		return nil, fmt.Errorf("anchor %q: want at most 48 lower-case letters, digits, _ and -", c.Anchor)
	}
	if c.StateDir == "" {
		return nil, errors.New("network: no state folder given")
	}
	p, err := newPlan(c.Subnet, c.Subnet6)
	if err != nil {
		return nil, err
	}
	c.Subnet, c.Subnet6 = p.subnet, p.subnet6
	return &Network{Config: c, plan: p, log: log.Named("network")}, nil
}

// Prepare makes the host ready: the bridge with its address, forwarding, the
// rules that all tasks share. It changes nothing on a host that is ready, and
// puts back what was lost (a flushed ruleset) without disturbing tasks. What
// fails is a *Fault where it is about one part.
func (n *Network) Prepare(ctx context.Context) error {
	unlock, err := n.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return n.prepareHost(ctx)
}

// Check looks at what networking needs of this host, and changes nothing.
// What Prepare would make counts as there unless something keeps it from that;
// a part that cannot be seen for another's fault is left out.
func (n *Network) Check(ctx context.Context) []Part { return n.checkHost(ctx) }

// Reserve gives the name an address and leads its ports there, and makes what
// it can of its interface, for a cell that may yet have to be made. What fails leaves nothing behind. A name that holds
// something already is refused: Detach it first.
func (n *Network) Reserve(ctx context.Context, req Request) (Attachment, error) {
	if err := n.valid(req); err != nil {
		return Attachment{}, err
	}
	a, err := n.reserve(req)
	if err != nil {
		return Attachment{}, err
	}
	err = n.publish(ctx, req, a)
	if err == nil && req.Within == "" {
		err = plugged(a, n.layCable(req, a))
	}
	if err != nil {
		return Attachment{}, errors.Join(err, n.Detach(context.WithoutCancel(ctx), req.Name))
	}
	return a, nil
}

// Attach gives the cell the interface of what was reserved for the request,
// with addresses and routes. Where it fails, Detach takes away what is there.
func (n *Network) Attach(ctx context.Context, req Request, a Attachment) error {
	if req.Within != "" {
		return nil
	}
	return plugged(a, n.connect(ctx, req, a))
}

// plugged names the interface that an error is of.
func plugged(a Attachment, err error) error {
	if err != nil {
		return fmt.Errorf("interface %s: %w", a.Interface, err)
	}
	return nil
}

func (n *Network) publish(ctx context.Context, req Request, a Attachment) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var got []PortMap
	for _, p := range req.Ports {
		if p.Optional { // looked at when it was booked
			if n.has(req.Name, p) {
				got = append(got, p)
			}
			continue
		}
		if err := n.unused(p); err != nil {
			return err
		}
		got = append(got, p)
	}
	if err := n.addRules(ctx, req.Name, a, redirects(a, got)); err != nil {
		return fmt.Errorf("ports of task %s: %w", req.Name, err)
	}
	return nil
}

// Detach takes away everything that the name holds and ends its connections.
// Nothing there is fine.
func (n *Network) Detach(ctx context.Context, name string) error {
	if !taskName.MatchString(name) {
		return badName(name)
	}
	a, _, err := n.reservation(name)
	if err != nil {
		return err
	}
	// An interface that cannot go yet does not keep the ports.
	unplugged := n.disconnect(ctx, name)
	if unplugged != nil {
		unplugged = fmt.Errorf("interface %s: %w", hostEnd(name), unplugged)
	}
	if err := errors.Join(unplugged, n.unpublish(ctx, name, a)); err != nil {
		return err
	}
	return n.releaseAddress(name)
}

func (n *Network) unpublish(ctx context.Context, name string, a Attachment) error {
	ports, err := n.booked(name)
	if err != nil {
		return err
	}
	if err := n.removeRules(ctx, name, a, ports); err != nil {
		return fmt.Errorf("ports of task %s: %w", name, err)
	}
	return n.releasePorts(name)
}

// Find tells what the named task holds, and false when it has no interface
// (any more): never attached, detached, or the jail or the host went down.
func (n *Network) Find(name string) (Attachment, bool, error) {
	if !taskName.MatchString(name) {
		return Attachment{}, false, badName(name)
	}
	a, reserved, err := n.reservation(name)
	if err != nil || !reserved {
		return Attachment{}, false, err
	}
	up, err := n.connected(n.holder(name))
	if err != nil || !up {
		return Attachment{}, false, err
	}
	return a, true, nil
}

// List names every task that holds anything here, whole or in part, sorted.
func (n *Network) List(ctx context.Context) ([]string, error) {
	names, err := n.reservedNames()
	if err != nil {
		return nil, err
	}
	held, err := n.hostNames(ctx)
	if err != nil {
		return nil, err
	}
	names = append(names, held...)
	slices.Sort(names)
	return slices.Compact(names), nil
}

// shares tells whether the task uses another's interface.
func (a Attachment) shares(name string) bool { return a.Interface != hostEnd(name) }

func badName(name string) error {
	return fmt.Errorf("task name %q: want nj and 12 hexadecimal digits", name)
}

// Both ends' names say whose they are: NAME and a or b, 15 bytes, which is
// as long as an interface name can be.
func hostEnd(name string) string { return name + "a" }

// taskOf is hostEnd backwards.
func taskOf(iface string) (string, bool) {
	name, ok := trimEnd(iface)
	return name, ok && taskName.MatchString(name)
}

func trimEnd(iface string) (string, bool) {
	if len(iface) == 0 {
		return "", false
	}
	last := len(iface) - 1
	return iface[:last], iface[last] == 'a' || iface[last] == 'b'
}

// describe is the interface's description: whose driver, whose task.
func (n *Network) describe(taskID string) string {
	const limit = 255 // Linux: IFALIASZ is 256; FreeBSD: ifdescr_maxlen is 1024
	s := n.Anchor + " " + printable(taskID)
	return s[:min(len(s), limit)]
}

func printable(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}
