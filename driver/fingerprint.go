package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail/launch"
	"github.com/nomad-driver-jail/nomad-driver-jail/rctl"
	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

const fingerprintPeriod = 30 * time.Second

// Fingerprint implements drivers.DriverPlugin. What the host lacks is said in words that an operator can act on.
func (d *Driver) Fingerprint(ctx context.Context) (<-chan *drivers.Fingerprint, error) {
	ch := make(chan *drivers.Fingerprint)
	came := time.Now() // a new client, to the plugin of its predecessor
	d.begin.Do(func() {
		came = d.started // the client that started this plugin, and may have recovered its tasks before it asks this
		d.background()
	})
	go d.sweep(ctx, came)
	go func() {
		defer close(ch)
		for {
			select {
			case ch <- d.fingerprint(ctx):
			case <-ctx.Done():
				return
			case <-d.ctx.Done():
				return
			}
			select {
			case <-time.After(fingerprintPeriod):
			case <-ctx.Done():
				return
			case <-d.ctx.Done():
				return
			}
		}
	}()
	return ch, nil
}

// background starts what only the plugin process that Nomad keeps should do; one made for inspection gets no Fingerprint.
func (d *Driver) background() {
	go d.host.Health.Run(d.ctx)
	go d.forget()
	go d.collectImages()
}

func (d *Driver) fingerprint(ctx context.Context) *drivers.Fingerprint {
	f := &drivers.Fingerprint{
		Health:            drivers.HealthStateHealthy,
		HealthDescription: drivers.DriverHealthy,
		Attributes:        map[string]*pstructs.Attribute{},
	}
	if d.host.Storage == nil {
		f.Health = drivers.HealthStateUndetected
		f.HealthDescription = errNoStore.Error()
		return f
	}
	var missing []string
	for _, part := range d.host.Repair(ctx) {
		key := "driver." + d.name + "." + part.Name
		if part.Err != nil {
			missing = append(missing, fmt.Sprintf("%s: %v", part.Name, part.Err))
			f.Attributes[key] = pstructs.NewBoolAttribute(false)
			continue
		}
		f.Attributes[key] = pstructs.NewBoolAttribute(true)
		for k, v := range part.Facts {
			f.Attributes[key+"."+k] = pstructs.NewStringAttribute(v)
		}
	}
	f.Attributes["driver."+d.name] = pstructs.NewBoolAttribute(true)
	f.Attributes["driver."+d.name+".version"] = pstructs.NewStringAttribute(Version)
	if len(missing) > 0 {
		f.Health = drivers.HealthStateUnhealthy
		f.HealthDescription = strings.Join(missing, "; ")
	}
	return f
}

// Part is one thing that the driver needs of its host: there, with facts about it, or not, with the way to have it.
type Part struct {
	Name  string
	Facts map[string]string
	Err   error
}

// Parts examines the host and changes nothing. What the plugin would make counts as there unless something keeps it from that.
func (h *Host) Parts(ctx context.Context) []Part {
	parts, net := h.look(ctx)
	for i := range parts {
		if errors.Is(parts[i].Err, storage.ErrNotMade) {
			parts[i].Err = nil
		}
	}
	return merge(slices.Concat(parts, net), nil)
}

func (h *Host) look(ctx context.Context) (parts, net []Part) {
	for _, p := range h.Network.Check(ctx) {
		net = append(net, Part{Name: p.Name, Err: p.Err})
	}
	return slices.Concat([]Part{
		kernelPart(ctx),
		h.storagePart(ctx),
		{Name: "limits", Facts: limitsFacts, Err: rctl.Check()},
		{Name: "shim", Err: launch.Check(h.Config.StateDir)},
	}, deviceParts()), net
}

// merge adds what failed to parts in which nothing else was found.
func merge(parts, failed []Part) []Part {
	for _, f := range failed {
		i := slices.IndexFunc(parts, func(p Part) bool { return p.Name == f.Name })
		switch {
		case i < 0:
			parts = append(parts, f)
		case parts[i].Err == nil:
			parts[i].Err = f.Err
		}
	}
	for i := range parts {
		if parts[i].Err != nil {
			parts[i].Facts = nil // they are those of a part that is there
		}
	}
	return parts
}

func kernelPart(ctx context.Context) Part {
	return Part{
		Name:  "kernel",
		Facts: map[string]string{"os": runtime.GOOS, "arch": runtime.GOARCH, "release": kernelRelease()},
		Err:   checkRelease(ctx),
	}
}

func kernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

func checkRelease(context.Context) error { return supported(runtime.GOOS, kernelRelease()) }

// supported refuses a FreeBSD that lacks what the driver is built on. What has no number is not older.
func supported(goos, release string) error {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n < 2 || goos != "freebsd" {
		return nil
	}
	if major < 12 || major == 12 && minor < 2 {
		return fmt.Errorf("FreeBSD %s is too old for this driver, which needs 12.2 or newer: upgrade with freebsd-update(8)", release)
	}
	return nil
}

// leastSpace is the free space in bytes below which a host takes no more tasks.
const leastSpace = 16 << 20

func (h *Host) storagePart(ctx context.Context) Part {
	p := Part{Name: "storage"}
	if h.Storage == nil {
		p.Err = errNoStore
		return p
	}
	if p.Err = h.Storage.Check(ctx); p.Err != nil {
		return p
	}
	store := cmp.Or(h.Config.Dataset, h.Config.Directory)
	p.Facts = map[string]string{"format": h.Storage.Format(), "store": store}
	free, total, err := h.Storage.Space(ctx)
	if p.Err = err; err != nil {
		return p
	}
	if free < leastSpace {
		p.Err = fmt.Errorf("%s has %s left, with which no task can do much; `nomad-driver-jail image gc` removes images that nobody uses",
			store, mib(int64(free)))
	}
	p.Facts["free_bytes"], p.Facts["total_bytes"] = fmt.Sprint(free), fmt.Sprint(total)
	return p
}
