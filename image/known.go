package image

import (
	"context"
	"os"
	"slices"
	"sync"
	"time"
)

// known is the store's content as this process saw it last, so that a start from a warm store runs no command to look for its
// image. It holds while no process has changed a name, which the time of the store's lock tells.
type known struct {
	mu   sync.Mutex
	at   time.Time
	list []Image
}

// look finds an image by what is known.
func (s *Store) look(ctx context.Context, is func(Image) bool) (Image, error) {
	s.known.mu.Lock()
	defer s.known.mu.Unlock()
	at, err := s.lastChange(ctx)
	if err != nil {
		return Image{}, err
	}
	if at.Equal(s.known.at) {
		i := slices.IndexFunc(s.known.list, is)
		if i < 0 {
			return Image{}, errNotHere
		}
		if img := s.known.list[i]; isDir(img.Root) {
			return img, nil // else somebody took it away with other tools
		}
	}
	list, err := s.list(ctx)
	if err != nil {
		return Image{}, err
	}
	s.known.at, s.known.list = at, list
	if i := slices.IndexFunc(list, is); i >= 0 {
		return list[i], nil
	}
	return Image{}, errNotHere
}

func (k *known) set(at time.Time, list []Image) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.at, k.list = at, list
}

// lastChange is when a name was changed, or first asked for.
func (s *Store) lastChange(ctx context.Context) (time.Time, error) {
	info, err := os.Stat(s.storeLockPath())
	if os.IsNotExist(err) {
		var unlock func() time.Time
		if unlock, err = s.lockStore(ctx); err == nil {
			unlock()
			info, err = os.Stat(s.storeLockPath())
		}
	}
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
