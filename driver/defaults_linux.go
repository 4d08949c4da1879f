package driver

import "github.com/hashicorp/nomad/plugins/drivers"

const defaultStateDir = "/var/lib/nomad-driver-jail"

// Nomad's Linux client makes the network namespace of a group in bridge mode; a task joins it.
var netIsolationModes = []drivers.NetIsolationMode{
	drivers.NetIsolationModeHost, drivers.NetIsolationModeTask, drivers.NetIsolationModeGroup,
}

// What rctl.Read knows on this host, in the words that Nomad's command line prints.
var (
	measuredMemory = []string{"RSS", "Cache", "Swap", "Usage", "Max Usage"}
	measuredCPU    = []string{"System Mode", "User Mode", "Percent", "Throttled Periods", "Throttled Time"}
)

// cpuTimeIsFine: cgroups count CPU time in nanoseconds.
const cpuTimeIsFine = true

// What the host has where the checks of limits and network find nothing wrong, for constraints.
var (
	limitsFacts  = map[string]string{"cgroups": "true"}
	networkFacts = map[string]string{"nftables": "true"}
)
