package driver

import (
	"reflect"
	"strings"
	"testing"

	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// harmless are values of all of pot's attributes that ask for nothing beyond the default.
var harmless = []string{
	"children:0", "devfs_ruleset:4", "dynamic-etc-hosts:YES", "early-start-at-boot:NO", "enforce_statfs:2", "exec_stop:", "fdescfs:NO",
	"linprocfs:no", "localhost-tunnel:YES", "mlock:off", "mount:False", "no-etc-hosts:ON", "no-rc-script:true", "no-tmpfs:YES", "nullfs:NO",
	"persistent:NO", "procfs:NO", "prunable:YES", "raw_sockets:OFF", "start-at-boot:YES", "stop_timeout:0", "sysvipc:NO", "sysvmsg:disable",
	"sysvsem:disable", "sysvshm:NO", "tmpfs:NO", "zfs:NO",
}

func TestHarmlessPotAttributes(t *testing.T) {
	known := map[string]bool{"devfs_ruleset": true, "enforce_statfs": true}
	for key := range potSwitches {
		known[key] = true
	}
	for _, a := range harmless {
		for _, goos := range []string{"freebsd", "linux"} {
			asked, err := (&TaskConfig{Attributes: []string{a}}).potAttributes(&Config{}, goos)
			if err != nil || asked.permissions != nil || asked.mounts != nil {
				t.Errorf("%s on %s: %+v, %v", a, goos, asked, err)
			}
		}
		key, _, _ := strings.Cut(a, ":")
		delete(known, key)
	}
	if len(known) > 0 {
		t.Errorf("not tried: %v", sortedKeys(known))
	}
}

func TestPotAttributesAreAllowed(t *testing.T) {
	for _, c := range []struct {
		attribute, permission string
		mount                 storage.Mount
	}{
		{"raw_sockets:YES", "raw_sockets", storage.Mount{}},
		{"raw_sockets:on", "raw_sockets", storage.Mount{}},
		{"mlock:True", "mlock", storage.Mount{}},
		{"mount:YES", "mount", storage.Mount{}},
		{"nullfs:YES", "mount.nullfs", storage.Mount{}},
		{"tmpfs:YES", "mount.tmpfs", storage.Mount{}},
		{"linprocfs:YES", "mount.linprocfs", storage.Mount{}},
		{"fdescfs:YES", "mount.fdescfs", storage.Mount{Type: "fdescfs", Target: "/dev/fd"}},
		{"procfs:YES", "mount.procfs", storage.Mount{Type: "procfs", Target: "/proc"}},
		{"sysvshm:new", "sysvipc", storage.Mount{}},
		{"sysvsem:new", "sysvipc", storage.Mount{}},
		{"sysvmsg:YES", "sysvipc", storage.Mount{}},
	} {
		task := &TaskConfig{Attributes: []string{c.attribute}}
		want := potJail{permissions: []string{c.permission}}
		if c.mount.Type != "" {
			want.mounts = []storage.Mount{c.mount}
		}
		if asked, err := task.potAttributes(&Config{Allow: []string{c.permission}}, "freebsd"); err != nil || !reflect.DeepEqual(asked, want) {
			t.Errorf("%s: %+v, %v", c.attribute, asked, err)
		}
		sentence := `attributes: ` + c.attribute + `: this is not allowed here; the operator allows it with allow = ["` + c.permission +
			`"] in the plugin's configuration`
		if _, err := task.potAttributes(&Config{Allow: []string{"chflags"}}, "freebsd"); err == nil || err.Error() != sentence {
			t.Errorf("%s: %v, want %s", c.attribute, err, sentence)
		}
	}
}

func TestRefusedPotAttributes(t *testing.T) {
	for _, c := range []struct{ attribute, goos, want string }{
		{"zfs:YES", "freebsd", "this cannot be had: no dataset is given to a jail; mount a directory with mount"},
		{"children:3", "freebsd", "this cannot be had: no jail is made in a task's jail; make each a task of the group"},
		{"persistent:YES", "freebsd", "this cannot be had: a jail goes with its command; have that stay in the foreground"},
		{"exec_stop:/bin/sh /etc/rc.shutdown", "freebsd", "this cannot be had: a stop runs no command in the jail; have the task's command act on kill_signal"},
		{"stop_timeout:30", "freebsd", "this cannot be had: how long a stop may take is Nomad's kill_timeout; set that in the task"},
		{"enforce_statfs:0", "freebsd", "this cannot be had: the jail would see the host's mounts; 1 shows those of the jail, 2 its root alone"},
		{"enforce_statfs:3", "freebsd", "the value must be 1 or 2"},
		{"devfs_ruleset:0", "freebsd", "the value must be a number from 1 to 65535"},
		{"devfs_ruleset:all", "freebsd", "the value must be a number from 1 to 65535"},
		{"sysvshm:inherit", "freebsd", "the host's System V objects cannot be had; new gives the jail its own"},
		{"sysvshm:maybe", "freebsd", "the value must be new or disable"},
		{"raw_sockets:new", "freebsd", "the value must be YES or NO"},
		{"prunable:maybe", "freebsd", "the value must be YES or NO"},
		{"fdescfs:YES", "linux", "this has no counterpart on linux; run the job on FreeBSD or leave it out"},
		{"frobnicate:YES", "freebsd", "pot has no such attribute; it has devfs_ruleset, enforce_statfs, children, dynamic-etc-hosts, "},
	} {
		_, err := (&TaskConfig{Attributes: []string{c.attribute}}).potAttributes(&Config{Allow: []string{"sysvipc", "mount.fdescfs"}}, c.goos)
		if want := "attributes: " + c.attribute + ": " + c.want; err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestPotJail(t *testing.T) {
	task := TaskConfig{Allow: []string{"raw_sockets"}, DevfsRuleset: 7, Attributes: []string{"raw_sockets:YES", "sysvshm:new", "devfs_ruleset:9", "enforce_statfs:1"}}
	p, err := newPlan(taskWith(t, task), &Config{Allow: []string{"raw_sockets", "sysvipc"}, DevfsRulesets: []int{9}})
	if err != nil {
		t.Fatal(err)
	}
	if got := p.params(); !reflect.DeepEqual(got.Allow, []string{"raw_sockets", "sysvipc"}) || got.DevfsRuleset != 9 || got.EnforceStatfs != 1 {
		t.Errorf("got %+v", got)
	}
}
