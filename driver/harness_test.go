package driver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/helper/uuid"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/testutils"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/isolate"
	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/rootfs"
	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/zfs/pool"
	"github.com/nomad-driver-jail/nomad-driver-jail/image"
	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

func TestMain(m *testing.M) {
	isolate.Enter(isolate.Options{Network: isolate.Apart})
	os.Exit(m.Run())
}

// testImage is in the store of every harness.
const testImage = "base:1.0"

// harness is a driver behind Nomad's own harness for drivers, with a directory for a store: what Nomad asks is the same on
// every store.
func harness(t *testing.T) (*testutils.DriverHarness, *Driver) {
	t.Helper()
	return harnessWith(t, testConfig(t))
}

func testConfig(t testing.TB) Config {
	t.Helper()
	config := DefaultConfig()
	dir := t.TempDir()
	config.Directory = filepath.Join(dir, "store")
	config.StateDir = filepath.Join(dir, "state")
	config.Consul.Enabled = false
	return config
}

// poolConfig has a pool of its own in the place of the directory.
func poolConfig(t testing.TB) Config {
	t.Helper()
	config := testConfig(t) // its folders go after what is mounted in them
	p, err := pool.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	config.Directory, config.Dataset = "", p.Dataset+"/jails"
	return config
}

func harnessWith(t *testing.T, config Config) (*testutils.DriverHarness, *Driver) {
	t.Helper()
	d := prepared(t, config)
	return served(t, d), d
}

func served(t *testing.T, d *Driver) *testutils.DriverHarness {
	t.Helper()
	h := testutils.NewDriverHarness(t, d)
	t.Cleanup(h.Kill)
	return h
}

// prepared is a driver with that configuration, and the test image.
func prepared(t testing.TB, config Config) *Driver {
	t.Helper()
	d := configured(t, config)
	buildImage(t, d.host)
	return d
}

func configured(t testing.TB, config Config) *Driver {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	d := New(ctx, DefaultName, hclog.NewNullLogger())
	var data []byte
	if err := base.MsgPackEncode(&data, &config); err != nil {
		t.Fatal(err)
	}
	if err := d.SetConfig(&base.Config{PluginConfig: data, AgentConfig: &base.AgentConfig{}}); err != nil {
		t.Fatal(err)
	}
	return d
}

func buildImage(t testing.TB, host *Host) {
	t.Helper()
	if err := host.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := rootfs.Make(root, ""); err != nil {
		t.Fatal(err)
	}
	ref, err := image.ParseReference(testImage)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := host.Images.Build(t.Context(), ref, root, image.BuildOptions{}); err != nil {
		t.Fatal(err)
	}
}

// newTaskConfig is a task that runs a shell script in the test image, its folders and logs made as Nomad's client does.
func newTaskConfig(t *testing.T, h *testutils.DriverHarness, script string) *drivers.TaskConfig {
	t.Helper()
	alloc := uuid.Generate()
	cfg := &drivers.TaskConfig{
		ID:      alloc + "/test/" + uuid.Short(),
		AllocID: alloc,
		Name:    "test",
		Resources: &drivers.Resources{
			NomadResources: &structs.AllocatedTaskResources{
				Cpu:    structs.AllocatedCpuResources{CpuShares: 100},
				Memory: structs.AllocatedMemoryResources{MemoryMB: 64},
			},
			LinuxResources: &drivers.LinuxResources{},
		},
	}
	config := TaskConfig{
		Image: testImage, Command: "/bin/sh", Args: []string{"-c", script}, NetworkMode: modeBridge, Securelevel: -1,
	}
	if err := cfg.EncodeConcreteDriverConfig(&config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.MkAllocDir(cfg, true))
	return cfg
}

func startTask(t *testing.T, h *testutils.DriverHarness, cfg *drivers.TaskConfig) *drivers.TaskHandle {
	t.Helper()
	handle, _, err := h.StartTask(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := h.InspectTask(cfg.ID); err != nil {
			return // destroyed by the test
		}
		if err := h.DestroyTask(cfg.ID, true); err != nil {
			t.Error(err)
		}
	})
	return handle
}

func waitTask(t *testing.T, h *testutils.DriverHarness, id string) *drivers.ExitResult {
	t.Helper()
	ch, err := h.WaitTask(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-ch:
		return r
	case <-time.After(time.Minute):
		t.Fatal("the task does not end")
		return nil
	}
}

// Nomad's own tests for drivers.

func TestExecStreamingConformance(t *testing.T) {
	h, _ := harness(t)
	cfg := newTaskConfig(t, h, "sleep 1000")
	startTask(t, h, cfg)
	execConformance(t, h, cfg.ID)
}

func TestTerminalHasName(t *testing.T) {
	h, _ := harness(t)
	cfg := newTaskConfig(t, h, "sleep 1000")
	startTask(t, h, cfg)
	code, stdout, _ := testutils.ExecTask(t, h, cfg.ID, terminalName, true, "")
	if code != 0 || !strings.HasPrefix(stdout, "/dev/pts/") {
		t.Errorf("tty says %q, exit code %d", stdout, code)
	}
}

func TestDNSConfig(t *testing.T) {
	for _, dns := range []*drivers.DNSConfig{
		nil,
		{Servers: []string{"192.0.2.53", "198.51.100.53"}, Searches: []string{"example.org"}, Options: []string{"ndots:2"}},
	} {
		h, _ := harness(t)
		cfg := newTaskConfig(t, h, "sleep 1000")
		cfg.DNS = dns
		startTask(t, h, cfg)
		testutils.TestTaskDNSConfig(t, h, cfg.ID, dns)
	}
}

func TestWaitByMany(t *testing.T) {
	h, _ := harness(t)
	cfg := newTaskConfig(t, h, "sleep 1; exit 7")
	startTask(t, h, cfg)
	results := make(chan *drivers.ExitResult)
	for range 3 {
		go func() { results <- waitTask(t, h, cfg.ID) }()
	}
	for range 3 {
		if r := <-results; r.ExitCode != 7 || r.Err != nil {
			t.Errorf("got %+v", r)
		}
	}
	if r := waitTask(t, h, cfg.ID); r.ExitCode != 7 {
		t.Errorf("after the end: got %+v", r)
	}
}

// What the image lacks is known before there is a clone of it; what the task's folders or copies may hold, after.
func TestRefusedBeforeClone(t *testing.T) {
	d := prepared(t, testConfig(t))
	cases := map[string]struct {
		config   TaskConfig
		user     string
		err      string
		foreseen bool
	}{
		"there":          {config: TaskConfig{Command: "/bin/sh"}, foreseen: true},
		"missing":        {config: TaskConfig{Command: "/bin/nothing"}, err: "command /bin/nothing is not in the image", foreseen: true},
		"unknown user":   {config: TaskConfig{Command: "/bin/sh"}, user: "stranger", err: "user stranger is not in the image's /etc/passwd", foreseen: true},
		"an artifact":    {config: TaskConfig{Command: "/local/app"}},
		"perhaps a copy": {config: TaskConfig{Command: "/bin/nothing", Copy: []string{"local/app:/bin/nothing"}}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cfg := &drivers.TaskConfig{ID: "alloc/test/1", AllocID: "alloc", Name: "test", AllocDir: t.TempDir(), User: c.user}
			c.config.Image, c.config.NetworkMode, c.config.Securelevel = testImage, modeBridge, -1
			if err := cfg.EncodeConcreteDriverConfig(&c.config); err != nil {
				t.Fatal(err)
			}
			local := cfg.TaskDir().LocalDir
			if err := errors.Join(os.MkdirAll(local, 0o700), os.WriteFile(filepath.Join(local, "app"), nil, 0o755)); err != nil {
				t.Fatal(err)
			}
			p, err := newPlan(cfg, &d.config)
			if err != nil {
				t.Fatal(err)
			}
			s := &start{plan: p, d: d, host: d.host, dir: d.host.taskDir(p.name)}
			err = s.ensureImage(t.Context())
			if s.foreseen != c.foreseen || (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
				t.Errorf("foreseen %v, %v", s.foreseen, err)
			}
		})
	}
}

func TestDestroyWithoutForce(t *testing.T) {
	h, _ := harness(t)
	cfg := newTaskConfig(t, h, "sleep 1000")
	startTask(t, h, cfg)
	if err := h.DestroyTask(cfg.ID, false); err == nil {
		t.Error("a running task was destroyed without force")
	}
	if err := h.StopTask(cfg.ID, time.Second, "SIGKILL"); err != nil {
		t.Fatal(err)
	}
	if err := h.DestroyTask(cfg.ID, false); err != nil {
		t.Error(err)
	}
	if _, err := h.InspectTask(cfg.ID); err == nil {
		t.Error("a destroyed task is known")
	}
}

func TestStats(t *testing.T) {
	h, _ := harness(t)
	cfg := newTaskConfig(t, h, "while :; do :; done")
	startTask(t, h, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ch, err := h.TaskStats(ctx, cfg.ID, 200*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.After(20 * time.Second)
	for {
		select {
		case u := <-ch:
			if u.ResourceUsage.CpuStats.Percent > 10 && u.ResourceUsage.MemoryStats.Usage > 0 {
				return
			}
		case <-deadline:
			t.Fatal("a spinning task never used 10 % of a core and some memory")
		}
	}
}

// TestFailedStartLeavesNothing fails at a late step and looks at the host.
func TestFailedStartLeavesNothing(t *testing.T) {
	h, d := harness(t)
	cfg := newTaskConfig(t, h, "true")
	if err := cfg.EncodeConcreteDriverConfig(&TaskConfig{
		Image: testImage, Command: "/bin/sh", NetworkMode: modeBridge, Securelevel: -1, Mount: []string{"local:/mnt/a/b"}, WorkDir: "/nowhere",
	}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.StartTask(cfg); err == nil {
		t.Fatal("started in a working directory that is not there")
	}
	nothingLeft(t, d, cfg)
}

// TestFailedStartLeavesAnothersJail has the task's name taken by a jail that the driver did not make.
func TestFailedStartLeavesAnothersJail(t *testing.T) {
	h, d := harness(t)
	cfg := newTaskConfig(t, h, "true")
	name := Name(cfg.ID)
	if _, err := jail.Create(jail.Spec{Version: jail.Version, Name: name, Root: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := jail.Remove(name); err != nil {
			t.Error(err)
		}
	})
	const want = "exists already, and no task of this driver has it; nomad-driver-jail gc removes it"
	if _, _, err := h.StartTask(cfg); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, want one line with %s", err, want)
	}
	list, err := d.host.Holdings(t.Context())
	if err != nil {
		t.Error(err)
	}
	i := slices.IndexFunc(list, func(x Holding) bool { return x.Name == name })
	if i < 0 || !slices.Equal(list[i].Parts, []string{"jail"}) {
		t.Errorf("of %s the host has %+v, want the jail and nothing else", name, list)
	}
}

// TestRecoverAcrossPlugins starts a task in one plugin and finds it in the next, running and then ended.
func TestRecoverAcrossPlugins(t *testing.T) {
	h, d := harness(t)
	cfg := newTaskConfig(t, h, "until [ -e /local/go ]; do sleep 0.1; done; exit 9")
	handle := startTask(t, h, cfg)
	pid := d.tasks[cfg.ID].lastStatus().PID

	second, d2 := harnessWith(t, d.config)
	if err := second.RecoverTask(handle); err != nil {
		t.Fatal(err)
	}
	if got := d2.tasks[cfg.ID].lastStatus().PID; got != pid {
		t.Errorf("the next plugin found process %d, it is %d", got, pid)
	}
	r, err := second.ExecTask(cfg.ID, []string{"/bin/sh", "-c", "echo in; exit 3"}, 10*time.Second)
	if err != nil || string(r.Stdout) != "in\n" || r.ExitResult.ExitCode != 3 {
		t.Errorf("exec: %+v, %v", r, err)
	}
	if err := os.WriteFile(filepath.Join(cfg.TaskDir().LocalDir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if r := waitTask(t, second, cfg.ID); r.ExitCode != 9 {
		t.Errorf("got %+v, want exit code 9", r)
	}
	third, _ := harnessWith(t, d.config)
	if err := third.RecoverTask(handle); err != nil {
		t.Fatal(err)
	}
	if r := waitTask(t, third, cfg.ID); r.ExitCode != 9 {
		t.Errorf("recovered after its end: got %+v, want exit code 9", r)
	}
}

func TestRecoverOfNothing(t *testing.T) {
	h, _ := harness(t)
	handle := drivers.NewTaskHandle(handleVersion)
	handle.Config = newTaskConfig(t, h, "true")
	if err := h.RecoverTask(handle); err == nil {
		t.Error("recovered a task that never was")
	}
}

// nothingLeft fails where the host holds anything of the task's.
func nothingLeft(t *testing.T, d *Driver, cfg *drivers.TaskConfig) {
	t.Helper()
	list, err := d.host.Holdings(context.Background())
	if err != nil {
		t.Error(err)
	}
	for _, x := range list {
		if x.Name == Name(cfg.ID) {
			t.Errorf("left: %s", strings.Join(x.Parts, ", "))
		}
	}
}
