package storage

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

func (z *ZFS) Receive(ctx context.Context, tmp, base string, stream io.Reader) error {
	if err := valid("image", tmp); err != nil {
		return err
	}
	d := z.temporary(tmp)
	args := []string{"receive", "-u"}
	if base != "" {
		origin := z.image(base).Snapshot(imageSnapshot)
		if _, err := zfs("list", "-H", "-o", "name", origin); isMissing(err) {
			return fmt.Errorf("image %s: %w", base, ErrNotFound)
		} else if err != nil {
			return err
		}
		args = append(args, "-o", "origin="+origin)
	}
	in := &source{Reader: stream}
	u, err := openStream(in, base != "")
	if err != nil {
		return cmp.Or(ctx.Err(), in.err, err)
	}
	err = receive(ctx, u, z.parent.Pool(), append(args, d.Snapshot(imageSnapshot))...)
	switch {
	case isTaken(err):
		return fmt.Errorf("temporary image %s: %w", tmp, ErrExists)
	case err != nil:
		clean, cancel := cleanup(ctx)
		defer cancel()
		return errors.Join(cmp.Or(ctx.Err(), in.err, err), z.Discard(clean, tmp))
	}
	return nil
}

// isTaken tells of a receive that was refused because of what is there, which is not its own to remove.
func isTaken(err error) bool {
	return says(err, "' exists") || isExists(err) || says(err, "partially-complete state")
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

// receive feeds a stream to a zfs receive. The end of its pipe makes an abandoned one remove what it has received; a signal would not, everywhere.
func receive(ctx context.Context, u *unpacker, pool string, args ...string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer w.Close()
	growPipe(w)
	var stderr bytes.Buffer
	cmd := exec.Command("zfs", args...)
	cmd.Stdin, cmd.Stderr = r, &stderr
	err = cmd.Start()
	r.Close()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { w.Close() })
	defer stop()
	syncing := &syncingWriter{Writer: w, pool: pool}
	defer syncing.wait()
	copied := u.copyTo(syncing)
	w.Close()
	if copied != nil {
		kill := time.AfterFunc(cleanupTime, func() { cmd.Process.Kill() })
		defer kill.Stop()
	}
	if err := cmd.Wait(); err != nil {
		failed := newCommandError(strings.Join(cmd.Args, " "), stderr.String(), err)
		if copied == nil || errors.Is(copied, syscall.EPIPE) || isTaken(failed) {
			return failed
		}
	}
	return copied
}

// syncEvery is how many bytes of a stream wait in memory for the disk: enough for a transaction group worth its while.
const syncEvery = 128 << 20

// syncingWriter has the pool write to its disks while more comes. Left alone, ZFS keeps what it receives for the seconds of a transaction
// group (zfs(4), zfs_txg_timeout), and the end of a receive waits for all of it.
type syncingWriter struct {
	io.Writer
	pool    string
	waiting int           // bytes since the last sync began
	synced  chan struct{} // closed when it has ended; nil before the first
}

func (s *syncingWriter) Write(p []byte) (int, error) {
	n, err := s.Writer.Write(p)
	if s.waiting += n; s.waiting >= syncEvery && !s.running() {
		s.waiting = 0
		synced := make(chan struct{})
		s.synced = synced
		go func() {
			defer close(synced)
			exec.Command("zpool", "sync", s.pool).Run() // what keeps a pool from it fails the receive too
		}()
	}
	return n, err
}

func (s *syncingWriter) running() bool {
	if s.synced == nil {
		return false
	}
	select {
	case <-s.synced:
		return false
	default:
		return true
	}
}

func (s *syncingWriter) wait() {
	if s.synced != nil {
		<-s.synced
	}
}
