package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nomad-driver-jail/nomad-driver-jail/network/forward"
)

// pfctl is a program because the structures of pf(4) differ from release to
// release; it came with the kernel.
func pfctl(ctx context.Context, stdin string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "/sbin/pfctl", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("pfctl %s: %w: %s", strings.Join(args, " "), err, strings.Join(strings.Fields(stderr.String()), " "))
	}
	return stdout.String(), nil
}

func (n *Network) checkRules(ctx context.Context) error {
	if !hasModule("pf") {
		return errors.New("pf is not loaded: add pf_enable=\"YES\" to /etc/rc.conf and run `service pf start`")
	}
	info, err := pfctl(ctx, "", "-s", "info")
	if err != nil {
		return err
	}
	if !strings.Contains(info, "Status: Enabled") {
		return errors.New("pf is not enabled: add pf_enable=\"YES\" to /etc/rc.conf and run `service pf start`")
	}
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
	if len(n.Forwarder) == 0 {
		return errors.New("network: no command line for the forwarding process")
	}
	if _, err := pfctl(ctx, n.pfHostRules(uplinks), "-a", n.pfAnchor(pfHostAnchor), "-f", "-"); err != nil {
		return err
	}
	return forward.Sync(n.forwardDir(), "", n.Forwarder)
}

func (n *Network) addRules(ctx context.Context, name string, a Attachment, rs []redirect) error {
	if _, err := pfctl(ctx, n.pfTaskRules(name, a, rs), "-a", n.pfAnchor(name), "-f", "-"); err != nil {
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

// removeRules loads none: an anchor without rules is no more.
func (n *Network) removeRules(ctx context.Context, name string) error {
	if _, err := pfctl(ctx, "", "-a", n.pfAnchor(name), "-f", "-"); err != nil {
		return err
	}
	had, err := forward.Remove(n.forwardDir(), name)
	if err != nil || !had {
		return err
	}
	return forward.Sync(n.forwardDir(), name, n.Forwarder)
}

func (n *Network) forwardDir() string { return filepath.Join(n.StateDir, "forward") }

func forwardRules(rs []redirect) []forward.Rule {
	var rules []forward.Rule
	for _, r := range rs {
		rules = append(rules, forward.Rule{Proto: r.Proto, Host: netip.AddrPortFrom(r.Host, r.HostPort), Task: r.Task})
	}
	return rules
}

// endConnections by label, which the task's rules gave, and by address.
func (n *Network) endConnections(ctx context.Context, name string, a Attachment) error {
	kills := [][]string{{"-k", "label", "-k", name}}
	if a.IPv4.IsValid() {
		kills = append(kills, []string{"-k", a.IPv4.String()}, []string{"-k", "0.0.0.0/0", "-k", a.IPv4.String()})
	}
	if a.IPv6.IsValid() {
		kills = append(kills, []string{"-k", a.IPv6.String()}, []string{"-k", "::/0", "-k", a.IPv6.String()})
	}
	for _, args := range kills {
		if _, err := pfctl(ctx, "", args...); err != nil {
			return err
		}
	}
	return nil
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

// pfHostAnchor has what all tasks share. It comes before every task's anchor,
// because pf goes through anchors in the order of their names.
const pfHostAnchor = "host"

// pfAnchor is where a task's rules are.
func (n *Network) pfAnchor(sub string) string { return n.Anchor + "/" + sub }
