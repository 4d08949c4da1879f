package storage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// Copy copies a file or a directory with all in it, keeping modes, owners, times, symlinks and hard links among the copied. Both paths are below
// their roots, which they may not leave, neither by .. nor by a symlink; of to, a leading slash means its root. A file copied to an existing
// directory goes into it; a directory is merged into an existing one, which keeps its owner and mode. Missing parents are made.
func Copy(src *os.Root, from string, dst *os.Root, to string) error {
	return (&copier{src: src, dst: dst, links: map[link]string{}}).into(from, to)
}

// CopyAsRoot is Copy, but what it makes is root's.
func CopyAsRoot(src *os.Root, from string, dst *os.Root, to string) error {
	return (&copier{src: src, dst: dst, links: map[link]string{}, asRoot: true}).into(from, to)
}

func (c *copier) into(from, to string) error {
	from, err := inside(from)
	if err != nil {
		return err
	}
	if to, err = inside(to); err != nil {
		return err
	}
	info, err := c.src.Stat(from)
	if err != nil {
		return explainEscape(err)
	}
	if have, err := c.dst.Stat(to); err == nil && have.IsDir() && !info.IsDir() {
		to = path.Join(to, path.Base(from))
	}
	if err := c.dst.MkdirAll(path.Dir(to), 0o755); err != nil {
		return explainEscape(err)
	}
	return explainEscape(c.copy(from, to, info))
}

// inside turns a path, absolute or not, into one below a root.
func inside(name string) (string, error) {
	name = path.Clean("./" + strings.TrimLeft(name, "/"))
	if !filepath.IsLocal(name) {
		return "", fmt.Errorf("%q has a .. that leaves its root", name)
	}
	return name, nil
}

type copier struct {
	src, dst *os.Root
	asRoot   bool
	links    map[link]string // first copies of files with several names
}

type link struct{ device, inode uint64 }

func (c *copier) copy(from, to string, info fs.FileInfo) error {
	if len(from) > pathMax { // each folder above is open
		return fmt.Errorf("%s: %w", Clip(from, 200), errLongPath)
	}
	switch info.Mode().Type() {
	case 0:
		return c.copyFile(from, to, info)
	case fs.ModeDir:
		return c.copyDir(from, to, info)
	case fs.ModeSymlink:
		return c.copySymlink(from, to, info)
	}
	return fmt.Errorf("%s is neither a file nor a directory nor a symlink", from)
}

func (c *copier) copyDir(from, to string, info fs.FileInfo) error {
	err := c.dst.Mkdir(to, 0o700)
	isNew := err == nil
	if errors.Is(err, fs.ErrExist) {
		have, err := c.dst.Stat(to)
		if err != nil {
			return err
		}
		if !have.IsDir() {
			return fmt.Errorf("%s is not a directory, and a directory is to be copied there", to)
		}
	} else if err != nil {
		return err
	}
	if err := c.copyEntries(from, to); err != nil || !isNew {
		return err
	}
	return c.attributes(to, info)
}

func (c *copier) copyEntries(from, to string) error {
	dir, err := c.src.Open(from)
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		entries, err := dir.ReadDir(256)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			name := path.Join(from, e.Name())
			info, err := c.src.Lstat(name)
			if err != nil {
				return err
			}
			if err := c.copy(name, path.Join(to, e.Name()), info); err != nil {
				return err
			}
		}
	}
}

func (c *copier) copyFile(from, to string, info fs.FileInfo) error {
	if err := c.clear(to); err != nil {
		return err
	}
	stat := info.Sys().(*syscall.Stat_t)
	key := link{device(info), uint64(stat.Ino)}
	if first, ok := c.links[key]; ok {
		return c.dst.Link(first, to)
	}
	if stat.Nlink > 1 {
		c.links[key] = to
	}
	in, err := c.src.OpenFile(from, openPath, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	if now, err := in.Stat(); err != nil || !now.Mode().IsRegular() {
		return errors.Join(fmt.Errorf("%s was replaced while it was copied", from), err)
	}
	out, err := c.dst.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return c.attributes(to, info)
}

func (c *copier) copySymlink(from, to string, info fs.FileInfo) error {
	target, err := c.src.Readlink(from)
	if err != nil {
		return err
	}
	if err := c.clear(to); err != nil {
		return err
	}
	if err := c.dst.Symlink(target, to); err != nil {
		return err
	}
	uid, gid := c.owner(info)
	return c.dst.Lchown(to, uid, gid)
}

func (c *copier) owner(info fs.FileInfo) (uid, gid int) {
	if c.asRoot {
		return 0, 0
	}
	stat := info.Sys().(*syscall.Stat_t)
	return int(stat.Uid), int(stat.Gid)
}

// clear removes what is in the way, but no directory.
func (c *copier) clear(to string) error {
	info, err := c.dst.Lstat(to)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		return fmt.Errorf("%s is a directory, and a file is to be copied there", to)
	}
	return c.dst.Remove(to)
}

// attributes sets the mode last: a change of owner takes setuid away.
func (c *copier) attributes(name string, info fs.FileInfo) error {
	uid, gid := c.owner(info)
	return errors.Join(
		c.dst.Chown(name, uid, gid),
		c.dst.Chmod(name, info.Mode()&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)),
		c.dst.Chtimes(name, info.ModTime(), info.ModTime()),
	)
}
