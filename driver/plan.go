package driver

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-jail/nomad-driver-jail/image"
	"github.com/nomad-driver-jail/nomad-driver-jail/network"
	"github.com/nomad-driver-jail/nomad-driver-jail/rctl"
	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// plan is a task's configuration, decoded and checked: what can be known to be wrong without touching the host has been
// refused.
type plan struct {
	name    string
	cfg     *drivers.TaskConfig
	task    TaskConfig
	ref     image.Reference
	command []string
	pot     potJail
	copies  []pair
	mounts  []pair
	given   []storage.Mount // by Nomad, of volumes
	ports   []network.PortMap
	limits  rctl.Limits
}

// newPlan's errors name the field and what would be right.
func newPlan(cfg *drivers.TaskConfig, operator *Config) (*plan, error) {
	p := &plan{name: Name(cfg.ID), cfg: cfg}
	if err := cfg.DecodeDriverConfig(&p.task); err != nil {
		return nil, fmt.Errorf("task configuration: %w", err)
	}
	var err error
	if p.ref, err = p.reference(); err != nil {
		return nil, err
	}
	if path, ok := p.ref.Folder(); ok {
		if _, _, err := operator.permitPath(path, false); err != nil {
			return nil, fmt.Errorf("image %s: %w", p.ref, err)
		}
	}
	if p.command, err = p.task.command(); err != nil {
		return nil, err
	}
	if err := p.task.network(operator); err != nil {
		return nil, err
	}
	if err := p.checkNames(); err != nil {
		return nil, err
	}
	if err := p.task.permissions(operator); err != nil {
		return nil, err
	}
	if p.pot, err = p.task.potAttributes(operator, runtime.GOOS); err != nil {
		return nil, err
	}
	if err := p.params().Check(); err != nil {
		return nil, err
	}
	if err := operator.permitRuleset(p.devfsRuleset(), p.task.NetworkMode); err != nil {
		return nil, err
	}
	if p.copies, err = pairs("copy", p.task.Copy, operator, false); err != nil {
		return nil, err
	}
	if p.mounts, err = p.allMounts(operator); err != nil {
		return nil, err
	}
	if err := p.locate(p.copies); err != nil {
		return nil, err
	}
	if err := p.locate(p.mounts); err != nil {
		return nil, err
	}
	if p.given, err = p.volumes(); err != nil {
		return nil, err
	}
	if err := storage.CheckMounts(runtime.GOOS, p.mountTable()); err != nil {
		return nil, err
	}
	if p.ports, err = p.portMaps(); err != nil {
		return nil, err
	}
	if len(cfg.Devices) > 0 {
		return nil, fmt.Errorf("device %s: this driver hands no host devices to a jail", cfg.Devices[0].HostPath)
	}
	if p.limits, err = p.resources(operator); err != nil {
		return nil, err
	}
	if p.limits.MaxProc, err = p.task.pids(operator); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *plan) reference() (image.Reference, error) {
	c := &p.task
	switch {
	case c.Pot == "" && c.Tag == "":
		return image.ParseReference(c.Image)
	case c.Pot == "" || c.Tag == "":
		return image.Reference{}, errors.New("pot and tag go together: the image's name and its version, with image as their base URL")
	}
	return image.NewReference(c.Image, c.Pot, c.Tag)
}

func (p *plan) allMounts(operator *Config) ([]pair, error) {
	mounts, err := pairs("mount", p.task.Mount, operator, true)
	if err != nil {
		return nil, err
	}
	readOnly, err := pairs("mount_read_only", p.task.MountReadOnly, operator, false)
	if err != nil {
		return nil, err
	}
	return append(mounts, readOnly...), nil
}

// checkNames refuses what cannot be written into /etc/hosts, where any address stands for the host's on the bridge.
func (p *plan) checkNames() error {
	at := network.Attachment{}
	if p.ownNetwork() {
		at.Gateway = netip.IPv4Unspecified()
	}
	_, err := network.Hosts(p.hostname(), at, p.task.ExtraHosts)
	return err
}

// mountTable is all that is mounted in the task's root, in order.
func (p *plan) mountTable() []storage.Mount {
	td := p.cfg.TaskDir()
	mounts := append(storage.DefaultMounts(p.devfsRuleset()), p.pot.mounts...)
	mounts = append(mounts,
		bindWithin(p.cfg.AllocDir, td.SharedAllocDir, "/alloc", false),
		bindWithin(td.Dir, td.LocalDir, "/local", false),
		bindWithin(td.Dir, td.SecretsDir, "/secrets", false),
	)
	mounts = append(mounts, p.given...)
	for _, c := range p.mounts {
		mounts = append(mounts, bindWithin(c.Base, filepath.Join(c.Base, c.Rel), c.Target, c.ReadOnly))
	}
	return mounts
}

func bindWithin(within, source, target string, readOnly bool) storage.Mount {
	m := storage.Bind(source, target, readOnly)
	m.Within = within
	return m
}

// portMaps joins the labels of ports and port_map with what the group was given.
func (p *plan) portMaps() ([]network.PortMap, error) {
	labels := p.task.Ports
	for _, label := range sortedKeys(p.task.PortMap) {
		if !slices.Contains(labels, label) {
			labels = append(labels, label)
		}
	}
	if len(labels) == 0 {
		return nil, nil
	}
	if p.task.NetworkMode == modeNone && !p.joinsGroup() {
		return nil, fmt.Errorf("ports: with network_mode %q no port of the host leads to the jail; leave ports and port_map out, or use %q",
			modeNone, modeBridge)
	}
	given := map[string]network.PortMap{}
	if p.cfg.Resources != nil && p.cfg.Resources.Ports != nil {
		for _, a := range *p.cfg.Resources.Ports {
			// Of a static port, Nomad leaves the `to = -1` that means the same port.
			given[a.Label] = network.PortMap{
				Label: a.Label, HostPort: uint16(a.Value), TaskPort: uint16(max(a.To, 0)), HostIP: parseAddr(a.HostIP),
			}
		}
	}
	var maps, local []network.PortMap
	for _, label := range labels {
		m, ok := given[label]
		if !ok {
			return nil, fmt.Errorf("ports: the group's network has no port %q; it has %s", label, orNone(sortedKeys(given)))
		}
		if s, ok := p.task.PortMap[label]; ok {
			n, err := strconv.ParseUint(s, 10, 16)
			if err != nil || n == 0 {
				return nil, fmt.Errorf("port_map: %s = %q is not a port number from 1 to 65535", label, s)
			}
			m.TaskPort = uint16(n)
		}
		if m.TaskPort == 0 {
			m.TaskPort = m.HostPort
		}
		if p.task.NetworkMode == modeHost && m.TaskPort != m.HostPort {
			return nil, fmt.Errorf("ports: with network_mode %q port %q is the host's %d and cannot be %d in the jail; "+
				"leave out its `to` and port_map, and have the command listen on ${NOMAD_PORT_%s}", modeHost, label, m.HostPort, m.TaskPort, label)
		}
		for _, proto := range []string{"tcp", "udp"} {
			m.Proto = proto
			maps = append(maps, m)
			if l, ok := onLoopback(m); ok {
				local = append(local, l)
			}
		}
	}
	// After all that Nomad gave, which may have the same port on the loopback address.
	return append(maps, local...), nil
}

// onLoopback is a port that is given at one address of the host, served at its loopback address too. Nomad gives ports address by
// address, so the loopback one may have this port for something else.
func onLoopback(m network.PortMap) (network.PortMap, bool) {
	ip := m.HostIP
	if !ip.IsValid() || ip.IsUnspecified() || ip.IsLoopback() {
		return network.PortMap{}, false
	}
	m.Optional = true
	m.HostIP = netip.IPv6Loopback()
	if ip.Is4() {
		m.HostIP = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return m, true
}

// resources turns Nomad's resources into limits. CPUShares are Nomad's MHz. What is called Linux's comes on every host.
func (p *plan) resources(operator *Config) (rctl.Limits, error) {
	r := p.cfg.Resources
	if r == nil || r.NomadResources == nil {
		return rctl.Limits{}, nil
	}
	const mib = 1 << 20
	n := r.NomadResources
	l := rctl.Limits{
		Memory:    uint64(n.Memory.MemoryMB) * mib,
		CPUShares: uint64(n.Cpu.CpuShares),
	}
	if n.Memory.MemoryMaxMB > n.Memory.MemoryMB {
		l.MemorySoft = l.Memory
		l.Memory = uint64(n.Memory.MemoryMaxMB) * mib
	}
	if r.LinuxResources == nil {
		return l, nil
	}
	if operator.CPUHardLimit || p.task.CPUHardLimit {
		l.CPUQuota = r.LinuxResources.PercentTicks * float64(runtime.NumCPU())
	}
	var err error
	l.Cores, err = cores(r.LinuxResources.CpusetCpus)
	return l, err
}

// pids is docker's rule: the operator's limit, or the task's below it.
func (c *TaskConfig) pids(operator *Config) (uint64, error) {
	switch {
	case c.PidsLimit < 0:
		return 0, fmt.Errorf("pids_limit %d must be above 0", c.PidsLimit)
	case operator.PidsLimit > 0 && c.PidsLimit > operator.PidsLimit:
		return 0, fmt.Errorf("pids_limit %d is above the %d of the plugin's configuration, where the operator raises pids_limit", c.PidsLimit, operator.PidsLimit)
	}
	return uint64(cmp.Or(c.PidsLimit, operator.PidsLimit)), nil
}

// cores reads those that Nomad reserved, such as "0,3": the list in NomadResources does not reach a plugin.
func cores(list string) ([]int, error) {
	if list == "" {
		return nil, nil
	}
	var cores []int
	for s := range strings.SplitSeq(list, ",") {
		core, err := strconv.Atoi(s)
		if err != nil {
			return nil, fmt.Errorf("cores %q, as Nomad reserved them, must be numbers with commas between them", list)
		}
		cores = append(cores, core)
	}
	return cores, nil
}

func orNone(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

// parseAddr gives the zero address, which stands for all of them, for what is none.
func parseAddr(s string) netip.Addr {
	a, _ := netip.ParseAddr(s)
	return a
}
