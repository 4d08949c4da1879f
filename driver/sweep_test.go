package driver

import (
	"slices"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// TestHoldingsDuringStarts looks at the host while tasks start: a sweep must take none of them for what has no owner.
func TestHoldingsDuringStarts(t *testing.T) {
	h, d := harness(t)
	var tasks []*drivers.TaskConfig
	for range 20 {
		cfg := newTaskConfig(t, h, "sleep 100")
		t.Cleanup(func() { d.DestroyTask(cfg.ID, true) })
		tasks = append(tasks, cfg)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, cfg := range tasks {
			if _, _, err := d.StartTask(cfg); err != nil {
				t.Error(err)
			}
		}
	}()
	looks, seen := 0, 0
	for running := true; running; looks++ {
		select {
		case <-done:
			running = false
		default:
		}
		holdings, err := d.host.Holdings(t.Context())
		if err != nil {
			t.Error(err)
		}
		for _, x := range holdings {
			seen++
			if !slices.Contains(x.Parts, "state") {
				t.Errorf("%s has %v", x.Name, x.Parts)
			}
		}
	}
	if seen == 0 {
		t.Errorf("%d looks at the host saw no task", looks)
	}
}
