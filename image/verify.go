package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/nomad-driver-jail/nomad-driver-jail/image/skein"
)

// Verify reads an image at its registry whole, and judges it as a pull would, without storing it. Of an image below it, it reads
// the manifest only.
func (s *Store) Verify(ctx context.Context, ref Reference, progress func(Progress)) (Manifest, error) {
	m, err := s.verify(ctx, ref, progress)
	if err != nil {
		return m, fmt.Errorf("image %s: %w", ref.short(), err)
	}
	return m, nil
}

func (s *Store) verify(ctx context.Context, ref Reference, progress func(Progress)) (Manifest, error) {
	c, err := s.client()
	if err != nil {
		return Manifest{}, err
	}
	s.warnUnverified(ref)
	links, _, err := s.chain(ctx, c, ref.Base, ref)
	if err != nil {
		return Manifest{}, err
	}
	l := links[0]
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	src := s.source(ctx, l, newPatience(s.options.Limits.Retry), func(bytes, size int64) {
		if progress != nil {
			progress(Progress{Bytes: bytes, Total: max(size, bytes)})
		}
	})
	defer src.Close()
	if _, err := io.Copy(io.Discard, src); err != nil {
		return l.manifest, err
	}
	return l.manifest, l.checkDigest(digestPrefix+hex.EncodeToString(src.hash.Sum(nil)), src.offset.Load())
}

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
