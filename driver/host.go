package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-driver-jail/nomad-driver-jail/health"
	"github.com/nomad-driver-jail/nomad-driver-jail/image"
	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
	"github.com/nomad-driver-jail/nomad-driver-jail/jail/launch"
	"github.com/nomad-driver-jail/nomad-driver-jail/network"
	"github.com/nomad-driver-jail/nomad-driver-jail/rctl"
	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// Host is the machine's parts as one configuration sees them. The plugin and the command line share it.
type Host struct {
	Config  Config
	Storage storage.Backend // nil where neither dataset nor directory is configured
	Images  *image.Store
	Network *network.Network
	Health  *health.Reporter

	mu        sync.Mutex
	prepared  bool
	networked bool // the last look found all that networking needs

	shimMu sync.Mutex // apart from mu: who needs the shim only does not wait for a pool that is suspended
	shim   string     // "" before it is installed
}

var errNoStore = errors.New(`no store is configured; add dataset = "POOL/jails" (or directory = "/path") to the plugin's configuration`)

// NewHost touches nothing: Nomad makes a plugin only to inspect it, too.
func NewHost(c Config, logger hclog.Logger) (*Host, error) {
	h := &Host{Config: c}
	switch {
	case c.Dataset != "":
		h.Storage = storage.NewZFS(storage.Dataset(c.Dataset), filepath.Join(c.StateDir, "mounts"))
	case c.Directory != "":
		h.Storage = storage.NewDirectory(c.Directory, c.StateDir)
	}
	if h.Storage != nil {
		h.Images = image.New(h.Storage, imageOptions(c, logger))
	}
	net, err := network.New(networkConfig(c), logger.Named("network"))
	if err != nil {
		return nil, err
	}
	h.Network = net
	h.Health, err = health.New(health.Config{
		Enabled: c.Consul.Enabled,
		Address: c.Consul.Address,
		Token:   c.Consul.Token,
		Service: c.Consul.Service,
		TTL:     duration(c.Consul.TTL, 30*time.Second),
	}, logger.Named("health"))
	if err != nil {
		return nil, err
	}
	return h, nil
}

// imageOptions is for a configuration that check has accepted.
func imageOptions(c Config, logger hclog.Logger) image.Options {
	mirrors, _ := c.Images.mirrors()
	credentials, _ := c.Images.credentials()
	largest, _ := c.Images.maxImageSize()
	return image.Options{
		LockDir: filepath.Join(cmp.Or(c.Directory, c.StateDir), "locks"),
		Logger:  logger.Named("image"),
		Limits: image.Limits{
			Retry:  duration(c.Images.Retry, 10*time.Second),
			Stall:  duration(c.Images.StallTimeout, 30*time.Second),
			Stream: int64(min(largest, math.MaxInt64)),
		},
		Keys: c.Images.Keys,
		Registry: image.RegistryOptions{
			Mirrors:  mirrors,
			CAFile:   c.Images.CAFile,
			Proxy:    c.Images.Proxy,
			AuthFile: c.Images.AuthFile,
			Auth:     credentials,
		},
	}
}

// CollectImages removes images that no task has used for a time, and older ones where they take too much.
func (h *Host) CollectImages(ctx context.Context) ([]image.Image, error) {
	return h.Images.GC(ctx, h.Config.ImageGC())
}

// anchor is the name that the operator's pf.conf calls; on Linux it is the nftables table's.
const anchor = "nomad-driver-jail"

// networkConfig is for a configuration that check has accepted.
func networkConfig(c Config) network.Config {
	subnet, _ := netip.ParsePrefix(c.Subnet)
	subnet6, _ := netip.ParsePrefix(c.Subnet6)
	return network.Config{
		Bridge: c.Bridge, Subnet: subnet, Subnet6: subnet6, StateDir: c.StateDir, Anchor: anchor,
		Forwarder: launch.Forwarder(c.StateDir),
	}
}

// Prepare makes what every task needs and none owns: the store's parents, the bridge, the shim. It does so once; a
// failure is tried again at the next call.
func (h *Host) Prepare(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.prepared {
		return nil
	}
	if failed := h.prepare(ctx); len(failed) > 0 {
		return failed[0].Err
	}
	return nil
}

// prepare goes on after a part that fails, and returns those that did.
func (h *Host) prepare(ctx context.Context) (failed []Part) {
	for _, part := range []struct {
		name    string
		prepare func(context.Context) error
	}{{"kernel", checkRelease}, {"shim", h.prepareShim}, {"storage", h.prepareStorage}, {"network", h.Network.Prepare}} {
		if err := part.prepare(ctx); err != nil {
			failed = append(failed, failedPart(part.name, err))
		}
	}
	if len(failed) > 0 {
		return failed
	}
	if err := h.Config.save(); err != nil {
		return []Part{{Name: "storage", Err: err}} // its folder cannot be written to
	}
	h.prepared = true
	return nil
}

// failedPart names the part of the network that it was.
func failedPart(name string, err error) Part {
	var fault *network.Fault
	if errors.As(err, &fault) {
		name = fault.Part
	}
	return Part{Name: name, Err: err}
}

// Repair examines the host as Parts does, after it made again what was lost of what Prepare made: a ruleset that somebody flushed, an
// uplink's other address.
func (h *Host) Repair(ctx context.Context) []Part {
	failed := h.prepareAgain(ctx)
	parts, net := h.look(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range parts {
		h.prepared = h.prepared && !errors.Is(p.Err, storage.ErrNotMade) // destroyed since: made at the next call
	}
	h.networked = !slices.ContainsFunc(slices.Concat(net, failed), func(p Part) bool { return p.Err != nil })
	return merge(slices.Concat(parts, net), failed)
}

func (h *Host) prepareAgain(ctx context.Context) (failed []Part) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.prepared {
		return h.prepare(ctx)
	}
	if err := h.Network.Prepare(ctx); err != nil {
		return []Part{failedPart("network", err)}
	}
	return nil
}

// networkFault says why no jail could be networked. It asks the host only where the last look found something missing.
func (h *Host) networkFault(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.networked {
		return nil
	}
	if err := h.Network.Prepare(ctx); err != nil {
		return err
	}
	for _, p := range h.Network.Check(ctx) {
		if p.Err != nil {
			return p.Err
		}
	}
	h.networked = true
	return nil
}

func (h *Host) prepareStorage(ctx context.Context) error {
	if h.Storage == nil {
		return errNoStore
	}
	return h.Storage.Prepare(ctx)
}

func (h *Host) prepareShim(context.Context) error {
	_, err := h.installShim()
	return err
}

// installShim returns the path of the shim, which it installs once. That is all that a process in a jail that runs needs of Prepare.
func (h *Host) installShim() (string, error) {
	h.shimMu.Lock()
	defer h.shimMu.Unlock()
	if h.shim != "" {
		return h.shim, nil
	}
	path, err := launch.Install(h.Config.StateDir)
	if err == nil {
		h.shim = path
	}
	return path, err
}

func (h *Host) taskDir(name string) string { return filepath.Join(h.tasksDir(), name) }

func (h *Host) tasksDir() string { return tasksDir(h.Config.StateDir) }

// removeStep takes away one of the things that bear a task's name, and finds nothing wrong with what is not there.
type removeStep struct {
	name string
	do   func(*Host, context.Context, string) error
}

// removeSteps take away what startSteps made, in reverse, after the processes. The jail goes after its interface: FreeBSD 12 can
// panic when an epair is destroyed under a jail that is just going.
var removeSteps = slices.Concat([]removeStep{
	{"processes", func(h *Host, _ context.Context, name string) error { return jail.Kill(h.taskDir(name)) }},
	{"health", func(h *Host, _ context.Context, name string) error { h.Health.Deregister(name); return nil }},
	removeNetwork,
	{"jail", func(_ *Host, _ context.Context, name string) error { return jail.Remove(name) }},
	{"limits", func(_ *Host, _ context.Context, name string) error { return rctl.Remove(name) }},
}, removeFiles)

// removeReserved and removeFiles are all steps for a start that made no jail.
var (
	removeReserved = append([]removeStep{removeNetwork}, removeFiles...)
	removeNetwork  = removeStep{"network", func(h *Host, ctx context.Context, name string) error { return h.Network.Detach(ctx, name) }}
	removeFiles    = []removeStep{
		{"storage", (*Host).removeStorage},
		{"state", func(h *Host, _ context.Context, name string) error { return removeState(h.taskDir(name)) }},
	}
)

// Remove takes away everything that bears name. It can be called for any part of a start, any number of times; the state
// folder, which says whose the name is, goes last.
func (h *Host) Remove(ctx context.Context, name string) error {
	return h.remove(ctx, name, removeSteps)
}

func (h *Host) remove(ctx context.Context, name string, steps []removeStep) error {
	for _, step := range steps {
		if err := step.do(h, ctx, name); err != nil {
			return fmt.Errorf("removing %s's %s: %w", name, step.name, err)
		}
		fault("stop", step.name)
	}
	return nil
}

// lingerPatience is how long a task's root may be busy before its removed jail is suspected.
const lingerPatience = 500 * time.Millisecond

// removeStorage waits for whoever sits in the root, but not for a jail without processes that the kernel keeps for minutes.
func (h *Host) removeStorage(ctx context.Context, name string) error {
	if h.Storage == nil {
		return nil
	}
	brief, cancel := context.WithTimeout(ctx, lingerPatience)
	defer cancel()
	if err := h.Storage.RemoveTask(brief, name, false); err == nil {
		return nil
	}
	return h.Storage.RemoveTask(ctx, name, jail.Lingers(name))
}
