package launch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

// smallDisk puts the task's state on a file system of its own.
func (k *task) smallDisk() {
	k.t.Helper()
	disk := k.t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=262144", "tmpfs", disk).CombinedOutput(); err != nil {
		k.t.Fatalf("mount: %v %s", err, out)
	}
	k.t.Cleanup(func() { _ = unix.Unmount(disk, 0) })
	k.dir = filepath.Join(disk, k.spec.Name)
}

// fill writes until the disk of dir is full.
func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	must(t, err)
	defer f.Close()
	for size := 4096; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			size /= 2
		}
	}
}

func TestEndOnFullDisk(t *testing.T) {
	k := shell(t, `read -r _ < /tmp/go; exit 11`)
	gate := k.gate("go")
	k.smallDisk()
	k.start()
	fill(t, filepath.Dir(k.dir))
	gate.open()
	if status := k.wait(); status.ExitCode != 11 || status.Ended.IsZero() || status.Error != "" {
		t.Errorf("status %+v", status)
	}
}

func TestStartOnFullDisk(t *testing.T) {
	k := newTask(t, "/bin/sleep", "1000")
	k.smallDisk()
	fill(t, filepath.Dir(k.dir))
	if _, err := k.tryStart(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(k.dir); !os.IsNotExist(err) {
		t.Errorf("state folder: %v", err)
	}
}

// While the end cannot be written, the task does not end for those that wait.
func TestEndIsTriedAgain(t *testing.T) {
	k := shell(t, `read -r _ < /tmp/go; exit 12`)
	gate := k.gate("go")
	k.start()
	spare := filepath.Join(k.dir, jail.SpareFile)
	must(t, os.Remove(spare))
	must(t, os.Mkdir(spare, 0o700))
	gate.open()
	time.Sleep(500 * time.Millisecond)
	if !jail.Alive(k.dir) {
		t.Error("ended without a status")
	}
	must(t, os.Remove(spare))
	if status := k.wait(); status.ExitCode != 12 {
		t.Errorf("status %+v", status)
	}
}

func TestShimSurvivesSignals(t *testing.T) {
	k := shell(t, `read -r _ < /tmp/go; exit 13`)
	gate := k.gate("go")
	status := k.start()
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGPIPE, syscall.SIGUSR1,
		syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGSEGV, syscall.SIGABRT, syscall.SIGCHLD, syscall.SIGCONT, syscall.SIGURG} {
		must(t, syscall.Kill(status.ShimPID, sig))
	}
	time.Sleep(100 * time.Millisecond)
	gate.open()
	if status := k.wait(); status.ExitCode != 13 {
		t.Errorf("status %+v", status)
	}
}

// TestMain's process can be started again as a plugin, to be killed.
const pluginEnv = "JAIL_TEST_PLUGIN_DIR"

// actAsPlugin starts the task of which another process has written the spec, and then has no time to do anything else.
func actAsPlugin(dir string) {
	for _, cgroup := range filepath.SplitList(os.Getenv("JAIL_TEST_CGROUPS")) {
		if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte("0"), 0); err != nil {
			fmt.Println(err)
		}
	}
	spec, err := jail.ReadSpec(dir + ".plan")
	if err == nil {
		_, err = Start(context.Background(), os.Getenv("JAIL_TEST_SHIM"), dir, spec)
	}
	fmt.Println("started", err)
	if script := os.Getenv("JAIL_TEST_EXEC"); script != "" {
		_, err := Exec(context.Background(), os.Getenv("JAIL_TEST_SHIM"), dir, ExecOptions{Args: []string{"sh", "-c", script}, Stdout: os.Stdout})
		fmt.Println("exec", err)
	}
	select {}
}

// startByOther starts the task from another process and kills that one.
func (k *task) startByOther(env ...string) jail.Status {
	k.t.Helper()
	must(k.t, jail.Resolve(k.spec.Root, &k.spec))
	k.create()
	must(k.t, os.MkdirAll(k.dir+".plan", 0o700))
	must(k.t, jail.WriteSpec(k.dir+".plan", k.spec))
	self, err := os.Executable()
	must(k.t, err)
	plugin := exec.Command(self)
	plugin.Env = append(os.Environ(), pluginEnv+"="+k.dir, "JAIL_TEST_SHIM="+shim)
	plugin.Env = append(plugin.Env, env...)
	out, err := plugin.StdoutPipe()
	must(k.t, err)
	must(k.t, plugin.Start())
	lines := bufio.NewReader(out)
	expect := func(want string) {
		if line, err := lines.ReadString('\n'); line != want+"\n" {
			k.t.Fatalf("the other process says %q %v", line, err)
		}
	}
	expect("started <nil>")
	if len(env) > 0 && strings.HasPrefix(env[0], "JAIL_TEST_EXEC=") {
		expect("ready")
	}
	must(k.t, plugin.Process.Kill())
	_ = plugin.Wait()
	status, err := jail.ReadStatus(k.dir)
	must(k.t, err)
	return status
}

// A task outlives the plugin that started it, and another one finds all of it by its folder.
func TestPluginKilled(t *testing.T) {
	k := shell(t, `echo before; trap 'echo after; exit 14' USR1; while :; do sleep 0.05; done`)
	status := k.startByOther()
	k.out.until("before")
	if code, out, _ := k.script("echo from exec", nil); code != 0 || out != "from exec\n" {
		t.Errorf("exec: %d %q", code, out)
	}
	must(t, jail.Signal(k.dir, syscall.SIGUSR1))
	k.out.until("after")
	if ended := k.wait(); ended.ExitCode != 14 || ended.PID != status.PID {
		t.Errorf("status %+v", ended)
	}
}

// What a plugin runs beside the task ends with the plugin; the task does not.
func TestExecEndsWithPlugin(t *testing.T) {
	k := newTask(t, "/bin/sleep", "1000")
	k.startByOther("JAIL_TEST_EXEC=sleep 777 & echo ready; wait")
	k.untilGone("sleep 777")
}

// A task that ends while there is no plugin tells the next one.
func TestEndsWithoutPlugin(t *testing.T) {
	k := shell(t, `exit 15`)
	k.startByOther()
	for jail.Alive(k.dir) {
		time.Sleep(10 * time.Millisecond)
	}
	if status := k.wait(); status.ExitCode != 15 {
		t.Errorf("status %+v", status)
	}
}

// The number of a process that is gone is nobody's: neither it nor who has it next gets a signal.
func TestSignalToReusedPID(t *testing.T) {
	k := newTask(t, "/bin/sleep", "1000")
	status := k.start()
	time.Sleep(20 * time.Millisecond) // births are counted in hundredths of a second
	other := exec.Command("/bin/sleep", "1000")
	must(t, other.Start())
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	path := filepath.Join(k.dir, jail.StatusFile)
	b, err := os.ReadFile(path)
	must(t, err)
	forged := strings.Replace(string(b), fmt.Sprintf(`"PID":%d,`, status.PID), fmt.Sprintf(`"PID":%d,`, other.Process.Pid), 1)
	must(t, os.WriteFile(path, []byte(forged), 0o600))
	if err := jail.Signal(k.dir, syscall.SIGTERM); !errors.Is(err, jail.ErrEnded) {
		t.Errorf("error %v", err)
	}
	must(t, os.WriteFile(path, b, 0o600))
	must(t, jail.Signal(k.dir, syscall.SIGTERM))
	if status := k.wait(); status.Signal != int(syscall.SIGTERM) {
		t.Errorf("status %+v", status)
	}
}

func TestInstall(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	path, err := Install(dir)
	if errors.Is(err, ErrNoShim) {
		t.Skip("built by itself; make test embeds the shim")
	}
	must(t, err)
	before, err := os.Stat(path)
	must(t, err)
	if before.Mode() != 0o700 {
		t.Errorf("mode %v", before.Mode())
	}
	again, err := Install(dir)
	must(t, err)
	if after, _ := os.Stat(again); again != path || !os.SameFile(before, after) {
		t.Errorf("installed again at %s", again)
	}
	must(t, os.WriteFile(path, []byte("damaged"), 0o700))
	_, err = Install(dir)
	must(t, err)
	if b, _ := os.ReadFile(path); len(b) < 1<<20 {
		t.Error("a damaged shim was left")
	}
}
