package driver

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/testutils"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/rootfs"
	"github.com/nomad-driver-jail/nomad-driver-jail/image"
	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

// host runs a command of the host's, which must succeed, and returns its words.
func host(t testing.TB, command ...string) string {
	t.Helper()
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(command, " "), err, out)
	}
	return strings.Join(strings.Fields(string(out)), " ")
}

// wideHarness is a driver whose operator allows more than nothing.
func wideHarness(t *testing.T) (*testutils.DriverHarness, *Driver) {
	t.Helper()
	config := DefaultConfig()
	dir := t.TempDir()
	config.Directory, config.StateDir = filepath.Join(dir, "store"), filepath.Join(dir, "state")
	config.Consul.Enabled = false
	config.Allow = []string{"raw_sockets", "sysvipc", "mount.fdescfs", "mount.procfs", "mount.tmpfs", hostNetwork}
	config.DevfsRulesets = []int{2, 777}
	return harnessWith(t, config)
}

// sleeper is a task of that configuration which runs until it is destroyed.
func sleeper(t *testing.T, h *testutils.DriverHarness, change func(*TaskConfig, *drivers.TaskConfig)) *drivers.TaskConfig {
	t.Helper()
	cfg := newTaskConfig(t, h, "")
	config := TaskConfig{Image: testImage, Command: "/bin/sleep", Args: []string{"1000"}, NetworkMode: modeBridge, Securelevel: -1}
	change(&config, cfg)
	if err := cfg.EncodeConcreteDriverConfig(&config); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// What jls(8) prints of the parameters that jail(8) calls jailsys.
const (
	sysDisable = "0"
	sysNew     = "1"
	sysInherit = "2"
)

// jlsNumbers are what FreeBSD 12's jls(8) has for booleans and jailsys, where later ones have words.
var jlsNumbers = strings.NewReplacer("true", "1", "false", "0", "disable", sysDisable, "new", sysNew, "inherit", sysInherit)

// TestJailParameters asks the kernel what the jails have that the driver made.
func TestJailParameters(t *testing.T) {
	h, _ := wideHarness(t)
	for _, c := range []struct {
		name   string
		change func(*TaskConfig, *drivers.TaskConfig)
		// What jls(8) says of the jail, and what a shell in it does.
		parameters map[string]string
		inside     map[string]string
	}{
		{
			"safe by default", func(*TaskConfig, *drivers.TaskConfig) {},
			map[string]string{
				"enforce_statfs": "2", "children.max": "0", "devfs_ruleset": "4", "vnet": sysNew, "allow.raw_sockets": "0", "allow.mount": "0",
				"allow.sysvipc": "0", "sysvshm": sysDisable, "sysvmsg": sysDisable, "sysvsem": sysDisable,
			},
			map[string]string{
				"ls /dev/mem /dev/vtbd0 2>/dev/null || echo none": "none",
				"mount -t tmpfs tmpfs /tmp 2>&1 | tail -n 1":      "mount: tmpfs: Operation not permitted",
			},
		},
		{
			"permissions of the job",
			func(c *TaskConfig, _ *drivers.TaskConfig) {
				c.Allow, c.Securelevel = []string{"raw_sockets", "sysvipc"}, 2
			},
			map[string]string{"allow.raw_sockets": "1", "sysvshm": sysNew, "sysvmsg": sysNew, "sysvsem": sysNew, "securelevel": "2"},
			map[string]string{
				"sysctl -n kern.securelevel":                                                      "2",
				`ping -q -c 1 127.0.0.1 > /dev/null && echo answered`:                             "answered",
				`case $(sysctl kern.securelevel=1 2>&1) in *"not permitted"*) echo refused; esac`: "refused",
			},
		},
		{
			"pot's attributes",
			func(c *TaskConfig, _ *drivers.TaskConfig) {
				c.Attributes = []string{"raw_sockets:ON", "sysvshm:YES", "devfs_ruleset:2", "persistent:NO"}
			},
			map[string]string{"allow.raw_sockets": "1", "sysvshm": sysNew, "devfs_ruleset": "2"},
			nil,
		},
		{
			"what pot mounts, and lets mount",
			func(c *TaskConfig, _ *drivers.TaskConfig) {
				c.Attributes = []string{"fdescfs:YES", "procfs:YES", "tmpfs:YES", "enforce_statfs:1"}
			},
			map[string]string{"enforce_statfs": "1", "allow.mount.tmpfs": "1", "allow.mount.nullfs": "0"},
			map[string]string{
				"echo text > /tmp/f; exec 8< /tmp/f; cat /dev/fd/8":        "text",
				"test -e /proc/$$/status && test ! -e /proc/1 && echo own": "own",
				"mount -t tmpfs tmpfs /tmp && echo mounted":                "mounted",
			},
		},
		{
			"the host's network",
			func(c *TaskConfig, _ *drivers.TaskConfig) { c.NetworkMode = modeHost },
			map[string]string{"vnet": sysInherit, "ip4": sysInherit, "ip6": sysInherit, "devfs_ruleset": "4", "allow.raw_sockets": "0"},
			// With a network stack of its own a jail always has raw sockets.
			map[string]string{`case $(ping -c 1 127.0.0.1 2>&1) in *"not permitted"*) echo refused; esac`: "refused"},
		},
		{
			"raw sockets on the host's network",
			func(c *TaskConfig, _ *drivers.TaskConfig) { c.NetworkMode, c.Allow = modeHost, []string{"raw_sockets"} },
			map[string]string{"vnet": sysInherit, "allow.raw_sockets": "1"},
			map[string]string{`ping -q -c 1 127.0.0.1 > /dev/null && echo answered`: "answered"},
		},
		{
			"no network",
			func(c *TaskConfig, _ *drivers.TaskConfig) { c.NetworkMode = modeNone },
			map[string]string{"vnet": sysNew},
			map[string]string{`for i in $(ifconfig -l); do case $i in epair*|nj*|vtnet*) echo $i; esac; done`: ""},
		},
	} {
		cfg := sleeper(t, h, c.change) // of this test: the harness ends with its first task's end
		t.Run(c.name, func(t *testing.T) {
			startTask(t, h, cfg)
			for parameter, want := range c.parameters {
				if got := jlsNumbers.Replace(host(t, "jls", "-j", Name(cfg.ID), parameter)); got != want {
					t.Errorf("%s is %q, want %q", parameter, got, want)
				}
			}
			for command, want := range c.inside {
				if _, out, _ := testutils.ExecTask(t, h, cfg.ID, command, false, ""); strings.TrimSpace(out) != want {
					t.Errorf("%s says %q, want %q", command, out, want)
				}
			}
		})
	}
}

// TestCores has what Nomad reserved for the task in the jail's cpuset(2), and so in all processes of it.
func TestCores(t *testing.T) {
	h, _ := wideHarness(t)
	cfg := sleeper(t, h, func(_ *TaskConfig, cfg *drivers.TaskConfig) {
		cfg.Resources.LinuxResources.CpusetCpus = "0"
	})
	startTask(t, h, cfg)
	jid := host(t, "jls", "-j", Name(cfg.ID), "jid")
	wantMask(t, "jail "+jid+" mask: 0", "-j", jid)
	status, err := h.InspectTask(cfg.ID)
	if err != nil {
		t.Fatal(err)
	}
	pid := status.DriverAttributes["pid"]
	wantMask(t, "pid "+pid+" mask: 0", "-p", pid)
}

// wantMask has cpuset(1) say line. It has one more, of the domain's memory, which ends in a mask as well.
func wantMask(t *testing.T, line string, which ...string) {
	t.Helper()
	out, err := exec.Command("cpuset", append([]string{"-g"}, which...)...).CombinedOutput()
	if err != nil || !slices.Contains(strings.Split(string(out), "\n"), line) {
		t.Errorf("cpuset says %q, %v; want %s", out, err, line)
	}
}

// TestRefusals are starts that FreeBSD has its own reasons to refuse: one sentence, and nothing is left.
func TestRefusals(t *testing.T) {
	h, d := wideHarness(t)
	buildRelease(t, d, "future:1.0", "99.1-RELEASE")
	buildRelease(t, d, "past:1.0", "11.4-RELEASE")
	for _, c := range []struct {
		name   string
		change func(*TaskConfig, *drivers.TaskConfig)
		want   string
	}{
		{
			"devfs ruleset that does not exist", func(c *TaskConfig, _ *drivers.TaskConfig) { c.DevfsRuleset = 777 },
			"devfs ruleset 777 has no rules and would show all the host's devices",
		},
		{
			"devfs ruleset that the operator does not list", func(c *TaskConfig, _ *drivers.TaskConfig) { c.DevfsRuleset = 1 },
			"devfs_ruleset 1 is not allowed here; the operator allows it with devfs_rulesets = [1]",
		},
		{
			"image of a newer release", func(c *TaskConfig, _ *drivers.TaskConfig) { c.Image = "future:1.0" },
			"image future:1.0: it is made from 99.1-RELEASE and this host's kernel is ",
		},
	} {
		cfg := sleeper(t, h, c.change) // of this test: the harness ends with its first task's end
		t.Run(c.name, func(t *testing.T) {
			_, _, err := h.StartTask(cfg)
			if err == nil {
				h.DestroyTask(cfg.ID, true)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line with %s", err, c.want)
			}
			nothingLeft(t, d, cfg)
		})
	}
	startTask(t, h, sleeper(t, h, func(c *TaskConfig, _ *drivers.TaskConfig) { c.Image = "past:1.0" })) // an older one runs
}

func buildRelease(t *testing.T, d *Driver, name, release string) {
	t.Helper()
	root := t.TempDir()
	if err := rootfs.Make(root, ""); err != nil {
		t.Fatal(err)
	}
	ref, err := image.ParseReference(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.host.Images.Build(context.Background(), ref, root, image.BuildOptions{OSRelease: release}); err != nil {
		t.Fatal(err)
	}
}

// TestRemovedBehindOurBack has an operator remove the jail: the task ends, and its network goes with it.
func TestRemovedBehindOurBack(t *testing.T) {
	h, d := wideHarness(t)
	cfg := sleeper(t, h, func(*TaskConfig, *drivers.TaskConfig) {})
	startTask(t, h, cfg)
	if err := jail.Kill(d.host.taskDir(Name(cfg.ID))); err != nil {
		t.Fatal(err)
	}
	if r := waitTask(t, h, cfg.ID); r.Signal != 9 || r.OOMKilled {
		t.Errorf("got %+v, want signal 9", r)
	}
	if err := h.DestroyTask(cfg.ID, false); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, d, cfg)
}

// TestLingeringConnection has a jail die slowly: its last connection is in TIME_WAIT, and keeps the jail and its root for a minute.
func TestLingeringConnection(t *testing.T) {
	h, d := harnessWith(t, poolConfig(t))
	cfg := sleeper(t, h, func(c *TaskConfig, _ *drivers.TaskConfig) {
		// FreeBSD 14 has no TIME_WAIT by default, and 15 a short one, where both ends are the host's.
		c.Command, c.Args = "/bin/sh", []string{"-c", "sysctl net.inet.tcp.nolocaltimewait=0; sysctl net.inet.tcp.msl_local=30000; " +
			"nc -l 127.0.0.1 99 & sleep 1; echo hello | nc -N 127.0.0.1 99; wait; echo done > /local/done; exec sleep 1000"}
	})
	startTask(t, h, cfg)
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(cfg.TaskDir().LocalDir, "done")); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the connection does not end")
		}
	}
	if err := h.DestroyTask(cfg.ID, true); err != nil {
		t.Fatal(err)
	}
	if !jail.Lingers(Name(cfg.ID)) {
		t.Error("the jail has no connection that lingers, so this shows nothing")
	}
	nothingLeft(t, d, cfg)
}

func TestFingerprintOfFreeBSD(t *testing.T) {
	_, d := wideHarness(t)
	f := d.fingerprint(context.Background())
	if f.Health != drivers.HealthStateHealthy {
		t.Errorf("health is %s: %s", f.Health, f.HealthDescription)
	}
	for key, want := range map[string]string{
		"kernel.release": host(t, "uname", "-r"), "kernel.os": "freebsd", "limits.racct": "true", "storage.format": "tar",
	} {
		got, ok := f.Attributes["driver.jail."+key].GetString()
		if !ok || got != want {
			t.Errorf("attribute %s is %q, want %q", key, got, want)
		}
	}
	for _, key := range []string{"kernel", "storage", "limits", "shim", "devfs", "vnet", "forwarding", "bridge", "subnet", "pf", "pf_anchors"} {
		if got, ok := f.Attributes["driver.jail."+key].GetBool(); !ok || !got {
			t.Errorf("attribute %s is not true", key)
		}
	}
}
