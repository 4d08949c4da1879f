// Package e2e runs the example jobs, and mistakes in them, with real agents, real ZFS and real jails. `go test -c` makes one binary of it that
// needs root, a pool (flag -pool or POOL, else a throw-away one) and the agents' and the plugin's binaries (see -help).
package e2e

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/cluster"
	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/isolate"
	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/site"
	"github.com/nomad-driver-jail/nomad-driver-jail/examples"
)

// here is the site that all tests share: their jobs do not meet.
var here *site.Site

func TestMain(m *testing.M) {
	isolate.Enter(isolate.Options{Network: isolate.Apart})
	var options site.Options
	options.Bin.Flags(flag.CommandLine)
	flag.StringVar(&options.Pool, "pool", os.Getenv("POOL"), "ZFS pool or dataset to work below; none makes a throw-away pool")
	flag.StringVar(&options.LogLevel, "agent-log-level", "info", "log level of the agents")
	keep := flag.String("keep-logs", os.Getenv("KEEP_LOGS"), "folder to copy the agents' logs to")
	flag.Parse()
	options.Serve = registry.wrap
	options.Split = true
	options.More = fmt.Sprintf("cleanup_delay = %q", patience*3*time.Second) // a client must recover its tasks within it
	os.Setenv("NOMAD_DRIVER_JAIL_FAULT", "@"+faultFile())
	os.Exit(run(m, options, *keep))
}

func run(m *testing.M, options site.Options, keep string) int {
	before, err := options.Audit()
	if err != nil {
		return complain(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience*5*time.Minute)
	defer cancel()
	if here, err = site.Open(ctx, options); err != nil {
		return complain(err)
	}
	code := m.Run()
	if keep != "" {
		if err := here.KeepLogs(keep); err != nil {
			complain(err)
		}
	}
	if err := here.Close(); err != nil {
		code = complain(err)
	}
	if err := options.NothingLeft(before); err != nil {
		code = complain(err)
	}
	return code
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// patience is how much slower than a usual machine this one is, such as an emulated one.
var patience = func() time.Duration {
	n, _ := strconv.Atoi(os.Getenv("PATIENCE"))
	return time.Duration(max(1, n))
}()

// timely is a context for one step of a test.
func timely(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// runExample gives Nomad a job of examples/jobs, and takes it away when the test ends.
func runExample(t testing.TB, name string) *cluster.Job {
	t.Helper()
	text, err := examples.Job(name)
	if err != nil {
		t.Fatal(err)
	}
	return runText(t, text)
}

func runText(t testing.TB, text string) *cluster.Job {
	t.Helper()
	job, err := here.Run(text, here.Vars())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, job) })
	return job
}

func newTask(name, driver string, config map[string]any) *nomad.Task {
	task := nomad.NewTask(name, driver)
	task.Config = config
	return task
}

func stop(t testing.TB, job *cluster.Job) {
	t.Helper()
	stopWithin(t, job, patience*time.Minute)
}

func stopWithin(t testing.TB, job *cluster.Job, limit time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := job.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func running(t testing.TB, job *cluster.Job) *nomad.Allocation {
	t.Helper()
	alloc, err := job.Running(timely(t))
	if err != nil {
		t.Fatal(err)
	}
	return alloc
}

func ended(t testing.TB, job *cluster.Job) *nomad.Allocation {
	t.Helper()
	alloc, err := job.Ended(timely(t))
	if err != nil {
		t.Fatal(err)
	}
	return alloc
}

// complete waits until a job's alloc has ended well.
func complete(t testing.TB, job *cluster.Job) *nomad.Allocation {
	t.Helper()
	alloc := ended(t, job)
	if alloc.ClientStatus != nomad.AllocClientStatusComplete {
		t.Fatalf("the alloc is %s", cluster.Describe(alloc.ClientStatus, alloc.TaskStates))
	}
	return alloc
}

// shell runs a shell command in a task that must succeed, and returns its trimmed output.
func shell(t testing.TB, alloc *nomad.Allocation, task, command string) string {
	t.Helper()
	stdout, stderr, code, err := here.Exec(timely(t), alloc, task, "", "/bin/sh", "-c", command)
	if err != nil || code != 0 {
		t.Fatalf("%s in task %s: exit %d, %v\n%s%s", command, task, code, err, stdout, stderr)
	}
	return strings.TrimSpace(stdout)
}

func waitLog(t testing.TB, alloc *nomad.Allocation, task, stream, want string) string {
	t.Helper()
	text, err := here.WaitLog(timely(t), alloc, task, stream, want)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// port is the host's port that has label.
func port(t testing.TB, alloc *nomad.Allocation, label string) string {
	t.Helper()
	for _, p := range alloc.AllocatedResources.Shared.Ports {
		if p.Label == label {
			return fmt.Sprint(p.Value)
		}
	}
	t.Fatalf("alloc has no port %q: %+v", label, alloc.AllocatedResources.Shared.Ports)
	return ""
}

// get fetches a page, waiting for a server that comes up.
func get(t testing.TB, dial func(network, address string) (net.Conn, error), url string) string {
	t.Helper()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext:       func(_ context.Context, network, address string) (net.Conn, error) { return dial(network, address) },
		DisableKeepAlives: true,
	}}
	var last error
	for range 50 * patience {
		var answer *http.Response
		if answer, last = client.Get(url); last == nil {
			body, err := io.ReadAll(answer.Body)
			answer.Body.Close()
			if err != nil || answer.StatusCode != http.StatusOK {
				t.Fatalf("%s: %s, %v", url, answer.Status, err)
			}
			return string(body)
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal(last)
	return ""
}

// exitCode is how a task's last run ended.
func exitCode(t testing.TB, alloc *nomad.Allocation, task string) *nomad.TaskEvent {
	t.Helper()
	events := alloc.TaskStates[task].Events
	for i := len(events) - 1; i >= 0; i-- {
		if events[i].Type == nomad.TaskTerminated {
			return events[i]
		}
	}
	t.Fatalf("task %s has not ended: %s", task, cluster.Describe(alloc.ClientStatus, alloc.TaskStates))
	return nil
}

func waitUntil(t *testing.T, what string, happened func() (bool, error)) {
	t.Helper()
	for ctx := timely(t); ; {
		ok, err := happened()
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain until %s: %v", what, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
