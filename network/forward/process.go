package forward

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	socketName   = "socket"
	lockName     = "lock"     // held by the process
	startingName = "starting" // held by who starts it
	// startTimeout is how long Sync waits for a process to come up.
	startTimeout = 30 * time.Second
	askTimeout   = 10 * time.Second
	pause        = 5 * time.Millisecond
	// lookAfter is how often the process looks whether it can still be asked.
	lookAfter = 5 * time.Second
)

var errNotRunning = errors.New("the forwarding process does not run")

// Sync has the process serve what the folder says now, and starts it with the
// given command line (to which the folder is added) when there is need of it
// and it does not run. The error is that of the named task's rules.
func Sync(dir, task string, command []string) error {
	command = append(command[:len(command):len(command)], dir)
	s := starter{dir: dir, command: command}
	defer s.Close()
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(pause) {
		err := ask(dir, task)
		if !errors.Is(err, errNotRunning) {
			return err
		}
		tasks, err := Tasks(dir)
		if err != nil || len(tasks) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not come up: %w", strings.Join(command, " "), errNotRunning)
		}
		if err := s.start(); err != nil {
			return err
		}
	}
}

// starter starts the process unless somebody else is at it.
type starter struct {
	dir     string
	command []string
	turn    *os.File
	ended   chan struct{} // of the process that this starter started
}

func (s *starter) start() error {
	if s.ended != nil {
		select {
		case <-s.ended: // another one was still going; try again
		default:
			return nil
		}
	}
	if s.turn == nil {
		turn, err := lock(filepath.Join(s.dir, startingName))
		if err != nil || turn == nil {
			return err
		}
		s.turn = turn
	}
	cmd := exec.Command(s.command[0], s.command[1:]...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the forwarding process: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait() //nolint:errcheck // whether it serves is seen by asking it
		close(ended)
	}()
	s.ended = ended
	return nil
}

func (s *starter) Close() {
	if s.turn != nil {
		s.turn.Close()
	}
}

// lock returns nil when somebody else has the lock.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

func ask(dir, task string) error {
	c, err := net.DialTimeout("unix", filepath.Join(dir, socketName), askTimeout)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			return errNotRunning
		}
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(askTimeout)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c, task); err != nil {
		return errNotRunning
	}
	answer, err := io.ReadAll(c)
	if err != nil || len(answer) == 0 {
		return errNotRunning // it ended while we asked
	}
	if text := strings.TrimSpace(string(answer)); text != "ok" {
		return errors.New(text)
	}
	return nil
}

// Run is the process. It returns when the folder has no rules or was removed,
// or at once when another process serves the folder.
func Run(dir string) error {
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGINT)
	mine, err := lock(filepath.Join(dir, lockName))
	if err != nil || mine == nil {
		return err
	}
	defer mine.Close()
	if err := writePID(mine); err != nil {
		return err
	}
	socket := filepath.Join(dir, socketName)
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	defer l.Close() // removes the socket, before the lock goes
	go func() {
		for exists(socket) {
			time.Sleep(lookAfter)
		}
		l.Close()
	}()
	s := newServer()
	defer s.close()
	// Whoever wanted this process may have lost interest before it listened.
	if rules, err := readRules(dir); err == nil && len(rules) == 0 {
		return nil
	}
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		idle := answer(c, dir, s)
		c.Close()
		if idle {
			return nil
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// writePID is for people who wonder.
func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := fmt.Fprintln(f, os.Getpid())
	return err
}

// answer does what is asked and tells whether nothing is left to serve.
func answer(c net.Conn, dir string, s *server) (idle bool) {
	if err := c.SetDeadline(time.Now().Add(askTimeout)); err != nil {
		return false
	}
	task, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return false
	}
	rules, err := readRules(dir)
	if err == nil {
		err = s.serve(rules)[strings.TrimSpace(task)]
	}
	if err != nil {
		fmt.Fprintln(c, err)
	} else {
		fmt.Fprintln(c, "ok")
	}
	return err == nil && len(rules) == 0
}
