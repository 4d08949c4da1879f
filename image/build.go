package image

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// BuildOptions say what a built image's manifest says.
type BuildOptions struct {
	OS, Arch  string // "" for this host's
	OSRelease string
	Defaults  Defaults
}

// Build makes an image from a folder, or from a tar archive (plain, or compressed with gzip, xz or zstd), whose owners and
// modes it keeps. What was built before from the same files is not built again.
func (s *Store) Build(ctx context.Context, ref Reference, source string, opt BuildOptions) (Image, error) {
	img, err := s.build(ctx, ref, source, opt)
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", ref.short(), err)
	}
	return img, nil
}

func (s *Store) build(ctx context.Context, ref Reference, source string, opt BuildOptions) (Image, error) {
	m, err := s.newManifest(ref, opt)
	if err != nil {
		return Image{}, err
	}
	id, fill, err := s.contentOf(ctx, source)
	if err != nil {
		return Image{}, err
	}
	if err := s.step(ctx, id, "", fill); err != nil {
		return Image{}, err
	}
	if err := s.setName(ctx, id, record{Reference: ref.unpinned(), Manifest: m}); err != nil {
		return Image{}, err
	}
	return s.find(ctx, ref)
}

// newManifest is of an image that has no stream yet.
func (s *Store) newManifest(ref Reference, opt BuildOptions) (Manifest, error) {
	m := Manifest{
		Name: ref.Name, Tag: ref.Tag, OS: opt.OS, Arch: opt.Arch, OSRelease: opt.OSRelease,
		Created: time.Now().UTC().Truncate(time.Second), Format: s.backend.Format(), Defaults: opt.Defaults,
	}
	if m.OS == "" {
		m.OS = s.options.OS
	}
	if m.Arch == "" {
		m.Arch = s.options.Arch
	}
	if ref.Base != "" || ref.Digest != "" {
		return m, errors.New("an image is built as NAME:TAG; its URL and digest come with its export")
	}
	return m, errors.Join(ref.validate(), oneOf("os", m.OS, systems), oneOf("arch", m.Arch, architectures), m.Defaults.validate())
}

// fill puts an image's files into its root.
type fill func(ctx context.Context, root string) error

// contentOf looks at a source: what identifies it, and how to bring it into an image.
func (s *Store) contentOf(ctx context.Context, source string) (id string, f fill, err error) {
	info, err := os.Stat(source)
	if err != nil {
		return "", nil, err
	}
	h := hashOf("build")
	if info.IsDir() {
		root, err := os.OpenRoot(source)
		if err != nil {
			return "", nil, err
		}
		defer root.Close()
		if err := hashTree(h, root, "."); err != nil {
			return "", nil, err
		}
		return hex.EncodeToString(h.Sum(nil)), func(_ context.Context, dst string) error { return copyTree(source, dst) }, nil
	}
	archive, err := openArchive(ctx, source)
	if err != nil {
		return "", nil, err
	}
	defer archive.Close()
	if err := archive.hash(h); err != nil {
		return "", nil, err
	}
	return hex.EncodeToString(h.Sum(nil)), func(ctx context.Context, dst string) error { return extract(ctx, source, dst) }, nil
}

func copyTree(source, dst string) error {
	from, err := os.OpenRoot(source)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenRoot(dst)
	if err != nil {
		return err
	}
	defer to.Close()
	return storage.Copy(from, ".", to, ".")
}

// step makes the image of that ID, from the image base and what fill adds, unless there is one.
func (s *Store) step(ctx context.Context, id, base string, fill fill) error {
	if _, err := s.kept(ctx, id); !errors.Is(err, errNotHere) {
		return err
	}
	tmp := "build-" + rand.Text()
	lock, err := takeLock(ctx, s.options.LockDir, tmp, nil)
	if err != nil {
		return err
	}
	defer os.Remove(lock.file.Name()) // nobody else knows the name
	defer lock.release()
	root, err := s.backend.Create(ctx, tmp, base)
	if err != nil {
		return err
	}
	err = fill(ctx, root)
	if err == nil {
		err = s.backend.Commit(ctx, tmp, id, nil)
	}
	if err != nil {
		s.discard(tmp)
	}
	if errors.Is(err, storage.ErrExists) {
		return nil
	}
	return err
}
