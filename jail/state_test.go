package jail

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What a released version wrote is read for ever: testdata/vN is never changed, and a new version gets a folder of its own.
var (
	goldenSpec = Spec{
		Version: 1, Name: "nj3f0a1b2c4d5e", Hostname: "web", Root: "/tank/jail/tasks/nj3f0a1b2c4d5e",
		NetNS:   "/var/run/netns/alloc",
		Params:  Params{Allow: []string{"raw_sockets"}, DevfsRuleset: 61, EnforceStatfs: 1, Children: 2, Securelevel: new(int), OSRelease: "12.2-RELEASE"},
		Command: "/usr/local/sbin/nginx", Args: []string{"-g", "daemon off;"}, Env: []string{"PATH=/bin", "A=b"}, Dir: "/srv",
		User: "www", UID: 80, GID: 80, Groups: []uint32{80, 90},
		Stdout: "/alloc/logs/.web.stdout.fifo", Stderr: "/alloc/logs/.web.stderr.fifo",
		Cgroups: []string{"/sys/fs/cgroup/memory/nomad-driver-jail/nj3f0a1b2c4d5e"}, OOM: "/sys/fs/cgroup/memory/nomad-driver-jail/nj3f0a1b2c4d5e/memory.oom_control",
		MemoryLimit: 268435456,
	}
	goldenStatus = Status{
		Version: 1, PID: 4242, Birth: 123456, ShimPID: 4241, BootID: "bb2257c8-1b9e-4e96-85b5-c366be5a9e71",
		Started: time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC), Ended: time.Date(2026, 1, 2, 4, 5, 6, 0, time.UTC),
		ExitCode: 1, Signal: 9, OOMKilled: true, Error: "lost",
	}
)

func TestGoldenState(t *testing.T) {
	spec, err := ReadSpec("testdata/v1")
	if err != nil || !reflect.DeepEqual(spec, goldenSpec) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, spec, goldenSpec)
	}
	status, err := ReadStatus("testdata/v1")
	if err != nil || !reflect.DeepEqual(status, goldenStatus) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, status, goldenStatus)
	}
}

// What this version writes is what the newest golden files say, so that a change of format is not made unawares.
func TestGoldenIsCurrent(t *testing.T) {
	for name, v := range map[string]any{SpecFile: goldenSpec, StatusFile: goldenStatus} {
		want, err := os.ReadFile(filepath.Join("testdata/v1", name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(string(want)) != string(got) {
			t.Errorf("%s is written as\n%s", name, got)
		}
	}
}

func TestNewerStateIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, StatusFile), []byte(`{"Version":2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadStatus(dir); err == nil || !strings.Contains(err.Error(), "version 2; this program reads 1 to 1") {
		t.Errorf("error %v", err)
	}
}

func TestStateOfNoTask(t *testing.T) {
	dir := t.TempDir()
	if Alive(dir) {
		t.Error("alive")
	}
	if _, err := ReadStatus(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	if err := Signal(dir, 15); err == nil {
		t.Error("signalled")
	}
}

// TestAliveUnlessSeenDead looks at a shim, which the test is, while there is no descriptor left to look with.
func TestAliveUnlessSeenDead(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, AliveFile)
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	shim, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	alive := Alive(dir)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if !alive {
		t.Error("dead because nobody could look")
	}
	shim.Close()
	if Alive(dir) {
		t.Error("alive without a shim")
	}
}
