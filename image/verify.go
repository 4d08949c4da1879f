package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/nomad-driver-jail/nomad-driver-jail/image/skein"
	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// Verify reads an image at its registry whole, and judges it as a pull into a store of that format would, "zfs", "tar" or "" for
// either. It needs no store. Of images below it, it reads the manifests only.
func Verify(ctx context.Context, ref Reference, format string, options Options, progress func(Progress)) (Manifest, error) {
	m, err := verifyImage(ctx, ref, New(judge{format: format}, options), progress)
	if err != nil {
		return m, fmt.Errorf("image %s: %w", ref.short(), err)
	}
	return m, nil
}

func verifyImage(ctx context.Context, ref Reference, s *Store, progress func(Progress)) (m Manifest, err error) {
	if ref.Base == "" {
		return m, errors.New("it is at no registry; write the registry's URL before the name")
	}
	err = s.atRegistries(ctx, ref, func(c *client, base string, patience *patience) error {
		m, err = s.verifyAt(ctx, c, base, ref, patience, progress)
		return err
	})
	return m, err
}

func (s *Store) verifyAt(ctx context.Context, c *client, base string, ref Reference, patience *patience, progress func(Progress)) (Manifest, error) {
	nothing := func(context.Context, Reference) (Image, error) { return Image{}, errNotHere }
	links, _, err := s.chain(ctx, c, base, ref, nothing)
	if err != nil {
		return Manifest{}, err
	}
	l := links[0]
	if l.pot != nil && l.manifest.Parent != "" && ref.Digest != "" {
		return Manifest{}, errors.New("it is a pot that stands on another, and only a pull tells the digest of such a one; verify it without the digest")
	}
	reading := New(judge{format: l.manifest.Format}, s.options)
	err = reading.receive(ctx, l, l.manifest.Parent, patience, func(bytes, size int64) {
		if progress != nil {
			progress(Progress{Bytes: bytes, Total: max(size, bytes)})
		}
	})
	return l.manifest, err
}

// judge is a store that keeps nothing of what it receives. Of a storage.Backend it has what a pull asks up to there.
type judge struct {
	storage.Backend
	format string
}

func (j judge) Format() string { return j.format }

func (j judge) Receive(_ context.Context, _, base string, stream io.Reader) error {
	return storage.Judge(j.format, base != "", stream)
}

func (j judge) Discard(context.Context, string) error { return nil }

// source is the link's stream at the registry, hashed as it is read.
func (s *Store) source(ctx context.Context, l *link, patience *patience, report func(bytes, size int64)) *source {
	src := &source{
		ctx: ctx, client: l.client, url: l.base + "/" + l.fileName(), size: l.manifest.Size, limit: s.options.Limits.Stream, before: l.before,
		hash: sha256.New(), patience: patience, stall: s.options.Limits.Stall, report: report,
	}
	if l.pot != nil {
		src.size, l.pot.hash = -1, skein.New()
		src.also = l.pot.hash
	}
	return src
}
