package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/cluster"
)

// many is how many tasks BenchmarkScale runs at once on this host.
const many = 200

// BenchmarkScale measures what idle tasks cost their host in memory and, at Nomad's interval for statistics, in CPU; and how long a new
// plugin takes to find them all again.
func BenchmarkScale(b *testing.B) {
	warm(b)
	plugin := pssOf(pluginPIDs(b))
	keepers := stays()
	job := idle(b, many)
	defer stopAll(b, job)
	running := allRunning(b, job, many)
	time.Sleep(10 * time.Second) // Consul knows them, and what only starts others has gone
	b.Run("memory", func(b *testing.B) {
		for b.Loop() {
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric((stays()-keepers)/many/(1<<20), "MiB-PSS/task")
		b.ReportMetric((pssOf(pluginPIDs(b))-plugin)/many/(1<<20), "MiB-plugin/task")
	})
	b.Run("cpu", func(b *testing.B) {
		var plugin, shims float64
		for b.Loop() {
			p, s := loads(b, 10*time.Second)
			plugin, shims = plugin+p, shims+s
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(plugin/float64(b.N), "%-plugin")
		b.ReportMetric(shims/float64(b.N), "%-shims")
	})
	b.Run("recover", func(b *testing.B) {
		var whole, own time.Duration
		for b.Loop() {
			w, o := recovery(b)
			whole, own = whole+w, own+o
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(own.Milliseconds())/float64(b.N), "ms-from-start")
		b.ReportMetric(float64(whole.Milliseconds())/float64(b.N), "ms-from-kill")
	})
	for _, a := range allRunning(b, job, many) {
		if running[a.ID] == nil || a.TaskStates["t"].Restarts != 0 {
			b.Errorf("alloc %s was not left alone: %s", a.ID, cluster.Describe(a.ClientStatus, a.TaskStates))
		}
	}
}

// idle runs one job with that many groups of one task that does nothing.
func idle(b *testing.B, tasks int) *cluster.Job {
	b.Helper()
	cpu, memory, disk, files, size := 10, 20, 20, 1, 1
	task := newTask("t", "jail", map[string]any{"image": here.Registry + "/web:1.0", "command": "/bin/sleep", "args": []string{"36000"}})
	task.Resources = &nomad.Resources{CPU: &cpu, MemoryMB: &memory}
	task.LogConfig = &nomad.LogConfig{MaxFiles: &files, MaxFileSizeMB: &size}
	group := nomad.NewTaskGroup("g", tasks).AddTask(task)
	group.EphemeralDisk = &nomad.EphemeralDisk{SizeMB: &disk}
	job, err := here.Register(nomad.NewServiceJob("bench-scale", "bench-scale", "global", 50).AddTaskGroup(group))
	if err != nil {
		b.Fatal(err)
	}
	return job
}

// stopAll has the patience that so many tasks take.
func stopAll(b *testing.B, job *cluster.Job) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience*10*time.Minute)
	defer cancel()
	if err := job.Stop(ctx); err != nil {
		b.Error(err)
	}
}

// allRunning waits until that many allocs run, and returns them by their ID.
func allRunning(b *testing.B, job *cluster.Job, tasks int) map[string]*nomad.AllocationListStub {
	b.Helper()
	for end := time.Now().Add(patience * 10 * time.Minute); ; time.Sleep(time.Second) {
		allocs, err := job.Allocs()
		if err != nil {
			b.Fatal(err)
		}
		running := map[string]*nomad.AllocationListStub{}
		for _, a := range allocs {
			if a.ClientStatus == nomad.AllocClientStatusRunning {
				running[a.ID] = a
			}
		}
		if len(running) == tasks {
			return running
		}
		if time.Now().After(end) {
			b.Fatalf("%d of %d run", len(running), tasks)
		}
	}
}

func pluginPIDs(b *testing.B) []int {
	b.Helper()
	pids, err := here.PluginPIDs()
	if err != nil {
		b.Fatal(err)
	}
	return pids
}

// loads are what the plugin and all shims used during a window, in percent of one core.
func loads(b *testing.B, window time.Duration) (plugin, shims float64) {
	b.Helper()
	pids := [2][]int{pluginPIDs(b), shimPIDs(b)}
	percent := [2]float64{}
	before := [2]time.Duration{cpuOf(pids[0]), cpuOf(pids[1])}
	began := time.Now()
	time.Sleep(window)
	took := time.Since(began)
	for i := range pids {
		percent[i] = 100 * float64(cpuOf(pids[i])-before[i]) / float64(took)
	}
	return percent[0], percent[1]
}

func shimPIDs(b *testing.B) []int {
	b.Helper()
	list, err := here.Holdings()
	if err != nil {
		b.Fatal(err)
	}
	var pids []int
	for _, h := range list {
		pids = append(pids, h.Status.ShimPID)
	}
	return pids
}

// recovery kills the plugin and returns how long it takes until its successor has found the last task, from the kill and from the
// successor's own start. Between the two is Nomad, which takes its time.
func recovery(b *testing.B) (fromKill, fromStart time.Duration) {
	b.Helper()
	log := newLog(b)
	killed := time.Now()
	if err := here.KillPlugin(); err != nil {
		b.Fatal(err)
	}
	for len(pluginPIDs(b)) == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	started := time.Now()
	var last time.Time
	found := map[string]bool{}
	for end := started.Add(patience * time.Minute); len(found) < many; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("%d of %d tasks are found again", len(found), many)
		}
		for _, line := range log.lines() {
			if name, ok := between(line, "recovered: ", " task=", " "); ok {
				found[name] = true
				last = stamp(b, line)
			}
		}
	}
	return last.Sub(killed), last.Sub(started)
}

// agentLog is what Nomad's client logs from now on.
type agentLog struct{ reader *bufio.Reader }

func newLog(b *testing.B) agentLog {
	b.Helper()
	f, err := os.Open(filepath.Join(here.Cluster.Dir, "client.log"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	if _, err := f.Seek(0, 2); err != nil {
		b.Fatal(err)
	}
	return agentLog{bufio.NewReader(f)}
}

// lines are those that have come since the last call.
func (l agentLog) lines() []string {
	var all []string
	for {
		line, err := l.reader.ReadString('\n')
		if err != nil {
			return all
		}
		all = append(all, line)
	}
}

// between returns what is between two words in a line that has another.
func between(line, has, from, to string) (string, bool) {
	if !strings.Contains(line, has) {
		return "", false
	}
	_, rest, ok := strings.Cut(line, from)
	word, _, _ := strings.Cut(rest, to)
	return word, ok
}

// stamp is the time that a line of Nomad's log begins with.
func stamp(b *testing.B, line string) time.Time {
	b.Helper()
	word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
	t, err := time.Parse("2006-01-02T15:04:05.000Z0700", word)
	if err != nil {
		b.Fatal(fmt.Errorf("a line of the log has no time: %w", err))
	}
	return t
}
