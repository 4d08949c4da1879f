package launch

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

var shim string

func TestMain(m *testing.M) {
	if dir := os.Getenv(pluginEnv); dir != "" {
		actAsPlugin(dir)
	}
	os.Exit(withShim(m))
}

// withShim runs the tests with the shim that is built from this source, or where there is no Go, with the one embedded.
func withShim(m *testing.M) int {
	dir, err := os.MkdirTemp("", "shim")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	if _, err := exec.LookPath("go"); err == nil {
		shim = filepath.Join(dir, "shim")
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", shim, "../shim")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			panic(fmt.Sprintf("build the shim: %v\n%s", err, out))
		}
	} else if shim, err = Install(dir); err != nil {
		panic(err)
	}
	return m.Run()
}

// task is a cell and a state folder for one test, both gone after it.
type task struct {
	t    testing.TB
	dir  string
	spec jail.Spec
	out  *fifo
	err  *fifo
}

func newTask(t testing.TB, command string, args ...string) *task {
	t.Helper()
	name := randomName()
	task := &task{t: t, dir: filepath.Join(t.TempDir(), "tasks", name), out: newFIFO(t), err: newFIFO(t)}
	task.spec = jail.Spec{
		Name: name, Hostname: "box", Root: testRoot(t), Command: command, Args: args, Env: []string{"GREETING=hello"},
		Stdout: task.out.path, Stderr: task.err.path,
	}
	return task
}

// shell is a task that runs a script.
func shell(t testing.TB, script string) *task { return newTask(t, "/bin/sh", "-c", script) }

func randomName() string {
	var b [6]byte
	_, _ = rand.Read(b[:])
	return "nj" + hex.EncodeToString(b[:])
}

func (k *task) create() {
	k.t.Helper()
	name := k.spec.Name // a test may change the spec
	if _, err := jail.Create(k.spec); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() {
		_ = jail.Kill(k.dir)
		k.out.text() // unread lines would make the shim linger
		k.err.text()
		if err := jail.Remove(name); err != nil {
			k.t.Error(err)
		}
	})
}

func (k *task) tryStart() (jail.Status, error) {
	k.t.Helper()
	if err := jail.Resolve(k.spec.Root, &k.spec); err != nil {
		return jail.Status{}, err
	}
	k.create()
	return Start(context.Background(), shim, k.dir, k.spec)
}

func (k *task) start() jail.Status {
	k.t.Helper()
	status, err := k.tryStart()
	if err != nil {
		k.t.Fatal(err)
	}
	return status
}

func (k *task) wait() jail.Status {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	status, err := Wait(ctx, k.dir)
	if err != nil {
		k.t.Fatal(err)
	}
	return status
}

// run starts a task, waits for its end and returns what it wrote.
func (k *task) run() (jail.Status, string) {
	k.t.Helper()
	k.start()
	status := k.wait()
	return status, k.out.text()
}

// fifo stands for one of Nomad's log FIFOs and its reader.
type fifo struct {
	path string
	file *os.File
	t    testing.TB
}

func newFIFO(t testing.TB) *fifo {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f := &fifo{path: path, t: t}
	f.open()
	t.Cleanup(func() { f.file.Close() })
	return f
}

func (f *fifo) open() {
	f.t.Helper()
	file, err := os.OpenFile(f.path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	f.file = file
}

// text is what has been written and not been read.
func (f *fifo) text() string {
	f.t.Helper()
	var all bytes.Buffer
	b := make([]byte, 4096)
	for {
		_ = f.file.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		n, err := f.file.Read(b)
		all.Write(b[:n])
		if err != nil {
			return all.String()
		}
	}
}

// until reads until what came has want in it, and returns that.
func (f *fifo) until(want string) string {
	f.t.Helper()
	var got string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if got += f.text(); strings.Contains(got, want) {
			return got
		}
	}
	f.t.Fatalf("no %q within 10 s, but %q", want, got)
	return ""
}

func TestFirstProcess(t *testing.T) {
	k := shell(t, `echo "$GREETING from $(hostname) in $(pwd)"; echo oops >&2; exit 7`)
	k.spec.Dir = "/tmp"
	status, out := k.run()
	if status.ExitCode != 7 || status.Signal != 0 || status.Error != "" || status.OOMKilled {
		t.Errorf("status %+v", status)
	}
	if status.Started.IsZero() || status.Ended.Before(status.Started) {
		t.Errorf("started %v, ended %v", status.Started, status.Ended)
	}
	if want := "hello from box in /tmp\n"; out != want {
		t.Errorf("stdout %q, want %q", out, want)
	}
	if got := k.err.text(); got != "oops\n" {
		t.Errorf("stderr %q", got)
	}
}

func TestUser(t *testing.T) {
	k := shell(t, `id -u; id -g; echo $HOME $USER`)
	k.spec.User = "web"
	if _, out := k.run(); out != "1001\n1002\n/home/web web\n" {
		t.Errorf("stdout %q", out)
	}
}

func TestEndedBySignal(t *testing.T) {
	k := shell(t, "kill -TERM $$; sleep 10")
	if status := first(k.run()); status.Signal != int(syscall.SIGTERM) {
		t.Errorf("status %+v", status)
	}
}

func first(status jail.Status, _ string) jail.Status { return status }

func TestSignal(t *testing.T) {
	k := shell(t, `trap 'echo got it; exit 3' USR1; echo ready; while :; do sleep 0.05; done`)
	k.start()
	k.out.until("ready")
	if err := jail.Signal(k.dir, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if status := k.wait(); status.ExitCode != 3 {
		t.Errorf("status %+v", status)
	}
	if err := jail.Signal(k.dir, syscall.SIGUSR1); !errors.Is(err, jail.ErrEnded) {
		t.Errorf("signal after the end: %v", err)
	}
}

// The default action of a signal must be that of any process: nothing the shim does may reach the task.
func TestDefaultSignalAction(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGINT} {
		k := newTask(t, "/bin/sleep", "30")
		k.start()
		if err := jail.Signal(k.dir, sig); err != nil {
			t.Fatal(err)
		}
		if status := k.wait(); status.Signal != int(sig) {
			t.Errorf("%v: status %+v", sig, status)
		}
	}
}

func TestKillEndsEveryProcess(t *testing.T) {
	k := shell(t, `sleep 1000 & sleep 1001 & (sleep 1002 &) ; echo ready; wait`)
	k.start()
	k.out.until("ready")
	if err := jail.Kill(k.dir); err != nil {
		t.Fatal(err)
	}
	if status := k.wait(); status.Signal != int(syscall.SIGKILL) || status.OOMKilled {
		t.Errorf("status %+v", status)
	}
}

// What the first process leaves behind ends with it, daemons included.
func TestLeftoversEnd(t *testing.T) {
	k := shell(t, `(trap '' TERM HUP; while :; do echo x > /tmp/tick; sleep 0.02; done) & exit 0`)
	k.run()
	tick := filepath.Join(k.spec.Root, "tmp/tick")
	_ = os.Remove(tick)
	time.Sleep(200 * time.Millisecond)
	if _, err := os.Stat(tick); err == nil {
		t.Error("a process of the task still writes")
	}
}

// Orphans are the shim's to reap: a task that makes many must not run out of processes.
func TestOrphansAreReaped(t *testing.T) {
	k := shell(t, `for i in 1 2 3 4 5; do (sleep 0.05 & ); done; sleep 0.5; ps -A -o stat= 2>/dev/null || ps -o stat; echo end`)
	_, out := k.run()
	if strings.Contains(out, "Z") || !strings.HasSuffix(out, "end\n") {
		t.Errorf("zombies in %q", out)
	}
}

func TestWaitByMany(t *testing.T) {
	k := newTask(t, "/bin/sleep", "0.3")
	k.start()
	before := threads(t)
	results := make(chan jail.Status)
	for range 50 {
		go func() { results <- k.wait() }()
	}
	time.Sleep(100 * time.Millisecond)
	if after := threads(t); after > before+5 {
		t.Errorf("%d threads with 50 waiters, %d before", after, before)
	}
	for range 50 {
		if status := <-results; status.Ended.IsZero() || status.ExitCode != 0 {
			t.Errorf("status %+v", status)
		}
	}
}

func TestWaitEndsWithContext(t *testing.T) {
	k := newTask(t, "/bin/sleep", "30")
	k.start()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Wait(ctx, k.dir); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

// A shim that is killed takes the task with it, and whoever waits is told.
func TestShimKilled(t *testing.T) {
	k := newTask(t, "/bin/sleep", "30")
	status := k.start()
	if err := syscall.Kill(status.ShimPID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	status = k.wait()
	if !status.Ended.IsZero() || status.Error == "" {
		t.Errorf("status %+v", status)
	}
	if jail.Alive(k.dir) {
		t.Error("still alive")
	}
	gone(t, status.PID)
}

// gone waits until the process is, or is a zombie that somebody else's child has become.
func gone(t *testing.T, pid int) {
	t.Helper()
	for range 100 {
		if _, err := jail.Birth(pid); err != nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("process %d is still there", pid)
}

func TestShimIsReaped(t *testing.T) {
	k := newTask(t, "/bin/sleep", "0")
	status := k.start()
	k.wait()
	for range 100 {
		if syscall.Kill(status.ShimPID, 0) != nil { // a zombie would answer
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error("it is still there")
}

func TestStartTwice(t *testing.T) {
	k := newTask(t, "/bin/sleep", "30")
	k.start()
	if _, err := Start(context.Background(), shim, k.dir, k.spec); err == nil {
		t.Fatal("started twice")
	}
	if !jail.Alive(k.dir) {
		t.Error("the second start harmed the first")
	}
}

// What only the shim finds out, Resolve having passed: each step of the start fails once.
func TestFailedStartLeavesNothing(t *testing.T) {
	cases := map[string]struct {
		change func(*jail.Spec)
		want   string
	}{
		"no such command": {func(s *jail.Spec) { s.Command = "/bin/nosuch" }, "cannot run"},
		"bad interpreter": {func(s *jail.Spec) { s.Command = "/opt/badscript" }, "interpreter"},
		"no program":      {func(s *jail.Spec) { s.Command = "/opt/garbage" }, "no program for this host"},
		"closed dir":      {func(s *jail.Spec) { s.Dir, s.User, s.UID = "/secret", "web", 1001 }, "not accessible to user web"},
		"no log":          {func(s *jail.Spec) { s.Stdout = "/nonexistent/fifo" }, "/nonexistent/fifo"},
		"log no FIFO":     {func(s *jail.Spec) { s.Stderr = "/etc/passwd" }, "not a FIFO"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			k := newTask(t, "/bin/sh")
			k.create()
			c.change(&k.spec)
			if _, err := Start(context.Background(), shim, k.dir, k.spec); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q, want one sentence with %q", err, c.want)
			}
			if _, err := os.Stat(k.dir); !os.IsNotExist(err) {
				t.Errorf("state folder: %v", err)
			}
			if cell, found, err := jail.Find(k.spec.Name); found && runtime.GOOS == "linux" && cell.JID != 0 || err != nil {
				t.Errorf("a shim is left: %+v %v", cell, err)
			}
		})
	}
}

// A shim that waits goes with Close, and by itself when its caller dies.
func TestPrepared(t *testing.T) {
	k := newTask(t, "/bin/sleep", "30")
	k.create()
	for name, end := range map[string]func(*Shim) error{
		"Close": (*Shim).Close,
		"death": func(s *Shim) error {
			return errors.Join(s.order.Close(), s.cmd.Wait(), s.report.Close(), dropState(k.dir))
		},
	} {
		s, err := Prepare(shim, k.dir, k.spec.Name)
		if err != nil {
			t.Fatal(err)
		}
		if err := awaitShim(deadline(t, 200*time.Millisecond), k.dir); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: the shim does not wait: %v", name, err)
		}
		var exit *exec.ExitError
		if err := end(s); err != nil && !errors.As(err, &exit) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(k.dir); !os.IsNotExist(err) {
			t.Errorf("%s: state folder: %v", name, err)
		}
		if err := syscall.Kill(s.cmd.Process.Pid, 0); err == nil {
			t.Errorf("%s: the shim is there", name)
		}
	}
}

func deadline(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestStartEndsWithContext(t *testing.T) {
	k := newTask(t, "/bin/sleep", "30")
	k.create()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Start(ctx, shim, k.dir, k.spec); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(k.dir); !os.IsNotExist(err) {
		t.Errorf("state folder: %v", err)
	}
}

// The reader of the logs may go and come back: the task does not notice and no line is lost.
func TestLogReaderGoesAndComes(t *testing.T) {
	k := shell(t, `echo one; read -r _ < /tmp/first; echo two; read -r _ < /tmp/second; echo three`)
	first, second := k.gate("first"), k.gate("second")
	k.start()
	k.out.until("one")
	k.out.file.Close()
	first.open()
	time.Sleep(100 * time.Millisecond)
	k.out.open()
	k.out.until("two")
	k.out.file.Close()
	second.open()
	if status := k.wait(); status.ExitCode != 0 {
		t.Errorf("status %+v", status)
	}
	// The task has ended with nobody reading; its last line waits.
	k.out.open()
	k.out.until("three")
}

// gate is a FIFO in the task's /tmp at which a script waits, once: a second read could still see the end of the first opening.
type gate struct {
	t    testing.TB
	path string
}

func (k *task) gate(name string) gate {
	k.t.Helper()
	path := filepath.Join(k.spec.Root, "tmp", name)
	must(k.t, unix.Mkfifo(path, 0o600))
	return gate{k.t, path}
}

func (g gate) open() {
	g.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		f, err := os.OpenFile(g.path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if errors.Is(err, syscall.ENXIO) { // nobody waits yet
			continue
		}
		must(g.t, err)
		_, err = f.WriteString("\n")
		must(g.t, errors.Join(err, f.Close()))
		return
	}
	g.t.Fatalf("nobody waits at %s", g.path)
}

func TestNoDescriptorsLeak(t *testing.T) {
	leak, err := os.Open("/etc")
	if err != nil {
		t.Fatal(err)
	}
	defer leak.Close()
	const inherited = 5 // at the least: those below are the shim's own
	fd, err := unix.FcntlInt(leak.Fd(), unix.F_DUPFD, inherited)
	must(t, err)
	defer unix.Close(fd)
	k := shell(t, listDescriptors)
	if _, out := k.run(); strings.Join(strings.Fields(out), " ") != "0 1 2" {
		t.Errorf("open in the task: %q", out)
	}
	k = newTask(t, "/bin/sleep", "30")
	k.start()
	var out bytes.Buffer
	if _, err := Exec(context.Background(), shim, k.dir, ExecOptions{Args: []string{"/bin/sh", "-c", listDescriptors}, Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if strings.Join(strings.Fields(out.String()), " ") != "0 1 2" {
		t.Errorf("open in exec: %q", out.String())
	}
}

func TestRemoveBusyCell(t *testing.T) {
	k := shell(t, `trap '' TERM HUP INT; sleep 1000 & echo ready; while :; do sleep 0.1; done`)
	status := k.start()
	k.out.until("ready")
	if err := jail.Remove(k.spec.Name); err != nil {
		t.Fatal(err)
	}
	gone(t, status.PID)
	if _, found, err := jail.Find(k.spec.Name); found || err != nil {
		t.Errorf("found %v, error %v", found, err)
	}
	if err := jail.Remove(k.spec.Name); err != nil {
		t.Errorf("second remove: %v", err)
	}
}

func threads(t *testing.T) int {
	t.Helper()
	var n int
	if runtime.GOOS == "linux" {
		entries, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		n = len(entries)
	} else {
		out, err := exec.Command("ps", "-H", "-p", fmt.Sprint(os.Getpid()), "-o", "lwp=").Output()
		if err != nil {
			t.Fatal(err)
		}
		n = bytes.Count(out, []byte("\n"))
	}
	return n
}

func (k *task) signal(sig syscall.Signal) error { return jail.Signal(k.dir, sig) }
