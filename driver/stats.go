package driver

import (
	"context"
	"time"

	"github.com/hashicorp/nomad/client/lib/cpustats"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-jail/nomad-driver-jail/rctl"
)

// TaskStats implements drivers.DriverPlugin: a sample at once, so that nobody waits an interval for the first, then one
// each interval until the task ends.
func (d *Driver) TaskStats(ctx context.Context, taskID string, interval time.Duration) (<-chan *drivers.TaskResourceUsage, error) {
	t, err := d.task(taskID)
	if err != nil {
		return nil, err
	}
	ch := make(chan *drivers.TaskResourceUsage)
	go func() {
		defer close(ch)
		s := newSampler(d.compute)
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			usage, err := rctl.Read(t.name)
			if err != nil {
				d.logger.Debug("no usage sample", "task", t.name, "error", err)
			} else {
				select {
				case ch <- s.sample(usage, time.Now()):
				case <-ctx.Done():
					return
				case <-t.ended:
					return
				}
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			case <-t.ended:
				return
			}
		}
	}()
	return ch, nil
}

// sampler turns usage counters into what Nomad shows; the percentages are of one core, since the sample before.
type sampler struct {
	total, user, system *cpustats.Tracker
}

func newSampler(c cpustats.Compute) *sampler {
	return &sampler{total: cpustats.New(c), user: cpustats.New(c), system: cpustats.New(c)}
}

func (s *sampler) sample(u rctl.Usage, at time.Time) *drivers.TaskResourceUsage {
	percent := s.total.Percent(float64(u.CPU))
	if !cpuTimeIsFine {
		percent = u.CPUPercent
	}
	return &drivers.TaskResourceUsage{
		Timestamp: at.UnixNano(),
		ResourceUsage: &drivers.ResourceUsage{
			MemoryStats: &drivers.MemoryStats{
				RSS:      u.RSS,
				Cache:    u.Cache,
				Swap:     u.Swap,
				Usage:    u.RSS + u.Cache,
				MaxUsage: u.Peak,
				Measured: measuredMemory,
			},
			CpuStats: &drivers.CpuStats{
				Percent:          percent,
				TotalTicks:       s.total.TicksConsumed(percent),
				UserMode:         s.user.Percent(float64(u.CPUUser)),
				SystemMode:       s.system.Percent(float64(u.CPUSystem)),
				ThrottledPeriods: u.ThrottledPeriods,
				ThrottledTime:    uint64(u.ThrottledTime),
				Measured:         measuredCPU,
			},
		},
	}
}
