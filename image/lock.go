package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// lock is held by one process's one pull of an image. Its file tells those who wait how far that is. Only its holder may remove
// the file.
type lock struct{ file *os.File }

const lockPoll = 50 * time.Millisecond

// takeLock waits until nobody holds the lock of that name in dir; waiting is told the holder's progress meanwhile.
func takeLock(ctx context.Context, dir, name string, waiting func(Progress)) (*lock, error) {
	for {
		l, err := tryLock(dir, name)
		if l != nil || err != nil {
			return l, err
		}
		if waiting != nil {
			if p, ok := lockProgress(dir, name); ok {
				waiting(p)
			}
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(lockPoll):
		}
	}
}

// tryLock returns nil where another holds it.
func tryLock(dir, name string) (*lock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if here, err := os.Stat(f.Name()); err != nil || !os.SameFile(info, here) { // removed before it was locked
		f.Close()
		return tryLock(dir, name)
	}
	l := &lock{f}
	if info.Size() > 0 {
		l.tell(Progress{}) // what the last holder said is over
	}
	return l, nil
}

// removeLocks removes the files of those that nobody holds, except for the store's, whose time counts.
func removeLocks(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() || e.Name() == storeLock {
			continue
		}
		l, failed := tryLock(dir, e.Name())
		if l != nil {
			failed = os.Remove(l.file.Name())
			l.release()
		}
		err = errors.Join(err, failed)
	}
	return err
}

func (l *lock) release() { l.file.Close() }

const progressFormat = "%020d %020d\n"

// tell writes the holder's progress for those who wait. Nobody is worse off where that fails.
func (l *lock) tell(p Progress) {
	l.file.WriteAt([]byte(fmt.Sprintf(progressFormat, p.Bytes, p.Total)), 0)
}

func lockProgress(dir, name string) (Progress, bool) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return Progress{}, false
	}
	var p Progress
	n, _ := fmt.Sscanf(string(data), progressFormat, &p.Bytes, &p.Total)
	return p, n == 2 && p.Total > 0
}
