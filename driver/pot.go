package driver

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// potJail is what pot's attributes ask of a jail; the zero value is nothing beyond the default.
type potJail struct {
	permissions   []string
	devfsRuleset  int
	enforceStatfs int
	mounts        []storage.Mount // those that pot makes itself
}

// potSwitch is an attribute of pot's that is on or off. Off is what every jail has here.
type potSwitch struct {
	permission string         // that being on needs
	mount      *storage.Mount // that pot makes where it is on
	refusal    string         // why it cannot be on, and what to do instead
}

// potSwitches are the attributes of pot-set-attribute(1) less those whose values are numbers that count. The empty ones say how pot
// keeps its jails and what it writes into them, which here is Nomad's business and this driver's, and change nothing.
var potSwitches = map[string]potSwitch{
	"dynamic-etc-hosts":   {},
	"early-start-at-boot": {},
	"localhost-tunnel":    {},
	"no-etc-hosts":        {},
	"no-rc-script":        {},
	"no-tmpfs":            {},
	"prunable":            {},
	"start-at-boot":       {},

	"linprocfs":   {permission: "mount.linprocfs"},
	"mlock":       {permission: "mlock"},
	"mount":       {permission: "mount"},
	"nullfs":      {permission: "mount.nullfs"},
	"raw_sockets": {permission: "raw_sockets"},
	"sysvipc":     {permission: "sysvipc"},
	"sysvmsg":     {permission: "sysvipc"},
	"sysvsem":     {permission: "sysvipc"},
	"sysvshm":     {permission: "sysvipc"},
	"tmpfs":       {permission: "mount.tmpfs"},

	"fdescfs": {permission: "mount.fdescfs", mount: &storage.Mount{Type: "fdescfs", Target: "/dev/fd"}},
	"procfs":  {permission: "mount.procfs", mount: &storage.Mount{Type: "procfs", Target: "/proc"}},

	"children":     {refusal: "no jail is made in a task's jail; make each a task of the group"},
	"exec_stop":    {refusal: "a stop runs no command in the jail; have the task's command act on kill_signal"},
	"persistent":   {refusal: "a jail goes with its command; have that stay in the foreground"},
	"stop_timeout": {refusal: "how long a stop may take is Nomad's kill_timeout; set that in the task"},
	"zfs":          {refusal: "no dataset is given to a jail; mount a directory with mount"},
}

// potAttributes are those of the task, each permission checked against the operator's on a host called goos.
func (c *TaskConfig) potAttributes(operator *Config, goos string) (potJail, error) {
	var asked potJail
	for _, a := range c.Attributes {
		key, value, ok := strings.Cut(a, ":")
		if !ok {
			return potJail{}, fmt.Errorf("attributes: %q must be KEY:VALUE", a)
		}
		var err error
		switch key {
		case "devfs_ruleset":
			asked.devfsRuleset, err = potRuleset(value)
		case "enforce_statfs":
			asked.enforceStatfs, err = potStatfs(value)
		default:
			err = asked.turn(key, value, operator, goos)
		}
		if err != nil {
			return potJail{}, fmt.Errorf("attributes: %s: %w", a, err)
		}
	}
	return asked, nil
}

// turn has the attribute called key on or off, as its value says.
func (j *potJail) turn(key, value string, operator *Config, goos string) error {
	s, known := potSwitches[key]
	if !known {
		return fmt.Errorf("pot has no such attribute; it has devfs_ruleset, enforce_statfs, %s", strings.Join(sortedKeys(potSwitches), ", "))
	}
	on, err := potOn(key, value)
	switch {
	case s.refusal != "" && (on || err != nil): // of those, some have a number or a command as value
		return fmt.Errorf("this cannot be had: %s", s.refusal)
	case err != nil || !on || s.permission == "":
		return err
	case !slices.Contains(jail.Allowances(goos), s.permission):
		return fmt.Errorf("this has no counterpart on %s; run the job on FreeBSD or leave it out", goos)
	}
	if err := operator.permit(s.permission, "this"); err != nil {
		return err
	}
	j.permissions = append(j.permissions, s.permission)
	if s.mount != nil {
		j.mounts = append(j.mounts, *s.mount)
	}
	return nil
}

// potOn reads pot's booleans, and jail(8)'s words for what is a jail's own, shared, or not there.
func potOn(key, value string) (bool, error) {
	ofSysV := strings.HasPrefix(key, "sysv")
	switch value := strings.ToLower(value); {
	case slices.Contains([]string{"yes", "true", "on"}, value), ofSysV && value == "new":
		return true, nil
	case slices.Contains([]string{"no", "false", "off", "0", ""}, value), ofSysV && value == "disable":
		return false, nil
	case ofSysV && value == "inherit":
		return false, errors.New("the host's System V objects cannot be had; new gives the jail its own")
	case ofSysV:
		return false, errors.New("the value must be new or disable")
	}
	return false, errors.New("the value must be YES or NO")
}

func potRuleset(value string) (int, error) {
	n, err := strconv.ParseUint(value, 10, 16)
	if err != nil || n == 0 {
		return 0, errors.New("the value must be a number from 1 to 65535")
	}
	return int(n), nil
}

func potStatfs(value string) (int, error) {
	switch value {
	case "1":
		return 1, nil
	case "2":
		return 2, nil
	case "0":
		return 0, errors.New("this cannot be had: the jail would see the host's mounts; 1 shows those of the jail, 2 its root alone")
	}
	return 0, errors.New("the value must be 1 or 2")
}
