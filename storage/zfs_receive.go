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
	"time"
)

// cleanupTime is for removing what a failed step made, when its own ctx may have ended.
const cleanupTime = time.Minute

func (z *ZFS) Receive(ctx context.Context, tmp, base string, stream io.Reader) error {
	if err := valid("image", tmp); err != nil {
		return err
	}
	d := z.temporary(tmp)
	args := []string{"receive", "-u"}
	if base != "" {
		if _, err := z.imageRoot(base); err != nil {
			return err
		}
		args = append(args, "-o", "origin="+z.image(base).Snapshot(imageSnapshot))
	}
	head, err := readHead(stream, base != "")
	if err != nil {
		return err
	}
	if _, err := zfs("list", "-H", "-o", "name", string(d)); !isMissing(err) {
		return errors.Join(err, fmt.Errorf("temporary image %s: %w", tmp, ErrExists))
	}
	if err := pour(ctx, head, stream, append(args, string(d))...); err != nil {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		return errors.Join(err, z.Discard(clean, tmp))
	}
	return nil
}

// pour feeds head and then stream to a zfs command until one of them, or ctx, ends. A receive is told to end by the end of its pipe, not by a
// signal: it then removes what it has received.
func pour(ctx context.Context, head []byte, stream io.Reader, args ...string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer w.Close()
	var stderr bytes.Buffer
	cmd := exec.Command("zfs", args...)
	cmd.Stdin, cmd.Stderr = r, &stderr
	err = cmd.Start()
	r.Close()
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		w.Close()
		select {
		case <-ended:
		case <-time.After(cleanupTime):
			cmd.Process.Kill()
		}
	})
	defer stop()
	in := &source{Reader: io.MultiReader(bytes.NewReader(head), stream)}
	poured := make(chan error, 1)
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{w}, in, make([]byte, 1<<20))
		w.Close()
		poured <- err
	}()
	err = cmd.Wait()
	close(ended)
	wrote := <-poured
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case in.err != nil:
		return in.err
	case err != nil:
		return newCommandError(strings.Join(cmd.Args, " "), stderr.String(), err)
	case wrote != nil:
		return fmt.Errorf("the stream goes on after its end: %w", wrote)
	}
	return nil
}

// source remembers why it ended, to tell the stream's failure from that of the command it went to.
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
