// Package forward carries the connections that a host makes to its own ports
// on to its tasks. On FreeBSD pf redirects what comes in by an interface, and
// what the host says to itself never does.
//
// One process serves all tasks of a host. It outlives whoever started it,
// learns what to serve from a folder with a file per task, and ends when that
// has none. It uses the standard library alone, so that any program can be it.
package forward

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Rule leads a port of the host to a task.
type Rule struct {
	Proto string         `json:"proto"` // tcp or udp
	Host  netip.AddrPort `json:"host"`  // 0.0.0.0 or :: is every address of the family
	Task  netip.AddrPort `json:"task"`
}

const suffix = ".json"

// Put files the task's rules in the folder, which is made when missing.
// Sync makes them work.
func Put(dir, task string, rules []Rule) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	b, err := json.Marshal(rules)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(b); err != nil {
		return errors.Join(err, tmp.Close())
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), filepath.Join(dir, task+suffix))
}

// Remove tells whether there was anything to remove. Sync ends it.
func Remove(dir, task string) (bool, error) {
	err := os.Remove(filepath.Join(dir, task+suffix))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Tasks names those that have rules in the folder.
func Tasks(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var tasks []string
	for _, e := range entries {
		if task, ok := strings.CutSuffix(e.Name(), suffix); ok {
			tasks = append(tasks, task)
		}
	}
	return tasks, nil
}

// readRules maps each rule to its task.
func readRules(dir string) (map[Rule]string, error) {
	tasks, err := Tasks(dir)
	if err != nil {
		return nil, err
	}
	all := map[Rule]string{}
	for _, task := range tasks {
		b, err := os.ReadFile(filepath.Join(dir, task+suffix))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		var rules []Rule
		if err := json.Unmarshal(b, &rules); err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, task+suffix), err)
		}
		for _, r := range rules {
			all[r] = task
		}
	}
	return all, nil
}
