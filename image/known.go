package image

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// known is the store's content as this process saw it last, so that neither a start from a warm store nor the end of a pull runs a
// command to look at it. It holds while no process has changed a name, which the time of the store's lock tells.
type known struct {
	mu    sync.Mutex
	at    time.Time
	kept  []storage.Image
	lines []Image // of kept
}

// look finds an image by what is known.
func (s *Store) look(ctx context.Context, is func(Image) bool) (Image, error) {
	at, err := s.lastChange(ctx)
	if err != nil {
		return Image{}, err
	}
	s.known.mu.Lock()
	defer s.known.mu.Unlock()
	if at.Equal(s.known.at) {
		i := slices.IndexFunc(s.known.lines, is)
		if i < 0 {
			return Image{}, errNotHere
		}
		img := s.known.lines[i]
		if _, err := s.backend.ImageRoot(ctx, img.ID); !errors.Is(err, storage.ErrNotFound) {
			return img, err
		} // else somebody took it away with other tools
	}
	kept, err := s.backend.Images(ctx)
	if err != nil {
		return Image{}, err
	}
	s.fill(at, kept)
	if i := slices.IndexFunc(s.known.lines, is); i >= 0 {
		return s.known.lines[i], nil
	}
	return Image{}, errNotHere
}

// fill is for a caller that holds what is known.
func (s *Store) fill(at time.Time, kept []storage.Image) {
	s.known.at, s.known.kept, s.known.lines = at, kept, s.lines(kept)
}

func (s *Store) know(at time.Time, kept []storage.Image) {
	s.known.mu.Lock()
	defer s.known.mu.Unlock()
	s.fill(at, kept)
}

// knownAt is the caller's own copy of what was known at that time, or nil.
func (s *Store) knownAt(at time.Time) []storage.Image {
	s.known.mu.Lock()
	defer s.known.mu.Unlock()
	if !at.Equal(s.known.at) {
		return nil
	}
	return slices.Clone(s.known.kept)
}

// lastChange is when a name was changed, or first asked for.
func (s *Store) lastChange(ctx context.Context) (time.Time, error) {
	info, err := os.Stat(s.storeLockPath())
	if os.IsNotExist(err) {
		var unlock func() time.Time
		if _, unlock, err = s.lockStore(ctx); err == nil {
			unlock()
			info, err = os.Stat(s.storeLockPath())
		}
	}
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// add is for an image that this process has just committed.
func (k *known) add(img storage.Image) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept = append(slices.Clip(k.kept), img)
}
