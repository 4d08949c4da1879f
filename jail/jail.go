// Package jail makes the cell a task lives in, finds it again by its name, signals it and takes it away.
//
// On FreeBSD a cell is a jail(8), made persistent and empty. On Linux, the rehearsal host, it is a set of namespaces: the network
// namespace is made first, so that interfaces can be moved into it, the others with the first process. What a cell may do is
// decided in portable code (params.go, allow.go, proc.go); the files named for a host only carry it out.
//
// The first process is started and kept by the shim (package main in jail/shim), which package launch runs. What the two tell each
// other, and what stays when the plugin goes, is in the task's state folder (state.go).
package jail

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
)

// Version is that of spec.json and status.json. A higher one is refused; lower ones are read for ever (testdata/).
const Version = 1

// Spec is what a cell and its first process are made of. The shim reads it from the task's state folder.
type Spec struct {
	Version  int
	Name     string // label of everything that is the task's on this host, see ValidName
	Hostname string // Name when empty
	Root     string // absolute path on the host; mounts below it are made before the first process starts

	HostNetwork bool   // no network stack of its own
	NetNS       string // Linux: join this existing namespace instead of making one (Nomad's bridge mode)
	Params      Params

	Command string // absolute path inside Root once Resolve has seen it
	Args    []string
	Env     []string
	Dir     string // inside Root
	User    string // NAME|UID[:GROUP|GID]; Resolve turns it into the next three
	UID     uint32
	GID     uint32
	Groups  []uint32 // GID first: on FreeBSD before 15 the first group of setgroups(2) is the effective one

	Stdout string // FIFOs that Nomad reads; empty is /dev/null
	Stderr string

	Cgroups     []string // Linux: directories of the cgroups the first process is born in
	OOM         string   // Linux: file that counts out-of-memory kills (memory.oom_control or memory.events)
	MemoryLimit uint64   // bytes, 0 none. FreeBSD: with a limit, a SIGKILL that the plugin did not announce is rctl(8)'s
}

// Cell is what exists before and while the task's processes do.
type Cell struct {
	Name  string
	JID   int    // FreeBSD: the jail's. Linux: the shim's pid, which is the cell's init; 0 while there is none
	NetNS string // Linux: /run/netns/NAME where the cell has a network stack of its own, else empty
}

// ErrExists is returned by Create for a name that is taken.
var ErrExists = errors.New("exists already")

var validName = regexp.MustCompile(`^nj[0-9a-f]{12}$`)

// ValidName tells whether name is a task's label: "nj" and 12 lower-case hexadecimal digits. It leaves one byte of the 15 that an
// interface's name may have, has no dot (which would name a child jail) and is no number (which would be a jid).
func ValidName(name string) bool { return validName.MatchString(name) }

// Create makes an empty cell, with nothing left behind on error. Only Name, Hostname, Root, the network fields and Params are used.
func Create(spec Spec) (Cell, error) {
	if err := spec.Check(); err != nil {
		return Cell{}, err
	}
	cell, err := create(spec)
	if err != nil {
		return Cell{}, fmt.Errorf("jail %s: %w", spec.Name, err)
	}
	return cell, nil
}

// Find returns the cell of that name, and whether there is one.
func Find(name string) (Cell, bool, error) {
	if !ValidName(name) {
		return Cell{}, false, fmt.Errorf("jail %q: not a task's name", name)
	}
	return find(name)
}

// Remove kills what runs in the cell and takes the cell away. It returns when no process of it is left; nothing there is no error.
func Remove(name string) error {
	if !ValidName(name) {
		return fmt.Errorf("jail %q: not a task's name", name)
	}
	if err := remove(name); err != nil {
		return fmt.Errorf("remove jail %s: %w", name, err)
	}
	return nil
}

// Lingers tells whether the kernel keeps a cell that was removed, and so its root, until the last connection of it is over. Only
// FreeBSD does: a minute, or many where the other end does not answer.
func Lingers(name string) bool { return ValidName(name) && lingers(name) }

// List returns the names of all cells on this host.
func List() ([]string, error) { return list() }

// Kill sends SIGKILL to every process of the cell whose state folder is dir (its last element is the cell's name) until none is
// left, and notes in the folder that it did. The shim stays, to write down how the first process ended. No such cell is no error.
func Kill(dir string) error {
	name := filepath.Base(dir)
	if !ValidName(name) {
		return fmt.Errorf("jail %q: not a task's name", name)
	}
	noteKill(dir)
	// The first process goes first, or it may see its children die and end by itself.
	if status, err := ReadStatus(dir); err == nil && status.Ended.IsZero() {
		_ = signalProcess(status.PID, status.Birth, syscall.SIGKILL)
	}
	if err := kill(name); err != nil {
		return fmt.Errorf("kill jail %s: %w", name, err)
	}
	return nil
}

// Check refuses what no cell can be made of on this host. It looks at the fields that Create uses and touches nothing.
func (s Spec) Check() error {
	switch {
	case !ValidName(s.Name):
		return fmt.Errorf("jail %q: not a task's name", s.Name)
	case !filepath.IsAbs(s.Root) || filepath.Clean(s.Root) == "/":
		return fmt.Errorf("jail %s: root %q must be an absolute path below /", s.Name, s.Root)
	case len(s.Hostname) > 63 || strings.ContainsAny(s.Hostname, "/ \x00\n"):
		return fmt.Errorf("jail %s: hostname %q: at most 63 letters, digits, dots and dashes", s.Name, s.Hostname)
	case s.HostNetwork && s.NetNS != "":
		return fmt.Errorf("jail %s: either the host's network or the namespace %s, not both", s.Name, s.NetNS)
	case s.NetNS != "" && runtime.GOOS != "linux":
		return fmt.Errorf("jail %s: network namespace %s: only Linux has those", s.Name, s.NetNS)
	}
	return s.Params.Check()
}

func (s Spec) hostname() string {
	if s.Hostname == "" {
		return s.Name
	}
	return s.Hostname
}

// ownNetwork tells whether the cell gets a network stack that nothing else has.
func (s Spec) ownNetwork() bool { return !s.HostNetwork && s.NetNS == "" }
