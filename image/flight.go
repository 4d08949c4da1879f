package image

import (
	"context"
	"sync"
	"time"
)

// Progress is how far a pull is, in bytes as they come from the registry.
type Progress struct{ Bytes, Total int64 }

// flights lets callers that want the same share one pull. It goes on while one of them waits.
type flights struct {
	mu      sync.Mutex
	current map[string]*flight
}

type flight struct {
	waiting  int
	cancel   context.CancelFunc
	done     chan struct{}
	mu       sync.Mutex
	progress Progress
	image    Image
	err      error
}

const reportInterval = 200 * time.Millisecond

// do runs pull, or waits for the one of that key. progress is called from the caller's goroutine.
func (fs *flights) do(ctx context.Context, key string, progress func(Progress), pull func(context.Context, func(Progress)) (Image, error)) (Image, error) {
	f := fs.board(ctx, key, pull)
	defer fs.leave(key, f)
	tick := time.NewTicker(reportInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return Image{}, context.Cause(ctx)
		case <-f.done:
			f.tell(progress)
			return f.image, f.err
		case <-tick.C:
			f.tell(progress)
		}
	}
}

func (fs *flights) board(ctx context.Context, key string, pull func(context.Context, func(Progress)) (Image, error)) *flight {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f, ok := fs.current[key]; ok {
		f.waiting++
		return f
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &flight{waiting: 1, cancel: cancel, done: make(chan struct{})}
	if fs.current == nil {
		fs.current = map[string]*flight{}
	}
	fs.current[key] = f
	go func() {
		f.image, f.err = pull(ctx, f.set)
		fs.mu.Lock()
		if fs.current[key] == f {
			delete(fs.current, key)
		}
		fs.mu.Unlock()
		close(f.done)
	}()
	return f
}

// leave ends the pull when nobody waits for it any more. A later caller starts another.
func (fs *flights) leave(key string, f *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.waiting--; f.waiting > 0 {
		return
	}
	f.cancel()
	if fs.current[key] == f {
		delete(fs.current, key)
	}
}

func (f *flight) set(p Progress) {
	f.mu.Lock()
	f.progress = p
	f.mu.Unlock()
}

// tell says nothing before the first bytes: where there is nothing to download, nothing is reported.
func (f *flight) tell(progress func(Progress)) {
	f.mu.Lock()
	p := f.progress
	f.mu.Unlock()
	if progress != nil && p.Total > 0 {
		progress(p)
	}
}
