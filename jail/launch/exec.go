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
	s := session{shim: shim, entry: jail.Entry{Spec: spec, Terminal: opt.Tty}}
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

// session is a shim that has entered the cell for one process.
type session struct {
	shim    string
	entry   jail.Entry
	cmd     *exec.Cmd
	control *os.File
}

// start returns when the process has exec'd.
func (s *session) start(ctx context.Context, stdin, stdout, stderr *os.File) error {
	controlEnd, control, err := os.Pipe()
	if err != nil {
		return err
	}
	defer controlEnd.Close()
	report, reportEnd, err := os.Pipe()
	if err != nil {
		control.Close()
		return err
	}
	defer report.Close()
	s.control = control
	s.cmd = &exec.Cmd{
		Path: s.shim, Args: []string{"jail-shim", "enter", s.entry.Spec.Name}, Env: []string{"GOMAXPROCS=1"}, Dir: "/",
		Stdin: stdin, Stdout: stdout, Stderr: stderr, ExtraFiles: []*os.File{controlEnd, reportEnd},
		SysProcAttr: enterAttr(s.entry.Terminal),
	}
	err = s.cmd.Start()
	reportEnd.Close()
	if err != nil {
		control.Close()
		return fmt.Errorf("start the shim: %w", err)
	}
	if err = json.NewEncoder(control).Encode(s.entry); err == nil {
		err = awaitReport(ctx, report)
	}
	if err != nil {
		control.Close()
		_ = s.cmd.Wait()
	}
	return err
}

// wait returns the exit code, having ended the process when ctx does.
func (s *session) wait(ctx context.Context) (int, error) {
	stop := context.AfterFunc(ctx, func() { s.control.Close() })
	err := s.cmd.Wait()
	stop()
	s.control.Close()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case err == nil:
		return 0, nil
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return exit.ExitCode(), nil
	}
	return 0, fmt.Errorf("the shim that entered the jail died: %w", err)
}

func (s *session) runPipes(ctx context.Context, opt ExecOptions) (int, error) {
	var pipes pipes
	defer pipes.close()
	stdin := pipes.input(opt.Stdin)
	stdout := pipes.output(opt.Stdout)
	stderr := pipes.output(opt.Stderr)
	if pipes.err != nil {
		return 0, pipes.err
	}
	err := s.start(ctx, stdin, stdout, stderr)
	pipes.closeTheirs()
	if err != nil {
		return 0, err
	}
	pipes.copy()
	code, err := s.wait(ctx)
	pipes.drain(ctx)
	return code, err
}

// pipes are those between the caller's readers and writers and a process.
type pipes struct {
	err     error
	ours    []*os.File
	theirs  []*os.File
	copiers []func()
	outputs chan struct{} // one for each output that has ended
	pending int
}

// input does not outlive the process by waiting for r: nobody waits for its copier.
func (p *pipes) input(r io.Reader) *os.File {
	if r == nil {
		return p.null()
	}
	theirs, ours := p.pipe()
	p.copiers = append(p.copiers, func() {
		_, _ = io.Copy(ours, r)
		ours.Close()
	})
	p.ours, p.theirs = append(p.ours, ours), append(p.theirs, theirs)
	return theirs
}

func (p *pipes) output(w io.Writer) *os.File {
	if w == nil {
		return p.null()
	}
	ours, theirs := p.pipe()
	p.pending++
	p.copiers = append(p.copiers, func() {
		_, _ = io.Copy(w, ours)
		p.outputs <- struct{}{}
	})
	p.ours, p.theirs = append(p.ours, ours), append(p.theirs, theirs)
	return theirs
}

func (p *pipes) null() *os.File {
	f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	p.err = errors.Join(p.err, err)
	p.theirs = append(p.theirs, f)
	return f
}

func (p *pipes) pipe() (r, w *os.File) {
	r, w, err := os.Pipe()
	p.err = errors.Join(p.err, err)
	return r, w
}

func (p *pipes) copy() {
	p.outputs = make(chan struct{}, p.pending)
	for _, c := range p.copiers {
		go c()
	}
}

// drain waits until the outputs have ended, that is until the last process that has them has.
func (p *pipes) drain(ctx context.Context) {
	for ; p.pending > 0; p.pending-- {
		select {
		case <-p.outputs:
		case <-ctx.Done():
			return
		}
	}
}

func (p *pipes) closeTheirs() {
	for _, f := range p.theirs {
		f.Close()
	}
	p.theirs = nil
}

func (p *pipes) close() {
	p.closeTheirs()
	for _, f := range p.ours {
		f.Close()
	}
}

func (s *session) runTerminal(ctx context.Context, opt ExecOptions) (int, error) {
	master, slave, err := openTerminal(s.entry.Spec.Root)
	if err != nil {
		return 0, err
	}
	defer master.Close()
	err = s.start(ctx, slave, slave, slave)
	slave.Close()
	if err != nil {
		return 0, err
	}
	ended := make(chan struct{})
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
	close(ended)
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
