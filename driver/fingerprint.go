package driver

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-jail/nomad-driver-jail/rctl"
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
	for _, part := range d.host.Parts(ctx) {
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

// Parts examines the host. The fingerprint and the doctor command say the same because both ask here.
func (h *Host) Parts(ctx context.Context) []Part {
	failed := h.prepare(ctx) // first: the others look at what it makes
	parts := []Part{
		kernelPart(),
		h.storagePart(ctx),
		{Name: "limits", Facts: limitsFacts, Err: rctl.Check()},
		{Name: "network", Facts: networkFacts, Err: h.Network.Check(ctx)},
		{Name: "shim"},
	}
	for i := range parts {
		p := &parts[i]
		for _, f := range failed {
			if f.Name == p.Name && p.Err == nil {
				p.Err = f.Err
			}
		}
		if p.Err != nil {
			p.Facts = nil // they are those of a part that is there
		}
	}
	return parts
}

func kernelPart() Part {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return Part{Name: "kernel", Err: err}
	}
	return Part{Name: "kernel", Facts: map[string]string{
		"os": runtime.GOOS, "arch": runtime.GOARCH, "release": unix.ByteSliceToString(name.Release[:]),
	}}
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
	free, total, err := h.Storage.Space(ctx)
	if p.Err = err; err != nil {
		return p
	}
	store := cmp.Or(h.Config.Dataset, h.Config.Directory)
	if free < leastSpace {
		p.Err = fmt.Errorf("%s has %s left, with which no task can do much; `nomad-driver-jail image gc` removes images that nobody uses",
			store, mib(int64(free)))
	}
	p.Facts = map[string]string{
		"format": h.Storage.Format(), "free_bytes": fmt.Sprint(free), "total_bytes": fmt.Sprint(total),
		"store": store,
	}
	return p
}
