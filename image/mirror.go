package image

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// mirror makes the files below to what those below from are, and writes only what differs: the blocks of what stays the same
// stay shared with the image below.
func mirror(from, to *os.Root) error {
	if err := removeOthers(from, to); err != nil {
		return err
	}
	m := mirroring{from: from, to: to, links: map[uint64]string{}}
	return fs.WalkDir(from.FS(), ".", m.entry)
}

// removeOthers removes what is not in from, or is of another type there.
func removeOthers(from, to *os.Root) error {
	return fs.WalkDir(to.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		info, err := from.Lstat(name)
		if err == nil && info.Mode().Type() == entry.Type() {
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return err
		}
		if err := to.RemoveAll(name); err != nil {
			return err
		}
		if entry.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
}

type mirroring struct {
	from, to *os.Root
	links    map[uint64]string // first names of files with several, by inode
}

func (m *mirroring) entry(name string, entry fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	want, err := m.from.Lstat(name)
	if err != nil {
		return err
	}
	have, err := m.to.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		have, err = nil, nil
	}
	if err != nil {
		return err
	}
	switch {
	case entry.IsDir():
		return m.directory(name, want, have)
	case want.Mode().IsRegular() && stat(want).Nlink > 1:
		return m.linked(name, want, have)
	}
	return m.single(name, want, have)
}

func (m *mirroring) single(name string, want, have fs.FileInfo) error {
	if have != nil {
		same, err := m.same(name, want, have)
		if same || err != nil {
			return err
		}
	}
	return storage.Copy(m.from, name, m.to, name)
}

func (m *mirroring) directory(name string, want, have fs.FileInfo) error {
	if have == nil {
		if err := m.to.Mkdir(name, 0o700); err != nil {
			return err
		}
	} else if sameAttributes(want, have) {
		return nil
	}
	return errors.Join(m.to.Chown(name, int(stat(want).Uid), int(stat(want).Gid)), m.to.Chmod(name, want.Mode()))
}

// linked has the later names of a file be names of its first one's copy.
func (m *mirroring) linked(name string, want, have fs.FileInfo) error {
	first, ok := m.links[uint64(stat(want).Ino)]
	if !ok {
		m.links[uint64(stat(want).Ino)] = name
		return m.single(name, want, have)
	}
	copied, err := m.to.Lstat(first)
	if err != nil || have != nil && os.SameFile(copied, have) {
		return err
	}
	if have != nil {
		if err := m.to.Remove(name); err != nil {
			return err
		}
	}
	return m.to.Link(first, name)
}

func (m *mirroring) same(name string, want, have fs.FileInfo) (bool, error) {
	if !sameAttributes(want, have) {
		return false, nil
	}
	switch want.Mode().Type() {
	case 0:
		return want.Size() == have.Size() && m.sameContent(name), nil
	case fs.ModeSymlink:
		a, err := m.from.Readlink(name)
		b, err2 := m.to.Readlink(name)
		return a == b, errors.Join(err, err2)
	}
	return stat(want).Rdev == stat(have).Rdev, nil // to open a FIFO is to wait for its other end
}

// sameContent is false too where a file cannot be read: to copy it will say why.
func (m *mirroring) sameContent(name string) bool {
	a, err := m.from.Open(name)
	if err != nil {
		return false
	}
	defer a.Close()
	b, err := m.to.Open(name)
	if err != nil {
		return false
	}
	defer b.Close()
	return sameBytes(a, b)
}

func sameBytes(a, b io.Reader) bool {
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(a, x)
		m, err2 := io.ReadFull(b, y)
		if n != m || !bytes.Equal(x[:n], y[:m]) {
			return false
		}
		if err != nil || err2 != nil {
			return ended(err) && ended(err2)
		}
	}
}

func ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

func sameAttributes(a, b fs.FileInfo) bool {
	return a.Mode() == b.Mode() && stat(a).Uid == stat(b).Uid && stat(a).Gid == stat(b).Gid
}

func stat(info fs.FileInfo) *syscall.Stat_t { return info.Sys().(*syscall.Stat_t) }

// mirrorTree is mirror for paths on the host.
func mirrorTree(from, to string) error {
	source, err := os.OpenRoot(path.Clean(from))
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer target.Close()
	return mirror(source, target)
}
