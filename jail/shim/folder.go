package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

// folder is the task's state folder, by a descriptor where its path gets out of sight (Linux), else by its path.
type folder struct {
	fd     int
	prefix string
}

// spareSize is more than a status takes, and what disks hand out at least.
const spareSize = 4096

func (d folder) open(name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(d.fd, d.prefix+name, flags|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// writeStart makes the status visible, and takes the room that its end will need. It need not outlive the host, as the task won't.
func (d folder) writeStart(status jail.Status) error {
	if err := d.write(status, false); err != nil {
		return err
	}
	f, err := d.open(jail.SpareFile, unix.O_WRONLY|unix.O_CREAT)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, spareSize))
	return errors.Join(err, f.Close())
}

// writeEnd replaces the status durably.
func (d folder) writeEnd(status jail.Status) error { return d.write(status, true) }

func (d folder) write(status jail.Status, durable bool) error {
	b, err := json.Marshal(status)
	if err != nil {
		return err
	}
	if err := d.writeSpare(b, durable); err != nil {
		return err
	}
	if err := unix.Renameat(d.fd, d.prefix+jail.SpareFile, d.fd, d.prefix+jail.StatusFile); err != nil {
		return fmt.Errorf("rename %s: %w", jail.SpareFile, err)
	}
	if !durable {
		return nil
	}
	self, err := d.open(".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	return errors.Join(self.Sync(), self.Close())
}

// writeSpare writes over what is in the file before it shortens it: the room is kept on a full disk.
func (d folder) writeSpare(b []byte, durable bool) error {
	f, err := d.open(jail.SpareFile, unix.O_WRONLY|unix.O_CREAT)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Truncate(int64(len(b)))
	}
	if err == nil && durable {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
