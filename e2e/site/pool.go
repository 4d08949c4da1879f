package site

import (
	"context"
	"errors"
	"os"
	"os/exec"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/zfs/pool"
)

// makePool leaves the zfs command that belongs to the pool in this process's PATH, and so in that of all it starts.
func (s *Site) makePool(context.Context) error {
	if s.Pool != "" {
		if err := os.Setenv("POOL", s.Pool); err != nil {
			return err
		}
	}
	p, err := pool.Start()
	if err != nil {
		return err
	}
	s.later(p.Close)
	s.Dataset = p.Dataset + "/jails"
	path, err := exec.LookPath("zfs")
	if err != nil {
		return errors.New("there is no zfs command in PATH")
	}
	s.Say("pool", p.Dataset+", with "+path)
	return nil
}
