// Package rctl limits what a task's jail may use of its host and tells what it uses: racct(4), rctl(8) and cpuset(2) on
// FreeBSD, cgroups (v1, v2, or a mixture) on Linux. What is asked of the kernel is decided in rules.go and cgroup.go,
// which are compiled and tested on every host; the files named for a system only carry it out.
package rctl

import (
	"fmt"
	"math"
	"regexp"
	"time"
)

// Limits are what a task may use. Zero means no limit.
type Limits struct {
	// Memory is a ceiling in bytes: a process that would pass it is killed. On Linux swap and page cache count; FreeBSD
	// counts resident memory, and looks about once a second.
	Memory uint64
	// MemorySoft is what the host leaves to the task, in bytes, while others press for memory. FreeBSD has nothing like
	// it; there the scheduler alone counts it.
	MemorySoft uint64
	// CPUShares is Nomad's MHz: the weight beside other tasks when the CPUs are busy. FreeBSD's scheduler has no weights;
	// CPUQuota is what it can enforce.
	CPUShares uint64
	// CPUQuota is in cores: 0.5 is half of one, 2 is two whole ones.
	CPUQuota float64
	// Cores are the only CPUs the task runs on, numbered as the host does.
	Cores []int
	// MaxProc counts processes and threads together, on both hosts.
	MaxProc uint64
}

// Subject is what a task's first process has to know of its limits.
type Subject struct {
	// Cgroups are the directories whose cgroup.procs the first process enters before its exec. Empty on FreeBSD, where
	// limits follow the jail's name.
	Cgroups []string
	// OOM is the file whose "oom_kill N" line counts the task's processes killed for memory. Empty on FreeBSD.
	OOM string
}

// Usage is what a task used so far (times, peak, throttling) or uses now (the rest).
type Usage struct {
	RSS   uint64 // bytes; Linux: anonymous memory, so that RSS + Cache is what the ceiling counts
	Cache uint64 // bytes of page cache, tmpfs and shared memory; Linux only
	Swap  uint64 // bytes; Linux only: racct's swapuse is what is reserved, whether memory or swap holds it
	Peak  uint64 // bytes; Linux only

	CPU       time.Duration // in whole seconds on FreeBSD: see CPUPercent
	CPUUser   time.Duration // Linux only
	CPUSystem time.Duration // Linux only
	// CPUPercent is FreeBSD's pcpu, a decaying average in percent of one core. Zero on Linux, where the difference of two
	// CPU values says it better.
	CPUPercent float64

	Procs int // counted as MaxProc counts

	ThrottledPeriods uint64        // Linux only
	ThrottledTime    time.Duration // Linux only
}

// Apply limits the task called name before it has a process, and starts its counters at zero. Limits that cannot be
// enforced here are refused with the reason, and then nothing is left. On FreeBSD the jail must exist for Cores.
func Apply(name string, l Limits) (Subject, error) {
	if err := checkName(name); err != nil {
		return Subject{}, err
	}
	if err := l.check(); err != nil {
		return Subject{}, fmt.Errorf("limits of %s: %w", name, err)
	}
	subject, err := apply(name, l)
	if err != nil {
		return Subject{}, fmt.Errorf("limits of %s: %w", name, err)
	}
	return subject, nil
}

// Read costs some system calls and no process. Without limits applied it is an error on Linux and zero on FreeBSD.
func Read(name string) (Usage, error) {
	if err := checkName(name); err != nil {
		return Usage{}, err
	}
	return read(name)
}

// Remove takes the limits away and forgets the counters. It kills nothing: on Linux it waits a little for processes that
// are going, and is an error when some stay. Nothing there is nil.
func Remove(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	return remove(name)
}

// List gives the names that have limits on this host, sorted.
func List() ([]string, error) { return list() }

// Check says what this host lacks to limit tasks, and what to do about it.
func Check() error { return check() }

var plainName = regexp.MustCompile(`^[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)*$`)

// checkName keeps a name from meaning something else in a path or in a rule.
func checkName(name string) error {
	if !plainName.MatchString(name) {
		return fmt.Errorf("%q cannot name limits: lower-case letters, digits, - and _ are allowed", name)
	}
	return nil
}

func (l Limits) check() error {
	if l.CPUQuota < 0 || math.IsNaN(l.CPUQuota) || math.IsInf(l.CPUQuota, 0) {
		return fmt.Errorf("a CPU quota of %v cores is not possible", l.CPUQuota)
	}
	for _, core := range l.Cores {
		if core < 0 {
			return fmt.Errorf("core %d is not possible", core)
		}
	}
	return nil
}
