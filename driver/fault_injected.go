//go:build faults

package driver

import (
	"os"
	"strings"
	"syscall"
)

// fault kills the plugin, as kill -9 would, right after the named step when NOMAD_DRIVER_JAIL_FAULT is "PHASE:STEP" or
// names a file that says so. The file is taken away first, so that one fault happens once.
func fault(phase, step string) {
	at := os.Getenv("NOMAD_DRIVER_JAIL_FAULT")
	file, isFile := strings.CutPrefix(at, "@")
	if isFile {
		data, err := os.ReadFile(file)
		if err != nil {
			return
		}
		at = strings.TrimSpace(string(data))
	}
	if at != phase+":"+step {
		return
	}
	if isFile {
		os.Remove(file)
	}
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
}
