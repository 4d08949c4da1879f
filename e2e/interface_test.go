package e2e

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/isolate"
	"github.com/nomad-driver-jail/nomad-driver-jail/examples"
)

// What Nomad does with tasks of any driver, and ours lets it do.

func testLifecycle(t *testing.T) {
	alloc := complete(t, runExample(t, "lifecycle"))
	if text := waitLog(t, alloc, "clean", "stdout", "clean\n"); text != "prepare\nmain\nclean\n" {
		t.Errorf("the order is %q", text)
	}
	if event := exitCode(t, alloc, "main"); event.ExitCode != 0 {
		t.Errorf("main: exit code %d", event.ExitCode)
	}
}

func testTemplate(t *testing.T) {
	alloc := running(t, runExample(t, "template"))
	waitLog(t, alloc, "signalled", "stdout", "ready\n")
	pair := &consul.KVPair{Key: "greeting", Value: []byte("good evening")}
	if _, err := here.Cluster.Consul.KV().Put(pair, nil); err != nil {
		t.Fatal(err)
	}
	waitLog(t, alloc, "signalled", "stdout", "good evening\n")
	shell(t, alloc, "scripted", "until [ -e /local/seen ]; do sleep 0.1; done")
	if got := shell(t, alloc, "scripted", "cat /local/seen"); got != "good evening" {
		t.Errorf("the script saw %q", got)
	}
}

func testArtifact(t *testing.T) {
	alloc := complete(t, runExample(t, "artifact"))
	waitLog(t, alloc, "reader", "stdout", "hello world\n")
}

func testHostVolume(t *testing.T) {
	alloc := complete(t, runExample(t, "host-volume"))
	if text := waitLog(t, alloc, "reader", "stdout", "read-only"); text != "la la la\nread-only\n" {
		t.Errorf("stdout is %q", text)
	}
}

func testLogs(t *testing.T) {
	alloc := complete(t, runExample(t, "logs"))
	text := waitLog(t, alloc, "talker", "stdout", "line 60000 of")
	if len(text) > 2<<20 || len(text) < 1<<20 {
		t.Errorf("%d bytes of log are kept, want between one and two megabytes", len(text))
	}
	first, last := 0, 0
	for line := range strings.Lines(text) {
		var n int
		if _, err := fmt.Sscanf(line, "line %d of sixty thousand", &n); err != nil {
			continue // the first line may be half a line
		}
		if last != 0 && n != last+1 {
			t.Fatalf("line %d comes after line %d", n, last)
		}
		if first == 0 {
			first = n
		}
		last = n
	}
	if last != 60000 || first < 2 {
		t.Errorf("lines %d to %d are kept", first, last)
	}
}

func testDispatch(t *testing.T) {
	job := runExample(t, "dispatch")
	child, _, err := here.Cluster.Nomad.Jobs().Dispatch(job.ID, map[string]string{"who": "you"}, []byte("the payload\n"), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	one := here.Job(child.DispatchedJobID)
	t.Cleanup(func() { stop(t, one) })
	if text := waitLog(t, complete(t, one), "reader", "stdout", "payload"); text != "for you:\nthe payload\n" {
		t.Errorf("stdout is %q", text)
	}
}

func testMemoryMax(t *testing.T) {
	config, _, err := here.Cluster.Nomad.Operator().SchedulerGetConfiguration(nil)
	if err != nil {
		t.Fatal(err)
	}
	config.SchedulerConfig.MemoryOversubscriptionEnabled = true
	if _, _, err := here.Cluster.Nomad.Operator().SchedulerSetConfiguration(config.SchedulerConfig, nil); err != nil {
		t.Fatal(err)
	}
	alloc := complete(t, runExample(t, "memory-max"))
	waitLog(t, alloc, "bursty", "stdout", "enough")
}

func testShutdownDelay(t *testing.T) {
	text, err := examples.Job("shutdown-delay")
	if err != nil {
		t.Fatal(err)
	}
	// A slow machine has to see it within the delay.
	job := runText(t, strings.Replace(text, `"2s"`, strconv.Quote((patience*2*time.Second).String()), 1))
	alloc := running(t, job)
	waitHealthy(t, "delayed")
	if _, _, err := here.Cluster.Nomad.Jobs().Deregister(job.ID, false, nil); err != nil {
		t.Fatal(err)
	}
	ctx := timely(t)
	for {
		entries, _, err := here.Cluster.Consul.Health().Service("delayed", "", false, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 0 {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatal("the service stays in Consul")
		case <-time.After(20 * time.Millisecond):
		}
	}
	get(t, net.Dial, "http://"+net.JoinHostPort(here.Address, port(t, alloc, "http")))
}

func testNames(t *testing.T) {
	alloc := complete(t, runExample(t, "names"))
	text := waitLog(t, alloc, "names", "stdout", "nameserver")
	if !strings.HasPrefix(text, "nameless\n") {
		t.Errorf("the hostname is not nameless:\n%s", text)
	}
	words := strings.Fields(text)
	for _, pair := range [][]string{{"192.0.2.7", "db.example.org"}, {"nameserver", "192.0.2.53"}, {"search", "example.org"}} {
		if i := slices.Index(words, pair[0]); i < 0 || i+1 >= len(words) || words[i+1] != pair[1] {
			t.Errorf("it lacks %q:\n%s", pair, text)
		}
	}
}

func testHostNetwork(t *testing.T) {
	alloc := running(t, runExample(t, "host-network"))
	get(t, isolate.DialOutside, "http://"+net.JoinHostPort(here.Address, port(t, alloc, "http")))
}
