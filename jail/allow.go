package jail

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// allowance is one thing that a job may be given beyond the default, by the name that jail(8) has for it behind "allow.".
type allowance struct {
	denied  bool   // FreeBSD: refused by name unless given, as the host's sysctls may have made it the default
	parent  string // FreeBSD: a parameter that has to be allowed with it
	linux   []int  // capabilities that stand for it on Linux
	onLinux bool   // Linux: has it, by those capabilities or in any case
}

// Numbers of capabilities(7), which arm64 and amd64 share.
const (
	capChown          = 0
	capDacOverride    = 1
	capFowner         = 3
	capFsetid         = 4
	capKill           = 5
	capSetgid         = 6
	capSetuid         = 7
	capSetpcap        = 8
	capLinuxImmutable = 9
	capNetBindService = 10
	capNetRaw         = 13
	capIPCLock        = 14
	capSysChroot      = 18
	capSetfcap        = 31
)

// defaultCapabilities is docker's list less NET_RAW, MKNOD and AUDIT_WRITE.
var defaultCapabilities = []int{
	capChown, capDacOverride, capFowner, capFsetid, capKill, capSetgid, capSetuid, capSetpcap,
	capNetBindService, capSysChroot, capSetfcap,
}

// allowances are those of jail(8) on 12.2 to 15. A release that lacks one refuses it by name in jail_set(2).
var allowances = map[string]allowance{
	"raw_sockets":             {denied: true, linux: []int{capNetRaw}, onLinux: true},
	"sysvipc":                 {denied: true, onLinux: true}, // Linux: the IPC namespace is the cell's own
	"chflags":                 {denied: true, linux: []int{capLinuxImmutable}, onLinux: true},
	"mlock":                   {denied: true, linux: []int{capIPCLock}, onLinux: true},
	"socket_af":               {denied: true, onLinux: true},
	"reserved_ports":          {onLinux: true},
	"set_hostname":            {},
	"quotas":                  {denied: true},
	"read_msgbuf":             {denied: true},
	"mount":                   {denied: true},
	"mount.devfs":             {parent: "mount"},
	"mount.fdescfs":           {parent: "mount"},
	"mount.fusefs":            {parent: "mount"},
	"mount.linprocfs":         {parent: "mount"},
	"mount.linsysfs":          {parent: "mount"},
	"mount.nullfs":            {parent: "mount"},
	"mount.procfs":            {parent: "mount"},
	"mount.tmpfs":             {parent: "mount"},
	"mount.zfs":               {parent: "mount"},
	"vmm":                     {},
	"unprivileged_proc_debug": {},
	"suser":                   {},
	"nfsd":                    {},
	"extattr":                 {},
	"adjtime":                 {},
	"settime":                 {},
	"routing":                 {},
	"setaudit":                {},
}

// Allowances are the names that Params.Allow may have on the host called goos, sorted.
func Allowances(goos string) []string {
	var names []string
	for name, a := range allowances {
		if goos == "freebsd" || a.onLinux {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func checkAllow(goos string, allow []string) error {
	for _, name := range allow {
		a, known := allowances[name]
		switch {
		case !known:
			return fmt.Errorf("allow %q is not known; known are %s", name, strings.Join(slices.Sorted(maps.Keys(allowances)), ", "))
		case goos == "linux" && !a.onLinux:
			return fmt.Errorf("allow %q has no counterpart on Linux; run the job on FreeBSD or leave it out", name)
		}
	}
	return nil
}

// Capabilities are the numbers of the capabilities that root in the cell has on Linux, sorted.
func (p Params) Capabilities() []int {
	caps := slices.Clone(defaultCapabilities)
	for _, name := range p.Allow {
		caps = append(caps, allowances[name].linux...)
	}
	slices.Sort(caps)
	return slices.Compact(caps)
}
