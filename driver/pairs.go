package driver

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/client/allocdir"
)

// pair is one entry of copy, mount or mount_read_only.
type pair struct {
	Field          string
	Source, Target string // as the job author wrote them
	ReadOnly       bool

	// Base is the folder that the source must not leave, and Rel the source in it. For a path of the host both are
	// known from the operator's host_paths; for a relative one they follow from the task's directory.
	Base, Rel string
}

func (p pair) String() string { return fmt.Sprintf("%s %q", p.Field, p.Source+":"+p.Target) }

// pairs parses the entries of field. Writable says that the task could change what a source names.
func pairs(field string, entries []string, operator *Config, writable bool) ([]pair, error) {
	var out []pair
	for _, e := range entries {
		p, err := parsePair(e)
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", field, e, err)
		}
		p.Field = field
		p.ReadOnly = !writable
		if filepath.IsAbs(p.Source) {
			if p.Base, p.Rel, err = operator.permitPath(p.Source, writable); err != nil {
				return nil, fmt.Errorf("%s %q: %w", field, e, err)
			}
		}
		out = append(out, p)
	}
	return out, nil
}

func parsePair(entry string) (pair, error) {
	source, target, ok := strings.Cut(entry, ":")
	switch {
	case !ok:
		return pair{}, errors.New("no colon; it must be SOURCE:DESTINATION")
	case source == "" || target == "":
		return pair{}, errors.New("it must be SOURCE:DESTINATION, neither of them empty")
	case strings.Contains(target, ":"):
		return pair{}, errors.New("more than one colon; it must be SOURCE:DESTINATION")
	case !path.IsAbs(target):
		return pair{}, fmt.Errorf("the destination %s must be an absolute path in the jail", target)
	case hasDotDot(source) || hasDotDot(target):
		return pair{}, errors.New("no path may lead upwards with .. in it")
	case path.Clean(target) == "/":
		return pair{}, errors.New("the destination must not be the jail's root")
	}
	return pair{Source: filepath.Clean(source), Target: path.Clean(target)}, nil
}

func hasDotDot(p string) bool { return slices.Contains(strings.Split(p, "/"), "..") }

// permitPath finds the one of host_paths that a path of the host is below, symlinks resolved on both sides, and the path's
// place in it.
func (c *Config) permitPath(source string, writable bool) (base, rel string, err error) {
	real := resolved(source)
	readOnly := false
	for _, h := range c.HostPaths {
		allowed, ro := strings.CutSuffix(h, ":ro")
		allowed = resolved(allowed)
		rel, err := filepath.Rel(allowed, real)
		switch {
		case err != nil || !filepath.IsLocal(rel):
			continue
		case ro && writable:
			readOnly = true
		case rel == ".":
			// What is allowed may be a file; then its folder is what can be opened.
			return filepath.Dir(real), filepath.Base(real), nil
		default:
			return allowed, rel, nil
		}
	}
	if readOnly {
		return "", "", fmt.Errorf("host path %s is allowed for reading only; use mount_read_only", source)
	}
	return "", "", fmt.Errorf("host path %s is not allowed; the operator allows it with host_paths = [%q] in the plugin's configuration",
		source, source)
}

// resolved follows the symlinks of a path; one that leads nowhere is found missing later.
func resolved(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return filepath.Clean(path)
}

// locate gives relative sources their folder, which is one of those that the task sees and never the task's directory: who may change that
// may put symlinks in their places. It refuses a source that is not there, or that leaves its folder by a symlink.
func (p *plan) locate(list []pair) error {
	for i := range list {
		c := &list[i]
		if c.Base == "" {
			if err := c.locate(p.cfg.TaskDir()); err != nil {
				return fmt.Errorf("%s: %w", c, err)
			}
		}
		if err := c.checkSource(); err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
	}
	return nil
}

func (p *pair) locate(td *allocdir.TaskDir) error {
	folder, rest, _ := strings.Cut(p.Source, "/")
	base, ok := map[string]string{"local": td.LocalDir, "secrets": td.SecretsDir, "alloc": td.SharedAllocDir}[folder]
	if !ok {
		return errors.New("a relative source is one of the task's folders local, secrets and alloc, or in one")
	}
	p.Base, p.Rel = base, cmp.Or(rest, ".")
	return nil
}

func (p pair) checkSource() error {
	base, err := os.OpenRoot(p.Base)
	if err != nil {
		return err
	}
	defer base.Close()
	_, err = base.Stat(p.Rel)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no such file as %s; templates and artifacts put theirs under local/", p.Source)
	case err != nil:
		return fmt.Errorf("the source cannot be used, it must not leave its folder by a symlink: %w", err)
	}
	return nil
}
