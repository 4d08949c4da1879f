// Package audit tells what is on a host, in lines that can be compared, so that a test can say what was left behind.
package audit

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// State is what is on a host at one moment: kind to its lines, sorted. Lines hold nothing that changes by itself, such as counters.
type State map[string][]string

// Scope narrows what is looked at.
type Scope struct {
	Processes bool   // on a host of one's own; elsewhere others come and go
	Zfs       string // path of the zfs command, "" to leave datasets out
	Folders   []string
}

// Take looks at the host.
func Take(scope Scope) (State, error) {
	s := State{}
	var errs []error
	add := func(kind string, lines []string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", kind, err))
		}
		slices.Sort(lines)
		s[kind] = lines
	}
	for kind, take := range host {
		lines, err := take()
		add(kind, lines, err)
	}
	lines, err := interfaces()
	add("interface", lines, err)
	if scope.Processes {
		lines, err := Processes()
		add("process", lines, err)
	}
	if scope.Zfs != "" {
		lines, err := command(scope.Zfs, "list", "-H", "-o", "name", "-t", "all")
		add("dataset", lines, err)
	}
	for _, folder := range scope.Folders {
		lines, err := filepath.Glob(filepath.Join(folder, "*"))
		add("file", append(s["file"], lines...), err)
	}
	return s, errors.Join(errs...)
}

// Added returns what is in now and was not in s, as "kind line".
func (s State) Added(now State) []string {
	var added []string
	for kind, lines := range now {
		left := slices.Clone(s[kind])
		for _, line := range lines {
			if i := slices.Index(left, line); i >= 0 {
				left = slices.Delete(left, i, i+1)
				continue
			}
			added = append(added, kind+" "+line)
		}
	}
	slices.Sort(added)
	return added
}

// Left is an error that lists what is in now and was not in s; nil if there is nothing.
func (s State) Left(now State) error {
	added := s.Added(now)
	if len(added) == 0 {
		return nil
	}
	return fmt.Errorf("left behind:\n\t%s", strings.Join(added, "\n\t"))
}

func interfaces() ([]string, error) {
	all, err := net.Interfaces()
	var names []string
	for _, i := range all {
		names = append(names, i.Name)
	}
	return names, err
}

// command returns the lines that a command prints; a command that the host does not have has nothing to tell.
func command(name string, args ...string) ([]string, error) {
	out, err := exec.Command(name, args...).Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, nil
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, fmt.Errorf("%s %s: %s", name, strings.Join(args, " "), exit.Stderr)
	}
	return lines(out), err
}

func lines(text []byte) []string {
	return slices.DeleteFunc(strings.Split(string(text), "\n"), func(l string) bool { return strings.TrimSpace(l) == "" })
}

// names lists a folder; one that does not exist is empty.
func names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var found []string
	for _, e := range entries {
		found = append(found, e.Name())
	}
	return found, err
}
