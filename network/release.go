package network

import (
	"context"
	"fmt"
	"strings"
)

// Release undoes Prepare: it takes away the bridge and the rules that all
// tasks share, for a host that is to run no more jails. It refuses while a
// task holds anything; what is not there, or not ours, is left alone.
func (n *Network) Release(ctx context.Context) error {
	unlock, err := n.lock()
	if err != nil {
		return err
	}
	defer unlock()
	names, err := n.List(ctx)
	if err != nil {
		return err
	}
	if len(names) > 0 {
		return fmt.Errorf("the network is in use by %s: stop these tasks first", strings.Join(names, ", "))
	}
	return n.releaseHost(ctx)
}
