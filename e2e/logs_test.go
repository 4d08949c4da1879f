package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"
)

// counter writes numbered lines to stdout and stderr until it is told to end.
const counter = `
n=0
until [ -e /local/end ]; do
	n=$((n+1)); echo "line $n"; echo "line $n" >&2
	sleep 0.01
done
echo "last $n"; echo "last $n" >&2
exit 5`

// TestLogsGoOn kills agent and plugin, as hard as it goes, while a task writes: no line is lost and none comes twice.
func TestLogsGoOn(t *testing.T) {
	for _, kill := range []struct {
		name           string
		client, plugin bool
		away           time.Duration
	}{
		{"plugin", false, true, 0},
		{"client", true, false, 0},
		{"client and plugin", true, true, 0},
		{"client and plugin for long", true, true, 5 * time.Second},
	} {
		t.Run(kill.name, func(t *testing.T) {
			job := oneOff(t, newTask("counter", "jail", map[string]any{
				"image": "REGISTRY/web:1.0", "command": "/bin/sh", "args": []string{"-c", counter}}))
			alloc := running(t, job)
			waitLog(t, alloc, "counter", "stdout", "line 20\n")
			if kill.client {
				must(t, here.KillClient())
			}
			if kill.plugin {
				must(t, here.KillPlugin())
			}
			time.Sleep(kill.away)
			if kill.client {
				must(t, here.StartClient(timely(t)))
			}
			time.Sleep(time.Second)
			eventually(t, alloc, "counter", ": > /local/end")
			if event := exitCode(t, ended(t, job), "counter"); event.ExitCode != 5 {
				t.Errorf("exit code %d, want 5: %s", event.ExitCode, event.DisplayMessage)
			}
			for _, stream := range []string{"stdout", "stderr"} {
				counted(t, waitLog(t, alloc, "counter", stream, "last "))
			}
		})
	}
}

// TestLastLines has a task end while no client is there.
func TestLastLines(t *testing.T) {
	job := oneOff(t, newTask("counter", "jail", map[string]any{"image": "REGISTRY/web:1.0", "command": "/bin/sh", "args": []string{"-c",
		"(sleep 3; : > /local/end) & " + counter}}))
	alloc := running(t, job)
	must(t, here.KillClient())
	must(t, here.KillPlugin())
	waitEnded(t, alloc)
	must(t, here.StartClient(timely(t)))
	if event := exitCode(t, ended(t, job), "counter"); event.ExitCode != 5 {
		t.Errorf("exit code %d, want 5: %s", event.ExitCode, event.DisplayMessage)
	}
	for _, stream := range []string{"stdout", "stderr"} {
		counted(t, waitLog(t, alloc, "counter", stream, "last "))
	}
}

// waitEnded asks the host, there being no agent, until a task does not run.
func waitEnded(t *testing.T, alloc *nomad.Allocation) {
	t.Helper()
	for ctx := timely(t); holding(t, alloc).Running; time.Sleep(50 * time.Millisecond) {
		must(t, ctx.Err())
	}
}

// counted checks that counter's lines are all there, once and in order.
func counted(t *testing.T, text string) {
	t.Helper()
	next := 1
	for line := range strings.Lines(text) {
		if line == fmt.Sprintf("last %d\n", next-1) {
			next = 0
			continue
		}
		if line != fmt.Sprintf("line %d\n", next) {
			t.Fatalf("%q where line %d should be", line, next)
		}
		next++
	}
	if next != 0 {
		t.Errorf("the log ends after line %d", next-1)
	}
}
