package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-jail/nomad-driver-jail/driver"
	"github.com/nomad-driver-jail/nomad-driver-jail/image"
	"github.com/nomad-driver-jail/nomad-driver-jail/image/command"
	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
	"github.com/nomad-driver-jail/nomad-driver-jail/jail/launch"
	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// runInJail is an image.Runner but for the folder of the driver's state. The command sees the image's root, a /dev, and the network only if
// it is to.
func runInJail(ctx context.Context, stateDir string, run image.Run) error {
	shim, err := launch.Install(stateDir)
	if err != nil {
		return err
	}
	undo, err := furnish(run)
	if err != nil {
		return err
	}
	var digits [6]byte
	rand.Read(digits[:])
	name := "nj" + hex.EncodeToString(digits[:])
	dir, release, err := driver.Claim(stateDir, name, "image build")
	if err == nil {
		err = runCommand(ctx, shim, dir, name, run)
	}
	return errors.Join(err, release(), undo())
}

// imageDefaults is a command.Plugin.
func imageDefaults(config, stateDir string) (command.Defaults, error) {
	c, err := driver.FindConfig(config, stateDir, driver.AgentConfig)
	if err != nil {
		c.StateDir = cmp.Or(stateDir, driver.DefaultConfig().StateDir)
	}
	return command.Defaults{Dataset: c.Dataset, Directory: c.Directory, StateDir: c.StateDir, Images: c.ImageOptions(), GC: c.ImageGC()}, err
}

// furnish gives the root what is no part of the image, and undo takes that away.
func furnish(run image.Run) (undo func() error, err error) {
	var added []string
	root, err := os.OpenRoot(run.Root)
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{"dev", "proc"} {
		if err := root.Mkdir(dir, 0o755); err == nil {
			added = append(added, dir)
		} else if !errors.Is(err, fs.ErrExist) {
			return nil, errors.Join(err, root.Close())
		}
	}
	if _, err := root.Lstat("etc/resolv.conf"); run.HostNetwork && errors.Is(err, fs.ErrNotExist) {
		if data, err := os.ReadFile("/etc/resolv.conf"); err == nil && root.WriteFile("etc/resolv.conf", data, 0o644) == nil {
			added = append(added, "etc/resolv.conf")
		}
	}
	undo = func() error {
		defer root.Close()
		err := storage.UnmountAll(run.Root)
		for _, name := range added {
			// By root: the run may have made a symlink to the host's /etc of the image's.
			if kept := root.Remove(name); kept != nil && !errors.Is(kept, fs.ErrNotExist) {
				err = errors.Join(err, fmt.Errorf("the image's /%s, which is there for run only, cannot be removed; let run leave it where it is: %w", name, kept))
			}
		}
		return err
	}
	if err := storage.MountAll(run.Root, storage.DefaultMounts(jail.DevfsRuleset)); err != nil {
		return nil, errors.Join(err, undo())
	}
	return undo, nil
}

func runCommand(ctx context.Context, shim, dir, name string, run image.Run) error {
	output := filepath.Join(dir, "output")
	if err := unix.Mkfifo(output, 0o600); err != nil {
		return err
	}
	spec := jail.Spec{
		Version: jail.Version, Name: name, Hostname: "build", Root: run.Root, HostNetwork: run.HostNetwork,
		Command: run.Args[0], Args: run.Args[1:], Env: run.Env, Dir: run.Dir, User: run.User, Stdout: output, Stderr: output,
	}
	if err := jail.Resolve(run.Root, &spec); err != nil {
		return err
	}
	// Nobody writes yet: without O_NONBLOCK this would wait for that.
	reader, err := os.OpenFile(output, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer reader.Close()
	if _, err := jail.Create(spec); err != nil {
		return err
	}
	err = runIn(ctx, shim, dir, spec, reader, run.Output)
	return errors.Join(err, jail.Remove(spec.Name))
}

func runIn(ctx context.Context, shim, dir string, spec jail.Spec, reader *os.File, output io.Writer) error {
	if _, err := launch.Start(ctx, shim, dir, spec); err != nil {
		return err
	}
	copied := make(chan struct{})
	go func() {
		io.Copy(output, reader)
		close(copied)
	}()
	status, err := launch.Wait(ctx, dir)
	if err != nil {
		return err
	}
	<-copied
	switch {
	case status.Error != "":
		return errors.New(status.Error)
	case status.Signal != 0:
		return fmt.Errorf("it was ended by signal %d", status.Signal)
	case status.ExitCode != 0:
		return fmt.Errorf("it exits with %d", status.ExitCode)
	}
	return nil
}
