package jail

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// jailConf spells parameters as jail.conf(5) would.
func jailConf(list []parameter) []string {
	var lines []string
	for _, p := range list {
		if p.value == nil {
			lines = append(lines, p.name)
		} else {
			lines = append(lines, fmt.Sprintf("%s=%v", p.name, p.value))
		}
	}
	return lines
}

func TestParameters(t *testing.T) {
	denied := []string{
		"allow.nochflags", "allow.nomlock", "allow.nomount", "allow.noquotas", "allow.noraw_sockets", "allow.noread_msgbuf",
		"allow.nosocket_af", "allow.nosysvipc",
	}
	without := func(names ...string) []string {
		return slices.DeleteFunc(slices.Clone(denied), func(s string) bool { return slices.Contains(names, s) })
	}
	base := Spec{Name: "nj3f0a1b2c4d5e", Hostname: "web", Root: "/tank/jail/tasks/nj3f0a1b2c4d5e"}
	common := []string{"name=nj3f0a1b2c4d5e", "path=/tank/jail/tasks/nj3f0a1b2c4d5e", "host.hostname=web", "persist"}
	cases := map[string]struct {
		change func(*Spec)
		want   []string // beyond common
	}{
		"the safe default": {
			func(*Spec) {},
			append([]string{"children.max=0", "enforce_statfs=2", "devfs_ruleset=4", "vnet=1"}, denied...),
		},
		"the host's network: no vnet, or the kernel refuses ip4 and ip6": {
			func(s *Spec) { s.HostNetwork = true },
			append([]string{"children.max=0", "enforce_statfs=2", "devfs_ruleset=4", "ip4=2", "ip6=2"}, denied...),
		},
		"what is allowed is not denied": {
			func(s *Spec) { s.Params.Allow = []string{"raw_sockets", "mlock"} },
			append([]string{"children.max=0", "enforce_statfs=2", "devfs_ruleset=4", "vnet=1"},
				merge(without("allow.noraw_sockets", "allow.nomlock"), "allow.raw_sockets", "allow.mlock")...),
		},
		"SysV IPC of its own, never the host's": {
			func(s *Spec) { s.Params.Allow = []string{"sysvipc"} },
			append(append([]string{"children.max=0", "enforce_statfs=2", "devfs_ruleset=4", "vnet=1"}, denied...),
				"sysvmsg=1", "sysvsem=1", "sysvshm=1"),
		},
		"mounting a file system needs mounting": {
			func(s *Spec) { s.Params.Allow, s.Params.EnforceStatfs = []string{"mount.zfs"}, 1 },
			append([]string{"children.max=0", "enforce_statfs=1", "devfs_ruleset=4", "vnet=1"},
				merge(without("allow.nomount"), "allow.mount", "allow.mount.zfs")...),
		},
		"values": {
			func(s *Spec) {
				level := 2
				s.Params = Params{DevfsRuleset: 61, Children: 3, Securelevel: &level, OSRelease: "12.2-RELEASE-p4"}
			},
			append([]string{"children.max=3", "enforce_statfs=2", "devfs_ruleset=61", "vnet=1", "securelevel=2",
				"osrelease=12.2-RELEASE-p4", "osreldate=1202000"}, denied...),
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			spec := base
			c.change(&spec)
			want := append(slices.Clone(common), c.want...)
			if got := jailConf(parameters(spec)); !slices.Equal(sortAllow(got), sortAllow(want)) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

func merge(a []string, b ...string) []string { return append(slices.Clone(a), b...) }

// sortAllow sorts the allow parameters, whose order means nothing, and leaves the others where they are.
func sortAllow(list []string) []string {
	isAllow := func(s string) bool { return strings.HasPrefix(s, "allow.") }
	var rest, allow []string
	for _, s := range list {
		if isAllow(s) {
			allow = append(allow, s)
		} else {
			rest = append(rest, s)
		}
	}
	slices.Sort(allow)
	return append(rest, allow...)
}

func TestParamsCheck(t *testing.T) {
	cases := []struct {
		params Params
		goos   string
		want   string
	}{
		{Params{}, "freebsd", ""},
		{Params{Allow: []string{"raw_sockets", "mount.tmpfs"}, OSRelease: "13.5-RELEASE"}, "freebsd", ""},
		{Params{Allow: []string{"raw_sockets", "sysvipc"}}, "linux", ""},
		{Params{Allow: []string{"everything"}}, "freebsd", `allow "everything" is not known; known are adjtime, chflags`},
		{Params{Allow: []string{"mount.tmpfs"}}, "linux", `allow "mount.tmpfs" has no counterpart on Linux`},
		{Params{DevfsRuleset: -1}, "freebsd", "devfs_ruleset -1"},
		{Params{EnforceStatfs: 3}, "freebsd", "enforce_statfs 3"},
		{Params{Children: -2}, "freebsd", "children.max -2"},
		{Params{OSRelease: "twelve"}, "freebsd", `osrelease "twelve": must look like 12.2-RELEASE`},
	}
	for _, c := range cases {
		err := c.params.check(c.goos, -1)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v on %s: %v, want %q", c.params, c.goos, err, c.want)
		}
	}
}

func TestSecurelevel(t *testing.T) {
	for _, c := range []struct {
		host, asked int
		want        string
	}{
		{-1, -1, ""},
		{-1, 0, ""},
		{-1, 3, ""},
		{2, 2, ""},
		{2, 3, ""},
		{2, 1, "securelevel 1 is below the host's 2, and a jail's can only be raised; ask for 2 or leave it out"},
		{0, -1, "securelevel -1 is below the host's 0, and a jail's can only be raised; ask for 0 or leave it out"},
		{-1, 4, "securelevel 4: must be -1 to 3"},
		{3, -2, "securelevel -2: must be -1 to 3"},
	} {
		err := Params{Securelevel: &c.asked}.check("freebsd", c.host)
		if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
			t.Errorf("%d where the host's is %d: %v, want %q", c.asked, c.host, err, c.want)
		}
	}
	if err := (Params{}).check("freebsd", 3); err != nil {
		t.Errorf("left out: %v", err)
	}
}

func TestCapabilities(t *testing.T) {
	if got := (Params{}).Capabilities(); slices.Contains(got, capNetRaw) || !slices.Contains(got, capNetBindService) {
		t.Errorf("default %v", got)
	}
	if got := (Params{Allow: []string{"raw_sockets"}}).Capabilities(); !slices.Contains(got, capNetRaw) {
		t.Errorf("with raw_sockets %v", got)
	}
	const sysAdmin, sysPtrace, mknod, sysModule, auditWrite = 21, 19, 27, 16, 29
	all := Params{Allow: Allowances("linux")}
	for _, never := range []int{sysAdmin, sysPtrace, mknod, sysModule, auditWrite} {
		if slices.Contains(all.Capabilities(), never) {
			t.Errorf("capability %d can be had", never)
		}
	}
}

func TestSpecCheck(t *testing.T) {
	good := Spec{Name: "nj3f0a1b2c4d5e", Root: "/tank/t"}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Spec){
		`jail "web": not a task's name`:   func(s *Spec) { s.Name = "web" },
		`root "tank" must be an absolute`: func(s *Spec) { s.Root = "tank" },
		`root "/" must be an absolute`:    func(s *Spec) { s.Root = "/" },
		`hostname "a/b"`:                  func(s *Spec) { s.Hostname = "a/b" },
		"not both":                        func(s *Spec) { s.HostNetwork, s.NetNS = true, "/run/netns/x" },
		"devfs_ruleset":                   func(s *Spec) { s.Params.DevfsRuleset = 1 << 20 },
	} {
		spec := good
		change(&spec)
		if err := spec.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}
