package e2e

import (
	"os/exec"
	"strconv"
	"strings"
)

// stays is the memory, in bytes of RSS (FreeBSD counts no shares), of the processes that keep tasks.
func stays() float64 {
	out, err := exec.Command("ps", "-axww", "-o", "rss=,command=").Output()
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
