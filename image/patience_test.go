package image

import (
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestPatience has a server without ranges break off: each try begins again, at 1 MiB a second.
func TestPatience(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		name  string
		tries []int64       // MiB that come until it breaks off; the last one for ever
		want  int           // tries before giving up; 0 for never
		limit time.Duration // of all that took, without the bytes
	}{
		{"each gets further", []int64{100, 110, 120, 130, 140, 150, 160, 170, 180, 190, 200, 210, 220, 230, 240}, 0, 0},
		{"one falls behind", []int64{100, 80, 110}, 3 + 1, 0},
		{"several fall behind", []int64{100, 40, 60, 20, 110, 70, 120}, 7 + 1, 0},
		{"always at the same place", []int64{100}, 2, 10 * time.Second},
		{"always at once", []int64{0}, 0, 10 * time.Second},
		{"always before the first", []int64{100, 50}, 0, 10 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPatience(10 * time.Second)
				var flowed time.Duration
				began, tries := time.Now(), 0
				for {
					n := c.tries[min(tries, len(c.tries)-1)]
					if tries++; tries > 100 {
						t.Fatal("it never gives up")
					}
					for range n {
						time.Sleep(time.Second)
						p.came = time.Now()
					}
					flowed += time.Duration(n) * time.Second
					if !p.again(t.Context(), n*mib) {
						break
					}
				}
				switch idle := time.Since(began) - flowed; {
				case c.want > 0 && tries != c.want, c.want == 0 && tries < max(8, len(c.tries)):
					t.Errorf("%d tries, want %d", tries, c.want)
				case idle > 30*time.Second:
					t.Errorf("pauses took %v", idle)
				case c.limit > 0 && idle > c.limit:
					t.Errorf("pauses took %v, want at most %v", idle, c.limit)
				}
			})
		})
	}
}

// TestBackOff looks at when a registry that always hangs up is asked.
func TestBackOff(t *testing.T) {
	const limit = 2 * time.Second
	r := newRegistry(t, t.TempDir())
	h := newHost(t, "tar", Options{Limits: Limits{Retry: limit}})
	var mu sync.Mutex
	var asked []time.Time
	r.misbehave(func(w http.ResponseWriter, req *http.Request, good http.Handler) {
		mu.Lock()
		asked = append(asked, time.Now())
		mu.Unlock()
		hangUp(w, req, good)
	})
	if _, err := h.Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{}); err == nil {
		t.Fatal("it is accepted")
	}
	if len(asked) < 6 || len(asked) > 14 {
		t.Fatalf("%d requests in %v", len(asked), limit)
	}
	pause := func(i int) time.Duration { return asked[i+1].Sub(asked[i]) }
	for i := range 5 { // they double, each between a half and one and a half of what it would be
		if least := limit / 100 << i / 2; pause(i) < least {
			t.Errorf("pause %d is %v, want at least %v", i, pause(i), least)
		}
	}
	if pause(4) < 2*pause(0) {
		t.Errorf("the pauses grow from %v to %v only", pause(0), pause(4))
	}
	if took := asked[len(asked)-1].Sub(asked[0]); took > limit+limit/4 {
		t.Errorf("the last of %d requests is %v after the first; want at most %v", len(asked), took, limit)
	}
}

// TestSlowTries has a server without ranges break off twice, the second time before the first one's place and after longer than
// it may fail: bytes came all the while.
func TestSlowTries(t *testing.T) {
	dir, m := publish(t, "tar", "web:1", makeTree(t, 1<<20), BuildOptions{})
	r := newRegistry(t, dir)
	h := newHost(t, "tar", Options{Limits: Limits{Retry: time.Second}})
	tries := []fault{cut(".zst", int(m.Size)*8/10, always), cut(".zst", int(m.Size)*6/10, always), cut(".zst", 0, 0)}
	r.misbehave(onlyFiles(".zst", func(w http.ResponseWriter, req *http.Request, good http.Handler) {
		if req.Header.Get("Range") == "" && len(tries) > 1 {
			defer func() { tries = tries[1:] }()
		}
		withoutRanges(tries[0])(w, req, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Content-Length", strconv.FormatInt(m.Size, 10))
			slowly(w, read(t, dir+"/web_1.tar.zst"))
		}))
	}))
	if _, err := h.Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{}); err != nil {
		t.Error(err)
	}
	if len(tries) > 1 {
		t.Errorf("it did not break off")
	}
}

// slowly takes 60 ms for each 16 KiB.
func slowly(w http.ResponseWriter, data []byte) {
	for chunk := range slices.Chunk(data, 16<<10) {
		time.Sleep(60 * time.Millisecond)
		w.Write(chunk)
	}
}

func TestNoPatience(t *testing.T) {
	for _, limit := range []time.Duration{0, -time.Second} {
		if newPatience(limit).again(t.Context(), 0) {
			t.Errorf("%v: it tries again", limit)
		}
	}
}
