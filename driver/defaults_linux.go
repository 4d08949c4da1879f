package driver

import "github.com/hashicorp/nomad/plugins/drivers"

const defaultStateDir = "/var/lib/nomad-driver-jail"

// AgentConfig is where the system's package of Nomad has the agent's configuration.
const AgentConfig = "/etc/nomad.d"

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

// limitsFacts are what the host has where the check of limits finds nothing wrong, for constraints.
var limitsFacts = map[string]string{"cgroups": "true"}

// deviceParts are what a jail's /dev needs: nothing that a host could lack.
func deviceParts() []Part { return nil }
