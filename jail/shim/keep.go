package main

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

const (
	// diskPatience is how long the end of a task is tried to be written to a full or failing disk.
	diskPatience = 10 * time.Minute
	// logPatience is how long last lines wait for a reader that is away.
	logPatience = 15 * time.Minute
	// reapPatience is how long processes that were killed may take to go.
	reapPatience = 5 * time.Second
)

// task is what the shim keeps while the task runs.
type task struct {
	name    string
	dir     folder
	home    home
	outputs []int // Nomad's FIFOs, kept open so that the task outlives their reader
	oom     oomCounter
	pid     int // of the first process, as this process counts
	status  jail.Status
}

func keep(name string) int {
	forget := forgetProgram()
	if !ordered() {
		return 1
	}
	t, err := begin(name)
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	if _, err := os.Stderr.WriteString("started\n"); err != nil {
		killCell(name) // the plugin died: nobody knows of the task
		return 1
	}
	t.home.leave()
	settle(forget)
	t.finish(t.await())
	return 0
}

// ordered waits for the word to start the task, and is false when nobody is left to give it.
func ordered() bool {
	defer unix.Close(orderFD)
	for {
		n, err := unix.Read(orderFD, make([]byte, 1))
		if err != unix.EINTR {
			return n == 1
		}
	}
}

// begin starts the task of the state folder this process was started in. On error nothing of it runs.
func begin(name string) (*task, error) {
	dir, err := openFolder()
	if err != nil {
		return nil, err
	}
	spec, err := jail.ReadSpec(".")
	if err != nil {
		return nil, err
	}
	if spec.Name != name {
		return nil, errors.New("the state folder is " + spec.Name + "'s, not " + name + "'s")
	}
	t := &task{name: name, dir: dir}
	files, err := t.openFiles(spec)
	if err != nil {
		return nil, err
	}
	if t.home, err = settleIn(spec); err != nil {
		return nil, err
	}
	err = t.start(spec, files)
	unix.Close(files[1])
	unix.Close(files[2])
	if err != nil {
		return nil, err
	}
	if err := t.dir.writeStart(t.status); err != nil {
		killCell(t.name)
		return nil, err
	}
	return t, nil
}

func (t *task) openFiles(spec jail.Spec) (files [3]int, err error) {
	if t.oom, err = openOOM(spec); err != nil {
		return files, err
	}
	for i, path := range []string{spec.Stdout, spec.Stderr} {
		out, err := openOutput(path)
		if err != nil {
			return files, err
		}
		files[i+1] = out.task
		if out.keep >= 0 {
			t.outputs = append(t.outputs, out.keep)
		}
	}
	return files, nil // 0 is /dev/null already
}

// start runs the first process and fills in what the start's status says.
func (t *task) start(spec jail.Spec, files [3]int) error {
	child, err := t.home.spawn(spec, files)
	if err != nil {
		return err
	}
	t.pid = child.pid
	t.status = jail.Status{Version: jail.Version, PID: child.hostPID, Birth: child.birth, ShimPID: t.home.pid, BootID: t.home.boot,
		Started: time.Now().UTC()}
	return nil
}

// await reaps until the first process has ended, and tells how.
func (t *task) await() unix.WaitStatus {
	var ws unix.WaitStatus
	for {
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		if err == nil && pid == t.pid {
			return ws
		}
		if err != nil && err != unix.EINTR {
			panic("wait: " + err.Error()) // the first process is a child until it is reaped here
		}
	}
}

// finish ends what the first process left, writes down how it ended, and stays while there are last lines to read.
func (t *task) finish(ws unix.WaitStatus) {
	t.status.Ended = time.Now().UTC()
	if ws.Signaled() {
		t.status.Signal = int(ws.Signal())
	} else {
		t.status.ExitCode = ws.ExitStatus()
	}
	killCell(t.name)
	t.reap()
	t.status.OOMKilled = t.oom.killed(t.dir, ws)
	t.writeEnd()
	unix.Close(aliveFD)
	linger(t.name, t.outputs)
}

func (t *task) reap() {
	for deadline := time.Now().Add(reapPatience); time.Now().Before(deadline); {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if err == unix.ECHILD {
			return
		}
		if pid <= 0 {
			time.Sleep(2 * time.Millisecond)
		}
	}
}

func (t *task) writeEnd() {
	for deadline := time.Now().Add(diskPatience); ; time.Sleep(200 * time.Millisecond) {
		err := t.dir.writeEnd(t.status)
		// Without the folder there is nobody left to tell.
		if err == nil || errors.Is(err, fs.ErrNotExist) || time.Now().After(deadline) {
			return
		}
	}
}

// onOwnThread runs f on a thread that ends with it, and with the thread whatever f changed about it.
func onOwnThread(f func()) {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		f()
		close(done)
	}()
	<-done
}
