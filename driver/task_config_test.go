package driver

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
	"github.com/nomad-driver-jail/nomad-driver-jail/network"
)

// taskWith is a task that Nomad could hand over, with one group port "http".
func taskWith(t *testing.T, c TaskConfig) *drivers.TaskConfig {
	t.Helper()
	if c.Image == "" {
		c.Image = "http://registry.example.org/web:1.4"
	}
	if c.NetworkMode == "" {
		c.NetworkMode = modeBridge
	}
	ports := structs.AllocatedPorts{{Label: "http", Value: 22000, To: 8080, HostIP: "192.0.2.1"}}
	cfg := &drivers.TaskConfig{
		ID:       "8c3a1f4e-0000-4000-8000-000000000000/web/1a2b3c4d",
		Name:     "web",
		AllocID:  "8c3a1f4e-0000-4000-8000-000000000000",
		AllocDir: t.TempDir(),
		Resources: &drivers.Resources{
			NomadResources: &structs.AllocatedTaskResources{
				Cpu:    structs.AllocatedCpuResources{CpuShares: 500},
				Memory: structs.AllocatedMemoryResources{MemoryMB: 64},
			},
			LinuxResources: &drivers.LinuxResources{PercentTicks: 0.25},
			Ports:          &ports,
		},
	}
	if err := cfg.EncodeConcreteDriverConfig(&c); err != nil {
		t.Fatal(err)
	}
	local := cfg.TaskDir().LocalDir
	if err := os.MkdirAll(local, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"out": "/etc", "up": ".."} {
		if err := os.Symlink(to, filepath.Join(local, name)); err != nil {
			t.Fatal(err)
		}
	}
	return cfg
}

func TestBadTaskConfigGetsOneSentence(t *testing.T) {
	for _, c := range []struct {
		name string
		task TaskConfig
		want string
	}{
		{"no colon", TaskConfig{Copy: []string{"local/a"}}, `copy "local/a": no colon; it must be SOURCE:DESTINATION`},
		{"empty source", TaskConfig{Mount: []string{":/a"}}, `mount ":/a": it must be SOURCE:DESTINATION, neither of them empty`},
		{"two colons", TaskConfig{Copy: []string{"a:/b:ro"}}, `copy "a:/b:ro": more than one colon; it must be SOURCE:DESTINATION`},
		{"relative destination", TaskConfig{Copy: []string{"a:b"}}, `copy "a:b": the destination b must be an absolute path in the jail`},
		{"dot dot in source", TaskConfig{MountReadOnly: []string{"local/../../x:/x"}}, `mount_read_only "local/../../x:/x": no path may lead upwards with .. in it`},
		{"dot dot in destination", TaskConfig{Copy: []string{"local/x:/a/../../x"}}, `copy "local/x:/a/../../x": no path may lead upwards with .. in it`},
		{"root destination", TaskConfig{Mount: []string{"local/x:/"}}, `mount "local/x:/": the destination must not be the jail's root`},
		{
			"host path not allowed",
			TaskConfig{Mount: []string{"/etc:/host"}},
			`mount "/etc:/host": host path /etc is not allowed; the operator allows it with host_paths = ["/etc"] in the plugin's configuration`,
		},
		{"source not there", TaskConfig{Mount: []string{"local/nothing:/mnt"}}, `mount "local/nothing:/mnt": there is no such file as local/nothing`},
		{"source leaves by a symlink", TaskConfig{Copy: []string{"local/out/hosts:/x"}}, `copy "local/out/hosts:/x": the source cannot be used, it must not leave its folder by a symlink`},
		{"unknown port", TaskConfig{Ports: []string{"metrics"}}, `ports: the group's network has no port "metrics"; it has http`},
		{"unknown mapped port", TaskConfig{PortMap: map[string]string{"www": "80"}}, `ports: the group's network has no port "www"; it has http`},
		{"port out of range", TaskConfig{PortMap: map[string]string{"http": "70000"}}, `port_map: http = "70000" is not a port number from 1 to 65535`},
		{
			"ports without a network",
			TaskConfig{NetworkMode: "none", Ports: []string{"http"}},
			`ports: with network_mode "none" no port of the host leads to the jail; leave ports and port_map out, or use "public-bridge"`,
		},
		{
			"port_map without a network",
			TaskConfig{NetworkMode: "none", PortMap: map[string]string{"http": "80"}},
			`ports: with network_mode "none" no port of the host leads to the jail; leave ports and port_map out, or use "public-bridge"`,
		},
		{
			"network mode",
			TaskConfig{NetworkMode: "bridge0"},
			`network_mode "bridge0" is unknown; there are "public-bridge", "host" and "none"`,
		},
		{
			"host network not allowed",
			TaskConfig{NetworkMode: "host"},
			`network_mode "host" is not allowed here; the operator allows it with allow = ["host_network"] in the plugin's configuration`,
		},
		{"image of the host", TaskConfig{Image: "file:///srv/images/web:1"}, `image file:///srv/images/web:1: host path /srv/images is not allowed`},
		{"image of the host, encoded", TaskConfig{Image: "file:///srv/%69mages/web:1"}, `image file:///srv/%69mages/web:1: host path /srv/images is not allowed`},
		{"image of the host, otherwise spelt", TaskConfig{Image: "file:/srv/images/web:1"}, `image "file:/srv/images/web:1": a file URL is file:///path/NAME:TAG`},
		{"image of the host, in capitals", TaskConfig{Image: "FILE:///srv/images/web:1"}, `image "FILE:///srv/images/web:1": a file URL is file:///path/NAME:TAG`},
		{"the task's directory", TaskConfig{Mount: []string{".:/x"}}, `mount ".:/x": a relative source is one of the task's folders local, secrets and alloc`},
		{"what Nomad keeps from the task", TaskConfig{Copy: []string{"private/x:/x"}}, `copy "private/x:/x": a relative source is one of the task's folders`},
		{"source leads up by a symlink", TaskConfig{Mount: []string{"local/up:/x"}}, `mount "local/up:/x": the source cannot be used, it must not leave its folder by a symlink`},
		{"pot without tag", TaskConfig{Pot: "web"}, `pot and tag go together: the image's name and its version, with image as their base URL`},
		{"extra host", TaskConfig{ExtraHosts: []string{"db"}}, `extra_hosts "db": want name:address`},
		{"extra host address", TaskConfig{ExtraHosts: []string{"db:nine"}}, `extra_hosts "db:nine": "nine" is not an IP address`},
		{"hostname", TaskConfig{Hostname: "a b"}, `hostname "a b": only letters, digits, dots, - and _ are possible`},
		{"hostname too long", TaskConfig{Hostname: strings.Repeat("a", 64)}, `hostname "` + strings.Repeat("a", 64) + `": only letters`},
		{"no gateway", TaskConfig{NetworkMode: "none", ExtraHosts: []string{"h:host-gateway"}}, `extra_hosts "h:host-gateway": only a task on the bridge has a gateway`},
		{
			"permission not allowed",
			TaskConfig{Allow: []string{"raw_sockets"}},
			`permission "raw_sockets" is not allowed here; the operator allows it with allow = ["raw_sockets"] in the plugin's configuration`,
		},
		{"attribute", TaskConfig{Attributes: []string{"frobnicate:yes"}}, `attributes: frobnicate:yes: pot has no such attribute`},
		{"attribute without a value", TaskConfig{Attributes: []string{"raw_sockets"}}, `attributes: "raw_sockets" must be KEY:VALUE`},
		{
			"attribute not allowed",
			TaskConfig{Attributes: []string{"prunable:YES", "raw_sockets:YES"}},
			`attributes: raw_sockets:YES: this is not allowed here; the operator allows it with allow = ["raw_sockets"] in the plugin's configuration`,
		},
		{
			"ruleset not allowed",
			TaskConfig{Attributes: []string{"devfs_ruleset:9"}},
			`devfs_ruleset 9 is not allowed here; the operator allows it with devfs_rulesets = [9] in the plugin's configuration`,
		},
		{"securelevel too low", TaskConfig{Securelevel: -2}, `securelevel -2: must be -1 to 3`},
		{"securelevel too high", TaskConfig{Securelevel: 4}, `securelevel 4: must be -1 to 3`},
		{
			"shell operator",
			TaskConfig{Pot: "web", Tag: "1", Command: "nginx; rm -rf /"},
			`command "nginx; rm -rf /": shell operators are not run; use /bin/sh with args = ["-c", …] and no pot`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := newPlan(taskWith(t, c.task), &Config{})
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestCommandOfPot(t *testing.T) {
	for _, c := range []struct {
		task TaskConfig
		want []string
	}{
		{TaskConfig{}, nil},
		{TaskConfig{Command: "/bin/a b", Args: []string{"c d"}}, []string{"/bin/a b", "c d"}},
		{TaskConfig{Pot: "p", Command: "nginx -g 'daemon off;'"}, []string{"nginx", "-g", "daemon off;"}},
		{TaskConfig{Pot: "p", Command: "nginx", Args: []string{"-g", "'daemon off;'"}}, []string{"nginx", "-g", "daemon off;"}},
	} {
		got, err := c.task.command()
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q %q: got %q, %v; want %q", c.task.Command, c.task.Args, got, err, c.want)
		}
	}
}

func TestPermitPath(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"media/films", "secret", "logs"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(dir, "secret"), filepath.Join(dir, "media/link")); err != nil {
		t.Fatal(err)
	}
	c := &Config{HostPaths: []string{filepath.Join(dir, "media") + ":ro", filepath.Join(dir, "logs")}}
	for _, x := range []struct {
		path     string
		writable bool
		want     string
	}{
		{"media", false, ""},
		{"media/films", false, ""},
		{"media/films", true, "is allowed for reading only; use mount_read_only"},
		{"media/link", false, "is not allowed"},
		{"media2", false, "is not allowed"},
		{"secret", false, "is not allowed"},
		{"logs", true, ""},
	} {
		_, _, err := c.permitPath(filepath.Join(dir, x.path), x.writable)
		if x.want == "" && err != nil || x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)) {
			t.Errorf("%s writable=%v: got %v, want %q", x.path, x.writable, err, x.want)
		}
	}
}

func TestPortMaps(t *testing.T) {
	p, err := newPlan(taskWith(t, TaskConfig{PortMap: map[string]string{"http": "80"}}), &Config{})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.ports) != 4 || p.ports[0].Proto != "tcp" || p.ports[1].Proto != "udp" || !p.ports[2].HostIP.IsLoopback() {
		t.Fatalf("want the port on tcp and udp, at the address and at localhost, got %+v", p.ports)
	}
	if m := p.ports[0]; m.HostPort != 22000 || m.TaskPort != 80 || m.HostIP.String() != "192.0.2.1" {
		t.Errorf("got %+v", m)
	}
	for i, m := range p.ports {
		if m.Optional != (i >= 2) {
			t.Errorf("what Nomad gave is needed, localhost is not: got %+v", m)
		}
	}
	p, err = newPlan(taskWith(t, TaskConfig{Ports: []string{"http"}}), &Config{})
	if err != nil {
		t.Fatal(err)
	}
	if p.ports[0].TaskPort != 8080 {
		t.Errorf("the group's `to` is the port in the jail: got %+v", p.ports[0])
	}
}

// TestPortsOfOtherNetworks: on the host's network a port is itself, and in Nomad's group network Nomad maps it.
func TestPortsOfOtherNetworks(t *testing.T) {
	group := &drivers.NetworkIsolationSpec{Path: "/var/run/netns/alloc"}
	const refused = `ports: with network_mode "host" port "http" is the host's 22000 and cannot be 8080 in the jail; ` +
		"leave out its `to` and port_map, and have the command listen on ${NOMAD_PORT_http}"
	for _, c := range []struct {
		task     TaskConfig
		to       int
		group    *drivers.NetworkIsolationSpec
		taskPort uint16
		want     string
	}{
		{task: TaskConfig{NetworkMode: modeHost, Ports: []string{"http"}}, to: 0, taskPort: 22000},
		{task: TaskConfig{NetworkMode: modeHost, Ports: []string{"http"}}, to: -1, taskPort: 22000},
		{task: TaskConfig{NetworkMode: modeHost, Ports: []string{"http"}}, to: 22000, taskPort: 22000},
		{task: TaskConfig{NetworkMode: modeHost, Ports: []string{"http"}}, to: 8080, want: refused},
		{task: TaskConfig{NetworkMode: modeHost, PortMap: map[string]string{"http": "8080"}}, want: refused},
		{task: TaskConfig{NetworkMode: modeHost, PortMap: map[string]string{"http": "22000"}}, to: 8080, taskPort: 22000},
		{task: TaskConfig{NetworkMode: modeBridge, Ports: []string{"http"}}, to: -1, taskPort: 22000},
		{task: TaskConfig{NetworkMode: modeBridge, Ports: []string{"http"}}, to: 8080, group: group, taskPort: 8080},
		{task: TaskConfig{NetworkMode: modeNone, Ports: []string{"http"}}, to: 8080, group: group, taskPort: 8080},
	} {
		cfg := taskWith(t, c.task)
		(*cfg.Resources.Ports)[0].To, cfg.NetworkIsolation = c.to, c.group
		p, err := newPlan(cfg, &Config{Allow: []string{hostNetwork}})
		switch {
		case c.want != "" && (err == nil || err.Error() != c.want):
			t.Errorf("%+v, to = %d: got %v, want %s", c.task, c.to, err, c.want)
		case c.want == "" && (err != nil || p.ports[0].TaskPort != c.taskPort):
			t.Errorf("%+v, to = %d: got %v, want the task's port %d", c.task, c.to, err, c.taskPort)
		}
	}
}

// TestPortInConsul: the port goes with the address, which without one of the jail's own is the agent's.
func TestPortInConsul(t *testing.T) {
	s := State{Ports: []network.PortMap{{Label: "http", HostPort: 22000, TaskPort: 80, Proto: "tcp"}}}
	if i := instance("njx", s, jail.Status{}); i.Address != "" || i.Port != 22000 {
		t.Errorf("without an address of its own: %s:%d, want the host's port", i.Address, i.Port)
	}
	s.Address = "10.99.3.7"
	if i := instance("njx", s, jail.Status{}); i.Address != "10.99.3.7" || i.Port != 80 {
		t.Errorf("with an address of its own: %s:%d, want the jail's port", i.Address, i.Port)
	}
}

// TestPortOnTwoAddresses: Nomad gives a port at each address by itself, at the loopback address too.
func TestPortOnTwoAddresses(t *testing.T) {
	cfg := taskWith(t, TaskConfig{Ports: []string{"in", "out", "local"}})
	*cfg.Resources.Ports = structs.AllocatedPorts{
		{Label: "in", Value: 80, To: 8080, HostIP: "192.0.2.1"},
		{Label: "out", Value: 80, To: 8081, HostIP: "2001:db8::1"},
		{Label: "local", Value: 80, To: 8082, HostIP: "127.0.0.1"},
	}
	p, err := newPlan(cfg, &Config{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range p.ports {
		if m.Proto == "tcp" {
			got = append(got, fmt.Sprintf("%s %s %d %v", m.Label, m.HostIP, m.TaskPort, m.Optional))
		}
	}
	want := []string{
		"in 192.0.2.1 8080 false", "out 2001:db8::1 8081 false", "local 127.0.0.1 8082 false",
		"in 127.0.0.1 8080 true", "out ::1 8081 true",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPidsLimit(t *testing.T) {
	for _, c := range []struct {
		task, operator int
		want           uint64
		refused        string
	}{
		{0, 0, 0, ""},
		{0, 2048, 2048, ""},
		{16, 2048, 16, ""},
		{4096, 0, 4096, ""},
		{2049, 2048, 0, "pids_limit 2049 is above the 2048 of the plugin's configuration, where the operator raises pids_limit"},
		{-1, 0, 0, "pids_limit -1 must be above 0"},
	} {
		p, err := newPlan(taskWith(t, TaskConfig{PidsLimit: c.task}), &Config{PidsLimit: c.operator})
		if err != nil && err.Error() != c.refused || err == nil && (c.refused != "" || p.limits.MaxProc != c.want) {
			t.Errorf("%+v: %+v, %v", c, p, err)
		}
	}
}

func TestLimits(t *testing.T) {
	cfg := taskWith(t, TaskConfig{})
	p, err := newPlan(cfg, &Config{})
	if err != nil {
		t.Fatal(err)
	}
	if p.limits.Memory != 64<<20 || p.limits.MemorySoft != 0 || p.limits.CPUShares != 500 || p.limits.CPUQuota != 0 {
		t.Errorf("got %+v", p.limits)
	}
	cfg.Resources.NomadResources.Memory.MemoryMaxMB = 128
	p, err = newPlan(cfg, &Config{CPUHardLimit: true})
	if err != nil {
		t.Fatal(err)
	}
	if p.limits.Memory != 128<<20 || p.limits.MemorySoft != 64<<20 || p.limits.CPUQuota <= 0 || p.limits.Cores != nil {
		t.Errorf("got %+v", p.limits)
	}
	cfg.Resources.LinuxResources.CpusetCpus = "0,3"
	if p, err = newPlan(cfg, &Config{}); err != nil || !slices.Equal(p.limits.Cores, []int{0, 3}) {
		t.Errorf("got %+v, %v", p, err)
	}
	cfg.Resources.LinuxResources.CpusetCpus = "0-3"
	if _, err = newPlan(cfg, &Config{}); err == nil || !strings.Contains(err.Error(), `cores "0-3", as Nomad reserved them`) {
		t.Errorf("got %v", err)
	}
}

func TestName(t *testing.T) {
	name := Name("8c3a1f4e-0000-4000-8000-000000000000/web/1a2b3c4d")
	if len(name) != 14 || !strings.HasPrefix(name, "nj") {
		t.Errorf("got %q, which with a letter more must fit an interface's name of 15 bytes", name)
	}
	if name == Name("8c3a1f4e-0000-4000-8000-000000000000/web/1a2b3c4e") {
		t.Error("another invocation has the same name")
	}
}

// TestRulesetOnHostsNetwork: ruleset 5 shows /dev/pf, which on the host's network stack is the host's firewall.
func TestRulesetOnHostsNetwork(t *testing.T) {
	const refused = `devfs_ruleset 5 with network_mode "host", and so with the host's /dev/pf, is not allowed here; ` +
		`the operator allows it with devfs_rulesets = [5] in the plugin's configuration`
	for _, c := range []struct {
		mode, attribute string
		ruleset         int
		listed          []int
		want            string
	}{
		{mode: modeBridge, ruleset: 5},
		{mode: modeNone, ruleset: 5},
		{mode: modeHost, ruleset: 4},
		{mode: modeHost},
		{mode: modeHost, ruleset: 5, want: refused},
		{mode: modeHost, ruleset: 5, listed: []int{10}, want: refused},
		{mode: modeHost, attribute: "devfs_ruleset:5", want: refused},
		{mode: modeHost, ruleset: 5, listed: []int{10, 5}},
		{mode: modeHost, ruleset: 10, listed: []int{10}},
	} {
		task := TaskConfig{NetworkMode: c.mode, DevfsRuleset: c.ruleset}
		if c.attribute != "" {
			task.Attributes = []string{c.attribute}
		}
		_, err := newPlan(taskWith(t, task), &Config{Allow: []string{hostNetwork}, DevfsRulesets: c.listed})
		if got := fmt.Sprint(err); c.want == "" && err != nil || c.want != "" && got != c.want {
			t.Errorf("%+v: got %v", c, err)
		}
	}
}
