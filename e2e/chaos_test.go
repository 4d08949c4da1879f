package e2e

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/cluster"
)

var (
	faulty = flag.String("faulty", os.Getenv("FAULTY"), "path of a plugin built with -tags faults, for the tests of what a crash leaves")
	rounds = flag.Int("rounds", 3, "rounds of TestSoak")
	seed   = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of TestSoak's random numbers")
)

// faultFile is where a plugin built with -tags faults reads at which step it is to be killed.
func faultFile() string { return filepath.Join(os.TempDir(), "fault") }

// steps are those that the driver takes at start and at stop, in order.
var steps = []string{
	"start:state", "start:image", "start:clone", "start:copy", "start:mount", "start:resolve", "start:jail", "start:network", "start:limits",
	"start:launch", "start:health",
	"stop:processes", "stop:health", "stop:network", "stop:jail", "stop:limits", "stop:storage", "stop:state",
}

// TestCrashAtEachStep kills the plugin right after each step of a task's start and of its removal. The task must run all the same, and the
// host must be as before when it has gone.
func TestCrashAtEachStep(t *testing.T) {
	if *faulty == "" {
		t.Skip("needs -faulty, a plugin built with -tags faults; make e2e has one")
	}
	must(t, here.ReplacePlugin(*faulty))
	defer func() { must(t, here.ReplacePlugin(here.Bin.Plugin)) }()
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			must(t, os.WriteFile(faultFile(), []byte(step), 0o600))
			job := persistent(t, "/bin/sleep", "0.5")
			alloc := ended(t, job)
			if _, err := os.Stat(faultFile()); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("the plugin was not killed: it has no step %s", step)
			}
			if alloc.ClientStatus != nomad.AllocClientStatusComplete {
				t.Errorf("the task did not run: %s", cluster.Describe(alloc.ClientStatus, alloc.TaskStates))
			}
			stop(t, job)
			nothingHeld(t)
		})
	}
}

// persistent is a job of one task that is tried again and again.
func persistent(t *testing.T, command ...string) *cluster.Job {
	t.Helper()
	task := newTask("t", "jail", map[string]any{"image": "REGISTRY/web:1.0", "command": command[0], "args": command[1:]})
	attempts, cpu, memory := 10, 20, 20
	delay, interval := 100*time.Millisecond, 5*time.Minute
	task.Resources = &nomad.Resources{CPU: &cpu, MemoryMB: &memory}
	task.Config = fill(task.Config).(map[string]any)
	group := nomad.NewTaskGroup("g", 1).AddTask(task)
	group.RestartPolicy = &nomad.RestartPolicy{Attempts: &attempts, Delay: &delay, Interval: &interval}
	id := fmt.Sprintf("persistent-%d", rand.Uint32())
	job, err := here.Register(nomad.NewBatchJob(id, id, "global", 50).AddTaskGroup(group))
	must(t, err)
	return job
}

// nothingHeld waits until no task holds anything on the host.
func nothingHeld(t *testing.T) {
	t.Helper()
	ctx := timely(t)
	for {
		list, err := here.Holdings()
		if err == nil && len(list) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("left behind: %+v, %v", list, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// TestSoak starts and stops tasks in random order while the plugin is killed at random moments. After each round the host is as before.
func TestSoak(t *testing.T) {
	t.Logf("-seed %d", *seed)
	random := rand.New(rand.NewPCG(*seed, 0))
	first := persistent(t, "/bin/true") // has the image here before the first look
	complete(t, first)
	stop(t, first)
	before, err := here.Audit()
	must(t, err)
	for round := range *rounds {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			var jobs []*cluster.Job
			for range 1 + random.IntN(5) {
				command := []string{"/bin/sleep", "3600"}
				if random.IntN(3) == 0 {
					command[1] = "0.3"
				}
				jobs = append(jobs, persistent(t, command...))
				pause(random)
				if random.IntN(3) == 0 {
					must(t, here.KillPlugin())
				}
			}
			random.Shuffle(len(jobs), func(i, k int) { jobs[i], jobs[k] = jobs[k], jobs[i] })
			for _, job := range jobs {
				pause(random)
				if random.IntN(3) == 0 {
					must(t, here.KillPlugin())
				}
				stop(t, job)
			}
			nothingHeld(t)
			after, err := here.Audit()
			must(t, err)
			delete(after, "process") // agents and plugin come and go
			if err := before.Left(after); err != nil {
				t.Error(err)
			}
		})
	}
}

func pause(random *rand.Rand) { time.Sleep(time.Duration(random.IntN(500)) * time.Millisecond) }
