package driver

import (
	"errors"
	"fmt"
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
	// PidsLimit is the most processes and threads that the task may have; 0 for the plugin's own pids_limit, which it cannot exceed.
	PidsLimit int `codec:"pids_limit"`

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
	"pids_limit":      withDefault("pids_limit", "number", "0"),
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

// permissions checks those that allow asks for against the operator's.
func (c *TaskConfig) permissions(operator *Config) error {
	for _, p := range c.Allow {
		if err := knownPermission(p); err != nil {
			return err
		}
		if err := operator.permit(p, fmt.Sprintf("permission %q", p)); err != nil {
			return err
		}
	}
	return nil
}
