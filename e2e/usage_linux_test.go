package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// stays is the memory, in bytes of PSS, of the processes that keep tasks: Nomad's executors, and our shims. What belongs to the agent, to the
// plugin or to the tasks themselves is not in it.
func stays() float64 {
	var sum float64
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range commands {
		line, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		words := strings.Split(string(line), "\x00")
		if !keeper(words) {
			continue
		}
		sum += pss(filepath.Join(filepath.Dir(path), "smaps_rollup"))
	}
	return sum
}

func keeper(words []string) bool {
	executor := len(words) > 1 && words[1] == "executor"
	return executor || words[0] == "jail-shim"
}

func pss(path string) float64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
			kib, _ := strconv.ParseFloat(f[1], 64)
			return kib * 1024
		}
	}
	return 0
}

// pssOf is the memory, in bytes of PSS, of some processes.
func pssOf(pids []int) float64 {
	var sum float64
	for _, pid := range pids {
		sum += pss(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	}
	return sum
}

// cpuOf is the CPU time that some processes have used, in steps of a hundredth of a second each.
func cpuOf(pids []int) time.Duration {
	var sum time.Duration
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// proc_pid_stat(5): utime and stime are the fields 14 and 15; field 2, in parentheses, may hold spaces.
		f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		for _, ticks := range f[11:13] {
			n, _ := strconv.Atoi(ticks)
			sum += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return sum
}
