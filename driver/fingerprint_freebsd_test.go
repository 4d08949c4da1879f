package driver

import "testing"

func sharedRules(t *testing.T) string {
	const anchor = "nomad-driver-jail/host-jail0"
	return host(t, "pfctl", "-a", anchor, "-s", "nat") + host(t, "pfctl", "-a", anchor, "-s", "rules")
}

func flushSharedRules(t *testing.T) {
	host(t, "pfctl", "-a", "nomad-driver-jail/host-jail0", "-F", "all")
}

// breakNetwork switches pf off.
func breakNetwork(t *testing.T) (fault string, mend func()) {
	host(t, "pfctl", "-d")
	return "pf: pf is not enabled", func() { host(t, "pfctl", "-e") }
}
