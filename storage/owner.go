package storage

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	ownerFile = "owner"    // in a directory store: the ID of the state folder that it belongs to, and where that is
	idFile    = "store-id" // in a state folder
)

// checkOwner refuses a directory that belongs to another host, which may share it, or to another state folder of this one. Each would take
// the other's tasks for leftovers.
func (d *Directory) checkOwner() error {
	owner, err := readOnce(filepath.Join(d.dir, ownerFile))
	if owner == "" || err != nil {
		return err
	}
	id, err := readOnce(filepath.Join(d.stateDir, idFile))
	if err != nil {
		return err
	}
	theirs, where, _ := strings.Cut(owner, " ")
	if theirs == id {
		return nil
	}
	return fmt.Errorf("directory %s: it belongs to the driver's state in %s and not to %s here; give the folder that it belongs to (--state-dir, the plugin's state_dir), or this host a directory of its own; where that one is gone for good, remove %s",
		d.dir, where, d.stateDir, filepath.Join(d.dir, ownerFile))
}

// own makes the directory this state folder's, unless it is another's.
func (d *Directory) own() error {
	if err := os.MkdirAll(d.stateDir, 0o700); err != nil {
		return err
	}
	id, err := writeOnce(filepath.Join(d.stateDir, idFile), rand.Text())
	if err != nil {
		return err
	}
	where, err := filepath.Abs(d.stateDir)
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	if _, err := writeOnce(filepath.Join(d.dir, ownerFile), id+" "+host+":"+where); err != nil {
		return err
	}
	return d.checkOwner()
}

// readOnce is "" where nobody has written yet.
func readOnce(file string) (string, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(text)), err
}

// writeOnce returns what a file says, which is text if it is this call that writes it. Others, of several hosts, may call it at the same time.
func writeOnce(file, text string) (string, error) {
	if have, err := readOnce(file); have != "" || err != nil {
		return have, err
	}
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	_, err = fmt.Fprintln(f, text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", err
	}
	if err := os.Link(f.Name(), file); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return readOnce(file)
}
