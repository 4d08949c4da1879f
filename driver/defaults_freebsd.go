package driver

import "github.com/hashicorp/nomad/plugins/drivers"

const defaultStateDir = "/var/db/nomad-driver-jail"

// Nomad makes no group networks on FreeBSD.
var netIsolationModes = []drivers.NetIsolationMode{drivers.NetIsolationModeHost, drivers.NetIsolationModeTask}

// What racct counts, in the words that Nomad's command line prints.
var (
	measuredMemory = []string{"RSS", "Swap", "Usage"}
	measuredCPU    = []string{"Percent"}
)
