package driver

import (
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

const defaultStateDir = "/var/db/nomad-driver-jail"

// AgentConfig is where the system's package of Nomad has the agent's configuration.
const AgentConfig = "/usr/local/etc/nomad.d"

// Nomad makes no group networks on FreeBSD.
var netIsolationModes = []drivers.NetIsolationMode{drivers.NetIsolationModeHost, drivers.NetIsolationModeTask}

// What racct counts, in the words that Nomad's command line prints.
var (
	measuredMemory = []string{"RSS", "Usage"}
	measuredCPU    = []string{"Percent"}
)

// cpuTimeIsFine: racct counts CPU time in whole seconds, whose differences over an interval say nothing; it has a percentage beside.
const cpuTimeIsFine = false

// limitsFacts are what the host has where the check of limits finds nothing wrong, for constraints.
var limitsFacts = map[string]string{"racct": "true"}

// deviceParts are what a jail's /dev needs.
func deviceParts() []Part {
	return []Part{{Name: "devfs", Err: storage.CheckRuleset(jail.DevfsRuleset)}}
}
