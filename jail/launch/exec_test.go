package launch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sleeping is a task to exec into.
func sleeping(t *testing.T) *task {
	t.Helper()
	k := newTask(t, "/bin/sleep", "1000")
	k.start()
	return k
}

func (k *task) exec(opt ExecOptions) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return Exec(ctx, shim, k.dir, opt)
}

// script runs sh -c in the task and returns its exit code and outputs.
func (k *task) script(text string, stdin io.Reader) (code int, stdout, stderr string) {
	k.t.Helper()
	var out, errs bytes.Buffer
	code, err := k.exec(ExecOptions{Args: []string{"sh", "-c", text}, Stdin: stdin, Stdout: &out, Stderr: &errs})
	if err != nil {
		k.t.Fatal(err)
	}
	return code, out.String(), errs.String()
}

func TestExec(t *testing.T) {
	k := sleeping(t)
	cases := map[string]struct {
		script, stdin, stdout, stderr string
		code                          int
	}{
		"outputs":    {script: "echo out; echo err >&2; exit 43", stdout: "out\n", stderr: "err\n", code: 43},
		"stdin":      {script: "echo first; head -n1", stdin: "hello\nmore\n", stdout: "first\nhello\n"},
		"stdin ends": {script: "cat", stdin: "all of it", stdout: "all of it"},
		"signal":     {script: "kill -KILL $$", code: 128 + 9},
		"background": {script: "(sleep 0.3; echo later) & echo now", stdout: "now\nlater\n"},
		"cell":       {script: "hostname; echo $GREETING", stdout: "box\nhello\n"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := k.script(c.script, strings.NewReader(c.stdin))
			if code != c.code || stdout != c.stdout || stderr != c.stderr {
				t.Errorf("code %d, stdout %q, stderr %q", code, stdout, stderr)
			}
		})
	}
}

func TestExecOptions(t *testing.T) {
	k := sleeping(t)
	var out bytes.Buffer
	code, err := k.exec(ExecOptions{Args: []string{"sh", "-c", "id -u; pwd; echo $A"}, User: "web", Dir: "/tmp", Env: []string{"A=b"}, Stdout: &out})
	if err != nil || code != 0 || out.String() != "1001\n/tmp\nb\n" {
		t.Errorf("code %d, error %v, output %q", code, err, out.String())
	}
}

func TestExecRefusals(t *testing.T) {
	k := sleeping(t)
	for want, opt := range map[string]ExecOptions{
		"command /bin/nosuch is not in the image":                {Args: []string{"/bin/nosuch"}},
		"user nobody2 is not in the image's /etc/passwd":         {Args: []string{"sh"}, User: "nobody2"},
		"interpreter or dynamic linker is not in the image":      {Args: []string{"/opt/badscript"}},
		"working directory /secret is not accessible to user we": {Args: []string{"sh"}, User: "web", Dir: "/secret"},
	} {
		if _, err := k.exec(opt); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	k = newTask(t, "/bin/sleep", "0")
	k.run()
	if _, err := k.exec(ExecOptions{Args: []string{"sh"}}); err == nil {
		t.Error("no error in a task that has ended")
	}
}

// A reader of stdin that never ends must not keep Exec from returning.
func TestExecWithIdleStdin(t *testing.T) {
	k := sleeping(t)
	idle, w := io.Pipe()
	defer w.Close()
	if code, out, _ := k.script("echo done", idle); code != 0 || out != "done\n" {
		t.Errorf("code %d, output %q", code, out)
	}
}

func TestExecTerminal(t *testing.T) {
	k := sleeping(t)
	sizes := make(chan [2]uint16, 1)
	sizes <- [2]uint16{40, 132}
	stdin, keys := io.Pipe()
	var out bytes.Buffer
	go func() { _, _ = keys.Write([]byte("typed\n")) }()
	code, err := k.exec(ExecOptions{
		Args: []string{"sh", "-c", "[ -t 0 ] && [ -t 1 ] && echo tty; read line; echo got $line; sleep 0.3; stty size; exit 5"},
		Tty:  true, Stdin: stdin, Stdout: &out, Resize: sizes,
	})
	if err != nil || code != 5 {
		t.Fatalf("code %d, error %v, output %q", code, err, out.String())
	}
	if !regexp.MustCompile(`(?s)tty\r\n.*got typed\r\n40 132\r\n$`).MatchString(out.String()) {
		t.Errorf("output %q", out.String())
	}
}

// Interrupt characters reach what runs in the terminal, which is its session's controlling one.
func TestExecTerminalInterrupt(t *testing.T) {
	k := sleeping(t)
	stdin, keys := io.Pipe()
	out := &lines{want: "ready", seen: make(chan struct{})}
	go func() {
		<-out.seen
		_, _ = keys.Write([]byte{3})
	}()
	code, err := k.exec(ExecOptions{Args: []string{"sh", "-c", "echo ready; sleep 100"}, Tty: true, Stdin: stdin, Stdout: out})
	if err != nil || code != 128+int(syscall.SIGINT) {
		t.Errorf("code %d, error %v", code, err)
	}
}

// lines closes seen when want was written to it.
type lines struct {
	all  bytes.Buffer
	want string
	seen chan struct{}
}

func (l *lines) Write(b []byte) (int, error) {
	before := strings.Contains(l.all.String(), l.want)
	l.all.Write(b)
	if !before && strings.Contains(l.all.String(), l.want) {
		close(l.seen)
	}
	return len(b), nil
}

func TestExecEndsWithContext(t *testing.T) {
	for _, tty := range []bool{false, true} {
		k := sleeping(t)
		out := &lines{want: "ready", seen: make(chan struct{})}
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			<-out.seen
			cancel()
		}()
		stdin, _ := io.Pipe()
		_, err := Exec(ctx, shim, k.dir, ExecOptions{Args: []string{"sh", "-c", "sleep 777 & echo ready; wait"}, Tty: tty, Stdin: stdin, Stdout: out})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		k.untilGone("sleep 777")
	}
}

// untilGone waits until no process of the task is command: what is killed takes a moment.
func (k *task) untilGone(command string) {
	k.t.Helper()
	var out string
	for range 100 {
		if _, out, _ = k.script("ps -A -o args 2>/dev/null || ps -o args", nil); !strings.Contains(out, command) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	k.t.Errorf("%s still runs: %s", command, out)
}

// A client that reads nothing must not keep Exec, nor what it runs, beyond ctx.
func TestExecWithStuckClient(t *testing.T) {
	for _, tty := range []bool{false, true} {
		k := sleeping(t)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		started := time.Now()
		_, stuck := io.Pipe()
		_, err := Exec(ctx, shim, k.dir, ExecOptions{Args: []string{"sh", "-c", "while :; do echo more; done"}, Tty: tty, Stdout: stuck})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(started) > 10*time.Second {
			t.Errorf("tty %v: error %v after %v", tty, err, time.Since(started))
		}
		stuck.Close()
	}
}

// The task ends with its first process, and so does what was exec'd into it.
func TestExecEndsWithTask(t *testing.T) {
	k := sleeping(t)
	out := &lines{want: "ready", seen: make(chan struct{})}
	go func() {
		<-out.seen
		_ = k.signal(syscall.SIGTERM)
	}()
	code, err := k.exec(ExecOptions{Args: []string{"sh", "-c", "echo ready; sleep 100"}, Stdout: out})
	if err != nil || code != 128+9 {
		t.Errorf("code %d, error %v", code, err)
	}
}
