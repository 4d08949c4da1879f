package main

import (
	"os"
	"runtime"

	"github.com/nomad-driver-jail/nomad-driver-jail/network/forward"
)

func forwardHost(folder string) int {
	runtime.UnlockOSThread()
	if err := forward.Run(folder); err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	return 0
}
