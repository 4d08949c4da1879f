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

// Extract unpacks a tar archive into root, with owners and modes. Nothing in it gets out of root.
func Extract(ctx context.Context, root string, stream io.Reader) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close()
	x := extractor{ctx: ctx, root: r}
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
			return fmt.Errorf("archive: %s: %w", Clip(h.Name, 200), Clipped(explainEscape(err)))
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
	ctx  context.Context
	root *os.Root
	dirs []*tar.Header // their times and modes are for the end: a directory has to be written to until then
}

func (x *extractor) entry(h *tar.Header, content io.Reader) error {
	if isLong(h) {
		return errLongPath
	}
	name, err := inside(h.Name)
	if err != nil {
		return err
	}
	if sparse(h) {
		return errSparse
	}
	dir, base := path.Split(name)
	switch {
	case base == opaque:
		return emptyDir(x.root, path.Clean(dir))
	case strings.HasPrefix(base, whiteout):
		return removeAll(x.root, path.Join(dir, strings.TrimPrefix(base, whiteout)))
	}
	if err := x.root.MkdirAll(path.Clean("./"+dir), 0o755); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		return x.directory(name, h)
	}
	if err := removeAll(x.root, name); err != nil {
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

// maxPath is of a path in an image; a name in an archive may have a megabyte, and each of its slashes makes a folder. It leaves the store's
// own path room in pathMax, FreeBSD's PATH_MAX.
const (
	maxPath = 900
	pathMax = 1024
)

var errLongPath = fmt.Errorf("a path that is too long; %d bytes are the most: give what is in it shorter names, or nest it less deeply", maxPath)

func isLong(h *tar.Header) bool { return max(len(h.Name), len(h.Linkname)) > maxPath }

var errSparse = errors.New("a sparse file; pack it as a plain one, with bsdtar --no-read-sparse or tar without --sparse")

// sparse tells of a file whose size on the disk no byte of the archive has to stand for.
func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
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
	if _, err := io.Copy(untilDone{x.ctx, f}, content); err != nil {
		f.Close()
		return err
	}
	return f.Close()
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

// archive packs all below root, the same bytes for the same files. With a base, it packs what differs from that, and what it lacks as whiteouts.
func archive(w io.Writer, root, base string) error {
	p := packer{out: tar.NewWriter(w), root: root, base: base, first: map[link]string{}}
	if err := filepath.WalkDir(root, p.add); err != nil {
		return err
	}
	return p.out.Close()
}

type packer struct {
	out        *tar.Writer
	root, base string
	first      map[link]string // names of files that have several
}

func (p *packer) add(file string, entry fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	name, err := filepath.Rel(p.root, file)
	if err != nil {
		return err
	}
	info, err := entry.Info()
	if err != nil {
		return err
	}
	if info.IsDir() {
		if err := p.addWhiteouts(name); err != nil {
			return err
		}
	}
	stat := info.Sys().(*syscall.Stat_t)
	key := link{device(info), uint64(stat.Ino)}
	to, isLink := p.first[key]
	if !isLink && info.Mode().IsRegular() && stat.Nlink > 1 {
		p.first[key] = name
	}
	same, err := p.isSame(name, info)
	if err != nil || same {
		return err
	}
	h, err := header(file, name, info)
	if err != nil {
		return err
	}
	if isLink {
		h.Typeflag, h.Linkname, h.Size = tar.TypeLink, to, 0
	}
	if err := p.out.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg {
		return err
	}
	return writeFile(p.out, file)
}

// addWhiteouts packs what base has in a directory, and root has not.
func (p *packer) addWhiteouts(dir string) error {
	if p.base == "" {
		return nil
	}
	entries, err := os.ReadDir(filepath.Join(p.base, dir))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		_, err := os.Lstat(filepath.Join(p.root, dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			err = p.out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Join(dir, whiteout+e.Name()), Format: tar.FormatPAX})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// isSame compares what a file's owner can't help changing with the file.
func (p *packer) isSame(name string, info fs.FileInfo) (bool, error) {
	if p.base == "" {
		return false, nil
	}
	old, err := os.Lstat(filepath.Join(p.base, name))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	a, b := info.Sys().(*syscall.Stat_t), old.Sys().(*syscall.Stat_t)
	same := info.Mode() == old.Mode() && a.Uid == b.Uid && a.Gid == b.Gid && info.ModTime().Equal(old.ModTime())
	switch {
	case !same || info.IsDir():
		return same, nil
	case info.Mode().Type() == fs.ModeSymlink:
		to, err := os.Readlink(filepath.Join(p.root, name))
		was, err2 := os.Readlink(filepath.Join(p.base, name))
		return to == was, errors.Join(err, err2)
	}
	return info.Size() == old.Size() && a.Nlink == b.Nlink, nil
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
