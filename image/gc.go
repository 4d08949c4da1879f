package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// GCOptions say which images may go.
type GCOptions struct {
	// Delay is how long an image stays after its last use. A task uses it until it is removed.
	Delay time.Duration
	// MaxSize is how much all images may hold, in bytes; 0 for as much as there is. Beyond it images go before their delay,
	// oldest use first.
	MaxSize uint64
	// DryRun removes nothing.
	DryRun bool
}

// grace is between a task's Ensure and its clone.
const grace = 5 * time.Minute

// GC removes images that nothing stands on, as the options say, and returns them. An image that was built here and has a name
// stays: no registry could bring it back.
func (s *Store) GC(ctx context.Context, opt GCOptions) ([]Image, error) {
	if err := s.Sweep(ctx); err != nil {
		s.log.Warn("what killed pulls left is not removed", "error", err)
	}
	var removed []Image
	dealt := map[string]bool{}
	for {
		img, err := s.collect(ctx, dealt, opt)
		switch {
		case errors.Is(err, errNothingToGo):
			return removed, nil
		case errors.Is(err, storage.ErrInUse): // a task has just begun
		case errors.Is(err, storage.ErrBusy):
			s.log.Warn("an unused image is left for the next time", "image", img.name(), "error", err)
			select { // for pulls that wait for the store's lock
			case <-ctx.Done():
			case <-time.After(2 * lockPoll):
			}
		case err != nil:
			return removed, err
		default:
			removed = append(removed, img)
		}
	}
}

var errNothingToGo = errors.New("no image is to go")

// collect removes the image to go now. dealt has those that have been dealt with, and whether they are gone.
func (s *Store) collect(ctx context.Context, dealt map[string]bool, opt GCOptions) (Image, error) {
	_, unlock, err := s.lockStore(ctx)
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	all, err := s.List(ctx)
	if err != nil {
		return Image{}, err
	}
	img, ok := s.next(all, dealt, opt)
	if !ok {
		s.forget(all)
		return Image{}, errNothingToGo
	}
	if !opt.DryRun {
		if err = s.backend.RemoveImage(ctx, img.ID); err != nil {
			err = fmt.Errorf("image %s: %w", img.name(), err)
		}
	}
	dealt[img.ID] = err == nil
	return img, err
}

// next is the image to go now, none of those that have been dealt with.
func (s *Store) next(all []Image, dealt map[string]bool, opt GCOptions) (Image, bool) {
	var size uint64
	var unused []Image
	seen, built := map[string]bool{}, map[string]bool{}
	for _, img := range all {
		if img.Reference.Name != "" && img.Reference.Base == "" {
			built[img.ID] = true
		}
	}
	for _, img := range all {
		gone, left := dealt[img.ID]
		if seen[img.ID] || gone {
			continue
		}
		seen[img.ID] = true
		size += img.Used
		standing := slices.DeleteFunc(slices.Clone(img.Clones), func(c string) bool { return dealt[filepath.Base(c)] })
		if slices.ContainsFunc(img.Clones, isUse) {
			s.touch(img.ID)
		}
		switch {
		case left || built[img.ID] || len(standing) > 0:
		case img.LastUsed.IsZero():
			s.touch(img.ID) // its time begins now
		case time.Since(img.LastUsed) > grace:
			unused = append(unused, img)
		}
	}
	if len(unused) == 0 {
		return Image{}, false
	}
	oldest := slices.MinFunc(unused, func(a, b Image) int { return a.LastUsed.Compare(b.LastUsed) })
	return oldest, time.Since(oldest.LastUsed) > opt.Delay || opt.MaxSize > 0 && size > opt.MaxSize
}

// isUse tells a clone that uses an image, a task or a build at work, from an image that stands on it.
func isUse(clone string) bool { return !strings.HasPrefix(clone, "images/") }

// forget removes what is known of the use of images that are gone.
func (s *Store) forget(all []Image) {
	entries, err := os.ReadDir(filepath.Dir(s.usedPath("any")))
	if err != nil {
		return
	}
	for _, e := range entries {
		if !slices.ContainsFunc(all, func(img Image) bool { return img.ID == e.Name() }) {
			os.Remove(s.usedPath(e.Name()))
		}
	}
}
