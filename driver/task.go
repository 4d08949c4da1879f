package driver

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-jail/nomad-driver-jail/health"
	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
	"github.com/nomad-driver-jail/nomad-driver-jail/jail/launch"
)

// task is a task that this plugin process knows: started by it, or recovered.
type task struct {
	cfg   *drivers.TaskConfig
	name  string
	dir   string
	state State

	ended chan struct{} // closed when status is final

	mu      sync.Mutex
	status  jail.Status
	claimed time.Time // when Nomad last asked to start or to recover it
	waiters int       // calls of WaitTask: while a task runs that Nomad knows there is one
}

// TaskState is what Nomad keeps for us in the task's handle. The state folder on the host has the rest.
type TaskState struct {
	Name    string
	Network *drivers.DriverNetwork
}

func newTask(cfg *drivers.TaskConfig, name, dir string, state State, status jail.Status, claimed time.Time) *task {
	return &task{cfg: cfg, name: name, dir: dir, state: state, status: status, claimed: claimed, ended: make(chan struct{})}
}

// adopt makes t known to Nomad's calls and waits for its end in the background.
func (d *Driver) adopt(t *task) {
	d.mu.Lock()
	d.tasks[t.cfg.ID] = t
	d.mu.Unlock()
	go d.follow(t)
}

// follow outlives nothing: it ends with the task or with the plugin, whichever comes first. While it cannot look, for want of descriptors
// say, the task is taken to run.
func (d *Driver) follow(t *task) {
	status, err := launch.Wait(d.ctx, t.dir)
	for err != nil && jail.Alive(t.dir) {
		select {
		case <-time.After(time.Second):
		case <-d.ctx.Done():
			return
		}
		status, err = launch.Wait(d.ctx, t.dir)
	}
	if d.ctx.Err() != nil {
		return
	}
	if err != nil {
		status = t.lastStatus()
		status.Error = err.Error()
		status.Ended = time.Now()
	}
	d.host.Health.Deregister(t.name)
	t.mu.Lock()
	t.status = status
	t.mu.Unlock()
	close(t.ended)
	d.logger.Info("task ended", "task", t.name, "task_id", t.cfg.ID, "exit_code", status.ExitCode, "signal", status.Signal,
		"oom_killed", status.OOMKilled)
}

func (t *task) lastStatus() jail.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.status
}

func (t *task) claim(at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.claimed = at
}

func (t *task) wait(waiters int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiters += waiters
}

// unclaimed says that the client that came then neither asked for the task nor waits for it: its predecessor died before it wrote down
// what it had started, and Nomad has started the task once more under another ID.
func (t *task) unclaimed(came time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.waiters == 0 && t.claimed.Before(came)
}

func (t *task) running() bool {
	select {
	case <-t.ended:
		return false
	default:
		return true
	}
}

// exit is nil while the task runs.
func (t *task) exit() *drivers.ExitResult {
	if t.running() {
		return nil
	}
	s := t.lastStatus()
	r := &drivers.ExitResult{ExitCode: s.ExitCode, Signal: s.Signal, OOMKilled: s.OOMKilled}
	if s.Error != "" {
		r.Err = errors.New(s.Error)
	}
	return r
}

// network is what Nomad tells the job's services about the task; nil where the task has no address of its own.
func (t *task) network() *drivers.DriverNetwork {
	if t.state.Address == "" {
		return nil
	}
	n := &drivers.DriverNetwork{IP: t.state.Address, PortMap: map[string]int{}}
	for _, p := range t.state.Ports {
		n.PortMap[p.Label] = int(p.TaskPort)
	}
	return n
}

func (t *task) handle() (*drivers.TaskHandle, error) {
	h := drivers.NewTaskHandle(handleVersion)
	h.Config = t.cfg
	h.State = drivers.TaskStateRunning
	if err := h.SetDriverState(&TaskState{Name: t.name, Network: t.network()}); err != nil {
		return nil, fmt.Errorf("task handle: %w", err)
	}
	return h, nil
}

func (t *task) inspect() *drivers.TaskStatus {
	status := t.lastStatus()
	state := drivers.TaskStateRunning
	if !t.running() {
		state = drivers.TaskStateExited
	}
	return &drivers.TaskStatus{
		ID:              t.cfg.ID,
		Name:            t.cfg.Name,
		State:           state,
		StartedAt:       status.Started,
		CompletedAt:     status.Ended,
		ExitResult:      t.exit(),
		NetworkOverride: t.network(),
		DriverAttributes: map[string]string{
			"jail":    t.name,
			"pid":     fmt.Sprint(status.PID),
			"image":   t.state.Image,
			"digest":  t.state.Digest,
			"root":    t.state.Root,
			"address": t.state.Address,
		},
	}
}

// instance is what Consul is told about a running jail.
func instance(name string, s State, status jail.Status) health.Instance {
	i := health.Instance{
		ID:      name,
		Name:    s.Task,
		Address: s.Address,
		PID:     status.PID,
		Started: status.Started,
		Tags:    []string{s.JobID, s.Group, s.Task},
		Meta: map[string]string{
			"alloc_id": s.AllocID, "job": s.JobID, "group": s.Group, "task": s.Task, "jail": name,
			"image": s.Image, "digest": s.Digest,
		},
	}
	if len(s.Ports) > 0 {
		i.Port = int(s.Ports[0].TaskPort)
		if s.Address == "" { // Consul then has the host's
			i.Port = int(s.Ports[0].HostPort)
		}
	}
	return i
}
