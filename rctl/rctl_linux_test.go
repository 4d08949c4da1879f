package rctl

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// limited applies the limits under a new name and sees to it that nothing is left when the test ends.
func limited(t testing.TB, l Limits) (string, Subject) {
	t.Helper()
	var random [6]byte
	rand.Read(random[:])
	name := "nj" + hex.EncodeToString(random[:])
	t.Cleanup(func() {
		if err := Remove(name); err != nil {
			t.Error(err)
		}
		for _, h := range hierarchies(t) {
			if _, err := os.Stat(filepath.Join(h.dir, parent, name)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is left in %s: %v", name, h.dir, err)
			}
		}
	})
	s, err := Apply(name, l)
	if err != nil {
		t.Fatal(err)
	}
	return name, s
}

func hierarchies(t testing.TB) tree {
	t.Helper()
	all, err := host()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestMemoryIsAHardCeiling(t *testing.T) {
	const limit = 64 << 20
	name, s := limited(t, Limits{Memory: limit, MemorySoft: limit / 2})
	cmd, out := start(t, "allocate", s, syscall.SysProcAttr{})
	err := cmd.Wait()
	status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !status.Signaled() || status.Signal() != syscall.SIGKILL {
		t.Fatalf("ended with %v, not killed: %s", err, out)
	}
	text, err := os.ReadFile(s.OOM)
	if err != nil {
		t.Fatal(err)
	}
	var kills uint64
	each(text, func(key []byte, n uint64) bool {
		if string(key) == "oom_kill" {
			kills = n
		}
		return true
	})
	if kills == 0 {
		t.Errorf("%s tells of no kill:\n%s", s.OOM, text)
	}
	if u := sample(t, name); u.Peak < limit/2 || u.Peak > limit+1<<20 {
		t.Errorf("peak of %d bytes under a limit of %d", u.Peak, limit)
	}
}

func TestQuotaThrottles(t *testing.T) {
	const cores = 0.2
	name, s := limited(t, Limits{CPUQuota: cores})
	start(t, "spin", s, syscall.SysProcAttr{})
	until(t, "throttled", func() bool { return sample(t, name).ThrottledPeriods > 0 })
	before, began := sample(t, name), time.Now()
	time.Sleep(1500 * time.Millisecond)
	after := sample(t, name)
	// A quota can be had twice in the time if it ends just after a period began, so one more.
	allowed := time.Duration(cores * float64(time.Since(began)+2*period*time.Microsecond))
	if used := after.CPU - before.CPU; used <= 0 || used > allowed {
		t.Errorf("used %v of CPU, allowed %v", used, allowed)
	}
	if after.ThrottledTime <= before.ThrottledTime || after.ThrottledPeriods <= before.ThrottledPeriods {
		t.Errorf("not throttled on: %+v, before %+v", after, before)
	}
	if after.CPUUser == 0 {
		t.Errorf("a spinning process has used no CPU in user mode: %+v", after)
	}
}

func TestSharesAreWritten(t *testing.T) {
	_, s := limited(t, Limits{CPUShares: 500})
	h, _ := hierarchies(t).find("cpu")
	file, want := "cpu.shares", "500\n"
	if h.v2 {
		file, want = "cpu.weight", "19\n"
	}
	for _, dir := range s.Cgroups {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err == nil && string(text) == want {
			return
		}
	}
	t.Errorf("%s is not %q in any of %q", file, want, s.Cgroups)
}

func TestCoresAreKept(t *testing.T) {
	last := runtime.NumCPU() - 1
	_, s := limited(t, Limits{Cores: []int{last}})
	cmd, _ := start(t, "sleep", s, syscall.SysProcAttr{})
	want := fmt.Sprintf("\nCpus_allowed_list:\t%d\n", last)
	until(t, "Cpus_allowed_list", func() bool {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		return err == nil && strings.Contains(string(status), want)
	})
}

func TestProcessesAreCounted(t *testing.T) {
	name, s := limited(t, Limits{MaxProc: 5})
	cmd, out := start(t, "fork", s, syscall.SysProcAttr{})
	cmd.Wait()
	if !strings.Contains(out.String(), "fork") || strings.Contains(out.String(), "made them all") {
		t.Errorf("twelve processes under a limit of 5: %s", out)
	}
	// The limit is also what Read counts.
	if u := sample(t, name); u.Procs == 0 || u.Procs > 5 {
		t.Errorf("%d processes under a limit of 5", u.Procs)
	}
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
}

func TestUsage(t *testing.T) {
	name, s := limited(t, Limits{Memory: 256 << 20})
	if u := sample(t, name); u.CPU != 0 || u.Procs != 0 {
		t.Errorf("used before it began: %+v", u)
	}
	start(t, "hold", s, syscall.SysProcAttr{})
	until(t, "a process with memory and CPU time", func() bool {
		u := sample(t, name)
		return u.Procs > 0 && u.RSS >= held && u.CPU > 0 && u.Peak >= u.RSS
	})
}

func TestListAndRemove(t *testing.T) {
	name, s := limited(t, Limits{Memory: 64 << 20})
	names, err := List()
	if err != nil || !slices.Contains(names, name) {
		t.Errorf("%s is not among %q: %v", name, names, err)
	}
	cmd, _ := start(t, "sleep", s, syscall.SysProcAttr{})
	until(t, "process", func() bool { return sample(t, name).Procs > 0 })
	if err := Remove(name); !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), fmt.Sprint(cmd.Process.Pid)) {
		t.Errorf("removed from under process %d: %v", cmd.Process.Pid, err)
	}
	if cmd.Process.Signal(syscall.Signal(0)) != nil {
		t.Error("Remove killed the process")
	}
	// One that ends while Remove waits is no error.
	go func() {
		time.Sleep(100 * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
	}()
	for range 2 {
		if err := Remove(name); err != nil {
			t.Error(err)
		}
	}
	if names, err = List(); err != nil || slices.Contains(names, name) {
		t.Errorf("%s is still among %q: %v", name, names, err)
	}
	if _, err := Read(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read after the end: %v", err)
	}
}

func TestApplyStartsAfresh(t *testing.T) {
	name, s := limited(t, Limits{Memory: 64 << 20})
	cmd, _ := start(t, "allocate", s, syscall.SysProcAttr{})
	cmd.Wait()
	if _, err := Apply(name, Limits{Memory: 32 << 20}); err != nil {
		t.Fatal(err)
	}
	if u := sample(t, name); u.Peak != 0 || u.CPU != 0 {
		t.Errorf("counters of the task before: %+v", u)
	}
}

func TestApplyThatFailsLeavesNothing(t *testing.T) {
	const name = "njfa11ed000000"
	if _, err := Apply(name, Limits{Memory: 64 << 20, Cores: []int{4000}}); err == nil {
		t.Error("core 4000 was taken")
	} else {
		t.Log(err)
	}
	if names, err := List(); err != nil || slices.Contains(names, name) {
		t.Errorf("%s is left: %v", name, err)
	}
}

func TestManyComeAndGo(t *testing.T) {
	done := make(chan error)
	for i := range 20 {
		go func() {
			name := fmt.Sprintf("njcafe%08x", i)
			for range 10 {
				if _, err := Apply(name, Limits{Memory: 64 << 20, Cores: []int{0}}); err != nil {
					done <- err
					return
				}
				if err := Remove(name); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 20 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	name, s := limited(b, Limits{Memory: 256 << 20, CPUQuota: 1})
	start(b, "sleep", s, syscall.SysProcAttr{})
	until(b, "process", func() bool { return sample(b, name).Procs > 0 })
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Read(name); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReadNaively reads the same files as one would at first: the mounts looked up, each file whole, every line a map entry.
func BenchmarkReadNaively(b *testing.B) {
	name, s := limited(b, Limits{Memory: 256 << 20, CPUQuota: 1})
	start(b, "sleep", s, syscall.SysProcAttr{})
	until(b, "process", func() bool { return sample(b, name).Procs > 0 })
	b.ReportAllocs()
	for b.Loop() {
		mountinfo, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			b.Fatal(err)
		}
		t := parseMounts(mountinfo)
		for i := range t {
			t[i].look()
		}
		for _, r := range t.readings() {
			text, err := os.ReadFile(r.dir + name + r.file)
			if err != nil && !r.optional {
				b.Fatal(err)
			}
			values := map[string]string{}
			for _, line := range strings.Split(string(text), "\n") {
				if fields := strings.Fields(line); len(fields) > 1 {
					values[fields[0]] = fields[1]
				}
			}
		}
	}
}
