package jail

// What a cell sees of /proc on Linux, which unlike the rest of it is not divided by namespaces. The lists are docker's, and the shim.
var (
	// HiddenProc are covered: files by /dev/null, directories by an empty file system.
	HiddenProc = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		// The shim, of which root could set the oom_score_adj otherwise; a jail on FreeBSD has no process 1 to see either. It is the
		// last, as the shim is what covers the others, with a descriptor of its own.
		"/proc/1",
	}
	// ReadOnlyProc can be read and not written.
	ReadOnlyProc = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)
