package driver

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/nomad/helper/uuid"
	"github.com/hashicorp/nomad/plugins/drivers"
)

// BenchmarkStop is the stop of a task that exits at its signal: from StopTask until nothing of it is left on the host. The store is a
// directory, so what a ZFS takes to destroy a clone is not in it.
func BenchmarkStop(b *testing.B) {
	d := prepared(b, testConfig(b))
	var stops, destroys, both []time.Duration
	for b.Loop() {
		cfg := idleTask(b)
		if _, _, err := d.StartTask(cfg); err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		if err := d.StopTask(cfg.ID, 10*time.Second, "SIGTERM"); err != nil {
			b.Fatal(err)
		}
		stopped := time.Now()
		if err := d.DestroyTask(cfg.ID, false); err != nil {
			b.Fatal(err)
		}
		stops = append(stops, stopped.Sub(began))
		destroys = append(destroys, time.Since(stopped))
		both = append(both, time.Since(began))
	}
	if holdings, err := d.host.Holdings(b.Context()); err != nil || len(holdings) != 0 {
		b.Errorf("left: %+v, %v", holdings, err)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(stops), "ms-stop")
	b.ReportMetric(median(destroys), "ms-destroy")
	b.ReportMetric(median(both), "ms-both")
	b.ReportMetric(milliseconds(slices.Max(both)), "ms-both-max")
}

func median(all []time.Duration) float64 {
	slices.Sort(all)
	return milliseconds(all[len(all)/2])
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1e3 }

// idleTask has no logs and waits for a signal.
func idleTask(b *testing.B) *drivers.TaskConfig {
	b.Helper()
	alloc := uuid.Generate()
	cfg := &drivers.TaskConfig{ID: alloc + "/test/" + uuid.Short(), AllocID: alloc, Name: "test", AllocDir: b.TempDir()}
	dirs := cfg.TaskDir()
	for _, dir := range []string{dirs.SharedAllocDir, dirs.LocalDir, dirs.SecretsDir} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			b.Fatal(err)
		}
	}
	if err := cfg.EncodeConcreteDriverConfig(&TaskConfig{
		Image: testImage, Command: "/bin/sleep", Args: []string{"3600"}, NetworkMode: modeBridge, Securelevel: -1,
	}); err != nil {
		b.Fatal(err)
	}
	return cfg
}
