package network

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

func (n *Network) releaseHost(ctx context.Context) error {
	if hasModule("pf") {
		// Without rules the anchor is no more.
		if _, err := pfctl(ctx, "", "-a", n.pfAnchor(n.pfHostAnchor()), "-f", "-"); err != nil {
			return err
		}
	}
	c, err := openIfconfig()
	if err != nil {
		return err
	}
	defer c.Close()
	mark, err := c.description(n.Bridge)
	if errors.Is(err, unix.ENXIO) {
		return nil
	}
	if err != nil || mark != n.Anchor {
		return err
	}
	return c.destroy(n.Bridge)
}
