package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

func (z *ZFS) Receive(ctx context.Context, tmp, base string, stream io.Reader) error {
	if err := valid("image", tmp); err != nil {
		return err
	}
	d := z.temporary(tmp)
	if _, err := zfs("list", "-H", "-o", "name", string(d)); !isMissing(err) {
		return errors.Join(err, fmt.Errorf("temporary image %s: %w", tmp, ErrExists))
	}
	var origin []string
	if base != "" {
		if _, err := z.layout(base); err != nil {
			return err
		}
		origin = []string{"-o", "origin=" + z.image(base).Snapshot(imageSnapshot)}
	}
	pipes := &receives{}
	in := &source{Reader: stream}
	s := splitter{incremental: base != "", open: func(child string) (io.WriteCloser, error) {
		args := append([]string{"receive", "-u"}, origin...)
		if child == "" {
			return pipes.start(append(args, string(d))...)
		}
		return pipes.start("receive", "-u", string(z.temporaryChild(tmp)))
	}}
	stop := context.AfterFunc(ctx, pipes.abandon)
	defer stop()
	err := s.split(in)
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case in.err != nil:
		err = in.err
	}
	if err == nil {
		return nil
	}
	pipes.abandon()
	clean, cancel := cleanup(ctx)
	defer cancel()
	return errors.Join(err, z.Discard(clean, tmp))
}

// source remembers why it ended, to tell the stream's failure from that of what it went to.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// receives are the zfs receive commands of one stream, of which one runs at a time.
type receives struct {
	mu        sync.Mutex
	current   *receive
	abandoned bool
}

func (r *receives) start(args ...string) (io.WriteCloser, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.abandoned {
		return nil, context.Canceled
	}
	c, err := startReceive(args...)
	r.current = c
	return c, err
}

// abandon ends the running command. The end of its pipe makes it remove what it has received; a signal would not, everywhere.
func (r *receives) abandon() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.abandoned = true
	if r.current != nil {
		r.current.pipe.Close()
		kill := time.AfterFunc(cleanupTime, func() { r.current.cmd.Process.Kill() })
		defer kill.Stop()
		r.current.wait()
	}
}

// receive is a running zfs receive.
type receive struct {
	cmd    *exec.Cmd
	pipe   *os.File
	stderr bytes.Buffer
	ended  chan struct{}
	err    error // once it has ended
}

func startReceive(args ...string) (*receive, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	growPipe(w)
	c := &receive{cmd: exec.Command("zfs", args...), pipe: w, ended: make(chan struct{})}
	c.cmd.Stdin, c.cmd.Stderr = r, &c.stderr
	if err := c.cmd.Start(); err != nil {
		w.Close()
		return nil, err
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.ended)
	}()
	return c, nil
}

// Write fails with the command's own reason when it has ended before its stream.
func (c *receive) Write(p []byte) (int, error) {
	n, err := c.pipe.Write(p)
	if err != nil {
		c.pipe.Close()
		if failed := c.wait(); failed != nil {
			err = failed
		}
	}
	return n, err
}

func (c *receive) Close() error {
	return errors.Join(c.pipe.Close(), c.wait())
}

func (c *receive) wait() error {
	<-c.ended
	if c.err != nil {
		return newCommandError(strings.Join(c.cmd.Args, " "), c.stderr.String(), c.err)
	}
	return nil
}
