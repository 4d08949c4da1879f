package rctl

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// self is the test binary, found while it is there.
var self string

// TestMain makes the test binary the task too: it enters its cgroups as a task's first process does, then does what TASK
// says.
func TestMain(m *testing.M) {
	var err error
	if self, err = os.Executable(); err != nil {
		panic(err)
	}
	work, ok := tasks[os.Getenv("TASK")]
	if !ok {
		os.Exit(m.Run())
	}
	for _, dir := range filepath.SplitList(os.Getenv("CGROUPS")) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			fmt.Println(err)
			os.Exit(3)
		}
	}
	work()
}

// held is what the task "hold" holds, in bytes.
const held = 32 << 20

var tasks = map[string]func(){
	"allocate": func() {
		// Far past any limit used here, each page touched.
		var all [][]byte
		for range 512 {
			all = append(all, bytes.Repeat([]byte{1}, 1<<20))
		}
		// FreeBSD looks at memory once a second.
		time.Sleep(time.Hour)
		runtime.KeepAlive(all)
	},
	"spin": func() {
		spin := func() {
			for n := 0; ; n++ {
			}
		}
		go spin()
		spin()
	},
	"sleep": func() { time.Sleep(time.Hour) },
	"hold": func() {
		memory := bytes.Repeat([]byte{1}, held)
		time.Sleep(time.Hour)
		runtime.KeepAlive(memory)
	},
	"fork": func() {
		script := "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 60 >/dev/null 2>&1 & done; echo made them all"
		fmt.Println(syscall.Exec("/bin/sh", []string{"sh", "-c", script}, os.Environ()))
	},
}

// start starts a task; the test's end kills it, with all it started.
func start(t testing.TB, task string, s Subject, attributes syscall.SysProcAttr) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "TASK="+task, "CGROUPS="+strings.Join(s.Cgroups, ":"))
	attributes.Setpgid = true
	cmd.SysProcAttr = &attributes
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	})
	return cmd, &out
}

// until waits, within reason, for what the kernel does in its own time.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

func sample(t testing.TB, name string) Usage {
	t.Helper()
	u, err := Read(name)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestThisHostCanLimit(t *testing.T) {
	if err := Check(); err != nil {
		t.Fatal(err)
	}
}
