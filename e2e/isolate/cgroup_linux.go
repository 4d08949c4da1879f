package isolate

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupLabel names the variable that holds the name of our part of each cgroup hierarchy.
const cgroupLabel = "NOMAD_DRIVER_JAIL_E2E_CGROUP"

type hierarchy struct {
	mount   string
	v2      bool
	options string // what mount(2) takes to mount the same hierarchy again
}

func hierarchies() ([]hierarchy, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var found []hierarchy
	for scanner := bufio.NewScanner(f); scanner.Scan(); {
		fields := strings.Fields(scanner.Text())
		if len(fields) < 4 || fields[2] != "cgroup" && fields[2] != "cgroup2" {
			continue
		}
		h := hierarchy{mount: fields[1], v2: fields[2] == "cgroup2"}
		if !h.v2 {
			h.options = controllers(fields[3])
		}
		found = append(found, h)
	}
	return found, nil
}

// controllers picks from a mount's options those that say which hierarchy it is.
func controllers(options string) string {
	generic := []string{"rw", "ro", "relatime", "noatime", "nosuid", "nodev", "noexec", "xattr", "clone_children"}
	kept := slices.DeleteFunc(strings.Split(options, ","), func(o string) bool {
		return slices.Contains(generic, o) || strings.HasPrefix(o, "release_agent=")
	})
	if len(kept) == 1 && strings.HasPrefix(kept[0], "name=") {
		kept = append(kept, "none")
	}
	return strings.Join(kept, ",")
}

// makeCgroups makes our part of each hierarchy, and returns their paths.
func makeCgroups(label string) ([]string, error) {
	found, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var made []string
	for _, h := range found {
		if h.v2 {
			enableControllers(h.mount)
		}
		dir := filepath.Join(h.mount, label)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return made, fmt.Errorf("cgroup: %w", err)
		}
		made = append(made, dir)
		if err := inheritCpuset(h.mount, dir); err != nil {
			return made, err
		}
	}
	return made, nil
}

// inheritCpuset fills in what a new cgroup of version 1 needs before it takes processes.
func inheritCpuset(parent, dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		have, err := os.ReadFile(filepath.Join(parent, file))
		if err != nil {
			continue // not this hierarchy, or version 2, which inherits by itself
		}
		if err := os.WriteFile(filepath.Join(dir, file), have, 0o644); err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
	}
	return nil
}

// enableControllers lets children of a version 2 cgroup be limited. What the machine does not let through, the fingerprint reports.
func enableControllers(dir string) {
	have, _ := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	for _, c := range strings.Fields(string(have)) {
		os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644)
	}
}

// enterCgroups moves this process into our part of each hierarchy and mounts that part where the whole was.
func enterCgroups(label string) error {
	found, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range found {
		if err := os.WriteFile(filepath.Join(h.mount, label, "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("cgroup namespace: %w", err)
	}
	for _, h := range found {
		kind := "cgroup"
		if h.v2 {
			kind = "cgroup2"
		}
		// The kernel refuses to mount a file system over itself.
		if err := unix.Unmount(h.mount, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", h.mount, err)
		}
		if err := unix.Mount(kind, h.mount, kind, 0, h.options); err != nil {
			return fmt.Errorf("mount %s %s (%s): %w", kind, h.mount, h.options, err)
		}
		if h.v2 {
			if err := vacate(h.mount); err != nil {
				return err
			}
		}
	}
	return nil
}

// vacate moves this process to a leaf: a version 2 cgroup with processes of its own cannot limit its children.
func vacate(root string) error {
	leaf := filepath.Join(root, "init")
	if err := os.Mkdir(leaf, 0o755); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0o644); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	enableControllers(root)
	return nil
}

// removeCgroups waits for the kernel to let go of processes that have just been killed.
func removeCgroups(dirs []string) error {
	var errs []error
	for _, dir := range dirs {
		var err error
		for range 250 {
			if err = removeTree(dir); err == nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func removeTree(dir string) error {
	var below []string
	filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			below = append(below, path)
		}
		return nil
	})
	for _, path := range slices.Backward(below) {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}
