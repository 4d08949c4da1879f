package launch

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

// inside runs a script as a task's only process and returns what it wrote to both outputs.
func inside(t *testing.T, change func(*jail.Spec), script string) string {
	t.Helper()
	k := shell(t, script)
	if change != nil {
		change(&k.spec)
	}
	_, out := k.run()
	return out + k.err.text()
}

func TestCellSeesOnlyItself(t *testing.T) {
	out := inside(t, nil, `ps -o pid,args; echo; ls /; echo; ip -o link | cut -d: -f2 2>/dev/null; cat /proc/sys/kernel/hostname`)
	for _, path := range []string{"/tmp/", "shim-", "tasks"} {
		if strings.Contains(out, path) {
			t.Errorf("%q of the host is in sight: %s", path, out)
		}
	}
	if strings.Contains(out, "jail-shim") || strings.Count(out, "\n") > 20 || !strings.Contains(out, "box") {
		t.Errorf("output %s", out)
	}
}

// What root in the cell may not do.
func TestCellForbids(t *testing.T) {
	for what, script := range map[string]string{
		"mount":                   `mount -t tmpfs none /tmp`,
		"set the hostname":        `hostname other`,
		"make a device":           `mknod /tmp/disk b 8 0`,
		"write to /proc/sys":      `echo 1 > /proc/sys/kernel/panic`,
		"trigger sysrq":           `echo h > /proc/sysrq-trigger`,
		"read the shim's files":   `ls -l /proc/1/fd/ | grep -q -- '->'`,
		"open the shim's files":   `ls /proc/1/fd/3/ || cat /proc/1/fd/3`,
		"have the shim killed":    `echo 1000 > /proc/1/oom_score_adj`,
		"know of the shim":        `cat /proc/1/cmdline || cat /proc/1/status`,
		"read the shim's memory":  `cat /proc/1/mem`,
		"read its environment":    `cat /proc/1/environ`,
		"follow its root":         `ls /proc/1/root/`,
		"follow its directory":    `ls /proc/1/cwd/`,
		"see its program":         `ls -l /proc/1/exe | grep -q shim`,
		"read its memory map":     `cat /proc/1/maps`,
		"enter another namespace": `cat /proc/1/ns/pid; [ -e /proc/1/ns/pid ]`,
	} {
		t.Run(what, func(t *testing.T) {
			k := shell(t, script+` && echo did it`)
			if _, out := k.run(); strings.Contains(out, "did it") {
				t.Errorf("output %q %q", out, k.err.text())
			}
		})
	}
}

func TestHiddenProc(t *testing.T) {
	out := inside(t, nil, `cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | head -c 10 | wc -c; ls /proc/acpi /proc/scsi 2>/dev/null | wc -l; cat /proc/meminfo | head -n1`)
	if f := strings.Fields(out); len(f) < 3 || f[0] != "0" || !strings.Contains(out, "MemTotal") {
		t.Errorf("output %q", out)
	}
}

// The shim survives whatever root in the cell sends to its own init.
func TestCellCannotSignalShim(t *testing.T) {
	k := shell(t, `for s in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 34 40 64; do kill -$s 1; done; sleep 0.2; exit 9`)
	if status, _ := k.run(); status.ExitCode != 9 {
		t.Errorf("status %+v", status)
	}
}

// Nor does it take other limits from there.
func TestCellCannotLimitShim(t *testing.T) {
	k := newTask(t, "/bin/limiter")
	build := exec.Command("go", "build", "-o", filepath.Join(k.spec.Root, "bin/limiter"), "testdata/limiter.go")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if status, out := k.run(); status.ExitCode != 0 || out != "operation not permitted\n" {
		t.Errorf("status %+v, output %q", status, out)
	}
}

func TestCapabilitiesOfCell(t *testing.T) {
	const set = `sed -n 's/^Cap\([A-Z][a-z]*\):.0*/\1 /p' /proc/self/status`
	out := inside(t, func(s *jail.Spec) { s.Command, s.Args = "/bin/busybox", []string{"sh", "-c", `busybox ` + set} }, "")
	if want := "Inh \nPrm 800405fb\nEff 800405fb\nBnd 800405fb\nAmb \n"; out != want {
		t.Errorf("root has %q, want %q", out, want)
	}
	out = inside(t, func(s *jail.Spec) { s.User, s.Args = "web", []string{"-c", `/bin/busybox ` + set} }, "")
	if want := "Inh \nPrm \nEff \nBnd 800405fb\nAmb \n"; out != want {
		t.Errorf("a user has %q, want %q", out, want)
	}
	out = inside(t, func(s *jail.Spec) {
		s.Params.Allow, s.Args = []string{"raw_sockets"}, []string{"-c", `/bin/busybox ` + set}
	}, "")
	if !strings.Contains(out, "Eff 800425fb\n") {
		t.Errorf("with raw sockets %q", out)
	}
}

// A device node that comes with an image is of no use, one below /dev is.
func TestDevicesOfImage(t *testing.T) {
	k := shell(t, `cat /null; cat /dev/null && echo fine`)
	must(t, unix.Mknod(filepath.Join(k.spec.Root, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	if _, out := k.run(); out != "fine\n" {
		t.Errorf("output %q", out)
	}
	if errs := k.err.text(); !strings.Contains(errs, "Permission denied") {
		t.Errorf("stderr %q", errs)
	}
}

func TestNetworkOfCell(t *testing.T) {
	const script = `cat /proc/net/dev | grep -c :; ip -o link show lo | grep -c UP`
	if out := inside(t, nil, script); out != "1\n1\n" {
		t.Errorf("own network: %q", out)
	}
	count, err := os.ReadFile("/proc/net/dev")
	must(t, err)
	host := fmt.Sprintf("%d\n", strings.Count(string(count), ":"))
	if out := inside(t, func(s *jail.Spec) { s.HostNetwork = true }, `cat /proc/net/dev | grep -c :`); out != host {
		t.Errorf("the host's network: %q, want %q", out, host)
	}
	// Nomad's bridge mode: a namespace that somebody else made.
	other := newTask(t, "/bin/sleep", "0")
	cell, err := jail.Create(other.spec)
	must(t, err)
	defer jail.Remove(other.spec.Name)
	want, err := os.Readlink("/proc/self/ns/net")
	must(t, err)
	out := inside(t, func(s *jail.Spec) { s.NetNS = cell.NetNS }, `readlink /proc/self/ns/net || ls -l /proc/self/ns/net`)
	var st unix.Stat_t
	must(t, unix.Stat(cell.NetNS, &st))
	if !strings.Contains(out, fmt.Sprintf("net:[%d]", st.Ino)) || strings.Contains(out, want) {
		t.Errorf("joined %q, want net:[%d]", out, st.Ino)
	}
}

// cgroup makes a cgroup of version 1 for one test.
func cgroup(t *testing.T, controller string) string {
	t.Helper()
	dir := filepath.Join("/sys/fs/cgroup", controller, "nomad-driver-jail-test-"+randomName())
	must(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() {
		for range 50 {
			if err := os.Remove(dir); err == nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		procs, _ := os.ReadFile(filepath.Join(dir, "tasks"))
		t.Errorf("%s cannot be removed; in it: %s", dir, procs)
	})
	return dir
}

// The task and what it starts are in its cgroups from the first instruction; the shim and its threads are not.
func TestCgroups(t *testing.T) {
	memory, pids, unified := cgroup(t, "memory"), cgroup(t, "pids"), cgroup(t, "unified")
	k := shell(t, `cat /proc/self/cgroup; sleep 100 & echo ready; wait`)
	k.spec.Cgroups = []string{memory, pids, unified}
	status := k.start()
	out := k.out.until("ready")
	for _, dir := range k.spec.Cgroups {
		if strings.Count(out, "/"+filepath.Base(dir)+"\n") != 1 {
			t.Errorf("%s is not in %s", dir, out)
		}
	}
	if own, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", status.ShimPID)); err != nil || strings.Contains(string(own), "test") {
		t.Errorf("the shim is in %s %v", own, err)
	}
	if n := lineCount(t, filepath.Join(memory, "tasks")); n != 2 {
		t.Errorf("%d tasks in the cgroup, want the shell and sleep", n)
	}
	if _, out, _ := k.script("cat /proc/self/cgroup", nil); strings.Count(out, "test") != 3 {
		t.Errorf("exec is in %s", out)
	}
}

// What stops Nomad's service stops what is in its cgroups; shims and tasks are not.
func TestShimLeavesCgroups(t *testing.T) {
	service, unified := cgroup(t, "memory"), cgroup(t, "unified")
	k := newTask(t, "/bin/sleep", "1000")
	status := k.startByOther("JAIL_TEST_CGROUPS=" + service + ":" + unified)
	if in := cgroupsOf(t, status.PID); strings.Contains(in, "test") {
		t.Errorf("the task is in %s", in)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) { // it leaves after it has told of the start
		in := cgroupsOf(t, status.ShimPID)
		if !strings.Contains(in, "test") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the shim is in %s", in)
		}
	}
}

func cgroupsOf(t *testing.T, pid int) string {
	t.Helper()
	in, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	must(t, err)
	return string(in)
}

func lineCount(t *testing.T, path string) int {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return strings.Count(string(b), "\n")
}

func TestOutOfMemory(t *testing.T) {
	const eat = `x=0123456789abcdef; while :; do x=$x$x; done`
	cases := map[string]struct {
		script string
		want   bool
	}{
		"the first process":          {eat, true},
		"a child, passed on":         {`sh -c '` + eat + `'; exit $?`, true},
		"a child that is not missed": {`sh -c '` + eat + `'; exit 0`, false},
		"another end":                {`exit 137`, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := cgroup(t, "memory")
			must(t, os.WriteFile(filepath.Join(dir, "memory.limit_in_bytes"), []byte("16M"), 0))
			k := shell(t, c.script)
			k.spec.Cgroups, k.spec.OOM = []string{dir}, filepath.Join(dir, "memory.oom_control")
			if status, _ := k.run(); status.OOMKilled != c.want {
				t.Errorf("status %+v", status)
			}
		})
	}
}

// A host's unmount must reach a running cell, or the dataset of another task stays busy.
func TestHostUnmountReachesCell(t *testing.T) {
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
	k := newTask(t, "/bin/sleep", "100")
	status := k.start()
	must(t, unix.Unmount(dir, 0))
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", status.PID))
	must(t, err)
	if strings.Contains(string(mounts), dir) {
		t.Errorf("still mounted in the cell: %s", mounts)
	}
}

// pss returns the proportional set size of a process, in KiB.
func pss(t testing.TB, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); f[0] == "Pss:" {
			n, err := strconv.Atoi(f[1])
			must(t, err)
			return n
		}
	}
	t.Fatal("no Pss")
	return 0
}

// What stays per task is the shim alone.
func TestMemory(t *testing.T) {
	const most = 4 << 10 // KiB
	var pids []int
	for range 20 {
		pids = append(pids, newTask(t, "/bin/sleep", "1000").start().ShimPID)
		if len(pids) == 1 {
			time.Sleep(100 * time.Millisecond)
			if one := pss(t, pids[0]); one > most {
				t.Errorf("1 task: PSS %d KiB", one)
			} else {
				t.Logf("1 task: PSS %d KiB", one)
			}
		}
	}
	time.Sleep(100 * time.Millisecond)
	sum := 0
	for _, pid := range pids {
		sum += pss(t, pid)
	}
	t.Logf("20 tasks: PSS %d KiB each", sum/20)
	if sum/20 > most {
		t.Errorf("20 tasks: PSS %d KiB each", sum/20)
	}
}

// As TestFailedStartLeavesNothing, for the steps that only Linux has.
func TestFailedStartLeavesNothingLinux(t *testing.T) {
	for want, change := range map[string]func(*jail.Spec){
		"no such file or directory":           func(s *jail.Spec) { s.Root += "/nosuch" },
		"cgroup /sys/fs/cgroup/memory/nosuch": func(s *jail.Spec) { s.Cgroups = []string{"/sys/fs/cgroup/memory/nosuch"} },
		"/sys/fs/cgroup/nosuch":               func(s *jail.Spec) { s.OOM = "/sys/fs/cgroup/nosuch" },
		"network namespace /run/netns/nosuch": func(s *jail.Spec) { s.NetNS = "/run/netns/nosuch" },
		"join the network namespace":          func(s *jail.Spec) { s.NetNS = "/etc/passwd" },
		"image's /proc is not a directory":    func(s *jail.Spec) { swapProc(t, s.Root) },
		"jail njffffffffffff":                 func(s *jail.Spec) { s.Name = "njffffffffffff" },
	} {
		t.Run(want, func(t *testing.T) {
			k := newTask(t, "/bin/sh")
			k.create()
			name := k.spec.Name
			change(&k.spec)
			if _, err := Start(t.Context(), shim, k.dir, k.spec); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %q", err, want)
			}
			if _, err := os.Stat(k.dir); !os.IsNotExist(err) {
				t.Errorf("state folder: %v", err)
			}
			if cell, _, err := jail.Find(name); cell.JID != 0 || err != nil {
				t.Errorf("a shim is left: %+v %v", cell, err)
			}
		})
	}
}

// swapProc makes the image's /proc a link to elsewhere.
func swapProc(t *testing.T, root string) {
	t.Helper()
	must(t, os.Remove(filepath.Join(root, "proc")))
	must(t, os.Symlink("/etc", filepath.Join(root, "proc")))
}
