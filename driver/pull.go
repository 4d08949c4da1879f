package driver

import (
	"fmt"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-jail/nomad-driver-jail/image"
)

// pullReport turns a pull's progress into task events: few, since Nomad keeps the last ten of a task.
type pullReport struct {
	d     *Driver
	cfg   *drivers.TaskConfig
	ref   image.Reference
	began time.Time
	next  time.Time
	bytes int64
	told  struct { // of the last event
		at    time.Time
		bytes int64
	}
}

const pullEventInterval = 15 * time.Second

func newPullReport(d *Driver, cfg *drivers.TaskConfig, ref image.Reference) *pullReport {
	r := &pullReport{d: d, cfg: cfg, ref: ref, began: time.Now()}
	r.told.at = r.began
	return r
}

// progress is called as bytes arrive; not at all where the image is in the store.
func (r *pullReport) progress(p image.Progress) {
	r.bytes = p.Bytes
	now := time.Now()
	if now.Before(r.next) {
		return
	}
	progress := fmt.Sprintf("%s of %s", mib(p.Bytes), mib(p.Total))
	rate := perSecond(p.Bytes-r.told.bytes, now.Sub(r.told.at))
	r.next, r.told.at, r.told.bytes = now.Add(pullEventInterval), now, p.Bytes
	r.d.emit(r.cfg, fmt.Sprintf("Downloading image: %s, %s", progress, rate), map[string]string{
		"image": r.ref.String(), "progress": progress, "rate": rate,
	})
}

func (r *pullReport) done(img image.Image) {
	if r.next.IsZero() {
		return
	}
	took := time.Since(r.began)
	r.d.emit(r.cfg, fmt.Sprintf("Downloaded image %s: %s in %s (%s)", r.ref, mib(r.bytes), took.Round(time.Millisecond), perSecond(r.bytes, took)),
		map[string]string{"image": r.ref.String(), "digest": img.Pin()})
}

// perSecond is none where a download has begun again.
func perSecond(bytes int64, took time.Duration) string {
	return mib(int64(float64(max(bytes, 0))/max(took.Seconds(), 0.001))) + "/s"
}

func mib(n int64) string {
	if n < 10<<20 {
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d MiB", n>>20)
}
