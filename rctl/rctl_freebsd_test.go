package rctl

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// limited makes a jail, limits it before it has a process, and sees to it that nothing is left when the test ends.
func limited(t testing.TB, l Limits) (name string, inside syscall.SysProcAttr) {
	t.Helper()
	var random [6]byte
	rand.Read(random[:])
	name = "nj" + hex.EncodeToString(random[:])
	command(t, "jail", "-c", "name="+name, "path=/", "persist", "ip4=inherit")
	t.Cleanup(func() {
		command(t, "jail", "-r", name)
		if err := Remove(name); err != nil {
			t.Error(err)
		}
		if rules := rulesOf(t, name); len(rules) > 0 {
			t.Errorf("left: %q", rules)
		}
	})
	if _, err := Apply(name, l); err != nil {
		t.Fatal(err)
	}
	jid, err := jailID(name)
	if err != nil {
		t.Fatal(err)
	}
	return name, syscall.SysProcAttr{Jail: jid}
}

func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// rulesOf asks rctl(8), which is not our code, what rules the jail has.
func rulesOf(t testing.TB, name string) []string {
	t.Helper()
	rules := strings.Fields(command(t, "rctl", "jail:"+name))
	slices.Sort(rules)
	return rules
}

func TestRulesReachTheKernel(t *testing.T) {
	name, _ := limited(t, Limits{Memory: 64 << 20, CPUShares: 500, CPUQuota: 0.5, MaxProc: 50})
	want := []string{
		"jail:" + name + ":maxproc:deny=50", "jail:" + name + ":memoryuse:sigkill=67108864",
		"jail:" + name + ":nthr:deny=50", "jail:" + name + ":pcpu:deny=50",
	}
	if got := rulesOf(t, name); !slices.Equal(got, want) {
		t.Errorf("rules %q, wanted %q", got, want)
	}
	// Again, less: what was before is not left beside it.
	if _, err := Apply(name, Limits{MaxProc: 7}); err != nil {
		t.Fatal(err)
	}
	want = []string{"jail:" + name + ":maxproc:deny=7", "jail:" + name + ":nthr:deny=7"}
	if got := rulesOf(t, name); !slices.Equal(got, want) {
		t.Errorf("rules %q, wanted %q", got, want)
	}
}

func TestMemoryIsAHardCeiling(t *testing.T) {
	_, inside := limited(t, Limits{Memory: 64 << 20})
	cmd, out := start(t, "allocate", Subject{}, inside)
	err := cmd.Wait()
	status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !status.Signaled() || status.Signal() != syscall.SIGKILL {
		t.Fatalf("ended with %v, not killed: %s", err, out)
	}
}

// TestQuotaThrottles wants half of what two busy threads take: FreeBSD 12 keeps a quota, 15 stops by the second and lets them run in one of three.
func TestQuotaThrottles(t *testing.T) {
	const cores, kept = 0.2, 1.0
	name, inside := limited(t, Limits{CPUQuota: cores})
	start(t, "spin", Subject{}, inside)
	// The kernel needs some seconds to know how much a process uses.
	time.Sleep(8 * time.Second)
	before, began := sample(t, name), time.Now()
	time.Sleep(15 * time.Second)
	after := sample(t, name)
	allowed := time.Duration(kept*float64(time.Since(began))) + time.Second // whole ones are counted
	if used := after.CPU - before.CPU; after.CPU == 0 || used > allowed {
		t.Errorf("used %v of CPU, allowed %v", used, allowed)
	}
}

func TestCoresAreKept(t *testing.T) {
	last := runtime.NumCPU() - 1
	_, inside := limited(t, Limits{Cores: []int{last}})
	cmd, _ := start(t, "sleep", Subject{}, inside)
	want := fmt.Sprintf("pid %d mask: %d\n", cmd.Process.Pid, last)
	if got := command(t, "cpuset", "-g", "-p", fmt.Sprint(cmd.Process.Pid)); !strings.HasPrefix(got, want) {
		t.Errorf("cpuset says %q, wanted %q", got, want)
	}
}

func TestProcessesAreCounted(t *testing.T) {
	name, inside := limited(t, Limits{MaxProc: 5})
	cmd, out := start(t, "fork", Subject{}, inside)
	cmd.Wait()
	if strings.Contains(out.String(), "made them all") {
		t.Errorf("twelve processes under a limit of 5: %s", out)
	}
	if u := sample(t, name); u.Procs == 0 || u.Procs > 5 {
		t.Errorf("%d processes under a limit of 5: %s", u.Procs, out)
	}
}

func TestUsage(t *testing.T) {
	name, inside := limited(t, Limits{Memory: 256 << 20})
	start(t, "hold", Subject{}, inside)
	until(t, "a process with memory", func() bool {
		u := sample(t, name)
		return u.Procs > 0 && u.RSS >= held
	})
	start(t, "spin", Subject{}, inside)
	until(t, "CPU time", func() bool {
		u := sample(t, name)
		return u.CPU > 0 && u.CPUPercent > 0
	})
}

func TestListAndRemove(t *testing.T) {
	name, _ := limited(t, Limits{Memory: 64 << 20, MaxProc: 5})
	other := "jail:somebodys:maxproc:deny=5"
	command(t, "rctl", "-a", other)
	defer command(t, "rctl", "-r", other)
	names, err := List()
	if err != nil || !slices.Contains(names, name) || slices.Contains(names, "somebodys") {
		t.Errorf("%s and not somebody's is wanted among %q: %v", name, names, err)
	}
	for range 2 {
		if err := Remove(name); err != nil {
			t.Error(err)
		}
	}
	if names, err = List(); err != nil || slices.Contains(names, name) {
		t.Errorf("%s is still among %q: %v", name, names, err)
	}
	if rules := rulesOf(t, "somebodys"); len(rules) != 1 {
		t.Errorf("somebody's rule is gone: %q", rules)
	}
}

// As many as a large host has, with all the rules that a task can have.
func TestListOfMany(t *testing.T) {
	var all []string
	for i := range 200 {
		all = append(all, fmt.Sprintf("njf00d%08x", i))
	}
	defer func() {
		for _, name := range all {
			if err := Remove(name); err != nil {
				t.Error(err)
			}
		}
	}()
	for _, name := range all {
		if _, err := Apply(name, Limits{Memory: 1 << 40, CPUQuota: 100, MaxProc: 100_000}); err != nil {
			t.Fatal(err)
		}
	}
	names, err := List()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		if !slices.Contains(names, name) {
			t.Fatalf("%s is not among the %d listed", name, len(names))
		}
	}
}

func TestApplyThatFailsLeavesNothing(t *testing.T) {
	name, _ := limited(t, Limits{})
	most, err := unix.SysctlUint32("kern.smp.maxcpus") // 256 until FreeBSD 13, 1024 since 14
	if err != nil {
		t.Fatal(err)
	}
	for _, cores := range [][]int{{200}, {runtime.NumCPU()}, {0, 200}, {300}} {
		_, err := Apply(name, Limits{Memory: 64 << 20, Cores: cores})
		want := fmt.Sprintf("cores %v: not all of them are this host's", cores)
		if last := cores[len(cores)-1]; last >= int(most) {
			want = fmt.Sprintf("core %d: this kernel counts to %d", last, most-1)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
		if rules := rulesOf(t, name); len(rules) > 0 {
			t.Errorf("left: %q", rules)
		}
	}
	if _, err := Apply("njnojail", Limits{Memory: 64 << 20, Cores: []int{0}}); err == nil {
		t.Error("cores of a jail that is not there were taken")
	} else {
		t.Log(err)
	}
}

func BenchmarkRead(b *testing.B) {
	name, inside := limited(b, Limits{Memory: 256 << 20})
	start(b, "sleep", Subject{}, inside)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Read(name); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReadByCommand is what a sample costs without system calls of one's own.
func BenchmarkReadByCommand(b *testing.B) {
	name, inside := limited(b, Limits{Memory: 256 << 20})
	start(b, "sleep", Subject{}, inside)
	for b.Loop() {
		if err := exec.Command("rctl", "-u", "jail:"+name).Run(); err != nil {
			b.Fatal(err)
		}
	}
}
