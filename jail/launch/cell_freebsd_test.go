package launch

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

// jls asks the host's own tool what a jail is like.
func jls(t *testing.T, name string, params ...string) string {
	t.Helper()
	out, err := exec.Command("jls", append([]string{"-j", name, "-n"}, params...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("jls: %v %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestJailParameters(t *testing.T) {
	level := 2
	cases := map[string]struct {
		change func(*jail.Spec)
		want   string
	}{
		"the safe default": {
			func(*jail.Spec) {},
			"allow.chflags=false allow.mlock=false allow.mount=false allow.quotas=false allow.raw_sockets=false allow.socket_af=false " +
				"allow.sysvipc=false children.max=0 devfs_ruleset=4 enforce_statfs=2 host=new ip4=inherit ip6=inherit persist=true sysvshm=disable vnet=new",
		},
		"the host's network": {
			func(s *jail.Spec) { s.HostNetwork = true },
			"allow.chflags=false allow.mlock=false allow.mount=false allow.quotas=false allow.raw_sockets=false allow.socket_af=false " +
				"allow.sysvipc=false children.max=0 devfs_ruleset=4 enforce_statfs=2 host=new ip4=inherit ip6=inherit persist=true vnet=inherit",
		},
		"widened": {
			func(s *jail.Spec) {
				s.Params = jail.Params{Allow: []string{"raw_sockets", "chflags", "mount.devfs"}, Children: 2, EnforceStatfs: 1, DevfsRuleset: 4, Securelevel: &level}
			},
			"allow.chflags=true allow.mlock=false allow.mount=true allow.quotas=false allow.raw_sockets=true allow.socket_af=false " +
				"allow.sysvipc=false children.max=2 devfs_ruleset=4 enforce_statfs=1 host=new ip4=inherit ip6=inherit persist=true vnet=new",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			k := newTask(t, "/bin/sleep", "30")
			c.change(&k.spec)
			k.create()
			var names []string
			for _, f := range strings.Fields(c.want) {
				name, _, _ := strings.Cut(f, "=")
				names = append(names, name)
			}
			// FreeBSD 12's jls -n has numbers for booleans and jailsys, later ones have words.
			numbers := strings.NewReplacer("=false", "=0", "=disable", "=0", "=true", "=1", "=new", "=1", "=inherit", "=2").Replace(c.want)
			words := regexp.MustCompile(`(\w+)=false`).ReplaceAllString(strings.ReplaceAll(c.want, "=true", ""), "no$1")
			if got := jls(t, k.spec.Name, names...); got != numbers && got != words {
				t.Errorf("got  %s\nwant %s\nor   %s", got, numbers, words)
			}
		})
	}
}

func TestJailNames(t *testing.T) {
	k := newTask(t, "/bin/sleep", "30")
	k.create()
	if _, err := jail.Create(k.spec); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("created twice: %v", err)
	}
	cell, found, err := jail.Find(k.spec.Name)
	if err != nil || !found || cell.JID <= 0 {
		t.Errorf("find: %+v %v %v", cell, found, err)
	}
	names, err := jail.List()
	if err != nil || !slices.Contains(names, k.spec.Name) {
		t.Errorf("list: %v %v", names, err)
	}
}

// The kernel's words reach whoever asked for what it refuses.
func TestJailRefused(t *testing.T) {
	k := newTask(t, "/bin/sleep", "30")
	k.spec.Root = "/nonexistent/root"
	if _, err := jail.Create(k.spec); err == nil || !strings.Contains(err.Error(), "no such file or directory") {
		t.Errorf("error %v", err)
	}
	if _, found, _ := jail.Find(k.spec.Name); found {
		t.Error("something is left")
	}
}

// What root in the jail may not do.
func TestJailForbids(t *testing.T) {
	for what, script := range map[string]string{
		"mount":                 `mount -t tmpfs tmpfs /tmp`,
		"make a device":         `mknod /tmp/disk c 0 5 && cat /tmp/disk`,
		"open a raw socket":     `ping -c1 127.0.0.1`,
		"load a module":         `kldload pf`,
		"see processes":         `ps -ax -o pid= | wc -l | grep -qv ' [1-9]$'`,
		"see the host's mounts": `mount | grep -v ' on / '`,
		"make a jail":           `jail -c name=x path=/ persist`,
		"set the host's sysctl": `sysctl kern.maxprocperuid=100`,
		"set an immutable flag": `touch /tmp/f && chflags schg /tmp/f`,
		"remove its limits":     `rctl -r jail:`,
	} {
		t.Run(what, func(t *testing.T) {
			k := shell(t, `PATH=$PATH:/sbin:/usr/sbin; `+script+` && echo did it`)
			mount(t, "nullfs", "/sbin", filepath.Join(k.spec.Root, "sbin"))
			if _, out := k.run(); strings.Contains(out, "did it") {
				t.Errorf("output %q %q", out, k.err.text())
			}
		})
	}
}

func TestJailNetwork(t *testing.T) {
	k := shell(t, `/sbin/ifconfig -l`)
	mount(t, "nullfs", "/sbin", filepath.Join(k.spec.Root, "sbin"))
	_, own := k.run()
	k = shell(t, `/sbin/ifconfig -l`)
	k.spec.HostNetwork = true
	mount(t, "nullfs", "/sbin", filepath.Join(k.spec.Root, "sbin"))
	host, err := exec.Command("ifconfig", "-l").Output()
	must(t, err)
	if _, out := k.run(); out != string(host) {
		t.Errorf("the host's network: %q, want %q", out, host)
	}
	for _, name := range strings.Fields(string(host)) {
		everywhere := strings.HasPrefix(name, "lo") || strings.HasPrefix(name, "pf") // made with each stack
		if !everywhere && slices.Contains(strings.Fields(own), name) || !strings.HasPrefix(own, "lo0") {
			t.Errorf("own network: %q", own)
		}
	}
}

func TestJailReleaseAndSecurelevel(t *testing.T) {
	level := 2
	k := shell(t, `uname -r; uname -K; /sbin/sysctl -n kern.securelevel; /sbin/sysctl kern.securelevel=-1 2>/dev/null >&2 || echo stays`)
	mount(t, "nullfs", "/sbin", filepath.Join(k.spec.Root, "sbin"))
	k.spec.Params.OSRelease, k.spec.Params.Securelevel = "12.1-RELEASE", &level
	if _, out := k.run(); out != "12.1-RELEASE\n1201000\n2\nstays\n" {
		t.Errorf("output %q", out)
	}
}

// rctl(8) kills by a signal that looks like any other: with a limit set, one that nobody announced is its own.
func TestOutOfMemory(t *testing.T) {
	const eat = `x=0123456789abcdef; while :; do x=$x$x; done`
	k := shell(t, eat)
	k.spec.MemoryLimit = 64 << 20
	rule := fmt.Sprintf("jail:%s:memoryuse:sigkill=64m", k.spec.Name)
	t.Cleanup(func() {
		if out, err := exec.Command("rctl", "-r", rule).CombinedOutput(); err != nil {
			t.Errorf("rctl: %v %s", err, out)
		}
	})
	if out, err := exec.Command("rctl", "-a", rule).CombinedOutput(); err != nil {
		t.Fatalf("rctl: %v %s", err, out)
	}
	if status, _ := k.run(); !status.OOMKilled || status.Signal != 9 {
		t.Errorf("status %+v", status)
	}
	k = newTask(t, "/bin/sleep", "1000")
	k.spec.MemoryLimit = 64 << 20
	k.start()
	must(t, jail.Kill(k.dir))
	if status := k.wait(); status.OOMKilled || status.Signal != 9 {
		t.Errorf("killed by us: %+v", status)
	}
}

// The shim's orphans are its own to reap, not init's.
func TestShimIsReaper(t *testing.T) {
	k := shell(t, `(sleep 30 & echo $! > /tmp/pid); while :; do sleep 0.1; done`)
	status := k.start()
	var pid string
	for pid == "" {
		b, _ := os.ReadFile(filepath.Join(k.spec.Root, "tmp/pid"))
		pid = strings.TrimSpace(string(b))
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		out, err := exec.Command("ps", "-o", "ppid=", "-p", pid).Output()
		if err == nil && strings.TrimSpace(string(out)) == fmt.Sprint(status.ShimPID) {
			return
		}
		if time.Now().After(deadline) { // at first its parent may be there yet
			t.Fatalf("parent of the orphan %q, want %d (%v)", out, status.ShimPID, err)
		}
	}
}
