package driver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/testutils"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
	"github.com/nomad-driver-jail/nomad-driver-jail/network"
	"github.com/nomad-driver-jail/nomad-driver-jail/rctl"
)

var golden = flag.Bool("golden", false, "write testdata of the present versions instead of reading it; for a new version only")

// released is a task that ended, as each version wrote its state.
var released = struct {
	state  State
	spec   jail.Spec
	status jail.Status
}{
	state: State{
		Version:   1,
		Driver:    "jail",
		TaskID:    "0b9e4c7a-54d2-4f3e-8b26-1f0d2f6f9f11/web/5a2c9d10",
		AllocID:   "0b9e4c7a-54d2-4f3e-8b26-1f0d2f6f9f11",
		Namespace: "default",
		JobID:     "site",
		Group:     "front",
		Task:      "web",
		Image:     "https://registry.example.org/web:1.4",
		Digest:    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		Root:      "/tank/jails/tasks/NAME",
		Mode:      modeBridge,
		Address:   "10.99.3.7",
		Ports: []network.PortMap{
			{Label: "http", HostIP: netip.MustParseAddr("192.0.2.10"), HostPort: 23456, TaskPort: 80, Proto: "tcp"},
		},
		Created: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC),
	},
	spec: jail.Spec{
		Version: 1, Hostname: "web-0b9e4c7a", Root: "/tank/jails/tasks/NAME", Command: "/usr/local/sbin/nginx",
		Args: []string{"-g", "daemon off;"}, Env: []string{"NOMAD_TASK_NAME=web"}, Dir: "/", User: "www", UID: 80, GID: 80, Groups: []uint32{80},
		Stdout: "/alloc/logs/.web.stdout.fifo", Stderr: "/alloc/logs/.web.stderr.fifo", MemoryLimit: 64 << 20,
	},
	status: jail.Status{
		Version: 1, PID: 4242, Birth: 123456, ShimPID: 4241, BootID: "bb2257c8-1b9e-4e96-85b5-c366be5a9e71",
		Started: time.Date(2026, 11, 21, 12, 0, 1, 0, time.UTC), Ended: time.Date(2026, 11, 21, 13, 0, 0, 0, time.UTC), ExitCode: 7,
	},
}

// TestRecoversReleasedVersions recovers a task from what each version left on the host and in Nomad's hands.
func TestRecoversReleasedVersions(t *testing.T) {
	if *golden {
		writeGolden(t, fmt.Sprintf("testdata/v%d", stateVersion))
	}
	versions, err := filepath.Glob("testdata/v*")
	if err != nil || len(versions) == 0 {
		t.Fatalf("no testdata, %v", err)
	}
	for _, from := range versions {
		t.Run(filepath.Base(from), func(t *testing.T) {
			h, d := harness(t)
			handle := readHandle(t, from)
			name := Name(handle.Config.ID)
			dir := d.host.taskDir(name)
			if err := errors.Join(
				os.CopyFS(dir, os.DirFS(from)),
				unix.Mkfifo(filepath.Join(dir, jail.AliveFile), 0o600), // without a writer: the shim is gone
			); err != nil {
				t.Fatal(err)
			}
			if err := h.RecoverTask(handle); err != nil {
				t.Fatal(err)
			}
			if r := waitTask(t, h, handle.Config.ID); r.ExitCode != 7 || r.Err != nil {
				t.Errorf("ended with %+v, want exit code 7", r)
			}
			task, err := d.task(handle.Config.ID)
			if err != nil {
				t.Fatal(err)
			}
			state := task.state
			state.Version, state.Root = released.state.Version, released.state.Root
			if got, want := encoded(t, state), encoded(t, released.state); !bytes.Equal(got, want) {
				t.Errorf("read\n%s\nwant\n%s", got, want)
			}
			if spec, err := jail.ReadSpec(dir); err != nil || spec.Command != released.spec.Command {
				t.Errorf("spec.json: %+v, %v", spec, err)
			}
			var own TaskState
			if err := handle.GetDriverState(&own); err != nil || own.Name != name || own.Network.IP != released.state.Address {
				t.Errorf("the handle has %+v, %v", own, err)
			}
			if err := h.DestroyTask(handle.Config.ID, false); err != nil {
				t.Error(err)
			}
			gone(t, d, name)
		})
	}
}

// TestPresentVersionIsReleased fails when what is written changes and the version does not.
func TestPresentVersionIsReleased(t *testing.T) {
	dir := t.TempDir()
	writeGolden(t, dir)
	for _, file := range []string{"task.json", "spec.json", "status.json", "handle.msgpack"} {
		got, err1 := os.ReadFile(filepath.Join(dir, file))
		want, err2 := os.ReadFile(filepath.Join("testdata/v1", file))
		if err := errors.Join(err1, err2); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what version 1 writes: %v\n%q\nwant\n%q", file, err, got, want)
		}
	}
}

func writeGolden(t *testing.T, dir string) {
	t.Helper()
	state, spec := released.state, released.spec
	name := Name(state.TaskID)
	spec.Name = name
	spec.Root, state.Root = strings.ReplaceAll(spec.Root, "NAME", name), strings.ReplaceAll(state.Root, "NAME", name)
	cfg := &drivers.TaskConfig{ID: state.TaskID, AllocID: state.AllocID, JobID: state.JobID, TaskGroupName: state.Group, Name: state.Task,
		Namespace: state.Namespace, AllocDir: "/var/nomad/alloc/" + state.AllocID, StdoutPath: spec.Stdout, StderrPath: spec.Stderr}
	handle, err := newTask(cfg, name, dir, state, released.status, state.Created).handle()
	if err != nil {
		t.Fatal(err)
	}
	var data []byte
	if err := base.MsgPackEncode(&data, handle); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(dir, jail.SpecFile)) // it is written once
	if err := errors.Join(
		writeState(dir, state),
		jail.WriteSpec(dir, spec),
		os.WriteFile(filepath.Join(dir, jail.StatusFile), encoded(t, released.status), 0o600),
		os.WriteFile(filepath.Join(dir, "handle.msgpack"), data, 0o600),
	); err != nil {
		t.Fatal(err)
	}
}

func readHandle(t *testing.T, dir string) *drivers.TaskHandle {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "handle.msgpack"))
	if err != nil {
		t.Fatal(err)
	}
	var handle drivers.TaskHandle
	if err := base.MsgPackDecode(data, &handle); err != nil {
		t.Fatal(err)
	}
	return &handle
}

func encoded(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// gone checks that nothing on the host bears the name.
func gone(t *testing.T, d *Driver, name string) {
	t.Helper()
	holdings, err := d.host.Holdings(context.Background())
	if err != nil {
		t.Error(err)
	}
	for _, x := range holdings {
		if x.Name == name {
			t.Errorf("left: %+v", x)
		}
	}
}

// TestHostRestart recovers a task whose host has been restarted under it: it is lost, and what the restart left of it is removed.
func TestHostRestart(t *testing.T) {
	h, d := harness(t)
	cfg := newTaskConfig(t, h, "sleep 1000")
	releaseLogs(cfg) // nobody will write
	name := Name(cfg.ID)
	root := d.host.Storage.TaskRoot(name)
	// What outlives a restart is on disk; the cgroup stands for what a host may make again from its configuration.
	handle := leave(t, d, cfg, time.Now())
	if _, err := rctl.Apply(name, rctl.Limits{Memory: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	if err := h.RecoverTask(handle); err == nil || !strings.Contains(err.Error(), "restart") {
		t.Errorf("recovered with %v", err)
	}
	if _, err := d.task(cfg.ID); err == nil {
		t.Error("the lost task is known")
	}
	gone(t, d, name)
	if _, err := os.Stat(root); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", root, err)
	}
}

// TestRecoverAfterClockStep recovers a task that runs and whose boot has another ID by now, as FreeBSD's has when ntpd(8) has set the clock.
func TestRecoverAfterClockStep(t *testing.T) {
	h, d := harness(t)
	cfg := newTaskConfig(t, h, "until [ -e /local/go ]; do sleep 0.1; done; exit 9")
	handle := startTask(t, h, cfg)
	editStatus(t, d.host.taskDir(Name(cfg.ID)), func(s *jail.Status) { s.BootID = "another" })

	second, _ := harnessWith(t, d.config)
	if err := second.RecoverTask(handle); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.TaskDir().LocalDir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if r := waitTask(t, second, cfg.ID); r.ExitCode != 9 || r.Err != nil {
		t.Errorf("got %+v, want exit code 9", r)
	}
}

// TestRecoverOnUnfitHost has the operator change the subnet while a task runs. No task can be started then; this one is recovered.
func TestRecoverOnUnfitHost(t *testing.T) {
	h, d := harness(t)
	cfg := newTaskConfig(t, h, "sleep 1000")
	handle := startTask(t, h, cfg)
	config := d.config
	config.Subnet = "10.98.0.0/16"
	d2 := configured(t, config)
	if err := d2.host.Prepare(t.Context()); err == nil || !strings.Contains(err.Error(), "stop them before the subnet changes") {
		t.Fatalf("the host is fit, or not for another reason: %v", err)
	}
	second := served(t, d2)
	wantRecovered(t, second, d2, handle)
}

// wantRecovered recovers a task that runs, executes in it and destroys it.
func wantRecovered(t *testing.T, h *testutils.DriverHarness, d *Driver, handle *drivers.TaskHandle) {
	t.Helper()
	if err := h.RecoverTask(handle); err != nil {
		t.Fatal(err)
	}
	id := handle.Config.ID
	if r, err := h.ExecTask(id, []string{"/bin/sh", "-c", "exit 3"}, 10*time.Second); err != nil || r.ExitResult.ExitCode != 3 {
		t.Errorf("in the task: %+v, %v", r, err)
	}
	if err := h.DestroyTask(id, true); err != nil {
		t.Error(err)
	}
	gone(t, d, Name(id))
}

// TestUnreadableStatus recovers a task whose status it cannot read: another would run beside it.
func TestUnreadableStatus(t *testing.T) {
	h, d := harness(t)
	cfg := newTaskConfig(t, h, "sleep 1000")
	handle := startTask(t, h, cfg)
	dir := d.host.taskDir(Name(cfg.ID))
	editStatus(t, dir, func(s *jail.Status) { s.Version = jail.Version + 1 })

	second, d2 := harnessWith(t, d.config)
	wantRecovered(t, second, d2, handle)
}

// TestRecoverDuringStart is asked for a task whose shim is there and has not started it. The test is that shim.
func TestRecoverDuringStart(t *testing.T) {
	h, d := harness(t)
	cfg := newTaskConfig(t, h, "true")
	defer releaseLogs(cfg) // nobody will write
	name := Name(cfg.ID)
	dir := d.host.taskDir(name)
	fifo := filepath.Join(dir, jail.AliveFile)
	state := State{Version: stateVersion, Driver: d.name, TaskID: cfg.ID, AllocID: cfg.AllocID, Task: cfg.Name, Created: time.Now()}
	if err := errors.Join(writeState(dir, state), unix.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	shim, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	handle, err := newTask(cfg, name, dir, state, jail.Status{}, time.Now()).handle()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.RecoverTask(handle); err != nil {
		t.Fatal(err)
	}
	shim.Close()
	if r := waitTask(t, h, cfg.ID); r.Err == nil || !strings.Contains(r.Err.Error(), "the task never started") {
		t.Errorf("without its shim it ends with %+v", r)
	}
	if err := h.DestroyTask(cfg.ID, true); err != nil {
		t.Error(err)
	}
	gone(t, d, name)
	if err := h.RecoverTask(handle); !errors.Is(err, drivers.ErrTaskNotFound) && (err == nil || !strings.Contains(err.Error(), drivers.ErrTaskNotFound.Error())) {
		t.Errorf("removed: recovered with %v", err)
	}
}

// editStatus writes over the status that a shim has written.
func editStatus(t *testing.T, dir string, edit func(*jail.Status)) {
	t.Helper()
	status, err := jail.ReadStatus(dir)
	if err != nil {
		t.Fatal(err)
	}
	edit(&status)
	if err := os.WriteFile(filepath.Join(dir, jail.StatusFile), encoded(t, status), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestUnclaimed has one client start tasks and die before it wrote them down. Under the next one, what that does not ask for goes.
func TestUnclaimed(t *testing.T) {
	config := testConfig(t)
	config.CleanupDelay = "300ms"
	h, d := harnessWith(t, config)
	first, die := context.WithCancel(t.Context())
	if _, err := d.Fingerprint(first); err != nil {
		t.Fatal(err)
	}
	var configs []*drivers.TaskConfig // all before the first start: the first of their folders that goes takes the harness's connection along
	for range 3 {
		configs = append(configs, newTaskConfig(t, h, "sleep 1000"))
	}
	var handles []*drivers.TaskHandle
	for _, cfg := range configs {
		handles = append(handles, startTask(t, h, cfg))
	}
	die()
	second, leave := context.WithCancel(context.Background())
	t.Cleanup(leave) // before the tasks are destroyed: what is being removed when the test ends is so twice
	orphan, recovered, awaited := handles[0], handles[1], handles[2]
	if _, err := h.WaitTask(second, awaited.Config.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Fingerprint(second); err != nil {
		t.Fatal(err)
	}
	if err := h.RecoverTask(recovered); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := d.task(orphan.Config.ID); err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the task that no client knows runs on")
		}
	}
	gone(t, d, Name(orphan.Config.ID))
	time.Sleep(time.Second)
	for _, handle := range []*drivers.TaskHandle{recovered, awaited} {
		if _, err := d.task(handle.Config.ID); err != nil {
			t.Errorf("%s: %v", handle.Config.ID, err)
		}
	}
}
