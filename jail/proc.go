package jail

// What a cell sees of /proc on Linux, which unlike the rest of it is not divided by namespaces. The lists are docker's.
var (
	// HiddenProc are covered: files by /dev/null, directories by an empty file system.
	HiddenProc = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
	}
	// ReadOnlyProc can be read and not written.
	ReadOnlyProc = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)
