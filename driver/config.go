package driver

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"

	"github.com/nomad-driver-jail/nomad-driver-jail/image"
	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

// Config is the operator's plugin configuration. Whatever widens what a job may do is here and nowhere else.
type Config struct {
	// Dataset is the ZFS dataset below which images and tasks are kept, such as "zroot/jails"; or Directory, a plain
	// directory where there is no ZFS. Exactly one of them.
	Dataset   string `codec:"dataset"`
	Directory string `codec:"directory"`
	// StateDir is where a task's state and the installed shim live. It must be one folder per host and survive the agent.
	StateDir string `codec:"state_dir"`

	// HostPaths are the absolute paths that copy and mount may name as sources: "/path", or "/path:ro" for reading only.
	HostPaths []string `codec:"host_paths"`
	// Allow are the permissions that a job may ask for with its own allow: "host_network", or what jail(8) has behind "allow.".
	Allow []string `codec:"allow"`
	// DevfsRulesets are devfs(8) rulesets that a job may ask for beside 4 and, off the host's network, 5. FreeBSD.
	DevfsRulesets []int `codec:"devfs_rulesets"`

	Bridge  string `codec:"bridge"`
	Subnet  string `codec:"subnet"`
	Subnet6 string `codec:"subnet6"`

	// CPUHardLimit caps each task at its share of the CPU, also when the host is idle.
	CPUHardLimit bool `codec:"cpu_hard_limit"`
	// PidsLimit is the most processes and threads that a task may have, and the most that it may ask for; 0 for as many as the host's.
	PidsLimit int `codec:"pids_limit"`

	// PullTimeout is how long a start may wait for its image, as a Go duration.
	PullTimeout string `codec:"pull_timeout"`
	// CleanupDelay is how long after its start a plugin process waits before it removes what no task owns.
	CleanupDelay string `codec:"cleanup_delay"`

	Images ImagesConfig `codec:"images"`
	Consul ConsulConfig `codec:"consul"`
}

// ImagesConfig is how images are fetched, trusted and kept.
type ImagesConfig struct {
	// Keys are public keys of signify(1) or minisign: paths of their files, or the base64 line in one. With any, an image
	// without a signature by one of them is refused.
	Keys []string `codec:"keys"`
	// Mirrors are "URL=MIRROR" entries: another base URL to try before a registry's own.
	Mirrors []string `codec:"mirrors"`
	CAFile  string   `codec:"ca_file"`
	Proxy   string   `codec:"proxy"`
	// AuthFile holds registries' credentials, as podman login writes them; Auth are more, which go before those.
	AuthFile string       `codec:"auth_file"`
	Auth     []AuthConfig `codec:"auth"`
	// Retry is how long a registry may fail before a pull gives up, as a Go duration.
	Retry string `codec:"retry"`
	// StallTimeout is how long it may take for 64 KiB, as a Go duration.
	StallTimeout string `codec:"stall_timeout"`
	// MaxImageSize is how much an image may unpack to, such as "50GiB"; "" for 1 TiB.
	MaxImageSize string `codec:"max_image_size"`
	// GCDelay is how long after its last use an image that no task uses is removed; MaxSize, such as "50GiB", is what all
	// images together may take before the one whose last use is longest ago goes earlier.
	GCDelay string `codec:"gc_delay"`
	MaxSize string `codec:"max_size"`
}

// AuthConfig is a registry's credential: a user with a password, or a bearer token.
type AuthConfig struct {
	// ServerAddress is HOST[:PORT][/PATH], or begins with http:// where there is no TLS.
	ServerAddress string `codec:"server_address"`
	Username      string `codec:"username"`
	Password      string `codec:"password"`
	Token         string `codec:"token"`
}

// String keeps a credential out of every log and message.
func (a AuthConfig) String() string { return "(credential)" }

// GoString does so for %#v.
func (a AuthConfig) GoString() string { return a.String() }

// ConsulConfig is how running jails are reported to the local Consul agent.
type ConsulConfig struct {
	Enabled bool   `codec:"enabled"`
	Address string `codec:"address"`
	Token   string `codec:"token"`
	Service string `codec:"service"`
	TTL     string `codec:"ttl"`
}

var configSpec = hclspec.NewObject(map[string]*hclspec.Spec{
	"dataset":        hclspec.NewAttr("dataset", "string", false),
	"directory":      hclspec.NewAttr("directory", "string", false),
	"state_dir":      withDefault("state_dir", "string", `"`+defaultStateDir+`"`),
	"host_paths":     hclspec.NewAttr("host_paths", "list(string)", false),
	"allow":          hclspec.NewAttr("allow", "list(string)", false),
	"devfs_rulesets": hclspec.NewAttr("devfs_rulesets", "list(number)", false),
	"bridge":         withDefault("bridge", "string", `"jail0"`),
	"subnet":         withDefault("subnet", "string", `"10.99.0.0/16"`),
	"subnet6":        hclspec.NewAttr("subnet6", "string", false),
	"cpu_hard_limit": withDefault("cpu_hard_limit", "bool", "false"),
	"pids_limit":     withDefault("pids_limit", "number", "2048"),
	"pull_timeout":   withDefault("pull_timeout", "string", `"15m"`),
	"cleanup_delay":  withDefault("cleanup_delay", "string", `"5m"`),
	"images": hclspec.NewDefault(hclspec.NewBlock("images", false, imagesSpec),
		hclspec.NewLiteral(`{ keys = [], mirrors = [], ca_file = "", proxy = "", auth_file = "", auth = [], retry = "10s", stall_timeout = "30s", max_image_size = "", gc_delay = "72h", max_size = "" }`)),
	"consul": hclspec.NewDefault(hclspec.NewBlock("consul", false, consulSpec),
		hclspec.NewLiteral(`{ enabled = true, address = "", token = "", service = "nomad-jail", ttl = "30s" }`)),
})

var imagesSpec = hclspec.NewObject(map[string]*hclspec.Spec{
	"keys":           withDefault("keys", "list(string)", "[]"),
	"mirrors":        withDefault("mirrors", "list(string)", "[]"),
	"ca_file":        withDefault("ca_file", "string", `""`),
	"proxy":          withDefault("proxy", "string", `""`),
	"auth_file":      withDefault("auth_file", "string", `""`),
	"auth":           hclspec.NewBlockList("auth", authSpec),
	"retry":          withDefault("retry", "string", `"10s"`),
	"stall_timeout":  withDefault("stall_timeout", "string", `"30s"`),
	"max_image_size": withDefault("max_image_size", "string", `""`),
	"gc_delay":       withDefault("gc_delay", "string", `"72h"`),
	"max_size":       withDefault("max_size", "string", `""`),
})

var authSpec = hclspec.NewObject(map[string]*hclspec.Spec{
	"server_address": hclspec.NewAttr("server_address", "string", true),
	"username":       withDefault("username", "string", `""`),
	"password":       withDefault("password", "string", `""`),
	"token":          withDefault("token", "string", `""`),
})

var consulSpec = hclspec.NewObject(map[string]*hclspec.Spec{
	"enabled": withDefault("enabled", "bool", "true"),
	"address": withDefault("address", "string", `""`),
	"token":   withDefault("token", "string", `""`),
	"service": withDefault("service", "string", `"nomad-jail"`),
	"ttl":     withDefault("ttl", "string", `"30s"`),
})

func withDefault(name, typ, literal string) *hclspec.Spec {
	return hclspec.NewDefault(hclspec.NewAttr(name, typ, false), hclspec.NewLiteral(literal))
}

// DefaultConfig is the configuration of a plugin whose operator wrote none, for the command line.
func DefaultConfig() Config {
	return Config{
		StateDir:     defaultStateDir,
		Bridge:       "jail0",
		Subnet:       "10.99.0.0/16",
		PidsLimit:    2048,
		PullTimeout:  "15m",
		CleanupDelay: "5m",
		Images:       ImagesConfig{Retry: "10s", StallTimeout: "30s", GCDelay: "72h"},
		Consul:       ConsulConfig{Enabled: true, Service: "nomad-jail", TTL: "30s"},
	}
}

// hostNetwork is the one permission that is not an allow parameter of jail(8).
const hostNetwork = "host_network"

// knownPermission refuses what nobody could allow on this host.
func knownPermission(name string) error {
	known := append(jail.Allowances(runtime.GOOS), hostNetwork)
	if slices.Contains(known, name) {
		return nil
	}
	slices.Sort(known)
	return fmt.Errorf("allow: unknown permission %q; there are %s", name, strings.Join(known, ", "))
}

// check refuses a configuration that could never work, before anything is made of it. An empty one passes: Nomad sends it
// to a plugin that it only inspects, and the fingerprint says what is missing.
func (c *Config) check() error {
	if c.Dataset != "" && c.Directory != "" {
		return errors.New("dataset and directory exclude each other; keep one")
	}
	if c.Directory != "" && !filepath.IsAbs(c.Directory) {
		return fmt.Errorf("directory %q must be an absolute path", c.Directory)
	}
	if c.StateDir == "" {
		c.StateDir = defaultStateDir
	}
	if !filepath.IsAbs(c.StateDir) {
		return fmt.Errorf("state_dir %q must be an absolute path", c.StateDir)
	}
	for _, p := range c.HostPaths {
		if !filepath.IsAbs(strings.TrimSuffix(p, ":ro")) {
			return fmt.Errorf("host_paths: %q must be an absolute path, with :ro behind it for reading only", p)
		}
	}
	for _, p := range c.Allow {
		if err := knownPermission(p); err != nil {
			return err
		}
	}
	if c.PidsLimit < 0 {
		return fmt.Errorf("pids_limit %d must be 0, for none, or more", c.PidsLimit)
	}
	for _, p := range []struct{ key, value string }{{"subnet", c.Subnet}, {"subnet6", c.Subnet6}} {
		if p.value == "" {
			continue
		}
		if _, err := netip.ParsePrefix(p.value); err != nil {
			return fmt.Errorf("%s: %w", p.key, err)
		}
	}
	for _, p := range []struct{ key, value string }{
		{"pull_timeout", c.PullTimeout}, {"cleanup_delay", c.CleanupDelay},
		{"images retry", c.Images.Retry}, {"images stall_timeout", c.Images.StallTimeout}, {"images gc_delay", c.Images.GCDelay}, {"consul ttl", c.Consul.TTL},
	} {
		if p.value == "" {
			continue
		}
		d, err := time.ParseDuration(p.value)
		if err != nil {
			return fmt.Errorf("%s: %w", p.key, err)
		}
		if d < 0 {
			return fmt.Errorf("%s: %s is negative; write a time such as 10s", p.key, p.value)
		}
	}
	if _, err := c.Images.maxSize(); err != nil {
		return err
	}
	if _, err := c.Images.maxImageSize(); err != nil {
		return err
	}
	if _, err := c.Images.credentials(); err != nil {
		return err
	}
	_, err := c.Images.mirrors()
	return err
}

// credentials are by server address. No error tells of more than that.
func (c *ImagesConfig) credentials() (map[string]image.Credential, error) {
	m := map[string]image.Credential{}
	for _, a := range c.Auth {
		switch {
		case a.ServerAddress == "" || strings.Contains(a.ServerAddress, "@"):
			return nil, errors.New("images auth: server_address must be HOST[:PORT][/PATH], without credentials")
		case (a.Username == "") == (a.Token == ""), a.Username == "" && a.Password != "":
			return nil, fmt.Errorf("images auth: %s needs username and password, or token", a.ServerAddress)
		}
		m[a.ServerAddress] = image.Credential{Username: a.Username, Password: a.Password, Token: a.Token}
	}
	return m, nil
}

// withoutSecrets is for the disk.
func (c ImagesConfig) withoutSecrets() ImagesConfig {
	c.Auth = nil
	c.Proxy = withoutUserinfo(c.Proxy)
	return c
}

// mirrors turns "URL=MIRROR" entries into each URL's mirrors, in order.
func (c *ImagesConfig) mirrors() (map[string][]string, error) {
	m, err := image.ParseMirrors(c.Mirrors)
	if err != nil {
		return nil, fmt.Errorf("images mirrors: %w", err)
	}
	return m, nil
}

// maxSize is in bytes, 0 for no limit.
func (c *ImagesConfig) maxSize() (uint64, error) { return parseSize("max_size", c.MaxSize) }

// maxImageSize is in bytes, 0 for the default.
func (c *ImagesConfig) maxImageSize() (uint64, error) {
	return parseSize("max_image_size", c.MaxImageSize)
}

func parseSize(option, s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := humanize.ParseBytes(s)
	if err != nil {
		return 0, fmt.Errorf("images %s %q is no size; write it as in 50GiB: %w", option, s, err)
	}
	return n, nil
}

func (c *Config) allows(permission string) bool { return slices.Contains(c.Allow, permission) }

// duration is for values that check has accepted.
func duration(s string, otherwise time.Duration) time.Duration {
	if d, err := time.ParseDuration(s); err == nil {
		return d
	}
	return otherwise
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
