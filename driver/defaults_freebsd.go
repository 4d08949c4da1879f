package driver

import "github.com/hashicorp/nomad/plugins/drivers"

const defaultStateDir = "/var/db/nomad-driver-jail"

// Nomad makes no group networks on FreeBSD.
var netIsolationModes = []drivers.NetIsolationMode{drivers.NetIsolationModeHost, drivers.NetIsolationModeTask}

// What racct counts, in the words that Nomad's command line prints.
var (
	measuredMemory = []string{"RSS", "Usage"}
	measuredCPU    = []string{"Percent"}
)

// cpuTimeIsFine: racct counts CPU time in whole seconds, whose differences over an interval say nothing; it has a percentage beside.
const cpuTimeIsFine = false

// What the host has where the checks of limits and network find nothing wrong, for constraints.
var (
	limitsFacts  = map[string]string{"racct": "true"}
	networkFacts = map[string]string{"vnet": "true", "pf": "true", "pf_anchors": "true"}
)
