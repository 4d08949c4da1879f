package image

import (
	"context"
	"math/rand/v2"
	"time"
)

// patience says how often to try again: with growing pauses, until no headway was made for a while.
type patience struct {
	limit    time.Duration
	furthest int64 // bytes, over all tries
	since    time.Time
	pause    time.Duration
}

// headway is how many new bytes count as a reason to go on; a trickle is none.
const headway = 64 << 10

func newPatience(limit time.Duration) *patience {
	return &patience{limit: limit, since: time.Now(), pause: limit / 100}
}

// again waits before the next try, or says that there is none. reached is how many bytes the last try got to.
func (p *patience) again(ctx context.Context, reached int64) bool {
	if reached >= p.furthest+headway {
		p.furthest, p.since, p.pause = reached, time.Now(), p.limit/100
	}
	pause := p.pause/2 + rand.N(p.pause+1)
	if time.Since(p.since)+pause > p.limit {
		return false
	}
	p.pause = min(2*p.pause, p.limit/5)
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pause):
		return true
	}
}
