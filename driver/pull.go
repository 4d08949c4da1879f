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
}

const pullEventInterval = 15 * time.Second

func newPullReport(d *Driver, cfg *drivers.TaskConfig, ref image.Reference) *pullReport {
	return &pullReport{d: d, cfg: cfg, ref: ref, began: time.Now()}
}

// progress is called as bytes arrive; not at all where the image is in the store.
func (r *pullReport) progress(p image.Progress) {
	r.bytes = p.Bytes
	if now := time.Now(); now.After(r.next) {
		r.next = now.Add(pullEventInterval)
		r.d.emit(r.cfg, "Downloading image", map[string]string{
			"image": r.ref.String(), "progress": fmt.Sprintf("%s of %s", mib(p.Bytes), mib(p.Total)),
		})
	}
}

func (r *pullReport) done(img image.Image) {
	if r.next.IsZero() {
		return
	}
	took := time.Since(r.began)
	rate := int64(float64(r.bytes) / max(took.Seconds(), 0.001))
	r.d.emit(r.cfg, fmt.Sprintf("Downloaded image %s: %s in %s (%s/s)", r.ref, mib(r.bytes), took.Round(time.Millisecond), mib(rate)),
		map[string]string{"image": r.ref.String(), "digest": img.Manifest.Digest})
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
