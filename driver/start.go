package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-jail/nomad-driver-jail/image"
	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
	"github.com/nomad-driver-jail/nomad-driver-jail/jail/launch"
	"github.com/nomad-driver-jail/nomad-driver-jail/network"
	"github.com/nomad-driver-jail/nomad-driver-jail/rctl"
	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// StartTask implements drivers.DriverPlugin. A start that fails leaves the host as it was.
func (d *Driver) StartTask(cfg *drivers.TaskConfig) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
	handle, network, err := d.startTask(cfg)
	if err != nil {
		releaseLogs(cfg)
	}
	return handle, network, err
}

// releaseLogs opens and closes Nomad's log pipes: their readers hold up the end of an alloc by seconds if nobody ever
// wrote.
func releaseLogs(cfg *drivers.TaskConfig) {
	for _, path := range []string{cfg.StdoutPath, cfg.StderrPath} {
		if f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
			f.Close()
		}
	}
}

func (d *Driver) startTask(cfg *drivers.TaskConfig) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
	if _, err := d.task(cfg.ID); err == nil {
		return nil, nil, fmt.Errorf("task %s is started already", cfg.ID)
	}
	p, err := newPlan(cfg, &d.config)
	if err != nil {
		return nil, nil, err
	}
	if err := d.host.Prepare(d.ctx); err != nil {
		return nil, nil, fmt.Errorf("host: %w", err)
	}
	if p.ownNetwork() {
		if err := d.host.networkFault(d.ctx); err != nil {
			return nil, nil, fmt.Errorf("host: %w", err)
		}
	}
	s := &start{plan: p, d: d, host: d.host, dir: d.host.taskDir(p.name)}
	// Nomad asks again, with the same task ID, when a plugin died while it was starting the task.
	if _, err := os.Stat(s.dir); err == nil {
		if err := d.removeOrLater(cfg, p.name, removeSteps, removePatience); err != nil {
			return nil, nil, fmt.Errorf("what an interrupted start left: %w", err)
		}
	}
	if err := s.run(d.ctx); err != nil {
		err = errors.Join(err, s.dropShim())
		_ = d.removeOrLater(cfg, p.name, s.undoSteps(), removePatience)
		return nil, nil, err
	}
	t := newTask(cfg, p.name, s.dir, s.state, s.status, s.state.Created)
	handle, err := t.handle()
	if err != nil {
		return nil, nil, err
	}
	d.adopt(t)
	return handle, t.network(), nil
}

// start is a start under way: the plan, and what its steps have found out or made so far.
type start struct {
	*plan
	d        *Driver
	host     *Host
	dir      string
	state    State
	image    image.Image
	root     string
	foreseen bool // spec is resolved
	spec     jail.Spec
	at       network.Attachment // zero unless reserved
	cell     jail.Cell
	shim     *launch.Shim // nil unless it waits for the launch
	status   jail.Status
}

// dropShim ends one that waits.
func (s *start) dropShim() error {
	if s.shim == nil {
		return nil
	}
	return s.shim.Close()
}

// undoSteps spare a jail of this name that the start did not make: it is somebody else's, with all that belongs to a jail.
func (s *start) undoSteps() []removeStep {
	switch {
	case s.cell.Name != "":
		return removeSteps
	case s.reserved():
		return removeReserved
	}
	return removeFiles
}

type startStep struct {
	name string
	do   func(*start, context.Context) error
}

// startSteps are the steps of a start in order. What each makes bears the task's name, so that Host.Remove undoes any
// prefix of them. The first two can fail for what the job author wrote without anything having been made for the task
// but its state folder.
var startSteps = []startStep{
	{"state", (*start).writeState},
	{"image", (*start).ensureImage},
	{"clone", (*start).clone},
	{"names", (*start).writeNames},
	{"copy", (*start).copyFiles},
	{"mount", (*start).mount},
	{"resolve", (*start).resolve},
	{"jail", (*start).createJail},
	{"network", (*start).attach},
	{"limits", (*start).limit},
	{"launch", (*start).launch},
	{"health", (*start).register},
}

func (s *start) run(ctx context.Context) error {
	for _, step := range startSteps {
		began := time.Now()
		if err := step.do(s, ctx); err != nil {
			return err
		}
		s.d.logger.Trace("start", "task", s.name, "step", step.name, "took", time.Since(began))
		fault("start", step.name)
	}
	return nil
}

func (s *start) writeState(context.Context) error {
	s.state = State{
		Version:   stateVersion,
		Driver:    s.d.name,
		TaskID:    s.cfg.ID,
		AllocID:   s.cfg.AllocID,
		Namespace: s.cfg.Namespace,
		JobID:     s.cfg.JobID,
		Group:     s.cfg.TaskGroupName,
		Task:      s.cfg.Name,
		Image:     s.ref.String(),
		Mode:      s.task.NetworkMode,
		Ports:     s.ports,
		Created:   time.Now(),
	}
	return writeState(s.dir, s.state)
}

func (s *start) ensureImage(ctx context.Context) error {
	timeout := duration(s.host.Config.PullTimeout, 15*time.Minute)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout,
		fmt.Errorf("it is not here after %v; see the registry, or raise pull_timeout in the plugin's configuration", timeout))
	defer cancel()
	report := newPullReport(s.d, s.cfg, s.ref)
	img, err := s.host.Images.Ensure(ctx, s.ref, image.EnsureOptions{ForcePull: s.task.ForcePull, Progress: report.progress})
	if err != nil {
		return err
	}
	report.done(img)
	s.image = img
	s.state.Digest = img.Pin()
	return s.foresee(ctx)
}

// foresee refuses a command, user or folder that the image lacks before anything is made of it, unless the job brings along what
// might hold it.
func (s *start) foresee(ctx context.Context) error {
	if err := s.specify(); err != nil {
		return err
	}
	root, err := s.host.Images.Root(ctx, s.image)
	if err != nil || len(s.copies)+len(s.mounts)+len(s.cfg.Mounts) > 0 {
		return err
	}
	mounted := []string{"/proc"}
	for _, m := range s.mountTable() {
		mounted = append(mounted, m.Target)
	}
	s.foreseen, err = jail.Foresee(root, mounted, &s.spec)
	return err
}

// clone makes the root. That waits for the disk, and meanwhile the task's ports are opened, and its shim gets ready where that is possible.
func (s *start) clone(ctx context.Context) error {
	reserved, ready := make(chan error, 1), make(chan error, 1)
	go func() { reserved <- s.reserve(ctx) }()
	go func() { ready <- s.prepareShim(launch.BeforeMounts) }()
	root, err := s.host.Storage.Clone(ctx, s.image.ID, s.name, storage.CloneOptions{TaskID: s.cfg.ID})
	if err != nil {
		err = fmt.Errorf("clone of image %s: %w", s.ref, err)
	}
	s.root = root
	s.state.Root = root
	return errors.Join(err, <-reserved, <-ready)
}

// prepareShim prepares one if it is the time, and none is there.
func (s *start) prepareShim(now bool) error {
	if !now || s.shim != nil {
		return nil
	}
	program, err := s.host.installShim()
	if err != nil {
		return err
	}
	s.shim, err = launch.Prepare(program, s.dir, s.name)
	return err
}

func (s *start) reserve(ctx context.Context) error {
	if !s.ownNetwork() {
		return nil
	}
	at, err := s.host.Network.Reserve(ctx, s.request())
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	s.at = at
	s.state.Address = at.IPv4.String()
	return nil
}

func (s *start) reserved() bool { return s.at.IPv4.IsValid() }

func (s *start) request() network.Request {
	return network.Request{Name: s.name, TaskID: s.cfg.ID, Ports: s.ports}
}

// copyFiles comes before the mounts, so that a copy ends up in the clone and nowhere else.
func (s *start) copyFiles(context.Context) error {
	if len(s.copies) == 0 {
		return nil
	}
	root, err := os.OpenRoot(s.root)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, c := range s.copies {
		if err := s.copyOne(root, c); err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
	}
	return nil
}

func (s *start) copyOne(root *os.Root, c pair) error {
	base, err := os.OpenRoot(c.Base)
	if err != nil {
		return err
	}
	defer base.Close()
	return storage.Copy(base, c.Rel, root, c.Target)
}

func (s *start) mount(context.Context) error { return storage.MountAll(s.root, s.mountTable()) }

func (s *start) resolve(context.Context) error {
	s.spec.Root = s.root
	if s.foreseen {
		return nil
	}
	return jail.Resolve(s.root, &s.spec)
}

// specify says what to run, as far as it is known without looking into the image's files.
func (s *start) specify() error {
	m := s.image.Manifest.Defaults
	argv := s.command
	if len(argv) == 0 {
		argv = append([]string{m.Command}, m.Args...)
		if len(s.task.Args) > 0 {
			argv = append([]string{m.Command}, s.task.Args...)
		}
	}
	if argv[0] == "" {
		return fmt.Errorf("image %s has no command of its own; add command to the task's configuration", s.ref)
	}
	s.spec = jail.Spec{
		Version:     jail.Version,
		Name:        s.name,
		Hostname:    s.hostname(),
		HostNetwork: s.task.NetworkMode == modeHost,
		Command:     argv[0],
		Args:        argv[1:],
		Env:         s.env(),
		Dir:         cmp.Or(s.task.WorkDir, m.Workdir, "/"),
		User:        cmp.Or(s.cfg.User, m.User, "root"),
		Stdout:      s.cfg.StdoutPath,
		Stderr:      s.cfg.StderrPath,
		MemoryLimit: s.limits.Memory,
	}
	s.spec.Params = s.params()
	if n := s.cfg.NetworkIsolation; n != nil {
		s.spec.NetNS = n.Path
	}
	return nil
}

// hostname is docker's rule: the job's own, else one that names the alloc.
func (p *plan) hostname() string {
	if p.task.Hostname != "" {
		return p.task.Hostname
	}
	if len(p.cfg.AllocID) >= 8 {
		return defaultHostname(p.cfg.Name, p.cfg.AllocID[:8])
	}
	return p.name
}

// defaultHostname is TASK-ALLOC as far as a host can be called that: Nomad lets a task's name have spaces, any letters, and any length.
func defaultHostname(task, alloc string) string {
	task = strings.Map(func(r rune) rune {
		if strings.ContainsRune(network.HostnameChars, r) {
			return r
		}
		return '-'
	}, task)
	task = strings.Trim(task[:min(len(task), network.MaxHostname-len("-")-len(alloc))], "-.")
	return strings.TrimPrefix(task+"-"+alloc, "-")
}

// env is the image's environment under Nomad's.
func (s *start) env() []string {
	merged := map[string]string{}
	for k, v := range s.image.Manifest.Defaults.Env {
		merged[k] = v
	}
	for k, v := range s.cfg.Env {
		merged[k] = v
	}
	list := make([]string, 0, len(merged))
	for _, k := range sortedKeys(merged) {
		list = append(list, k+"="+merged[k])
	}
	return list
}

func (s *start) createJail(context.Context) error {
	cell, err := jail.Create(s.spec)
	if errors.Is(err, jail.ErrExists) {
		return fmt.Errorf("%w, and no task of this driver has it; nomad-driver-jail gc removes it", err)
	}
	if err != nil {
		return fmt.Errorf("jail: %w", err)
	}
	s.cell = cell
	return nil
}

// attach connects the jail, and meanwhile has the shim get ready if it is not.
func (s *start) attach(ctx context.Context) error {
	ready := make(chan error, 1)
	go func() { ready <- s.prepareShim(true) }()
	err := s.connect(ctx)
	return errors.Join(err, <-ready)
}

func (s *start) connect(ctx context.Context) error {
	if s.reserved() {
		req := s.request()
		req.Cell = s.cell.NetNS
		if s.cell.JID > 0 {
			req.Cell = strconv.Itoa(s.cell.JID)
		}
		if err := s.host.Network.Attach(ctx, req, s.at); err != nil {
			return fmt.Errorf("network: %w", err)
		}
	}
	return writeState(s.dir, s.state)
}

// ownNetwork says whether the jail gets an address from us: not on the host's stack, nor in Nomad's group network.
func (p *plan) ownNetwork() bool {
	return p.task.NetworkMode == modeBridge && !p.joinsGroup()
}

// joinsGroup says that the jail is in Nomad's group network, to which Nomad leads the ports.
func (p *plan) joinsGroup() bool {
	return p.cfg.NetworkIsolation != nil && p.cfg.NetworkIsolation.Path != ""
}

// writeNames gives the jail its own /etc/hosts and /etc/resolv.conf, before the job's copies and mounts, which may bring others.
func (s *start) writeNames(context.Context) error {
	hosts, err := network.Hosts(s.spec.Hostname, s.at, s.task.ExtraHosts)
	if err != nil {
		return err
	}
	resolv, err := s.resolvConf()
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(s.root)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirAll("etc", 0o755); err != nil {
		return err
	}
	if err := replaceFile(root, "etc/hosts", hosts); err != nil {
		return err
	}
	return replaceFile(root, "etc/resolv.conf", resolv)
}

// resolvConf is the host's own file for a jail on the host's stack, which reaches what the host reaches.
func (s *start) resolvConf() ([]byte, error) {
	c := s.cfg.DNS
	if c == nil && s.spec.HostNetwork {
		data, err := os.ReadFile("/etc/resolv.conf")
		if os.IsNotExist(err) {
			return nil, nil
		}
		return data, err
	}
	var dns *network.DNS
	if c != nil {
		dns = &network.DNS{Servers: c.Servers, Searches: c.Searches, Options: c.Options}
	}
	host, err := network.HostResolvConf()
	if err != nil {
		return nil, err
	}
	return network.ResolvConf(host, dns), nil
}

// replaceFile takes away what is there first: an image may have a symlink in its place.
func replaceFile(root *os.Root, name string, data []byte) error {
	if err := root.Remove(name); err != nil && !os.IsNotExist(err) {
		return err
	}
	return root.WriteFile(name, data, 0o644)
}

func (s *start) limit(context.Context) error {
	subject, err := rctl.Apply(s.name, s.limits)
	if err != nil {
		return fmt.Errorf("limits: %w", err)
	}
	s.spec.Cgroups = subject.Cgroups
	s.spec.OOM = subject.OOM
	return nil
}

func (s *start) launch(ctx context.Context) error {
	shim := s.shim
	s.shim = nil
	status, err := shim.Start(ctx, s.spec)
	if err != nil {
		return err
	}
	s.status = status
	return nil
}

func (s *start) register(context.Context) error {
	s.host.Health.Register(instance(s.name, s.state, s.status))
	return nil
}
