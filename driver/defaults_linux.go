package driver

import "github.com/hashicorp/nomad/plugins/drivers"

const defaultStateDir = "/var/lib/nomad-driver-jail"

// Nomad's Linux client makes the network namespace of a group in bridge mode; a task joins it.
var netIsolationModes = []drivers.NetIsolationMode{
	drivers.NetIsolationModeHost, drivers.NetIsolationModeTask, drivers.NetIsolationModeGroup,
}
