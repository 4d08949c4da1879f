package driver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nomad-driver-jail/nomad-driver-jail/network"
)

// stateVersion is the version of State. A newer plugin reads every older one.
const stateVersion = 1

// State is what the plugin writes about a task in its state folder, as task.json, before it makes anything else. It says
// whose the name is; all the rest is found on the host by the name.
type State struct {
	Version   int
	Driver    string
	TaskID    string
	AllocID   string
	Namespace string
	JobID     string
	Group     string
	Task      string
	Image     string
	Digest    string
	Root      string
	Mode      string
	Address   string
	Ports     []network.PortMap
	Created   time.Time
}

// readState returns fs.ErrNotExist where the folder holds none.
func readState(dir string) (State, error) {
	var s State
	data, err := os.ReadFile(filepath.Join(dir, "task.json"))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("%s/task.json: %w", dir, err)
	}
	if s.Version > stateVersion {
		return s, fmt.Errorf("%s/task.json: version %d is newer than this plugin's %d; install the plugin that wrote it",
			dir, s.Version, stateVersion)
	}
	return s, nil
}

// writeState replaces the folder's task.json, whole or not at all.
func writeState(dir string, s State) error {
	data, err := json.MarshalIndent(s, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return writeWhole(filepath.Join(dir, "task.json"), data)
}

// writeWhole replaces the file, whole or not at all: a disk that is full keeps the old one.
func writeWhole(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

func tasksDir(stateDir string) string { return filepath.Join(stateDir, "tasks") }

// Claim makes the state folder of a jail that is no task's, in a plugin's state folder, and returns it with a way to remove it. No plugin
// takes the jail for a leftover then, and gc not before it has ended. what says in ps what the jail is for.
func Claim(stateDir, name, what string) (dir string, release func() error, err error) {
	dir = filepath.Join(tasksDir(stateDir), name)
	err = writeState(dir, State{Version: stateVersion, Driver: what, JobID: what, Created: time.Now()})
	return dir, func() error { return removeState(dir) }, err
}

// removeState takes task.json away last, so that a crash in between leaves a folder that still says whose it is.
func removeState(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == "task.json" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}

// lastConfig is the configuration of the plugin that prepared this host last, if one did; secrets are not kept.
func lastConfig(stateDir string) (c Config, found bool, err error) {
	c = DefaultConfig()
	data, err := os.ReadFile(filepath.Join(stateDir, "config.json"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return c, false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		return c, false, fmt.Errorf("%s/config.json: %w", stateDir, err)
	}
	c.StateDir = stateDir
	return c, true, nil
}

func (c Config) save() error {
	c.Consul.Token = ""
	c.Images = c.Images.withoutSecrets()
	data, err := json.MarshalIndent(c, "", "\t")
	if err != nil {
		return err
	}
	path := filepath.Join(c.StateDir, "config.json")
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, data) {
		return nil // a full disk is no reason not to start with it
	}
	return writeWhole(path, data)
}

// withoutUserinfo is the URL without name and password, also where nobody could parse it.
func withoutUserinfo(rawURL string) string {
	at := strings.LastIndexByte(rawURL, '@')
	if at < 0 {
		return rawURL
	}
	scheme, _, ok := strings.Cut(rawURL[:at], "://")
	if !ok {
		return rawURL[at+1:]
	}
	return scheme + "://" + rawURL[at+1:]
}
