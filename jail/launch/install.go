// Package launch starts a task's first process through a shim that stays with it, waits for its end from any process, and runs
// further processes beside it. It carries the shim's program and installs it on the host.
package launch

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

//go:embed all:bin
var programs embed.FS

// ErrNoShim means that the program was built by itself, without the shim that `make` puts into it.
var ErrNoShim = errors.New("built without its shim; build with make")

// Install writes the shim into stateDir under a name made of its digest, unless it is there, and returns its path. Shims of other
// versions stay, as tasks may run by them.
func Install(stateDir string) (string, error) {
	program, path, err := carried(stateDir)
	if err != nil {
		return "", err
	}
	if installed(path, program) {
		return path, nil
	}
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return "", err
	}
	if err := write(path, program); err != nil {
		return "", fmt.Errorf("install the shim: %w", err)
	}
	return path, nil
}

// Check says why Install could not install the shim, and makes nothing.
func Check(stateDir string) error {
	if _, _, err := carried(stateDir); err != nil {
		return err
	}
	dir := stateDir
	info, err := os.Stat(dir)
	for errors.Is(err, fs.ErrNotExist) { // made by Install
		dir = filepath.Dir(dir)
		info, err = os.Stat(dir)
	}
	if err == nil && !info.IsDir() {
		err = syscall.ENOTDIR
	}
	if err == nil {
		err = unix.Access(dir, unix.W_OK)
	}
	if err != nil {
		return fmt.Errorf("state folder %s cannot be made or written to (%s: %w): give the plugin another state_dir", stateDir, dir, err)
	}
	return nil
}

// Forwarder is the command line, without its last argument, of network's forwarding process on FreeBSD: the shim's program, which
// Install puts there. It is nil without a shim.
func Forwarder(stateDir string) []string {
	if _, path, err := carried(stateDir); err == nil {
		return []string{path, "forward"}
	}
	return nil
}

// carried is the shim, and where it is to be.
func carried(stateDir string) (program []byte, path string, err error) {
	program, err = programs.ReadFile("bin/shim_" + runtime.GOOS + "_" + runtime.GOARCH)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", ErrNoShim
	}
	digest := sha256.Sum256(program)
	return program, filepath.Join(stateDir, "shim-"+hex.EncodeToString(digest[:6])), err
}

func installed(path string, program []byte) bool {
	there, err := os.ReadFile(path)
	return err == nil && sha256.Sum256(there) == sha256.Sum256(program)
}

// write makes the file appear whole. No process may be forked meanwhile: it would hold the file open for writing until it execs,
// and a program that is open for writing cannot be run.
func write(path string, program []byte) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	f, err := os.CreateTemp(filepath.Dir(path), ".shim-*")
	if err != nil {
		return err
	}
	_, err = f.Write(program)
	if err == nil {
		err = f.Chmod(0o700)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
