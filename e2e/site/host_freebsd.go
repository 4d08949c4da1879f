package site

import (
	"fmt"
	"os/exec"
)

// leaveHost takes away what the driver made for all tasks and keeps for the next ones.
func (s *Site) leaveHost() error {
	exec.Command("pfctl", "-a", "nomad-driver-jail", "-F", "all").Run() // without pf there is none
	if out, err := exec.Command("ifconfig", "jail0", "destroy").CombinedOutput(); err != nil {
		return fmt.Errorf("ifconfig jail0 destroy: %w: %s", err, out)
	}
	return nil
}
