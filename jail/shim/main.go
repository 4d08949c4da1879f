// Command shim is the process that stays with a task. Package launch starts it in two ways:
//
//	shim NAME        in the task's state folder: starts the task's first process, waits, writes down how it ended (keep.go)
//	shim enter NAME  starts another process in the cell, for nomad alloc exec (enter.go)
//
// On Linux the first is also init of the cell's namespaces: what is orphaned in the cell is its to reap, and when it goes, the
// kernel kills what is left. On FreeBSD it stays on the host and is the reaper of what it started.
//
// One runs per task for as long as the task does, so memory counts: it links little, opens nothing through Go's poller, and gives
// back what starting took.
package main

import (
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
)

// Descriptors that package launch hands over, beyond /dev/null as 0 and 1.
const (
	reportFD = 2 // "started" or a sentence; a panic goes here too. Its closing tells launch that the process is gone
	aliveFD  = 3 // write end of the state folder's FIFO
)

func init() {
	// Threads that take on the task's cgroups and capabilities end afterwards. The main thread cannot end, so it must not be one.
	runtime.LockOSThread()
}

func main() {
	catchSignals()
	closeOnExec()
	if len(os.Args) == 3 && os.Args[1] == "enter" {
		os.Exit(enter(os.Args[2]))
	}
	if len(os.Args) != 2 {
		os.Stderr.WriteString("run by nomad-driver-jail, one per task; not a command\n")
		os.Exit(2)
	}
	os.Exit(keep(os.Args[1]))
}

// catchSignals makes every signal harmless to this process. They are caught, not ignored, because what is ignored stays ignored
// across exec: the task would start with SIGPIPE and SIGHUP off.
func catchSignals() { signal.Notify(make(chan os.Signal, 1)) }

// settle gives back the memory that starting the task took.
func settle() {
	debug.SetGCPercent(20)
	debug.FreeOSMemory()
}
