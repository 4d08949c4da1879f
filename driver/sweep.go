package driver

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
	"github.com/nomad-driver-jail/nomad-driver-jail/rctl"
)

// Holding is what the host holds under one task's name.
type Holding struct {
	Name    string
	State   State // zero where the state folder is gone or was never written
	Status  jail.Status
	Running bool
	Parts   []string // "dataset", "jail", "network", "limits", "state"
}

// Holdings lists every name of ours on the host and what bears it. It asks the host, not the plugin: it is the same
// whether a plugin runs or not.
func (h *Host) Holdings(ctx context.Context) ([]Holding, error) {
	found := map[string]*Holding{}
	note := func(part string, names []string, err error) error {
		for _, n := range names {
			if found[n] == nil {
				found[n] = &Holding{Name: n}
			}
			found[n].Parts = append(found[n].Parts, part)
		}
		return err
	}
	var err error
	if h.Storage != nil {
		tasks, e := h.Storage.Tasks(ctx)
		var names []string
		for _, t := range tasks {
			names = append(names, t.Name)
		}
		err = note("dataset", names, e)
	}
	names, e := jail.List()
	err = errors.Join(err, note("jail", names, e))
	names, e = h.Network.List(ctx)
	err = errors.Join(err, note("network", names, e))
	names, e = rctl.List()
	err = errors.Join(err, note("limits", names, e))
	// Last: the state folder of a start is made first, so what was found before without one is nobody's.
	names, e = h.stateNames()
	err = errors.Join(err, note("state", names, e))

	var list []Holding
	for _, name := range sortedKeys(found) {
		x := found[name]
		x.State, _ = readState(h.taskDir(name))
		x.Status, _ = jail.ReadStatus(h.taskDir(name))
		x.Running = x.Status.Ended.IsZero() && jail.Alive(h.taskDir(name))
		list = append(list, *x)
	}
	return list, err
}

func (h *Host) stateNames() ([]string, error) {
	entries, err := os.ReadDir(h.tasksDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// forget takes out of Consul the jails of an earlier plugin that no longer run.
func (d *Driver) forget() {
	holdings, err := d.host.Holdings(d.ctx)
	if err != nil {
		d.logger.Warn("Consul may list jails that run no more", "error", err)
		return
	}
	var alive []string
	for _, x := range holdings {
		if x.Running {
			alive = append(alive, x.Name)
		}
	}
	d.host.Health.Reconcile(alive)
}

// sweep removes, again and again while the client whose context it is given is there, what that client has not claimed. It waits
// first: by then the client has recovered whatever it knows of. Another driver's tasks (a second plugin registered under another
// name) are left alone.
func (d *Driver) sweep(ctx context.Context, came time.Time) {
	for {
		select {
		case <-time.After(duration(d.config.CleanupDelay, 5*time.Minute)):
		case <-ctx.Done():
			return
		case <-d.ctx.Done():
			return
		}
		holdings, err := d.host.Holdings(d.ctx)
		if err != nil {
			d.logger.Warn("the host could not be searched whole for leftovers", "error", err)
		}
		for _, x := range holdings {
			if ctx.Err() == nil && d.abandoned(x, came) {
				d.clear(x)
			}
		}
	}
}

// imageGCPeriod is how often the plugin looks for images to remove.
const imageGCPeriod = 10 * time.Minute

// collectImages also removes what a killed pull has left, first of all.
func (d *Driver) collectImages() {
	if d.host.Images == nil {
		return
	}
	for d.host.Prepare(d.ctx) != nil { // the fingerprint says so, and tries again
		select {
		case <-time.After(fingerprintPeriod):
		case <-d.ctx.Done():
			return
		}
	}
	if err := d.host.Images.Sweep(d.ctx); err != nil {
		d.logger.Warn("what killed pulls left is not removed", "error", err)
	}
	for {
		removed, err := d.host.CollectImages(d.ctx)
		for _, i := range removed {
			d.logger.Info("removed an unused image", "image", i.Reference.String(), "last_used", i.LastUsed)
		}
		if err != nil {
			d.logger.Warn("unused images not removed", "error", err)
		}
		select {
		case <-time.After(imageGCPeriod):
		case <-d.ctx.Done():
			return
		}
	}
}

func (d *Driver) clear(x Holding) {
	d.logger.Info("removing what no task owns", "task", x.Name, "task_id", x.State.TaskID, "parts", strings.Join(x.Parts, ","))
	var err error
	if t := d.named(x.Name); t != nil {
		err = d.DestroyTask(t.cfg.ID, true)
	} else {
		err = d.remove(x.Name, removeSteps, removePatience) // not later: the next sweep comes by
	}
	if err != nil {
		d.logger.Warn("leftover not removed", "task", x.Name, "error", err)
	}
}

// abandoned is asked when all that was alive when the client came has had its time to be recovered. A start under way has a
// state folder but is not in d.tasks yet; it is younger than this process.
func (d *Driver) abandoned(x Holding, came time.Time) bool {
	if t := d.named(x.Name); t != nil {
		return t.unclaimed(came)
	}
	return !slices.Contains(x.Parts, "state") || x.State.Driver == d.name && x.State.Created.Before(d.started)
}

func (d *Driver) named(name string) *task {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, t := range d.tasks {
		if t.name == name {
			return t
		}
	}
	return nil
}

// Removable says whether gc may take the holding: it does not run, and nothing happened to it since before.
func (x Holding) Removable(before time.Time) bool {
	last := x.State.Created
	if x.Status.Ended.After(last) {
		last = x.Status.Ended
	}
	return !x.Running && last.Before(before)
}
