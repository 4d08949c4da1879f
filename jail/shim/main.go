//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command shim is the process that stays with a task. Package launch starts it in two ways:
//
//	shim NAME        in the task's state folder: starts the task's first process when told, waits, writes down how it ended (keep.go)
//	shim enter NAME  starts another process in the cell, for nomad alloc exec (enter.go)
//
// On FreeBSD it is also network's forwarding process, one per host, which must outlive the plugin and be as small:
//
//	shim forward FOLDER
//
// On Linux the first is also init of the cell's namespaces: what is orphaned in the cell is its to reap, and when it goes, the
// kernel kills what is left. On FreeBSD it stays on the host and is the reaper of what it started.
//
// One runs per task for as long as the task does, so memory counts: it links little and gives back what starting took.
package main

import (
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// Descriptors that package launch hands over, beyond /dev/null as 0 and 1.
const (
	reportFD = 2 // "started" or a sentence; a panic goes here too. Its closing tells launch that the process is gone
	aliveFD  = 3 // read end of the state folder's FIFO: open while the task has not ended
	orderFD  = 4 // a byte comes when the cell is made and the task can start, or the end: the task is not to start
)

func init() {
	// Threads that take on the task's cgroups and capabilities end afterwards. The main thread cannot end, so it must not be one.
	runtime.LockOSThread()
}

func main() {
	catchSignals()
	switch {
	case len(os.Args) == 3 && os.Args[1] == "enter":
		dropDescriptors(enterReportFD, enterReportFD)
		os.Exit(enter(os.Args[2]))
	case len(os.Args) == 3 && os.Args[1] == "forward":
		os.Exit(forwardHost(os.Args[2]))
	case len(os.Args) == 2:
		dropDescriptors(orderFD, reportFD)
		os.Exit(keep(os.Args[1]))
	}
	os.Stderr.WriteString("run by nomad-driver-jail, one per task; not a command\n")
	os.Exit(2)
}

// dropDescriptors closes what the plugin's ancestors leaked to it, beyond last, and keeps the others from the task. Go's runtime has
// none open yet. Without that nothing starts, and report says so.
func dropDescriptors(last, report int) {
	if err := closeFrom(last + 1); err != nil {
		_, _ = unix.Write(report, []byte("close_range: "+err.Error()+"\n"))
		os.Exit(1)
	}
	for fd := reportFD + 1; fd <= last; fd++ {
		unix.CloseOnExec(fd)
	}
}

// catchSignals makes harmless what Go's runtime would end this process for; it drops the other signals by itself, and the kernel
// those that an init has not asked for. They are caught, not ignored, because what is ignored stays ignored across exec: the task
// would start with SIGHUP off.
func catchSignals() {
	fatal := append([]os.Signal{unix.SIGHUP, unix.SIGPIPE, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGABRT, unix.SIGILL, unix.SIGTRAP,
		unix.SIGBUS, unix.SIGFPE, unix.SIGSEGV, unix.SIGSYS}, hostSignals...)
	signal.Notify(make(chan os.Signal, 1), fatal...)
}

// settle gives back the memory that starting the task took. Waiting makes next to no garbage, so it is collected only should there be
// some megabytes of it one day, and not every two minutes.
func settle(forget func()) {
	debug.FreeOSMemory()
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(16 << 20)
	forget()
}
