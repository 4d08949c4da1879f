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

// BenchmarkStart measures from a task's setup to its start, as Nomad's own events tell it, and what stays in memory for it.
func BenchmarkStart(b *testing.B) {
	warm(b)
	for _, tasks := range []int{1, 20} {
		measured := map[string]figures{}
		for _, driver := range drivers {
			b.Run(fmt.Sprintf("%s/tasks=%d", driver.name, tasks), func(b *testing.B) {
				var all figures
				for b.Loop() {
					all = append(all, start(b, driver.name, driver.config(), tasks)...)
				}
				measured[driver.name] = all
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(all.median(took).Seconds()*1e3, "ms-median")
				b.ReportMetric(all.max(took).Seconds()*1e3, "ms-max")
				b.ReportMetric(all.memory()/(1<<20), "MiB-PSS/task")
			})
		}
		ours, theirs := measured["jail"], measured["raw_exec"]
		if len(ours) > 0 && len(theirs) > 0 {
			b.Logf("%d at once, jail to raw_exec: start %.2f (median), memory %.2f", tasks,
				float64(ours.median(took))/float64(theirs.median(took)), ours.memory()/theirs.memory())
		}
	}
}

// figure is what was measured of one task.
type figure struct {
	took time.Duration
	pss  float64 // bytes
}

type figures []figure

func took(f figure) time.Duration { return f.took }

func (f figures) sorted(of func(figure) time.Duration) []time.Duration {
	var all []time.Duration
	for _, one := range f {
		all = append(all, of(one))
	}
	slices.Sort(all)
	return all
}

func (f figures) median(of func(figure) time.Duration) time.Duration { return f.sorted(of)[len(f)/2] }
func (f figures) max(of func(figure) time.Duration) time.Duration    { return f.sorted(of)[len(f)-1] }

func (f figures) memory() float64 {
	var sum float64
	for _, one := range f {
		sum += one.pss
	}
	return sum / float64(len(f))
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
		ready := 0
		var all figures
		for _, a := range allocs {
			if state := a.TaskStates["t"]; state != nil && state.State == "running" {
				ready++
				all = append(all, figure{took: since(state)})
			}
		}
		if ready == tasks {
			time.Sleep(time.Second) // processes that only start others have gone
			each := (stays() - before) / float64(tasks)
			for i := range all {
				all[i].pss = each
			}
			return all
		}
		select {
		case <-ctx.Done():
			var states []string
			for _, a := range allocs {
				states = append(states, cluster.Describe(a.ClientStatus, a.TaskStates))
			}
			b.Fatalf("%d of %d run: %v", ready, tasks, states)
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
