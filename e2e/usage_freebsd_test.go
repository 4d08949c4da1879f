package e2e

import (
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// stays is the memory, in bytes of RSS (FreeBSD counts no shares), of the processes that keep tasks.
func stays() float64 {
	out, err := exec.Command("ps", "-axww", "-o", "rss=", "-o", "command=").Output()
	if err != nil {
		return 0
	}
	var sum float64
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		if len(words) > 2 && (words[2] == "executor" || words[1] == "jail-shim") {
			kib, _ := strconv.ParseFloat(words[0], 64)
			sum += kib * 1024
		}
	}
	return sum
}

// pssOf is the memory, in bytes of RSS, of some processes.
func pssOf(pids []int) float64 {
	var kib float64
	for _, word := range ps("rss=", pids) {
		n, _ := strconv.ParseFloat(word, 64)
		kib += n
	}
	return kib * 1024
}

// cpuOf is the CPU time that some processes have used.
func cpuOf(pids []int) time.Duration {
	var sum time.Duration
	for _, word := range ps("time=", pids) { // as 1:02.34
		minutes, seconds, _ := strings.Cut(word, ":")
		took, _ := time.ParseDuration(minutes + "m" + seconds + "s")
		sum += took
	}
	return sum
}

func ps(column string, pids []int) []string {
	var list []string
	for _, pid := range pids {
		list = append(list, strconv.Itoa(pid))
	}
	out, _ := exec.Command("ps", "-o", column, "-p", strings.Join(list, ",")).Output()
	return strings.Fields(string(out))
}
