package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/cluster"
)

// drivers are ours and the one that it is measured against, each with a task that does nothing for long.
var drivers = []struct {
	name   string
	config func() map[string]any
}{
	{"raw_exec", func() map[string]any { return map[string]any{"command": "/bin/sleep", "args": []string{"3600"}} }},
	{"jail", func() map[string]any {
		return map[string]any{"image": here.Registry + "/web:1.0", "command": "/bin/sleep", "args": []string{"3600"}}
	}},
}

// BenchmarkStart measures from a task's setup to its start, as Nomad's own events tell it, and what stays in memory for it. The drivers take
// turns, so that what else the machine does meets both.
func BenchmarkStart(b *testing.B) {
	warm(b)
	for _, tasks := range []int{1, 20} {
		b.Run(fmt.Sprintf("tasks=%d", tasks), func(b *testing.B) {
			measured := map[string][]figures{}
			for b.Loop() {
				for _, driver := range drivers {
					measured[driver.name] = append(measured[driver.name], start(b, driver.name, driver.config(), tasks))
				}
				slices.Reverse(drivers)
			}
			b.ReportMetric(0, "ns/op")
			for name, rounds := range measured {
				b.ReportMetric(median(rounds, figures.typical), "ms-"+name)
				b.ReportMetric(median(rounds, figures.slowest), "ms-max-"+name)
				b.ReportMetric(median(rounds, figures.memory), "MiB-PSS/task-"+name)
			}
			b.ReportMetric(median(measured["jail"], figures.typical)/median(measured["raw_exec"], figures.typical), "jail/raw_exec")
		})
	}
}

// figures are what was measured of the tasks of one round.
type figures struct {
	took []time.Duration // sorted
	pss  float64         // bytes for each task
}

func (f figures) typical() float64 { return f.took[len(f.took)/2].Seconds() * 1e3 }
func (f figures) slowest() float64 { return f.took[len(f.took)-1].Seconds() * 1e3 }
func (f figures) memory() float64  { return f.pss / (1 << 20) }

// median is that of a figure over all rounds.
func median(rounds []figures, of func(figures) float64) float64 {
	var all []float64
	for _, round := range rounds {
		all = append(all, of(round))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// warm runs each driver once: the image is pulled, the programs are in the page cache.
func warm(b *testing.B) {
	for _, driver := range drivers {
		start(b, driver.name, driver.config(), 1)
	}
}

// start runs one job with that many groups of one task.
func start(b *testing.B, driver string, config map[string]any, tasks int) figures {
	b.Helper()
	id := fmt.Sprintf("bench-%s-%d", driver, tasks)
	count, cpu, memory := tasks, 20, 20
	task := newTask("t", driver, config)
	task.Resources = &nomad.Resources{CPU: &cpu, MemoryMB: &memory}
	group := nomad.NewTaskGroup("g", count).AddTask(task)
	before := stays()
	job, err := here.Register(nomad.NewServiceJob(id, id, "global", 50).AddTaskGroup(group))
	if err != nil {
		b.Fatal(err)
	}
	defer stop(b, job)
	ctx := timely(b)
	for {
		allocs, err := job.Allocs()
		if err != nil {
			b.Fatal(err)
		}
		var took []time.Duration
		for _, a := range allocs {
			if state := a.TaskStates["t"]; state != nil && state.State == "running" {
				took = append(took, since(state))
			}
		}
		if len(took) == tasks {
			time.Sleep(time.Second) // processes that only start others have gone
			slices.Sort(took)
			return figures{took: took, pss: (stays() - before) / float64(tasks)}
		}
		select {
		case <-ctx.Done():
			var states []string
			for _, a := range allocs {
				states = append(states, cluster.Describe(a.ClientStatus, a.TaskStates))
			}
			b.Fatalf("%d of %d run: %v", len(took), tasks, states)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// since is the time from a task's setup to its start.
func since(state *nomad.TaskState) time.Duration {
	var setup, started int64
	for _, e := range state.Events {
		switch e.Type {
		case nomad.TaskSetup:
			setup = e.Time
		case nomad.TaskStarted:
			started = e.Time
		}
	}
	return time.Duration(started - setup)
}
