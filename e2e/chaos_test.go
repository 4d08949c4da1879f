package e2e

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/audit"
	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/cluster"
	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/site"
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

// nothingHeld waits until no task holds anything on the host, beside those given.
func nothingHeld(t *testing.T, beside ...*nomad.Allocation) {
	t.Helper()
	ctx := timely(t)
	for {
		list, err := here.Holdings()
		list = slices.DeleteFunc(list, func(h site.Holding) bool {
			return slices.ContainsFunc(beside, func(a *nomad.Allocation) bool { return a.ID == h.State.AllocID })
		})
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

// nomadsPatience is how long a client tells a dead plugin to stop a task, when it was told to stop it after it had recovered it and before it
// watched it, and the plugin was killed just then: five times, with 5 s, 20 s, 80 s, and twice 120 s in between.
const nomadsPatience = 345 * time.Second

// TestSoak starts and stops tasks in random order while plugin and client are killed at random moments. After each round the host is as
// before, and a task that runs all the time has not noticed.
func TestSoak(t *testing.T) {
	t.Logf("-seed %d", *seed)
	random := rand.New(rand.NewPCG(*seed, 0))
	t.Cleanup(func() { forgotten(t) }) // after the witness
	witness := running(t, runExample(t, "web"))
	began := holding(t, witness)
	first := persistent(t, "/bin/sleep", "0") // every path was taken once before the first look
	complete(t, first)
	stop(t, first)
	nothingHeld(t, witness)
	before, err := look(began.Status.ShimPID)
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
				havoc(t, random, witness)
			}
			random.Shuffle(len(jobs), func(i, k int) { jobs[i], jobs[k] = jobs[k], jobs[i] })
			for _, job := range jobs {
				havoc(t, random, witness)
				stopWithin(t, job, nomadsPatience+patience*time.Minute)
			}
			nothingHeld(t, witness)
			sameAs(t, before, began.Status.ShimPID)
			if now := holding(t, witness); now.Status.PID != began.Status.PID || !now.Running {
				t.Errorf("the task that was to be left alone: before %+v, now %+v", began, now)
			}
		})
	}
}

// havoc waits a moment and then, sometimes, kills plugin, client or both. After a plugin's death Nomad tries once to recover a task, and
// starts it anew when the next plugin dies in the midst of that; so it waits until the witness is known again.
func havoc(t *testing.T, random *rand.Rand, witness *nomad.Allocation) {
	t.Helper()
	eventually(t, witness, "server", "true")
	pause(random)
	dice := random.IntN(12)
	if dice < 2 {
		must(t, here.KillClient())
	}
	if dice >= 1 && dice < 5 {
		must(t, here.KillPlugin())
	}
	if dice < 2 {
		pause(random)
		must(t, here.StartClient(timely(t)))
	}
}

func pause(random *rand.Rand) { time.Sleep(time.Duration(random.IntN(500)) * time.Millisecond) }

// look takes in the host and what the processes that live for long have open. It fails while one of them goes.
func look(shim int) (audit.State, error) {
	state, err := here.Audit()
	delete(state, "process") // agents and plugin come and go
	state["mount"] = slices.DeleteFunc(state["mount"], ofAlloc)
	plugins, e := here.PluginPIDs()
	err = errors.Join(err, e)
	for _, pid := range plugins {
		files, e := audit.OpenFiles(pid)
		err = errors.Join(err, e)
		state["plugin"] = append(state["plugin"], "process")
		state["open file of the plugin"] = append(state["open file of the plugin"], files...)
	}
	files, e := audit.OpenFiles(shim)
	state["open file of a shim"] = files
	return state, errors.Join(err, e)
}

// ofAlloc tells Nomad's own mounts in the folders of allocs. A client that is killed before it writes an alloc down forgets them.
func ofAlloc(mount string) bool {
	return strings.Contains(mount, "/client/alloc/") && strings.Contains(mount, "(tmpfs ")
}

// forgotten takes away what killed clients have forgotten, so that their folders can go.
func forgotten(t *testing.T) {
	state, err := here.Audit()
	must(t, err)
	for _, mount := range slices.DeleteFunc(state["mount"], func(m string) bool { return !ofAlloc(m) }) {
		at, _, _ := strings.Cut(mount, " (")
		_ = exec.Command("umount", at).Run() // Nomad may be at it
	}
}

// sameAs waits until a look finds nothing more than before: connections that are not used any more close by and by.
func sameAs(t *testing.T, before audit.State, shim int) {
	t.Helper()
	for end := time.Now().Add(patience * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		now, err := look(shim)
		if err == nil {
			err = before.Left(now)
		}
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Error(err)
			return
		}
	}
}
