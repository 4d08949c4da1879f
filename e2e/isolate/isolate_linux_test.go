package isolate_test

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/isolate"
)

func TestMain(m *testing.M) {
	isolate.Enter(isolate.Options{Network: isolate.Apart})
	os.Exit(m.Run())
}

func TestOnlyOurProcesses(t *testing.T) {
	got, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || len(got) != 2 {
		t.Errorf("processes %v (%v), want process 1 and this one", got, err)
	}
}

func TestOnlyOurInterfaces(t *testing.T) {
	got, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range got {
		if i.Name != "lo" && i.Name != isolate.Interface() && i.Flags&net.FlagUp != 0 {
			t.Errorf("interface %s belongs to the machine", i.Name)
		}
	}
}

func TestOnlyOurCgroups(t *testing.T) {
	got, err := filepath.Glob("/sys/fs/cgroup/memory/*/cgroup.procs")
	if err != nil || len(got) != 0 {
		t.Errorf("cgroups %v (%v), want none yet", got, err)
	}
}

func TestOutsideReachesUs(t *testing.T) {
	listener, err := net.Listen("tcp", "198.51.100.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		io.WriteString(conn, conn.RemoteAddr().(*net.TCPAddr).IP.String())
		conn.Close()
	}()
	conn, err := isolate.DialOutside("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	from, _ := io.ReadAll(conn)
	if string(from) != "198.51.100.2" {
		t.Errorf("came from %q, want 198.51.100.2", from)
	}
}
