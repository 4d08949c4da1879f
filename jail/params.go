package jail

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"runtime"
	"slices"
	"strconv"
)

// DevfsRuleset is that of devfs.rules(5) for jails, with a network stack of their own too: the one for those, 5, adds pf(4)'s device, and
// FreeBSD 12 has none.
const DevfsRuleset = 4

// Params widen or narrow what a cell may do; the zero value is the safe default. They mean what jail(8) says about the parameter of
// that name; Linux honours Allow as far as capabilities reach, and the rest changes nothing there.
type Params struct {
	Allow         []string `json:",omitempty"` // Allowances, without "allow."
	DevfsRuleset  int      `json:",omitempty"` // 0: the constant DevfsRuleset
	EnforceStatfs int      `json:",omitempty"` // 0: 2. Only 1 and 2 are possible: 0 would show the host's mounts
	Children      int      `json:",omitempty"` // children.max
	Securelevel   *int     `json:",omitempty"` // nil: the host's, which is also the least the kernel takes
	OSRelease     string   `json:",omitempty"` // such as 12.2-RELEASE; empty: the host's
}

// A parameter of jail_set(2). Value is a string, an int, or nil for a boolean, which is a name alone ("persist", "allow.nomount").
type parameter struct {
	name  string
	value any
}

// Values of the parameters that jail(8) calls jailsys.
const (
	sysNew     = 1
	sysInherit = 2
)

var releasePattern = regexp.MustCompile(`^([0-9]{1,3})\.([0-9]{1,2})(-[A-Za-z0-9.-]+)?$`)

// Check refuses values that are wrong on any host or that this one cannot give.
func (p Params) Check() error {
	level, err := hostSecurelevel()
	if err != nil {
		return err
	}
	return p.check(runtime.GOOS, level)
}

// check is Check on the host called goos, whose kern.securelevel is level.
func (p Params) check(goos string, level int) error {
	switch {
	case p.DevfsRuleset < 0 || p.DevfsRuleset > 65535:
		return fmt.Errorf("devfs_ruleset %d: must be 1 to 65535", p.DevfsRuleset)
	case p.EnforceStatfs < 0 || p.EnforceStatfs > 2:
		return fmt.Errorf("enforce_statfs %d: must be 1 or 2", p.EnforceStatfs)
	case p.Children < 0:
		return fmt.Errorf("children.max %d: must not be negative", p.Children)
	case p.Securelevel != nil && (*p.Securelevel < -1 || *p.Securelevel > 3):
		return fmt.Errorf("securelevel %d: must be -1 to 3", *p.Securelevel)
	case p.Securelevel != nil && *p.Securelevel < level:
		return fmt.Errorf("securelevel %d is below the host's %d, and a jail's can only be raised; ask for %d or leave it out",
			*p.Securelevel, level, level)
	case p.OSRelease != "" && (len(p.OSRelease) > 31 || !releasePattern.MatchString(p.OSRelease)):
		return fmt.Errorf("osrelease %q: must look like 12.2-RELEASE", p.OSRelease)
	}
	return checkAllow(goos, p.Allow)
}

// parameters is the jail that spec asks for, in the words of jail_set(2).
func parameters(spec Spec) []parameter {
	p := spec.Params
	list := []parameter{
		{"name", spec.Name},
		{"path", spec.Root},
		{"host.hostname", spec.hostname()},
		{"persist", nil},
		{"children.max", p.Children},
		{"enforce_statfs", cmp.Or(p.EnforceStatfs, 2)},
		{"devfs_ruleset", cmp.Or(p.DevfsRuleset, DevfsRuleset)},
	}
	if spec.ownNetwork() {
		// No ip4 or ip6 beside it: the kernel refuses address restrictions on a vnet jail.
		list = append(list, parameter{"vnet", sysNew})
	} else {
		// No vnet beside them, for the same reason; without ip4 and ip6 the jail would have no sockets.
		list = append(list, parameter{"ip4", sysInherit}, parameter{"ip6", sysInherit})
	}
	if p.Securelevel != nil {
		list = append(list, parameter{"securelevel", *p.Securelevel})
	}
	if p.OSRelease != "" {
		list = append(list, parameter{"osrelease", p.OSRelease}, parameter{"osreldate", releaseDate(p.OSRelease)})
	}
	return append(list, allowParameters(p.Allow)...)
}

// allowParameters gives what is asked for and takes away by name what was not, whatever the host's security.jail sysctls say.
func allowParameters(allow []string) []parameter {
	given := map[string]bool{}
	for _, name := range allow {
		given[name] = true
		if parent := allowances[name].parent; parent != "" {
			given[parent] = true
		}
	}
	// The old switch shares the host's objects; what a job gets is a set of its own, as of FreeBSD 11.
	ownIPC := given["sysvipc"]
	delete(given, "sysvipc")

	var list []parameter
	for _, name := range slices.Sorted(maps.Keys(allowances)) {
		switch {
		case given[name]:
			list = append(list, parameter{"allow." + name, nil})
		case allowances[name].denied:
			list = append(list, parameter{"allow.no" + name, nil})
		}
	}
	if ownIPC {
		list = append(list, parameter{"sysvmsg", sysNew}, parameter{"sysvsem", sysNew}, parameter{"sysvshm", sysNew})
	}
	return list
}

// releaseDate is __FreeBSD_version of a release: 12.2 is 1202000.
func releaseDate(release string) int {
	m := releasePattern.FindStringSubmatch(release)
	if m == nil {
		return 0
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	return major*100000 + minor*1000
}
