package network

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

func (n *Network) releaseHost(context.Context) error {
	there, err := n.hasTable()
	if err != nil {
		return err
	}
	if there {
		conn := new(nftables.Conn)
		conn.DelTable(&nftables.Table{Name: n.Anchor, Family: nftables.TableFamilyINet})
		if err := conn.Flush(); err != nil {
			return fmt.Errorf("nftables table %s: %w", n.Anchor, err)
		}
	}
	link, err := netlink.LinkByName(n.Bridge)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err != nil || link.Attrs().Alias != n.Anchor {
		return err
	}
	return netlink.LinkDel(link)
}
