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
		next := time.NewTimer(0)
		defer next.Stop()
		for {
			select {
			case <-next.C:
			case <-ctx.Done():
				return
			case <-t.ended:
				return
			}
			next.Reset(untilSample(time.Now(), interval))
			usage, err := rctl.Read(t.name)
			if err != nil {
				d.logger.Debug("no usage sample", "task", t.name, "error", err)
				continue
			}
			select {
			case ch <- s.sample(usage, time.Now()):
			case <-ctx.Done():
				return
			case <-t.ended:
				return
			}
		}
	}()
	return ch, nil
}

// untilSample is how long to wait for the next sample: until the clock shows a multiple of the interval. So all tasks' samples come
// together, and the process wakes once for all of them instead of once for each, which is most of what a sample costs.
func untilSample(now time.Time, interval time.Duration) time.Duration {
	wait := interval - time.Duration(now.UnixNano())%interval
	if wait < interval/2 { // too short to tell a load
		wait += interval
	}
	return wait
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
