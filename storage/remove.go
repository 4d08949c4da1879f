package storage

import (
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"
)

// openDirs is how many directories within one another are open while a tree is removed. Who made the tree may have nested more than this
// process has descriptors, or any path has bytes.
const openDirs = 32

// removeAll removes a file or a directory with all in it, however deep and whatever flags protect it. None there is no error.
func removeAll(root *os.Root, name string) error {
	err := removeOne(root, name, name)
	if !notEmpty(err) {
		return err
	}
	if err := emptyDir(root, name); err != nil {
		return err
	}
	return removeOne(root, name, name)
}

// emptyDir removes all in a directory.
func emptyDir(root *os.Root, name string) error {
	top, err := root.OpenRoot(name)
	if err != nil {
		return err
	}
	defer top.Close()
	return remover{top}.empty(top, ".", 1)
}

// removeOne removes no more than a file or an empty directory. Flags bind even root: those of flagged are taken away when they do.
func removeOne(dir *os.Root, name string, flagged ...string) error {
	err := unflagged(dir, flagged, func() error { return dir.Remove(name) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func unflagged(dir *os.Root, flagged []string, do func() error) error {
	err := do()
	if !errors.Is(err, syscall.EPERM) {
		return err
	}
	for _, name := range flagged {
		if err := clearFlags(dir, name); err != nil {
			return err
		}
	}
	return do()
}

func notEmpty(err error) bool {
	return errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST)
}

// remover empties a directory. What is too deep in it, it moves to the top, to be met there again.
type remover struct{ top *os.Root }

// empty removes all in dir, which is at that path below the top and the depth-th that is open.
func (r remover) empty(dir *os.Root, at string, depth int) error {
	for {
		names, err := someNames(dir)
		if err != nil || len(names) == 0 {
			return err
		}
		for _, name := range names {
			if e := r.remove(dir, at, name, depth); e != nil && err == nil {
				err = e
			}
		}
		if err != nil {
			return err
		}
	}
}

func (r remover) remove(dir *os.Root, at, name string, depth int) error {
	flagged := []string{".", name}
	err := removeOne(dir, name, flagged...)
	if !notEmpty(err) {
		return err
	}
	at = path.Join(at, name)
	if depth == openDirs {
		return unflagged(dir, flagged, func() error { return r.top.Rename(at, rand.Text()) })
	}
	sub, err := dir.OpenRoot(name)
	if err != nil {
		return err
	}
	err = r.empty(sub, at, depth+1)
	sub.Close()
	if err != nil {
		return err
	}
	return removeOne(dir, name, flagged...)
}

// someNames are of a directory that is not open any more: what is removed while it is read may hide what follows.
func someNames(dir *os.Root) ([]string, error) {
	f, err := dir.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(1024)
	if err == io.EOF {
		err = nil
	}
	return names, err
}
