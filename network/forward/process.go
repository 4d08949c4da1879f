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
	socketName = "socket"
	lockName   = "lock"
	// startTimeout is how long Sync waits for a process to come up.
	startTimeout = 30 * time.Second
	askTimeout   = 10 * time.Second
	retryStart   = 50 * time.Millisecond
	retryAsk     = 5 * time.Millisecond
)

var errNotRunning = errors.New("the forwarding process does not run")

// Sync has the process serve what the folder says now, and starts it with the
// given command line (to which the folder is added) when there is need of it
// and it does not run. The error is that of the named task's rules.
func Sync(dir, task string, command []string) error {
	deadline := time.Now().Add(startTimeout)
	var ended <-chan struct{} // of the process that was started
	for {
		err := ask(dir, task)
		if !errors.Is(err, errNotRunning) {
			return err
		}
		tasks, err := Tasks(dir)
		if err != nil || len(tasks) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s %s does not come up: %w", strings.Join(command, " "), dir, errNotRunning)
		}
		if ended == nil {
			if ended, err = start(append(command[:len(command):len(command)], dir)); err != nil {
				return err
			}
		}
		select {
		case <-ended: // another one serves, or did until now
			ended = nil
			time.Sleep(retryStart)
		case <-time.After(retryAsk):
		}
	}
}

func start(command []string) (ended <-chan struct{}, err error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the forwarding process: %w", err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ends is seen by asking it
		close(done)
	}()
	return done, nil
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

// Run is the process. It returns when the folder has no rules, or at once
// when another process serves the folder.
func Run(dir string) error {
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGINT)
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil
	}
	if err := writePID(lock); err != nil {
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
	s := newServer()
	defer s.close()
	// Whoever wanted this process may have lost interest before it listened.
	if rules, err := readRules(dir); err == nil && len(rules) == 0 {
		return nil
	}
	for {
		c, err := l.Accept()
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
