package driver

import "github.com/hashicorp/nomad/plugins/drivers"

const defaultStateDir = "/var/db/nomad-driver-jail"

// Nomad makes no group networks on FreeBSD.
var netIsolationModes = []drivers.NetIsolationMode{drivers.NetIsolationModeHost, drivers.NetIsolationModeTask}
