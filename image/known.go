package image

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// known are images that this process has found before, so that a start from a warm store runs no command to look for its
// image. It holds while no process has changed a name, which the time of the store's lock tells.
type known struct {
	looking sync.Mutex // one looks for all
	mu      sync.Mutex
	at      time.Time
	images  map[string]Image
}

func (s *Store) findKnown(ctx context.Context, ref Reference) (Image, error) {
	if img, ok := s.known.get(ref.String(), s.lastChange()); ok && isDir(img.Root) {
		return img, nil
	}
	s.known.looking.Lock()
	defer s.known.looking.Unlock()
	at := s.lastChange()
	if img, ok := s.known.get(ref.String(), at); ok && isDir(img.Root) {
		return img, nil
	}
	img, err := s.find(ctx, ref)
	if err == nil {
		s.known.put(ref.String(), img, at)
	}
	return img, err
}

// lastChange is zero where nothing was ever changed here: then nothing is known either.
func (s *Store) lastChange() time.Time {
	info, err := os.Stat(filepath.Join(s.options.LockDir, storeLock))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

func (k *known) get(key string, at time.Time) (Image, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if at.IsZero() || !at.Equal(k.at) {
		return Image{}, false
	}
	img, ok := k.images[key]
	return img, ok
}

func (k *known) put(key string, img Image, at time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !at.Equal(k.at) || k.images == nil {
		k.at, k.images = at, map[string]Image{}
	}
	k.images[key] = img
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
