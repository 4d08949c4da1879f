package driver

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	"github.com/mattn/go-shellwords"
)

// TaskConfig is what a job author writes in a task's config block. Its spelling is the pot driver's where that has a
// word for the thing, docker's where it has not.
type TaskConfig struct {
	// Image is "BASE/NAME:TAG", or with Pot and Tag the base URL alone.
	Image     string `codec:"image"`
	Pot       string `codec:"pot"`
	Tag       string `codec:"tag"`
	ForcePull bool   `codec:"force_pull"`

	// Command and Args replace the image's own command; with Pot, Command may hold its arguments too, quoted as in sh(1).
	Command string   `codec:"command"`
	Args    []string `codec:"args"`
	WorkDir string   `codec:"work_dir"`

	// Ports are labels of the group's network ports; PortMap gives labels their port inside the jail.
	Ports       []string           `codec:"ports"`
	PortMap     hclutils.MapStrStr `codec:"port_map"`
	NetworkMode string             `codec:"network_mode"`
	Hostname    string             `codec:"hostname"`
	ExtraHosts  []string           `codec:"extra_hosts"`

	// Copy, Mount and MountReadOnly are "SOURCE:DESTINATION" pairs.
	Copy          []string `codec:"copy"`
	Mount         []string `codec:"mount"`
	MountReadOnly []string `codec:"mount_read_only"`

	// CPUHardLimit caps the task at its share of the CPU, whatever the plugin's own cpu_hard_limit says.
	CPUHardLimit bool `codec:"cpu_hard_limit"`

	// Allow, DevfsRuleset and Securelevel (FreeBSD) and pot's Attributes change what the jail may do.
	Allow        []string `codec:"allow"`
	DevfsRuleset int      `codec:"devfs_ruleset"`
	Securelevel  int      `codec:"securelevel"`
	Attributes   []string `codec:"attributes"`
}

var taskConfigSpec = hclspec.NewObject(map[string]*hclspec.Spec{
	"image":           hclspec.NewAttr("image", "string", true),
	"pot":             hclspec.NewAttr("pot", "string", false),
	"tag":             hclspec.NewAttr("tag", "string", false),
	"force_pull":      withDefault("force_pull", "bool", "false"),
	"command":         hclspec.NewAttr("command", "string", false),
	"args":            hclspec.NewAttr("args", "list(string)", false),
	"work_dir":        hclspec.NewAttr("work_dir", "string", false),
	"ports":           hclspec.NewAttr("ports", "list(string)", false),
	"port_map":        hclspec.NewAttr("port_map", "list(map(string))", false),
	"network_mode":    withDefault("network_mode", "string", `"`+modeBridge+`"`),
	"hostname":        hclspec.NewAttr("hostname", "string", false),
	"extra_hosts":     hclspec.NewAttr("extra_hosts", "list(string)", false),
	"copy":            hclspec.NewAttr("copy", "list(string)", false),
	"mount":           hclspec.NewAttr("mount", "list(string)", false),
	"mount_read_only": hclspec.NewAttr("mount_read_only", "list(string)", false),
	"cpu_hard_limit":  withDefault("cpu_hard_limit", "bool", "false"),
	"allow":           hclspec.NewAttr("allow", "list(string)", false),
	"devfs_ruleset":   withDefault("devfs_ruleset", "number", "0"),
	"securelevel":     withDefault("securelevel", "number", "-1"),
	"attributes":      hclspec.NewAttr("attributes", "list(string)", false),
})

// The values of network_mode. pot's "alias" puts addresses of the host's network on the jail.
const (
	modeBridge = "public-bridge"
	modeHost   = "host"
	modeNone   = "none"
)

// command gives the command line that the job asks for, empty where the image's own is to run.
func (c *TaskConfig) command() ([]string, error) {
	if c.Command == "" {
		if len(c.Args) > 0 && c.Pot != "" {
			return nil, errors.New("args needs a command")
		}
		return nil, nil
	}
	if c.Pot == "" {
		return append([]string{c.Command}, c.Args...), nil
	}
	// pot gave command and args, joined, to a shell; the words are the same without one.
	parser := shellwords.NewParser()
	words, err := parser.Parse(strings.Join(append([]string{c.Command}, c.Args...), " "))
	if err != nil {
		return nil, fmt.Errorf("command %q: %w", c.Command, err)
	}
	if len(words) == 0 || parser.Position != -1 {
		return nil, fmt.Errorf("command %q: shell operators are not run; use /bin/sh with args = [\"-c\", …] and no pot", c.Command)
	}
	return words, nil
}

// network checks network_mode against what the operator allows.
func (c *TaskConfig) network(operator *Config) error {
	switch c.NetworkMode {
	case modeBridge, modeNone:
		return nil
	case modeHost:
		return operator.permit(hostNetwork, `network_mode "host"`)
	default:
		return fmt.Errorf("network_mode %q is unknown; there are %q, %q and %q", c.NetworkMode, modeBridge, modeHost, modeNone)
	}
}

// permit refuses what the operator has not allowed, with the line that would allow it.
func (c *Config) permit(permission, what string) error {
	if c.allows(permission) {
		return nil
	}
	return fmt.Errorf("%s is not allowed here; the operator allows it with allow = [%q] in the plugin's configuration",
		what, permission)
}

// permissions are those of allow and of pot's attributes, each checked against the operator's.
func (c *TaskConfig) permissions(operator *Config) ([]string, error) {
	asked := slices.Clone(c.Allow)
	for _, a := range c.Attributes {
		key, value, ok := strings.Cut(a, ":")
		if !ok {
			return nil, fmt.Errorf("attributes: %q must be KEY:VALUE", a)
		}
		permission, known := potAttributes[key]
		switch {
		case key == "devfs_ruleset":
			n, err := strconv.Atoi(value)
			if err != nil {
				return nil, fmt.Errorf("attributes: devfs_ruleset %q is not a number", value)
			}
			c.DevfsRuleset = n
		case !known:
			return nil, fmt.Errorf("attributes: unknown attribute %q; there are devfs_ruleset, %s", key,
				strings.Join(sortedKeys(potAttributes), ", "))
		case permission != "" && potTrue(value):
			asked = append(asked, permission)
		}
	}
	for _, p := range asked {
		if err := knownPermission(p); err != nil {
			return nil, err
		}
		if err := operator.permit(p, fmt.Sprintf("permission %q", p)); err != nil {
			return nil, err
		}
	}
	slices.Sort(asked)
	return slices.Compact(asked), operator.permitRuleset(c.DevfsRuleset)
}

// potAttributes are pot's attributes and the permission that each needs; those with none say how pot itself keeps its
// jails, which here is Nomad's business, and change nothing.
var potAttributes = map[string]string{
	"dynamic-etc-hosts": "",
	"localhost-tunnel":  "",
	"no-etc-hosts":      "",
	"no-rc-script":      "",
	"no-tmpfs":          "",
	"persistent":        "",
	"prunable":          "",
	"raw_sockets":       "raw_sockets",
	"start-at-boot":     "",
	"sysvmsg":           "sysvipc",
	"sysvsem":           "sysvipc",
	"sysvshm":           "sysvipc",
}

func potTrue(value string) bool {
	switch strings.ToLower(value) {
	case "", "no", "off", "false", "0", "disable":
		return false
	}
	return true
}

// hosts checks the HOST:ADDRESS entries of pot and docker, whose word for the host's own address is host-gateway.
func (c *TaskConfig) hosts() error {
	for _, e := range c.ExtraHosts {
		host, address, ok := strings.Cut(e, ":")
		if !ok || host == "" || strings.ContainsAny(e, " \t\n") {
			return fmt.Errorf("extra_hosts: %q must be HOST:ADDRESS", e)
		}
		if _, err := netip.ParseAddr(address); err != nil && address != "host-gateway" {
			return fmt.Errorf("extra_hosts: %q: %q is not an IP address", e, address)
		}
	}
	return nil
}
