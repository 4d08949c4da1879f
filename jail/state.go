package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Files of a task's state folder STATE_DIR/tasks/NAME, which is 0700.
const (
	SpecFile   = "spec.json"
	StatusFile = "status.json"
	// AliveFile is a FIFO whose read end the shim holds, and which nobody writes to: when a write end cannot be opened or hangs up, the
	// shim is gone. (The other way round would not do: FreeBSD tells a reader that comes late to wait for a writer.)
	AliveFile = "alive"
	// SpareFile is room on the disk that the shim takes at the start, so that it can write the end when the disk is full.
	SpareFile = "status.next"
	killFile  = "killed"
)

// Status is how a task's first process is, or how it ended.
type Status struct {
	Version   int
	PID       int       // of the first process, as the host counts
	Birth     uint64    // when PID started since boot, in the host's unit: together they name a process for ever
	ShimPID   int       // as the host counts
	BootID    string    // of the boot in which it ran
	Started   time.Time //
	Ended     time.Time `json:",omitzero"` // zero while it runs
	ExitCode  int       // when it ended by itself
	Signal    int       // when a signal ended it
	OOMKilled bool
	Error     string `json:",omitempty"` // why the shim does not know how it ended
}

// Entry is a process to start in a cell that runs. Package launch hands it to a shim through a pipe, and no file holds it.
type Entry struct {
	Spec     Spec
	Terminal bool // its standard input is a terminal, which becomes its controlling one
}

// ErrEnded is returned by Signal when the first process has ended or its shim is gone.
var ErrEnded = errors.New("the task has ended")

// ReadSpec returns what WriteSpec wrote.
func ReadSpec(dir string) (Spec, error) {
	var spec Spec
	err := readState(filepath.Join(dir, SpecFile), &spec, &spec.Version)
	return spec, err
}

// WriteSpec writes spec into a folder that has none yet.
func WriteSpec(dir string, spec Spec) error {
	spec.Version = Version
	b, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, SpecFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// ReadStatus returns what the shim wrote last; fs.ErrNotExist when it has not started the task.
func ReadStatus(dir string) (Status, error) {
	var status Status
	err := readState(filepath.Join(dir, StatusFile), &status, &status.Version)
	return status, err
}

func readState(path string, into any, version *int) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if *version < 1 || *version > Version {
		return fmt.Errorf("%s: version %d; this program reads 1 to %d", path, *version, Version)
	}
	return nil
}

// Alive tells whether the shim of the state folder dir runs, in which case the task's first process does too or is just ending. A caller
// that cannot look, for want of descriptors say, is told that it runs: what is taken for dead is removed.
func Alive(dir string) bool {
	fd, err := unix.Open(filepath.Join(dir, AliveFile), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err != unix.ENXIO && err != unix.ENOENT // no reader, no FIFO
}

// Signal sends sig to the first process of the task whose state folder is dir. SIGKILL is noted in the folder, as Kill's is.
func Signal(dir string, sig syscall.Signal) error {
	status, err := ReadStatus(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("signal %s: the task has not started", filepath.Base(dir))
	}
	if err != nil {
		return err
	}
	if !status.Ended.IsZero() || !Alive(dir) {
		return ErrEnded
	}
	if sig == syscall.SIGKILL {
		noteKill(dir)
	}
	return signalProcess(status.PID, status.Birth, sig)
}

// noteKill leaves a mark for WasKilled. A folder that is not there or full is no reason not to kill.
func noteKill(dir string) {
	if f, err := os.OpenFile(filepath.Join(dir, killFile), os.O_WRONLY|os.O_CREATE, 0o600); err == nil {
		f.Close()
	}
}

// WasKilled tells whether Kill or Signal with SIGKILL was called for the state folder dir.
func WasKilled(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, killFile))
	return err == nil
}
