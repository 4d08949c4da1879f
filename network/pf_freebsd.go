package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nomad-driver-jail/nomad-driver-jail/network/forward"
)

// pfHostAnchor has what all tasks of a bridge share. It comes before every
// task's anchor, because pf goes through anchors in the order of their names.
func (n *Network) pfHostAnchor() string { return "host-" + n.Bridge }

// pfAnchor is where a task's rules are.
func (n *Network) pfAnchor(sub string) string { return n.Anchor + "/" + sub }

// pfctl is a program because the structures of pf(4) differ from release to
// release; it came with the kernel.
func pfctl(ctx context.Context, stdin string, args ...string) (string, error) {
	const attempts, pause = 50, 10 * time.Millisecond
	for i := 1; ; i++ {
		var stdout, stderr bytes.Buffer
		cmd := exec.CommandContext(ctx, "/sbin/pfctl", args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
		err := cmd.Run()
		if err == nil {
			return stdout.String(), nil
		}
		if i == attempts || !passing(stderr.String()) {
			return "", fmt.Errorf("pfctl %s: %w: %s", strings.Join(args, " "), err, strings.Join(strings.Fields(stderr.String()), " "))
		}
		time.Sleep(pause)
	}
}

// passing tells of the failures that pfctl has when something else is done at
// the same time: it looks at all interfaces one by one and gives up when one
// has gone meanwhile, and of two that load rules one loses.
func passing(stderr string) bool {
	return strings.Contains(stderr, "Device not configured") || strings.Contains(stderr, "Device busy")
}

func (n *Network) load(ctx context.Context, sub, rules string) error {
	_, err := pfctl(ctx, rules, "-a", n.pfAnchor(sub), "-f", "-")
	return err
}

// checkPf says of the anchors only what pf says, which it does to root where
// it is loaded.
func (n *Network) checkPf(ctx context.Context) []Part {
	if err := privileged(os.Geteuid()); err != nil {
		return []Part{{partPf, err}}
	}
	if err := pfLoadedError(hasModule("pf")); err != nil {
		return []Part{{partPf, err}}
	}
	info, err := pfctl(ctx, "", "-s", "info")
	if err == nil {
		err = pfEnabledError(info)
	}
	return []Part{{partPf, err}, {partAnchors, n.checkAnchors(ctx)}}
}

func (n *Network) checkAnchors(ctx context.Context) error {
	var loaded string
	for _, what := range []string{"nat", "rules"} {
		out, err := pfctl(ctx, "", "-s", what)
		if err != nil {
			return err
		}
		loaded += out
	}
	return n.pfAnchorError(loaded)
}

// prepareRules also starts the forwarding process again, should it be needed
// and have died.
func (n *Network) prepareRules(ctx context.Context, uplinks []uplink) error {
	if err := pfLoadedError(hasModule("pf")); err != nil {
		return err
	}
	if err := n.checkForwarder(); err != nil {
		return err
	}
	if err := n.load(ctx, n.pfHostAnchor(), n.pfHostRules(uplinks)); err != nil {
		return err
	}
	return forward.Sync(n.forwardDir(), "", n.Forwarder)
}

func (n *Network) addRules(ctx context.Context, name string, a Attachment, rs []redirect) error {
	if err := n.loadAlone(ctx, name, n.pfTaskRules(name, a, rs)); err != nil {
		return err
	}
	if len(rs) == 0 {
		return nil
	}
	if err := forward.Put(n.forwardDir(), name, forwardRules(rs)); err != nil {
		return err
	}
	return forward.Sync(n.forwardDir(), name, n.Forwarder)
}

// loadAlone: of two that load rules at the same time, one fails.
func (n *Network) loadAlone(ctx context.Context, sub, rules string) error {
	unlock, err := n.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return n.load(ctx, sub, rules)
}

// removeRules also ends the connections that the rules let through, which
// bear the name as label. It loads no rules instead of flushing, which on
// FreeBSD 15 fails in an anchor without tables.
func (n *Network) removeRules(ctx context.Context, name string, _ Attachment, _ []PortMap) error {
	if err := n.loadAlone(ctx, name, ""); err != nil {
		return err
	}
	if _, err := pfctl(ctx, "", "-k", "label", "-k", name); err != nil {
		return err
	}
	had, err := forward.Remove(n.forwardDir(), name)
	if err != nil || !had {
		return err
	}
	return forward.Sync(n.forwardDir(), name, n.Forwarder)
}

func (n *Network) checkForwarder() error {
	const limit = 88 // of the 104 that a socket's path may have with its NUL
	if len(n.StateDir) > limit {
		return fmt.Errorf("state folder %s: its path may have %d bytes", n.StateDir, limit)
	}
	if len(n.Forwarder) == 0 {
		return errors.New("network: no command line for the forwarding process")
	}
	return nil
}

func (n *Network) forwardDir() string { return filepath.Join(n.StateDir, "forward") }

func forwardRules(rs []redirect) []forward.Rule {
	var rules []forward.Rule
	for _, r := range rs {
		rules = append(rules, forward.Rule{Proto: r.Proto, Host: netip.AddrPortFrom(r.Host, r.HostPort), Task: r.Task})
	}
	return rules
}

func (n *Network) hostNames(ctx context.Context) ([]string, error) {
	names, err := n.markedInterfaces()
	if err != nil {
		return nil, err
	}
	if !hasModule("pf") {
		return names, nil
	}
	anchors, err := pfctl(ctx, "", "-v", "-a", n.Anchor+"/*", "-s", "Anchors")
	if err != nil {
		return nil, err
	}
	forwarded, err := forward.Tasks(n.forwardDir())
	if err != nil {
		return nil, err
	}
	return slices.Concat(names, n.pfTasks(anchors), forwarded), nil
}
