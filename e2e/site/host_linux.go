package site

import (
	"fmt"
	"os/exec"

	"github.com/vishvananda/netlink"
)

// leaveHost takes away what the driver made for all tasks and keeps for the next ones.
func (s *Site) leaveHost() error {
	if out, err := exec.Command("nft", "delete", "table", "inet", "nomad-driver-jail").CombinedOutput(); err != nil {
		return fmt.Errorf("nft delete table: %w: %s", err, out)
	}
	bridge, err := netlink.LinkByName("jail0")
	if err != nil {
		return fmt.Errorf("bridge jail0: %w", err)
	}
	return netlink.LinkDel(bridge)
}
