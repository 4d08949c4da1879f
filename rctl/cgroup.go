package rctl

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// parent is the cgroup that holds those of all tasks, in each hierarchy, below the mount's root: not below the agent's
// own cgroup, which goes when the agent does.
const parent = "nomad-driver-jail"

// hierarchy is one mounted cgroup file system.
type hierarchy struct {
	dir         string // where it is mounted
	v2          bool
	readOnly    bool
	controllers []string
	noSwapCount bool   // v1 memory that cannot count swap (swapaccount=0)
	cpus, mems  string // v1 cpuset: what the root has, and each level must name before it takes a process
}

// tree is all that a host has mounted.
type tree []hierarchy

// measured controllers get a cgroup for every task, limited or not, so that its usage can be read.
var measured = []string{"memory", "cpu", "cpuacct", "pids"}

// remedies say how a host comes by a controller.
var remedies = map[string]string{
	"memory":  "boot with cgroup_enable=memory, or mount it",
	"cpu":     "the kernel needs CONFIG_CGROUP_SCHED",
	"cpuacct": "the kernel needs CONFIG_CGROUP_CPUACCT",
	"pids":    "the kernel needs CONFIG_CGROUP_PIDS",
	"cpuset":  "the kernel needs CONFIG_CPUSETS",
}

// parseMounts finds the hierarchies in /proc/self/mountinfo (proc_pid_mountinfo(5)). Those of v2 have no controllers yet:
// these are in a file of theirs.
func parseMounts(mountinfo []byte) tree {
	var t tree
	lines := bufio.NewScanner(bytes.NewReader(mountinfo))
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		mount, source := strings.Fields(before), strings.Fields(after)
		if !ok || len(mount) < 6 || len(source) < 3 {
			continue
		}
		h := hierarchy{dir: unescape(mount[4]), readOnly: slices.Contains(strings.Split(mount[5], ","), "ro")}
		switch source[0] {
		case "cgroup2":
			h.v2 = true
		case "cgroup":
			h.controllers = strings.Split(source[2], ",")
		default:
			continue
		}
		t = append(t, h)
	}
	return t
}

// unescape undoes mountinfo's octal spelling of space, tab, newline and backslash.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// find gives the hierarchy that has the controller. In v2 cpu accounts too.
func (t tree) find(controller string) (hierarchy, bool) {
	for _, h := range t {
		wanted := controller
		if h.v2 && wanted == "cpuacct" {
			wanted = "cpu"
		}
		if slices.Contains(h.controllers, wanted) {
			return h, true
		}
	}
	return hierarchy{}, false
}

// missing is why a controller cannot be used, or nil.
func (t tree) missing(controller string) error {
	h, ok := t.find(controller)
	if !ok {
		return fmt.Errorf("this host has no %s cgroup controller: %s", controller, remedies[controller])
	}
	if h.readOnly {
		return fmt.Errorf("the %s cgroup controller is mounted read-only at %s: mount it writable", controller, h.dir)
	}
	return nil
}

// check is for the fingerprint: what any task may need.
func (t tree) check() error {
	var all []error
	for _, c := range append(slices.Clone(measured), "cpuset") {
		all = append(all, t.missing(c))
	}
	return errors.Join(all...)
}

// step makes the directory path, or writes value to the file path.
type step struct {
	path, value string
	optional    bool // the file may be missing: the kernel has nothing to set there
}

func (s step) String() string {
	if s.value == "" {
		return "mkdir " + s.path
	}
	if s.optional {
		return "try " + s.path + " = " + s.value
	}
	return s.path + " = " + s.value
}

// setting is a file of the task's cgroup in the controller's hierarchy.
type setting struct {
	controller, file, value string
	optional                bool
}

// plan lists, in order, what gives a task its cgroups and their values: every value is there before a process can be.
func (t tree) plan(name string, l Limits) ([]step, Subject, error) {
	settings, err := t.settings(l)
	if err != nil {
		return nil, Subject{}, err
	}
	// Nomad and its users look for a task's processes in the freezer's hierarchy; v2 has it in every cgroup.
	wanted := append(slices.Clone(measured), "freezer")
	if len(l.Cores) > 0 {
		wanted = append(wanted, "cpuset")
	}
	var steps []step
	var s Subject
	for _, h := range t {
		used := t.used(h, wanted)
		if len(used) == 0 {
			continue
		}
		all, own := filepath.Join(h.dir, parent), filepath.Join(h.dir, parent, name)
		if h.v2 {
			delegate := "+" + strings.Join(used, " +")
			steps = append(steps, step{path: filepath.Join(h.dir, "cgroup.subtree_control"), value: delegate}, step{path: all},
				step{path: filepath.Join(all, "cgroup.subtree_control"), value: delegate}, step{path: own})
		} else {
			steps = append(steps, step{path: all})
			if slices.Contains(used, "cpuset") {
				steps = append(steps, step{path: filepath.Join(all, "cpuset.cpus"), value: h.cpus},
					step{path: filepath.Join(all, "cpuset.mems"), value: h.mems})
			}
			steps = append(steps, step{path: own})
		}
		for _, x := range settings {
			if slices.Contains(used, x.controller) {
				steps = append(steps, step{filepath.Join(own, x.file), x.value, x.optional})
			}
		}
		if slices.Contains(used, "memory") {
			s.OOM = filepath.Join(own, "memory.oom_control")
			if h.v2 {
				s.OOM = filepath.Join(own, "memory.events")
			}
		}
		s.Cgroups = append(s.Cgroups, own)
	}
	return steps, s, nil
}

// used are the wanted controllers that come from h.
func (t tree) used(h hierarchy, wanted []string) []string {
	var used []string
	for _, c := range wanted {
		if found, ok := t.find(c); ok && found.dir == h.dir && slices.Contains(h.controllers, c) {
			used = append(used, c)
		}
	}
	return used
}

// settings says which file gets which value; a limit whose controller is missing is refused.
func (t tree) settings(l Limits) ([]setting, error) {
	var all []setting
	for _, part := range []struct {
		controller, what string
		asked            bool
		settings         func(hierarchy, Limits) []setting
	}{
		{"memory", "a memory limit", l.Memory > 0 || l.MemorySoft > 0, memorySettings},
		{"cpu", "CPU shares or a CPU quota", l.CPUShares > 0 || l.CPUQuota > 0, cpuSettings},
		{"cpuset", "cores of its own", len(l.Cores) > 0, cpusetSettings},
		{"pids", "a limit of processes", l.MaxProc > 0, pidsSettings},
	} {
		if !part.asked {
			continue
		}
		if err := t.missing(part.controller); err != nil {
			return nil, fmt.Errorf("%s is asked for, but %w", part.what, err)
		}
		h, _ := t.find(part.controller)
		for _, s := range part.settings(h, l) {
			s.controller = part.controller
			all = append(all, s)
		}
	}
	return all, nil
}

func memorySettings(h hierarchy, l Limits) []setting {
	hard, soft := strconv.FormatUint(l.Memory, 10), strconv.FormatUint(l.MemorySoft, 10)
	var s []setting
	switch {
	case l.Memory == 0:
	case h.v2:
		// The swap file is missing only in a kernel without swap.
		s = append(s, setting{file: "memory.max", value: hard}, setting{file: "memory.swap.max", value: "0", optional: true})
	case h.noSwapCount:
		// Without a count of swap, a task at its limit would swap on and on; at swappiness 0 it is killed.
		s = append(s, setting{file: "memory.limit_in_bytes", value: hard}, setting{file: "memory.swappiness", value: "0"})
	default:
		// In this order: memory and swap together may not be less than memory.
		s = append(s, setting{file: "memory.limit_in_bytes", value: hard}, setting{file: "memory.memsw.limit_in_bytes", value: hard})
	}
	switch {
	case l.MemorySoft == 0:
	case h.v2:
		s = append(s, setting{file: "memory.low", value: soft})
	default:
		s = append(s, setting{file: "memory.soft_limit_in_bytes", value: soft})
	}
	return s
}

// period is the kernel's default, in microseconds, over which a quota is counted.
const period = 100_000

func cpuSettings(h hierarchy, l Limits) []setting {
	// The kernel's own bounds of cpu.shares and least quota.
	shares := min(max(l.CPUShares, 2), 262_144)
	quota := max(int64(math.Round(l.CPUQuota*period)), 1000)
	var s []setting
	if l.CPUShares > 0 && h.v2 {
		s = append(s, setting{file: "cpu.weight", value: strconv.FormatUint(weight(shares), 10)})
	}
	if l.CPUShares > 0 && !h.v2 {
		s = append(s, setting{file: "cpu.shares", value: strconv.FormatUint(shares, 10)})
	}
	if l.CPUQuota > 0 && h.v2 {
		s = append(s, setting{file: "cpu.max", value: fmt.Sprintf("%d %d", quota, period)})
	}
	if l.CPUQuota > 0 && !h.v2 {
		s = append(s, setting{file: "cpu.cfs_period_us", value: strconv.Itoa(period)},
			setting{file: "cpu.cfs_quota_us", value: strconv.FormatInt(quota, 10)})
	}
	return s
}

// weight maps 2…262144 shares onto v2's 1…10000, as runc and systemd do.
func weight(shares uint64) uint64 { return 1 + (shares-2)*9999/262_142 }

func cpusetSettings(h hierarchy, l Limits) []setting {
	cores := make([]string, len(l.Cores))
	for i, c := range l.Cores {
		cores[i] = strconv.Itoa(c)
	}
	s := []setting{{file: "cpuset.cpus", value: strings.Join(cores, ",")}}
	if !h.v2 {
		s = append(s, setting{file: "cpuset.mems", value: h.mems})
	}
	return s
}

func pidsSettings(_ hierarchy, l Limits) []setting {
	return []setting{{file: "pids.max", value: strconv.FormatUint(l.MaxProc, 10)}}
}
