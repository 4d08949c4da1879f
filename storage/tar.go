package storage

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// whiteout marks, as in the layers of OCI images, a file of the base that is gone; opaque, a directory of which all is.
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// extract unpacks an archive into root. Nothing in it gets out of root.
func extract(ctx context.Context, root string, stream io.Reader) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close()
	x := extractor{root: r}
	end := &zeros{Reader: stream}
	reader := tar.NewReader(end)
	for {
		h, err := reader.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("archive: %w", err)
		}
		if err := x.entry(h, reader); err != nil {
			return fmt.Errorf("archive: %s: %w", h.Name, explainEscape(err))
		}
	}
	if err := x.finish(); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	// What follows the archive's end is part of what was sent.
	if _, err = io.Copy(io.Discard, end); err != nil {
		return err
	}
	if end.run < 2*512 {
		return errors.New("archive: it is cut short")
	}
	return nil
}

// zeros counts those that a stream ends with: two blocks of them end an archive, which package tar takes for whole without.
type zeros struct {
	io.Reader
	run int
}

func (z *zeros) Read(p []byte) (int, error) {
	n, err := z.Reader.Read(p)
	after := bytes.TrimRight(p[:n], "\x00")
	if len(after) > 0 {
		z.run = 0
	}
	z.run += n - len(after)
	return n, err
}

type extractor struct {
	root *os.Root
	dirs []*tar.Header // their times and modes are for the end: a directory has to be written to until then
}

func (x *extractor) entry(h *tar.Header, content io.Reader) error {
	name, err := inside(h.Name)
	if err != nil {
		return err
	}
	dir, base := path.Split(name)
	switch {
	case base == opaque:
		return x.empty(path.Clean(dir))
	case strings.HasPrefix(base, whiteout):
		return x.root.RemoveAll(path.Join(dir, strings.TrimPrefix(base, whiteout)))
	}
	if err := x.root.MkdirAll(path.Clean("./"+dir), 0o755); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		return x.directory(name, h)
	}
	if err := x.root.RemoveAll(name); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		if err := x.file(name, content); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := x.root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		return x.root.Lchown(name, h.Uid, h.Gid)
	case tar.TypeLink:
		target, err := inside(h.Linkname)
		if err != nil {
			return err
		}
		return x.root.Link(target, name)
	case tar.TypeXGlobalHeader:
		return nil
	default:
		return errors.New("neither a file nor a directory nor a link; an image holds no devices and no FIFOs")
	}
	return attributes(x.root, name, h)
}

func (x *extractor) directory(name string, h *tar.Header) error {
	if info, err := x.root.Lstat(name); err == nil && !info.IsDir() {
		if err := x.root.Remove(name); err != nil {
			return err
		}
	}
	x.dirs = append(x.dirs, h)
	return x.root.MkdirAll(name, 0o755)
}

func (x *extractor) file(name string, content io.Reader) error {
	f, err := x.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, content); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func (x *extractor) empty(dir string) error {
	d, err := x.root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	for _, name := range names {
		err = errors.Join(err, x.root.RemoveAll(path.Join(dir, name)))
	}
	return err
}

func (x *extractor) finish() error {
	for _, h := range x.dirs {
		name, err := inside(h.Name)
		if err != nil {
			return err
		}
		if info, err := x.root.Lstat(name); err != nil || !info.IsDir() {
			continue // a later entry replaced it
		}
		if err := attributes(x.root, name, h); err != nil {
			return err
		}
	}
	return nil
}

func attributes(root *os.Root, name string, h *tar.Header) error {
	mode := fs.FileMode(h.Mode).Perm() | h.FileInfo().Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)
	return errors.Join(root.Chown(name, h.Uid, h.Gid), root.Chmod(name, mode), root.Chtimes(name, h.ModTime, h.ModTime))
}

// archive packs all below root, the same bytes for the same files.
func archive(w io.Writer, root string) error {
	out := tar.NewWriter(w)
	first := map[link]string{}
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		h, err := header(file, name, info)
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		key := link{device(info), uint64(stat.Ino)}
		if to, ok := first[key]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, to, 0
		} else if info.Mode().IsRegular() && stat.Nlink > 1 {
			first[key] = name
		}
		if err := out.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg {
			return err
		}
		return writeFile(out, file)
	})
	if err != nil {
		return err
	}
	return out.Close()
}

func header(file, name string, info fs.FileInfo) (*tar.Header, error) {
	target := ""
	if info.Mode().Type() == fs.ModeSymlink {
		var err error
		if target, err = os.Readlink(file); err != nil {
			return nil, err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return nil, err
	}
	h.Name = name
	if info.IsDir() {
		h.Name += "/"
	}
	// These belong to the machine that packs.
	h.Uname, h.Gname, h.AccessTime, h.ChangeTime = "", "", time.Time{}, time.Time{}
	h.Format = tar.FormatPAX
	return h, nil
}

func writeFile(w io.Writer, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}
