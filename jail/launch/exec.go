package launch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

// ExecOptions is a process to run beside a task's first one. What is empty is taken from the task.
type ExecOptions struct {
	Args   []string // the command and its arguments
	Env    []string
	Dir    string
	User   string
	Tty    bool // a terminal for input and output; Stderr is not used
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Resize <-chan [2]uint16 // rows and columns of the terminal
}

// Exec runs a process in the task's cell and returns its exit code, 128 and the signal if one ended it. Without a terminal it returns
// when all that write to the outputs have ended, with one when the process has. What it runs ends when ctx does.
func Exec(ctx context.Context, shim, dir string, opt ExecOptions) (int, error) {
	spec, err := execSpec(dir, opt)
	if err != nil {
		return 0, err
	}
	s, err := newSession(shim, jail.Entry{Spec: spec, Terminal: opt.Tty})
	if err != nil {
		return 0, err
	}
	defer s.close()
	if opt.Tty {
		return s.runTerminal(ctx, opt)
	}
	return s.runPipes(ctx, opt)
}

func execSpec(dir string, opt ExecOptions) (jail.Spec, error) {
	spec, err := jail.ReadSpec(dir)
	if err != nil {
		return spec, err
	}
	if len(opt.Args) == 0 {
		return spec, errors.New("no command to run")
	}
	if !jail.Alive(dir) {
		return spec, jail.ErrEnded
	}
	spec.Command, spec.Args = opt.Args[0], opt.Args[1:]
	if opt.Env != nil {
		spec.Env = opt.Env
	}
	if opt.Dir != "" {
		spec.Dir = opt.Dir
	}
	if opt.User != "" {
		spec.User = opt.User
	}
	return spec, jail.Resolve(spec.Root, &spec)
}

// session is a shim that enters the cell for one process.
type session struct {
	entry        jail.Entry
	cmd          *exec.Cmd
	control      *os.File // tells the shim what to start, and by its closing that it should end
	report       *os.File // its answer
	theirControl *os.File
	theirReport  *os.File
}

func newSession(shim string, entry jail.Entry) (*session, error) {
	theirControl, control, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	report, theirReport, err := os.Pipe()
	if err != nil {
		theirControl.Close()
		control.Close()
		return nil, err
	}
	cmd := &exec.Cmd{
		Path: shim, Args: []string{"jail-shim", "enter", entry.Spec.Name}, Env: []string{"GOMAXPROCS=1"}, Dir: "/",
		ExtraFiles: []*os.File{theirControl, theirReport}, SysProcAttr: enterAttr(entry.Terminal),
	}
	return &session{entry, cmd, control, report, theirControl, theirReport}, nil
}

func (s *session) close() {
	for _, f := range []*os.File{s.control, s.report, s.theirControl, s.theirReport} {
		f.Close()
	}
}

// start returns when the process has exec'd.
func (s *session) start(ctx context.Context) error {
	err := s.cmd.Start()
	s.theirControl.Close()
	s.theirReport.Close()
	if err != nil {
		return startError(s.cmd.Path, err)
	}
	if err = json.NewEncoder(s.control).Encode(s.entry); err == nil {
		err = awaitReport(ctx, s.report)
	}
	if err != nil {
		s.control.Close()
		_ = s.cmd.Wait()
	}
	return err
}

// endGrace is how long, after ctx has ended, the shim may take to kill what it started, and the caller's writers to return.
const endGrace = 2 * time.Second

// wait returns the exit code. When ctx ends, it has the process ended and waits no longer than endGrace.
func (s *session) wait(ctx context.Context) (int, error) {
	ended := make(chan error, 1)
	go func() { ended <- s.cmd.Wait() }()
	select {
	case err := <-ended:
		return exitCode(err)
	case <-ctx.Done():
		s.control.Close()
	}
	select {
	case <-ended:
	case <-time.After(endGrace):
	}
	return 0, ctx.Err()
}

func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return exit.ExitCode(), nil
	}
	return 0, fmt.Errorf("the shim that entered the jail died: %w", err)
}

func (s *session) runPipes(ctx context.Context, opt ExecOptions) (int, error) {
	s.cmd.Stdout, s.cmd.Stderr = piped(opt.Stdout), piped(opt.Stderr)
	if opt.Stdin != nil {
		stdin, err := s.cmd.StdinPipe()
		if err != nil {
			return 0, err
		}
		// Not as cmd.Stdin, since the end of the process would wait for the end of the input then.
		go func() {
			_, _ = io.Copy(stdin, opt.Stdin)
			stdin.Close()
		}()
	}
	if err := s.start(ctx); err != nil {
		return 0, err
	}
	return s.wait(ctx)
}

// piped has os/exec put a pipe before w even if w is a file: the cell gets no descriptor of the caller's.
func piped(w io.Writer) io.Writer {
	if w == nil {
		return nil
	}
	return struct{ io.Writer }{w}
}

func (s *session) runTerminal(ctx context.Context, opt ExecOptions) (int, error) {
	master, slave, err := openTerminal(s.entry.Spec.Root)
	if err != nil {
		return 0, err
	}
	defer master.Close()
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = slave, slave, slave
	err = s.start(ctx)
	slave.Close()
	if err != nil {
		return 0, err
	}
	ended := make(chan struct{})
	defer close(ended)
	go resize(master, opt.Resize, ended)
	if opt.Stdin != nil {
		go func() { _, _ = io.Copy(master, opt.Stdin) }()
	}
	output := make(chan struct{})
	go func() {
		defer close(output)
		_, _ = io.Copy(orDiscard(opt.Stdout), master)
	}()
	code, err := s.wait(ctx)
	// The kernel hangs the terminal up when the process that leads its session ends; what was written before is still read.
	_ = master.SetReadDeadline(time.Now().Add(time.Second))
	select {
	case <-output:
	case <-ctx.Done():
	}
	return code, err
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

func resize(master *os.File, sizes <-chan [2]uint16, ended <-chan struct{}) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			setSize(master, size)
		case <-ended:
			return
		}
	}
}

func setSize(master *os.File, size [2]uint16) {
	raw, err := master.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size[0], Col: size[1]})
	})
}
