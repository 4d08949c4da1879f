package image

import (
	"context"
	"math/rand/v2"
	"time"
)

// patience says how often to try again: with growing pauses, until no headway was made for a while.
type patience struct {
	limit    time.Duration
	furthest int64         // bytes, of all tries
	spent    time.Duration // of limit, since that was reached
	since    time.Time     // what is not in spent yet
	came     time.Time     // when the last bytes did
	pause    time.Duration
}

// headway is how many new bytes count as a reason to go on; a trickle is none.
const headway = 64 << 10

func newPatience(limit time.Duration) *patience {
	limit = max(limit, 0)
	return &patience{limit: limit, since: time.Now(), pause: limit / 100}
}

// again waits before the next try, or says that there is none. reached is how many bytes the last try got to. One that had to
// begin again spends nothing while bytes come, unless it ends where the others did.
func (p *patience) again(ctx context.Context, reached int64) bool {
	if reached < p.furthest-headway && p.came.After(p.since) {
		p.since = p.came
	}
	p.spent += time.Since(p.since)
	if reached >= p.furthest+headway {
		p.furthest, p.spent, p.pause = reached, 0, p.limit/100
	}
	pause := p.pause/2 + rand.N(p.pause+1)
	if p.spent += pause; p.spent > p.limit {
		return false
	}
	p.since = time.Now().Add(pause)
	p.pause = min(2*p.pause, p.limit/5)
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pause):
		return true
	}
}
